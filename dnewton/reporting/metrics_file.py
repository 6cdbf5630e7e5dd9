"""metrics.jsonl as it grows: what is new since the last look, without a line that is still being written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class MetricsFile:
    """The lines of a run's metrics; only what was appended is read again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = -1
        self._offset = 0
        self.records: list[dict[str, Any]] = []
        self.unread = 0  # whole lines that are no JSON objects
        self.unfinished = False  # whether the file ends within a line

    def refresh(self) -> bool:
        """Read what is new; True where there was something. A file that was replaced or got shorter is read again.

        Raises OSError where the file cannot be read.
        """
        with open(self._path, "rb") as file:
            status = os.fstat(file.fileno())
            again = status.st_ino != self._inode or status.st_size < self._offset
            if again:
                self._inode, self._offset, self.unread = status.st_ino, 0, 0
                self.records = []
            file.seek(self._offset)
            content = file.read()
        whole, newline, rest = content.rpartition(b"\n")
        self.unfinished = bool(rest)
        self._offset += len(whole) + len(newline)
        for line in whole.split(b"\n") if whole else ():
            self._take(line)
        return again or bool(newline)

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            self.records.append(record)
        else:
            self.unread += 1
