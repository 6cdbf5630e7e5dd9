"""The functions that the regression benchmarks fit: x of n samples on [-1, 1]^d, and their values (n,) or (n, K)."""

from __future__ import annotations

from typing import Any

import numpy as np


def smooth_2(rng: Any, n: int) -> tuple[Any, Any]:
    """sin(3 a) cos(2 b) + exp(-4 (a² + b²)) on [-1, 1]²."""
    x = rng.uniform(-1, 1, (n, 2))
    return x, np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1]) + np.exp(-4 * (x**2).sum(1))


def smooth_10(rng: Any, n: int) -> tuple[Any, Any]:
    """sin(π x0 x1) + 2 (x2 - ½)² + x3 + ½ x4 + tanh(2 x5 x6) + x7 x8 / (1 + x9²) on [-1, 1]^10."""
    x = rng.uniform(-1, 1, (n, 10))
    y = np.sin(np.pi * x[:, 0] * x[:, 1]) + 2 * (x[:, 2] - 0.5) ** 2 + x[:, 3] + 0.5 * x[:, 4]
    return x, y + np.tanh(2 * x[:, 5] * x[:, 6]) + x[:, 7] * x[:, 8] / (1 + x[:, 9] ** 2)


def step(rng: Any, n: int) -> tuple[Any, Any]:
    """sin(2 x) + tanh(20 x)."""
    x = rng.uniform(-1, 1, (n, 1))
    return x, np.sin(2 * x[:, 0]) + np.tanh(20 * x[:, 0])


def waves(rng: Any, n: int) -> tuple[Any, Any]:
    """sin(4 π x) + ½ cos(9 x)."""
    x = rng.uniform(-1, 1, (n, 1))
    return x, np.sin(4 * np.pi * x[:, 0]) + 0.5 * np.cos(9 * x[:, 0])


def disc(rng: Any, n: int) -> tuple[Any, Any]:
    """tanh(15 (a² + b² - ½)): a sharp edge round a disc."""
    x = rng.uniform(-1, 1, (n, 2))
    return x, np.tanh(15 * ((x**2).sum(1) - 0.5))


def cone(rng: Any, n: int) -> tuple[Any, Any]:
    """max(0, a - b) + |a + b| - 2 |x|: kinks, for rectifiers."""
    x = rng.uniform(-1, 1, (n, 2))
    a, b = x.T
    return x, np.maximum(0, a - b) + np.abs(a + b) - 2 * np.sqrt(a**2 + b**2)


def field(rng: Any, n: int) -> tuple[Any, Any]:
    """A velocity and its pressure: (sin(π a) cos(π b), -cos(π a) sin(π b), ¼ (cos 2πa + cos 2πb))."""
    x = rng.uniform(-1, 1, (n, 2))
    a, b = np.pi * x.T
    pressure = 0.25 * (np.cos(2 * a) + np.cos(2 * b))
    return x, np.stack([np.sin(a) * np.cos(b), -np.cos(a) * np.sin(b), pressure], axis=1)


def arm(rng: Any, n: int) -> tuple[Any, Any]:
    """Where a plane arm of three links (1, 0.7, 0.4) ends; the joints turn by up to ±π/2."""
    x = rng.uniform(-1, 1, (n, 3))
    angles = np.cumsum(np.pi / 2 * x, axis=1)
    lengths = np.array([1.0, 0.7, 0.4])
    return x, np.stack([np.cos(angles) @ lengths, np.sin(angles) @ lengths], axis=1)


def mixed_6(rng: Any, n: int) -> tuple[Any, Any]:
    """(sin(2 x0 + x1) + x2 x3, exp(x4) cos(2 x5) + x0 x4) on [-1, 1]^6."""
    x = rng.uniform(-1, 1, (n, 6))
    first = np.sin(2 * x[:, 0] + x[:, 1]) + x[:, 2] * x[:, 3]
    return x, np.stack([first, np.exp(x[:, 4]) * np.cos(2 * x[:, 5]) + x[:, 0] * x[:, 4]], axis=1)


def friedman(rng: Any, n: int) -> tuple[Any, Any]:
    """Friedman (1991), number 1: 10 sin(π u0 u1) + 20 (u2 - ½)² + 10 u3 + 5 u4 of u = (x + 1)/2, five inputs unused."""
    x = rng.uniform(-1, 1, (n, 10))
    u = (x + 1) / 2
    return x, 10 * np.sin(np.pi * u[:, 0] * u[:, 1]) + 20 * (u[:, 2] - 0.5) ** 2 + 10 * u[:, 3] + 5 * u[:, 4]
