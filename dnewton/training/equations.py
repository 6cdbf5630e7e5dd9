"""Points with equations as a job's data: the layers that they add to the net, the samples, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dnewton.arrays.namespace import Array
from dnewton.config.layer_entry import LayerSpec
from dnewton.config.loss_entry import Loss
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config
from dnewton.data.parts import Loaded, Parts
from dnewton.data.samples import Samples
from dnewton.data.sampling import Draws, Stratified, allotted
from dnewton.data.scale_check import LARGE, SMALL
from dnewton.data.scaling import Scaling
from dnewton.data.sources import Values, from_arrays
from dnewton.data.targets import Targets
from dnewton.errors import UserError
from dnewton.model.jet_net import PARAMETERS, with_equations
from dnewton.model.layers.equations import EquationsSection
from dnewton.model.objective import Batch, Evaluation, Objective
from dnewton.model.residual_term import ResidualTerm, check, traced
from dnewton.model.weighted_loss import WeightedLoss
from dnewton.storage import model_header


@dataclass(frozen=True)
class PointTerm:
    """A term on its points (n, inputs): a residual, or targets, (n, equations) of what a function returns or (n,
    outputs) of the net's outputs."""

    where: str
    points: Values
    targets: Values | None
    weight: float
    function: Callable[..., Any] | None = None
    derivative: Callable[..., Any] | None = None
    parameters: tuple[int, ...] = ()  # the unknowns that it takes, by their numbers
    draw: Callable[[int], Values] | None = None  # the points by the number of the draw; `points` are those of 0
    every: int = 0  # iterations between draws
    share: float | None = None  # of the curvature's points; None: by the number of points


@dataclass(frozen=True)
class EquationSet:
    """All terms of a loss, the unknowns of the equations by their names, and points on which the net is tested."""

    terms: tuple[PointTerm, ...]
    unknown: Mapping[str, float]
    test: PointTerm | None = None
    _made: list[ResidualTerm] = field(default_factory=list, repr=False)  # filled by `layers`
    _idle: list[str] = field(default_factory=list, repr=False)  # unknowns on which nothing seemed to depend

    @property
    def samples(self) -> int:
        """Points of all terms."""
        return sum(len(term.points) for term in self.terms)

    def layers(self, specs: tuple[LayerSpec, ...], config: Config, source: str) -> tuple[LayerSpec, ...]:
        """The net's layers on jets, with the residuals at the end. Calls the residuals.

        Raises UserError naming the term.
        """
        _check(config, source)
        inputs, outputs = config.net.input[0], specs[-1].out_shape[0]
        self._made.clear()
        every = [*self.terms, *([self.test] if self.test is not None else [])]
        for term in every:
            self._made.append(self._residual(term, inputs, outputs))
        found = with_equations(specs, self._made, list(self.unknown.values()), 1, source)
        section = found[-1].options
        assert isinstance(section, EquationsSection)
        if self.test is not None:  # a score is the mean over all equations
            self._made[-1] = replace(self._made[-1], scale=float(np.sqrt(section.equations / outputs)))
            found = with_equations(specs, self._made, list(self.unknown.values()), 1, source)
        values, names = list(self.unknown.values()), list(self.unknown)
        used: set[int] = set()
        with np.errstate(all="ignore"):
            for term, made in zip(every, self._made, strict=True):
                used |= check(made, term.points, outputs, values, section.positions, names)
        self._idle[:] = [name for p, name in enumerate(names) if p not in used]
        return found

    def _residual(self, term: PointTerm, inputs: int, outputs: int) -> ResidualTerm:
        if term.points.shape[1] != inputs:
            raise UserError(
                f"{term.where}: points have {term.points.shape[1]} column(s), the net has {inputs} input(s)"
            )
        scale = float(np.sqrt(term.weight * self.samples / len(term.points)))
        if term.function is None:
            assert term.targets is not None
            if term.targets.shape[1] != outputs:
                raise UserError(
                    f"{term.where}: y has {term.targets.shape[1]} column(s), the net has {outputs} output(s)"
                )
            return ResidualTerm(term.where, None, None, (None,), outputs, scale)
        own = [list(self.unknown.values())[p] for p in term.parameters]
        with np.errstate(all="ignore"):
            keys, equations = traced(term.function, term.points, outputs, term.where, own)
        if term.targets is not None and term.targets.shape[1] != equations:
            raise UserError(
                f"{term.where}: targets have {term.targets.shape[1]} column(s), what it returns has {equations}"
            )
        return ResidualTerm(term.where, term.function, term.derivative, keys, equations, scale, term.parameters)

    def residuals(self) -> list[int]:
        """How many residuals every term has, once :meth:`layers` was called."""
        return [len(term.points) * made.equations for term, made in zip(self.terms, self._made, strict=False)]

    def identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resumption, beside points and targets."""
        return {
            "parameters": list(self.unknown),
            "terms": [{"weight": term.weight, "points": len(term.points)} for term in self.terms],
        }

    def notes(self, variables: int) -> list[str]:
        """What a user should know of the points, for a net with so many weights."""
        points = np.concatenate([term.points for term in self.terms])
        size, spread = np.sqrt(np.mean(points**2, axis=0)), np.ptp(points, axis=0)
        found = [
            f"warning: input {a} runs from {points[:, a].min():.4g} to {points[:, a].max():.4g}; weights are drawn for "
            "inputs of about 1: write the equations in units in which it is"
            for a in np.flatnonzero((size > LARGE) | ((spread > 0) & (spread < SMALL)))
        ]
        found += [
            f"warning: no residual changed with the parameter {name!r} near its first value, where u was about 1: "
            "where none ever does, it stays as it is"
            for name in self._idle
        ]
        count = sum(self.residuals())
        if count < variables and not any(term.every for term in self.terms):
            found.append(
                f"{count} residuals for {variables} weights: all of them may vanish where the net is wrong between the "
                "points; more points help, fresh ones (resample=), or a smaller net"
            )
        return found

    def parts(self) -> Parts:
        """The points as sources."""
        points = np.concatenate([term.points for term in self.terms])
        test = None if self.test is None else from_arrays("test", self.test.points, None)
        return Parts(from_arrays("terms", points, None), test, None)

    def loaded(self, equations: int, dtype: str) -> Loaded:
        """The points with the numbers of their terms as the last column, and what their residuals should be."""
        train = self._samples(list(enumerate(self.terms)), equations, dtype)
        test = None if self.test is None else self._samples([(len(self.terms), self.test)], equations, dtype)
        columns = self.terms[0].points.shape[1] + 1
        return Loaded(train, test, None, Scaling.none(columns), _plain(equations))

    def described(self, header: Mapping[str, str], tensors: Mapping[str, Values]) -> dict[str, str]:
        """The header of a model with the values of the unknowns, from whole tensors."""
        return model_header.with_unknowns(header, tensors[f"{PARAMETERS}.bias"]) if self.unknown else dict(header)

    def start(self, weights: Mapping[str, Values]) -> dict[str, Values]:
        """Weights to start from, with the first values of the unknowns where they have none."""
        first = np.array(list(self.unknown.values()))
        return {f"{PARAMETERS}.weight": np.zeros((len(first), 1)), f"{PARAMETERS}.bias": first, **weights}

    def _samples(self, numbered: list[tuple[int, PointTerm]], equations: int, dtype: str) -> Samples:
        x = [np.column_stack([term.points, np.full(len(term.points), float(k))]) for k, term in numbered]
        y = []
        for k, term in numbered:
            wanted = np.zeros((len(term.points), equations))
            if term.targets is not None:
                wanted[:, : term.targets.shape[1]] = self._made[k].scale * term.targets
            y.append(wanted)
        return Samples(np.concatenate(x).astype(dtype), np.concatenate(y).astype(dtype))


def _plain(outputs: int) -> Targets:
    return Targets(outputs, None, np.zeros(outputs), np.ones(outputs))


def described_targets(specs: tuple[LayerSpec, ...]) -> Targets:
    """What the outputs of the net itself mean: values."""
    return _plain(specs[-1].out_shape[0])


def _check(config: Config, source: str) -> None:
    """Raise UserError for what terms cannot go with."""
    from dnewton.model.losses.squared import Squared

    if not isinstance(config.solver, NewtonSection):
        raise UserError(f"{source}: solver.name: {config.solver.name} trains on data; terms need newton")
    if not isinstance(config.net.loss, Squared):
        raise UserError(f"{source}: net.loss: terms are squared residuals; use loss squared")
    if config.parallel.device != "cpu":
        raise UserError(f"{source}: parallel.device: {config.parallel.device}: residuals are NumPy functions; use cpu")
    if config.parallel.replicas not in ("auto", 1):
        raise UserError(f"{source}: parallel.replicas: {config.parallel.replicas}: terms need replicas: 1")
    if len(config.net.input) != 1:
        raise UserError(f"{source}: net.input: terms are on points [inputs], not {list(config.net.input)}")


class TermsObjective(Objective):
    """The objective of terms, of which some may have other points every few iterations."""

    def __init__(self, terms: Sequence[PointTerm], *ingredients: Any) -> None:
        """`ingredients` are those of :class:`~dnewton.model.objective.Objective`."""
        super().__init__(*ingredients)
        starts = np.cumsum([0, *(len(term.points) for term in terms)])
        self._renewed = [
            (slice(a, b), term) for a, b, term in zip(starts, starts[1:], terms, strict=False) if term.every
        ]
        self._draws = [0] * len(self._renewed)
        self._terms = terms
        self._importance = np.ones(len(terms))  # of a point of the curvature, by its term

    def subsamples(self, size: int, seed: int, purpose: int) -> Draws:
        """Points of all terms, each with its share. Raises UserError where there are more terms than points."""
        counts = [len(term.points) for term in self._terms]
        if size < len(counts):
            raise UserError(f"solver.subsample: {size} point(s) for {len(counts)} terms; take one of each at least")
        free = sum(n for n, term in zip(counts, self._terms, strict=True) if term.share is None)
        left = 1 - sum(term.share or 0.0 for term in self._terms)
        wanted = [left * n / free if t.share is None else t.share for n, t in zip(counts, self._terms, strict=True)]
        sizes = allotted(size, counts, wanted)
        # so that a mean over the subsample is in expectation that over all points, whatever the shares
        self._importance = np.array([n / s for n, s in zip(counts, sizes, strict=True)]) * size / sum(counts)
        return Stratified(counts, sizes, seed, purpose)

    def of_curvature(self, batches: Sequence[Batch]) -> tuple[Loss, Array]:
        """The terms weighted by what a subsample has more or less of than all points."""
        loss, y = super().of_curvature(batches)
        if not (self._importance != 1).any():
            return loss, y
        terms = np.concatenate([self.data.x[batch.indices, -1] for batch in batches]).astype(int)  # type: ignore[index]
        weights = self._importance[terms].astype(y.dtype)
        return WeightedLoss(self.loss), np.concatenate([y, weights[:, None]], axis=1)  # type: ignore[arg-type]

    def cure(self, at: Evaluation) -> str:
        """Names the first term that is not finite, and its point."""
        for batch in at.subsample:
            if batch.tape is None:
                continue
            broken = np.flatnonzero(~np.isfinite(batch.tape.z).all(axis=1))
            if broken.size:
                row = self.data.x[batch.indices[broken[0]]]  # type: ignore[index]
                point = ", ".join(f"{v:.6g}" for v in row[:-1])
                return f"{self._terms[int(row[-1])].where} is not finite at ({point})"
        return super().cure(at)

    def renew(self, iteration: int) -> bool:
        """Draw the points of an iteration, which depend on nothing else. Raises UserError alike on all ranks."""
        wanted = [iteration // term.every for _, term in self._renewed]
        for number, before, (rows, term) in zip(wanted, self._draws, self._renewed, strict=True):
            if number != before:
                assert term.draw is not None
                points = term.draw(number)
                if points.shape != term.points.shape:
                    raise UserError(
                        f"{term.where}: drew points {list(points.shape)}, at first {list(term.points.shape)}"
                    )
                self.data.x[rows, :-1] = points  # type: ignore[index]
        changed, self._draws = wanted != self._draws, wanted
        return changed
