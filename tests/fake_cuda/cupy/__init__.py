"""A fake CuPy 14 over host memory: as strict as the device, so that a program can be tested without one.

There are no silent transfers (host arrays are refused, `np.asarray(x)` too), results of kernels may not be read
through their address before a synchronisation, asynchronous copies show garbage until then. See :mod:`cupy._fake`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as _np

from cupy import _core, _names, cuda
from cupy._array import ndarray
from cupy._creation import (
    arange, array, asanyarray, asarray, ascontiguousarray, asfortranarray, asnumpy, astype, copy, empty, empty_like,
    eye, full, full_like, identity, linspace, ones, ones_like, zeros, zeros_like,
)  # fmt: skip
from cupy._kernels import ElementwiseKernel, ReductionKernel

__version__ = "14.2.0"


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
    free = name in _names.CREATING or isinstance(function, _np.ufunc)

    def call(*args: Any, **kwargs: Any) -> Any:
        if name in _names.SYNCHRONISING or (name == "where" and len(args) == 1):
            cuda.stream.blocking_transfer(8)
        if not {"device", "like"}.isdisjoint(kwargs):
            raise TypeError(f"{name}() got an unexpected keyword argument: CuPy has no `device` and no `like`")
        result = _core.apply(name, function, args, kwargs, needs_array=not free)
        return asarray(result) if isinstance(result, bool) else result  # allclose, array_equal: arrays in CuPy

    call.__name__ = name
    return call


def _fill() -> None:
    """Take over NumPy's names: types and constants as they are, functions wrapped."""
    here = globals()
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

from cupy import fft, lib, linalg  # noqa: E402

__all__ = [name for name in globals() if not name.startswith("_") and name not in ("Any", "Callable", "annotations")]
