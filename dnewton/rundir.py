"""The run directory, written by rank 0 alone: config.yaml, metrics.jsonl, log.txt, checkpoints/, model.safetensors."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from dnewton.errors import UserError, one_line

OWN = ("config.yaml", "metrics.jsonl", "log.txt", "model.safetensors", "checkpoints")


class RunDirectory:
    """Paths of a run directory and the files that grow while training."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    @property
    def model(self) -> str:
        """The final model."""
        return str(self.path / "model.safetensors")

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per iteration."""
        return self.path / "metrics.jsonl"

    def check(self, overwrite: bool) -> None:
        """Raise UserError when the directory holds another run and `overwrite` is false.

        A run that ended before its first line of metrics left nothing worth keeping.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; --out needs a directory")
        begun = self.metrics.exists() and self.metrics.stat().st_size > 0
        if (begun or os.path.exists(self.model) or self.checkpoints()) and not overwrite:
            raise UserError(f"{self.path}: holds another run; give --overwrite, --resume or another --out")

    def create(self, config: str) -> None:
        """Make the directory, remove what another run left in it and write the configuration.

        Raises UserError when it cannot be written.
        """
        try:
            for name in OWN:
                entry = self.path / name
                if not os.path.lexists(entry):
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            (self.path / "checkpoints").mkdir(parents=True)
            self.config.write_text(config, encoding="utf-8", errors="surrogateescape")
            self.metrics.write_text("")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written: {one_line(error.strerror or error)}") from None

    def reopen(self, config: str, iteration: int) -> float:
        """Go on after `iteration`: drop later lines of metrics.jsonl; returns the seconds spent until then."""
        kept, seconds = [], 0.0
        lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
                done, spent = int(record["iteration"]), float(record["seconds"])
            except (ValueError, KeyError, TypeError):
                break  # a line cut off by the end of the last run
            if done <= iteration:
                kept.append(line)
                seconds = spent
        temporary = self.metrics.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        os.replace(temporary, self.metrics)
        self.config.write_text(config, encoding="utf-8", errors="surrogateescape")
        return seconds

    def checkpoint(self, iteration: int) -> str:
        """The checkpoint file of an iteration."""
        return str(self.path / "checkpoints" / f"iteration-{iteration:08d}.safetensors")

    def checkpoints(self) -> list[str]:
        """Published checkpoints, oldest first."""
        return sorted(str(p) for p in (self.path / "checkpoints").glob("iteration-*.safetensors"))

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            os.unlink(path)

    def log(self, text: str) -> None:
        """Append a line to log.txt."""
        with open(self.path / "log.txt", "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")

    def record(self, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with open(self.metrics, "a") as file:
            file.write(json.dumps(_finite(values), allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
