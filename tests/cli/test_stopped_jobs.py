"""Jobs that are stopped, killed, or run out of time or room: what is lost, how they end, and how they go on."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import inside
import numpy as np
import pytest
from folding import unfolded
from jobs import command, environment, launcher, ranks_of, until
from places import ARRAYS
from runs import metrics, train
from safetensors.numpy import load_file

from dnewton.cli import launch
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import StopAgreement

pytestmark = pytest.mark.skipif(
    ARRAYS == "strict", reason="ranks are found by their command line, which is another's there"
)

ENDLESS = ["--net", "mlp.yaml", "--set", "solver.max_iterations=100000"]
NEWTON = ["solver.early_termination.mode=lockstep"]
SGD = ["solver.name=sgd", "solver.learning_rate=0.01"]


class Job:
    """A job under way, in a folder of its own."""

    def __init__(self, folder: Path, ranks: int, *args: str, sets: list[str] | None = None) -> None:
        self.folder, self.out = folder, folder / "run"
        pairs = [word for item in sets or [] for word in ("--set", item)]
        whole = command(ranks, *args, "--out", str(self.out), *pairs)
        self.process = subprocess.Popen(
            whole, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def lines(self) -> list[dict[str, Any]]:
        place = self.out / "metrics.jsonl"
        return [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []

    def ranks(self, iterations: int = 2) -> dict[int, int]:
        """The processes, once some iterations are done."""

        def begun() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate())
            place = self.out / "metrics.jsonl"
            return place.exists() and place.read_bytes().count(b"\n") > iterations

        until(begun)
        return ranks_of(self.out)

    def end(self, seconds: float = 60) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, unfolded(out), err


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for pid in ranks_of(tmp_path / "run").values():  # whatever a failed test left
        os.kill(pid, signal.SIGKILL)


def goes_on(job: Job, ranks: int, sets: list[str], straight: bool = True) -> None:
    """Resumed for two more iterations, on other ranks or the same, it is what an undisturbed run is."""
    done = job.lines()[-1]["iteration"]
    settings = ["solver.max_iterations=100000", *sets, f"solver.max_iterations={done + 2}"]
    again = train(ranks, job.folder, "mlp.yaml", "run", "--resume", "auto", settings=settings)
    assert again.returncode == 0 and "resuming after iteration" in again.stdout, again.stderr
    assert "changed since the checkpoint: solver.max_iterations: 100000 -> " in again.stdout
    found = [line["iteration"] for line in job.lines()]
    assert found == list(range(done + 3))
    if straight:
        assert train(ranks, job.folder, "mlp.yaml", "straight", settings=settings).returncode == 0
        assert [line["loss"] for line in metrics(job.folder, "straight")] == [line["loss"] for line in job.lines()]
        a, b = (load_file(job.folder / run / "model.safetensors") for run in ("run", "straight"))
        assert all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.jobs(3)
@pytest.mark.parametrize(
    ("number", "ranks", "victim", "sets"),
    [
        (signal.SIGTERM, 3, 2, NEWTON),
        (signal.SIGUSR1, 2, 0, SGD),
        (signal.SIGINT, 2, 1, NEWTON),
    ],
    ids=["TERM-newton", "USR1-sgd", "INT-newton"],
)
def test_a_signal_to_one_rank_stops_all(
    folder: Path, number: signal.Signals, ranks: int, victim: int, sets: list[str]
) -> None:
    job = Job(folder, ranks, *ENDLESS, sets=sets)
    os.kill(job.ranks()[victim], number)
    code, out, err = job.end(20)
    assert code == launch.REQUEUE, out + err
    assert f"stopped by {number.name} on rank {victim} after iteration" in out and "Traceback" not in err
    goes_on(job, ranks, sets, straight=number != signal.SIGINT)


@pytest.mark.jobs(3)
def test_a_signal_to_the_launcher_stops_all(folder: Path) -> None:
    job = Job(folder, 2, *ENDLESS, sets=SGD)
    job.ranks()
    job.process.send_signal(signal.SIGUSR1)
    code, out, err = job.end(20)
    assert code == launch.REQUEUE and "stopped by SIGUSR1" in out, out + err
    goes_on(job, 1, SGD, straight=False)  # on another number of ranks


@pytest.mark.jobs(3)
def test_a_limit_of_time_is_kept(folder: Path) -> None:
    began = time.monotonic()
    job = Job(folder, 2, *ENDLESS, "--max-seconds", "8", sets=NEWTON)
    code, out, err = job.end(30)
    assert code == launch.REQUEUE and "stopped by the limit of time after iteration" in out, out + err
    assert job.lines()[-1]["seconds"] <= 8 and time.monotonic() - began < 25
    goes_on(job, 2, NEWTON, straight=False)


@pytest.mark.jobs(2)
def test_a_job_that_is_stopped_before_newtons_first_iteration(folder: Path) -> None:
    """While passes of Adam lead to where Newton starts: they are not lost."""
    sets, done = ["solver.start=adam", "solver.start_passes=1000000"], 0
    for begins in ([], ["--resume", "auto"]):
        job = Job(folder, 2, *ENDLESS, *begins, sets=sets)
        until(lambda job=job, least=done + 2: len(job.lines()) > least)
        os.kill(ranks_of(job.out)[1], signal.SIGTERM)
        code, out, err = job.end()
        assert code == launch.REQUEUE and "SIGTERM on rank 1 after iteration" in out, err
        assert ("resuming after iteration" in out) is bool(begins)
        lines = job.lines()
        done = lines[-1]["iteration"]
        assert [line["iteration"] for line in lines] == list(range(done + 1))
        assert [line["adam_pass"] for line in lines[1:]] == list(range(1, done + 1))


@pytest.mark.jobs(2)
def test_checkpoints_by_the_clock_change_nothing(tmp_path: Path) -> None:
    sets = [*SGD, "output.checkpoint_every=0", "output.checkpoint_minutes=0.0005", "output.keep=1000"]
    few = [*SGD, "solver.max_iterations=6"]
    assert train(2, tmp_path, "mlp.yaml", "run", settings=[*sets, *few]).returncode == 0
    names = [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert any(name.count("-") == 2 for name in names), names  # in the middle of a pass
    assert train(2, tmp_path, "mlp.yaml", "plain", settings=few).returncode == 0
    assert [line["loss"] for line in metrics(tmp_path, "run")] == [line["loss"] for line in metrics(tmp_path, "plain")]


@pytest.mark.jobs(3)
@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_rank_ends_the_job(folder: Path, victim: int) -> None:
    job = Job(folder, 3, *ENDLESS, sets=NEWTON)
    pids = job.ranks()
    os.kill(pids[victim], signal.SIGKILL)
    code, out, err = job.end(10)
    assert code not in (0, 2, launch.REQUEUE) and out + err
    until(lambda: not ranks_of(job.out), 10)
    goes_on(job, 3, NEWTON, straight=False)


@pytest.mark.serial
def test_a_rank_that_stops_answering_is_named(folder: Path) -> None:
    job = Job(folder, 3, *ENDLESS, sets=[*NEWTON, "parallel.timeout=1"])
    os.kill(job.ranks()[1], signal.SIGSTOP)
    code, out, err = job.end(40)
    assert code not in (0, 2, launch.REQUEUE), out + err
    assert "rank 1 does not answer; rank 0 has waited" in err and "in phase" in err and "Traceback" not in err
    until(lambda: not ranks_of(job.out), 10)


@pytest.mark.serial
def test_a_full_disk_ends_no_run(folder: Path) -> None:
    """A limit on the size of files stands for a quota, and is lifted later."""
    sets = [*SGD, "output.checkpoint_every=1", "output.keep=2"]
    job = Job(folder, 2, *ENDLESS, sets=sets)
    pids = job.ranks()
    for pid in pids.values():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (16384, resource.RLIM_INFINITY))
    before = until(lambda: len(job.lines()) > 5 and sorted((job.out / "checkpoints").glob("iteration*")))
    time.sleep(2)
    after = sorted((job.out / "checkpoints").glob("iteration*"))
    assert len(after) == 2 and int(after[-1].name[-8:]) <= int(before[-1].name[-8:]) + 5
    for pid in pids.values():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: sorted((job.out / "checkpoints").glob("iteration*"))[-1] > after[-1])
    os.kill(pids[1], signal.SIGTERM)
    code, out, err = job.end()
    assert code == launch.REQUEUE, out + err
    assert "warning: no checkpoint after iteration" in out and "File too large" in out and "Traceback" not in err
    assert [line["iteration"] for line in job.lines()] == list(range(len(job.lines())))


@pytest.mark.jobs(2)
def test_auto_starts_and_goes_on(tmp_path: Path) -> None:
    def job(ranks: int, *more: str) -> Any:
        sets = ["solver.max_iterations=2", "output.checkpoint_every=1", *more]
        return train(ranks, tmp_path, "mlp.yaml", "run", "--resume", "auto", settings=sets)

    def iterations() -> list[int]:
        return [line["iteration"] for line in metrics(tmp_path, "run")]

    checkpoints = tmp_path / "run" / "checkpoints"
    for _ in range(2):  # the second finds that there is nothing left to do
        done = job(2)
        assert done.returncode == 0, done.stderr
    done = job(1, "solver.seed=9")
    assert done.returncode == 2 and "belongs to another run: seed was 0 and is 9" in done.stderr
    assert iterations() == [0, 1, 2]
    newest = sorted(checkpoints.iterdir())[-1]
    (newest / "manifest.json").write_text("{}")
    done = job(2)
    assert done.returncode == 0 and f"{newest.name}/manifest.json: is damaged" in done.stdout
    assert "trying an older" in done.stdout and iterations() == [0, 1, 2]
    for path in checkpoints.iterdir():
        (path / "manifest.json").unlink()
    (tmp_path / "run" / "model.safetensors").unlink()  # as if it had not come to its end
    assert job(1).returncode == 0 and iterations() == [0, 1, 2]


@pytest.mark.serial
def test_a_second_interrupt_ends_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    comm, codes = Comm.world(), list[int]()
    stops = StopAgreement(comm, 60)
    monkeypatch.setattr(comm, "abort", lambda code=1: codes.append(code))
    before = {number: signal.getsignal(number) for number in launch.SIGNALS}
    try:
        launch.catch_signals(comm, stops)
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == [launch.REQUEUE]  # nothing has been done yet
        stops.armed = True
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the same key, by way of terminal and launcher
        assert codes == [launch.REQUEUE]
        monkeypatch.setattr(launch, "DUPLICATE", -1.0)
        os.kill(os.getpid(), signal.SIGINT)
        assert codes == [launch.REQUEUE, 130]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "SIGINT again on rank 0; ending the job at once" in capsys.readouterr().err


@pytest.mark.serial
def test_worlds_of_one_are_refused(folder: Path) -> None:
    """As srun with the wrong --mpi starts them: every process thinks that it is alone."""
    for rank in ("0", "1"):
        told = {**environment(), "SLURM_NTASKS": "2", "SLURM_PROCID": rank, "SLURM_STEP_NUM_TASKS": "2"}
        words = [sys.executable, "-m", "dnewton.train", "--net", "mlp.yaml", "--out", str(folder / "run")]
        done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2 and not (folder / "run").exists()
        assert ("srun --mpi=pmi2" in done.stderr) == (rank == "0")  # said once


@pytest.mark.serial
def test_torture(folder: Path) -> None:
    """A few of the kills of scripts/torture.py."""
    script = str(Path(__file__).parents[2] / "scripts" / "torture.py")
    words = ["--kills", "3", "--ranks", "3", "--seed", "1", "--net", "mlp.yaml", "--set", "solver.max_iterations=10"]
    done = subprocess.run(
        [sys.executable, script, *words, "--launcher", " ".join(launcher())],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.jobs(1)
def test_resume_needs_what_it_needs(folder: Path) -> None:
    for words, said in (
        (["--net", "mlp.yaml", "--resume", "auto"], "--out DIR"),
        (["--resume", "auto", "--out", "x"], "--net FILE"),
        (["--net", "mlp.yaml", "--max-seconds", "0"], "above 0"),
    ):
        done = inside.start(1, *words, cwd=folder)
        assert done.returncode == 2 and said in done.stderr, done.stderr


@pytest.mark.serial
def test_the_age_of_a_process() -> None:
    code = "import time; time.sleep(0.3); from dnewton.hardware import node; print(node.process_age())"
    began = time.monotonic()
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.3 <= age <= time.monotonic() - began + 0.05
