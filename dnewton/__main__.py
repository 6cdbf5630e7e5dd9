"""`python -m dnewton VERB ...`: the same as `python -m dnewton.VERB ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

VERBS = ("train", "predict", "plan", "compare", "convert", "export")


def main() -> None:
    """Hand over to the verb's command line, of which alone anything is imported."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb not in VERBS:
        print(f"dnewton: error: {verb or 'nothing'} is no verb; use one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    if verb != "convert":  # whose command line begins with the verb
        del sys.argv[1]
    sys.exit(_main_of(verb)())


def _main_of(verb: str) -> Callable[[], Any]:
    if verb == "train":
        from dnewton.cli import interrupt as interrupt  # before MPI
        from dnewton.cli import train

        return train.main
    if verb == "predict":
        from dnewton.cli import predict

        return predict.main
    if verb == "compare":
        from dnewton.cli import compare

        return compare.main
    if verb == "convert":
        from dnewton.cli import convert

        return convert.main
    if verb == "export":
        from dnewton.cli import export

        return export.main
    from dnewton.cli import plan

    return plan.main


if __name__ == "__main__":
    main()
