"""A run that goes on: read again where its files have grown."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from dnewton.errors import UserError
from dnewton.reporting.metrics_file import MetricsFile
from dnewton.reporting.runs import Run, check_is_run, read_run

FILES = ("metrics.jsonl", "log.txt", "config.yaml")


class Follower:
    """What a run directory says, look after look."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.run: Run | None = None  # None while it is not there
        self._stamps: dict[str, tuple[int, int]] = {}
        self._metrics = MetricsFile(Path(path) / "metrics.jsonl")

    @property
    def ended(self) -> bool:
        """Whether the run says that it has ended, or was stopped."""
        return self.run is not None and bool(self.run.ended)

    def look(self) -> bool:
        """Read what has changed; True where something has. Raises UserError where files cannot be read."""
        stamps = self._now()
        if stamps == self._stamps:
            return False
        with suppress(UserError):
            check_is_run(self.path)
            self.run = read_run(self.path, os.path.basename(os.path.abspath(self.path)), self._metrics)
            self._stamps = stamps
            return True
        return False

    def _now(self) -> dict[str, tuple[int, int]]:
        found = {}
        for name in FILES:
            with suppress(OSError):
                status = os.stat(os.path.join(self.path, name))
                found[name] = status.st_mtime_ns, status.st_size
        return found
