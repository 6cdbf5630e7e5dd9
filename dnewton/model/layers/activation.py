"""Activation functions σ with σ′ and σ″, both computed from the output alone (nothing else is kept)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, namespace, zeros


@dataclass(frozen=True)
class Activation:
    """σ applied to s, and its derivatives σ′ (`slope`) and σ″ (`curve`) as functions of z = σ(s)."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curve: Callable[[Array], Array]


def _relu(s: Array) -> Array:
    return namespace(s).maximum(s, zeros((), s))


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


# `linear` has no entry: there is nothing to apply and no slope to multiply by.
ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(_relu, _relu_slope, _relu_curve),
    "tanh": Activation(lambda s: namespace(s).tanh(s), lambda z: 1 - z * z, lambda z: -2 * z * (1 - z * z)),
    "sigmoid": Activation(_sigmoid, lambda z: z * (1 - z), lambda z: z * (1 - z) * (1 - 2 * z)),
    "softplus": Activation(_softplus, _softplus_slope, _softplus_curve),
}
