"""BLAS threads by the size of the work, for all libraries that a run brings."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
from jobs import environment

from dnewton.config.schema import Config
from dnewton.hardware import node
from dnewton.planning import costs, grid_search
from dnewton.planning.net_plan import infer_shapes


@pytest.mark.parametrize(
    ("share", "flops", "threads"),
    [(2, 9e7, 1), (2, 1.1e8, 2), (64, 1.1e8, 2), (64, 1e9, 20), (64, math.inf, 64), (0.5, 1e12, 1), (8, 0.0, 1)],
)
def test_threads_by_cores_and_by_the_largest_product(share: float, flops: float, threads: int) -> None:
    assert node.threads_for(share, flops) == threads


def test_the_largest_product() -> None:
    layers = [{"conv": {"channels": 3, "kernel": 3}}, "flatten", {"dense": {"units": 7}}]
    config = Config.model_validate({"net": {"input": [2, 6, 5], "loss": "squared", "layers": layers}})
    plan = grid_search.choose(infer_shapes(config.net), 1, grid_search.Workload(100, 10, 7))
    conv, dense = (4 * 3) * 3 * (2 * 9), 7 * 36
    assert costs.largest_product(plan, 100, 0) == 2 * 100 * max(conv, dense)
    assert costs.largest_product(plan, 1, 500) == 2 * 500**2 * 36


CHILD = """
import json
from threadpoolctl import threadpool_info
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.training.job import assemble
from dnewton.training.checkpoint_reader import initial_state
units = {units}
layers = [{{"dense": {{"units": n}}}} for n in (units, units, 1)]
config = Config.model_validate({{
    "net": {{"input": [10], "loss": "squared", "layers": layers}}, "data": {{"train": "diabetes"}},
    "solver": {{"subproblem": "exact"}}, "parallel": {{"rates": {{"flops": 1e10, "bandwidth": 1e10}}}}}})
job = assemble(config, Comm.world(), "net.yaml")
job.solver.begin(initial_state(job, None))
job.solver.step()
import scipy.linalg
pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
print("found:", json.dumps([pools, job.comm.cores, job.notes[0]]))
"""


@pytest.mark.serial
def test_every_library_of_a_run_is_limited() -> None:
    """NumPy's BLAS and SciPy's, which scikit-learn's data and the solver bring after the plan was made."""
    for units, most in ((16, 1), (800, 9)):  # what the largest products are worth
        free = {k: v for k, v in environment().items() if k not in node.THREAD_VARIABLES}
        pools, cores, note = _child(units, free)
        expected = max(1, min(int(cores), most))
        assert len(pools) >= 2 and set(pools) == {expected}, (units, pools, cores)
        assert note.startswith(f"BLAS threads: {expected} per rank")
    pools, _, note = _child(16, {**free, "OPENBLAS_NUM_THREADS": "2"})
    assert "as set by OPENBLAS_NUM_THREADS=2" in note
    assert max(pools) == min(2, os.cpu_count() or 1)  # what the user says stays in force


def _child(units: int, variables: dict[str, str]) -> tuple[list[int], float, str]:
    code = CHILD.format(units=units)
    ran = subprocess.run([sys.executable, "-c", code], env=variables, check=True, capture_output=True, text=True)
    pools, cores, note = json.loads(ran.stdout.rpartition("found:")[2])
    return pools, cores, note
