"""`net.loss`: a loss by its name, with its options if it has any. A loss is a class in :mod:`dnewton.model.losses`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from dnewton.arrays.namespace import Array, namespace
from dnewton.config.layer_entry import inside
from dnewton.config.register import Register
from dnewton.config.types import Section


class LossSection(Section):
    """A loss ξ(z; y) of outputs z (N, K), with a positive semi-definite Hessian B in z, and its YAML options.

    `y` is (N, K): real targets, one-hot rows, or 0 and 1. Values are summed in float64.
    """

    targets: ClassVar[Literal["real", "counts", "classes"]]  # labels suit real ones, too, as one-hot rows
    # what error bars take the loss for: a negative log-likelihood ("stated"), one but for the level of the noise
    # ("estimated"), or none
    noise: ClassVar[Literal["stated", "estimated", "none"]] = "none"

    def outputs_problem(self, outputs: int) -> str:
        """Why the loss cannot take a net with so many outputs; empty where it can."""
        return ""

    def independent(self, outputs: int) -> bool:
        """Whether each of so many outputs stands for a label of its own, which a sample has or has not."""
        return False

    def mean(self, z: Array) -> Array:
        """The prediction that outputs stand for, in the units of real targets; z itself but for a link function."""
        return z

    def mean_slope(self, z: Array) -> Array:
        """∂mean/∂z, (N, K)."""
        return namespace(z).ones_like(z)

    def scatter(self, mean: Array) -> Array:
        """The variance of a target about its mean that the loss states, (N, K)."""
        return namespace(mean).zeros_like(mean)

    def probabilities(self, z: Array) -> Array | None:
        """Of every class (N, classes), for outputs (N, K) of the known classes, or of every label (N, K) where they are
        independent; None where the loss has none."""
        return None

    def terms(self, z: Array, y: Array) -> Array:
        """What ξ is the sum of, per sample: float64, (N,) or (N, K)."""
        raise NotImplementedError

    def value(self, z: Array, y: Array) -> float:
        """Sum of ξ over the samples, float64."""
        return float(namespace(z).sum(self.terms(z, y)))

    def gradient(self, z: Array, y: Array) -> Array:
        """∂ξ/∂z per sample, (N, K)."""
        raise NotImplementedError

    def state(self, z: Array, y: Array) -> Array:
        """What `hessian_product` and the halves need of outputs and targets, (N, K)."""
        raise NotImplementedError

    def hessian_product(self, state: Array, u: Array) -> Array:
        """B u per sample for u (..., N, K)."""
        raise NotImplementedError

    def half(self, state: Array, u: Array) -> Array:
        """R u per sample with R Rᵀ = B, for u (..., N, K)."""
        raise NotImplementedError

    def half_transposed(self, state: Array, u: Array) -> Array:
        """Rᵀ u per sample."""
        return self.half(state, u)

    def root_gradient(self, z: Array, y: Array) -> tuple[Array, Array | None]:
        """√w ∂ξ/∂z per sample, and √w, (N,), with w the weights of the samples; (∂ξ/∂z, None) where there are none."""
        return self.gradient(z, y), None

    def root_weights(self, state: Array) -> Array | None:
        """√w per sample, (N,), of a state; None where samples have no weights."""
        return None


class Loss(Protocol):
    """What the passes and the curvature ask of a loss: a :class:`LossSection`, or one with weights of samples."""

    @property
    def targets(self) -> str:
        """See :class:`LossSection`, here and below."""
        ...

    def value(self, z: Array, y: Array) -> float: ...

    def gradient(self, z: Array, y: Array) -> Array: ...

    def state(self, z: Array, y: Array) -> Array: ...

    def hessian_product(self, state: Array, u: Array) -> Array: ...

    def half(self, state: Array, u: Array) -> Array: ...

    def half_transposed(self, state: Array, u: Array) -> Array: ...

    def root_gradient(self, z: Array, y: Array) -> tuple[Array, Array | None]: ...

    def root_weights(self, state: Array) -> Array | None: ...


LOSSES = Register[type[LossSection]](
    "loss",
    {
        "squared": "dnewton.model.losses.squared",
        "cross_entropy": "dnewton.model.losses.cross_entropy",
        "logistic": "dnewton.model.losses.logistic",
        "huber": "dnewton.model.losses.huber",
        "poisson": "dnewton.model.losses.poisson",
    },
)


def loss_name(value: Any) -> str:
    """The name of a loss as it is written: `name`, `{name: {...}}` or `{name: name, ...}`; empty for anything else."""
    if isinstance(value, dict):
        value = value.get("name") or next(iter(value), "")
    return value if isinstance(value, str) else ""


def loss_of(value: Any) -> Any:
    """A loss from `name`, `{name: {option: value}}` or `{name: name, option: value}`. Raises ValueError."""
    if isinstance(value, LossSection):
        return value
    name, options = value, {}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        name, options = value["name"], {k: v for k, v in value.items() if k != "name"}
    elif isinstance(value, dict) and len(value) == 1:
        ((name, options),) = value.items()
        options = {} if options is None else options
    if name not in LOSSES:
        *others, last = map(repr, LOSSES.names())
        raise ValueError(f"should be {', '.join(others)} or {last}")
    try:
        return LOSSES[name].model_validate(options)
    except ValidationError as error:
        raise inside(error, name) from None


def _as_written(loss: LossSection) -> Any:
    name, options = LOSSES.name_of(type(loss)), loss.model_dump()
    return {name: options} if options else name


LossEntry = Annotated[LossSection, BeforeValidator(loss_of), PlainSerializer(_as_written)]
