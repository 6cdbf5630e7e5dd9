"""The array namespace and the few operations that the array standard lacks.

Code elsewhere asks an array for its namespace and never names NumPy; this is the only module that may import CuPy. What
the standard has no word for is one function here (or in :mod:`dnewton.arrays.image_windows`, for images), with the
CUDA form and the plain one side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any, TypeAlias

import numpy as np

from dnewton.arrays import cuda_kernels
from dnewton.grid import runs

Array: TypeAlias = Any

_DOT_BLOCK = 1 << 16
_DOT_LANES = 1 << 18  # partial sums of a GPU's inner product: enough threads for its whole bandwidth
_CACHE_BYTES = 4 << 20
DEVICE_BLOCK = 64 << 20  # bytes of temporaries at a time on a GPU: there is no cache to stay in, only launches to save
DEVICE_SLACK = 2.0 * DEVICE_BLOCK + (128 << 20)  # bytes of these, and of what a GPU's libraries take

# Looking a namespace up again costs as much as a small operation. NumPy from 2.1 on has all of the standard itself: the
# package for older versions would load all that NumPy has.
_NAMESPACES: dict[type, Any] = {np.ndarray: np} if hasattr(np, "cumulative_sum") else {}
_ON_CUDA: dict[type, bool] = {np.ndarray: False}


def namespace(array: Array) -> Any:
    """The array namespace (NumPy, CuPy, ...) that an array belongs to."""
    found = _NAMESPACES.get(type(array))
    if found is None:
        from array_api_compat import array_namespace

        found = _NAMESPACES[type(array)] = array_namespace(array)
    return found


def on_host(array: Array) -> bool:
    """Whether it is a NumPy array."""
    return isinstance(array, np.ndarray)


def on_cuda(array: Array) -> bool:
    """Whether it is a CuPy array."""
    found = _ON_CUDA.get(type(array))
    if found is None:
        from array_api_compat import is_cupy_array

        found = _ON_CUDA[type(array)] = is_cupy_array(array)
    return found


# --- making and moving ------------------------------------------------------------------------------------------------


def place(like: Array) -> dict[str, Any]:
    """Where `like` is, as keywords of the standard's functions that make arrays (a process uses one GPU)."""
    return {} if isinstance(like, np.ndarray) or on_cuda(like) else {"device": like.device}


def _dtype(like: Array, dtype: Any) -> Any:
    return like.dtype if dtype is None else getattr(namespace(like), dtype) if isinstance(dtype, str) else dtype


def zeros(shape: int | Sequence[int], like: Array, dtype: Any = None) -> Array:
    """Zeros where `like` is, of its dtype or another (or its name)."""
    return namespace(like).zeros(shape, dtype=_dtype(like, dtype), **place(like))


def empty(shape: int | Sequence[int], like: Array, dtype: Any = None) -> Array:
    """As :func:`zeros`, with any content."""
    return namespace(like).empty(shape, dtype=_dtype(like, dtype), **place(like))


def ones(shape: int | Sequence[int], like: Array) -> Array:
    """Ones where `like` is."""
    return namespace(like).ones(shape, dtype=like.dtype, **place(like))


def identity(n: int, like: Array) -> Array:
    """The n x n identity matrix where `like` is."""
    return namespace(like).eye(n, dtype=like.dtype, **place(like))


def copy(array: Array) -> Array:
    """A copy in C order."""
    if on_host(array) or on_cuda(array):
        return array.copy()
    out = empty(array.shape, array)
    out[...] = array
    return out


def contiguous(array: Array) -> Array:
    """The array in C order; itself where it is."""
    if on_host(array):
        return np.ascontiguousarray(array)
    return cuda().ascontiguousarray(array) if on_cuda(array) else copy(array)


def dtype_name(array: Array) -> str:
    """float32, float64, ..."""
    return str(array.dtype).rpartition(".")[2]


def itemsize(array: Array) -> int:
    """Bytes of a number."""
    return array.itemsize if on_host(array) else int(np.dtype(dtype_name(array)).itemsize)


def epsilon(array: Array) -> float:
    """The relative rounding of the array's numbers: the distance from 1 to the next one."""
    return float(np.finfo(dtype_name(array)).eps)


def nbytes(*arrays: Array | None) -> int:
    """Bytes of the numbers of some arrays."""
    return sum(int(a.nbytes) if on_host(a) else int(a.size) * itemsize(a) for a in arrays if a is not None)


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """The numbers as a NumPy array; the array itself where it is one."""
    if isinstance(array, np.ndarray):
        return array
    if on_cuda(array):
        return np.asarray(array.get())
    return np.asarray(array.to_device(namespace(array).Device("CPU_DEVICE")))


def to_device(values: Array, like: Array) -> Array:
    """Numbers of the host where `like` is; what is there already as it is."""
    if type(values) is type(like):
        return values
    if isinstance(like, np.ndarray):
        return to_host(values)
    xp = namespace(like)
    # a view would keep the device from seeing its own memory; CuPy copies in any case
    return xp.asarray(np.ascontiguousarray(values)) if on_cuda(like) else xp.asarray(values, copy=True, **place(like))


def refilled(array: Array, values: np.ndarray[Any, Any]) -> Array:
    """An array of a device with other numbers; a new one where it is not contiguous. The copy may still be under way:
    `values` must stay as they are until the next synchronisation, if they are pinned."""
    if on_cuda(array) and array.flags.c_contiguous:
        array.set(values, stream=cuda().cuda.get_current_stream())
        return array
    return to_device(values, array)


def host(values: Sequence[float]) -> np.ndarray[Any, Any]:
    """A few numbers as a float64 array of the host: small systems are solved there."""
    return np.array(values, dtype=np.float64)


def normal(seed: int, deviation: float, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Normal numbers of the host, by the seed alone."""
    return np.random.Generator(np.random.Philox(seed)).normal(0.0, deviation, size=shape)


def take(array: Array, indices: np.ndarray[Any, Any]) -> Array:
    """Rows by their numbers, which are the host's; a view where they are one ascending run."""
    if len(indices) and np.array_equal(indices, np.arange(indices[0], indices[0] + len(indices))):
        return array[int(indices[0]) : int(indices[-1]) + 1, ...]
    xp = namespace(array)
    places = indices if on_host(array) else xp.asarray(indices, **place(array))
    return xp.take(array, places, axis=0)


def load_lapack() -> None:
    """Load what factorisations on the host are done with: a limit of threads holds for libraries that are there."""
    for package in ("blas", "lapack"):
        routines(package)


@cache
def routines(package: str) -> Any:
    """SciPy's functions over BLAS ("blas") or LAPACK ("lapack"), by their Fortran names.

    The extension module alone: the package around it takes as long to import as NumPy. Raises ImportError.
    """
    name = f"scipy.linalg._f{package}"
    try:
        around = find_spec("scipy.linalg")
        spec = PathFinder.find_spec(name, None if around is None else around.submodule_search_locations)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except (ImportError, AssertionError):  # laid out in another way
        from scipy.linalg import blas, lapack

        return blas if package == "blas" else lapack


# --- one GPU ----------------------------------------------------------------------------------------------------------


@cache
def cuda() -> Any:
    """The CuPy package. Raises ImportError."""
    import cupy

    return cupy


def open_cuda(place: int) -> tuple[Array, str, int, str]:
    """Take the GPU of a place among the node's ranks: an empty array on it, its name, its number, its identity.

    Raises ImportError without CuPy or where it does not work, and RuntimeError without a GPU.
    """
    cupy = cuda()
    runtime = cupy.cuda.runtime
    number = place % int(runtime.getDeviceCount())
    cupy.cuda.Device(number).use()
    about = runtime.getDeviceProperties(number)
    identity = f"{runtime.deviceGetPCIBusId(number)} {about.get('uuid')}"  # parts of a card share its address
    try:  # the libraries and the compiler that CuPy loads when it needs them
        import cupyx.scipy.linalg  # noqa: F401

        two = cupy.ones((2, 2))
        if dot(two[0] @ two, two[1]) != 4.0:
            raise RuntimeError("it computed a wrong product")
    except (RuntimeError, cupy.cuda.compiler.CompileException) as error:  # the latter: CUDA's headers are missing
        raise ImportError(str(error)) from error
    return cupy.zeros(0), about["name"].decode(), number, identity


def cuda_memory() -> tuple[int, int]:
    """Free bytes of the GPU in use, and the bytes of this process's pool (it keeps its peak)."""
    free, _ = cuda().cuda.runtime.memGetInfo()
    return int(free), int(cuda().get_default_memory_pool().total_bytes())


def release_cuda() -> None:
    """Give back what this process's pool has of the GPU's memory and no array uses; its peak is counted from here."""
    cuda().get_default_memory_pool().free_all_blocks()


@cache
def kernel(source: cuda_kernels.Source) -> Any:
    """The function of a source of :mod:`dnewton.arrays.cuda_kernels`, compiled when it is first called."""
    return cuda().ElementwiseKernel(*source)


def synchronize(array: Array) -> None:
    """Wait until what was begun on the array's device is done; nothing to wait for on the host."""
    if on_cuda(array):
        cuda().cuda.get_current_stream().synchronize()


def pinned(size: int) -> np.ndarray[Any, Any]:
    """Bytes of the host that a GPU copies to and from directly."""
    import cupyx

    return np.asarray(cupyx.empty_pinned((size,), dtype=np.uint8))


# --- arithmetic -------------------------------------------------------------------------------------------------------


def dot(x: Array, y: Array) -> float:
    """Inner product of two vectors, accumulated in float64 whatever their dtype."""
    xp = namespace(x)
    if on_cuda(x):
        # CuPy's own ReductionKernel gives one thread block to one result, so a single multiprocessor would read it all.
        lanes = min(int(x.size), _DOT_LANES)
        parts = kernel(cuda_kernels.DOT)(x, y, int(x.size), lanes, empty(lanes, x, "float64"))
        return float(xp.sum(parts))
    if x.dtype == xp.float64:
        return float(xp.vecdot(x, y))
    total = 0.0
    for part in runs(x.shape[0], _DOT_BLOCK):  # blocks keep the float64 copies in cache
        total += float(xp.vecdot(xp.astype(x[part], xp.float64), xp.astype(y[part], xp.float64)))
    return total


def add_scaled(y: Array, a: float, x: Array) -> None:
    """y += a x, in one pass over memory on a GPU."""
    if on_cuda(y):
        kernel(cuda_kernels.ADD_SCALED)(a, x, y)
    else:
        y += a * x


def multiply(x: Array, y: Array, out: Array) -> Array:
    """x y into `out`, which is returned."""
    if on_host(out) or on_cuda(out):
        return namespace(out).multiply(x, y, out=out)
    out[...] = x * y
    return out


def maximum(x: Array, y: Array, out: Array) -> Array:
    """The larger of x and y, element by element, into `out`, which is returned."""
    if on_host(out) or on_cuda(out):
        return namespace(out).maximum(x, y, out=out)
    out[...] = namespace(out).maximum(x, y)
    return out


def erf(x: Array) -> Array:
    """The error function, element by element."""
    if on_cuda(x):
        out = empty(x.shape, x)
        kernel(cuda_kernels.ERF)(x, out)
        return out
    from scipy.special import erf as on_numbers

    return to_device(np.asarray(on_numbers(to_host(x)), dtype=to_host(x).dtype), x)


def sliding_windows(x: Array, size: tuple[int, int]) -> Array | None:
    """(N, H, W, C) as (N, H', W', C, kh, kw) by strides, nothing copied; None where the library has no such views."""
    if not (on_host(x) or on_cuda(x)):
        return None
    return (np if on_host(x) else cuda()).lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))


def diagonal(matrix: Array) -> Array:
    """View of a square matrix's diagonal. Raises ValueError where the matrix is not in C order: it would be a copy."""
    n = matrix.shape[0]
    if n and not getattr(getattr(matrix, "flags", None), "c_contiguous", True):
        raise ValueError("a matrix in C order is needed")
    return namespace(matrix).reshape(matrix, (n * n,))[:: n + 1]


def narrowed(array: Array, dtype: str) -> Array:
    """Rounded to float16, or to bfloat16, whose 16 bits are kept as whole numbers (the upper half of a float32's)."""
    xp = namespace(array)
    if not (on_host(array) or on_cuda(array)):
        raise TypeError("the array standard knows no half precision")
    if dtype == "float16":
        with np.errstate(over="ignore"):  # who holds it looks for what has become infinite
            return array.astype(xp.float16)
    bits = contiguous(array.astype(xp.float32)).view(xp.uint32)
    rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16  # to nearest, halves to even
    special = (bits >> 16) | (xp.isnan(array).astype(xp.uint32) << 6)  # NaN must not become infinity
    return xp.where(xp.isfinite(array), rounded, special).astype(xp.uint16)


def widened(array: Array, dtype: str, like: Array) -> Array:
    """The inverse of :func:`narrowed`, in the dtype of `like`."""
    xp = namespace(array)
    if dtype == "float16":
        return array.astype(like.dtype)
    return (array.astype(xp.uint32) << 16).view(xp.float32).astype(like.dtype, copy=False)


def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix. Raises LinAlgError."""
    if not on_cuda(matrix):
        values, vectors = namespace(matrix).linalg.eigh(matrix)
        return values, vectors
    from cupyx import errstate

    with errstate(linalg="raise"):
        values, vectors = cuda().linalg.eigh(matrix)
    return values, contiguous(vectors)  # they come in columns, and products of resumed ones would round differently


def least_squares(matrix: Array, right: Array, cut_off: float) -> Array | None:
    """The least-squares solution of a small system of the host, singular values below `cut_off` times the largest
    taken for zero; None where something is not finite."""
    if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
        return None
    return np.linalg.lstsq(matrix, right, rcond=cut_off)[0]


def inverse(matrix: Array, shift: float) -> Array | None:
    """(matrix + shift I)⁻¹ of a symmetric positive semi-definite matrix; None when it is singular."""
    shifted = copy(matrix)
    here = diagonal(shifted)
    here += shift
    try:
        if not on_cuda(matrix):
            return namespace(matrix).linalg.inv(shifted)
        from cupyx import errstate

        with errstate(linalg="raise"):
            return cuda().linalg.inv(shifted)
    except np.linalg.LinAlgError:
        return None


def block_bytes(array: Array, cached: int = _CACHE_BYTES) -> int:
    """Bytes of temporaries at a time: what stays in a processor's cache, or as much as saves launches on a GPU."""
    return DEVICE_BLOCK if on_cuda(array) else cached


def sample_blocks(n: int, bytes_per_sample: int, limit: int = _CACHE_BYTES) -> list[slice]:
    """Slices over `n` samples whose temporaries stay within `limit` bytes each (at least one sample)."""
    return runs(n, max(1, limit // max(1, bytes_per_sample)))
