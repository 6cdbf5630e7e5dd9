"""Convolution (cross-correlation) by patches (Wang, Tan, Lin 2018, section 2), on images and on sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton.arrays.image_windows import Pair, output_size, patches, unpatch, windows
from dnewton.arrays.linear_algebra import transposed_product
from dnewton.arrays.namespace import (
    Array,
    block_bytes,
    copy,
    empty,
    itemsize,
    namespace,
    on_cuda,
    sample_blocks,
    zeros,
)
from dnewton.config.layer_entry import LAYERS, LayerSection, Shape
from dnewton.config.types import Count
from dnewton.grid import KindName
from dnewton.model.layers.activation import ActivationName
from dnewton.model.layers.images import Pad2, Size2, image_of, needs_image, needs_one_number, on_shape, window_shape
from dnewton.model.layers.interface import Parts


@LAYERS.add("conv")
class ConvSection(LayerSection):
    """`conv: {channels, kernel, stride, padding, activation}`; kernel, stride and padding are one number or [height,
    width]. On a sequence [channels, length] they are one number, and weights are [out, in, kernel]."""

    parametric = True
    copies_patches = True
    takes_pooled = True

    channels: Count  # output channels
    kernel: Size2  # numbers across and along a kernel
    stride: Size2 = (1, 1)  # steps between two positions
    padding: Pad2 = (0, 0)  # zeros on each side
    activation: ActivationName = "linear"  # see docs/nets.md
    split: KindName | None = None  # fixes the layer's kind of split; the planner chooses otherwise

    def out_shape(self, shape: Shape, where: str) -> Shape:
        """(channels, height, width) or (channels, length)."""
        needs_image(shape, where)
        needs_one_number({"kernel": self.kernel, "stride": self.stride, "padding": self.padding}, shape, where)
        op = self.operation(shape)
        return window_shape(self.channels, shape, op.kernel, op.stride, op.padding, "kernel", where)

    def kernel_shape(self, shape: Shape) -> Shape:
        """[kh, kw] or [k]."""
        return self.kernel if len(shape) == 3 else self.kernel[1:]

    def operation(self, shape: Shape) -> Conv:
        """The operation on inputs of that shape."""
        kernel, stride = on_shape(self.kernel, shape, 1), on_shape(self.stride, shape, 1)
        return Conv(image_of(shape), kernel, stride, on_shape(self.padding, shape, 0))


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
            out += transposed_product(xp.reshape(cot[part, ...], (m, o)), xp.reshape(p, (m, inputs)))
        return out

    def input_cotangent(self, weight: Array, cot: Parts, samples: int) -> Array:
        """Adjoint of the patches. On a host one matrix product per kernel offset: the patches of the result, kh·kw
        times its size, are never formed, and whole image rows are added at a time."""
        n = 1 if cot.shared else samples
        if on_cuda(weight):
            return self._by_patches(weight, cot, n)
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

    def _by_patches(self, weight: Array, cot: Parts, n: int) -> Array:
        """The same by one matrix product, whose patches one kernel sums: a GPU reads and writes far less so.

        Right-hand sides are taken some at a time, too: of 1,000 outputs the patches of one sample would be gigabytes.
        """
        xp, one = namespace(weight), cot.product(slice(0, min(n, 1)))
        _, k, q, o = one.shape
        inputs = weight.shape[1]
        image = (*self.image, inputs // (self.kernel[0] * self.kernel[1]))
        out = empty((n, k, *image), one)
        numbers = q * inputs + math.prod(image)
        for part in sample_blocks(n, k * (2 * q * o + numbers) * itemsize(one), block_bytes(one)):
            m = (part.stop - part.start) * k
            here, into = xp.reshape(cot.product(part), (m, q, o)), xp.reshape(out[part, ...], (m, *image))  # views
            for some in sample_blocks(m, numbers * itemsize(one), block_bytes(one)):
                count = some.stop - some.start
                product = xp.reshape(xp.reshape(here[some, ...], (count * q, o)) @ weight, (count, q, inputs))
                into[some, ...] = unpatch(product, self.image, self.kernel, self.stride, self.padding)
        return out

    def positions(self, cot: Array) -> Array:
        n, k, h, w, c = cot.shape
        return namespace(cot).reshape(cot, (n, k, h * w, c))
