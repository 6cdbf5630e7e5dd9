"""Reading run directories, also of runs that are going on or were cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dnewton.config import strict_yaml
from dnewton.errors import UserError, one_line
from dnewton.reporting.figures import columns
from dnewton.reporting.log_facts import Facts, facts_of
from dnewton.reporting.metrics_file import MetricsFile
from dnewton.storage.manifest import NAME as MANIFEST
from dnewton.storage.run_directory import MODEL, STOPPED, RunDirectory
from dnewton.storage.tensor_file import read_metadata

LONGEST = 16 << 20  # bytes of a log or a configuration that are read


@dataclass
class Run:
    """What is known of a run; what its directory lacks is empty."""

    name: str  # short, and different from the other runs' of a report
    path: str
    records: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    log: Sequence[str] = ()
    facts: Facts = field(default_factory=Facts)
    checkpoints: Sequence[str] = ()  # names
    manifest: Mapping[str, Any] = field(default_factory=dict)  # of the newest checkpoint, unchecked
    header: Mapping[str, Any] = field(default_factory=dict)  # of model.safetensors
    unread: int = 0  # lines of metrics.jsonl that are no JSON objects
    unfinished: bool = False  # whether its last line was cut off
    written: float = 0.0  # when metrics.jsonl last changed, seconds since 1970

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """The figures by name, see :mod:`dnewton.reporting.figures`."""
        return columns(self.records)

    @property
    def ended(self) -> str:
        """Why the run ended; empty while it goes on, or where nothing says so."""
        stopped = self.records[-1].get(STOPPED) if self.records else None
        if isinstance(stopped, Mapping):
            return str(stopped.get("text") or stopped.get("reason") or "")
        return self.facts.stopped

    def setting(self, section: str, key: str) -> Any:
        """An entry of the configuration, or None."""
        part = self.config.get(section)
        return part.get(key) if isinstance(part, Mapping) else None

    @property
    def samples(self) -> int:
        """l, the number of training samples; 0 where nothing says it."""
        identity = self.manifest.get("identity")
        known = identity.get("samples") if isinstance(identity, Mapping) else None
        return self.facts.samples or (known if isinstance(known, int) else 0)


def check_is_run(path: str) -> None:
    """Raise UserError where a path is no run directory."""
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such run directory")
    if not os.path.isdir(path):
        raise UserError(f"{path}: is a file; name the run directory that it lies in")
    if not any(os.path.isfile(os.path.join(path, name)) for name in ("metrics.jsonl", "config.yaml")):
        raise UserError(f"{path}: is no run directory: it has neither metrics.jsonl nor config.yaml")


def read_runs(paths: Sequence[str]) -> list[Run]:
    """The runs of a report, in order. Raises UserError naming the directory that is none or cannot be read."""
    for path in paths:
        check_is_run(path)
    names = short_names(paths)
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def short_names(paths: Sequence[str]) -> list[str]:
    """The last folder of each path, or as much of the path as makes them different."""
    whole = [os.path.abspath(path) for path in paths]
    twice = [path for path in set(whole) if whole.count(path) > 1]
    if twice:
        raise UserError(f"{paths[whole.index(twice[0])]}: is given more than once")
    parts = [path.split(os.sep) for path in whole]
    names = []
    for mine in parts:
        length = 1
        while length < len(mine) and sum(other[-length:] == mine[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(mine[-length:]))
    return names


def read_run(path: str, name: str, metrics: MetricsFile | None = None) -> Run:
    """One run directory. `metrics` knows what was read before. Raises UserError where a file cannot be read at all."""
    folder = Path(path)
    metrics = metrics or MetricsFile(folder / "metrics.jsonl")
    written = 0.0
    try:
        if metrics_there := (folder / "metrics.jsonl").is_file():
            metrics.refresh()
            written = (folder / "metrics.jsonl").stat().st_mtime
        config_text = _text(folder / "config.yaml")
        log = _text(folder / "log.txt").splitlines()
        checkpoints = RunDirectory(path).checkpoints()
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read: {one_line(error.strerror or error)}") from None
    return Run(
        name,
        path,
        metrics.records,
        _mapping(config_text),
        config_text,
        log,
        facts_of(log),
        [os.path.basename(c) for c in checkpoints],
        _manifest(checkpoints),
        _header(folder / MODEL),
        metrics.unread,
        metrics.unfinished and metrics_there,
        written,
    )


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(LONGEST)


def _mapping(text: str) -> Mapping[str, Any]:
    """A configuration; empty where it is damaged, as the text is shown anyway."""
    try:
        values = strict_yaml.parse(text, "config.yaml")
    except UserError:
        return {}
    return values if isinstance(values, dict) else {}


def _manifest(checkpoints: Sequence[str]) -> Mapping[str, Any]:
    """Of the newest checkpoint that has a readable one. It is shown, never resumed from: nothing is checked."""
    for path in reversed(checkpoints):
        try:
            content = json.loads(_text(Path(path) / MANIFEST))["manifest"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(content, dict):
            return content
    return {}


def _header(path: Path) -> Mapping[str, Any]:
    """What a model says of itself; empty where there is none yet, or a damaged one."""
    if not path.is_file():
        return {}
    try:
        about = json.loads(read_metadata(str(path)).get("dnewton", "{}"))
    except (UserError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}
