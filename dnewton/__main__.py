"""`dnewton VERB ...` and `python -m dnewton VERB ...`: the same as `python -m dnewton.VERB ...`."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from dnewton import __version__
from dnewton.cli import starting, verbs
from dnewton.comm.library import told_rank

USAGE = """\
usage: dnewton VERB ...
       mpirun -np P dnewton VERB ...

Distributed Newton training of neural networks with MPI.

verbs:
{verbs}

options:
  -h, --help   this text; after a verb, that verb's options and examples
  --version    the version

examples:
  mpirun -np 4 dnewton train --net cnn.yaml --out runs/cnn
  dnewton predict --model runs/cnn --data digits --out labels.csv
"""


def usage() -> str:
    """The text of `dnewton --help`."""
    width = max(map(len, verbs.SUMMARIES)) + 2
    return USAGE.format(verbs="\n".join(f"  {verb:<{width}} {text}" for verb, text in verbs.SUMMARIES.items()))


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Hand over to the verb's command line, of which alone anything is imported. `argv`: sys.argv's by default."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words else ""
    if verb == "train":
        starting.say(words[1:])
    if verb in verbs.SUMMARIES:
        sys.exit(verbs.main_of(verb)(words[1:]))
    if verb == "--version":
        _say(f"dnewton {__version__}")
    if verb in ("-h", "--help", "help"):
        _say(usage().rstrip())
    near = difflib.get_close_matches(verb, verbs.SUMMARIES, n=1)
    cure = f"did you mean {near[0]}?" if near else f"use one of {', '.join(verbs.SUMMARIES)}"
    if told_rank(os.environ) == 0:
        print(f"dnewton: error: {repr(verb) if verb else 'nothing'} is no verb; {cure}", file=sys.stderr)
    sys.exit(2)


def _say(text: str) -> NoReturn:
    if told_rank(os.environ) == 0:
        print(text)
    sys.exit(0)


if __name__ == "__main__":
    main()
