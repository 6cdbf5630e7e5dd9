"""What all ranks contribute to a line of metrics: each rank's figures travel in one message to rank 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dnewton.comm.communicator import Comm
from dnewton.comm.traffic import PHASES
from dnewton.hardware import node
from dnewton.hardware.device import Device
from dnewton.solvers.interface import IterationReport


class PhaseTraffic(NamedTuple):
    """What was communicated in a phase."""

    calls: float
    bytes: float
    seconds: float  # in MPI


class DeviceFigures(NamedTuple):
    """What a rank's GPU was used for, since the start of the run."""

    peak_bytes: float
    waits: float  # collectives that waited for the device
    staged_bytes: float  # copied between device and host for messages


class SolveFigures(NamedTuple):
    """A rank's part in the last iteration, and its memory."""

    cg_iterations: float
    active: float  # 1.0 if the rank had something to solve
    terminated: float  # 1.0 if it was cut off by early termination
    wait_seconds: float
    peak_rss_bytes: float


@dataclass(frozen=True)
class RankFigures:
    """What one rank contributes."""

    solve: SolveFigures
    traffic: dict[str, PhaseTraffic]  # since the line before, for every phase
    device: DeviceFigures | None  # None where arrays are in host memory

    def pack(self) -> list[float]:
        """As the numbers of a message, as many on all ranks of a job."""
        return [*self.solve, *(value for name in PHASES for value in self.traffic[name]), *(self.device or ())]

    @classmethod
    def unpack(cls, values: Sequence[float]) -> RankFigures:
        """What :meth:`pack` made into numbers."""
        numbers = iter(map(float, values))

        def take(count: int) -> list[float]:
            return [next(numbers) for _ in range(count)]

        solve = SolveFigures(*take(len(SolveFigures._fields)))
        traffic = {name: PhaseTraffic(*take(len(PhaseTraffic._fields))) for name in PHASES}
        rest = list(numbers)
        return cls(solve, traffic, DeviceFigures(*rest) if rest else None)


@dataclass(frozen=True)
class CGCounts:
    """CG iterations over the ranks that had something to solve."""

    min: int = 0
    mean: float = 0.0
    max: int = 0


@dataclass(frozen=True)
class JobFigures:
    """What the ranks contribute together."""

    cg: CGCounts
    cg_of_ranks: list[int | None]  # None: had nothing to solve
    terminated: list[int]  # the ranks that were cut off
    wait_seconds: float
    traffic: dict[str, PhaseTraffic]  # summed over the ranks
    peak_rss_bytes: int  # the largest rank's
    device: DeviceFigures | None  # the largest peak; waits and bytes summed


def summarize(ranks: Sequence[RankFigures]) -> JobFigures:
    """The ranks' figures as the job's."""
    counts = [int(rank.solve.cg_iterations) for rank in ranks if rank.solve.active > 0]
    devices = [rank.device for rank in ranks if rank.device is not None]
    return JobFigures(
        cg=CGCounts(min(counts), sum(counts) / len(counts), max(counts)) if counts else CGCounts(),
        cg_of_ranks=[int(rank.solve.cg_iterations) if rank.solve.active > 0 else None for rank in ranks],
        terminated=[number for number, rank in enumerate(ranks) if rank.solve.terminated > 0],
        wait_seconds=sum(rank.solve.wait_seconds for rank in ranks),
        traffic={name: PhaseTraffic(*map(sum, zip(*(r.traffic[name] for r in ranks), strict=True))) for name in PHASES},
        peak_rss_bytes=int(max(rank.solve.peak_rss_bytes for rank in ranks)),
        device=DeviceFigures(
            max(d.peak_bytes for d in devices), sum(d.waits for d in devices), sum(d.staged_bytes for d in devices)
        )
        if devices
        else None,
    )


class Metrics:
    """Gathers the job's figures for one line after another, and adds them up for the summary at the end."""

    def __init__(self, comm: Comm, device: Device, from_now: bool) -> None:
        """`from_now`: what has been communicated before is not counted."""
        self._comm = comm
        self._device = device
        self._counted = {name: comm.ledger[name].values() if from_now else (0.0,) * 4 for name in PHASES}
        self.phase_seconds: dict[str, float] = {}  # this rank's, between the last two lines
        self.totals: dict[str, dict[str, float]] = {name: {} for name in PHASES}

    def gather(self, step: IterationReport) -> JobFigures:
        """The job's figures on rank 0; other ranks get their own. Collective over the ranks of `comm`."""
        own = self._own(step)
        job = summarize([RankFigures.unpack(row) for row in self._comm.gather_to_root(own.pack())])
        for name, total in self.totals.items():
            for key, value in {**job.traffic[name]._asdict(), "elapsed": self.phase_seconds[name]}.items():
                total[key] = total.get(key, 0.0) + value
        return job

    def _own(self, step: IterationReport) -> RankFigures:
        """This rank's figures; traffic counts from here on for the next line."""
        now = {name: self._comm.ledger[name].values() for name in PHASES}
        change = {n: [a - b for a, b in zip(now[n], self._counted[n], strict=True)] for n in PHASES}
        self._counted = now
        self.phase_seconds = {name: values[3] for name, values in change.items()}
        buffers = self._comm.buffers
        device = None
        if not self._device.is_host:
            device = DeviceFigures(self._device.peak_bytes(), buffers.synchronised, buffers.staged)
        solve = SolveFigures(step.cg, step.active, step.cut, step.waited, node.peak_rss_bytes())
        return RankFigures(solve, {name: PhaseTraffic(*values[:3]) for name, values in change.items()}, device)
