"""Files that a command writes: whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from dnewton.errors import UserError, one_line


def write(path: str, content: bytes) -> None:
    """Write a file beside its place and move it there. Raises UserError where that cannot be done."""
    temporary = path + ".tmp"
    try:
        Path(temporary).write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {one_line(error.strerror or error)}") from None
