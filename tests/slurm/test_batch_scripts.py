"""The shipped batch scripts as jobs of a real Slurm: to the end, interrupted, on failing nodes, started wrongly."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batch_jobs import OPEN_MPI, ROOT, SCRIPTS, Job, command, environment, write_problem

from dnewton.config import strict_yaml

Submit = Callable[..., Job]
TWO_BY_TWO = ("-N2", "--ntasks-per-node=2")
TWO = ("-N2", "--ntasks-per-node=1")  # no more ranks than cores where many iterations are waited for
SRUN = "srun --mpi=pmix" if OPEN_MPI else "srun --mpi=pmi2"
UNUSED = shutil.ignore_patterns("matplotlib*", "mypy*", "sklearn", "hypothesis", "pip", "fontTools", "PIL", "tests")
LONG = ("--set", "solver.max_iterations=40", "--set", "solver.early_termination.mode=off")


@pytest.fixture
def frozen() -> Iterator[list[int]]:
    """Processes that a test stops: the first one goes on afterwards, the others end. Nodes that are down come back."""
    processes: list[int] = []
    yield processes
    for process in processes[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    for process in processes[:1]:
        os.kill(process, signal.SIGCONT)
    for node in ("n1", "n2", "n3"):
        command("scontrol", "update", f"nodename={node}", "state=resume", check=False)


def freeze(node: str, frozen: list[int]) -> None:
    """Stop a node's slurmd and all that its jobs run there, as if its power had failed."""
    frozen.append(int((Path(os.environ["SLURM_CONF"]).parent / "run" / f"slurmd.{node}.pid").read_text()))
    marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={os.environ['SLURM_CONF']}".encode()}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marks <= set((place / "environ").read_bytes().split(b"\0")):
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])  # slurmstepd
                frozen += {int(place.name), parent} - {*frozen, 1}
    for process in frozen:
        os.kill(process, signal.SIGSTOP)


@pytest.mark.parametrize(("launcher", "words"), [("auto", SRUN), ("mpiexec", "mpiexec -n 4")], ids=["auto", "mpiexec"])
def test_to_the_end(submit: Submit, launcher: str, words: str) -> None:
    job = submit("cpu.sbatch", options=TWO_BY_TWO, env={"LAUNCHER": launcher})
    job.wait_end()
    job.completed(iterations=6, ranks=4)
    assert f"launcher: {words} (4 ranks on n[1-2])" in job.text()


def test_one_rank_per_gpu(submit: Submit, tmp_path: Path) -> None:
    """The nodes only pretend to have GPUs, so the ranks compute on the CPU; what they are given is real."""
    launcher = tmp_path / "launcher"
    launcher.write_text(f"#!/bin/sh\nsrun --mpi=none sh -c 'echo sees $CUDA_VISIBLE_DEVICES'\nexec {SRUN} \"$@\"\n")
    launcher.chmod(0o755)
    job = submit(
        "gpu.sbatch",
        "--set",
        "parallel.device=cpu",
        env={"LAUNCHER": str(launcher)},
        options=["-N1", "-c1", "--gpus-per-node=2", "--ntasks-per-node=2"],
    )
    job.wait_end()
    job.completed(iterations=6, ranks=2)
    assert job.text().count("sees 0,1\n") == 2, job.text()


def test_sweep(submit: Submit) -> None:
    job = submit("array.sbatch", "--set", "solver.max_iterations=3", options=["--array=1,5,6", "--ntasks-per-node=2"])
    job.wait_end()
    for task, solver, key, value in [(1, "newton", "seed", 1), (5, "adam", "learning_rate", 0.003)]:
        job.completed(3, 2, task)
        found = strict_yaml.parse((job.run(task) / "config.yaml").read_text(), "config.yaml")["solver"]
        assert (found["name"], found[key]) == (solver, value)
    assert job.show(6)["ExitCode"] == "2:0" and "beyond the 6 settings" in job.text()


@pytest.mark.parametrize("launcher", ["auto", "mpiexec"])
def test_warned_saved_requeued_resumed(submit: Submit, launcher: str) -> None:
    job = submit("requeue.sbatch", *LONG, options=TWO, env={"LAUNCHER": launcher})
    job.wait_iteration(3)
    command("scancel", "--batch", "--signal=USR1", job.id)  # what --signal=B:USR1@180 sends before the time limit
    job.wait(lambda: job.show().get("Restarts") == "1", "a restart")
    saved = job.iterations()[-1]
    assert 3 <= saved < 40
    job.wait_end()
    job.completed(iterations=40, ranks=2)
    text = job.text()
    assert "dnewton ended with exit code 85" in text and "run 2 of job" in text
    assert f"resuming after iteration {saved}" in (job.run() / "log.txt").read_text()  # nothing was computed twice


def test_warned_before_the_ranks_are_ready(submit: Submit) -> None:
    job = submit("requeue.sbatch", options=TWO, env={"SLURM_WAIT": "5"})
    job.wait(lambda: "launcher: " in job.text(), "the start")
    command("scancel", "--batch", "--signal=USR1", job.id)
    job.wait(lambda: job.show().get("Restarts") == "1" or not job.in_queue(), "a restart")
    job.wait_end()
    job.completed(iterations=6, ranks=2)
    assert "run 2 of job" in job.text()


@pytest.mark.parametrize("silent", [False, True], ids=["told", "silent"])
def test_failed_node(submit: Submit, frozen: list[int], silent: bool) -> None:
    """A node that is taken down, and one that no longer answers: there the other ranks cannot save anything."""
    job = submit("requeue.sbatch", *LONG, "--set", "output.checkpoint_every=2", options=TWO)
    job.wait_iteration(4)
    node = command("scontrol", "show", "hostnames", job.show()["NodeList"]).split()[-1]
    if silent:
        freeze(node, frozen)
    command("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    job.wait(lambda: job.show().get("Restarts") == "1", "a restart")
    job.wait(lambda: job.text().count("resuming after iteration") == 1 or not job.in_queue(), "the second run")
    job.wait_end()
    job.completed(iterations=40, ranks=2)
    assert "run 2 of job" in job.text() and (job.show()["NodeList"] == "n[1,3]" or not silent)


def test_cancelled_is_not_requeued(submit: Submit) -> None:
    job = submit("requeue.sbatch", *LONG, options=TWO)
    job.wait_iteration(2)
    command("scancel", job.id)
    job.wait_end()
    assert (job.show()["JobState"], job.show()["Restarts"]) == ("CANCELLED", "0")


def test_wrong_pmi_is_refused(submit: Submit) -> None:
    job = submit("cpu.sbatch", options=TWO_BY_TWO, env={"LAUNCHER": "srun --mpi=none"})
    job.wait_end()
    assert job.show()["ExitCode"] == "2:0", job.report()
    assert "dnewton: error:" in job.text() and SRUN in job.text()
    assert not (job.run() / "metrics.jsonl").exists()


def test_another_user() -> None:
    """Root's files may be out of reach for others, so this user gets the repository and the environment anew."""
    if os.geteuid() != 0:
        pytest.skip("only root can submit as another user")
    python = readable_python()
    if python is None:
        pytest.skip(f"user nobody can run no Python {sys.version_info[0]}.{sys.version_info[1]} of this machine")
    with tempfile.TemporaryDirectory(prefix="dnewton-nobody-") as temporary:
        home = Path(temporary)
        home.chmod(0o755)
        venv, work = home / ".venv", home / "work"
        subprocess.run([python, "-m", "venv", "--without-pip", str(venv)], check=True)
        for part in ("lib", "bin"):  # what the new environment has already stays
            shutil.copytree(Path(sys.prefix) / part, venv / part, dirs_exist_ok=True, copy_function=link, ignore=UNUSED)
        shutil.copytree(ROOT / "dnewton", home / "dnewton")
        shutil.copytree(SCRIPTS, home / "scripts" / "slurm")
        work.mkdir()
        write_problem(work)
        shutil.chown(work, "nobody", "nogroup")
        base = {**environment(str(venv), home), "HOME": str(work), "USER": "nobody"}
        job = Job("cpu.sbatch", work, options=TWO_BY_TWO, root=home, user="nobody", base=base)
        job.wait_end()
        job.completed(iterations=6, ranks=4)
        assert job.show()["UserId"].startswith("nobody(")
        assert job.run().owner() == "nobody"


def link(source: str, target: str) -> None:
    """A hard link where the file system has them between these places, else a copy; nothing is replaced."""
    if not os.path.lexists(target):
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(source, target, follow_symlinks=False)


def readable_python() -> str | None:
    """An interpreter of this version that user nobody can run."""
    code = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            if subprocess.run([python, "-c", code], user="nobody", group="nogroup", check=False).returncode == 0:
                return python
        except OSError:
            continue
    return None
