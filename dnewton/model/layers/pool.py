"""Pooling and flattening: they act per channel, so they commute with every split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dnewton.arrays.image_windows import Pair, avg_pool, avg_unpool, masks, max_gather, max_pool, max_unpool
from dnewton.arrays.namespace import Array, namespace


@dataclass(frozen=True)
class Pool:
    """Maximum (`maximum` true) or average pooling over an image of height and width `image`."""

    maximum: bool
    image: Pair
    size: Pair
    stride: Pair
    padding: Pair

    def forward(self, z: Array) -> tuple[Array, Array | None]:
        """(N, H, W, C) to (N, Ho, Wo, C), and the codes of the maxima for the backward pass."""
        if self.maximum:
            return max_pool(z, self.size, self.stride, self.padding)
        return avg_pool(z, self.size, self.stride, self.padding), None

    def push(self, t: Array, code: Array | None) -> Array:
        """The tangent of :meth:`forward` along t, (N, H, W, C) to (N, Ho, Wo, C)."""
        if code is None:
            return avg_pool(t, self.size, self.stride, self.padding)
        return max_gather(t, code, self.size, self.stride, self.padding)

    def backward(self, cot: Array, code: Array | None) -> Array:
        """(N or 1, K, Ho, Wo, C) to (N, K, H, W, C)."""
        if code is not None:
            return max_unpool(cot, code, self.image, self.size, self.stride, self.padding)
        return avg_unpool(cot, self.image, self.size, self.stride, self.padding)


@dataclass(frozen=True)
class MaxIndices:
    """The places of the maxima of a batch: what is pooled goes to them and comes from them, without the zeros between.

    Only for pooling without padding.
    """

    pool: Pool
    code: Array  # (N, Ho, Wo, C)

    @cached_property
    def _masks(self) -> list[Array]:
        return masks(self.code, math.prod(self.pool.size), namespace(self.code).float32)

    def _masks_of(self, part: slice) -> list[Array]:
        return [mask[part, ...] for mask in self._masks]

    @property
    def mask_bytes(self) -> int:
        """Bytes of the masks that the first use makes."""
        return int(self.code.size) * math.prod(self.pool.size) * 4

    def gather(self, x: Array, part: slice = slice(None)) -> Array:
        """The values at the maxima of some samples: (n, Q, C) to (n, Qp, C)."""
        xp = namespace(x)
        pool = self.pool
        code = self.code[part, ...]
        n, ho, wo, c = code.shape
        image = xp.reshape(x, (n, *pool.image, c))
        found = max_gather(image, code, pool.size, pool.stride, (0, 0), lambda: self._masks_of(part))
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
        out = max_unpool(image, code, pool.image, pool.size, pool.stride, (0, 0), scale, lambda: self._masks_of(part))
        return xp.reshape(out, (n, k, pool.image[0] * pool.image[1], c))


@dataclass(frozen=True)
class Flatten:
    """(N, H, W, C) to (N, C·H·W), channel-major as in PyTorch, so that slices stay on channel boundaries."""

    image: Pair

    def forward(self, z: Array) -> tuple[Array, None]:
        """The flattened slice; no state is kept."""
        n, h, w, c = z.shape
        xp = namespace(z)
        return xp.reshape(xp.permute_dims(z, (0, 3, 1, 2)), (n, c * h * w)), None

    def push(self, t: Array, code: None) -> Array:
        """The tangent of :meth:`forward`, which is linear."""
        return self.forward(t)[0]

    def backward(self, cot: Array, code: None) -> Array:
        """(N or 1, K, C·H·W) to (N or 1, K, H, W, C)."""
        n, k, f = cot.shape
        h, w = self.image
        xp = namespace(cot)
        return xp.permute_dims(xp.reshape(cot, (n, k, f // (h * w), h, w)), (0, 1, 3, 4, 2))
