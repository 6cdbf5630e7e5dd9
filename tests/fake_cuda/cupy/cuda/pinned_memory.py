"""Pinned host memory: ordinary memory that can be recognised."""

from __future__ import annotations

from typing import Any

import numpy as np


class _Pinned(bytearray):
    """The memory itself; whatever NumPy array lies in it, through however many views, is pinned."""


class PinnedArray(np.ndarray):
    """What `cupyx.empty_pinned` gives here, so that a test sees it at once (CuPy gives a plain np.ndarray)."""


def empty(shape: Any, dtype: Any, order: str) -> PinnedArray:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    dtype = np.dtype(dtype)
    memory = _Pinned(max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize))
    return np.ndarray(shape, dtype, buffer=memory, order=order).view(PinnedArray)  # type: ignore[call-overload]


def is_memory_pinned(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, _Pinned)


class PinnedMemoryPool:
    """Keeps nothing back."""

    def __init__(self, allocator: object = None) -> None:
        pass

    def free_all_blocks(self) -> None:
        pass

    def n_free_blocks(self) -> int:
        return 0


pool = PinnedMemoryPool()
