"""In the place of a run directory where a run writes no files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dnewton.storage.owner import Owner
from dnewton.storage.run_directory import RunDirectory
from dnewton.storage.ways import Ways


class NoDirectory(RunDirectory):
    """Nothing is read and nothing is written."""

    keeps = False

    def __init__(self) -> None:
        super().__init__("", Ways(call=True))

    def claim(self, tell: Callable[[str], None] = lambda text: None, owner: Owner | None = None) -> None:
        """There is nothing to own."""

    def check(self, overwrite: bool, resume: bool = False) -> None:
        """Nothing is in the way."""

    def create(self, config: str) -> None:
        """Nothing is made."""

    def checkpoints(self) -> list[str]:
        """None."""
        return []

    def log(self, text: str) -> None:
        """Nothing is kept."""

    def record(self, values: dict[str, Any]) -> None:
        """Nothing is kept."""

    def end(self, why: dict[str, str]) -> None:
        """Nothing is kept."""

    def unwritten(self) -> int:
        """No line waits."""
        return 0
