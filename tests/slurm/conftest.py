"""Tests on a real Slurm, which `scripts/local_slurm.sh run` starts; without one they are skipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pytest
from batch_jobs import OPEN_MPI, Job, command, write_problem


def pytest_itemcollected(item: pytest.Item) -> None:
    if Path(__file__).parent in item.path.parents:
        item.add_marker(pytest.mark.serial)  # they start jobs of their own


@pytest.fixture(autouse=True)
def local_slurm() -> None:
    """Not on whatever Slurm this machine may have: these tests take nodes down."""
    if not os.environ.get("DNEWTON_TEST_SLURM"):
        pytest.skip("needs a Slurm for tests: DNEWTON_TEST_SLURM=1 scripts/local_slurm.sh run pytest tests/slurm")
    if OPEN_MPI and not glob("/usr/lib/*/pmix2/lib/libpmix.so"):
        pytest.skip("Slurm's pmix plugin finds no libpmix.so here (Debian, Ubuntu: package libpmix-dev)")


@pytest.fixture
def submit(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """`submit(script, *arguments, options=..., env=...)`; what a failed test's jobs printed is shown with it."""
    jobs: list[Job] = []
    write_problem(tmp_path)

    def submit(script: str, *arguments: str, **more: Any) -> Job:
        jobs.append(Job(script, tmp_path, *arguments, **more))
        return jobs[-1]

    yield submit
    for job in jobs:
        print(job.report())
        command("scancel", job.id, check=False)
    for job in jobs:
        job.wait_end(60)
