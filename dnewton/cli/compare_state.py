"""What a comparison's folder holds already: which runs are finished, which go on, and which are in the way."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnewton.cli.compare_plans import Plan
from dnewton.config import strict_yaml
from dnewton.config.schema import Config
from dnewton.errors import UserError, one_line
from dnewton.reporting.comparison import Entry
from dnewton.reporting.runs import Run, read_run
from dnewton.storage.run_directory import STOPPED, RunDirectory
from dnewton.training.ending import TIME

NAME = "runs.json"
NEW, RESUME, DONE = "new", "resume", "done"
CURE = "give the same as then, another --out, or --overwrite"
APART = {
    "output": None,
    "parallel": ("rates", "timeout"),
    "solver": ("batch_size",),
}  # what changes no result: sections, keys


class State:
    """runs.json: what all runs have in common, and for each its method, seed and budget."""

    def __init__(self, folder: Path, common: Mapping[str, Any], overwrite: bool) -> None:
        """Read it, on rank 0. Raises UserError where it is damaged, or of other runs."""
        self._path = folder / NAME
        self._overwrite = overwrite
        self._common = json.loads(json.dumps(common))
        self.runs: dict[str, dict[str, Any]] = {}
        self._before: dict[str, Any] | None = None  # of the run that is going on
        if not self._path.is_file():
            return
        try:
            content = json.loads(self._path.read_text())
            before, runs = content["common"], dict(content["runs"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{self._path}: cannot be read ({one_line(error)}); give another --out") from None
        if runs and (different := first_difference(before, self._common)):
            if not overwrite:
                raise UserError(f"{folder}: holds runs whose {different}; {CURE}")
            return  # none of them belongs to this comparison
        self.runs = runs

    def verdict(self, plan: Plan, out: RunDirectory, budget: float | None) -> str:
        """NEW, RESUME or DONE. Raises UserError where another run is in the way."""
        known = self.runs.get(plan.name)
        run = _read(out)
        if self._overwrite or known is None or run is None or not (run.records or run.checkpoints):
            out.check(self._overwrite)
            return NEW
        now = strict_yaml.parse(plan.config.dump(), "config.yaml")
        if different := first_difference(_results(run.config), _results(now)):
            raise UserError(f"{out.path}: holds a run whose {different}; {CURE}")
        spent = max((r.get("train_seconds") or 0.0 for r in run.records), default=0.0)
        before = math.inf if known.get("budget") is None else float(known["budget"])
        allowed = math.inf if budget is None else budget
        if allowed < min(spent, before):
            raise UserError(
                f"{out.path}: holds a run of {spent:.3g} s, and --budget is {allowed:g} s; give as much, "
                "another --out, or --overwrite"
            )
        if known.get("failed"):
            return DONE
        stopped = run.records[-1].get(STOPPED) if run.records else None
        finished = isinstance(stopped, Mapping) and os.path.isfile(out.model)
        longer = isinstance(stopped, Mapping) and stopped.get("reason") == TIME and allowed > before
        if finished and not longer:
            return DONE
        out.check(False, resume=True)
        return RESUME

    def begin(self, plan: Plan, budget: float | None) -> None:
        """Keep that a run begins, or goes on. Raises UserError where that cannot be written."""
        self._before = self.runs.get(plan.name)
        self.runs[plan.name] = {"method": plan.method, "seed": plan.seed, "budget": budget, "failed": ""}
        self._write()

    def failed(self, plan: Plan, why: str) -> None:
        """Keep why a run failed: it would again."""
        self.runs[plan.name]["failed"] = why
        self._write()

    def forget(self, plan: Plan) -> None:
        """A run that failed before its first new line may do better another time: what was known of it is again."""
        del self.runs[plan.name]
        if self._before is not None:
            self.runs[plan.name] = self._before
        self._write()

    def entries(self) -> list[Entry]:
        """All runs of the folder that have begun, those of earlier calls first."""
        return [self.entry(name) for name in self.runs]

    def entry(self, name: str) -> Entry:
        """One of them."""
        about, out = self.runs[name], RunDirectory(str(self._path.parent / name))
        run = _read(out) or Run(name, str(out.path))
        return Entry(run, about["method"], about["seed"], about["failed"], about["budget"])

    def _write(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps({"common": self._common, "runs": self.runs}, indent=1) + "\n")
            os.replace(temporary, self._path)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written: {one_line(error.strerror or error)}") from None


def common(config: Config, ranks: int, init: str | None) -> dict[str, Any]:
    """What makes runs comparable: net, data and precision of the configuration without sweeps, ranks, the start."""
    values = config.resolved()
    start = "the seed" if init is None else f"{os.path.basename(init)} of {os.path.getsize(init)} bytes"
    parallel = {"dtype": config.parallel.dtype, "device": config.parallel.device}
    return {"net": values["net"], "data": values["data"], "parallel": parallel, "ranks": ranks, "start": start}


def first_difference(before: Any, now: Any, path: str = "") -> str:
    """`solver.C was 1.0 and is 2.0`; empty where there is none. Keys that one side lacks are of another version."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        shared = [key for key in now if key in before]
        texts = (first_difference(before[key], now[key], f"{path}.{key}" if path else str(key)) for key in shared)
        return next((text for text in texts if text), "")
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        texts = (first_difference(a, b, f"{path}[{k}]") for k, (a, b) in enumerate(zip(before, now, strict=True)))
        return next((text for text in texts if text), "")
    return "" if before == now else f"{path} was {_short(before)} and is {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _results(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what changes no result."""
    kept: dict[str, Any] = {}
    for section, values in config.items():
        left_out = APART.get(section, ())
        if left_out is not None:
            whole = not isinstance(values, Mapping)
            kept[section] = values if whole else {k: v for k, v in values.items() if k not in left_out}
    return kept


def _read(out: RunDirectory) -> Run | None:
    if not out.metrics.is_file() and not out.config.is_file():
        return None
    return read_run(str(out.path), out.path.name)
