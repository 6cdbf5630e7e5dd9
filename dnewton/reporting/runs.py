"""Runs as their directories have them: also one that goes on, or was cut off in the middle of a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnewton.config import strict_yaml
from dnewton.errors import UserError


@dataclass(frozen=True)
class Run:
    """One run: its figures line by line, its configuration, and what its log said."""

    name: str
    records: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    log: Sequence[str]

    @property
    def metric(self) -> str:
        """accuracy or rmse."""
        return "accuracy" if any("train_accuracy" in record for record in self.records) else "rmse"

    @property
    def ended(self) -> str:
        """Why it ended, in a line; empty while it goes on."""
        stopped = self.records[-1].get("stopped") if self.records else None
        return str(stopped["text"]) if isinstance(stopped, Mapping) else ""

    def column(self, *path: str) -> list[float | None]:
        """A figure of every line; None where it is missing or not finite."""
        found: list[float | None] = []
        for record in self.records:
            value: Any = record
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            found.append(float(value) if isinstance(value, (int, float)) else None)
        return found

    @property
    def iterations(self) -> list[float]:
        """The number of every line's iteration."""
        return [float(record["iteration"]) for record in self.records]

    def without_seed(self) -> str:
        """What runs that differ by their seed alone have in common."""
        config = json.loads(json.dumps(self.config))
        config.get("solver", {}).pop("seed", None)
        return json.dumps(config, sort_keys=True)


def read_run(path: str) -> Run:
    """A run directory. Raises UserError where it is none."""
    folder = Path(path)
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        what = "holds no run (there is no metrics.jsonl)" if folder.is_dir() else "no such run directory"
        raise UserError(f"{path}: {what}")
    records = []
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            int(record["iteration"])
        except (ValueError, KeyError, TypeError):
            break  # the last line of a run that goes on, or was killed
        records.append(record)
    if not records:
        raise UserError(f"{path}: has no line of metrics yet")
    config: Any = {}
    if (folder / "config.yaml").is_file():
        config = strict_yaml.parse((folder / "config.yaml").read_text(encoding="utf-8"), str(folder / "config.yaml"))
    log = folder / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return Run(os.path.basename(os.path.normpath(path)), records, config if isinstance(config, dict) else {}, lines)


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ by their seed alone together, in the order in which the first ones were given."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = run.without_seed() if run.config else f"{run.name} {len(groups)}"
        groups.setdefault(key, []).append(run)
    return list(groups.values())
