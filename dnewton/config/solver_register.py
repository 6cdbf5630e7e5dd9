"""The names of the solvers, and the section that `solver.name` chooses. Each solver's file registers itself."""

from __future__ import annotations

from typing import Any, Protocol

from dnewton.config.newton import NewtonSection
from dnewton.config.register import Register
from dnewton.config.types import Section, SolverSection


class HasSection(Protocol):
    """What this package knows of a registered solver; :class:`dnewton.solvers.kind.SolverKind` is the rest."""

    @property
    def section(self) -> type[SolverSection]:
        """The schema of its YAML section."""
        ...


_NEWTON = "dnewton.solvers.newton"
_BASELINES = "dnewton.solvers.baselines"

SOLVERS: Register[HasSection] = Register(
    "solver",
    {
        "newton": f"{_NEWTON}.kind",
        "sgd": f"{_BASELINES}.first_order",
        "adam": f"{_BASELINES}.first_order",
        "adamw": f"{_BASELINES}.first_order",
        "easgd": f"{_BASELINES}.elastic",
        "eamsgd": f"{_BASELINES}.elastic",
        "downpour": f"{_BASELINES}.downpour",
        "mdownpour": f"{_BASELINES}.downpour",
        "adownpour": f"{_BASELINES}.downpour",
        "mvadownpour": f"{_BASELINES}.downpour",
        "dc_asgd": f"{_BASELINES}.delay_compensated",
        "averaging": f"{_BASELINES}.averaging",
        "dp_kfac": f"{_BASELINES}.kfac",
        "d_kfac": f"{_BASELINES}.kfac",
        "mpd_kfac": f"{_BASELINES}.kfac",
        "rank_m": f"{_BASELINES}.rank_m",
        "hessian_free": f"{_BASELINES}.hessian_free",
        "entropy_sgd": f"{_BASELINES}.entropy_sgd",
        "parle": f"{_BASELINES}.entropy_sgd",
    },
)


def keys(section: type[Section]) -> set[str]:
    """The keys of a section as they are written."""
    return {field.alias or name for name, field in section.model_fields.items()}


def choose(value: Any) -> Any:
    """The section that `name` asks for, from what the YAML holds.

    Keys of newton alone are left out for other methods (see :func:`left_out`), so that one word changes the method.
    """
    if not isinstance(value, dict):
        return value
    name = value.get("name", "newton")
    if name not in SOLVERS:
        raise ValueError(f"name: {SOLVERS.unknown(name)}")
    return SOLVERS[name].section.model_validate({k: v for k, v in value.items() if k not in left_out(value)})


def left_out(value: Any) -> list[str]:
    """The keys that belong to newton and not to the method that a `solver` mapping names."""
    if not isinstance(value, dict) or (name := value.get("name", "newton")) not in SOLVERS:
        return []
    return sorted(set(value) & (keys(NewtonSection) - keys(SOLVERS[name].section)))
