"""Submit the shipped batch scripts, wait for what their jobs do, and read what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from folding import unfolded

from dnewton.config import strict_yaml

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts" / "slurm"
OPEN_MPI = (
    "Open MPI"
    in subprocess.run(
        [sys.executable, "-m", "mpi4py", "--mpi-lib-version"], capture_output=True, text=True, check=True
    ).stdout
)
TIMEOUT = 90.0  # seconds for anything that a job should do; a few are usual


def command(*words: str, check: bool = True, **more: Any) -> str:
    """Run a program and return what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, **more)
    assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def environment(venv: str = sys.prefix, root: Path = ROOT) -> dict[str, str]:
    """What a user has who submits: no variables of MPI, of Slurm's jobs or of pytest, and an active environment."""
    foreign = ("PMI", "OMPI_", "PMIX", "HYDRA", "MPI_LOCAL", "MPIR_", "PRTE", "HYDI", "SLURM_", "SBATCH_", "PYTEST")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    kept.update(
        SLURM_CONF=os.environ["SLURM_CONF"],
        VIRTUAL_ENV=venv,
        PYTHONPATH=str(root),
        XDG_CACHE_HOME=os.devnull,
        # Open MPI's mpiexec: as root, and on nodes that only pretend to have the cores that Slurm gives out.
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PRTE_MCA_hwloc_default_binding_policy="none",
    )
    return kept


def write_problem(folder: Path) -> None:
    """net.yaml and its data: quick to read, and an iteration takes long enough to be interrupted."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 20))
    np.savez(folder / "data.npz", x=x, y=np.argmax(x @ rng.normal(size=(20, 4)) + rng.normal(size=(4000, 4)), axis=1))
    values = {
        "net": {
            "input": [20],
            "loss": "cross_entropy",
            "layers": [{"dense": {"units": 64, "activation": "tanh"}}, {"dense": {"units": 4}}],
        },
        "data": {"train": str(folder / "data.npz")},
        "solver": {"C": 1.0, "max_iterations": 6, "subsample": 0.5, "start": "none"},
        "parallel": {"dtype": "float64"},
    }
    (folder / "net.yaml").write_text(strict_yaml.dump(values))


class Job:
    """A job of one of the shipped scripts, in the repository root as a user submits it."""

    def __init__(
        self,
        script: str,
        folder: Path,
        *arguments: str,
        options: Sequence[str] = (),
        env: dict[str, str] | None = None,
        root: Path = ROOT,
        user: str | None = None,
        base: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.output = folder, folder / "%A_%a.out" if script == "array.sbatch" else folder / "%j.out"
        words = ["sbatch", "--parsable", f"--output={self.output}", *options, f"scripts/slurm/{script}"]
        words += ["--net", str(folder / "net.yaml"), *arguments]
        more: dict[str, Any] = {"user": user, "group": "nogroup", "extra_groups": []} if user else {}
        full = {**(base or environment()), "RUNS": str(folder / "runs"), **(env or {})}
        self.id = command(*words, env=full, cwd=root, **more).split(";")[0]

    # --- what Slurm says --------------------------------------------------------------------------------------------

    def show(self, task: int | None = None) -> dict[str, str]:
        """`scontrol show job` as a dictionary."""
        name = self.id if task is None else f"{self.id}_{task}"
        text = command("scontrol", "show", "job", "--oneliner", "--details", name)
        return dict(word.split("=", 1) for word in text.splitlines()[0].split() if "=" in word)

    def in_queue(self) -> bool:
        """Whether it waits, runs or is being ended."""
        return bool(command("squeue", "-h", "-j", self.id, "-o", "%T", check=False))

    def wait_end(self, timeout: float = TIMEOUT) -> None:
        """Until it has left the queue."""
        self.wait(lambda: not self.in_queue(), "the end of the job", timeout)

    def wait(self, reached: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
        """Poll; with the job's output in the message when it takes too long."""
        end = time.monotonic() + timeout
        while not reached():
            assert time.monotonic() < end, f"{what}: not within {timeout:g} s\n{self.report()}"
            time.sleep(0.1)

    # --- what it leaves ---------------------------------------------------------------------------------------------

    def text(self) -> str:
        """What the job, or all tasks of an array, printed."""
        pattern = self.output.name.replace("%j", self.id).replace("%A", self.id).replace("%a", "*")
        return unfolded("".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(pattern))))

    def report(self) -> str:
        """For a test that failed."""
        return f"--- job {self.id}: {command('scontrol', 'show', 'job', self.id, check=False)}\n{self.text()}\n---"

    def run(self, task: int | None = None) -> Path:
        """Its run directory."""
        return self.folder / "runs" / self.id / ("" if task is None else str(task))

    def iterations(self, task: int | None = None) -> list[int]:
        """The iterations that metrics.jsonl tells, in its order."""
        path = self.run(task) / "metrics.jsonl"
        whole = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [int(json.loads(line)["iteration"]) for line in whole if line.endswith("\n")]

    def wait_iteration(self, number: int) -> None:
        """Until the run has got there."""
        self.wait(lambda: max(self.iterations(), default=-1) >= number or not self.in_queue(), f"iteration {number}")
        assert self.iterations()[-1] >= number, self.report()

    def ranks(self, task: int | None = None) -> set[int]:
        """The sizes of MPI's world that the run itself saw."""
        lines = (self.run(task) / "log.txt").read_text().splitlines()
        return {int(line.split(" on ")[1].split()[0]) for line in lines if " rank(s), run directory" in line}

    def completed(self, iterations: int, ranks: int, task: int | None = None) -> None:
        """At its end, with every iteration once, on as many ranks as Slurm gave it."""
        shown = self.show(task)
        assert (shown["JobState"], shown["ExitCode"]) == ("COMPLETED", "0:0"), self.report()
        assert self.iterations(task) == list(range(iterations + 1))
        assert self.ranks(task) == {ranks} == {int(shown["NumTasks"])}
        assert (self.run(task) / "model.safetensors").exists()
