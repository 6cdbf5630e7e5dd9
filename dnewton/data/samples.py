"""This rank's columns of a data set, scaled: held in memory, or streamed from disk with read-ahead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dnewton.arrays.namespace import Array, take, to_device
from dnewton.comm.communicator import Comm
from dnewton.data.file_kinds import BLOCK_BYTES
from dnewton.data.sample_shape import fits, mismatch
from dnewton.data.scaling import Scaling, Statistics, check_finite
from dnewton.data.sources import Source, Values, block_rows
from dnewton.errors import UserError
from dnewton.grid import SplitAxis

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


@dataclass(frozen=True)
class Window:
    """Which columns of the flattened samples this rank holds, and the shape in which the network takes them."""

    lo: int
    hi: int
    channels: int
    image: tuple[int, ...]  # (H, W), or () for plain features

    @classmethod
    def of(cls, input_shape: tuple[int, ...], units: SplitAxis, bounds: tuple[int, int]) -> Window:
        """The columns of the units from bounds[0] to bounds[1]."""
        size = units.size * math.prod(input_shape[1:])
        return cls(bounds[0] * size, bounds[1] * size, bounds[1] - bounds[0], tuple(input_shape[1:]))

    @property
    def width(self) -> int:
        """Numbers per sample."""
        return self.hi - self.lo

    def shape(self, samples: int) -> tuple[int, ...]:
        """(N, features), or (N, H, W, channels)."""
        return (samples, *self.image, self.channels) if self.image else (samples, self.width)

    def arranged(self, rows: Values) -> Values:
        """Channel-major columns (n, width) in that shape."""
        if not self.image:
            return rows
        return rows.reshape(len(rows), self.channels, *self.image).transpose(0, 2, 3, 1)

    def flat(self, part: Values) -> Values:
        """The inverse of :meth:`arranged`."""
        return part.transpose(0, 3, 1, 2).reshape(len(part), self.width) if self.image else part


def _one_thread() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # most data are in memory

    return ThreadPoolExecutor(1)


@dataclass(frozen=True)
class Streamed:
    """Columns that stay on disk."""

    source: Source
    window: Window
    scaling: Scaling
    dtype: str
    # One thread, and no array that is kept is made in it: the memory allocator has a heap per thread, whose freed parts
    # serve nobody else.
    ahead: ThreadPoolExecutor = field(default_factory=_one_thread)

    def batches(self, wanted: Sequence[Values]) -> Iterator[Array]:
        """Batch after batch; the next one is read while the caller works on this one.

        A failure is not the same on all ranks, so it ends the job instead of being a UserError.
        """
        coming = self._begin(wanted[0]) if len(wanted) else None
        try:
            for following in [*wanted[1:], None]:
                if coming is None:
                    return
                future, batch = coming
                future.result()
                coming = self._begin(following) if following is not None else None
                yield batch
                del batch
        finally:
            if coming is not None:
                coming[0].cancel()

    def _begin(self, indices: Values) -> tuple[Future[None], Array]:
        out = np.empty(self.window.shape(len(indices)), dtype=self.dtype)
        return self.ahead.submit(self._read, indices, out), out

    def _read(self, indices: Values, out: Array) -> None:
        """Samples in the order of `indices`, scaled."""
        assert self.source.rows is not None
        order = np.argsort(indices, kind="stable")  # files are read from front to back
        step = max(1, BLOCK_BYTES // (8 * max(1, self.window.width)))
        for start in range(0, len(order), step):
            part = order[start : start + step]
            try:
                rows = self.source.rows(np.asarray(indices)[part], self.window.lo, self.window.hi)
            except UserError as error:
                raise RuntimeError(f"reading samples while training: {error}") from error
            out[part] = self.window.arranged(self.scaling.apply(rows, self.dtype))


@dataclass(frozen=True)
class Samples:
    """One data set on this rank: its columns of every sample, and the targets (N, K) of all.

    Samples with weights have them as a last column of the targets, (N, K + 1), scaled to mean 1: wherever the targets
    of a batch go its weights go with them, and only the loss and the metric of such samples need to know.
    """

    x: Array | Streamed
    y: Array
    total: float | None = None  # the sum of the weights as they were given; None: the samples have none

    @property
    def count(self) -> int:
        """Number of samples."""
        return int(self.y.shape[0])

    @property
    def targets(self) -> Array:
        """The targets alone, (N, K)."""
        return self.y if self.total is None else self.y[:, :-1]

    @property
    def weights(self) -> Array | None:
        """The weights, of mean 1, (N,); None where there are none."""
        return None if self.total is None else self.y[:, -1]

    @property
    def weight(self) -> float:
        """The sum of the weights; the number of samples where they have none."""
        return self.count if self.total is None else self.total

    def on(self, like: Array) -> Samples:
        """The samples where `like` is; what is streamed goes there batch by batch, by whoever asks for it."""
        x = self.x if isinstance(self.x, Streamed) else to_device(self.x, like)
        return Samples(x, to_device(self.y, like), self.total)

    def batches(self, wanted: Sequence[Values]) -> Iterator[Array]:
        """The columns of batches of samples."""
        if isinstance(self.x, Streamed):
            yield from self.x.batches(wanted)
        else:
            for indices in wanted:
                yield take(self.x, indices)


def check_shapes(source: Source, input_shape: tuple[int, ...], where: str) -> None:
    """Raise UserError unless the source's samples fit `net.input` (an image may come flattened, channel-major, or
    without the axis of its one channel)."""
    if not fits(source.shape, tuple(input_shape)):
        raise UserError(f"{where}: {source.name}: {mismatch(source.shape, tuple(input_shape), where)}")


def load(
    source: Source,
    window: Window,
    scaling: Scaling | str,
    dtype: str,
    comm: Comm,
    resident: float = math.inf,
    strict: bool = True,
    weights: Values | None = None,
    fill: bool = False,
) -> tuple[Array | Streamed, Scaling]:
    """This rank's columns of every sample, scaled, and the scaling.

    `scaling` is a fitted one for these columns, or how to fit one on these samples, by their `weights`. Columns of more
    than `resident` bytes are left on disk; where the file cannot be read in part that is an error if `strict`, and else
    they are held. With `fill`, or if the fitted scaling has it, NaN is a value that is missing and gets the mean.
    Raises UserError alike on all ranks, for NaN and infinities too. Collective over the world.
    """
    if source.fetch is not None:
        source.fetch(window.lo, window.hi)
    stream = source.samples * window.width * np.dtype(dtype).itemsize > resident
    stream &= strict or source.rows is not None
    # A file that has to be decompressed is read once, if its numbers survive in dtype until they are scaled.
    once = not stream and not source.repeatable and np.can_cast(source.dtype, dtype, casting="safe")
    statistics = Statistics(window.width)
    span = (math.inf, -math.inf)
    x = np.empty((0,), dtype=dtype)
    gaps = fill if isinstance(scaling, str) else scaling.fill is not None
    cure = "clean the data, or train with data.missing: mean"
    if isinstance(scaling, str):
        cure = "clean the data, or set data.missing: mean"
    fit = isinstance(scaling, str) and (scaling != "none" or fill)
    with comm.raise_together():
        if stream and source.rows is None:
            raise UserError(
                f"{source.name}: needs {source.samples * window.width * np.dtype(dtype).itemsize / 2**20:.1f} MiB per "
                "rank and cannot be read in part; raise data.max_resident, use more ranks, or convert it: "
                "python -m dnewton.data convert IN OUT.npy"
            )
        if stream or (fit and not once):
            row = 0
            for block in _checked(source, window, gaps, cure):
                if fit:
                    statistics.add(block, None if weights is None else weights[row : row + len(block)])
                row += len(block)
        elif once:
            x = _filled(source, window, Scaling.none(window.width), dtype, gaps, cure)
            for part in block_rows(len(x), 8 * window.width, 4 << 20) if fit else ():
                statistics.add(window.flat(x[part]), None if weights is None else weights[part])
        if fill and fit:
            _check_present(source, window, statistics)
        if window.width and statistics.count:
            span = float(statistics.low.min()), float(statistics.high.max())
    if fit:
        low, high = comm.minmax(span[0])[0], comm.minmax(span[1])[1]
        scaling = statistics.scaling(str(scaling), high - low, fill)
    elif isinstance(scaling, str):
        scaling = Scaling.none(window.width)
    assert isinstance(scaling, Scaling)
    if stream:
        return Streamed(source, window, scaling, dtype), scaling
    with comm.raise_together():
        if not once:
            x = _filled(source, window, scaling, dtype, gaps, cure)
        else:
            for part in block_rows(len(x), 8 * window.width, 4 << 20):
                x[part] = window.arranged(scaling.apply(window.flat(x[part]), dtype))
    return x, scaling


def _check_present(source: Source, window: Window, statistics: Statistics) -> None:
    """Raise UserError where a feature has a value in no sample."""
    if window.width and statistics.count and not statistics.present.all():
        at = window.lo + int(np.argmin(statistics.present))
        name = f"feature {at}" if source.columns is None else f"feature {source.columns[at]!r}"
        raise UserError(f"{source.name}: {name} has no value in any sample; leave it out (data.ignore, data.features)")


def _checked(source: Source, window: Window, gaps: bool, cure: str) -> Iterator[Values]:
    row = 0
    for block in source.blocks(window.lo, window.hi):
        check_finite(block, source.origin, "x", row, window.lo, cure, gaps)
        yield block
        row += len(block)


def _filled(source: Source, window: Window, scaling: Scaling, dtype: str, gaps: bool, cure: str) -> Array:
    x = np.empty(window.shape(source.samples), dtype=dtype)
    row = 0
    for block in _checked(source, window, gaps, cure):
        rows = slice(row, row + len(block))
        scaled = scaling.apply(block, dtype)
        check_finite(scaled, source.origin, "x after scaling", row, window.lo, f"too large for {dtype}", gaps)
        x[rows] = window.arranged(scaled)
        row += len(block)
    return x
