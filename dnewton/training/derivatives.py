"""Derivatives of a trained net's values by its inputs, in the units of inputs and targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.data.samples import Samples, Window
from dnewton.data.samples import load as load_columns
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError
from dnewton.model.jet import JetPositions, Sum, derivative
from dnewton.model.jet_net import with_jets
from dnewton.model.network import Network
from dnewton.model.residual_term import place
from dnewton.planning import grid_search
from dnewton.planning.net_plan import infer_shapes
from dnewton.storage.model_header import Described
from dnewton.storage.whole_tensors import cut, gathered
from dnewton.training import prediction


class Derivatives:
    """Some derivatives of a model, by their names."""

    def __init__(self, model: Described, names: Sequence[str]) -> None:
        """Raises UserError for names that are none, and for a net that has no derivatives of values by features."""
        self._model = model
        net = model.net
        if net.loss.targets != "real" or not model.targets.real:
            raise UserError("derivatives: the model predicts no real values")
        if len(net.input) != 1:
            raise UserError(f"derivatives: inputs are [features], not {list(net.input)}")
        if isinstance(names, str):
            raise UserError(f"derivatives: names must be a list such as [{names!r}]")
        inputs = net.input[0]
        try:
            self._wanted = {name: derivative(name, inputs) for name in names}
        except ValueError as error:
            raise UserError(f"derivatives: {error}") from None
        firsts = [key for key in self._wanted.values() if isinstance(key, int)]
        pairs = [(pair,) for key in self._wanted.values() if isinstance(key, tuple) for pair in key]
        self._positions = JetPositions.of(inputs, firsts, pairs)
        self._specs = with_jets(infer_shapes(net, "derivatives"), self._positions, inputs, "derivatives")

    def of(self, network: Network, theta: Values, source: Source, comm: Comm) -> dict[str, Values]:
        """(N, outputs) by name, on the samples of a source. Collective over the ranks of `network`."""
        tensors = gathered(network, theta)
        outputs = network.plan.outputs
        work = grid_search.Workload(source.samples, 1, outputs, prediction.BATCH, 8, cg=0)
        plan = grid_search.choose(self._specs, comm.size, work, machine=grid_search.Machine.shared(comm.least_cores))
        jets = Network(plan, comm.on_grid(plan.grid))
        window = Window.of(self._specs[0].in_shape, plan.input_units, (0, source.features))
        scaling = self._model.scaling.columns(0, source.features)
        x, _ = load_columns(source, window, scaling, "float64", comm)
        z = prediction.outputs(jets, cut(jets, tensors, "float64"), Samples(x, np.zeros((source.samples, 0))))
        return {name: self._values(z, key) for name, key in self._wanted.items()}

    def _values(self, z: Values, key: int | Sum | None) -> Values:
        """One derivative of jets (N, Q, outputs): the chain rule over the scalings of inputs and targets."""
        targets, factor = self._model.targets, self._model.scaling.factor
        if key is None:
            return np.asarray(z[:, 0, :] * targets.spread + targets.shift)
        if isinstance(key, int):
            return np.asarray(z[:, place(self._positions, key), :] * targets.spread * factor[key])
        terms = [z[:, place(self._positions, (pair,)), :] * (factor[pair[0]] * factor[pair[1]]) for pair in key]
        return np.asarray(sum(terms[1:], terms[0]) * targets.spread)
