"""What a comparison writes: compare.txt (a table), compare.json (the curves) and compare.png (the plot)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnewton.cli.console import metric_name, number, score_form

BESIDE = ("setup", "evaluate", "report", "output")  # messages that train nothing
AXES = {"seconds": "seconds of training", "samples": "samples seen (gradient equivalents)", "bytes": "bytes sent"}


@dataclass(frozen=True)
class Result:
    """One run: its name and its lines of metrics, or why it did not run."""

    name: str
    records: Sequence[Mapping[str, Any]]
    failed: str = ""


def curves(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Loss and scores over seconds of training, gradient equivalents and bytes sent by all ranks."""
    columns: dict[str, list[Any]] = {
        k: [] for k in ("iteration", "seconds", "samples", "bytes", "loss", "train", "test")
    }
    if not records:
        return columns
    name, sent = metric_name(records[0]), 0
    for record in records:
        sent += sum(phase["bytes"] for key, phase in record["comm"].items() if key not in BESIDE)
        sent += record.get("servers", {}).get("bytes", 0)
        row = (
            record["iteration"],
            record["train_seconds"],
            record["samples_seen"],
            sent,
            record["loss"],
            record[f"train_{name}"],
            record.get(f"test_{name}"),
        )
        for values, value in zip(columns.values(), row, strict=True):
            values.append(value if value is None or math.isfinite(value) else None)
    return columns


def common_loss(results: Sequence[Result]) -> float | None:
    """The lowest loss that every run reached; failed runs are ignored."""
    whole = [r for r in results if r.records and not r.failed]
    losses = [[v for v in curves(r.records)["loss"] if v is not None] for r in whole]
    worst = max((min(values, default=math.inf) for values in losses), default=math.inf)
    return worst if math.isfinite(worst) else None


def table(results: Sequence[Result]) -> list[str]:
    """A line per run: where it ended, and what it took to reach the loss that all runs reached."""
    target = common_loss(results)
    name = next((metric_name(r.records[0]) for r in results if r.records), "accuracy")
    form = score_form(name)
    width = max(4, *(len(r.name) for r in results))
    reached = "" if target is None else f" | to f <= {target:.4g}: seconds, samples, MB"
    lines = [
        f"{'run':<{width}} {'iter':>6} {'f':>11} {'train':>9} {'test':>9} {'best':>9} {'seconds':>9} {'samples':>11} "
        f"{'MB sent':>10}{reached}   ({name})"
    ]
    for result in results:
        if not result.records:
            lines.append(f"{result.name:<{width}} failed: {result.failed}")
            continue
        c = curves(result.records)
        tests = [v for v in c["test"] if v is not None]
        best = (max if name == "accuracy" else min)(tests) if tests else None
        line = (
            f"{result.name:<{width}} {c['iteration'][-1]:>6d} {number(c['loss'][-1], '11.5g')} "
            f"{number(c['train'][-1], form)} {number(c['test'][-1], form)} {number(best, form)} "
            f"{c['seconds'][-1]:>9.2f} {c['samples'][-1]:>11.4g} {c['bytes'][-1] / 1e6:>10.1f}"
        )
        if target is not None:
            at = next((i for i, v in enumerate(c["loss"]) if v is not None and v <= target), None)
            line += (
                " | never"
                if at is None
                else (f" | {c['seconds'][at]:.2f}, {c['samples'][at]:.4g}, {c['bytes'][at] / 1e6:.1f}")
            )
        lines.append(line + (f" | failed: {result.failed}" if result.failed else ""))
    return lines


def write(results: Sequence[Result], folder: Path) -> list[str]:
    """Write the three files; returns the table and the path of the plot."""
    lines = table(results)
    (folder / "compare.txt").write_text("\n".join(lines) + "\n")
    about = {r.name: {**curves(r.records), **({"failed": r.failed} if r.failed else {})} for r in results}
    (folder / "compare.json").write_text(json.dumps(about, allow_nan=False) + "\n")
    drawn = [r for r in results if r.records]
    if drawn:
        plot(drawn, folder / "compare.png")
        lines = [*lines, f"table, curves and plot: {folder}/compare.txt, compare.json, compare.png"]
    return lines


def plot(results: Sequence[Result], path: Path) -> None:
    """Loss and score over seconds, gradient equivalents and bytes, one colour per run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    name = metric_name(results[0].records[0])
    figure, axes = pyplot.subplots(2, len(AXES), figsize=(15, 8), constrained_layout=True)
    for column, (axis, label) in enumerate(AXES.items()):
        for k, result in enumerate(results):
            c = curves(result.records)
            style = {"color": f"C{k % 10}", "linestyle": ("-", "--", ":", "-.")[k // 10 % 4], "label": result.name}
            axes[0][column].plot(c[axis], _gaps(c["loss"]), **style)
            scored = "test" if any(v is not None for v in c["test"]) else "train"
            axes[1][column].plot(c[axis], _gaps(c[scored]), **style)
        axes[0][column].set(xlabel=label, ylabel="f", yscale="log")
        axes[1][column].set(xlabel=label, ylabel=name)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if v is None else v for v in values]
