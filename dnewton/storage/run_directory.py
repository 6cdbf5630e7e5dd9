"""The run directory: config.yaml, metrics.jsonl, log.txt, checkpoints/, model.safetensors, best.safetensors.

Rank 0 writes the text files, and holds the lock that makes one job its owner. A full disk does not end a run: lines
wait until there is space again.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dnewton.errors import UserError, one_line
from dnewton.storage import run_lock
from dnewton.storage.owner import Owner
from dnewton.storage.parallel_file import sync_folder
from dnewton.storage.ways import Ways

OWN = (
    *("metrics.jsonl", "config.yaml", "log.txt", "model.safetensors", "best.safetensors", "trace.json"),
    *("loggers", "checkpoints"),
)
MODEL = "model.safetensors"
TRIES = 20  # to make a folder and take its lock
STATE = "state.safetensors"
TEMPORARY = ".writing-"
REFUSED = ".refused-"
CHECKPOINT = re.compile(r"iteration-\d{8,}(-\d{8,})?")
STOPPED = "stopped"  # the key in the last line of metrics.jsonl that says why the run ended
MOST_LINES = 100_000  # that wait for free space


def model_path(name: str, key: str = "") -> str:
    """The model file of a run directory or of a checkpoint, or the file itself.

    Raises UserError where there is none; `key` begins its message, such as "--model ".
    """
    if os.path.isdir(name):
        for file in (MODEL, STATE):
            if os.path.isfile(path := os.path.join(name, file)):
                return path
        raise UserError(f"{key}{name}: has no {MODEL}; give a finished run, or one of its checkpoints")
    if not os.path.isfile(name):
        raise UserError(f"{key}{name}: no such run directory or model file")
    return name


class RunDirectory:
    """Paths of a run directory and the files that grow while training."""

    keeps = True  # whether anything is written

    def __init__(self, path: str, ways: Ways | None = None) -> None:
        """`ways` are for messages; those of `dnewton train` by default."""
        self.path = Path(path)
        self.ways = ways or Ways()
        self._lock: run_lock.RunLock | None = None
        self._made: list[Path] = []  # folders that were made for the lock
        self._waiting: dict[str, list[str]] = {}  # lines of files that could not be written yet

    @property
    def model(self) -> str:
        """The final model."""
        return str(self.path / "model.safetensors")

    @property
    def best(self) -> str:
        """The best model."""
        return str(self.path / "best.safetensors")

    @property
    def trace(self) -> Path:
        """When each rank did what, where `output.trace` asks for it."""
        return self.path / "trace.json"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per iteration."""
        return self.path / "metrics.jsonl"

    def claim(self, tell: Callable[[str], None] = lambda text: None, owner: Owner | None = None) -> None:
        """Become the owner, before anything is written; `tell` gets a line where that may take some time. `owner`:
        this process by default.

        Raises UserError where another process is the owner, or nothing can be written.
        """
        self._check_writable()
        try:
            for tries_left in reversed(range(TRIES)):
                try:
                    self._make_folders()
                    self._lock = run_lock.take(self.path, owner or Owner.here(), tell)
                    break
                except FileNotFoundError:  # another start that ended removed the folder, which was empty
                    if not tries_left:
                        raise
        except run_lock.InUse as error:
            self._remove_folders()
            raise UserError(f"{error}; wait until it has ended, end it, or give {self.ways.out}") from None
        except OSError as error:
            self._remove_folders()
            raise self._not_written(error) from None

    def release(self) -> None:
        """Stop being the owner; nothing where this process is not. What was made and holds nothing is removed."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            self._remove_folders()

    def watch(self, on_loss: Callable[[], None]) -> None:
        """`on_loss` is called by another thread when this process, suspended for long, is no more the owner."""
        if self._lock is not None:
            self._lock.watch(on_loss)

    def lost(self) -> str:
        """That another process has become the owner, in one line; empty as long as this one is."""
        taken_by = self._lock.taken_by() if self._lock is not None else ""
        if not taken_by:
            return ""
        return f"{self.path}: was taken over by {taken_by}, to which this job looked dead; it writes no more"

    def _make_folders(self) -> None:
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            self._made.append(folder)

    def _remove_folders(self) -> None:
        with suppress(OSError):  # not empty, and then those above are not either
            while self._made:
                self._made.pop().rmdir()
        self._made = []

    def check(self, overwrite: bool, resume: bool = False) -> None:
        """Raise UserError when the directory cannot be written, or holds what a new run would replace.

        `overwrite` allows that. `resume` allows a run that has not ended. A run that ended before its first line of
        metrics left nothing worth keeping.
        """
        self._check_writable()
        present = [name for name in OWN if os.path.lexists(self.path / name)]
        begun = self.metrics.is_file() and self.metrics.stat().st_size > 0
        if overwrite or not present:
            return
        if resume and self.metrics.is_file():
            if os.path.lexists(self.model) and not self.checkpoints():
                raise UserError(
                    f"{self.path}: holds a finished run without checkpoints; give {self.ways.overwrite} to run it "
                    f"again, or {self.ways.out}"
                )
            return
        if begun or os.path.lexists(self.model) or self.checkpoints():
            raise UserError(f"{self.path}: holds another run; give {self.ways.past_a_run()}")
        if not self.metrics.is_file() or any(self._foreign()):
            raise UserError(
                f"{self.path}: holds {present[0]}, which belongs to no run and would be replaced; give "
                f"{self.ways.out}, or {self.ways.overwrite}"
            )

    def _check_writable(self) -> None:
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise UserError(f"{self.path}: is not a directory; give {self.ways.out}")
        above = self.path.absolute()
        while not os.path.lexists(above):
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(
                f"{self.path}: cannot be written: {above} is not a writable directory; give {self.ways.out}"
            )

    def _foreign(self) -> Iterator[Path]:
        """Entries of checkpoints/ that are not checkpoints."""
        folder = self.path / "checkpoints"
        for entry in folder.iterdir() if folder.is_dir() else ():
            if not (entry.name.startswith((TEMPORARY, REFUSED)) or CHECKPOINT.fullmatch(entry.name)):
                yield entry

    def create(self, config: str) -> None:
        """Make the directory, remove what another run left in it and write the configuration.

        Raises UserError when it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _replace(self.metrics, "")  # first: it marks the directory as a run's
            folder = self.path / "checkpoints"
            folder.mkdir(exist_ok=True)
            for entry in [*map(Path, self.checkpoints()), *folder.glob(TEMPORARY + "*")]:
                shutil.rmtree(entry)
            for name in OWN[2:-2]:
                (self.path / name).unlink(missing_ok=True)
            shutil.rmtree(self.path / "loggers", ignore_errors=True)
            _replace(self.config, config)
            sync_folder(str(self.path))
        except OSError as error:
            raise self._not_written(error) from None

    def _not_written(self, error: OSError) -> UserError:
        where = error.filename or self.path
        return UserError(f"{where}: cannot be written: {one_line(error.strerror or error)}; give {self.ways.out}")

    def set_aside(self) -> str | None:
        """Move the files of a run that cannot be resumed into a folder of their own, before a new run begins.

        Returns its name, or None where there is nothing worth keeping.
        """
        if not self.checkpoints() and not (self.metrics.exists() and self.metrics.stat().st_size):
            return None
        number = 1 + sum(1 for _ in self.path.glob("before-*"))
        while os.path.lexists(away := self.path / f"before-{number}"):
            number += 1
        away.mkdir()
        for name in OWN:
            if os.path.lexists(self.path / name):
                os.rename(self.path / name, away / name)
        return str(away)

    def reopen(self, config: str, last: int, chosen: Path) -> tuple[float, list[int]]:
        """Resume from a checkpoint, after the line of iteration `last`: later lines are dropped, and later checkpoints,
        which were refused, are renamed, so that they do not count as kept.

        Returns the seconds spent until then, and iterations whose lines are missing.
        """
        kept: dict[int, str] = {}
        seconds = 0.0
        lines = self.metrics.read_text(errors="replace").splitlines() if self.metrics.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
                done, spent = int(record["iteration"]), float(record["seconds"])
            except (ValueError, KeyError, TypeError):
                break  # a line cut off by the end of the last run
            if done <= last and done not in kept:
                kept[done] = line if record.pop(STOPPED, None) is None else json.dumps(record)
                seconds = spent
        _replace(self.metrics, "".join(line + "\n" for line in kept.values()))
        _replace(self.config, config)
        for leftover in (self.path / "checkpoints").glob(TEMPORARY + "*"):
            shutil.rmtree(leftover)
        for path in map(Path, self.checkpoints()):
            if path.name > chosen.name:
                away = path.with_name(REFUSED + path.name)
                if away.exists():
                    shutil.rmtree(away)
                os.rename(path, away)
        sync_folder(str(self.path))
        return seconds, sorted(set(range(last + 1)) - set(kept))

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def checkpoint(self, iteration: int, position: int) -> Path:
        """The folder of a checkpoint: after an iteration, and maybe some batches of the next one."""
        within = f"-{position:08d}" if position else ""
        return self.path / "checkpoints" / f"iteration-{iteration:08d}{within}"

    def checkpoints(self) -> list[str]:
        """Published checkpoints, oldest first."""
        return sorted(str(p) for p in (self.path / "checkpoints").glob("iteration-*") if CHECKPOINT.fullmatch(p.name))

    def begin_checkpoint(self, final: Path, needed: int) -> None:
        """Make the temporary folder of a checkpoint of `needed` bytes. Raises UserError when it does not fit."""
        if lost := self.lost():
            raise UserError(lost)
        final.parent.mkdir(exist_ok=True)
        free = shutil.disk_usage(final.parent).free
        if free < needed:
            raise UserError(f"{final}: needs {needed / 2**20:.1f} MiB and {free / 2**20:.1f} are free")
        temporary = self.temporary(final)
        if os.path.lexists(temporary):
            shutil.rmtree(temporary)
        temporary.mkdir()

    def temporary(self, final: Path) -> Path:
        """Where a checkpoint is written before it is published."""
        return final.parent / (TEMPORARY + final.name)

    def publish(self, final: Path, manifest_name: str, manifest: bytes, keep: int) -> None:
        """Add the manifest to a checkpoint that all ranks have written, give it its final name, and remove old ones.

        Raises OSError; existing checkpoints stay then.
        """
        temporary = self.temporary(final)
        if self.unwritten():
            raise OSError(f"{self.metrics}: cannot be written")
        with open(temporary / manifest_name, "wb") as file:
            file.write(manifest)
            file.flush()
            os.fsync(file.fileno())
        if self.metrics.exists():  # a checkpoint must not outlive the lines before it
            with open(self.metrics, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(str(temporary))
        if final.exists():  # a damaged one that a resumed run skipped
            self._remove(final)
        os.rename(temporary, final)
        sync_folder(str(final.parent))
        for path in self.checkpoints()[:-keep]:
            self._remove(Path(path))

    def drop(self, final: Path) -> None:
        """Remove what was written of a checkpoint that failed."""
        shutil.rmtree(self.temporary(final), ignore_errors=True)

    def _remove(self, path: Path) -> None:
        """Rename first, so that a partly removed checkpoint never looks complete."""
        away = self.temporary(path).with_name(TEMPORARY + "old-" + path.name)
        if away.exists():
            shutil.rmtree(away)
        os.rename(path, away)
        shutil.rmtree(away)

    # --- files that grow --------------------------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """Append a line to log.txt."""
        self._append("log.txt", text)

    def record(self, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        self._append("metrics.jsonl", json.dumps(_finite(values), allow_nan=False))

    def end(self, why: dict[str, str]) -> None:
        """Say in the last line of a run that was resumed, and had nothing left to do, why it ended."""
        lines = self.metrics.read_text().splitlines()
        lines[-1:] = [json.dumps({**json.loads(line), STOPPED: why}) for line in lines[-1:]]
        _replace(self.metrics, "".join(line + "\n" for line in lines))

    def unwritten(self) -> int:
        """Lines that still wait for space on the disk, after another attempt."""
        for name in self._waiting:
            self._flush(name)
        return sum(map(len, self._waiting.values()))

    def _append(self, name: str, line: str) -> None:
        waiting = self._waiting.setdefault(name, [])
        waiting.append(line)
        del waiting[:-MOST_LINES]
        self._flush(name)

    def _flush(self, name: str) -> None:
        """Write all lines that wait, or none and no part of one."""
        lines = self._waiting[name]
        content = "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")
        handle, length = None, 0
        try:
            handle = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            length = os.fstat(handle).st_size
            while content:
                content = content[os.write(handle, content) :]
            lines.clear()
        except OSError:
            if handle is not None:
                with suppress(OSError):
                    os.ftruncate(handle, length)
        finally:
            if handle is not None:
                os.close(handle)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
