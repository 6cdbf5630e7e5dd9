"""What a data set looks like to the rest: (samples, features) with images flattened channel-major, read by columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from dnewton.errors import UserError

Values = np.ndarray[Any, Any]
Blocks = Callable[[int, int], Iterator[Values]]
Rows = Callable[[Values, int, int], Values]


@dataclass(frozen=True)
class Origin:
    """Where samples come from, for messages: a name, and what a row is called in the file that it stands in."""

    name: str
    locate: Callable[[int], str] | None = None

    def __str__(self) -> str:
        return self.name

    def row(self, row: int) -> str:
        """The file and the row in it, counted from 0."""
        return self.locate(row) if self.locate is not None else f"{self.name}: row {row}"


@dataclass(frozen=True)
class Source:
    """A data set that can be read by columns.

    `blocks(lo, hi)` gives all samples' columns in consecutive blocks of rows, as stored. `rows(indices, lo, hi)` reads
    single samples (ascending), where the format can do that. Both raise UserError on the rank that meets the damage.
    `fetch(lo, hi)`, where there is one, comes first and is collective over the world: rows parsed by many ranks go to
    the ranks that own their columns.
    """

    name: str
    samples: int
    shape: tuple[int, ...]  # of one sample: (features,) or (C, H, W)
    dtype: np.dtype[Any]  # of the values that blocks and rows give
    blocks: Blocks
    targets: Callable[[], Values] | None  # None: the file has none
    rows: Rows | None = None
    repeatable: bool = True  # blocks() a second time costs no decompression
    fetch: Callable[[int, int], None] | None = None
    locate: Callable[[int], str] | None = None  # what a row is called, where it is not simply the file's
    columns: tuple[str, ...] | None = None  # names of the features, of tables with a header
    words: bool | None = None  # of tables: whether the labels are words
    zero_based: bool | None = None  # of LIBSVM text: its features are counted from 0
    weights: Callable[[], Values] | None = None  # of the samples, one number for each; None: all count alike
    notes: tuple[str, ...] = ()  # for the log: what was decided where the file left it open
    samples_in: Literal["rows", "columns"] | None = None  # of files of arrays

    @property
    def features(self) -> int:
        """Numbers per sample."""
        return math.prod(self.shape)

    @property
    def origin(self) -> Origin:
        """For messages about rows."""
        return Origin(self.name, self.locate)

    def all_targets(self) -> Values:
        """The targets. Raises UserError when the file has none."""
        if self.targets is None:
            raise UserError(
                f"{self.name}: has no labels or targets (an array 'y', a column, a file beside it); training needs them"
            )
        return self.targets()


def block_rows(samples: int, row_bytes: int, block_bytes: int) -> Iterator[slice]:
    """Consecutive runs of rows of at most `block_bytes` (at least one row)."""
    step = max(1, block_bytes // max(1, row_bytes))
    for start in range(0, samples, step):
        yield slice(start, min(samples, start + step))


def from_arrays(name: str, x: Values, y: Values | None) -> Source:
    """A source over arrays in memory."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        for part in block_rows(len(x), flat.shape[1] * flat.itemsize, 1 << 22):
            yield flat[part, lo:hi]

    def rows(indices: Values, lo: int, hi: int) -> Values:
        return np.take(flat[:, lo:hi], indices, axis=0)

    return Source(name, len(x), x.shape[1:], x.dtype, blocks, None if y is None else lambda: y, rows)


def joined(sources: Sequence[Source], name: str) -> Source:
    """Several sources one after the other. Raises UserError unless their samples look alike."""
    first = sources[0]
    for other in sources[1:]:
        if other.features != first.features:
            raise UserError(
                f"{other.name}: samples have shape {list(other.shape)}, those of {first.name} {list(first.shape)}"
            )
        if (other.targets is None) != (first.targets is None):
            raise UserError(f"{(other if other.targets is None else first).name}: has no labels, the other files have")
        if (other.weights is None) != (first.weights is None):
            raise UserError(f"{(other if other.weights is None else first).name}: has no weights, the other files have")
    starts = np.cumsum([0, *(s.samples for s in sources)])

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        for source in sources:
            yield from source.blocks(lo, hi)

    def rows(indices: Values, lo: int, hi: int) -> Values:
        cuts = np.searchsorted(indices, starts)
        parts = [
            source.rows(indices[a:b] - start, lo, hi)  # type: ignore[misc]
            for source, start, a, b in zip(sources, starts, cuts, cuts[1:], strict=False)
        ]
        return np.concatenate(parts)

    def fetch(lo: int, hi: int) -> None:
        for source in sources:
            if source.fetch is not None:
                source.fetch(lo, hi)

    def targets() -> Values:
        parts = [s.all_targets() for s in sources]
        if len({(p.dtype.kind == "U", p.shape[1:]) for p in parts}) > 1:
            raise UserError(f"{name}: the files' targets differ in kind or number")
        return np.concatenate(parts)

    def weights() -> Values:
        return np.concatenate([np.ravel(s.weights()) for s in sources if s.weights])

    def locate(row: int) -> str:
        k = int(np.searchsorted(starts, row, side="right")) - 1
        return sources[k].origin.row(row - int(starts[k]))

    return replace(
        first,
        name=name,
        samples=int(starts[-1]),
        dtype=np.result_type(*(s.dtype for s in sources)),
        blocks=blocks,
        rows=rows if all(s.rows for s in sources) else None,
        targets=targets if first.targets else None,
        repeatable=all(s.repeatable for s in sources),
        fetch=fetch,
        locate=locate,
        weights=weights if first.weights else None,
        notes=tuple(note for source in sources for note in source.notes),
    )


def subset(source: Source, indices: Values) -> Source:
    """Some samples of a source, by ascending row numbers."""
    mask = np.zeros(source.samples, dtype=bool)
    mask[indices] = True

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        start = 0
        for block in source.blocks(lo, hi):
            yield block[mask[start : start + len(block)]]
            start += len(block)

    def rows(wanted: Values, lo: int, hi: int) -> Values:
        assert source.rows is not None
        return source.rows(np.take(indices, wanted), lo, hi)

    return replace(
        source,
        samples=len(indices),
        blocks=blocks,
        rows=rows if source.rows else None,
        targets=(lambda: source.all_targets()[indices]) if source.targets else None,
        locate=lambda row: source.origin.row(int(indices[row])),
        weights=(lambda: source.weights()[indices]) if source.weights else None,  # type: ignore[misc]
    )
