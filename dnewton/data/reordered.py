"""A source whose features come in another order than the file has them, as with channels last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dnewton.data.format_register import Opening
from dnewton.data.sample_shape import Shape, channel_places
from dnewton.data.sources import Source, Values


def reordered(source: Source, shape: Shape, places: Any) -> Source:
    """`source` with feature j at `places[j]` of the file; `shape` is that of a sample then.

    A range of features is read with all that lies between its first and last number in the file.
    """

    def span(lo: int, hi: int) -> tuple[int, int, Values]:
        wanted = places[lo:hi]
        if not len(wanted):
            return lo, lo, wanted
        first = int(wanted.min())
        return first, int(wanted.max()) + 1, wanted - first

    def blocks(lo: int, hi: int) -> Iterator[Values]:
        first, last, order = span(lo, hi)
        for block in source.blocks(first, last):
            yield np.take(block, order, axis=1)

    def rows(indices: Values, lo: int, hi: int) -> Values:
        assert source.rows is not None
        first, last, order = span(lo, hi)
        return np.take(source.rows(indices, first, last), order, axis=1)

    return replace(source, shape=shape, blocks=blocks, rows=rows if source.rows else None)


def channel_major(source: Source, opening: Opening) -> Source:
    """`source` with its channels first, if data.channels says that they come last. Raises UserError."""
    found = channel_places(source.name, source.shape, opening.input, opening.arrays.channels, opening.strict)
    return source if found is None else reordered(source, *found)
