"""Maximum pooling; it acts per channel, so it commutes with every split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dnewton.arrays.image_windows import Masks, masks, max_gather, max_pool, max_unpool
from dnewton.arrays.namespace import Array, namespace
from dnewton.config.layer_entry import LAYERS, Shape
from dnewton.model.layers.pool import PoolSection, Window


@LAYERS.add("maxpool")
class MaxPoolSection(PoolSection):
    """`maxpool: {size, stride, padding}`."""

    linear = False

    def pooled_window(self) -> int:
        """Only without padding."""
        return math.prod(self.size) if self.padding == (0, 0) else 0

    def operation(self, shape: Shape) -> MaxPool:
        """The operation on inputs of that shape."""
        return MaxPool(*self.window(shape))


@dataclass(frozen=True)
class MaxPool(Window):
    """Maximum over windows; see :class:`~dnewton.model.layers.interface.Transform`. The state is the maxima's codes."""

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        return max_pool(z, self.size, self.stride, self.padding)

    def push(self, t: Array, state: Array | None) -> Array:
        assert state is not None
        return max_gather(t, state, self.size, self.stride, self.padding)

    def backward(self, cot: Array, state: Array | None) -> Array:
        assert state is not None
        return max_unpool(cot, state, self.image, self.size, self.stride, self.padding)


@dataclass(frozen=True)
class MaxIndices:
    """The places of the maxima of a batch: what is pooled goes to them and comes from them, without the zeros between.

    Only for pooling without padding.
    """

    pool: Window
    code: Array  # (N, Ho, Wo, C)
    again: bool = False  # used in many products: the masks are made once, and kept

    @cached_property
    def _masks(self) -> list[Array]:
        return masks(self.code, math.prod(self.pool.size), namespace(self.code).float32)

    def _masks_of(self, part: slice) -> Masks | None:
        """Masks of some of the samples of a slice, where they are kept."""
        if not self.again:
            return None
        return lambda some: [mask[part, ...][some, ...] for mask in self._masks]

    @property
    def mask_bytes(self) -> int:
        """Bytes of the masks that are kept."""
        return int(self.code.size) * math.prod(self.pool.size) * 4

    def gather(self, x: Array, part: slice = slice(None)) -> Array:
        """The values at the maxima of some samples: (n, Q, C) to (n, Qp, C)."""
        xp = namespace(x)
        pool = self.pool
        code = self.code[part, ...]
        n, ho, wo, c = code.shape
        image = xp.reshape(x, (n, *pool.image, c))
        found = max_gather(image, code, pool.size, pool.stride, (0, 0), self._masks_of(part))
        return xp.reshape(found, (n, ho * wo, c))

    def scatter(self, e: Array, part: slice = slice(None)) -> Array:
        """The adjoint of :meth:`gather`: (n, Qp, C) to (n, Q, C)."""
        return self.unpool(e[:, None, ...], part)[:, 0, ...]

    def unpool(self, cot: Array, part: slice, slope: Array | None = None) -> Array:
        """K cotangents of some samples, (n or 1, K, Qp, C) to (n, K, Q, C), times a slope (n, Qp, C) if given."""
        xp, pool = namespace(cot), self.pool
        code = self.code[part, ...]
        n, ho, wo, c = code.shape
        k = cot.shape[1]
        image = xp.reshape(cot, (cot.shape[0], k, ho, wo, c))
        scale = None if slope is None else xp.reshape(slope, code.shape)
        out = max_unpool(image, code, pool.image, pool.size, pool.stride, (0, 0), scale, self._masks_of(part))
        return xp.reshape(out, (n, k, pool.image[0] * pool.image[1], c))
