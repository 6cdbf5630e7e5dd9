"""Files that a command writes: whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from dnewton.errors import UserError, one_line


def check(option: str, path: str, overwrite: bool) -> None:
    """Raise UserError, before anything is computed, where a file cannot be put in its place, or would replace one."""
    name = f"{option} {path}"
    if not path or os.path.isdir(path):
        raise UserError(f"{name}: is a directory; name a file" if path else f"{option}: name a file")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UserError(f"{name}: there is no folder {folder}; make it, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{name}: cannot be written: {folder} is not writable; name another file")
    if _is_device(path):
        return
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{name}: exists; use --overwrite, or name another file")


def _is_device(path: str) -> bool:
    """Whether it is written into rather than replaced: /dev/stdout, a pipe."""
    return os.path.exists(path) and not os.path.isfile(path)


def write(path: str, content: bytes) -> None:
    """Write a file beside its place and move it there. Raises UserError where that cannot be done."""
    temporary = path + ".tmp"
    try:
        if _is_device(path):
            Path(path).write_bytes(content)
            return
        Path(temporary).write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {one_line(error.strerror or error)}") from None
