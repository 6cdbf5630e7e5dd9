"""Which samples: numbers of the host, drawn by keys, so that every rank draws the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from dnewton.grid import ceil_div, runs

Indices = np.ndarray[Any, np.dtype[np.int64]]


class Draws(Protocol):
    """Subsamples of one size."""

    total: int
    size: int

    def draw(self, k: int) -> Indices:
        """Sorted sample indices of draw k = 0, 1, ..."""
        ...


class Cycle:
    """Subsamples of `size` out of `total`, drawn by cycling through random permutations.

    Draw k depends on (seed, purpose, k) alone; all draws have the same size, the last of an epoch is filled up from
    the start of its permutation (as in the papers' code).
    """

    def __init__(self, total: int, size: int, seed: int, purpose: int, part: int = 0) -> None:
        """`part`: others than those of another part of the samples."""
        self.total = total
        self.size = size
        self._key = (seed, purpose)
        self._part = part
        self._epoch: tuple[int, Indices] | None = None

    def draw(self, k: int) -> Indices:
        """Sorted sample indices of draw k = 0, 1, ..."""
        if self.size == self.total:
            return np.arange(self.total)
        per_epoch = ceil_div(self.total, self.size)
        epoch, place = divmod(k, per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, permutation(*self._key, epoch, self.total, self._part)
        order = self._epoch[1]
        return np.sort(np.take(order, np.arange(place * self.size, (place + 1) * self.size), mode="wrap"))


class Stratified:
    """Subsamples with so many of every part of the samples, the parts one after the other."""

    def __init__(self, counts: Sequence[int], sizes: Sequence[int], seed: int, purpose: int) -> None:
        """`sizes` of `counts` samples of the parts."""
        self.total = sum(counts)
        self.size = sum(sizes)
        self._starts = np.cumsum([0, *counts])
        pairs = zip(counts, sizes, strict=True)
        self._parts = [Cycle(n, s, seed, purpose, part) for part, (n, s) in enumerate(pairs)]

    def draw(self, k: int) -> Indices:
        """See :class:`Draws`."""
        return np.concatenate([a + p.draw(k) for a, p in zip(self._starts, self._parts, strict=False)])


def allotted(size: int, counts: Sequence[int], wanted: Sequence[float]) -> list[int]:
    """`size` samples of parts of `counts`, in proportion to `wanted` as far as a part has so many; one of each at
    least. `size` is no less than the parts and no more than the samples."""
    if size == sum(counts):
        return list(counts)
    share = (size - len(counts)) / sum(wanted)
    sizes = [max(1, min(n, int(share * w))) for n, w in zip(counts, wanted, strict=True)]  # the rest one by one
    for _ in range(size - sum(sizes)):
        free = [p for p, (n, s) in enumerate(zip(counts, sizes, strict=True)) if s < n]
        sizes[min(free, key=lambda p: (sizes[p] + 0.5) / wanted[p])] += 1
    return sizes


def subsample_size(wanted: float, total: int) -> int:
    """A fraction of the samples, or a number of them when above 1; at least one, at most all."""
    size = round(wanted * total) if wanted <= 1 else int(wanted)
    return max(1, min(total, size))


def in_batches(indices: Indices, size: int) -> list[Indices]:
    """Sample numbers cut into batches of `size`."""
    return [indices[part] for part in runs(len(indices), size)]


def permutation(seed: int, purpose: int, counter: int, total: int, part: int = 0) -> Indices:
    """All of `total` samples in an order drawn by (seed, purpose, counter, part)."""
    place = [0, 0, counter, part]
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=place)).permutation(total)


def signs(seed: int, purpose: int, counter: int, total: int) -> np.ndarray[Any, Any]:
    """1.0 or -1.0, `total` times, drawn by (seed, purpose, counter); float64."""
    random = np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, counter, 0]))
    return 2.0 * random.integers(0, 2, total) - 1.0


def run(lo: int, hi: int) -> Indices:
    """The samples from lo to hi."""
    return np.arange(lo, hi)


def rest_of(total: int, indices: Indices) -> Indices:
    """The samples that are not in `indices`."""
    mask = np.ones(total, dtype=bool)
    mask[indices] = False
    return np.flatnonzero(mask)


def joined(first: Indices, second: Indices) -> Indices:
    """One after the other."""
    return np.concatenate([first, second])


def ascending(indices: Indices) -> Indices:
    """In the order of the file."""
    return np.sort(indices)
