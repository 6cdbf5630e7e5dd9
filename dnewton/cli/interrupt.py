"""Imported before MPI is initialised: until the training has handlers of its own, SIGINT ends this process at once, as
other signals do, and the launcher then ends the job. Python's own handler would run MPI_Finalize, where this rank would
wait for the others."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence


def trains(words: Sequence[str]) -> bool:
    """Whether an interpreter's words are a training's command line: `-m dnewton.train`, `-m dnewton train`, or the
    installed script `.../dnewton train`."""
    first = [os.path.basename(word) for word in words[:8]]
    return "dnewton.train" in first or ("dnewton", "train") in zip(first, words[1:8], strict=False)


if trains(sys.orig_argv):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as a command, not in a program that uses the module
