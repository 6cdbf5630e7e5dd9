"""Views with other strides."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy._array import ndarray
from cupy._core import wrap


def as_strided(x: ndarray, shape: Any = None, strides: Any = None) -> ndarray:
    base = np.lib.stride_tricks.as_strided(x._a, shape, strides)
    return wrap(base, x._device)


def sliding_window_view(
    x: ndarray, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False
) -> ndarray:
    return wrap(np.lib.stride_tricks.sliding_window_view(x._a, window_shape, axis), x._device)
