"""Pytest under MPI: one failing rank fails the test on all, nothing hangs, and what ran is written down.

Markers: `mpi(min_size=n)` (pytest-mpi) needs n ranks; `serial` runs on one rank only (it starts jobs of its own).
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Iterator

import places  # before anything imports CuPy
import pytest
from hypothesis import HealthCheck, settings

from dnewton.comm.communicator import MPI, Comm

LIMIT = float(os.environ.get("DNEWTON_TEST_TIMEOUT", "300"))  # seconds for one test, and for ranks to meet after it
LEDGER = os.environ.get("DNEWTON_TEST_LEDGER")  # a file that collects which tests ran

os.environ["XDG_CACHE_HOME"] = os.devnull  # stated rates: no test writes to the user's cache

_agreement = MPI.COMM_WORLD.Dup()
_ran: dict[str, bool] = {}

# All ranks must draw the same examples.
settings.register_profile(
    "mpi",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40 if places.ARRAYS == "numpy" else 10,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mpi")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "serial: runs on one rank only")
    config.addinivalue_line("markers", "at16: part of the smoke test on 16 ranks")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("serial") and MPI.COMM_WORLD.Get_size() > 1:
        pytest.skip("runs on one rank only")


def _stop(message: str) -> None:
    sys.stderr.write(f"\nrank {MPI.COMM_WORLD.Get_rank()}: {message}; ending the job\n")
    faulthandler.dump_traceback(file=sys.__stderr__)
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(3)


def _failed_anywhere(failed: bool, name: str) -> list[int]:
    """The ranks on which a test failed; ends the job if a rank does not get here in time."""
    size = _agreement.Get_size()
    if size == 1:
        return [0] if failed else []
    import numpy as np

    flags = np.zeros(size, dtype=np.int32)
    request = _agreement.Iallgather(np.array([failed], dtype=np.int32), flags)
    limit = 20.0 if failed else LIMIT
    start = time.monotonic()
    while not request.Test():
        if time.monotonic() - start > limit:
            _stop(f"{name}: {'failed here and' if failed else 'ended here but'} other ranks did not finish it")
        time.sleep(1e-3)
    return [int(r) for r in np.flatnonzero(flags)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    timer = threading.Timer(LIMIT, _stop, [f"{item.nodeid}: longer than {LIMIT} s"])
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.failed and MPI.COMM_WORLD.Get_size() > 1:
        sys.stderr.write(f"\nrank {MPI.COMM_WORLD.Get_rank()}: {item.nodeid} failed\n{report.longreprtext}\n")
        sys.stderr.flush()
    if report.when == "call":
        ranks = _failed_anywhere(report.failed, item.nodeid)
        if ranks and report.passed:
            report.outcome, report.longrepr = "failed", f"failed on rank(s) {ranks}"
        _ran[item.nodeid] = not report.skipped
    elif report.when == "setup":
        _ran.setdefault(item.nodeid, False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if LEDGER and MPI.COMM_WORLD.Get_rank() == 0:
        with open(LEDGER, "a") as file:
            file.write(json.dumps({"ranks": MPI.COMM_WORLD.Get_size(), "tests": _ran}) + "\n")


@pytest.fixture(scope="session")
def comm() -> Comm:
    """The whole job on a 1 x P grid."""
    found = Comm.world()
    found.buffers.straight = places.STRAIGHT
    return found
