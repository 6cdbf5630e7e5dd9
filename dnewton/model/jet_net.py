"""From a net on points to the same net on jets: the layers that carry derivatives by the inputs with the values."""

from __future__ import annotations

from collections.abc import Sequence

from dnewton.config.layer_entry import LayerSection, LayerSpec
from dnewton.errors import UserError
from dnewton.model.jet import JetPositions
from dnewton.model.layers.activation import ACTIVATIONS
from dnewton.model.layers.dense import DenseSection
from dnewton.model.layers.equations import EquationsSection, ParametersSection, ZeroSection
from dnewton.model.layers.fourier import FourierSection
from dnewton.model.layers.jet import JetActivationSection, JetDenseSection, JetFourierSection, JetInputSection
from dnewton.model.layers.residual import Add
from dnewton.model.residual_term import ResidualTerm
from dnewton.planning.net_plan import DATA

PARAMETERS = "parameters"  # the name of the unknowns in checkpoints


def with_jets(
    specs: Sequence[LayerSpec], positions: JetPositions, columns: int, source: str = "net"
) -> tuple[LayerSpec, ...]:
    """The layers on jets. The data have `columns` columns, of which the first are the inputs; layers with weights keep
    their names, shapes and starting points.

    Raises UserError naming the layer that cannot carry jets.
    """
    q = positions.count
    made = [LayerSpec("jet", JetInputSection(positions=positions), ((columns,),), (positions.inputs, q))]
    places = {DATA: 0}  # where the output of a layer of the net is now
    for index, spec in enumerate(specs):
        _check(spec, positions, source)
        here = len(made)
        back = tuple(here - places[index - b] for b in spec.back)
        shapes = tuple((*shape, q) for shape in spec.in_shapes)
        out = (*spec.out_shape, q)
        options: LayerSection = spec.options
        if isinstance(options, DenseSection):
            options = JetDenseSection(units=options.units, followed_by=spec.activation, split=options.split)
        name = spec.activation
        if isinstance(options, FourierSection):
            options, name = JetFourierSection(features=options), "sin"
        made.append(LayerSpec(spec.name, options, shapes, out, back))
        if name != "linear":
            activation = JetActivationSection(name=name, positions=positions)
            made.append(LayerSpec(f"{spec.name}.{name}", activation, (out,), out))
        places[index] = len(made) - 1
    return tuple(made)


def _check(spec: LayerSpec, positions: JetPositions, source: str) -> None:
    """Raise UserError unless a layer can carry these derivatives."""
    where = f"{source}: net.{spec.name}"
    if not isinstance(spec.options, (DenseSection, FourierSection, Add)):
        raise UserError(f"{where} ({spec.kind}): derivatives by the inputs go through dense layers only; leave it out")
    kinked = spec.activation != "linear" and ACTIVATIONS[spec.activation].derivatives is None
    if kinked and positions.firsts:
        smooth = ", ".join(name for name, known in ACTIVATIONS.items() if known.derivatives is not None)
        raise UserError(f"{where}: {spec.activation} has a kink; derivatives by the inputs need one of {smooth}")


def with_equations(
    specs: Sequence[LayerSpec],
    terms: Sequence[ResidualTerm],
    parameters: Sequence[float] = (),
    equations: int = 1,
    source: str = "net",
) -> tuple[LayerSpec, ...]:
    """The layers on jets that carry what the terms ask for, and the residuals as the last layer.

    `parameters`: where the unknowns of the equations begin. A sample has as many residuals as the term with most, and
    at least `equations`.

    The data are the points and, as the last column, the number of a point's term. Raises UserError.
    """
    inputs = specs[0].in_shape[0]
    keys = [key for term in terms for key in term.keys]
    firsts = [key for key in keys if isinstance(key, int)]
    positions = JetPositions.of(inputs, firsts, [key for key in keys if isinstance(key, tuple)])
    made = list(with_jets(specs, positions, inputs + 1, source))
    jets = made[-1].out_shape
    count = max(equations, *(term.equations for term in terms))
    section = EquationsSection(terms=tuple(terms), positions=positions, equations=count, parameters=len(parameters))
    if not parameters:
        return (*made, LayerSpec("terms", section, (jets,), (count,)))
    size = (len(parameters),)
    unknown = ParametersSection(units=len(parameters), start=tuple(map(float, parameters)))
    made.append(LayerSpec("zero", ZeroSection(), ((inputs + 1,),), (1,), back=(len(made) + 1,)))
    made.append(LayerSpec(PARAMETERS, unknown, ((1,),), size))
    return (*made, LayerSpec("terms", section, (jets, size), (count,), back=(3, 1)))
