"""What the `solver` sections of the comparison methods share; each method's own is in its file (docs/solvers.md)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dnewton.config.types import (
    Count,
    Fraction,
    NotNegative,
    Positive,
    Rules,
    Section,
    Share,
    SolverSection,
    WholeNumber,
    omitted,
)


class CommonSection(SolverSection):
    """What all comparison solvers share."""

    replicated: ClassVar[bool] = True

    max_iterations: WholeNumber = 50  # passes over the samples; hessian_free: outer steps
    C: Annotated[float, Field(gt=0)] = 1.0  # as for newton: the regulariser is |theta|^2 / (2 C l)
    tolerance: Fraction = 0.0  # stop at |grad| <= tolerance * |first grad|
    patience: Count | None = None  # stop after so many iterations without a better validation figure
    batch_size: Count = 1024  # samples at a time where f is evaluated; does not change results
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # of the initial weights and of everything that is drawn


class ScheduleSection(Section):
    """The learning rate over the iterations (fractions of one included)."""

    needs: ClassVar[Rules] = {
        "milestones": ("name", ("step",)),
        "factor": ("name", ("step",)),
        "decay": ("name", ("inverse",)),
        "power": ("name", ("inverse",)),
    }

    name: Literal["constant", "step", "cosine", "inverse"] = "constant"  # how the rate changes
    # step: iterations after which the rate is multiplied by factor
    milestones: list[Positive] = []  # noqa: RUF012 (pydantic copies it)
    factor: Share = 0.1  # step: what the rate is multiplied by
    decay: NotNegative = 0.1  # inverse: rate / (1 + decay * iterations)^power
    power: Annotated[float, Field(gt=0, le=10)] = 1.0  # inverse: see decay
    warmup: NotNegative = 0.0  # iterations over which the rate rises from 0

    @model_validator(mode="after")
    def _steps_are_somewhere(self) -> ScheduleSection:
        if self.name == "step" and not self.milestones:
            raise ValueError("step needs milestones: iterations after which the rate is multiplied by factor")
        return self


class WorkersSection(CommonSection):
    """Methods that take a mini-batch per worker and step; the workers are the replicas."""

    batch: Count = 32  # samples per worker and step
    learning_rate: Positive = 0.1  # the rate of a step, before the schedule
    schedule: ScheduleSection = omitted()  # how the learning rate changes over the iterations


class ServedSection(WorkersSection):
    """Methods whose workers may talk to parameter servers."""

    smaller_rates: ClassVar[dict[str, float]] = {}  # by name: momentum lengthens steps

    name: str
    mode: Literal["sync", "async", "round_robin"] = "async"  # round_robin: in turn, so that runs can be repeated
    server_ranks: Count = 1  # the last ranks of the job; each holds a slice of the centre

    @model_validator(mode="before")
    @classmethod
    def _smaller_with_momentum(cls, value: Any) -> Any:
        rate = cls.smaller_rates.get(value.get("name", "")) if isinstance(value, dict) else None
        return value if rate is None else {"learning_rate": rate, **value}

    @property
    def servers(self) -> int:
        """As in the base."""
        return 0 if self.mode == "sync" else self.server_ranks
