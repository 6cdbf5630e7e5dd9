"""Cotangents of a layer's output with K right-hand sides, multiplied out only where and when they are needed."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, multiply
from dnewton.model.layers.max_pool import MaxIndices


class Cotangent:
    """A parametric layer's cotangent in s, (N or 1, K, Q, O), multiplied out only for the samples that are asked for.

    It is `outer` times the slope (N, Q, O). With `winners`, the layer is followed by max-pooling: `outer` and the
    slope are those at the maxima, and everything else is zero.
    """

    def __init__(self, outer: Array, slope: Array | None, winners: MaxIndices | None = None) -> None:
        self.outer = outer
        self.slope = slope
        self.winners = winners
        self._pooled: Array | None = None
        self._whole: Array | None = None

    @property
    def shared(self) -> bool:
        """The same for all samples."""
        return bool(self.outer.shape[0] == 1) and self.slope is None and self.winners is None

    def one(self, k: int) -> Cotangent:
        """The cotangent of one right-hand side."""
        alone = self.outer.shape[1] == 1
        return self if alone else Cotangent(self.outer[:, k : k + 1, ...], self.slope, self.winners)

    def keep(self, out: Array | None = None) -> Array:
        """Multiply out for all samples once, into `out` if given: :meth:`pooled` then takes it from there."""
        if self.slope is None and out is None:
            self._pooled = self.outer
        elif self.slope is None:
            out[...] = self.outer  # type: ignore[index]
            self._pooled = out
        elif out is None:
            self._pooled = self.outer * self.slope[:, None, ...]
        else:
            self._pooled = multiply(self.outer, self.slope[:, None, ...], out)
        return self._pooled

    def keep_whole(self) -> Array:
        """As :meth:`product` for all samples, kept for what follows."""
        if self._whole is None:
            self._whole = self.product()
        return self._whole

    def pooled(self, part: slice) -> Array:
        """∂z_k/∂s of some samples, at the maxima if there are winners; (n or 1, K, Q, O)."""
        if self._pooled is not None:
            return _some(self._pooled, part)
        outer = _some(self.outer, part)
        return outer if self.slope is None else outer * self.slope[part, ...][:, None, ...]

    def product(self, part: slice = slice(None)) -> Array:
        """∂z_k/∂s of some samples at all positions, (n or 1, K, Q, O)."""
        if self._whole is not None:
            return _some(self._whole, part)
        if self.winners is None:
            return self.pooled(part)
        if self._pooled is None and self.slope is not None:
            return self.winners.unpool(_some(self.outer, part), part, self.slope[part, ...])
        return self.winners.unpool(self.pooled(part), part)


def _some(array: Array, part: slice) -> Array:
    """Some samples of what may be the same for all."""
    return array if array.shape[0] == 1 else array[part, ...]
