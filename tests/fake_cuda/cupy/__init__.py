"""A fake CuPy 14 over host memory: as strict as the device, so that a program can be tested without one.

There are no silent transfers (host arrays are refused, `np.asarray(x)` too), results of kernels may not be read
through their address before a synchronisation, asynchronous copies show garbage until then. See :mod:`cupy._fake`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as _np

from cupy import _core, _creation, _names, cuda
from cupy._array import ndarray
from cupy._kernels import ElementwiseKernel as ElementwiseKernel
from cupy._kernels import ReductionKernel as ReductionKernel

__version__ = "14.2.0"
_HELPERS = ("Any", "Callable", "annotations")


def get_default_memory_pool() -> cuda.MemoryPool:
    return cuda.memory.pool


def get_default_pinned_memory_pool() -> cuda.PinnedMemoryPool:
    return cuda.pinned_memory.pool


def get_array_module(*args: Any) -> Any:
    import cupy

    return cupy if any(isinstance(a, ndarray) for a in args) else _np


def is_available() -> bool:
    return cuda.is_available()


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        seen: list[ndarray] = []
        return function(*(_core.unwrap(a, seen) for a in args), **kwargs)

    return call


def _on_device(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    without = {"device", "like"} | _names.WITHOUT.get(name, set())
    if isinstance(function, _np.ufunc) and name != "matmul":
        without |= _names.UFUNC_WITHOUT
    free = name in _names.CREATING or isinstance(function, _np.ufunc)

    def call(*args: Any, **kwargs: Any) -> Any:
        if name in _names.SYNCHRONISING or (name == "where" and len(args) == 1):
            cuda.stream.blocking_transfer(8)
        if unknown := without & set(kwargs):
            raise TypeError(f"{name}() got an unexpected keyword argument {unknown}: NumPy has it, CuPy has not")
        result = _core.apply(name, function, args, kwargs, needs_array=not free)
        if isinstance(result, bool):  # allclose, array_equal: arrays in CuPy
            return _core.wrap(_np.asarray(result))
        return result

    call.__name__ = name
    return call


def _fill() -> None:
    """Functions that make arrays; then NumPy's names: types and constants as they are, functions wrapped."""
    here = globals()
    for name in _creation.__all__:
        here[name] = getattr(_creation, name)
    for name in dir(_np):
        if name.startswith("_") or name in _names.LACKING or name in _names.OMITTED or name in here:
            continue
        value = getattr(_np, name)
        if name in _names.HOST:
            here[name] = _on_host(value)
        elif not callable(value) or isinstance(value, type):
            here[name] = value
        else:
            here[name] = _on_device(name, value)


_fill()
float_, complex_ = _np.float64, _np.complex128

from cupy import fft as fft  # noqa: E402
from cupy import lib as lib  # noqa: E402
from cupy import linalg as linalg  # noqa: E402

__all__ = [name for name in globals() if not name.startswith("_") and name not in _HELPERS]
