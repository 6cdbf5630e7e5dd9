"""The functions that the regression benchmarks fit."""

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
