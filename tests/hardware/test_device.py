"""One GPU per rank: which one, what is said where there is none, and how its arrays reach MPI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import environment, launcher
from places import ARRAYS, COMPILER, FAKE, host, put, same

from dnewton.arrays import namespace
from dnewton.comm.communicator import Comm
from dnewton.comm.device_buffers import DeviceBuffers, straight
from dnewton.errors import UserError
from dnewton.hardware.device import open_device

pytestmark = pytest.mark.mpi

# --- whether MPI gets device memory -----------------------------------------------------------------------------------

MPICH, OPEN_MPI = "MPICH Version: 5.0.2", "Open MPI v5.0.11, package: somebody's"
DECISIONS: list[tuple[str, dict[str, str], str, bool | None, bool, str]] = [
    ("yes", {}, MPICH, False, True, "device_buffers: yes"),
    ("no", {"MPICH_GPU_SUPPORT_ENABLED": "1"}, "CRAY MPICH version 8", True, False, "device_buffers: no"),
    ("auto", {}, MPICH, False, False, "built without CUDA"),
    ("auto", {}, MPICH, True, True, "says so"),
    ("auto", {}, "Some MPI 1.0", None, False, "does not say"),
    ("auto", {"MPIR_CVAR_ENABLE_GPU": "0"}, MPICH, True, False, "MPIR_CVAR_ENABLE_GPU=0"),
    ("auto", {"MPIR_CVAR_ENABLE_GPU": "1"}, MPICH, False, False, "built without CUDA"),
    ("auto", {"OMPI_MCA_opal_cuda_support": "false"}, OPEN_MPI, True, False, "OMPI_MCA_opal_cuda_support=false"),
    ("auto", {"OMPI_MCA_opal_cuda_support": "true"}, OPEN_MPI, True, True, "says so"),
    ("auto", {"MPICH_GPU_SUPPORT_ENABLED": "1"}, "MPI VERSION: CRAY MPICH version 8.1", None, True, "_ENABLED=1"),
    ("auto", {"MPICH_GPU_SUPPORT_ENABLED": "0"}, "MPI VERSION: CRAY MPICH version 8.1", True, False, "_ENABLED=0"),
    ("auto", {"MV2_USE_CUDA": "1"}, "MVAPICH2 Version: 2.3.7", None, True, "MV2_USE_CUDA=1"),
    ("auto", {"MVP_USE_CUDA": "1"}, "MVAPICH Version: 3.0", None, True, "MVP_USE_CUDA=1"),
    ("auto", {"I_MPI_OFFLOAD": "1"}, "Intel(R) MPI Library 2021.13", None, True, "I_MPI_OFFLOAD=1"),
    ("auto", {"I_MPI_OFFLOAD": "0"}, "Intel(R) MPI Library 2021.13", None, False, "I_MPI_OFFLOAD=0"),
    ("auto", {"MV2_USE_CUDA": "1"}, OPEN_MPI, False, False, "built without CUDA"),  # another library's
]


@pytest.mark.parametrize(("setting", "environ", "library", "says", "wanted", "why"), DECISIONS)
def test_decision(
    setting: str, environ: dict[str, str], library: str, says: bool | None, wanted: bool, why: str
) -> None:
    found, reason = straight(setting, environ, library, lambda: says)
    assert found is wanted and why in reason


# --- collectives ------------------------------------------------------------------------------------------------------


class Counted(DeviceBuffers):
    """Counts what reaches the device's stream, where there is a fake one."""

    def __init__(self, as_it_is: bool) -> None:
        super().__init__()
        self.straight = as_it_is


def with_buffers(comm: Comm, as_it_is: bool) -> Comm:
    """The same ranks with buffers of their own. Collective."""
    other = comm.split(0)
    other.buffers = Counted(as_it_is)
    return other


@pytest.mark.parametrize("as_it_is", [False, True])
@pytest.mark.parametrize("n", [0, 1, 5, 70_000])
def test_every_collective_waits_once(comm: Comm, n: int, as_it_is: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results as on the host, and one synchronisation each, however many messages they are cut into."""
    if as_it_is and ARRAYS == "strict":
        pytest.skip("not a buffer")
    monkeypatch.setattr("dnewton.comm.communicator.MESSAGE_BYTES", 4096)
    other, p, r = with_buffers(comm, as_it_is), comm.size, comm.rank
    mine = np.arange(n, dtype=np.float64) + r
    every = [np.arange(n, dtype=np.float64) + q for q in range(p)]
    x = put(mine.copy())
    waits: list[int] = []

    def done(found: Any, wanted: Any) -> None:
        assert same(found, wanted) and type(found) is type(x)
        assert host(found * 2).dtype == np.float64  # the device goes on with it
        waits.append(other.buffers.synchronised)

    summed = x * 1.0  # a kernel that has not been waited for
    done(other.allreduce(summed), sum(every))
    assert ARRAYS == "strict" or same(summed, sum(every) if p > 1 else mine)  # in place
    rows = put(np.stack([mine, -mine], axis=1))
    done(other.concatenate(rows * 1.0), np.concatenate([np.stack([e, -e], axis=1) for e in every]))
    done(other.bcast(x * 1.0), every[0])
    widths = [(q % 2) + 1 for q in range(p)]
    slices = [np.outer(e, np.arange(w) + 1.0) for e, w in zip(every, widths, strict=True)]
    done(other.gather_features(put(slices[r]) * 1.0, "world", widths), np.concatenate(slices, axis=1))
    got = other.alltoall([x + float(q) for q in range(p)])
    for q in range(p):
        assert same(got[q], every[q] + r)
    done(x, mine)
    assert waits == ([0] * 5 if p == 1 or not on_device() else [1, 2, 3, 4, 5])
    staged = 0 if p == 1 or not on_device() or as_it_is else n * 8
    assert (other.buffers.staged > 0) == (staged > 0)


def on_device() -> bool:
    return ARRAYS != "numpy"


@pytest.mark.skipif(ARRAYS != "cuda", reason="needs CuPy arrays")
def test_a_device_that_was_not_waited_for_is_seen(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake refuses its memory to MPI while work is under way: without the synchronisation this test suite fails."""
    if not str(getattr(namespace.cuda(), "__file__", "")).startswith(str(FAKE)):
        pytest.skip("a real device cannot tell")
    other = with_buffers(comm, True)
    monkeypatch.setattr("dnewton.comm.device_buffers.synchronize", lambda array: None)
    if comm.size > 1:
        with pytest.raises((AssertionError, TypeError)):
            other.allreduce(put(np.ones(3)) * 2.0)
    namespace.synchronize(put(np.ones(1)))


# --- which GPU --------------------------------------------------------------------------------------------------------


def test_the_place_among_the_nodes_ranks(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs on the node: even ranks take the first, odd ones the second; sharing is said once."""

    def opened(place: int) -> tuple[Any, str, int, str]:
        return put(np.zeros(0)), "A card", place % 2, f"0000:0{place % 2}:00.0"

    monkeypatch.setattr(namespace, "open_cuda", opened)
    monkeypatch.setattr(comm, "buffers", DeviceBuffers())
    device, notes = open_device("cuda", "auto", comm, "net.yaml: parallel.device: cuda")
    assert device.sharing == (comm.size + 1 - comm.rank % 2) // 2
    assert f"A card (GPU {comm.place_on_node % 2} on this node)" in notes[0] and "through the host's memory" in notes[0]
    assert (len(notes) == 2) == (comm.size > 2)
    if comm.size > 2:
        assert f"warning: {(comm.size + 1) // 2} ranks share a GPU" in notes[1]
    assert open_device("cpu", "auto", comm, "")[1] == []


def test_a_rank_that_serves_takes_no_gpu(comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it count among those that share one."""
    monkeypatch.setattr(namespace, "open_cuda", lambda place: (put(np.zeros(0)), "A card", 0, "0000:00:00.0"))
    monkeypatch.setattr(comm, "buffers", DeviceBuffers())
    serves = comm.size > 1 and comm.rank == comm.size - 1
    if serves:
        monkeypatch.setattr(namespace, "open_cuda", lambda place: pytest.fail("a server opened a GPU"))
    device, notes = open_device("cuda", "auto", comm, "", computes=not serves)
    assert device.is_host if serves else device.sharing == max(1, comm.size - 1)
    assert (len(notes) == 2) == (comm.size > 2)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'cupy'", name="cupy"), ["CuPy is not installed", "cupy-cuda12x[ctk]"]),
        (ImportError("libcublas.so.12: cannot open shared object"), ["does not work (libcublas", "cupy-cuda12x[ctk]"]),
        (RuntimeError("cudaErrorNoDevice: no CUDA-capable device"), ["finds no GPU (cudaErrorNo", "nvidia-smi"]),
    ],
)
def test_a_rank_without_a_gpu(comm: Comm, monkeypatch: pytest.MonkeyPatch, error: Exception, words: list[str]) -> None:
    """On one rank of several: all ranks say so, in one line."""

    def opened(place: int) -> Any:
        if comm.rank == comm.size - 1:
            raise error
        return put(np.zeros(0)), "A card", 0, "0000:00:00.0"

    monkeypatch.setattr(namespace, "open_cuda", opened)
    with pytest.raises(UserError) as found:
        open_device("cuda", "auto", comm, "net.yaml: parallel.device: cuda")
    said = str(found.value)
    assert all(word in said for word in ["net.yaml: parallel.device: cuda", "use the cpu", *words]) and "\n" not in said


# --- jobs -------------------------------------------------------------------------------------------------------------


def job(tmp_path: Path, first: Path, *args: str, ranks: int = 2, **extra: str) -> Any:
    """A job that finds modules in a folder first."""
    path = os.pathsep.join(filter(None, [str(first), os.environ.get("PYTHONPATH")]))
    command = [*launcher(), "-np", str(ranks), sys.executable, "-m", "dnewton.train", *args]
    return subprocess.run(
        command,
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": path, **extra},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


CUDA = ("--net", "mlp.yaml", "--set", "parallel.device=cuda")


@pytest.mark.serial
def test_without_cupy(tmp_path: Path) -> None:
    text = "raise ModuleNotFoundError(\"No module named 'cupy'\", name='cupy')\n"
    (tmp_path / "cupy.py").write_text(text)
    found = job(tmp_path, tmp_path, *CUDA, "--out", "run")
    assert found.returncode == 2 and not (tmp_path / "run").exists()
    lines = [line for line in found.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and "parallel.device: cuda: CuPy is not installed; pip install" in lines[0]


@pytest.mark.serial
def test_without_its_libraries(tmp_path: Path) -> None:
    """CuPy loads cuBLAS and the compiler when they are needed: that is tried before anything else is done."""
    found = job(tmp_path, FAKE, *CUDA, "--out", "run", CXX="/nowhere/c++", PATH=os.path.dirname(sys.executable))
    assert found.returncode == 2 and not (tmp_path / "run").exists()
    lines = [line for line in found.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and "CuPy does not work (" in lines[0] and "cupy-cuda12x[ctk]" in lines[0]


@pytest.mark.serial
def test_without_a_gpu(tmp_path: Path) -> None:
    found = job(tmp_path, FAKE, *CUDA, "--out", "run", FAKE_CUDA_DEVICES="0")
    assert found.returncode == 2 and not (tmp_path / "run").exists()
    lines = [line for line in found.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and "CuPy finds no GPU (cudaErrorNoDevice" in lines[0] and "nvidia-smi" in lines[0]


@pytest.mark.skipif(COMPILER is None, reason="the fake GPU compiles its kernels")
@pytest.mark.serial
def test_a_run_is_that_of_the_cpu(tmp_path: Path) -> None:
    """Two ranks on the fake device: its rules are kept, and the numbers are the CPU's."""
    options = [
        "solver.max_iterations=2",
        "solver.early_termination.mode=lockstep",
        "parallel.dtype=float64",
        "parallel.rates={flops: 1e11, bandwidth: 1e10}",
    ]

    def records(name: str, *more: str) -> list[dict[str, Any]]:
        settings = [word for option in [*options, *more] for word in ("--set", option)]
        found = job(tmp_path, FAKE, "--net", "cnn.yaml", *settings, "--out", name)
        assert found.returncode == 0, found.stderr
        return [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    on_cpu = records("cpu")
    for buffers in ("yes", "no"):
        on_cuda = records(buffers, "parallel.device=cuda", f"parallel.device_buffers={buffers}")
        for cpu, cuda in zip(on_cpu, on_cuda, strict=True):
            assert cuda["loss"] == pytest.approx(cpu["loss"], rel=1e-9)
            assert cuda["grad_norm"] == pytest.approx(cpu["grad_norm"], rel=1e-7)
            assert cuda["test_accuracy"] == cpu["test_accuracy"] and cuda["step"] == pytest.approx(cpu["step"])
            assert cuda["comm"]["gradient"]["bytes"] == cpu["comm"]["gradient"]["bytes"]
        last = on_cuda[-1]
        assert last["peak_device_bytes"] > 0 and last["device_waits"] > 0 and "device_waits" not in on_cpu[-1]
        assert (last["staged_bytes"] == 0) == (buffers == "yes")
        assert "Fake GPU (GPU 0 on this node)" in (tmp_path / buffers / "log.txt").read_text()
