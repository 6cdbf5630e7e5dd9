"""A trained net: what it predicts, how it was trained, and how it is kept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dnewton.api import ranks
from dnewton.api.columns import source_of
from dnewton.api.surroundings import failing_together, kept
from dnewton.comm.communicator import Comm
from dnewton.config.schema import DataSection, NetSection
from dnewton.data.format_register import Opening
from dnewton.data.readers import check_columns, find_part, is_table, open_part
from dnewton.data.samples import Samples, Window, check_shapes
from dnewton.data.samples import load as load_columns
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError
from dnewton.hardware import node
from dnewton.hardware.device import open_device
from dnewton.model.network import Network
from dnewton.planning.net_plan import NetPlan
from dnewton.storage import posterior as posteriors
from dnewton.storage import tensors
from dnewton.storage.model_header import (
    Described,
    as_trained,
    described,
    plain_description,
    unknowns,
    with_unknowns,
)
from dnewton.storage.posterior import Posterior
from dnewton.storage.run_directory import model_path
from dnewton.storage.tensor_file import FURTHER, read_unknowns, shapes_of
from dnewton.storage.tensors import Contents
from dnewton.storage.whole_tensors import cut, gathered
from dnewton.training import prediction
from dnewton.training.derivatives import Derivatives
from dnewton.training.scores import score


@dataclass
class Model:
    """A net with its weights, spread over the ranks of a communicator: its methods are collective over that, and give
    the same on all of them. On one process it needs no MPI.

    `history`: an array per figure of metrics.jsonl, one number for each line; empty for a model that was loaded.
    `stopped`: why the training ended, in a word or two, and `message` as a line of text.
    """

    header: Mapping[str, str]
    plan: NetPlan
    theta: Values  # this rank's blocks
    mpi: Any = None  # the communicator that the user gave
    device: str = "cpu"
    history: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""
    message: str = ""
    out: str | None = None  # the run directory
    posterior: Posterior | None = None  # of the weights, on this rank; None where no error bars were asked for

    def __post_init__(self) -> None:
        self._described: Described = described("model", self.header)

    @property
    def net(self) -> NetSection:
        """The net."""
        return self._described.net

    @property
    def classes(self) -> Values | None:
        """The labels, in the order of the columns of :meth:`predict_proba`; None for real targets."""
        known = self._described.targets.classes
        return None if known is None else self._as_given(known)

    def _as_given(self, found: Values) -> Values:
        """Labels of the kind that training had: true and false, or numbers with a point."""
        kind = json.loads(self.header["dnewton"]).get("labels")
        return found if kind is None or found.dtype.kind == "U" else found.astype(kind)

    def __repr__(self) -> str:
        shapes = [tuple(layer.spec.weight_shape) for layer in self.plan.parametric()]
        count = sum(int(np.prod(shape)) + shape[0] for shape in shapes)
        ended = f", {self.stopped} after iteration {len(self.history['iteration']) - 1}" if self.history else ""
        return f"<dnewton.Model: input {list(self.net.input)}, {count} weights{ended}>"

    # --- predicting -------------------------------------------------------------------------------------------------

    def predict(self, x: Any, std: bool | str = False) -> Any:
        """Labels (N,), or values (N,) or (N, K) in the targets' units, or sets of labels (N, K) of 0 and 1.

        With `std` a pair, of a model with error bars: values and their standard deviations, True of a new target with
        its noise, "mean" of its mean; of classes, the probabilities (N, classes) that allow for the uncertainty, and
        their standard deviations. Raises UserError. Collective.

        `x`: an array, the name of a file, or :func:`dnewton.columns`, as :func:`dnewton.fit` takes it; numbers (N,) for
        a net with one input.
        """
        if std is not False:
            return self._with_deviations(x, std)
        found = prediction.predicted(self.net, self._described.targets, self.outputs(x))
        if not self._described.targets.real:
            return self._as_given(found)
        return found[:, 0] if found.shape[1] == 1 else found

    def derivatives(self, x: Any, names: Sequence[str]) -> dict[str, Values]:
        """Derivatives of the predicted values by the inputs, (N,) or (N, K) by name: `value`, `d0` by the first input,
        `d01` a mixed one, `laplacian`; or as equations write them, `d(0)`, `dd(0, 11)`, `laplacian(0, 1)`.

        They are those of the model in the units of inputs and targets. Raises UserError. Collective.
        """
        with self._open() as (comm, network):
            source = self._source(x, None, comm)
            with comm.raise_together():
                found = Derivatives(self._described, names)
            z = found.of(network, self.theta, source, comm)
            return {name: values[:, 0] if values.shape[1] == 1 else values for name, values in z.items()}

    @property
    def parameters(self) -> dict[str, float]:
        """The unknown parameters of the equations that the net was trained on, by their names."""
        return unknowns(self.header)[1]

    @property
    def parameters_std(self) -> dict[str, float]:
        """Standard deviations of the unknown parameters, by their names; empty where no error bars were asked for."""
        names = list(self.parameters)
        if self.posterior is None or not names:
            return {}
        net = sum(math.prod(shape) for shape in shapes_of([layer.spec for layer in self.plan.layers]).values())
        found = self.posterior.deviations(net + len(names), len(names))  # their layer's weights come first
        return dict(zip(names, found.tolist(), strict=True))

    def _with_deviations(self, x: Any, std: bool | str) -> tuple[Values, Values]:
        if not (std is True or std == "mean"):
            raise UserError(f"predict: std must be True, 'mean' or False, not {std!r}")
        if self.posterior is None:
            raise UserError("predict: the model has no error bars; train with error_bars=True")
        with self._open() as (comm, network):
            source = self._source(x, None, comm)
            samples = self._samples(source, comm)
            theta = self.theta.astype(np.float64)
            targets, noise = self._described.targets, self.posterior.noise
            told = lambda found: prediction.with_deviations(self.net, targets, found, noise, observed=std is True)  # noqa: E731
            _, mean, deviation = prediction.uncertain(network, theta, samples, self.posterior, told)
        single = targets.real and mean.shape[1] == 1
        return (mean[:, 0], deviation[:, 0]) if single else (mean, deviation)

    def predict_proba(self, x: Any) -> Values:
        """The probability of every class (N, classes), in the order of `classes`. Raises UserError. Collective."""
        z = self.outputs(x)
        return prediction.probabilities(self.net, self._described.targets, z)

    def outputs(self, x: Any) -> Values:
        """What the last layer gives (N, K), in float64 and before scaling and softmax are undone. Raises UserError.

        Collective.
        """
        with self._open() as (comm, network):
            source = self._source(x, None, comm)
            return self._outputs(source, comm, network)

    def scores(self, x: Any, y: Any = None) -> dict[str, Any]:
        """Accuracy, AUC and confusion matrix, or the rmse; `y` may be in the file `x`. Raises UserError. Collective.

        Labels that training did not know are left out of the figures and counted in `unknown_labels`.
        """
        with self._open() as (comm, network):
            source = self._source(x, y, comm)
            targets = self._described.targets
            with comm.raise_together():
                raw = source.all_targets()
                known = targets.known(raw, source.origin)
                if not known.any():
                    raise UserError(f"{source.name}: none of the labels is one of the training data")
                wanted = targets.encode(raw[known], "float64", source.origin)
            z = self._outputs(source, comm, network)
            found = score(self.net.loss.mean(z[known]), wanted, targets).as_json()
            return found if known.all() else {**found, "unknown_labels": int(np.sum(~known))}

    def _source(self, x: Any, y: Any, comm: Comm) -> Source:
        model = self._described
        if isinstance(x, (str, os.PathLike)):
            section = DataSection(train=os.fspath(x))
            part = find_part(section.train, os.getcwd())
            with comm.raise_together():
                target, weights = (model.target, model.weights) if is_table(part) else (None, None)
            opening = Opening("x", int(np.prod(self.net.input)), comm, target, model.zero_based, weights)
            source = open_part(part, replace(opening, **as_trained(model)))
        else:
            single = list(self.net.input) == [1] and isinstance(x, (list, tuple, np.ndarray))
            source = source_of("x", _column(x) if single else x, y, comm)
        check_shapes(source, self.net.input, "x")
        check_columns(source, model.columns, "training")
        return source

    def _outputs(self, source: Source, comm: Comm, network: Network) -> Values:
        device, _ = open_device(self.device, "auto", comm, f"device {self.device}")
        theta = device.put(self.theta.astype(np.float64))
        return prediction.outputs(network, theta, self._samples(source, comm))

    def _samples(self, source: Source, comm: Comm) -> Samples:
        bounds = self.plan.grid.bounds(self.plan.input_split, self.plan.input_units, comm.rank)
        window = Window.of(self.net.data_shape, self.plan.input_units, bounds)
        scaling = self._described.scaling.columns(window.lo, window.hi)
        x, _ = load_columns(source, window, scaling, "float64", comm)
        return Samples(x, np.zeros((source.samples, 0)))

    @contextmanager
    def _open(self) -> Iterator[tuple[Comm, Network]]:
        """A communicator for one call, and the network on it. Collective."""
        comm = ranks.opened(self.mpi)
        try:
            with failing_together(comm), kept():
                node.limit_threads(comm.ranks_on_node, comm.cores)
                yield comm, Network(self.plan, comm.on_grid(self.plan.grid))
        finally:
            comm.free()

    # --- in memory ---------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """What pickling keeps: the bytes of the safetensors file, and the figures. Collective."""
        from safetensors.numpy import save

        state = {name: getattr(self, name) for name in ("device", "history", "stopped", "message", "out")}
        content, header = self.weights(), dict(self.header)
        if self.posterior is not None:
            with self._open() as (comm, network):
                whole = posteriors.shared(posteriors.gathered(self.posterior, network), comm)
            content |= {FURTHER + name: tensor for name, tensor in whole.tensors.items()}
            header |= self.posterior.header()
        return {**state, "safetensors": save(content, {"format": "1", **header})}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from safetensors.numpy import load

        content = state.pop("safetensors")
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])["__metadata__"]
        comm = ranks.opened(None)
        try:
            net = described("model", header).net
            plan = prediction.plan_for(net, comm, prediction.BATCH, np.inf, "float64", prediction.BATCH, "model")
            network = Network(plan, comm.on_grid(plan.grid))
            tensors_ = load(content)
            dtype = str(next(t for name, t in tensors_.items() if not name.startswith(FURTHER)).dtype)
            held = {name.removeprefix(FURTHER): t for name, t in tensors_.items() if name.startswith(FURTHER)}
            bars = posteriors.of_net(held, header, network)
            theta = cut(network, tensors_, dtype)
            self.__dict__.update(state, header=header, plan=plan, theta=theta, mpi=None, posterior=bars)
            self.__post_init__()
        finally:
            comm.free()

    # --- weights ----------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, np.ndarray]:
        """Every weight and bias as a whole array, by the names and in the order of PyTorch. Collective."""
        with self._open() as (_, network):
            return gathered(network, self.theta)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with all that predicting needs. Raises UserError. Collective."""
        with self._open() as (comm, network):
            with comm.raise_together():
                folder = os.path.dirname(os.path.abspath(path))
                if comm.rank == 0 and (os.path.isdir(path) or not os.path.isdir(folder)):
                    raise UserError(f"{os.fspath(path)}: cannot be written; name a file in a folder that exists")
            contents = Contents({"": self.theta}, {"format": "1", **self.header})
            if self.posterior is not None:
                contents = posteriors.contents(contents, self.posterior, network)
            tensors.publish(os.fspath(path), network, contents, comm)


def _column(x: Any) -> Any:
    """Numbers (N,) as samples of one feature."""
    return np.reshape(x, (-1, 1)) if getattr(x, "ndim", 0) == 1 or (len(x) and np.isscalar(x[0])) else x


def load(path: str | os.PathLike[str], net: NetSection | None = None, comm: Any = None, device: str = "cpu") -> Model:
    """A model from a run directory (its final weights) or a file. Raises UserError alike on all ranks.

    `net`: for a safetensors file that another program wrote, such as the weights of a PyTorch `nn.Sequential`: their
    net, on inputs and targets that are not scaled, with classes counted from 0.
    `comm`: an mpi4py communicator whose ranks share the model; by default all ranks of the job, or this process alone
    where no launcher started it. Collective over `comm`.
    """
    world = ranks.opened(comm)
    try:
        with failing_together(world), kept():
            return _loaded(os.fspath(path), net, comm, world, device)
    finally:
        world.free()


def _loaded(path: str, net: NetSection | None, mpi: Any, comm: Comm, device: str) -> Model:
    with comm.raise_together():
        path = model_path(path)
        header = tensors.read_metadata(path) if net is None else plain_description(net)
        net = described(path, header).net
        dtype = tensors.dtype_of(path)
        names, values = unknowns(header)
        if names and not values:
            header = with_unknowns(header, read_unknowns(path))
    memory = comm.minmax(0.5 * node.available_memory() / comm.ranks_on_node)[0]
    plan = prediction.plan_for(net, comm, prediction.BATCH, memory, "float64", prediction.BATCH, path)
    network = Network(plan, comm.on_grid(plan.grid))
    with comm.raise_together():
        theta = tensors.load(path, network, dtype)
        bars = posteriors.read(path, header, network)
    return Model(header, plan, theta, mpi, device, posterior=bars)
