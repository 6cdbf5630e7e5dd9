"""Imported before MPI: until the training has handlers of its own, SIGINT ends this process at once, as other signals
do, and the launcher then ends the job. Python's own handler would run MPI_Finalize, where this rank would wait for the
others."""

from __future__ import annotations

import signal
import sys

_words = sys.orig_argv[:8]
if "dnewton.train" in _words or ("dnewton", "train") in zip(_words, _words[1:], strict=False):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as a command, not in a program that uses the module
