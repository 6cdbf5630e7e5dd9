"""A run that goes on: read again where its files have grown."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from dnewton.errors import UserError
from dnewton.reporting.metrics_file import MetricsFile
from dnewton.reporting.runs import Run, check_is_run, read_run
from dnewton.storage.run_lock import NAME as LOCK

PATIENCE = 120.0  # seconds without a sign of life, after which a job is taken to be gone
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

    @property
    def silent(self) -> float:
        """Seconds since the run gave a sign of life: its files, or the lock that a job renews while it runs; 0 where it
        has ended or is not there."""
        if self.run is None or self.ended:
            return 0.0
        stamps = []
        for name in (*FILES, LOCK):
            with suppress(OSError):
                stamps.append(os.stat(os.path.join(self.path, name)).st_mtime)
        return max(0.0, time.time() - max(stamps, default=time.time()))

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
