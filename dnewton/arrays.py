"""The array namespace and the few operations that the array standard lacks.

Images are (N, H, W, C): channels last, so that patches are copied in runs of kernel-width x channels and the
matrix product's output is already in the right order. Code elsewhere asks an array for its namespace and never
names NumPy; this is the only module that may import CuPy.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace

Array: TypeAlias = Any
Pair: TypeAlias = tuple[int, int]

_DOT_BLOCK = 1 << 16
_CACHE_BYTES = 4 << 20


_NAMESPACES: dict[type, Any] = {}  # looking a namespace up anew costs as much as a small operation


def namespace(array: Array) -> Any:
    """The array namespace (NumPy, CuPy, ...) that an array belongs to."""
    found = _NAMESPACES.get(type(array))
    if found is None:
        found = _NAMESPACES[type(array)] = array_namespace(array)
    return found


def dot(x: Array, y: Array) -> float:
    """Inner product of two vectors, accumulated in float64 whatever their dtype."""
    xp = namespace(x)
    if x.dtype == xp.float64:
        return float(xp.vecdot(x, y))
    total = 0.0
    for i in range(0, x.shape[0], _DOT_BLOCK):  # blocks keep the float64 copies in cache
        part = slice(i, i + _DOT_BLOCK)
        total += float(xp.vecdot(xp.astype(x[part], xp.float64), xp.astype(y[part], xp.float64)))
    return total


def symmetric_solve(matrix: Array, right: Array) -> Array | None:
    """matrix⁻¹ right for a symmetric positive definite matrix; None when it is singular.

    LAPACK as the array library brings it: SciPy would bring a second BLAS with threads of its own.
    """
    xp = namespace(matrix)
    try:
        return xp.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return None


def inverse(matrix: Array, shift: float) -> Array | None:
    """(matrix + shift I)⁻¹ of a symmetric positive semi-definite matrix; None when it is singular."""
    xp, n = namespace(matrix), matrix.shape[0]
    shifted = xp.asarray(matrix, copy=True)
    shifted[xp.arange(n), xp.arange(n)] += shift
    try:
        return xp.linalg.inv(shifted)
    except np.linalg.LinAlgError:
        return None


def sample_blocks(n: int, bytes_per_sample: int, limit: int = _CACHE_BYTES) -> list[slice]:
    """Slices over `n` samples whose temporaries stay within `limit` bytes each (at least one sample)."""
    step = max(1, limit // max(1, bytes_per_sample))
    return [slice(i, min(n, i + step)) for i in range(0, n, step)]


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Height and width after a window of `kernel` moves by `stride` over a padded image (floor mode)."""
    h, w = ((size[a] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in (0, 1))
    return h, w


def pad(x: Array, padding: Pair, value: float = 0.0) -> Array:
    """(..., H, W, C) with `padding` rows and columns of `value` on each side; x itself where there are none."""
    ph, pw = padding
    if ph == 0 and pw == 0:
        return x
    xp = namespace(x)
    *lead, h, w, c = x.shape
    out = xp.full((*lead, h + 2 * ph, w + 2 * pw, c), value, dtype=x.dtype)
    out[..., ph : ph + h, pw : pw + w, :] = x
    return out


def patches(x: Array, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """im2col: (N, H, W, C) to (N, Ho*Wo, kh*kw*C), the φ of Wang, Tan, Lin 2018 section 2.1."""
    xp = namespace(x)
    n, h, w, c = x.shape
    kh, kw = kernel
    ho, wo = output_size((h, w), kernel, stride, padding)
    x = pad(x, padding)
    view = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))  # (N, H', W', C, kh, kw)
    view = view[:, :: stride[0], :: stride[1]]
    return xp.reshape(xp.permute_dims(view, (0, 1, 2, 4, 5, 3)), (n, ho * wo, kh * kw * c))


def windows(x: Array, out: Pair, size: Pair, stride: Pair) -> list[tuple[int, Array]]:
    """Per offset in a window of `size`, its row-major code and the strided view (..., Ho, Wo, C) of a padded image."""
    (ho, wo), (kh, kw), (sh, sw) = out, size, stride
    return [
        (i * kw + j, x[..., i : i + sh * (ho - 1) + 1 : sh, j : j + sw * (wo - 1) + 1 : sw, :])
        for i in range(kh)
        for j in range(kw)
    ]


def max_pool(x: Array, size: Pair, stride: Pair, padding: Pair) -> tuple[Array, Array]:
    """Maximum over windows of (N, H, W, C), and the code (row-major offset in the window) of the first maximum.

    NaN is propagated, so that a diverged trial point is seen in the loss.
    """
    xp = namespace(x)
    out = output_size((x.shape[1], x.shape[2]), size, stride, padding)
    views = windows(pad(x, padding, -math.inf), out, size, stride)
    best = xp.asarray(views[0][1], copy=True)
    small = xp.uint8 if len(views) <= 256 else xp.int32
    code = xp.zeros(best.shape, dtype=small)
    for k, view in views[1:]:
        view = xp.asarray(view, copy=True)  # contiguous: read three times
        larger = xp.astype(view > best, small)
        code = xp.maximum(code, larger * small(k))  # codes ascend, so the last strictly larger offset wins
        best = xp.maximum(best, view)
    return best, code


def max_gather(x: Array, code: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
    """What (N, H, W, C) has at the places that :func:`max_pool` coded, (N, Ho, Wo, C): the adjoint of `max_unpool`."""
    xp = namespace(x)
    out = xp.zeros(code.shape, dtype=x.dtype)
    for k, view in windows(pad(x, padding), (code.shape[1], code.shape[2]), size, stride):
        out += view * xp.astype(code == k, x.dtype)
    return out


def max_unpool(cot: Array, code: Array, image: Pair, size: Pair, stride: Pair, padding: Pair) -> Array:
    """Adjoint of :func:`max_pool`: (N, K, Ho, Wo, C) to (N, K, H, W, C) by the codes (N, Ho, Wo, C)."""
    return _unpool(cot, code, image, size, stride, padding)


def avg_pool(x: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
    """Mean over windows of (N, H, W, C), padded zeros counted (PyTorch's default)."""
    out = output_size((x.shape[1], x.shape[2]), size, stride, padding)
    views = windows(pad(x, padding), out, size, stride)
    total = namespace(x).asarray(views[0][1], copy=True)
    for _, view in views[1:]:
        total += view
    total /= len(views)
    return total


def avg_unpool(cot: Array, image: Pair, size: Pair, stride: Pair, padding: Pair) -> Array:
    """Adjoint of :func:`avg_pool`: (N, K, Ho, Wo, C) to (N, K, H, W, C)."""
    return _unpool(cot / (size[0] * size[1]), None, image, size, stride, padding)


def _unpool(cot: Array, code: Array | None, image: Pair, size: Pair, stride: Pair, padding: Pair) -> Array:
    xp = namespace(cot)
    (h, w), (ph, pw) = image, padding
    n, k = cot.shape[:2] if code is None else (code.shape[0], cot.shape[1])  # one cotangent may serve all samples
    out = xp.zeros((n, k, h + 2 * ph, w + 2 * pw, cot.shape[4]), dtype=cot.dtype)
    overlapping = stride[0] < size[0] or stride[1] < size[1]
    for offset, view in windows(out, (cot.shape[2], cot.shape[3]), size, stride):
        part = cot if code is None else cot * xp.astype(code == offset, cot.dtype)[:, None]
        if overlapping:
            view += part
        else:
            view[...] = part  # saves reading what was just set to zero
    return out[:, :, ph : ph + h, pw : pw + w, :]
