"""The verbs of `dnewton VERB ...`, of which only the one that is asked for is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

SUMMARIES = {
    "train": "train a net on MPI ranks",
    "predict": "labels, values or probabilities by a trained model",
    "plan": "the layout of a net on any number of ranks, its memory and messages",
    "compare": "several solvers on one net from the same start",
    "convert": "write a data set so that ranks can read their columns",
    "export": "write a model for other programs: ONNX, PyTorch, NumPy, C",
    "report": "pictures of runs: an HTML page, SVG, PNG; their metrics as JSON or CSV",
    "watch": "a run in the terminal while it goes on",
    "info": "versions, MPI, cores, memory and GPUs; --check runs a self-test",
    "completion": "a script that completes these words in bash, zsh or tcsh",
}

Main = Callable[[Sequence[str] | None], Any]


def main_of(verb: str) -> Main:
    """The command line of a verb: it takes the words after the verb, and exits or returns the exit code."""
    return module_of(verb).main  # type: ignore[no-any-return]


def module_of(verb: str) -> Any:
    """The module of a verb, with `main` and `make_parser`, of which completion and tests ask the options."""
    return _MODULES[verb]()


def _train() -> Any:
    from dnewton.cli import train

    return train


def _predict() -> Any:
    from dnewton.cli import predict

    return predict


def _plan() -> Any:
    from dnewton.cli import plan

    return plan


def _compare() -> Any:
    from dnewton.cli import compare

    return compare


def _convert() -> Any:
    from dnewton.cli import convert

    return convert


def _export() -> Any:
    from dnewton.cli import export

    return export


def _report() -> Any:
    from dnewton.cli import report

    return report


def _watch() -> Any:
    from dnewton.cli import watch

    return watch


def _info() -> Any:
    from dnewton.cli import info

    return info


def _completion() -> Any:
    from dnewton.cli import completion

    return completion


_MODULES: dict[str, Callable[[], Any]] = {
    "train": _train,
    "predict": _predict,
    "plan": _plan,
    "compare": _compare,
    "convert": _convert,
    "export": _export,
    "report": _report,
    "watch": _watch,
    "info": _info,
    "completion": _completion,
}
