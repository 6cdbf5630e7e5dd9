"""What ranks contribute to a line of metrics, and that no phase is dropped."""

from __future__ import annotations

import pytest

from dnewton.comm.communicator import Comm
from dnewton.comm.traffic import PHASES, Ledger
from dnewton.hardware.device import Device
from dnewton.solvers.interface import IterationReport
from dnewton.training.metrics import (
    CGCounts,
    DeviceFigures,
    Metrics,
    PhaseTraffic,
    RankFigures,
    SolveFigures,
    summarize,
)


def figures(rank: int, active: bool = True, device: DeviceFigures | None = None) -> RankFigures:
    traffic = {name: PhaseTraffic(i, 100.0 * i + rank, 0.5 * rank) for i, name in enumerate(PHASES)}
    return RankFigures(SolveFigures(3.0 + rank, active, rank == 1, 0.25, 1000.0 + rank), traffic, device)


@pytest.mark.parametrize("device", [None, DeviceFigures(7.0, 8.0, 9.0)])
def test_a_rank_is_unpacked_as_it_was_packed(device: DeviceFigures | None) -> None:
    rank = figures(2, device=device)
    message = rank.pack()
    assert len(message) == 5 + 3 * len(PHASES) + (3 if device else 0)
    assert RankFigures.unpack(message) == rank


def test_ranks_are_summed_or_compared() -> None:
    device = DeviceFigures(50.0, 2.0, 10.0)
    job = summarize([figures(0, device=device), figures(1, device=device._replace(peak_bytes=60.0)), figures(2, False)])
    assert job.cg == CGCounts(3, 3.5, 4)  # rank 2 had nothing to solve
    assert (job.terminated, job.wait_seconds, job.peak_rss_bytes) == ([1], 0.75, 1002)
    assert job.cg_of_ranks == [3, 4, None]
    assert job.traffic["gradient"] == PhaseTraffic(6, 603.0, 1.5)
    assert job.device == DeviceFigures(60.0, 4.0, 20.0)
    assert summarize([figures(0, False)]).cg == CGCounts()


def test_a_line_counts_from_the_line_before(comm: Comm) -> None:
    metrics = Metrics(comm, Device(), from_now=True)
    step = IterationReport(0.0, 0.0, 0.0, 1, cg=comm.rank, active=True)
    for _ in range(2):
        with comm.phase("combine"):
            comm.sum_scalars([1.0, 2.0])
        job = metrics.gather(step)
        if comm.rank == 0:
            sending = comm.size if comm.size > 1 else 0
            assert job.traffic["combine"][:2] == (sending, 16 * sending)
            assert job.cg == CGCounts(0, (comm.size - 1) / 2, comm.size - 1)
            assert set(metrics.phase_seconds) == set(PHASES)
    if comm.rank == 0:
        assert metrics.totals["combine"]["calls"] == 2 * sending


def test_a_phase_that_nothing_would_report_is_an_error(comm: Comm) -> None:
    with pytest.raises(LookupError, match="'early_stop' is no phase"):
        Ledger()["early_stop"]
    before = comm.ledger.phase
    with pytest.raises(LookupError, match="PHASES"), comm.phase("early_stop"):
        pass
    assert comm.ledger.phase == before
