"""From device arrays to the NumPy arrays under them and back; every operation goes through :func:`apply`.

What comes back shares memory with an argument (a view: no kernel) or is new (a kernel, and memory of the pool).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from cupy.cuda import memory, runtime, stream

if TYPE_CHECKING:
    from cupy._array import ndarray


def is_device(value: object) -> bool:
    return hasattr(type(value), "_fake_device_array")


def unwrap(value: Any, seen: list[ndarray]) -> Any:
    """The NumPy arrays under device arrays, in nested lists and tuples too; host arrays are refused."""
    if is_device(value):
        seen.append(value)
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if type(value) in (list, tuple):
        return type(value)([unwrap(v, seen) for v in value])
    return value


def wrap(array: np.ndarray, device: int | None = None) -> ndarray:
    """A device array over memory that is its own or another device array's."""
    from cupy._array import ndarray

    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16:
        raise ValueError(f"Unsupported dtype {array.dtype}")
    made = object.__new__(ndarray)
    made._a = array
    made._device = runtime.getDevice() if device is None else device
    memory.pool._own(array)
    return made


def check_device(arrays: list[ndarray]) -> None:
    """All arrays live on the current device (CuPy allows others where peer access exists, slowly)."""
    for array in arrays:
        if array._device != (current := runtime.getDevice()):
            raise ValueError(
                "Array device must be same as the current device: "
                f"array device = {array._device} while current = {current}"
            )


def rewrap(result: Any, seen: list[ndarray]) -> tuple[Any, bool]:
    """Device arrays for what NumPy gave, and whether any of it is new."""
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if isinstance(result, np.ndarray):
        for array in seen:
            if array._a is result:
                return array, False
            if result.size and np.may_share_memory(array._a, result):
                return wrap(result, array._device), False
        return wrap(result), True
    if isinstance(result, tuple | list):
        parts = [rewrap(r, seen) for r in result]
        values = [value for value, _ in parts]
        new = any(n for _, n in parts)
        return (type(result)(*values) if hasattr(result, "_fields") else type(result)(values)), new
    return result, False


def in_order(operands: list[Any]) -> list[np.ndarray]:
    """The copies that CuPy makes of a batched product's operands which are not in C order, in the pool's memory."""
    if max(x.ndim for x in operands) <= 2:
        return []
    copies = [np.ascontiguousarray(x) for x in operands if not x.flags.c_contiguous]
    for copy in copies:
        memory.pool._own(copy)
    return copies


def apply(name: str, function: Callable[..., Any], args: Any, kwargs: Any = None, needs_array: bool = True) -> Any:
    """Run a NumPy function on device arrays."""
    seen: list[ndarray] = []
    host_args = [unwrap(a, seen) for a in args]
    host_kwargs = {key: unwrap(value, seen) for key, value in (kwargs or {}).items()}
    if needs_array and not seen:
        raise TypeError(f"{name}: Unsupported type {type(args[0]) if args else None}: no argument is a cupy.ndarray")
    check_device(seen)
    copies = in_order(host_args) if name == "matmul" else []
    with np.errstate(all="ignore"):
        result = function(*host_args, **host_kwargs)
    del copies
    wrapped, new = rewrap(result, seen)
    if new or result is None or host_kwargs.get("out") is not None:
        stream.launch(name)
    return wrapped
