"""The two parametric layers as matrices: dense, and convolution by patches (Wang, Tan, Lin 2018, section 2).

Both see a sample's input slice as rows φ (Q positions, I inputs) and compute s = φ Wᵀ with W (O, I); a dense layer has
one position. Cotangents carry K right-hand sides: (N or 1, K, Q, O), where a leading 1 stands for all samples.
Arrays between layers are (N, features) or (N, H, W, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dnewton.arrays.image_windows import Pair, output_size, patches, windows
from dnewton.arrays.namespace import Array, block_bytes, copy, empty, itemsize, namespace, sample_blocks, zeros


class Parts(Protocol):
    """A cotangent that is multiplied out for some samples at a time."""

    @property
    def shared(self) -> bool:
        """The same for all samples."""
        ...

    def product(self, part: slice = slice(None)) -> Array:
        """(n or 1, K, Q, O)."""
        ...


class Linear(Protocol):
    """What the network and the Jacobian need of a parametric layer."""

    def rows(self, z: Array) -> Array:
        """φ of the input slice, (N, Q, I)."""
        ...

    def forward(self, weight: Array, z: Array) -> Array:
        """The partial sums s = φ Wᵀ in the layer's output format."""
        ...

    def weight_gradient(self, cot: Array, z: Array) -> Array:
        """Σ over samples and positions of cot ⊗ φ, (O, I), for cot (N, Q, O)."""
        ...

    def input_cotangent(self, weight: Array, cot: Parts, samples: int) -> Array:
        """The partial cotangent of the input slice, (N or 1, K, features) or (N or 1, K, H, W, C).

        `cot.product(part)` gives the layer's cotangent (n, K, Q, O) for some of the samples.
        """
        ...

    def positions(self, cot: Array) -> Array:
        """A cotangent in output format (N, K, ...) as (N, K, Q, O)."""
        ...


@dataclass(frozen=True)
class Dense:
    """A fully connected layer: φ is the input itself, one position."""

    def rows(self, z: Array) -> Array:
        return namespace(z).reshape(z, (z.shape[0], 1, z.shape[1]))

    def forward(self, weight: Array, z: Array) -> Array:
        return z @ weight.T

    def weight_gradient(self, cot: Array, z: Array) -> Array:
        return cot[:, 0, :].T @ z

    def input_cotangent(self, weight: Array, cot: Parts, samples: int) -> Array:
        found = cot.product()
        xp = namespace(found)
        (n, k, _, o) = found.shape
        return xp.reshape(xp.reshape(found, (n * k, o)) @ weight, (n, k, weight.shape[1]))

    def positions(self, cot: Array) -> Array:
        n, k, o = cot.shape
        return namespace(cot).reshape(cot, (n, k, 1, o))


@dataclass(frozen=True)
class Conv:
    """A convolution (cross-correlation) over an input image of height and width `image`; W is (O, kh·kw·C)."""

    image: Pair
    kernel: Pair
    stride: Pair
    padding: Pair

    @property
    def out_image(self) -> Pair:
        """Height and width of the output."""
        return output_size(self.image, self.kernel, self.stride, self.padding)

    def _blocks(self, z: Array) -> list[slice]:
        """Samples whose patches are formed at a time."""
        ho, wo = self.out_image
        return sample_blocks(
            z.shape[0], ho * wo * self.kernel[0] * self.kernel[1] * z.shape[3] * itemsize(z), block_bytes(z)
        )

    def rows(self, z: Array) -> Array:
        return patches(z, self.kernel, self.stride, self.padding)

    def forward(self, weight: Array, z: Array) -> Array:
        xp = namespace(z)
        (ho, wo) = self.out_image
        n = z.shape[0]
        o = weight.shape[0]
        out = empty((n, ho, wo, o), z)
        for part in self._blocks(z):
            p = self.rows(z[part, ...])
            s = xp.reshape(p, (p.shape[0] * ho * wo, p.shape[2])) @ weight.T
            out[part, ...] = xp.reshape(s, (p.shape[0], ho, wo, o))
        return out

    def weight_gradient(self, cot: Array, z: Array) -> Array:
        xp = namespace(z)
        _, q, o = cot.shape
        inputs = self.kernel[0] * self.kernel[1] * z.shape[3]
        out = zeros((o, inputs), z)
        for part in self._blocks(z):
            p = self.rows(z[part, ...])
            m = p.shape[0] * q
            out += xp.reshape(cot[part, ...], (m, o)).T @ xp.reshape(p, (m, inputs))
        return out

    def input_cotangent(self, weight: Array, cot: Parts, samples: int) -> Array:
        """Adjoint of the patches, one matrix product per kernel offset: the patches of the result, kh·kw times its
        size, are never formed, and whole image rows are added at a time."""
        n = 1 if cot.shared else samples
        xp, one = namespace(weight), cot.product(slice(0, min(n, 1)))
        _, k, q, o = one.shape
        (h, w) = self.image
        (kh, kw) = self.kernel
        (ph, pw) = self.padding
        c = weight.shape[1] // (kh * kw)
        by_offset = xp.reshape(weight, (o, kh * kw, c))
        offsets = [copy(by_offset[:, j, :]) for j in range(kh * kw)]
        out = empty((n, k, h, w, c), one)
        for part in sample_blocks(n, k * (3 * q * c + 2 * q * o) * itemsize(one), block_bytes(one)):
            m = (part.stop - part.start) * k
            here = xp.reshape(cot.product(part), (m * q, o))
            padded = zeros((m, h + 2 * ph, w + 2 * pw, c), one)
            for j, view in windows(padded, self.out_image, self.kernel, self.stride):
                view += xp.reshape(here @ offsets[j], (m, *self.out_image, c))
            inner = padded[:, ph : ph + h, pw : pw + w, :]
            out[part, ...] = xp.reshape(inner, (part.stop - part.start, k, h, w, c))
        return out

    def positions(self, cot: Array) -> Array:
        n, k, h, w, c = cot.shape
        return namespace(cot).reshape(cot, (n, k, h * w, c))
