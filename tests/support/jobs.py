"""Jobs of their own that tests start: the launcher, its environment, and the processes of the ranks."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from places import ARRAYS, DEVICE

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

from torture import ranks_of as ranks_of

MPIRUN = Path(sysconfig.get_path("scripts")) / "mpirun"


def environment() -> dict[str, str]:
    """This process's without MPI's own variables."""
    prefixes = ("PMI", "OMPI_", "PMIX", "HYDRA", "MPI_LOCAL", "MPIR_", "PRTE", "HYDI")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    return {**kept, "OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@functools.cache
def launcher() -> tuple[str, ...]:
    """mpirun, with what Open MPI wants where there are more ranks than cores."""
    program = str(MPIRUN) if MPIRUN.exists() else shutil.which("mpirun") or "mpirun"
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    return (program, "--oversubscribe") if "Open MPI" in version or "Open RTE" in version else (program,)


def command(ranks: int, *args: str, module: str = "dnewton.train") -> list[str]:
    run = [module] if module.endswith(".py") else ["-m", module]
    if ARRAYS == "strict" and device_arguments(module, args):
        run = [str(Path(__file__).with_name("strict_job.py")), module]
    return [*launcher(), "-np", str(ranks), sys.executable, *run, *args, *device_arguments(module, args)]


def device_arguments(module: str, args: tuple[str, ...]) -> list[str]:
    """What makes a job compute where the tests do (tests/support/places.py)."""
    if DEVICE == "cpu" or "--help" in args or "--version" in args:
        return []
    setting = ["--set", "parallel.device=cuda"]
    words = {"dnewton.train": setting, "dnewton.compare": setting, "dnewton.predict": ["--device", "cuda"]}
    return words.get(module, [])


def start(ranks: int, *args: str, cwd: Path, module: str = "dnewton.train", timeout: float = 120) -> Any:
    """Run a job to its end."""
    whole = command(ranks, *args, module=module)
    return subprocess.run(
        whole, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What a condition gives once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not true within {seconds} s: {condition}")
