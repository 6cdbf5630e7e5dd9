"""What a comparison writes: compare.txt (tables), compare.json (the curves), compare.png and compare.html."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnewton.errors import UserError, one_line
from dnewton.reporting.compare_tables import as_text, ends, failures, reached
from dnewton.reporting.comparison import Entry, Target, common_loss, methods, metric_of
from dnewton.reporting.figures import numbers

FILES = ("compare.txt", "compare.json", "compare.png", "compare.html")


def targets_of(entries: Sequence[Entry], chosen: Sequence[Target]) -> list[Target]:
    """The targets of a comparison: those that were chosen, or the lowest loss that all runs reached."""
    if chosen:
        return list(chosen)
    common = common_loss(entries)
    return [] if common is None else [common]


def lines(entries: Sequence[Entry], targets: Sequence[Target]) -> list[str]:
    """The tables as text."""
    found = methods(entries)
    said = as_text(ends(found))
    for target in targets:
        said += ["", *as_text(reached(found, target))]
    failed = failures(entries)
    return [*said, *(["", *failed] if failed else [])]


def notes_on(entries: Sequence[Entry]) -> list[str]:
    """What makes the runs less than comparable."""
    budgets = {entry.budget for entry in entries}
    if len(budgets) <= 1:
        return []
    said = ", ".join("none" if b is None else f"{b:g} s" for b in sorted(budgets, key=lambda b: b or math.inf))
    return [f"the runs had different budgets: {said}"]


def curves(entry: Entry) -> dict[str, list[float | None]]:
    """Loss and scores over iterations, seconds of training, gradient equivalents and bytes sent by all ranks."""
    columns = entry.run.columns
    name = metric_of([entry])
    scores = {part: numbers(columns, f"{part}_{name}") for part in ("train", "validation", "test")}
    kept = {part: values for part, values in scores.items() if part != "validation" or f"validation_{name}" in columns}
    return {**entry.axes, "loss": numbers(columns, "loss"), **kept}


def _as_json(entry: Entry, chosen: Sequence[Target]) -> dict[str, Any]:
    """The curves, and the seconds to each target that was chosen (null: never)."""
    found: dict[str, Any] = {**curves(entry), "method": entry.method, "seed": entry.seed}
    if chosen:
        places = {target.words: target.place(entry.run) for target in chosen}
        found["reached"] = {words: None if at is None else entry.axes["seconds"][at] for words, at in places.items()}
    return {**found, "failed": entry.failed} if entry.failed else found


def write(entries: Sequence[Entry], chosen: Sequence[Target], folder: Path, title: str) -> list[str]:
    """Write the files; returns what is to be printed. Raises UserError where they cannot be written."""
    targets = targets_of(entries, chosen)
    notes = notes_on(entries)
    text = [title, "", *lines(entries, targets), *(f"warning: {note}" for note in notes)]
    about = {entry.run.name: _as_json(entry, chosen) for entry in entries}
    try:
        (folder / "compare.txt").write_text("\n".join(text) + "\n")
        (folder / "compare.json").write_text(json.dumps(about, allow_nan=False) + "\n")
        if not any(entry.run.records for entry in entries):
            return text
        _pictures(entries, targets, folder, title, notes)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {one_line(error.strerror or error)}") from None
    return [*text, "", f"tables, curves and pictures: {folder}/compare.html, compare.txt, compare.json, compare.png"]


def _pictures(
    entries: Sequence[Entry], targets: Sequence[Target], folder: Path, title: str, notes: Sequence[str]
) -> None:
    from dnewton.reporting import raster  # matplotlib takes half a second
    from dnewton.reporting.compare_page import compare_page
    from dnewton.reporting.compare_pictures import charts

    drawn = charts(methods(entries), targets)
    across = sum(chart.y_label == drawn[0].y_label for chart in drawn)  # a row for each figure
    (folder / "compare.png").write_bytes(raster.drawn(drawn, title, across))
    (folder / "compare.html").write_bytes(compare_page(entries, targets, title, notes).encode("utf-8", "replace"))
