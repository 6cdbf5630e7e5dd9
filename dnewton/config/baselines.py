"""The `solver` section of the YAML: a schema per method, chosen by `solver.name` (docs/solvers.md)."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from dnewton.config.newton import (
    Count,
    Fraction,
    NewtonSection,
    NotNegative,
    Positive,
    Rules,
    Section,
    Share,
    WholeNumber,
    samples_or_share,
)


class CommonSection(Section):
    """What all comparison solvers share."""

    replicated: ClassVar[bool] = True

    max_iterations: WholeNumber = 50
    C: Annotated[float, Field(gt=0)] = 1.0  # as for newton: the regulariser is |theta|^2 / (2 C l)
    tolerance: Fraction = 0.0  # stop at |grad| <= tolerance * |first grad|
    batch_size: Count = 1024  # samples at a time where f is evaluated; does not change results
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def servers(self) -> int:
        """Ranks that hold the centre and do not train."""
        return 0


class ScheduleSection(Section):
    """The learning rate over the iterations (fractions of one included)."""

    needs: ClassVar[Rules] = {
        "milestones": ("name", ("step",)),
        "factor": ("name", ("step",)),
        "decay": ("name", ("inverse",)),
        "power": ("name", ("inverse",)),
    }

    name: Literal["constant", "step", "cosine", "inverse"] = "constant"
    # step: iterations after which the rate is multiplied by factor
    milestones: list[Positive] = []  # noqa: RUF012 (pydantic copies it)
    factor: Share = 0.1
    decay: NotNegative = 0.1  # inverse: rate / (1 + decay * iterations)^power
    power: Annotated[float, Field(gt=0, le=10)] = 1.0
    warmup: NotNegative = 0.0  # iterations over which the rate rises from 0

    @model_validator(mode="after")
    def _steps_are_somewhere(self) -> ScheduleSection:
        if self.name == "step" and not self.milestones:
            raise ValueError("step needs milestones: iterations after which the rate is multiplied by factor")
        return self


class WorkersSection(CommonSection):
    """Methods that take a mini-batch per worker and step; the workers are the replicas."""

    batch: Count = 32  # samples per worker and step
    learning_rate: Positive = 0.1
    schedule: ScheduleSection = ScheduleSection()


class SGDSection(WorkersSection):
    """Synchronous stochastic gradient descent: one sum of the gradient per step."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.0  # added to the gradient, times theta

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> SGDSection:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs a momentum above 0")
        return self


class AdamSection(WorkersSection):
    """Adam (Kingma and Ba 2015), and AdamW with decoupled weight decay (Loshchilov and Hutter 2019)."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: Positive = 0.003
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.0  # adam: added to the gradient; adamw (default 0.01): theta *= 1 - rate * it

    @model_validator(mode="before")
    @classmethod
    def _adamw_decays(cls, value: Any) -> Any:
        return {"weight_decay": 0.01, **value} if isinstance(value, dict) and value.get("name") == "adamw" else value


class ServedSection(WorkersSection):
    """Methods whose workers may talk to parameter servers."""

    smaller_rates: ClassVar[dict[str, float]] = {"eamsgd": 0.05, "mdownpour": 0.01}  # momentum lengthens steps

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


class ElasticSection(ServedSection):
    """Elastic averaging (Zhang, Choromanska, LeCun 2015): workers are pulled to a centre and pull it."""

    needs: ClassVar[Rules] = {"momentum": ("name", ("eamsgd",)), "server_ranks": ("mode", ("async", "round_robin"))}

    name: Literal["easgd", "eamsgd"] = "easgd"
    mode: Literal["sync", "async", "round_robin"] = "sync"
    learning_rate: Positive = 0.2
    tau: Count = 4  # steps between two exchanges
    beta: Annotated[float, Field(gt=0, lt=2)] = 0.9  # of all workers together; each moves by alpha = beta / workers
    momentum: Fraction = 0.9  # eamsgd only (delta)


class DownpourSection(ServedSection):
    """Downpour SGD and its averaged and momentum forms (Dean et al. 2012; Zhang et al. 2015, section 5)."""

    needs: ClassVar[Rules] = {"momentum": ("name", ("mdownpour",)), "average": ("name", ("mvadownpour",))}

    name: Literal["downpour", "mdownpour", "adownpour", "mvadownpour"] = "downpour"
    mode: Literal["async", "round_robin"] = "async"
    learning_rate: Positive = 0.1
    tau: Count = 1  # steps between two exchanges
    momentum: Fraction = 0.9  # mdownpour only: Nesterov momentum of the centre
    average: Annotated[float, Field(gt=0, le=1)] = 0.01  # mvadownpour only: weight of the newest centre

    @model_validator(mode="after")
    def _momentum_is_the_servers(self) -> DownpourSection:
        if self.name == "mdownpour" and self.tau != 1:
            raise ValueError("mdownpour is defined for tau: 1 only")
        return self


class DelayCompensatedSection(ServedSection):
    """Delay-compensated asynchronous SGD (Zheng et al. 2017)."""

    needs: ClassVar[Rules] = {"mean_square": ("variant", ("adaptive",))}

    name: Literal["dc_asgd"] = "dc_asgd"
    mode: Literal["async", "round_robin"] = "async"
    learning_rate: Positive = 0.1
    variant: Literal["constant", "adaptive"] = "constant"
    compensation: NotNegative = 0.04  # the papers' lambda_0; adaptive: about 2
    mean_square: Fraction = 0.95  # adaptive: weight of the old mean square


class AveragingSection(WorkersSection):
    """Periodic averaging of the workers' weights (Su and Chen 2015); with block momentum BMUF (Chen and Huo 2016)."""

    name: Literal["averaging"] = "averaging"
    tau: Count = 4
    momentum: Fraction = 0.9
    buffers: Literal["keep", "reset", "average"] = "keep"  # the momentum buffers at an averaging
    block_momentum: Fraction = 0.0  # above 0: BMUF
    block_rate: Positive = 1.0
    nesterov_block: bool = False  # BMUF: workers start ahead, at W + block_momentum * D

    @model_validator(mode="after")
    def _block_options(self) -> AveragingSection:
        if self.block_momentum == 0 and (self.nesterov_block or self.block_rate != 1.0):
            raise ValueError("block_rate and nesterov_block need a block_momentum above 0")
        return self


class KFACSection(WorkersSection):
    """Kronecker-factored curvature: dp_kfac (Zhang et al. 2022), d_kfac (Pauloski et al. 2020, 2021), mpd_kfac (Osawa
    et al. 2019)."""

    name: Literal["dp_kfac", "d_kfac", "mpd_kfac"] = "dp_kfac"
    learning_rate: Positive = 0.05
    momentum: Fraction = 0.9
    weight_decay: NotNegative = 0.0
    damping: Positive = 0.03
    inverse: Literal["auto", "eigen", "pi"] = "auto"  # auto: pi for mpd_kfac, eigen otherwise
    decay: Fraction = 0.95  # running average of the factors: the weight of the OLD average
    factor_every: Count = 1  # steps between two updates of the factors
    inverse_every: Count = 10  # steps between two decompositions
    kl_clip: Annotated[float, Field(gt=0)] | None = 0.001
    assignment: Literal["greedy", "round_robin"] = "greedy"
    grad_worker_fraction: Share = 1.0  # d_kfac only: the share of workers that hold a layer's decomposition

    @model_validator(mode="after")
    def _fraction_is_kaisas(self) -> KFACSection:
        if self.grad_worker_fraction != 1.0 and self.name != "d_kfac":
            raise ValueError("grad_worker_fraction is d_kfac's; in dp_kfac and mpd_kfac one worker owns a layer")
        if self.name == "mpd_kfac" and self.inverse == "eigen":
            raise ValueError("mpd_kfac has inverse: pi; the eigen form is d_kfac")
        return self


class RankMSection(WorkersSection):
    """Multi-secant Newton over workers, after Arnold and Wang 2017."""

    name: Literal["rank_m"] = "rank_m"
    tau: Count = 4  # local steps that spread the workers before a secant step
    momentum: Fraction = 0.9
    type: Literal["I", "II"] = "II"
    ridge: Annotated[float, Field(ge=1e-15, allow_inf_nan=False)] = 1e-3  # relative to trace(YᵀY)/m
    overlap: Count = 256  # samples on which all workers take the same gradient difference
    secant_rate: NotNegative = 0.1  # eta: step along what is left of the gradient
    spread: Annotated[float, Field(ge=0, le=1)] = 0.0  # how much of its distance from the mean a worker keeps


class HessianFreeSection(CommonSection):
    """Hessian-free optimisation, data-parallel (Martens 2010; He et al. 2016). One iteration is one outer step."""

    name: Literal["hessian_free"] = "hessian_free"
    method: Literal["gn_cg", "bicgstab"] = "gn_cg"  # CG on the Gauss-Newton matrix, Bi-CG-STAB on the Hessian
    subsample: Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(samples_or_share)] = 0.2
    damping: Positive = 0.5  # lambda at the start
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    max_cg: Count = 100
    carry_over: Fraction = 0.95  # an inner solve begins at this times the last solution
    backtrack: Annotated[float, Field(gt=0, lt=1)] = 0.8
    armijo: Annotated[float, Field(gt=0, lt=1)] = 1e-2
    max_trials: Count = 60


class EntropySection(WorkersSection):
    """Entropy-SGD (Chaudhari et al. 2017), and Parle, the same with elastically coupled workers."""

    needs: ClassVar[Rules] = {
        "noise": ("name", ("entropy_sgd",)),
        "rho": ("name", ("parle",)),
        "rho_growth": ("name", ("parle",)),
    }

    name: Literal["entropy_sgd", "parle"] = "parle"
    inner_steps: Count = 5  # L: gradients of the inner loop per outer step
    inner_rate: Positive = 0.1
    momentum: Fraction = 0.9  # Nesterov's, in both loops
    gamma: Annotated[float, Field(ge=0, le=1)] = 1e-2  # how strongly the inner loop is held at the outer point
    gamma_growth: NotNegative = 1e-3  # scoping: gamma * (1 + growth)^outer steps, at most 1
    rho: Annotated[float, Field(ge=0, le=10)] = 0.1  # parle: coupling of the workers
    rho_growth: NotNegative = 1e-3  # rho * (1 + growth)^outer steps, at most 10
    noise: NotNegative = 1e-4  # entropy_sgd: of the inner gradients
    average: Annotated[float, Field(gt=0, le=1)] = 0.25  # weight of the newest inner point in their mean
    learning_rate: Positive = 1.0


AnySolver = (
    NewtonSection
    | SGDSection
    | AdamSection
    | ElasticSection
    | DownpourSection
    | DelayCompensatedSection
    | AveragingSection
    | KFACSection
    | RankMSection
    | HessianFreeSection
    | EntropySection
)

SOLVERS: dict[str, type[Section]] = {
    "newton": NewtonSection,
    "sgd": SGDSection,
    "adam": AdamSection,
    "adamw": AdamSection,
    "easgd": ElasticSection,
    "eamsgd": ElasticSection,
    "downpour": DownpourSection,
    "mdownpour": DownpourSection,
    "adownpour": DownpourSection,
    "mvadownpour": DownpourSection,
    "dc_asgd": DelayCompensatedSection,
    "averaging": AveragingSection,
    "dp_kfac": KFACSection,
    "d_kfac": KFACSection,
    "mpd_kfac": KFACSection,
    "rank_m": RankMSection,
    "hessian_free": HessianFreeSection,
    "entropy_sgd": EntropySection,
    "parle": EntropySection,
}


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
    if not isinstance(name, str) or name not in SOLVERS:
        near = difflib.get_close_matches(str(name).lower(), SOLVERS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(SOLVERS)}"
        raise ValueError(f"name: {name!r} is not a solver; {hint}")
    return SOLVERS[name].model_validate({k: v for k, v in value.items() if k not in left_out(value)})


def left_out(value: Any) -> list[str]:
    """The keys that belong to newton and not to the method that a `solver` mapping names."""
    section = SOLVERS.get(str(value.get("name", "newton"))) if isinstance(value, dict) else None
    return sorted(set(value) & (keys(NewtonSection) - keys(section))) if section else []
