"""Pooling and flattening: they act per channel, so they commute with every split."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from dnewton.arrays import Array, Pair, avg_pool, avg_unpool, max_gather, max_pool, max_unpool, namespace, windows


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
class Winners:
    """The places of the maxima of a batch: what is pooled goes to them and comes from them, without the zeros between.

    Only for pooling without padding.
    """

    pool: Pool
    code: Array  # (N, Ho, Wo, C)

    @cached_property
    def _masks(self) -> list[Array]:
        xp, (kh, kw) = namespace(self.code), self.pool.size
        return [xp.astype(self.code == k, xp.float32) for k in range(kh * kw)]

    @property
    def mask_bytes(self) -> int:
        """Bytes of the masks that the first use makes."""
        return int(self.code.size) * math.prod(self.pool.size) * 4

    def _image(self, x: Array) -> Array:
        return namespace(x).reshape(x, (x.shape[0], *self.pool.image, x.shape[2]))

    def _views(self, image: Array) -> list[tuple[int, Array]]:
        return windows(image, (self.code.shape[1], self.code.shape[2]), self.pool.size, self.pool.stride)

    def gather(self, x: Array, part: slice = slice(None)) -> Array:
        """The values at the maxima of some samples: (n, Q, C) to (n, Qp, C)."""
        xp = namespace(x)
        n, ho, wo, c = self.code[part].shape
        out = xp.zeros((n, ho, wo, c), dtype=x.dtype)
        for k, view in self._views(self._image(x)):
            out += view * self._masks[k][part]
        return xp.reshape(out, (n, ho * wo, c))

    def scatter(self, e: Array, part: slice = slice(None)) -> Array:
        """The adjoint of :meth:`gather`: (n, Qp, C) to (n, Q, C)."""
        xp = namespace(e)
        n, ho, wo, c = self.code[part].shape
        out = xp.zeros((n, *self.pool.image, c), dtype=e.dtype)
        e = xp.reshape(e, (n, ho, wo, c))
        for k, view in self._views(out):
            view += e * self._masks[k][part]
        h, w = self.pool.image
        return xp.reshape(out, (n, h * w, c))

    def unpool(self, cot: Array, part: slice) -> Array:
        """K cotangents of some samples, (n, K, Qp, C) to (n, K, Q, C)."""
        xp, pool = namespace(cot), self.pool
        _, ho, wo, c = self.code.shape
        k = cot.shape[1]
        image = xp.reshape(cot, (cot.shape[0], k, ho, wo, c))
        out = max_unpool(image, self.code[part], pool.image, pool.size, pool.stride, pool.padding)
        return xp.reshape(out, (out.shape[0], k, pool.image[0] * pool.image[1], c))


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
