"""What `dnewton plan` prints of forecasts: seconds of one number of ranks, and a table of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dnewton.planning.machine import MachineConstants
from dnewton.planning.scaling import Scaling, verdict
from dnewton.training.planned import Planned

SHOWN = 4  # phases with a column of their own
LEAST = 0.01  # of an iteration, that a phase must take for one
SHORT = {"function": "funct.", "gradient": "grad.", "jacobian": "jacob.", "evaluate": "eval.", "exchange": "exch."}
SHORT |= {"precondition": "precon.", "factors": "factor"}


def seconds(value: float) -> str:
    """Three digits and a unit."""
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if value * factor < 999.5:
            return f"{value * factor:.3g} {unit}"
    return f"{value:.3g} s" if value < 999.5 else f"{value:,.0f} s"


def numbers(value: float) -> str:
    """Bytes in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def about_machine(machine: MachineConstants, origin: str) -> list[str]:
    """The constants that seconds are forecast from."""
    cores = f"{machine.cores} core(s) a node" if machine.cores else "a core per rank"
    nodes = f" on {machine.nodes} node(s)" if machine.nodes else ""
    return [
        f"machine: {machine.flops / 1e9:.3g} Gflop/s, {machine.memory / 1e9:.3g} GB/s of memory, "
        f"{machine.latency * 1e6:.3g} us and {machine.network / 1e9:.3g} GB/s",
        f"  between ranks, {cores}{nodes}",
        f"  ({origin})",
    ]


def one(planned: Planned, assumed: str) -> list[str]:
    """Seconds of an iteration on one number of ranks."""
    total = planned.total
    lines = [f"forecast: {seconds(total)} per iteration{assumed}", f"{'phase':<14} {'seconds':>10} {'share':>6}"]
    for name, value in planned.seconds.items():
        if value:
            lines.append(f"{name:<14} {seconds(value):>10} {value / total:>6.0%}")
    return lines


def table(scaling: Scaling[Planned]) -> list[str]:
    """A row for each number of ranks."""
    rows = scaling.rows
    names = _columns([row.planned.seconds for row in rows])
    head = f"{'ranks':>6} {'layout':<13} {'an iter.':>8}"
    head += "".join(f" {SHORT.get(name, name):>7}" for name in names) + f" {'others':>7}"
    lines = [head + f" {'MiB':>7} {'moved':>7} {'faster':>7} {'eff.':>5}"]
    for row in rows:
        planned = row.planned
        shown = [planned.seconds.get(name, 0.0) for name in names]
        values = [*shown, max(0.0, planned.total - sum(shown))]
        moved = "-" if planned.all_bytes is None else numbers(planned.all_bytes).replace(" ", "")
        lines.append(
            f"{planned.ranks:>6} {planned.layout():<13} {seconds(planned.total):>8}"
            + "".join(f" {seconds(value):>7}" for value in values)
            + f" {planned.how.peak / 2**20:>7.0f} {moved:>7} {row.faster:>6.3g}x {row.efficiency:>5.0%}"
        )
    return lines


def _columns(found: Sequence[Mapping[str, float]]) -> list[str]:
    """The phases that take most, in the order of an iteration."""
    shares: dict[str, float] = {}
    for phases in found:
        total = sum(phases.values()) or 1.0
        for name, value in phases.items():
            shares[name] = max(shares.get(name, 0.0), value / total)
    largest = sorted(shares, key=lambda name: -shares[name])[:SHOWN]
    return [name for name in shares if name in largest and shares[name] >= LEAST]


def runners_up(found: Sequence[Planned], chosen: Planned, most: int = 3) -> list[str]:
    """Other layouts of the same number of ranks."""
    others = [other for other in found if other.layout() != chosen.layout()][:most]
    if not others:
        return []
    said = [f"{other.layout()} {seconds(other.total)} ({other.how.peak / 2**20:.0f} MiB)" for other in others]
    return [f"other layouts of {chosen.ranks} rank(s), quickest iterations first:", "  " + "; ".join(said)]


def as_json(scaling: Scaling[Planned], others: Mapping[int, Sequence[Planned]]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "plans": [
            {**_described(row.planned), "speed_up": row.faster, "efficiency": row.efficiency} for row in scaling.rows
        ],
        "verdict": verdict(scaling),
        "alternatives": {str(ranks): [_described(other) for other in found] for ranks, found in others.items()},
    }


def _described(planned: Planned) -> dict[str, Any]:
    return {
        "ranks": planned.ranks,
        "replicas": planned.division.replicas,
        "servers": planned.division.servers,
        "grid": [planned.grid.rows, planned.grid.cols],
        "splits": {x.spec.name: x.split_kind.name for x in planned.plan.layers if x.split_kind},
        "seconds": dict(planned.seconds),
        "seconds_per_iteration": planned.total,
        "memory_bytes": planned.how.peak,
        "memory_parts": dict(planned.how.parts),
        "bytes": None if planned.bytes is None else dict(planned.bytes),
        "idle_ranks": planned.idle,
    }
