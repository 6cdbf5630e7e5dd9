"""Pytest under MPI: one failing rank fails the test on all, nothing hangs, and what ran is written down.

Markers:
- `mpi(min_size=n)` (pytest-mpi) needs n ranks;
- `serial` runs on one rank only, as does every test that knows no other ranks (it asks for no `comm`);
- `jobs(n)` runs on rank 0 of 1, 3, 4 or 16 ranks, the first of these that is enough for its jobs (support/inside.py).
Tests that do not run at a number of ranks are deselected there; check_ran.py fails where one ran nowhere.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator

import inside
import places  # before anything imports CuPy
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from dnewton.comm import library
from dnewton.comm.communicator import Comm

MPI = library.mpi()
LIMIT = float(os.environ.get("DNEWTON_TEST_TIMEOUT", "300"))  # seconds for one test, and for ranks to meet after it
LEDGER = os.environ.get("DNEWTON_TEST_LEDGER")  # a file that collects which tests ran

os.environ["XDG_CACHE_HOME"] = os.devnull  # stated rates: no test writes to the user's cache

# All of its tests are serial, and it imports scikit-learn.
collect_ignore = ["api/test_estimators.py"] if MPI.COMM_WORLD.Get_size() > 1 else []
_agreement = MPI.COMM_WORLD.Dup()
_ran: dict[str, bool] = {}
_failed: set[str] = set()

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
if hasattr(providers, "_get_local_constants"):
    # It draws numbers that it finds in the modules that are loaded, and these differ from rank to rank: a job of two
    # ranks inside the session loads some on two alone.
    providers._get_local_constants = providers.Constants


def pytest_configure(config: pytest.Config) -> None:
    inside.keep_stderr()
    if MPI.COMM_WORLD.Get_rank():
        config.pluginmanager.register(Serving())
    config.addinivalue_line("markers", "serial: runs on one rank only")
    config.addinivalue_line("markers", "jobs(n): runs on rank 0, and starts jobs of up to n ranks on the session's")
    config.addinivalue_line("markers", "at16: part of the smoke test on 16 ranks")


def _runs_here(item: pytest.Item) -> bool:
    size = MPI.COMM_WORLD.Get_size()
    jobs, mpi = item.get_closest_marker("jobs"), item.get_closest_marker("mpi")
    if jobs is not None:
        return size == inside.home(*jobs.args)
    alone = "comm" not in getattr(item, "fixturenames", ()) and places.ARRAYS == "numpy"  # others: on all their ranks
    if alone or item.get_closest_marker("serial"):
        return size == 1
    return mpi is None or size >= mpi.kwargs.get("min_size", 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    elsewhere = [item for item in items if not _runs_here(item)]
    items[:] = [item for item in items if _runs_here(item)]
    config.hook.pytest_deselected(items=elsewhere)


def pytest_deselected(items: list[pytest.Item]) -> None:
    _ran.update((item.nodeid, False) for item in items)


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
            here = "failed here and" if failed else "ended here but"
            inside.end_session(f"{name}: {here} other ranks did not finish it")
        time.sleep(1e-3)
    return [int(r) for r in np.flatnonzero(flags)]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    timer = threading.Timer(LIMIT, inside.end_session, [f"{item.nodeid}: longer than {LIMIT} s"])
    timer.daemon = True
    timer.start()
    _failed.discard(item.nodeid)
    yield
    timer.cancel()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Before the fixtures' ends, of which some are collective."""
    if item.get_closest_marker("jobs"):
        inside.end(item.nodeid in _failed)


class Serving:
    """On the ranks after the first, a test marked `jobs` is what it asks them to do, fixtures included."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if item.get_closest_marker("jobs") is None:
            return None
        failed = inside.serve()
        item.session._setupstate.teardown_exact(nextitem)  # of tests before this one, as rank 0 does
        why = "failed on rank 0" if failed else None
        report = pytest.TestReport(
            item.nodeid, item.location, {}, "failed" if failed else "passed", why, "call", sections=()
        )
        item.ihook.pytest_runtest_logreport(report=report)
        return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        _failed.add(item.nodeid)
    if report.failed and MPI.COMM_WORLD.Get_size() > 1:
        sys.stderr.write(f"\nrank {MPI.COMM_WORLD.Get_rank()}: {item.nodeid} failed\n{report.longreprtext}\n")
        sys.stderr.flush()
    if report.when == "call":
        ranks = [] if item.get_closest_marker("jobs") else _failed_anywhere(report.failed, item.nodeid)
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
