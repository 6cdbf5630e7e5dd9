"""What a logger is, and what it is told when it is opened."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnewton.reporting.figures import flat

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"  # how a run ends; a stopped one can be resumed


@dataclass(frozen=True)
class About:
    """A run as its loggers see it."""

    name: str
    folder: Path  # for this logger's own files; it exists
    config: Mapping[str, Any]  # everything resolved, as in config.yaml, with `dnewton` beside it: version and ranks
    first: int  # the first step that will come: what is there of it and of later ones was cut off, and comes again
    identifier: str  # what an earlier start of the run was given; empty where there was none


class Logger(ABC):
    """An open logger. All its methods are called by one thread, which is not the one that trains."""

    identifier: str  # by which a resumed run finds what it has logged
    where: str  # what a user opens, or types, to see the figures

    @abstractmethod
    def record(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures of an iteration, by the names of metrics.jsonl. Raises whatever the library raises."""

    @abstractmethod
    def close(self, how: str) -> None:
        """Nothing more comes; `how` is FINISHED, STOPPED or FAILED."""


Opener = Callable[[About], Logger]


def parameters(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """A configuration as hyper-parameters: names with points, lists as JSON, None as text."""
    found: dict[str, bool | int | float | str] = {}
    for name, value in flat(config).items():
        if isinstance(value, (list, tuple)):
            found[name] = json.dumps(value, default=str)
        elif isinstance(value, (bool, int, float, str)):
            found[name] = value
        else:
            found[name] = str(value)
    return found
