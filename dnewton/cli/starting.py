"""The first line of a job, printed before anything large is imported, which takes longer than users like to wait."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from dnewton import __version__
from dnewton.comm.library import told_rank, told_size

SILENT = ("-h", "--help", "--version", "--quiet")


def first_line(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """What rank 0 says of a job with these words on the command line, as far as its launcher tells; nothing on others,
    where only help was asked for, and when quiet."""
    if told_rank(environment) != 0 or any(word in SILENT for word in words):
        return ""
    size = told_size(environment)
    return f"dnewton {__version__}: starting{f' on {size} ranks' if size > 1 else ''}"


def say(words: Sequence[str]) -> None:
    """Print that line."""
    if (text := first_line(words, os.environ)) and sys.stdout is not None:
        with suppress(OSError):  # nobody may listen
            print(text, flush=True)
