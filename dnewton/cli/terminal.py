"""The terminal that rank 0's lines are seen on, how wide it is, and long lines in its columns."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

COLUMNS = 80  # at most, and where nothing tells how many there are
NARROWEST = 40
INDENT = "  "
LAUNCHERS = {"mpirun", "mpiexec", "mpiexec.hydra", "orterun", "prterun", "srun"}
TERMINALS = ("/dev/pts/", "/dev/tty")
BREAKS = (r"(?<=;) ", r" (?=\()", r"(?<=,) ", " ")  # where a long line is broken, best places first


def device() -> str:
    """The terminal to which rank 0 writes: its own, or the launcher's, to which its pipe leads. Empty: none."""
    own = sys.stdout is not None and sys.stdout.isatty()
    if own and "OMPI_COMM_WORLD_SIZE" not in os.environ:
        with suppress(OSError, ValueError):
            return os.ttyname(sys.stdout.fileno())
        return "/dev/tty"
    return _launchers(os.getppid())


def _launchers(process: int) -> str:
    """The terminal of a launcher among the parents of this process, on this node."""
    for _ in range(8):
        folder = Path("/proc", str(process))
        try:
            name = (folder / "comm").read_text().strip()
            if name in LAUNCHERS and (found := os.readlink(folder / "fd" / "1")).startswith(TERMINALS):
                return found
            process = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return ""
        if process <= 1:
            return ""
    return ""


def columns(terminal: str) -> int:
    """Columns that lines may have: those of a terminal now, but at most 80; 80 where it does not tell."""
    if not terminal:
        return COLUMNS
    try:
        handle = os.open(terminal, os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return COLUMNS
    try:
        wide = os.get_terminal_size(handle).columns
    except OSError:
        wide = 0
    finally:
        os.close(handle)
    return min(COLUMNS, max(NARROWEST, wide)) if wide else COLUMNS


def folded(text: str, width: int = COLUMNS) -> list[str]:
    """A line as lines of at most `width` columns, those after the first one indented; only a word that is longer
    exceeds them, or an option with its value. It is broken between statements, before brackets, after commas, or
    between words."""
    if len(text) <= width:
        return [text]
    whole = re.sub(r"(--[a-z][\w-]*) (?=\S)", "\\1\0", text)  # an option and its value stay together
    first, *rest = (line.replace("\0", " ") for line in _broken(whole, width - len(INDENT), BREAKS))
    return [first, *(INDENT + line for line in rest)]


def _broken(text: str, width: int, breaks: tuple[str, ...]) -> list[str]:
    if len(text) <= width or not breaks:
        return [text]
    lines: list[str] = []
    for piece in re.split(breaks[0], text):
        if lines and len(lines[-1]) + 1 + len(piece) <= width:
            lines[-1] += " " + piece
        else:
            lines += _broken(piece, width, breaks[1:])
    return lines
