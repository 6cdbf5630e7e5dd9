"""What a user sees of a run: the columns of an iteration, and the summary at the end, on a terminal or in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = (
    f"{'iter':>5} {'f':>12} {'|g|':>10} {'alpha':>8} {'ratio':>7} {'lambda':>9} {'#CG min/mean/max':>17} "
    f"{'train':>9} {'test':>9} {'seconds':>8}"
)


def metric_name(record: Mapping[str, Any]) -> str:
    """accuracy or rmse."""
    return "accuracy" if "train_accuracy" in record else "rmse"


def score_form(name: str) -> str:
    """How a score is written: in significant digits, an accuracy with more of them, as it may be close to 1."""
    return "9.6g" if name == "accuracy" else "9.4g"


def number(value: float | None, form: str) -> str:
    """A number in a column, or a dash."""
    return format("-", ">" + form.split(".")[0]) if value is None else format(value, ">" + form)


def line(record: Mapping[str, Any]) -> str:
    """One iteration in the columns of :data:`HEADER`."""
    cg, name = record["cg_iterations"], metric_name(record)
    form = score_form(name)
    counts = f"{cg['min']}/{cg['mean']:.1f}/{cg['max']}" if cg else "-"
    return (
        f"{record['iteration']:>5d} {number(record['loss'], '12.6g')} {number(record['grad_norm'], '10.4g')} "
        f"{number(record['step'], '8.4g')} {number(record['ratio'], '7.3f')} "
        f"{number(record['lambda'], '9.3g')} {counts:>17} "
        f"{number(record[f'train_{name}'], form)} {number(record.get(f'test_{name}'), form)} "
        f"{record['seconds']:>8.2f}"
    )


def summary(
    records: Sequence[Mapping[str, Any]], totals: Mapping[str, Mapping[str, float]], ranks: int = 1
) -> list[str]:
    """Time and bytes per phase, and the best and final scores. Traffic in `totals` is of all ranks."""
    known = {name: t for name, t in totals.items() if t and (t["elapsed"] > 0 or t["calls"])}
    figures = {
        name: (t["elapsed"], t["seconds"] / ranks, float(t["calls"]), float(t["bytes"])) for name, t in known.items()
    }
    together = [sum(column) for column in zip(*figures.values(), strict=True)] or [0.0] * 4
    rows = [
        "by phase: seconds of rank 0 and in MPI (a rank's mean), calls and bytes of all",
        f"{'phase':<17} {'seconds':>9} {'in MPI':>9} {'calls':>8} {'bytes':>12}",
    ]
    rows += [
        f"{name:<17} {seconds:>9.3f} {mpi:>9.3f} {calls:>8.0f} {sent:>12.0f}"
        for name, (seconds, mpi, calls, sent) in (*figures.items(), ("together", together))
    ]
    if not records:
        return rows
    name = metric_name(records[-1])
    pick = max if name == "accuracy" else min
    form = score_form(name)
    for part in ("train", "validation", "test"):
        key = f"{part}_{name}"
        scored = [r for r in records if r.get(key) is not None]
        if scored:
            best = pick(scored, key=lambda r: r[key])
            last, highest = (number(r[key], form).strip() for r in (scored[-1], best))
            rows.append(f"{part} {name}: final {last}, best {highest} at iteration {best['iteration']}")
    return rows
