"""Activation functions: an entry here is all that one needs.

A backward sweep needs σ′, a product with the Hessian σ″ too. Most activations have them as functions of their output
z = σ(s), which the next layer keeps anyway; the others keep their input s instead (`of="s"`). Derivatives by the inputs
need σ′ and σ″ on the way forward and σ‴ on the way back, at once, from both s and z.
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
    """σ(s), and its derivatives σ′ (`slope`) and σ″ (`curve`) as functions of what is kept: z = σ(s), or s itself."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curve: Callable[[Array], Array]
    of: Literal["z", "s"] = "z"
    # (s, z, n): the first n of σ′, σ″, σ‴; None where there are kinks
    derivatives: Callable[[Array, Array, int], list[Array]] | None = None
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


def _softplus_derivatives(s: Array, z: Array, n: int) -> list[Array]:
    slope, rest = _softplus_slope(z), namespace(z).exp(-z)  # rest = 1 - slope, but without cancellation
    return _first(n, slope, lambda: slope * rest, lambda curve: curve * (rest - slope))


def _tanh_derivatives(s: Array, z: Array, n: int) -> list[Array]:
    slope = 1 - z * z
    return _first(n, slope, lambda: -2 * z * slope, lambda curve: slope * (4 - 6 * slope))


def _sigmoid_derivatives(s: Array, z: Array, n: int) -> list[Array]:
    slope = z * (1 - z)
    return _first(n, slope, lambda: slope * (1 - 2 * z), lambda curve: slope * (1 - 6 * slope))


def _silu_derivatives(s: Array, z: Array, n: int) -> list[Array]:
    p = _sigmoid(s)
    d = p * (1 - p)
    return _first(
        n,
        p + s * d,
        lambda: d * (2 + s * (1 - 2 * p)),
        lambda curve: d * (3 * (1 - 2 * p) + s * (1 - 6 * d)),
    )


def _gelu_derivatives(s: Array, z: Array, n: int) -> list[Array]:
    density, squares = _density(s), s * s
    return _first(
        n,
        _normal(s) + s * density,
        lambda: (2 - squares) * density,
        lambda curve: s * (squares - 4) * density,
    )


def _sin_derivatives(s: Array, z: Array, n: int) -> list[Array]:
    slope = namespace(s).cos(s)
    return _first(n, slope, lambda: -z, lambda curve: -slope)


def _first(n: int, slope: Array, curve: Callable[[], Array], third: Callable[[Array], Array]) -> list[Array]:
    """The first `n` of three derivatives."""
    found = [slope]
    if n > 1:
        found.append(curve())
    if n > 2:
        found.append(third(found[1]))
    return found


def _silu_slope(s: Array) -> Array:
    p = _sigmoid(s)
    return p * (1 + s * (1 - p))


def _silu_curve(s: Array) -> Array:
    p = _sigmoid(s)
    return p * (1 - p) * (2 + s * (1 - 2 * p))


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
        derivatives=_tanh_derivatives,
    ),
    "sigmoid": Activation(
        _sigmoid,
        lambda z: z * (1 - z),
        lambda z: z * (1 - z) * (1 - 2 * z),
        derivatives=_sigmoid_derivatives,
    ),
    "softplus": Activation(_softplus, _softplus_slope, _softplus_curve, derivatives=_softplus_derivatives, gain=HE),
    "silu": Activation(
        lambda s: s * _sigmoid(s), _silu_slope, _silu_curve, of="s", derivatives=_silu_derivatives, gain=HE
    ),
    "gelu": Activation(
        lambda s: s * _normal(s),
        lambda s: _normal(s) + s * _density(s),
        lambda s: (2 - s * s) * _density(s),
        of="s",
        derivatives=_gelu_derivatives,
        gain=HE,
    ),
    "sin": Activation(
        lambda s: namespace(s).sin(s),
        lambda s: namespace(s).cos(s),
        lambda s: -namespace(s).sin(s),
        of="s",
        derivatives=_sin_derivatives,
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
