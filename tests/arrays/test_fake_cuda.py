"""The fake CuPy: what it refuses, what it knows about synchronisation, and that its kernels compute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ARRAYS

from dnewton.comm import library
from dnewton.comm.communicator import Comm

pytestmark = pytest.mark.skipif(ARRAYS == "cuda", reason="makes a second one, which libraries mix up with the first")

MPI = library.mpi()
HERE = Path(__file__).parents[1] / "fake_cuda"
REAL = os.environ.get("DNEWTON_REAL_CUPY")  # a Python that has the real CuPy; no GPU is needed


def _of_cupy(name: str) -> bool:
    return name.split(".")[0] in ("cupy", "cupyx") or name.startswith("array_api_compat.cupy")


@pytest.fixture(scope="module")
def cp() -> Iterator[Any]:
    """The fake as `cupy`, and afterwards the modules as they were."""
    import array_api_compat

    before = {name: module for name, module in sys.modules.items() if _of_cupy(name)}
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(HERE))
    import cupy

    assert Path(cupy.__file__).parent == HERE / "cupy"
    yield cupy
    sys.path.remove(str(HERE))
    for name in [name for name in sys.modules if _of_cupy(name)]:
        del sys.modules[name]
    vars(array_api_compat).pop("cupy", None)
    sys.modules.update(before)


@pytest.fixture(autouse=True)
def quiet(cp: Any) -> None:
    """Nothing in flight, nothing counted."""
    cp.cuda.Device().synchronize()
    cp._fake.reset()


def test_host_arrays_are_refused(cp: Any) -> None:
    x, host = cp.arange(4, dtype=cp.float32), np.ones(4, np.float32)
    for bad in (
        lambda: np.asarray(x),
        lambda: np.exp(x),
        lambda: np.concatenate([x, x]),
        lambda: x + host,
        lambda: host + x,
        lambda: x == host,
        lambda: cp.maximum(x, host),
        lambda: cp.concatenate([x, host]),
        lambda: cp.sum(host),
        lambda: cp.add(x, 1, out=host),
        lambda: x[np.array([0])],
        lambda: x.__setitem__(0, host),
        lambda: x.__setitem__(np.array([0]), 1),
        lambda: x.__iadd__(host),
        lambda: [1, 2][cp.asarray(1)],
        lambda: cp.zeros(2, device="cuda"),
        lambda: cp.sum(x, where=x > 0),
        lambda: x.set([1.0] * 4),
    ):
        with pytest.raises(TypeError):
            bad()
    assert cp._fake.counts.to_host == 0
    for good in (x * 2, 2.0 * x, np.float32(2) * x, x * np.float32(2), x.sum(), cp.max(x), x[0], next(iter(x)), -x):
        assert type(good) is cp.ndarray and good.dtype == cp.float32
    assert (np.float64(2) * x).dtype == cp.float64
    assert cp._fake.counts.to_host == 0
    with pytest.raises(TypeError):
        hash(x)


def test_views_share_memory_and_launch_nothing(cp: Any) -> None:
    x = cp.zeros((3, 4))
    cp.cuda.get_current_stream().synchronize()
    launched = cp._fake.counts.kernels
    row, flat, turned = x[1], x.reshape(12), cp.transpose(x)
    windows = cp.lib.stride_tricks.sliding_window_view(flat, 3)
    assert x.__cuda_array_interface__["strides"] is None and row.T.__cuda_array_interface__["version"] == 3
    assert cp._fake.counts.kernels == launched
    row[2] = 5.0
    assert float(flat[6]) == float(turned[2, 1]) == float(windows[4, 2]) == 5.0
    assert cp.shares_memory(x, flat) and cp.asarray(x) is x and not cp.shares_memory(cp.array(x), x)


def test_an_address_needs_a_synchronisation(cp: Any) -> None:
    x, null = cp.ones(3), cp.cuda.Stream.null
    y = x[:]
    with pytest.raises(cp._fake.NotSynchronised, match="ones"):
        _ = x.__cuda_array_interface__
    for wait in (
        cp.cuda.Device().synchronize,
        cp.cuda.Stream.null.synchronize,
        lambda: null.record().synchronize(),
        lambda: float(y[0]),
        lambda: bool(y[0]),
        lambda: int(y[0]),
        x.get,
        lambda: cp.asnumpy(y),
        x.sum().item,
    ):
        x += 1
        with pytest.raises(cp._fake.NotSynchronised):
            _ = x.data.ptr
        wait()
        assert x.__cuda_array_interface__["data"][0] == x.data.ptr
    assert cp._fake.counts.synchronisations == 3
    assert (cp._fake.counts.to_host, cp._fake.counts.to_host_bytes) == (6, 4 * 8 + 2 * 24)
    with cp.cuda.Stream() as other:
        x *= 2
    cp.cuda.Stream.null.synchronize()
    with pytest.raises(cp._fake.NotSynchronised):
        _ = x.__cuda_array_interface__
    other.synchronize()
    assert x.__cuda_array_interface__["shape"] == (3,)


def test_asynchronous_copies(cp: Any) -> None:
    import cupyx

    x = cp.arange(4, dtype=cp.float32)
    out = cupyx.empty_pinned(4, np.float32)
    x.get(out=out, blocking=False)
    x += 1  # after the copy, in the order of the stream
    assert np.isnan(out).all()
    cp.cuda.get_current_stream().synchronize()
    assert out.tolist() == [0, 1, 2, 3]
    x.set(out)
    assert x.get().tolist() == [0, 1, 2, 3]
    for transfer in (x.set, cp.asarray, lambda a: x.set(a[:]), lambda a: x.set(np.asarray(a))):
        transfer(out)
        out[0] += 1
        with pytest.raises(cp._fake.Overwritten):
            cp.cuda.Device().synchronize()
    pageable = np.zeros(4, np.float32)
    x.set(pageable)  # CuPy has staged it
    pageable[0] = 1
    assert x.get().tolist() == [0, 0, 0, 0]
    assert np.isnan(cp.empty(3).get()).all() and cp.empty(2, cp.int32).get().tolist() == [0x7F7F7F7F] * 2


def test_namespace(cp: Any) -> None:
    from array_api_compat import array_namespace

    x = cp.asarray(np.arange(6.0).reshape(2, 3) + 1)
    xp = array_namespace(x)
    assert xp.__name__ == "array_api_compat.cupy"
    same = {
        "vecdot": (xp.vecdot(x, x), [14, 77]),
        "concat": (xp.concat([x, x], axis=1)[0], [1, 2, 3, 1, 2, 3]),
        "stack": (xp.stack([x, x])[1, 1], [4, 5, 6]),
        "matmul": (xp.matmul(x, xp.permute_dims(x, (1, 0)))[0], [14, 32]),
        "where": (xp.where(x > 2, x, 0.0)[0], [0, 0, 3]),
        "take": (xp.take(x, xp.asarray([1]), axis=1)[:, 0], [2, 5]),
        "eye": (xp.eye(2, dtype=xp.float32, device=x.device)[1], [0, 1]),
        "mask": (x[x > 4], [5, 6]),
        "full": (xp.full((2,), 3, dtype=xp.int32), [3, 3]),
        "clip": (xp.clip(x, 2.0, 5.0)[0], [2, 2, 3]),
        "astype": (xp.astype(x, xp.uint8)[0], [1, 2, 3]),
        "max": (xp.max(x, axis=1, keepdims=True)[:, 0], [3, 6]),
    }
    for name, (got, wanted) in same.items():
        assert got.get().tolist() == wanted, name
    for name in ("sqrt", "exp", "expm1", "log", "tanh", "abs", "isfinite"):
        np.testing.assert_array_equal(getattr(xp, name)(x).get(), getattr(np, name)(x.get()))
    assert bool(xp.all(xp.isfinite(xp.logaddexp(x, x)))) and xp.mean(x).shape == () and not hasattr(cp, "vecdot")


def test_linear_algebra(cp: Any) -> None:
    import cupyx
    from cupyx.scipy.linalg import solve_triangular

    rng = np.random.default_rng(1)
    host = rng.normal(size=(4, 4))
    a, b = cp.asarray(host @ host.T + np.eye(4)), cp.asarray(rng.normal(size=(4, 2)))
    xp = __import__("array_api_compat").array_namespace(a)
    np.testing.assert_allclose((a @ xp.linalg.solve(a, b)).get(), b.get(), atol=1e-12)
    np.testing.assert_allclose((a @ xp.linalg.inv(a)).get(), np.eye(4), atol=1e-12)
    lower = xp.linalg.cholesky(a)
    for trans, matrix in ((0, lower), (1, lower.T), ("T", lower.T)):
        x = solve_triangular(lower, b, trans=trans, lower=True)
        np.testing.assert_allclose((matrix @ x).get(), b.get(), atol=1e-12)
    w, v = xp.linalg.eigh(a)
    np.testing.assert_allclose((v * w @ v.T).get(), a.get(), atol=1e-12)
    np.testing.assert_allclose(xp.linalg.eigvalsh(a).get(), w.get())
    assert float(xp.linalg.trace(a)) == pytest.approx(float(xp.sum(xp.linalg.diagonal(a))))
    bad = cp.stack([a, -cp.ones((4, 4))])
    for routine in (cp.linalg.cholesky, cp.linalg.inv, lambda m: cp.linalg.solve(m, cp.ones(4))):
        got = cp.asnumpy(routine(bad))
        assert np.isfinite(got[0]).all() and np.isnan(got[1]).all()
        before = cp._fake.counts.to_host
        routine(bad)
        assert cp._fake.counts.to_host == before
        with cupyx.errstate(linalg="raise"):
            with pytest.raises(np.linalg.LinAlgError):
                routine(bad)
            routine(bad[:1])
        assert cp._fake.counts.to_host == before + 1
    with pytest.raises(ValueError, match="shape"):
        cp.linalg.solve(bad, b)  # no broadcasting of stacks


def test_devices_and_memory(cp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, Device = cp.cuda.runtime, cp.cuda.Device
    assert runtime.getDeviceCount() == 2 and Device() == Device(0)
    assert runtime.getDeviceProperties(1)["name"] == b"Fake GPU"
    x = cp.zeros(4)
    with Device(1):
        assert cp.ones(1).device == Device(1) and Device().id == 1
        with pytest.raises(ValueError, match="current"):
            x + 1
    with pytest.raises(runtime.CUDARuntimeError, match="invalid device ordinal"):
        Device(2).use()
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
    with pytest.raises(runtime.CUDARuntimeError, match="cudaErrorNoDevice: no CUDA-capable device is detected"):
        runtime.getDeviceCount()
    with pytest.raises(runtime.CUDARuntimeError):
        cp.zeros(1)
    monkeypatch.delenv("FAKE_CUDA_DEVICES")
    pool = cp.get_default_memory_pool()
    before = pool.used_bytes()
    y = cp.zeros(1000)
    z = y[3:]
    assert pool.used_bytes() == before + 8192 <= pool.total_bytes()
    del y
    assert pool.used_bytes() == before + 8192
    del z
    assert pool.used_bytes() == before < pool.total_bytes()
    pool.free_all_blocks()
    assert pool.total_bytes() == before
    pool.set_limit(size=before + 4096)
    with pytest.raises(cp.cuda.memory.OutOfMemoryError, match="limit set to"):
        cp.zeros(1000)
    pool.set_limit(size=0)


@pytest.fixture
def kernels(cp: Any) -> Any:
    if cp._fake.compiler() is None:
        pytest.skip("no C++ compiler")
    return cp


def test_elementwise_kernels(kernels: Any) -> None:
    cp = kernels
    pool = cp.ElementwiseKernel(
        "raw T x, int32 w, int32 k",
        "T best, uint8 code",
        """
        best = x[i / (w / k) * w + i % (w / k) * k];
        code = 0;
        for (int j = 1; j < k; ++j) {
            const T v = x[i / (w / k) * w + i % (w / k) * k + j];
            if (v > best || isnan(v)) { best = v; code = j; }
        }
        """,
        "pool",
    )
    host = np.random.default_rng(2).normal(size=(5, 12)).astype(np.float32)
    wide = np.zeros((5, 24), np.float32)
    wide[:, ::2] = host
    x = cp.asarray(wide)[:, ::2]  # not contiguous
    best, code = pool(x, 12, 3, size=20)
    np.testing.assert_array_equal(best.get().reshape(5, 4), host.reshape(5, 4, 3).max(2))
    np.testing.assert_array_equal(code.get().reshape(5, 4), host.reshape(5, 4, 3).argmax(2))
    out = cp.empty((5, 4), cp.float32), cp.zeros((5, 4), cp.uint8)
    assert pool(x, 12, np.int64(3), *out)[0] is out[0] and (out[0].get().ravel() == best.get()).all()
    with pytest.raises(IndexError, match="bounds"):
        pool(x, 12, 3, size=21)
    with pytest.raises(ValueError, match="undecided"):
        pool(x, 12, 3)
    with pytest.raises(TypeError, match="mismatched"):
        pool(x, 12, 3, out[0], cp.zeros((5, 4), cp.int32))
    with pytest.raises(TypeError, match="Unsupported"):
        pool(host, 12, 3, size=20)

    twice = "template<typename T> __device__ T twice(T x) { return x + x; }"
    sigmoid = cp.ElementwiseKernel("T x, U s", "T y", "y = twice(s / (1 + exp(-x)))", "sigmoid", preamble=twice)
    got = sigmoid(x, cp.asarray(np.ones((5, 1))))
    np.testing.assert_allclose(got.get(), 2 / (1 + np.exp(-host)), rtol=1e-6)
    target = cp.zeros((12, 5), cp.float32).T
    assert cp.ElementwiseKernel("T x", "T y", "y += x", "add", no_return=True)(x, target) is None
    np.testing.assert_array_equal(target.get(), host)
    bits = cp.ElementwiseKernel("float32 x", "uint32 y", "y = __float_as_uint(max(x, 0.0f))", "bits")
    np.testing.assert_array_equal(bits(x).get(), np.maximum(host, 0).view(np.uint32))


def test_reduction_kernels(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cp = kernels
    dot = cp.ReductionKernel("T x, T y", "float64 z", "(double)x * (double)y", "a + b", "z = a", "0", "dot")
    host = np.full(1000, 0.1, np.float32)
    x = cp.asarray(host)
    got = dot(x, x)
    assert got.shape == () and got.dtype == cp.float64
    assert float(got) == pytest.approx(float(host.astype(np.float64) @ host), rel=1e-14)
    m = cp.asarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    np.testing.assert_array_equal(dot(m, m, axis=(0, 2)).get(), (m.get() ** 2).sum((0, 2)))
    out = cp.empty((2, 1, 4))
    assert dot(m, m, out, axis=1, keepdims=True) is out
    np.testing.assert_array_equal(out.get(), (m.get() ** 2).sum(1, keepdims=True))
    with pytest.raises(cp._fake.NotSynchronised, match="dot"):
        _ = dot(x, x).data.ptr
    monkeypatch.setattr(cp._fake, "compiler", lambda: None)
    with pytest.raises(cp.cuda.compiler.CompileException, match="compiler"):
        cp.ElementwiseKernel("T x", "T y", "y = x / 7", "seventh")(x)


def test_mpi_takes_fake_arrays(cp: Any, comm: Comm) -> None:
    mpi, rank, size = MPI.COMM_WORLD.Dup(), comm.rank, comm.size
    x = cp.full(5, rank + 1.0, dtype=cp.float32)
    with pytest.raises(cp._fake.NotSynchronised):
        mpi.Allreduce(MPI.IN_PLACE, [x, 5])
    with pytest.raises(TypeError, match="expecting buffer"):  # mpi4py's reading of the same
        mpi.Allreduce(MPI.IN_PLACE, x)
    cp.cuda.Device().synchronize()
    mpi.Allreduce(MPI.IN_PLACE, x)
    assert x.get().tolist() == [size * (size + 1) / 2] * 5
    mine, theirs = cp.full(3, rank), cp.empty(3, cp.int64)
    cp.cuda.Device().synchronize()
    MPI.Request.Waitall([mpi.Irecv(theirs, (rank - 1) % size), mpi.Isend(mine, (rank + 1) % size)])
    assert theirs.get().tolist() == [(rank - 1) % size] * 3
    everyone = cp.empty((size, 3), cp.int64)
    counts = [3] * size
    mpi.Allgatherv([mine, 3], [everyone, counts])
    assert everyone.get()[:, 0].tolist() == list(range(size))
    part = everyone[rank]
    mpi.Reduce_scatter([everyone, sum(counts), MPI.INT64_T], [mine, 3, MPI.INT64_T], counts)
    assert mine.get().tolist() == [rank * size] * 3 and part.shape == (3,)
    mpi.Free()


def _by_hand(cp: Any) -> dict[str, dict[str, list[str] | None]]:
    """What to look for in the real package: owner, name, parameters (None where the fake has none written down)."""
    import inspect

    import cupyx

    def of(owner: Any, names: Any) -> dict[str, list[str] | None]:
        found: dict[str, list[str] | None] = {}
        for name in names:
            thing = getattr(owner, name)
            listed = []
            if callable(thing) and thing is not np.linalg.LinAlgError:
                listed = [p for p in inspect.signature(thing).parameters if p not in ("self", "kwargs")]
            found[name] = None if "args" in listed or not listed else listed
        return found

    methods = [n for n in dir(cp.ndarray) if not n.startswith("_")]
    pool = ["used_bytes", "total_bytes", "free_bytes", "free_all_blocks", "set_limit", "get_limit"]
    runtime = [
        "getDeviceCount",
        "getDevice",
        "setDevice",
        "getDeviceProperties",
        "memGetInfo",
        "CUDARuntimeError",
        "deviceSynchronize",
    ]
    return {
        "cupy": of(
            cp,
            [
                *cp._creation.__all__,
                "get_default_memory_pool",
                "get_array_module",
                "ElementwiseKernel",
                "ReductionKernel",
                "get_default_pinned_memory_pool",
                "is_available",
            ],
        ),
        "cupy:ndarray": of(cp.ndarray, methods),
        "cupy.linalg": of(cp.linalg, cp.linalg.__all__),
        "cupy.lib.stride_tricks": of(cp.lib.stride_tricks, ["as_strided", "sliding_window_view"]),
        "cupy.cuda": of(
            cp.cuda,
            [
                "Device",
                "Stream",
                "Event",
                "get_current_stream",
                "MemoryPool",
                "is_available",
                "PinnedMemoryPool",
                "get_device_id",
            ],
        ),
        "cupy.cuda.compiler": {"CompileException": None},
        "cupy.cuda:Device": of(cp.cuda.Device, ["use", "synchronize", "mem_info"]),
        "cupy.cuda:Stream": of(cp.cuda.Stream, ["null", "synchronize", "record", "wait_event", "use", "done"]),
        "cupy.cuda:Event": of(cp.cuda.Event, ["record", "synchronize", "done"]),
        "cupy.cuda:MemoryPool": of(cp.cuda.MemoryPool, pool),
        "cupy.cuda:runtime": of(cp.cuda.runtime, runtime),
        "cupy.cuda.memory": of(cp.cuda.memory, ["OutOfMemoryError"]),
        "cupyx": of(
            cupyx, ["errstate", "seterr", "geterr", "empty_pinned", "zeros_pinned", "empty_like_pinned", "scatter_add"]
        ),
    }


@pytest.mark.skipif(not REAL, reason="DNEWTON_REAL_CUPY names no Python with CuPy")
@pytest.mark.serial
def test_the_real_cupy_has_what_the_fake_has(cp: Any) -> None:
    import json

    wanted = _by_hand(cp)
    wanted["cupy"] |= {n: None for n in cp.__all__ if n not in wanted["cupy"]}
    script = (HERE / "compare_with_real.py").read_text()
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(REAL), "-c", script], input=json.dumps(wanted), env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stdout, done.stdout
