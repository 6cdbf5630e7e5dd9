"""Stopping together: whoever wants it, whenever, all ranks leave at the same point and nobody is left waiting."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import pytest

from dnewton.cli.launch import check_launcher
from dnewton.comm import watchdog
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import CHECKPOINT, TIME_LIMIT, StopAgreement, Stopped
from dnewton.comm.watchdog import Unanswered
from dnewton.errors import UserError


@pytest.fixture(scope="module")
def watched(comm: Comm) -> Comm:
    found = comm.dup()
    found.stops = StopAgreement(found, 60)
    return found


@pytest.fixture(autouse=True)
def _unarmed(watched: Comm) -> Iterator[None]:
    yield
    watched.stops.armed = False


def work(comm: Comm, replica: Comm, model: int, draw: random.Random, trace: list[int]) -> None:
    """Steps as a solver takes them: batches (more of them in some replicas), sums over replicas, a local solve."""
    stops = comm.stops
    number = 0
    while True:
        for _ in range(2 + comm.rank // model % 2):
            stops.safe_point()
            number += 1
            trace.append(number)
            time.sleep(draw.random() * 1e-3)
            replica.allreduce(np.ones(3))
        stops.sync_point()
        trace.append(-1)
        comm.sum_scalars([1.0])
        for _ in range(draw.randrange(8)):  # as many as it takes on this rank; no messages
            time.sleep(draw.random() * 1e-3)
            if stops.stop_requested():
                break
        comm.sum_scalars([2.0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("model", [1, 2])
def test_all_leave_together(watched: Comm, seed: int, model: int) -> None:
    comm = watched
    if comm.size % model:
        return
    everywhere, mine = random.Random(seed), random.Random(1000 * seed + comm.rank)
    wanting = {everywhere.randrange(comm.size) for _ in range(1 + seed % 3)}
    after = everywhere.random() * 0.03
    replica = replicas(comm, model)
    stops = comm.stops
    assert isinstance(stops, StopAgreement)
    stops.armed = True
    for _ in range(3):  # a run that goes on after a checkpoint can be stopped again
        trace: list[int] = []
        timed = Timed(mine.randrange(100), stops if comm.rank in wanting else None, after)
        with pytest.raises(Stopped) as stopped:
            work(comm, replica, model, timed, trace)
        assert stopped.value.reason == 15 and stopped.value.rank in wanting
        assert stopped.value.why == f"SIGTERM on rank {stopped.value.rank}"
        sums, last = trace.count(-1), trace[-1] if trace else 0
        assert comm.minmax(float(sums)) == (float(sums), float(sums))  # so all are between the same two sums
        assert replica.minmax(float(last)) == (float(last), float(last))
        stops.resume()
        stops._wanted = None  # asked for during the stop: would be the next one


class Timed(random.Random):
    """Asks for a stop when its time has come, wherever the rank is then."""

    def __init__(self, seed: int, stops: StopAgreement | None, after: float) -> None:
        super().__init__(seed)
        self._stops, self._end = stops, time.perf_counter() + after

    def random(self) -> float:
        if self._stops is not None and time.perf_counter() > self._end:
            self._stops.want(15)
            self._stops = None
        return super().random()


_split: dict[int, Comm] = {}


def replicas(comm: Comm, model: int) -> Comm:
    if model not in _split:
        _split[model] = comm.split(comm.rank // model)
    return _split[model]


def until_stopped(comm: Comm) -> Stopped:
    with pytest.raises(Stopped) as stopped:
        while True:
            comm.stops.safe_point()
            comm.barrier()
    return stopped.value


def test_the_most_urgent_reason_wins(watched: Comm) -> None:
    stops = watched.stops
    assert isinstance(stops, StopAgreement)
    stops.armed = True
    stops.due(time.monotonic())  # only rank 0's clock counts
    stop = until_stopped(watched)
    assert (stop.reason, stop.rank) == (CHECKPOINT, 0)
    stops.due(None)
    stops.resume()
    stops.limit(time.monotonic() if watched.rank == 0 else None)
    if watched.rank == watched.size - 1:
        stops.want(10)
    stop = until_stopped(watched)
    assert stop.reason in (10, TIME_LIMIT)
    stops.limit(None)
    stops._wanted = None
    stops.resume()
    watched.barrier()


def test_nothing_stops_inside_what_is_held(watched: Comm) -> None:
    stops = watched.stops
    assert isinstance(stops, StopAgreement)
    stops.armed = True
    stops.want(10)
    with stops.no_stop():
        stops.safe_point()
        stops.sync_point()
        assert not stops.stop_requested()
    assert until_stopped(watched).reason == 10
    stops._wanted = None
    stops.resume()
    watched.barrier()


@pytest.mark.parametrize("busy", [False, True])
def test_a_rank_that_does_not_answer_is_named(watched: Comm, monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    if watched.size == 1:
        return
    monkeypatch.setattr(watchdog, "GRACE", 0.15)
    comm = watched.dup()  # a rank will leave it in the middle of a barrier
    comm.stops = StopAgreement(comm, 0.2)
    comm.stops.armed = True
    last = comm.size - 1
    with comm.phase("combine"):
        if comm.rank == last:
            end = time.monotonic() + 1.2
            while time.monotonic() < end:
                time.sleep(0.01)
                if busy:
                    comm.stops.safe_point()  # slow, but alive
            comm.barrier()
        elif busy:
            comm.barrier()
        else:
            with pytest.raises(Unanswered, match=rf"^rank {last} does not answer; rank \d has waited .* phase combine"):
                comm.barrier()
    watched.barrier()


def test_short_waits_are_no_deadlock(watched: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank waits long for others that wait for each other again and again, but get further."""
    if watched.size < 3:
        return
    monkeypatch.setattr(watchdog, "GRACE", 0.1)
    comm = watched.dup()
    comm.stops = StopAgreement(comm, 0.2)
    comm.stops.armed = True
    others = comm.split(int(comm.rank > 0))
    if comm.rank:
        end = time.monotonic() + 1.5
        while others.sum_scalars([float(others.rank == 0 and time.monotonic() < end)])[0]:
            time.sleep(0.02 if others.rank else 0.0)
    comm.barrier()
    watched.barrier()


def test_a_rank_that_hangs_while_others_agree_is_named(watched: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    if watched.size == 1:
        return
    monkeypatch.setattr(watchdog, "GRACE", 0.1)
    comm = watched.dup()
    comm.stops = stops = StopAgreement(comm, 0.2)
    stops.armed = True
    if comm.rank == comm.size - 1:
        time.sleep(1.5)
    else:
        stops.want(15)
        with pytest.raises(Unanswered, match=f"^rank {comm.size - 1} does not answer"):
            stops.safe_point()
    watched.barrier()


def test_ranks_that_wait_for_each_other_are_found_out(watched: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    if watched.size != 2:
        return
    monkeypatch.setattr(watchdog, "GRACE", 0.1)
    comm = watched.dup()
    comm.stops = StopAgreement(comm, 0.2)
    comm.stops.armed = True
    wrong = pytest.raises(Unanswered, match="all ranks wait for each other")
    with comm.phase("cg" if comm.rank else "function"), wrong:
        comm.receive(np.zeros(1), 1 - comm.rank, 5)
    watched.barrier()


@pytest.mark.parametrize(
    ("ranks", "environment", "wrong"),
    [
        (1, {"SLURM_NTASKS": "4"}, "SLURM_NTASKS is 4"),
        (4, {"SLURM_NTASKS": "4"}, ""),
        (1, {"SLURM_NTASKS": "1"}, ""),
        (1, {"SLURM_NTASKS": "4", "PMI_SIZE": "1"}, ""),
        (1, {"PMI_SIZE": "2"}, "PMI_SIZE is 2"),
        (2, {"PMI_SIZE": "2"}, ""),
        (1, {"OMPI_COMM_WORLD_SIZE": "3", "SLURM_NTASKS": "3"}, "OMPI_COMM_WORLD_SIZE is 3"),
        (1, {}, ""),
        (1, {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, "SLURM_STEP_NUM_TASKS is 8"),
        (1, {"PMI_SIZE": "x"}, ""),
    ],
)
def test_worlds_of_one_rank_are_refused(ranks: int, environment: dict[str, str], wrong: str) -> None:
    if not wrong:
        check_launcher(ranks, environment)
        return
    with pytest.raises(UserError, match=f"{wrong}, but MPI sees 1 rank.*mpiexec"):
        check_launcher(ranks, environment)


def test_nothing_stays_in_a_channel_that_is_given_back(watched: Comm) -> None:
    """A message that nobody received would reach whoever gets the same communicator later."""
    stops = watched.stops
    assert isinstance(stops, StopAgreement)
    for rank in set(range(watched.size)) - {watched.rank}:
        stops._tell(rank, 3, 5)
    stops.close()
    watched.barrier()
    assert stops._channel.arrived() is None and not stops._sent
