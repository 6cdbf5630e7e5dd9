"""Activation functions: an entry here is all that one needs.

A backward sweep needs σ′, a product with the Hessian σ″ too, a backward sweep of second derivatives by the inputs σ‴.
Most activations have them as functions of their output z = σ(s), which the next layer keeps anyway; the others keep
their input s instead (`of="s"`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from dnewton.arrays.namespace import Array, erf, maximum, namespace, zeros


@dataclass(frozen=True)
class Activation:
    """σ(s), and its derivatives σ′ (`slope`), σ″ (`curve`) and σ‴ (`third`, None where there are kinks) as functions of
    what is kept: z = σ(s), or s itself."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curve: Callable[[Array], Array]
    of: Literal["z", "s"] = "z"
    third: Callable[[Array], Array] | None = None
    over: Callable[[Array], Array] | None = None  # σ(s) in the memory of s, where that needs no temporaries
    gain: float = 1.0  # weights before it are drawn with variance gain / fan-in


def _relu(s: Array) -> Array:
    return namespace(s).maximum(s, zeros((), s))


def _relu_over(s: Array) -> Array:
    return maximum(s, zeros((), s), s)


def _relu_slope(z: Array) -> Array:
    return namespace(z).astype(z > 0, z.dtype)


def _relu_curve(z: Array) -> Array:
    return namespace(z).zeros_like(z)  # almost everywhere


def _sigmoid(s: Array) -> Array:
    return 0.5 * (1 + namespace(s).tanh(0.5 * s))  # does not overflow


def _softplus(s: Array) -> Array:
    return namespace(s).logaddexp(s, zeros((), s))


def _softplus_slope(z: Array) -> Array:
    return -namespace(z).expm1(-z)  # sigmoid(s) = 1 - e^{-softplus(s)}


def _softplus_curve(z: Array) -> Array:
    return _softplus_slope(z) * namespace(z).exp(-z)


def _softplus_third(z: Array) -> Array:
    p, q = _softplus_slope(z), namespace(z).exp(-z)  # q = 1 - p
    return p * q * (q - p)


def _silu_slope(s: Array) -> Array:
    p = _sigmoid(s)
    return p * (1 + s * (1 - p))


def _silu_curve(s: Array) -> Array:
    p = _sigmoid(s)
    return p * (1 - p) * (2 + s * (1 - 2 * p))


def _silu_third(s: Array) -> Array:
    p = _sigmoid(s)
    slope = p * (1 - p)
    return slope * (3 * (1 - 2 * p) + s * (1 - 6 * slope))


def _normal(s: Array) -> Array:
    """Φ, the distribution function of the standard normal distribution."""
    return 0.5 * (1 + erf(s / math.sqrt(2)))


def _density(s: Array) -> Array:
    """Φ′."""
    return namespace(s).exp(-0.5 * s * s) / math.sqrt(2 * math.pi)


def _elu(s: Array) -> Array:
    xp = namespace(s)
    zero = zeros((), s)
    return xp.maximum(s, zero) + xp.expm1(xp.minimum(s, zero))


def _elu_slope(z: Array) -> Array:
    return 1 + namespace(z).minimum(z, zeros((), z))  # e^s = z + 1 below zero


def _elu_curve(z: Array) -> Array:
    xp = namespace(z)
    return _elu_slope(z) * xp.astype(z <= 0, z.dtype)


HE = 2.0  # gain of rectifiers (He et al. 2015)

# `linear` has no entry: there is nothing to apply and no slope to multiply by.
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(_relu, _relu_slope, _relu_curve, over=_relu_over, gain=HE),
    "tanh": Activation(
        lambda s: namespace(s).tanh(s),
        lambda z: 1 - z * z,
        lambda z: -2 * z * (1 - z * z),
        third=lambda z: (1 - z * z) * (6 * z * z - 2),
    ),
    "sigmoid": Activation(
        _sigmoid,
        lambda z: z * (1 - z),
        lambda z: z * (1 - z) * (1 - 2 * z),
        third=lambda z: z * (1 - z) * (1 - 6 * z * (1 - z)),
    ),
    "softplus": Activation(_softplus, _softplus_slope, _softplus_curve, third=_softplus_third, gain=HE),
    "silu": Activation(lambda s: s * _sigmoid(s), _silu_slope, _silu_curve, of="s", third=_silu_third, gain=HE),
    "gelu": Activation(
        lambda s: s * _normal(s),
        lambda s: _normal(s) + s * _density(s),
        lambda s: (2 - s * s) * _density(s),
        of="s",
        third=lambda s: s * (s * s - 4) * _density(s),
        gain=HE,
    ),
    "sin": Activation(
        lambda s: namespace(s).sin(s),
        lambda s: namespace(s).cos(s),
        lambda s: -namespace(s).sin(s),
        of="s",
        third=lambda s: -namespace(s).cos(s),
    ),
    "elu": Activation(_elu, _elu_slope, _elu_curve, gain=HE),
}


def _known(name: str) -> str:
    if name != "linear" and name not in ACTIVATIONS:
        raise ValueError(f"should be {', '.join(map(repr, ACTIVATIONS))} or 'linear'")
    return name


ActivationName = Annotated[str, AfterValidator(_known)]


def gain(name: str) -> float:
    """The gain of an activation; 1 of `linear`."""
    return ACTIVATIONS[name].gain if name in ACTIVATIONS else 1.0
