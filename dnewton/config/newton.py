"""The `solver` section of the YAML for Newton."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from numbers import Real
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from dnewton.config.types import Count, Rules, Section, SolverSection, WholeNumber, omitted, samples_or_share

Auto = Literal["auto"]
TOLERANCE = 0.1  # of `cg_tolerance: auto`, and the paper's
PAPER_SUBSAMPLE, PAPER_LAMBDA, PAPER_DROP, PAPER_BOOST = 0.1, 1.0, 0.6667, 1.5
MANY_SAMPLES = 4000  # of classes, from which `start: auto` is adam
WORDS = {">": "greater than", ">=": "greater than or equal to", "<": "less than", "<=": "less than or equal to"}
PRECONDITIONERS = ("diagonal", "kronecker", "sampled")
LEAST_ROWS, LEAST_SAMPLES = 2000, 64  # of J, K per sample, and of S, that `subsample: auto` does not go below


def _gradient_batch(value: Any) -> Any:
    if value == "all" or (type(value) is int and value > 0):
        return value
    raise ValueError("all or a number of samples is needed")


def _auto_or(*bounds: tuple[str, float, str]) -> Callable[[Any], Any]:
    """A check of `auto` or a number within bounds: one message instead of one for each of a union's members."""
    compared = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
    what = " and ".join(written if math.isinf(bound) else f"{WORDS[sign]} {written}" for sign, bound, written in bounds)

    def checked(value: Any) -> Any:
        if value == "auto":
            return value
        number = isinstance(value, Real) and not isinstance(value, bool)  # NumPy's numbers, too
        if number and all(compared[sign](value, bound) for sign, bound, _ in bounds):
            return float(value)
        raise ValueError(f"auto or a number {what} is needed")

    return checked


def _subsample(value: Any) -> Any:
    checked = _auto_or((">", 0, "0"), ("<", math.inf, "finite"))(value)
    return checked if checked == "auto" else samples_or_share(checked)


def _early_termination(value: Any) -> Any:
    """`early_termination: async` is short for `{mode: async}`."""
    return {"mode": value} if isinstance(value, str) else value


def _combine(value: Any) -> Any:
    if value == "two_level":
        raise ValueError("two_level is gone, it saved no iterations; use previous")
    return value


def _jacobian(value: Any) -> Any:
    if value == "normal":
        raise ValueError("normal is gone; use auto, or implicit where memory is short")
    return value


class EarlyTerminationSection(Section):
    """When the local solves of the slowest ranks are cut off (Wang et al. 2018, section 5.1)."""

    # off: every rank meets its own rule; async: a counter that nobody waits for; lockstep: a sum, so that runs can be
    # repeated
    mode: Literal["async", "lockstep", "off"] = "off"
    # of the ranks that must have finished before the others are cut off
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    every: Count = 5  # lockstep: CG iterations between two counts


class NewtonSection(SolverSection):
    """The Newton method of Wang et al. 2018."""

    replicated: ClassVar[bool] = False  # whether replicas are this method's workers
    needs: ClassVar[Rules] = {
        "jacobian_dtype": ("jacobian", ("auto", "factored", "dense")),
        "acceleration": ("subproblem", ("exact",)),
    }

    name: Literal["newton"] = "newton"
    max_iterations: WholeNumber = 50  # Newton iterations; passes of Adam before them do not count
    # in units of l: the regulariser is |theta|^2 / (2 C l); inf means none, auto by the evidence (squared loss)
    C: Annotated[float | Auto, BeforeValidator(_auto_or((">", 0, "0")))] = 1.0
    # S, the samples that the Jacobian is of: a share up to 1, or a number of them; auto: as many rows of J as there
    # are samples
    subsample: Annotated[float | Auto, BeforeValidator(_subsample)] = "auto"
    # diagonal: every rank solves for its own block of G, without messages; full: all ranks solve one system
    curvature: Literal["diagonal", "full"] = "diagonal"
    # what a block of `curvature: diagonal` is: all weights of a rank, or those of one layer
    diagonal_unit: Literal["rank", "layer"] = "rank"
    # how J is held (docs/method.md); implicit: not at all
    jacobian: Annotated[Literal["auto", "factored", "dense", "implicit"], BeforeValidator(_jacobian)] = "auto"
    # cg: by conjugate gradients; exact: by a factorisation; auto: by costs and damping
    subproblem: Literal["auto", "cg", "exact"] = "auto"
    jacobian_dtype: Literal["auto", "float16", "bfloat16"] = "auto"  # half precision of what J holds
    preconditioner: Literal["auto", "none", "diagonal", "kronecker", "sampled"] = "auto"  # of CG; auto: none for `cg`
    # a solve ends at |residual| <= cg_tolerance * |gradient|; auto: 0.1
    cg_tolerance: Annotated[float | Auto, BeforeValidator(_auto_or((">", 0, "0"), ("<", 1, "1")))] = "auto"
    max_cg: Count = 250  # iterations of one solve at most
    warm_start: bool = False  # begin each local solve at the last accepted step; cg without Gram coordinates
    # whether the solves of slow ranks are cut off
    early_termination: Annotated[EarlyTerminationSection, BeforeValidator(_early_termination)] = omitted()
    acceleration: Literal["none", "geodesic"] = "none"  # the second order of a step, by another exact solve
    # previous: the best combination with the step before; none: the pieces as they are
    combine: Annotated[Literal["none", "previous"], BeforeValidator(_combine)] = "previous"
    replica_solve: Literal["average", "exact"] = "average"  # parallel.replicas > 1: each with its share of S, or all
    # passes of Adam before Newton; local_adam: every replica over its own samples, with a mean after each pass; auto:
    # with many samples of classes, local where sums over replicas take long, none where messages within a replica do
    start: Literal["auto", "none", "adam", "local_adam"] = "auto"
    start_passes: Count = 10  # over the samples
    damping: Literal["auto", "paper"] = "auto"  # paper: by drop and boost; a number for one of them means that, too
    # the damping at the start; auto: by the curvature at the starting point (paper: 1)
    lambda_: Annotated[
        float | Auto,
        BeforeValidator(_auto_or((">=", 1e-10, "0.0000000001"), ("<=", 1e10, "10000000000"))),
        Field(alias="lambda"),
    ] = "auto"
    # paper: factor of lambda after a good step; auto: 0.6667
    drop: Annotated[float | Auto, BeforeValidator(_auto_or((">", 0, "0"), ("<=", 1, "1")))] = "auto"
    # paper: factor of lambda after a bad step; auto: 1.5
    boost: Annotated[float | Auto, BeforeValidator(_auto_or((">=", 1, "1"), ("<", math.inf, "finite")))] = "auto"
    eta: Annotated[float, Field(gt=0, lt=1)] = 1.0e-4  # the share of the expected decrease that a step must bring
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # stop at |grad| <= tolerance * |first grad|
    patience: Count | None = None  # stop after so many iterations without a better validation figure
    # samples at a time where f and its gradient are evaluated; does not change results but for rounding; auto: by the
    # size of the layers
    batch_size: Count | Auto = "auto"
    # samples of f and its gradient, drawn anew in every iteration
    gradient_batch: Annotated[int | Literal["all"], BeforeValidator(_gradient_batch)] = "all"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # of the initial weights and of everything that is drawn

    @property
    def by_paper(self) -> bool:
        """Whether λ follows the paper's rule, and with it a line search on α."""
        return self.damping == "paper" or self.drop != "auto" or self.boost != "auto"

    def starts_by_adam(self, samples: int, classes: bool) -> bool:
        """Whether passes of Adam come before the first iteration."""
        wanted = classes and not self.by_paper and samples >= MANY_SAMPLES
        return self.start == "adam" or (self.start == "auto" and wanted)

    @property
    def first_lambda(self) -> float:
        """λ of the first iteration by the paper's rule."""
        return PAPER_LAMBDA if self.lambda_ == "auto" else self.lambda_

    @property
    def factors(self) -> tuple[float, float]:
        """`drop` and `boost` of the paper's rule."""
        drop = PAPER_DROP if self.drop == "auto" else self.drop
        return drop, PAPER_BOOST if self.boost == "auto" else self.boost

    @property
    def tolerance_of_cg(self) -> float:
        """ξ in ‖r‖ ≤ ξ‖g‖."""
        return TOLERANCE if self.cg_tolerance == "auto" else self.cg_tolerance

    def subsample_size(self, samples: int, outputs: int) -> int:
        """|S| of so many samples with so many outputs each.

        `auto`: as many rows of J as there are samples, K to a sample, so that building J costs about what a gradient
        does: all samples where there is one output.
        """
        wanted = PAPER_SUBSAMPLE if self.subsample == "auto" else self.subsample
        size = round(wanted * samples) if wanted <= 1 else int(wanted)
        if self.subsample == "auto" and not self.by_paper:
            size = max(LEAST_SAMPLES, -(-max(samples, LEAST_ROWS) // outputs))
        return max(1, min(samples, size))

    @model_validator(mode="before")
    @classmethod
    def _solved_in_step(cls, value: Any) -> Any:
        """Where all ranks solve in step a counter beside the solves has no use: `curvature: full` has one CG for all,
        products of `jacobian: implicit` are collectives with a count, of `replica_solve: exact` sums over replicas."""
        if not isinstance(value, dict):
            return value
        stop = _early_termination(value.get("early_termination", {}))
        if not isinstance(stop, dict):
            return value
        if value.get("curvature") == "full":
            why = "needs curvature: diagonal; with full use mode: off"
            instead = "off"
        elif value.get("jacobian") == "implicit":
            why = "needs an explicit jacobian; with implicit use lockstep or off"
            instead = "lockstep"
        elif value.get("replica_solve") == "exact":
            if stop.get("mode") == "lockstep":
                raise ValueError(
                    "early_termination: {mode: lockstep} needs replica_solve: average; with exact use mode: off"
                )
            why = "needs replica_solve: average; with exact use mode: off"
            instead = "off"
        else:
            return value
        if stop.get("mode") == "async":
            raise ValueError(f"early_termination: {{mode: async}} {why}")
        return {**value, "early_termination": {"mode": instead, **stop}}

    @model_validator(mode="after")
    def _evidence_of_all_samples(self) -> NewtonSection:
        if self.C == "auto" and self.gradient_batch != "all":
            raise ValueError("C: auto needs gradient_batch: all")
        return self

    @model_validator(mode="after")
    def _accelerates_without_line_search(self) -> NewtonSection:
        if self.acceleration != "none" and self.by_paper:
            raise ValueError("acceleration: geodesic needs damping: auto, without drop and boost")
        return self

    @model_validator(mode="after")
    def _jacobian_serves(self) -> NewtonSection:
        if self.replica_solve == "exact" and self.curvature == "diagonal":
            for key in ("jacobian", "subproblem", "preconditioner"):
                if getattr(self, key) in ("implicit", "exact", *PRECONDITIONERS):
                    raise ValueError(f"{key}: {getattr(self, key)} needs replica_solve: average; exact is plain CG")
        if self.jacobian == "implicit" and self.preconditioner in PRECONDITIONERS:
            raise ValueError(f"preconditioner: {self.preconditioner} needs jacobian: factored, dense or auto")
        if self.preconditioner in PRECONDITIONERS and self.curvature == "full":
            raise ValueError(f"preconditioner: {self.preconditioner} is of local systems: it needs curvature: diagonal")
        if self.preconditioner in PRECONDITIONERS and self.subproblem == "exact":
            raise ValueError(f"preconditioner: {self.preconditioner} needs subproblem: cg or auto")
        if self.jacobian == "implicit" and self.subproblem == "exact":
            raise ValueError("subproblem: exact needs a jacobian that is held: factored, dense or auto")
        return self
