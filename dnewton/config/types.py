"""What every section of the YAML is made of: a strict base, and numbers with their bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Rules = dict[str, tuple[str, tuple[str, ...]]]  # key: another key, and the values it works with
WholeNumber = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Section(BaseModel):
    """A mapping in the YAML file: unknown keys are errors, numbers are not strings."""

    # validators are built when a section is first validated: most never are, as they are part of those around them
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)
    needs: ClassVar[Rules] = {}

    @model_validator(mode="after")
    def _no_option_without_effect(self) -> Section:
        """What would be ignored is refused; a default is not, as written-out configurations hold them all."""
        for key, (other, values) in self.needs.items():
            default = type(self).model_fields[key].default
            if getattr(self, key) != default and str(getattr(self, other)) not in values:
                raise ValueError(f"{key} needs {other}: {' or '.join(values)}")
        return self


def omitted() -> Any:
    """The default of a section inside another: an empty mapping, which is validated with the rest.

    A default `Section()` would be an instance already when the module is imported, and its validators would be built
    there and then, in every process, and again inside those of the section around it.
    """
    return Field(default_factory=dict, validate_default=True)


def samples_or_share(value: float) -> float:
    """A fraction of the samples, or a number of them. Raises ValueError."""
    if value > 1 and value != int(value):
        raise ValueError("a fraction (0, 1] or a whole number of samples is needed")
    return value


class SolverSection(Section):
    """A `solver` section: the keys that every method has, stated by each section in the order of its own."""

    replicated: ClassVar[bool]  # whether replicas are this method's workers

    if TYPE_CHECKING:  # no fields of this class: the order of fields is the order in config.yaml
        name: str
        max_iterations: int
        C: float | Literal["auto"]
        tolerance: float
        patience: int | None
        batch_size: int | Literal["auto"]  # auto: of newton alone
        seed: int

    @property
    def servers(self) -> int:
        """Ranks that hold the centre and do not train."""
        return 0
