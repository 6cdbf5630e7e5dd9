"""What a Jacobian holds: arrays by sample, as they are or in half precision (`jacobian_dtype`).

What is held in half precision is widened for some samples at a time, so that all products multiply and add numbers of
the weights' precision; only the numbers held are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator

from dnewton.arrays.namespace import (
    Array,
    block_bytes,
    empty,
    itemsize,
    namespace,
    narrowed,
    nbytes,
    sample_blocks,
    widened,
)

ALL = slice(None)


class SampleStore:
    """An array whose first axis is samples, or rows of samples. `dtype` is float16, bfloat16 or None (as it is)."""

    def __init__(self, array: Array, dtype: str | None = None) -> None:
        """Takes over the array; with a `dtype` it holds a rounded copy."""
        self.shape: tuple[int, ...] = tuple(array.shape)
        self._dtype = dtype
        self._like = empty((0, *array.shape[1:]), array)  # a view would keep the array's memory
        self.sound = True  # nothing has become infinite by rounding
        self._array = array
        if dtype is not None:
            self._array = empty(self.shape, narrowed(array[:0, ...], dtype))
            self.put(slice(0, self.shape[0]), array)

    @classmethod
    def room(cls, samples: int, like: Array, dtype: str | None) -> SampleStore:
        """Room for `samples` of what `like` is an array of, to be filled by :meth:`put`."""
        held = cls(like[:0, ...], dtype)
        held.shape = (samples, *like.shape[1:])
        held._array = empty(held.shape, held._array)
        return held

    def put(self, here: slice, values: Array) -> None:
        """Fill in the values of some samples."""
        if self._dtype is None:
            self._array[here, ...] = values
            return
        width = nbytes(values) // max(1, values.shape[0])  # rounding takes four times its input in temporaries
        for part in sample_blocks(values.shape[0], width, block_bytes(values)):
            place = slice(here.start + part.start, here.start + part.stop)
            rounded = narrowed(values[part, ...], self._dtype)
            if self._dtype == "float16":
                self.sound &= bool(namespace(rounded).all(namespace(rounded).isfinite(rounded)))
            self._array[place, ...] = rounded

    def flat(self, per_sample: int) -> SampleStore:
        """The same with the first two axes, of which the second has `per_sample` entries, as one."""
        xp = namespace(self._array)
        shape = (self.shape[0] * per_sample, *self.shape[2:])
        self._array = xp.reshape(self._array, shape)
        self.shape = shape
        self._like = xp.reshape(self._like, (0, *shape[1:]))
        return self

    @property
    def like(self) -> Array:
        """No samples of it, in the precision of the products."""
        return self._like

    @property
    def array(self) -> Array | None:
        """The array itself, where it is held as it is."""
        return self._array if self._dtype is None else None

    def part(self, part: slice = ALL) -> Array:
        """Some samples, in the precision of the products."""
        some = self._array if part == ALL else self._array[part, ...]
        return some if self._dtype is None else widened(some, self._dtype, self._like)

    def pieces(self) -> Iterator[tuple[slice, Array]]:
        """All samples, in one piece where nothing has to be widened."""
        if self._dtype is None:
            yield slice(0, self.shape[0]), self._array
            return
        width = nbytes(self._array) // max(1, self.shape[0]) * itemsize(self._like) // itemsize(self._array)
        for here in sample_blocks(self.shape[0], width, block_bytes(self._array)):
            yield here, self.part(here)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return nbytes(self._array)
