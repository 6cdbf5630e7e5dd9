"""Pooling and flattening: they act per channel, so they commute with every split."""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays import Array, Pair, avg_pool, avg_unpool, max_pool, max_unpool, namespace


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

    def backward(self, cot: Array, code: Array | None) -> Array:
        """(N or 1, K, Ho, Wo, C) to (N, K, H, W, C)."""
        if code is not None:
            return max_unpool(cot, code, self.image, self.size, self.stride, self.padding)
        return avg_unpool(cot, self.image, self.size, self.stride, self.padding)


@dataclass(frozen=True)
class Flatten:
    """(N, H, W, C) to (N, C·H·W), channel-major as in PyTorch, so that slices stay on channel boundaries."""

    image: Pair

    def forward(self, z: Array) -> tuple[Array, None]:
        """The flattened slice; no state is kept."""
        n, h, w, c = z.shape
        xp = namespace(z)
        return xp.reshape(xp.permute_dims(z, (0, 3, 1, 2)), (n, c * h * w)), None

    def backward(self, cot: Array, code: None) -> Array:
        """(N or 1, K, C·H·W) to (N or 1, K, H, W, C)."""
        n, k, f = cot.shape
        h, w = self.image
        xp = namespace(cot)
        return xp.permute_dims(xp.reshape(cot, (n, k, f // (h * w), h, w)), (0, 1, 3, 4, 2))
