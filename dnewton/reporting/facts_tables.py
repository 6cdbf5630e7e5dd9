"""What a report says in words and figures: tables from runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from dnewton.reporting import pictures
from dnewton.reporting.figures import metric_names, numbers
from dnewton.reporting.layout_picture import layout_of
from dnewton.reporting.runs import Run
from dnewton.reporting.tables import Table

_NEUTRAL = {"shift": 0.0, "spread": 1.0}  # of targets that were not scaled
SHOWN = 24  # iterations of the table of figures
PARTS = ("train", "validation", "test")


def shown(value: Any, form: str = ".5g") -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value, form)


def state(run: Run) -> str:
    """Whether a run has ended, and why, in a few words."""
    stopped = run.records[-1].get("stopped") if run.records else None
    if isinstance(stopped, Mapping):
        return f"ended: {stopped.get('reason')}"
    if run.facts.stopped:
        return "stopped, can be resumed" if run.checkpoints else "stopped"
    return "not ended" if run.records else "no iteration yet"


def overview(runs: Sequence[Run]) -> Table:
    """A row for each run: what it was and where it came to."""
    names = list(dict.fromkeys(name for run in runs for name in metric_names(run.columns)))
    scored = [f"{part}_{n}" for n in names for part in PARTS if any(f"{part}_{n}" in r.columns for r in runs)]
    head = ["run", "solver", "ranks", "iterations", "loss f", "|g|", *(s.replace("_", " ") for s in scored)]
    head += [f"best {s.replace('_', ' ')}" for s in scored if not s.startswith("train")]
    rows = []
    for run in runs:
        row = [run.name, str(run.setting("solver", "name") or "–"), str(run.facts.ranks or "–")]
        row += [shown(_last(run, "iteration"), "g"), shown(_last(run, "loss")), shown(_last(run, "grad_norm"), ".4g")]
        row += [shown(_last(run, name)) for name in scored]
        row += [best(run, name) for name in scored if not name.startswith("train")]
        rows.append([*row, shown(_last(run, "seconds"), ".1f"), state(run)])
    return [*head, "seconds", "state"], rows


def _last(run: Run, name: str) -> float | None:
    known = numbers(run.columns, name)
    return known[-1] if known else None


def best(run: Run, name: str) -> str:
    """The best value of a metric, and its iteration."""
    values, at = numbers(run.columns, name), numbers(run.columns, "iteration")
    known = [(value, where) for value, where in zip(values, at, strict=True) if value is not None]
    if not known:
        return "–"
    value, where = (max if name.endswith("accuracy") else min)(known, key=lambda pair: pair[0])
    return f"{value:.5g} (at {shown(where, 'g')})"


def phase_table(run: Run) -> Table | None:
    """Seconds, messages and bytes of the whole run by phase."""
    parts = {
        figure: pictures.phases(run, figure)
        for figure in (pictures.SECONDS, pictures.IN_MPI, pictures.CALLS, pictures.BYTES)
    }
    names = list(dict.fromkeys(name for values in parts.values() for name in values))
    totals = {name: [sum(values.get(name, ())) for values in parts.values()] for name in names}
    rows = [
        [name, f"{s:.3f}", f"{mpi:.3f}", f"{calls:,.0f}", f"{sent:,.0f}"]
        for name, (s, mpi, calls, sent) in totals.items()
        if s or calls
    ]
    if not rows:
        return None
    seconds, mpi, calls, sent = (sum(column) for column in zip(*totals.values(), strict=True))
    rows.append(["together", f"{seconds:.3f}", f"{mpi:.3f}", f"{calls:,.0f}", f"{sent:,.0f}"])
    return ["phase", "seconds (rank 0)", "in MPI (all ranks)", "calls (all)", "bytes (all)"], rows


def layout_table(run: Run) -> Table | None:
    """Each layer's split, and the weights of the rank that has most of them."""
    known = layout_of(run)
    if known is None:
        return None
    grid, layers = known
    rows = []
    for layer in layers:
        sizes = [block.weights for block in layer.blocks]
        shape = f"{layer.outputs} × {layer.inputs}"
        rows.append(
            [layer.name, layer.kind, layer.split, shape, f"{sum(sizes):,}", f"{max(sizes):,}", f"{min(sizes):,}"]
        )
    together = [sum(layer.blocks[rank].weights for layer in layers) for rank in range(grid.size)]
    rows.append(["together", "", "", "", f"{sum(together):,}", f"{max(together):,}", f"{min(together):,}"])
    size = f"{grid.rows} × {grid.cols} ranks"
    return [size, "kind", "split", "outputs × inputs", "weights", "largest rank", "smallest rank"], rows


def figures_table(run: Run) -> Table | None:
    """The main figures of the first, the last and some iterations between."""
    if not run.records:
        return None
    scores = [
        name for name in run.columns if name.startswith(tuple(f"{p}_" for p in PARTS)) and name != "train_seconds"
    ]
    wanted = ["iteration", "loss", "grad_norm", "lambda", "step", "ratio", "cg_iterations.mean", *scores, "seconds"]
    names = [name for name in wanted if any(value is not None for value in numbers(run.columns, name))]
    total = len(run.records)
    chosen = sorted({round(k * (total - 1) / max(1, SHOWN - 1)) for k in range(SHOWN)})
    columns = {name: numbers(run.columns, name) for name in names}
    rows = [[shown(columns[name][k], ".6g") for name in names] for k in chosen]
    return [name.replace("_", " ") for name in names], rows


def about(run: Run) -> list[list[str]]:
    """What else is known of a run: pairs of a name and words."""
    facts = run.facts
    pairs = [("folder", run.path), ("ended", run.ended or _unended(run))]
    pairs += [("scores", line) for line in facts.scores]
    if facts.ranks:
        grid = f", grid {facts.grid[0]} × {facts.grid[1]}" if facts.grid else ""
        pairs.append(("ranks", f"{facts.ranks}: {facts.replicas} replica(s) of {facts.model_ranks}{grid}"))
    pairs += _data(run)
    if facts.subsample:
        pairs.append(("|S|", f"{facts.subsample:,} of {facts.samples:,} samples for the curvature"))
    peak = pictures.peak_bytes(run)
    if peak:
        planned = f", planned {facts.planned / 2**20:.1f} MiB" if facts.planned else ""
        pairs.append(("memory", f"largest rank {peak / 2**20:.1f} MiB{planned}"))
    if run.checkpoints:
        pairs.append(("checkpoints", ", ".join(run.checkpoints)))
    versions = {"log": facts.version, "checkpoint": run.manifest.get("version"), "model": run.header.get("version")}
    said = [f"{where} {version}" for where, version in versions.items() if version]
    pairs.append(("versions", f"dnewton: {', '.join(said)}" if said else "not known"))
    if facts.versions:
        pairs.append(("computed with", ", ".join(f"{name} {version}" for name, version in facts.versions.items())))
    pairs += [("note", note) for note in facts.notes]
    if facts.starts > 1:
        pairs.append(("starts", f"{facts.starts}: it was resumed"))
    return [list(pair) for pair in pairs]


def _unended(run: Run) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.written)) if run.written else "never"
    cut = ", within a line" if run.unfinished else ""
    return f"no end is recorded: it is going on, failed, or was cut off; metrics.jsonl was last written {when}{cut}"


def _data(run: Run) -> list[tuple[str, str]]:
    """Files, sizes, scaling and targets."""
    data = run.config.get("data")
    if not isinstance(data, Mapping):
        return []
    pairs = [(f"data: {part}", _words(data[part])) for part in PARTS if data.get(part) is not None]
    size = [f"{run.samples:,} training samples"] if run.samples else []
    if shape := run.setting("net", "input"):
        size.append(f"input {_words(shape)}")
    targets = run.header.get("targets")
    if isinstance(targets, Mapping):
        told = {key: value for key, value in targets.items() if not _neutral(key, value)}
        size += [f"{key} {_words(value)}" for key, value in told.items() if _brief(value)]
    columns = run.header.get("columns")
    if isinstance(columns, list):
        size.append(f"{len(columns)} named columns")
    rest = ("split", "scale", "scale_targets", "target", "weights", "class_weights")
    size += [f"{key} {_words(data[key])}" for key in rest if data.get(key) not in (None, "none")]
    return [*pairs, ("data", "; ".join(size))] if size else pairs


def _neutral(key: str, value: Any) -> bool:
    return key in _NEUTRAL and isinstance(value, list) and all(v == _NEUTRAL[key] for v in value)


def _brief(value: Any) -> bool:
    return value not in (None, [], {}, "") and len(str(value)) < 200


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_words, value)) + "]"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items())
    return str(value)
