"""Functions that make arrays, with CuPy's signatures (no `device=`, no `like=`), and the way to the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy import _fake
from cupy._array import copy_in, ndarray
from cupy._core import apply, is_device, wrap
from cupy.cuda import pinned_memory, stream

__all__ = [
    "arange",
    "array",
    "asanyarray",
    "asarray",
    "ascontiguousarray",
    "asfortranarray",
    "asnumpy",
    "astype",
    "copy",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "identity",
    "linspace",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool | None = True,
    order: str = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    """From a device array (`copy`: True always, None if needed, False never) or anything on the host."""
    if isinstance(obj, ndarray):
        same = (dtype is None or obj.dtype == dtype) and obj.ndim >= ndmin and _in_order(obj, order)
        if same and not copy:
            return obj
        if copy is False:
            raise ValueError("Unable to avoid copy while creating an array as requested.")
        return apply("copy", lambda a: np.array(a, dtype, order=order, ndmin=ndmin), (obj,))  # type: ignore[no-any-return]
    if copy is False:
        raise ValueError("Unable to avoid copy while creating an array as requested.")
    if isinstance(obj, list | tuple) and _holds_device(obj):
        stacked: ndarray = apply("array", lambda parts: np.array(parts, dtype, order=order, ndmin=ndmin), (obj,))
        return stacked
    host = np.array(obj, dtype, copy=None, order="C" if order in "KA" else order, ndmin=ndmin)
    if not isinstance(obj, np.ndarray) or not np.may_share_memory(host, obj):
        host = host.copy()
    elif not pinned_memory.is_memory_pinned(obj) and isinstance(host, pinned_memory.PinnedArray):
        host = np.asarray(host)
    made = wrap(np.empty(host.shape, host.dtype, "F" if _only_f(host) else "C"))
    copy_in(made, host)
    if blocking:
        stream.get_current_stream()._complete()
    return made


def _only_f(host: np.ndarray) -> bool:
    return bool(host.flags.f_contiguous and not host.flags.c_contiguous)


def _in_order(array: ndarray, order: str | None) -> bool:
    if order == "C":
        return bool(array.flags.c_contiguous)
    return order != "F" or bool(array.flags.f_contiguous)


def _holds_device(obj: Any) -> bool:
    return any(is_device(x) or (isinstance(x, list | tuple) and _holds_device(x)) for x in obj)


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    return array(a, dtype, copy, order or "K", blocking=blocking)


def asanyarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    return array(a, dtype, copy, order or "K", blocking=blocking)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, None, "C", ndmin=1)


def asfortranarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, None, "F", ndmin=1)


def copy(a: Any, order: str = "K") -> ndarray:
    return array(a, order=order)


def astype(x: ndarray, dtype: Any, /, *, copy: bool = True) -> ndarray:
    return x.astype(dtype, copy=copy)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Garbage: NaN or bytes 0x7f. No kernel."""
    return ndarray(shape, float if dtype is None else dtype, order=order)


def _made(name: str, host: np.ndarray) -> ndarray:
    stream.launch(name)
    return wrap(host)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _made("zeros", np.zeros(shape, dtype, order))  # type: ignore[call-overload]


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _made("ones", np.ones(shape, dtype, order))  # type: ignore[call-overload]


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    return apply(  # type: ignore[no-any-return]
        "full", lambda value: np.full(shape, value, dtype, order), (fill_value,), needs_array=False
    )


def _like(a: Any, dtype: Any, order: str, shape: Any) -> np.ndarray:
    if not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")
    return np.empty_like(a._a, dtype, order, shape=shape)  # type: ignore[call-overload, no-any-return]


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    host = _like(prototype, dtype, order, shape)
    _fake.garbage(host)
    return wrap(host)


def zeros_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return full_like(a, 0, dtype, order, subok, shape)


def ones_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    return full_like(a, 1, dtype, order, subok, shape)


def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None
) -> ndarray:
    made = empty_like(a, dtype, order, subok, shape)
    made[...] = fill_value
    return made


def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = float, order: str = "C") -> ndarray:
    return _made("eye", np.eye(N, M, k, float if dtype is None else dtype, order))  # type: ignore[call-overload]


def identity(n: int, dtype: Any = float) -> ndarray:
    return eye(n, dtype=dtype)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> ndarray:
    return _made("arange", np.arange(start, dtype=dtype) if stop is None else np.arange(start, stop, step, dtype))


def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False, dtype: Any = None, axis: int = 0
) -> Any:
    return apply("linspace", np.linspace, (start, stop, num, endpoint, retstep, dtype, axis), needs_array=False)


def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: np.ndarray | None = None, *, blocking: bool = True
) -> np.ndarray:
    if isinstance(a, ndarray):
        return a.get(stream=stream, order=order, out=out, blocking=blocking)
    host = np.asarray(a, order=order)  # type: ignore[call-overload]
    if out is None:
        return host  # type: ignore[no-any-return]
    out[...] = host
    return out
