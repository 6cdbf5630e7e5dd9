"""The `solver` section of the YAML for Newton."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dnewton.config.types import Count, Rules, Section, SolverSection, WholeNumber, omitted, samples_or_share


def _gradient_batch(value: Any) -> Any:
    if value == "all" or (type(value) is int and value > 0):
        return value
    raise ValueError("all or a number of samples is needed")


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

    mode: Literal["async", "lockstep", "off"] = "async"
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    every: Count = 5  # lockstep: CG iterations between two counts


class NewtonSection(SolverSection):
    """The Newton method of Wang et al. 2018."""

    replicated: ClassVar[bool] = False  # whether replicas are this method's workers
    needs: ClassVar[Rules] = {"jacobian_dtype": ("jacobian", ("auto", "factored", "dense"))}

    name: Literal["newton"] = "newton"
    max_iterations: WholeNumber = 50
    C: Annotated[float, Field(gt=0)] = 1.0  # in units of l: the regulariser is |theta|^2 / (2 C l); inf means none
    subsample: Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(samples_or_share)] = 0.1
    curvature: Literal["diagonal", "full"] = "diagonal"
    diagonal_unit: Literal["rank", "layer"] = "rank"
    jacobian: Annotated[Literal["auto", "factored", "dense", "implicit"], BeforeValidator(_jacobian)] = "auto"
    subproblem: Literal["auto", "cg", "exact"] = "auto"
    jacobian_dtype: Literal["auto", "float16", "bfloat16"] = "auto"  # half precision of what J holds
    preconditioner: Literal["auto", "none", "diagonal", "kronecker"] = "auto"  # of cg; auto leaves `cg` without one
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    max_cg: Count = 250
    warm_start: bool = False  # begin each local solve at the last accepted step; cg without Gram coordinates
    early_termination: EarlyTerminationSection = omitted()
    combine: Annotated[Literal["none", "previous"], BeforeValidator(_combine)] = "previous"
    replica_solve: Literal["average", "exact"] = "average"  # parallel.replicas > 1: each with its share of S, or all
    lambda_: Annotated[float, Field(alias="lambda", ge=1e-10, le=1e10)] = 1.0
    drop: Annotated[float, Field(gt=0, le=1)] = 0.6667
    boost: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    eta: Annotated[float, Field(gt=0, lt=1)] = 1.0e-4
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.0  # stop at |grad| <= tolerance * |first grad|
    patience: Count | None = None  # stop after so many iterations without a better validation figure
    batch_size: Count = 1024
    gradient_batch: Annotated[int | Literal["all"], BeforeValidator(_gradient_batch)] = "all"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="before")
    @classmethod
    def _solved_in_step(cls, value: Any) -> Any:
        """Where all ranks solve in step a counter beside the solves has no use: `curvature: full` has one CG for all,
        products of `jacobian: implicit` are collectives with a count, of `replica_solve: exact` sums over replicas."""
        if not isinstance(value, dict) or not isinstance(stop := value.get("early_termination", {}), dict):
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
    def _jacobian_serves(self) -> NewtonSection:
        if self.replica_solve == "exact" and self.curvature == "diagonal":
            for key in ("jacobian", "subproblem", "preconditioner"):
                if getattr(self, key) in ("implicit", "exact", "diagonal", "kronecker"):
                    raise ValueError(f"{key}: {getattr(self, key)} needs replica_solve: average; exact is plain CG")
        if self.jacobian == "implicit" and self.preconditioner in ("diagonal", "kronecker"):
            raise ValueError(f"preconditioner: {self.preconditioner} needs jacobian: factored, dense or auto")
        if self.preconditioner in ("diagonal", "kronecker") and self.curvature == "full":
            raise ValueError(f"preconditioner: {self.preconditioner} is of local systems: it needs curvature: diagonal")
        if self.preconditioner in ("diagonal", "kronecker") and self.subproblem == "exact":
            raise ValueError(f"preconditioner: {self.preconditioner} needs subproblem: cg or auto")
        if self.jacobian == "implicit" and self.subproblem == "exact":
            raise ValueError("subproblem: exact needs a jacobian that is held: factored, dense or auto")
        return self
