"""The memory pools: live bytes by following NumPy's allocations, their high-water mark, and a limit."""

from __future__ import annotations

import weakref

import numpy as np

from cupy.cuda import runtime

_ROUND = 512


class OutOfMemoryError(MemoryError):
    """As CuPy's."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


class MemoryPool:
    """One pool for all devices of the process (CuPy keeps one per device; a rank uses one device)."""

    def __init__(self, allocator: object = None) -> None:
        self._live: dict[int, tuple[weakref.ref[np.ndarray], int]] = {}
        self._used = self._total = self._limit = 0

    def _own(self, array: np.ndarray) -> None:
        """Count the allocation behind an array, once."""
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        key = id(root)
        if key in self._live or root.nbytes == 0:
            return
        size = -(-root.nbytes // _ROUND) * _ROUND
        limit = self._limit or runtime._total()
        if self._used + size > limit:
            raise OutOfMemoryError(size, self._total, limit)
        self._live[key] = (weakref.ref(root, lambda _: self._free(key)), size)
        self._used += size
        self._total = max(self._total, self._used)

    def _free(self, key: int) -> None:
        self._used -= self._live.pop(key)[1]

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._total

    def free_bytes(self) -> int:
        return self._total - self._used

    def n_free_blocks(self) -> int:
        return int(self._total > self._used)

    def free_all_blocks(self, stream: object = None) -> None:
        self._total = self._used

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        if size is not None and fraction is not None:
            raise ValueError("size and fraction cannot be specified at one time")
        if size is None:
            size = 0 if fraction is None else int(fraction * runtime._total())
        if size < 0:
            raise ValueError("memory limit size out of range")
        self._limit = size

    def get_limit(self) -> int:
        return self._limit


pool = MemoryPool()
