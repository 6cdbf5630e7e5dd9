"""Imported before MPI: until the training has handlers of its own, SIGINT ends this process at once, as the other
signals do, and so the launcher ends the job. Python's own way out leads through MPI_Finalize, where a rank would wait
for those that wait for it."""

from __future__ import annotations

import signal
import sys

_words = sys.orig_argv[:8]
if "dnewton.train" in _words or ("dnewton", "train") in zip(_words, _words[1:], strict=False):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as a command, not in a program that uses the module
