"""`cupy.ndarray`: a NumPy array that is kept away from the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cupy import _fake
from cupy._core import apply, check_device, is_device, unwrap, wrap
from cupy.cuda import memory, pinned_memory, runtime
from cupy.cuda import stream as _streams  # methods have parameters called `stream`
from cupy.cuda.device import Device

_REFUSED = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)


class _Flags:
    """`x.flags`, which CuPy reduces to three."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous: bool = flags.c_contiguous
        self.f_contiguous: bool = flags.f_contiguous
        self.owndata: bool = flags.owndata

    def __getitem__(self, name: str) -> bool:
        return bool(getattr(self, name.lower()))


class _Pointer:
    """`x.data`: an address, which nobody may use while kernels are in flight."""

    def __init__(self, array: ndarray) -> None:
        self._array = array

    @property
    def ptr(self) -> int:
        return int(self._array.__cuda_array_interface__["data"][0])


def _binary(ufunc: np.ufunc) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def forward(self: ndarray, other: Any) -> Any:
        if not _operand(other):
            return NotImplemented
        return apply(ufunc.__name__, ufunc, (self, other))

    def reflected(self: ndarray, other: Any) -> Any:
        if not _operand(other):
            return NotImplemented
        return apply(ufunc.__name__, ufunc, (other, self))

    return forward, reflected


def _inplace(ufunc: np.ufunc) -> Callable[..., Any]:
    def method(self: ndarray, other: Any) -> Any:
        if not _operand(other):
            return NotImplemented
        return apply(ufunc.__name__, ufunc, (self, other), {"out": self})

    return method


def _operand(other: object) -> bool:
    """Whether arithmetic takes it: device arrays and scalars; host arrays are an error of their own."""
    if isinstance(other, np.ndarray):
        raise TypeError(f"Unsupported type {type(other)}")
    return is_device(other) or isinstance(other, bool | int | float | complex | np.generic)


def _unary(ufunc: np.ufunc) -> Callable[..., Any]:
    return lambda self: apply(ufunc.__name__, ufunc, (self,))


def _reduction(name: str, dtype: bool = False, ddof: bool = False) -> Callable[..., Any]:
    """A method like `x.sum(axis, dtype, out, keepdims)` by NumPy's function of that name."""
    function = getattr(np, name)
    order = ["axis", *(["dtype"] if dtype else []), "out", *(["ddof"] if ddof else []), "keepdims"]

    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(order, args, strict=False)) | kwargs
        if unknown := set(given) - set(order) or len(args) > len(order):
            raise TypeError(f"{name}: wrong arguments {unknown}")
        return apply(name, function, (self,), {k: v for k, v in given.items() if v is not None})

    return method


def _method(name: str) -> Callable[..., Any]:
    """A method that NumPy's arrays have as well."""
    return lambda self, *args, **kwargs: apply(
        name, lambda a, *rest, **named: getattr(a, name)(*rest, **named), (self, *args), kwargs
    )


class ndarray:
    """An array in "device" memory: host memory that is reached by explicit transfers only."""

    __slots__ = ("__weakref__", "_a", "_device")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    _fake_device_array = True
    _a: np.ndarray
    _device: int

    def __init__(self, shape: Any, dtype: Any = float, memptr: None = None, strides: None = None, order: str = "C"):
        if memptr is not None or strides is not None:
            raise NotImplementedError("the fake has no memory pointers")
        self._a, self._device = np.empty(shape, dtype, order), runtime.getDevice()  # type: ignore[call-overload]
        _fake.garbage(self._a)
        memory.pool._own(self._a)

    # What the host knows without asking the device.
    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: _Flags(self._a.flags))
    device = property(lambda self: Device(self._device))
    data = property(lambda self: _Pointer(self))
    T = property(lambda self: wrap(self._a.T, self._device))
    mT = property(lambda self: wrap(self._a.mT, self._device))
    real = property(lambda self: wrap(self._a.real, self._device))
    imag = property(lambda self: wrap(self._a.imag, self._device))

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    # Refusals.
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(_REFUSED)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy calls this for `np.float32(2) * x`, which CuPy allows, and for `host * x` and `np.exp(x)`."""
        scalars = any(isinstance(x, np.generic) for x in inputs)
        if method != "__call__" or not scalars or kwargs or not all(_operand(x) for x in inputs):
            raise TypeError(f"np.{ufunc.__name__} on a cupy.ndarray. {_REFUSED}")
        return apply(ufunc.__name__, ufunc, inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"np.{getattr(function, '__name__', function)} on a cupy.ndarray. {_REFUSED}")

    def __reduce__(self) -> Any:
        raise TypeError("pickling a cupy.ndarray would copy it to the host")

    # Transfers.
    def get(
        self,
        stream: _streams.Stream | None = None,
        order: str = "C",
        out: np.ndarray | None = None,
        blocking: bool = True,
    ) -> np.ndarray:
        """A copy on the host; without `blocking` there is garbage in it until the next synchronisation."""
        where = stream or _streams.get_current_stream()
        if out is None:
            out = np.empty(self.shape, self.dtype, order if order != "A" else "K")  # type: ignore[call-overload]
        elif not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        elif out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        elif out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        elif not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("Cannot get to non-contiguous array")
        if blocking:
            _streams.blocking_transfer(self.nbytes, where)
            np.copyto(out, self._a)
            return out
        target, snapshot = out, self._a.copy()
        _fake.to_host(self.nbytes)
        line = where._line(self._device)
        line.check_sources()  # copies from `out` to the device that are before this one on the stream
        _fake.garbage(out)
        line.issue("copy to host", lambda: np.copyto(target, snapshot))
        return out

    def set(self, arr: np.ndarray, stream: _streams.Stream | None = None) -> None:
        """Copy from the host; pinned memory must then be left alone until the next synchronisation."""
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._a.flags.c_contiguous or self._a.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        copy_in(self, arr, stream)

    def item(self) -> Any:
        _streams.blocking_transfer(self.nbytes)
        return self._a.item()

    def tolist(self) -> Any:
        _streams.blocking_transfer(self.nbytes)
        return self._a.tolist()

    def tobytes(self, order: str = "C") -> bytes:
        _streams.blocking_transfer(self.nbytes)
        return self._a.tobytes(order)  # type: ignore[arg-type]

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError("The truth value of an array with more than one element is ambiguous.")
        return bool(self.item())

    def __repr__(self) -> str:
        _streams.blocking_transfer(self.nbytes)
        return repr(self._a)

    __str__ = __repr__

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The address as MPI reads it: only once the host knows that all kernels are done."""
        _streams.require_synchronised(self._device, f"a {self.dtype} array of shape {self.shape}")
        a = self._a
        return {
            "shape": a.shape,
            "typestr": a.dtype.str,
            "descr": [("", a.dtype.str)],
            "version": 3,
            "stream": None,
            "data": (a.__array_interface__["data"][0] if a.size else 0, False),
            "strides": None if a.flags.c_contiguous else a.strides,
        }

    # Elements.
    def __getitem__(self, key: Any) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        if all(_basic(k) for k in parts):
            whole = parts if any(k is Ellipsis for k in parts) else (*parts, ...)
            return wrap(self._a[whole], self._device)  # a view, of no dimensions too
        _check_key(parts)
        return apply("getitem", lambda a, k: a[k] if isinstance(key, tuple) else a[k[0]], (self, tuple(parts)))

    def __setitem__(self, key: Any, value: Any) -> None:
        if not _operand(value):
            raise TypeError(f"Unsupported type {type(value)}")
        parts = key if isinstance(key, tuple) else (key,)
        _check_key(parts)
        seen: list[ndarray] = [self]
        host_key = unwrap(tuple(parts), seen)
        host_value = unwrap(value, seen)
        check_device(seen)
        with np.errstate(all="ignore"):
            self._a[host_key if isinstance(key, tuple) else host_key[0]] = host_value
        _streams.launch("setitem")

    # Shapes, copies, reductions.
    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> ndarray:
        made: ndarray = apply("reshape", lambda a, *s: a.reshape(*s, order=order), (self, *shape))
        return made.copy() if copy else made

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        return apply("astype", lambda a: a.astype(dtype, order=order, copy=copy), (self,))  # type: ignore[no-any-return]

    def copy(self, order: str = "C") -> ndarray:
        return apply("copy", lambda a: a.copy(order), (self,))  # type: ignore[no-any-return]

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:
        return wrap(self._a.view() if dtype is None else self._a.view(dtype), self._device)

    def nonzero(self) -> tuple[ndarray, ...]:
        """The size of the result comes to the host."""
        _streams.blocking_transfer(8)
        return apply("nonzero", np.nonzero, (self,))  # type: ignore[no-any-return]

    def fill(self, value: Any) -> None:
        self[...] = value

    def scatter_add(self, slices: Any, value: Any) -> None:
        """As `np.add.at`; CuPy's atomicAdd also wraps indices that are out of range, here they are an error."""
        apply("scatter_add", lambda a, s, v: np.add.at(a, s, v), (self, slices, value))


def _basic(key: Any) -> bool:
    is_int = isinstance(key, int | np.integer) and not isinstance(key, bool)
    return key is None or key is Ellipsis or isinstance(key, slice) or is_int


def _check_key(parts: Any) -> None:
    """Refuse host arrays, and count what CuPy does with lists (copied in) and masks (their size copied out)."""
    for part in parts:
        if isinstance(part, np.ndarray):
            raise TypeError(f"Unsupported type {type(part)} as an index")
        if isinstance(part, list):
            _fake.to_device(8 * len(part))
        elif is_device(part) and part.dtype == np.bool_:
            _streams.blocking_transfer(8)


def copy_in(device: ndarray, host: np.ndarray, where: Any = None) -> None:
    """Host to device on a stream. CuPy stages memory that is not pinned, so only pinned memory can be spoilt."""
    check = None
    if pinned_memory.is_memory_pinned(host):
        snapshot = host.copy()

        def check() -> None:
            if host.tobytes() != snapshot.tobytes():
                raise _fake.Overwritten(f"a pinned {host.dtype} buffer of shape {host.shape} changed before its copy")

    _fake.to_device(host.nbytes)
    np.copyto(device._a, host)
    (where or _streams.get_current_stream())._line(device._device).issue(_streams.TO_DEVICE, check)


_BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
}
for _name, _ufunc in _BINARY.items():
    _forward, _reflected = _binary(_ufunc)
    setattr(ndarray, f"__{_name}__", _forward)
    setattr(ndarray, f"__r{_name}__", _reflected)
    setattr(ndarray, f"__i{_name}__", _inplace(_ufunc))
ndarray.__matmul__, ndarray.__rmatmul__ = _binary(np.matmul)  # type: ignore[attr-defined]
for _name, _ufunc in {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}.items():
    setattr(ndarray, f"__{_name}__", _binary(_ufunc)[0])
for _name, _ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", _unary(_ufunc))
for _name in ("sum", "mean", "prod"):
    setattr(ndarray, _name, _reduction(_name, dtype=True))
for _name in ("std", "var"):
    setattr(ndarray, _name, _reduction(_name, dtype=True, ddof=True))
for _name in ("max", "min", "any", "all", "argmax", "argmin"):
    setattr(ndarray, _name, _reduction(_name))
for _name in (
    "transpose",
    "ravel",
    "flatten",
    "squeeze",
    "swapaxes",
    "take",
    "clip",
    "conj",
    "cumsum",
    "diagonal",
    "dot",
    "round",
    "trace",
    "repeat",
    "sort",
    "argsort",
):
    setattr(ndarray, _name, _method(_name))
