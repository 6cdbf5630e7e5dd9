"""A little of what scripts/fuzz.py does at length: damaged files end in a UserError and in nothing else."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnewton.comm.communicator import Comm

pytestmark = pytest.mark.serial

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz.py"
found = importlib.util.spec_from_file_location("fuzz", SCRIPT)
assert found is not None and found.loader is not None
fuzz = sys.modules["fuzz"] = importlib.util.module_from_spec(found)
found.loader.exec_module(fuzz)


@pytest.mark.parametrize(
    "name", ["yaml", "set", "init", "manifest", "npy", "npz", "libsvm", "csv", "idx", "records", "batch"]
)
def test_damaged_files(comm: Comm, tmp_path: Path, name: str) -> None:
    target = fuzz.make(name, tmp_path, comm)
    for seed in target.seeds:
        assert fuzz.tried(target, seed, timed=False)[0] in ("read", "refused")

    @settings(max_examples=80)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        data = fuzz.mutated(random.Random(seed), target)
        with np.errstate(all="ignore"):
            outcome, trace = fuzz.tried(target, data, timed=False)
        assert not trace, (data, outcome, trace)

    check()
