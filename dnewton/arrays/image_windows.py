"""What a window sees as it moves over images: patches and pooling, with their adjoints.

Images are (N, H, W, C): channels last, so that patches are copied in runs of kernel-width x channels and the
matrix product's output is already in the right order. The CUDA form of a function and the plain one are side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from dnewton.arrays import cuda_kernels
from dnewton.arrays.namespace import (
    Array,
    copy,
    empty,
    itemsize,
    kernel,
    namespace,
    on_cuda,
    on_host,
    place,
    sample_blocks,
    sliding_windows,
    zeros,
)

Pair: TypeAlias = tuple[int, int]


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Height and width after a window of `kernel` moves by `stride` over a padded image (floor mode)."""
    h, w = ((size[a] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in (0, 1))
    return h, w


def pad(x: Array, padding: Pair, value: float = 0.0) -> Array:
    """(..., H, W, C) with `padding` rows and columns of `value` on each side; x itself where there are none."""
    ph, pw = padding
    if ph == 0 and pw == 0:
        return x
    *lead, h, w, c = x.shape
    shape = (*lead, h + 2 * ph, w + 2 * pw, c)
    out = namespace(x).full(shape, value, dtype=x.dtype, **place(x))
    out[..., ph : ph + h, pw : pw + w, :] = x
    return out


def patches(x: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
    """im2col: (N, H, W, C) to (N, Ho*Wo, kh*kw*C), the φ of Wang, Tan, Lin 2018 section 2.1.

    On a host those of one channel are the view of an array with the positions last: they are then copied by image
    rows instead of kernel rows, in a fifth of the time, and matrix products take either order.
    """
    xp = namespace(x)
    n, h, w, c = x.shape
    kh, kw = size
    ho, wo = output_size((h, w), size, stride, padding)
    if on_cuda(x):
        out = empty((n, ho * wo, kh * kw * c), x)
        _launch(cuda_kernels.PATCHES, [x], _geometry((h, w, c), (ho, wo), size, stride, padding), out)
        return out
    x = pad(x, padding)
    if c == 1 and on_host(x):
        lines = empty((kh * kw, n, ho, wo), x)
        for k, part in windows(x, (ho, wo), size, stride):
            lines[k, ...] = part[..., 0]
        return xp.permute_dims(xp.reshape(lines, (kh * kw, n, ho * wo)), (1, 2, 0))
    view = sliding_windows(x, (kh, kw))  # (N, H', W', C, kh, kw)
    if view is not None:
        view = xp.permute_dims(view[:, :: stride[0], :: stride[1]], (0, 1, 2, 4, 5, 3))
    else:
        view = xp.stack([part for _, part in windows(x, (ho, wo), size, stride)], axis=3)
    return xp.reshape(view, (n, ho * wo, kh * kw * c))


def unpatch(cot: Array, image: Pair, size: Pair, stride: Pair, padding: Pair) -> Array:
    """Adjoint of :func:`patches`: (N, Ho*Wo, kh*kw*C) to (N, H, W, C)."""
    xp = namespace(cot)
    n, c = cot.shape[0], cot.shape[2] // (size[0] * size[1])
    ho, wo = output_size(image, size, stride, padding)
    if on_cuda(cot):
        out = empty((n, *image, c), cot)
        _launch(cuda_kernels.UNPATCH, [cot], _geometry((*image, c), (ho, wo), size, stride, padding), out)
        return out
    whole = zeros((n, image[0] + 2 * padding[0], image[1] + 2 * padding[1], c), cot)
    by_offset = xp.reshape(cot, (n, ho, wo, size[0] * size[1], c))
    for k, view in windows(whole, (ho, wo), size, stride):
        view += by_offset[:, :, :, k, :]
    return whole[:, padding[0] : padding[0] + image[0], padding[1] : padding[1] + image[1], :]


def windows(x: Array, out: Pair, size: Pair, stride: Pair) -> list[tuple[int, Array]]:
    """Per offset in a window of `size`, its row-major code and the strided view (..., Ho, Wo, C) of a padded image."""
    (ho, wo) = out
    (kh, kw) = size
    (sh, sw) = stride
    return [
        (i * kw + j, x[..., i : i + sh * (ho - 1) + 1 : sh, j : j + sw * (wo - 1) + 1 : sw, :])
        for i in range(kh)
        for j in range(kw)
    ]


def _geometry(image: Sequence[int], out: Sequence[int], size: Pair, stride: Pair, padding: Pair) -> tuple[int, ...]:
    """The integers that the kernels of windows take, for an image (H, W, C) and what it becomes (Ho, Wo, ...)."""
    return (*image, *out[:2], *size, *stride, *padding)


def _launch(source: cuda_kernels.Source, arrays: Sequence[Array], integers: Sequence[int], *outs: Array) -> None:
    """Run a kernel of windows, with places as short as the arrays allow."""
    largest = max(int(a.size) for a in (*arrays, *outs))
    kernel(cuda_kernels.indexed(source, largest))(*arrays, *integers, *outs)


def max_pool(x: Array, size: Pair, stride: Pair, padding: Pair) -> tuple[Array, Array]:
    """Maximum over windows of (N, H, W, C), and the code (row-major offset in the window) of the first maximum.

    NaN is propagated, so that a diverged trial point is seen in the loss.
    """
    xp = namespace(x)
    n, h, w, c = x.shape
    ho, wo = output_size((h, w), size, stride, padding)
    dtype = xp.uint8 if size[0] * size[1] <= 256 else xp.int32
    best, code = empty((n, ho, wo, c), x), empty((n, ho, wo, c), x, dtype)
    if on_cuda(x):
        _launch(cuda_kernels.MAX_POOL, [x], _geometry((h, w, c), (ho, wo), size, stride, padding), best, code)
        return best, code
    for part in _cached(n, h * w * c, x):
        best[part, ...], code[part, ...] = _max_pool(x[part, ...], (ho, wo), size, stride, padding, dtype)
    return best, code


def _max_pool(x: Array, out: Pair, size: Pair, stride: Pair, padding: Pair, dtype: Any) -> tuple[Array, Array]:
    """:func:`max_pool` of some samples on the host."""
    xp = namespace(x)
    views = windows(pad(x, padding, -math.inf), out, size, stride)
    best = copy(views[0][1])
    code = zeros(best.shape, x, dtype)
    for k, view in views[1:]:
        view = copy(view)  # contiguous: read three times
        larger = xp.astype(view > best, dtype)
        code = xp.maximum(code, larger * k)  # codes ascend, so the last strictly larger offset wins
        best = xp.maximum(best, view)
    return best, code


def _cached(n: int, numbers: int, like: Array) -> list[slice]:
    """Samples of `numbers` numbers each that are pooled at a time: what is done to them in turn then finds them in the
    core's own cache, and its temporaries are no fresh memory. Ranks would else share the memory's bandwidth."""
    return sample_blocks(n, numbers * itemsize(like), POOLED_BYTES)


POOLED_BYTES = 1 << 20
Masks = Callable[[slice], Sequence[Array]]  # of some samples, per offset in a window: where the maximum is there


def masks(code: Array, count: int, dtype: Any) -> list[Array]:
    """One per offset in a window: 1 where the maximum is there, else 0."""
    xp = namespace(code)
    return [xp.astype(code == k, dtype) for k in range(count)]


def max_gather(x: Array, code: Array, size: Pair, stride: Pair, padding: Pair, where: Masks | None = None) -> Array:
    """What (N, H, W, C) has at the places that :func:`max_pool` coded, (N, Ho, Wo, C): the adjoint of `max_unpool`.

    `where` gives the masks of `code` where they are kept.
    """
    if on_cuda(x):
        out = empty(code.shape, x)
        geometry = _geometry(x.shape[1:], code.shape[1:], size, stride, padding)
        _launch(cuda_kernels.MAX_GATHER, [x, code], geometry, out)
        return out
    out = zeros(code.shape, x)
    for some in _cached(code.shape[0], math.prod(x.shape[1:]), x):
        here = out[some, ...]
        kept = where(some) if where is not None else masks(code[some, ...], size[0] * size[1], x.dtype)
        for k, view in windows(pad(x[some, ...], padding), (code.shape[1], code.shape[2]), size, stride):
            here += view * kept[k]
    return out


def max_unpool(
    cot: Array,
    code: Array,
    image: Pair,
    size: Pair,
    stride: Pair,
    padding: Pair,
    scale: Array | None = None,
    where: Masks | None = None,
) -> Array:
    """Adjoint of :func:`max_pool`: (N or 1, K, Ho, Wo, C) to (N, K, H, W, C) by the codes (N, Ho, Wo, C).

    `scale` (N, Ho, Wo, C) multiplies what goes to the maxima; `where` gives the masks of `code` where they are kept.
    """
    n = code.shape[0]
    k = cot.shape[1]
    (ho, wo, c) = code.shape[1:]
    if on_cuda(cot):
        out = empty((n, k, *image, c), cot)
        geometry = _geometry((*image, c), (ho, wo), size, stride, padding)
        given = (cot, code) if scale is None else (cot, code, scale)
        source = cuda_kernels.MAX_UNPOOL if scale is None else cuda_kernels.MAX_UNPOOL_SCALED
        _launch(source, given, (k, int(cot.shape[0] == n), *geometry), out)
        return out
    (ph, pw) = padding
    whole = zeros((n, k, image[0] + 2 * ph, image[1] + 2 * pw, c), cot)
    for some in _cached(n, k * math.prod(image) * c, cot):
        kept = where(some) if where is not None else masks(code[some, ...], size[0] * size[1], cot.dtype)
        part = cot if cot.shape[0] != n else cot[some, ...]
        part = part if scale is None else part * scale[some, ...][:, None, ...]
        _unpool_into(whole[some, ...], part, [mask[:, None, ...] for mask in kept], (ho, wo), size, stride)
    return whole[:, :, ph : ph + image[0], pw : pw + image[1], :]


def avg_pool(x: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
    """Mean over windows of (N, H, W, C), padded zeros counted (PyTorch's default)."""
    n, h, w, c = x.shape
    out = output_size((h, w), size, stride, padding)
    if on_cuda(x):
        mean = empty((n, *out, c), x)
        _launch(cuda_kernels.AVG_POOL, [x], _geometry((h, w, c), out, size, stride, padding), mean)
        return mean
    views = windows(pad(x, padding), out, size, stride)
    total = copy(views[0][1])
    for _, view in views[1:]:
        total += view
    total /= len(views)
    return total


def avg_unpool(cot: Array, image: Pair, size: Pair, stride: Pair, padding: Pair) -> Array:
    """Adjoint of :func:`avg_pool`: (N, K, Ho, Wo, C) to (N, K, H, W, C)."""
    n, k, *pooled = cot.shape
    if on_cuda(cot):
        out = empty((n, k, *image, pooled[2]), cot)
        geometry = _geometry((*image, pooled[2]), pooled, size, stride, padding)
        _launch(cuda_kernels.AVG_UNPOOL, [cot], (k, 1, *geometry), out)
        return out
    return _unpool(cot / (size[0] * size[1]), n, image, size, stride, padding)


def _unpool(cot: Array, n: int, image: Pair, size: Pair, stride: Pair, padding: Pair) -> Array:
    """The sum of what each window gives to the places in it."""
    (h, w) = image
    (ph, pw) = padding
    out = zeros((n, cot.shape[1], h + 2 * ph, w + 2 * pw, cot.shape[4]), cot)
    _unpool_into(out, cot, None, (cot.shape[2], cot.shape[3]), size, stride)
    return out[:, :, ph : ph + h, pw : pw + w, :]


def _unpool_into(out: Array, cot: Array, kept: Sequence[Array] | None, pooled: Pair, size: Pair, stride: Pair) -> None:
    overlapping = stride[0] < size[0] or stride[1] < size[1]
    for k, view in windows(out, pooled, size, stride):
        part = cot if kept is None else cot * kept[k]
        if overlapping:
            view += part
        else:
            view[...] = part  # saves reading what was just set to zero
