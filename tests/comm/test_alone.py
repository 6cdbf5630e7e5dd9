"""One process without an MPI library, and when the library is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import environment
from places import same

from dnewton.comm import library
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import TIME_LIMIT, StopAgreement, Stopped
from dnewton.errors import UserError
from dnewton.grid import Grid

WITHOUT_MPI = """
import sys
sys.modules["mpi4py"] = None  # importing it fails
sys.argv = {argv!r}
try:
    from dnewton.cli.{verb} import main
    main()
finally:
    with open("/proc/self/maps") as maps:
        assert "libmpi" not in maps.read(), "libmpi is loaded"
"""


def without_mpi(folder: Path, verb: str, *args: str, **variables: str) -> Any:
    """The verb in a process in which no MPI library can be loaded."""
    code = WITHOUT_MPI.format(argv=["dnewton", *args], verb=verb)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.serial
@pytest.mark.parametrize("kind", ["alone", "world"])
def test_every_collective_of_one_rank(kind: str) -> None:
    """Both kinds of communicator give what they are given, whatever the sum, the grid or the division."""
    whole = Comm.alone() if kind == "alone" else Comm.world()
    assert whole.uses_mpi == (kind == "world")
    whole.buffers.straight = False
    numbers = np.arange(6.0).reshape(2, 3)
    for comm in (whole, whole.dup(), whole.split(3), whole.on_grid(Grid(1, 1))):
        assert (comm.rank, comm.size) == (0, 1)
        for found in (
            comm.allreduce(numbers.copy()),
            comm.reduce(numbers.copy(), 0),
            comm.gather_features(numbers, "row", [3]),
            comm.concatenate(numbers),
            comm.alltoall([numbers])[0].reshape(2, 3),
            comm.bcast(numbers.copy()),
            comm.array_from_root(numbers),
            comm.gather_to_root(list(numbers.ravel())).reshape(2, 3),
        ):
            assert same(found, numbers)
        assert comm.sum_scalars([1.5, -2.0]) == [1.5, -2.0] == comm.bcast_scalars([1.5, -2.0])
        assert comm.minmax(-3.0) == (-3.0, -3.0)
        assert comm.text_from_root("für Ω") == "für Ω"
        assert comm.arrived() is None
        assert comm.node_sharing(7) == 1
        comm.barrier()
        largest = np.zeros(2, dtype=np.int64)
        comm.wait(comm.begin_max(np.array([3, -4]), largest))
        assert same(largest, np.array([3, -4]))
        with pytest.raises(UserError, match="wrong"), comm.raise_together():
            raise UserError("wrong")
        with comm.raise_together():
            pass
    assert (whole.place_on_node, whole.ranks_on_node) == (0, 1) and whole.cores >= 1


def test_a_process_alone_can_stop() -> None:
    stops = StopAgreement(Comm.alone(), 60.0)
    stops.armed = True
    stops.safe_point()
    stops.want(TIME_LIMIT)
    with pytest.raises(Stopped, match="-1"):
        stops.safe_point()
    stops.resume()
    stops.safe_point()


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, True),
        ({"PMIX_RANK": "3"}, True),
        ({"OMPI_COMM_WORLD_RANK": "0"}, True),
        ({"MV2_COMM_WORLD_RANK": "0"}, True),
        ({"PALS_RANKID": "0"}, True),
    ],
)
def test_launchers(variables: dict[str, str], launched: bool) -> None:
    assert library.started_by_launcher(variables) is launched


@pytest.mark.mpi
def test_communicators_are_given_back(comm: Comm) -> None:
    """MPI libraries have about 2,000; more are made here, one after another (on few ranks, for the time it takes)."""
    whole = library.mpi().COMM_WORLD
    for _ in range(800 if comm.size <= 2 else 8):
        given = Comm.of(whole)
        part = given.split(given.rank % 2).dup()
        if given.size == 4:
            given.on_grid(Grid(2, 2))
        assert given.sum_scalars([1.0]) == [float(comm.size)]
        given.free()
    assert given._made == part._made == []


@pytest.mark.serial
def test_without_an_mpi_library(tmp_path: Path) -> None:
    """plan, convert and predict run on one process; train says what to install, as predict with a launcher does."""
    x = np.random.default_rng(0).normal(size=(12, 2))
    np.savez(tmp_path / "d.npz", x=x, y=x[:, :1])
    (tmp_path / "net.yaml").write_text(
        "net: {input: [2], loss: squared, layers: [{dense: {units: 3}}, {dense: {units: 1}}]}\n"
        "data: {train: d.npz}\nsolver: {max_iterations: 1}\n"
    )
    planned = without_mpi(tmp_path, "plan", "--net", "net.yaml", "--ranks", "4")
    assert planned.returncode == 0 and "4 rank(s)" in planned.stdout, planned.stderr
    converted = without_mpi(tmp_path, "convert", "d.npz", "d.npy")
    assert converted.returncode == 0 and np.array_equal(np.load(tmp_path / "d.npy"), x), converted.stderr
    trained = without_mpi(tmp_path, "train", "--net", "net.yaml", "--out", "run")
    assert trained.returncode == 2 and trained.stdout == ""
    assert "pip install 'dnewton[mpich]'" in trained.stderr and trained.stderr.count("\n") == 1
    helped = without_mpi(tmp_path, "train", "--help")
    assert helped.returncode == 0 and "--net" in helped.stdout
    made = subprocess.run(
        [sys.executable, "-m", "dnewton.train", "--net", "net.yaml", "--out", "run"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0
    words = ("--model", "run", "--data", "d.npz", "--out", "p.txt")
    predicted = without_mpi(tmp_path, "predict", *words)
    assert predicted.returncode == 0 and len((tmp_path / "p.txt").read_text().split()) == 12, predicted.stderr
    launched = without_mpi(tmp_path, "predict", *words, PMI_RANK="0", PMI_SIZE="2")
    assert launched.returncode == 2 and "dnewton[mpich]" in launched.stderr
