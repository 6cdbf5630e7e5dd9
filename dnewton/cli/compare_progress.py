"""How far a comparison is: which run of how many, and how much of its time or of its iterations is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dnewton.cli.compare_plans import FOREVER
from dnewton.cli.console import metric_name
from dnewton.cli.progress import Display, duration
from dnewton.cli.terminal import COLUMNS
from dnewton.reporting.marks import shortened

EVERY = 10.0  # seconds between two lines of a run where there is no live one
NAME = 30  # characters of a run's name


class CompareProgress:
    """Lines about the runs through a display, on rank 0; and the words of its live line."""

    def __init__(self, total: int, budget: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`total`: runs, finished ones included."""
        self.live = False  # whether there is a live line, which makes others superfluous
        self._total = total
        self._budget = budget
        self._clock = clock
        self._number = 0
        self._name = ""
        self._iterations = FOREVER
        self._before = 0
        self._record: Mapping[str, Any] | None = None
        self._since = self._said = clock()

    def begin(self, name: str, iterations: int) -> str:
        """The next run; a line where one is wanted."""
        self._number += 1
        self._name, self._iterations, self._record = shortened(name, NAME), iterations, None
        self._since = self._said = self._clock()
        return "" if self.live else self._where()

    def passed(self, record: Mapping[str, Any], before: int = 0) -> str:
        """An iteration has ended; a line now and then. `before`: iterations that the run was not asked for."""
        self._record, self._since = record, self._clock()
        self._before = before
        if self.live or self._since - self._said < EVERY:
            return ""
        self._said = self._since
        return self.now()

    def ended(self, last: Mapping[str, Any] | None, before: str = "", why: str = "") -> str:
        """The line that stays of a run: where it is, with words before its figures and after them."""
        self._record, self._since = last, self._clock()
        words = [self._where(), *([before] if before else [])]
        if last is not None:
            words += [f"{last['iteration']} iterations", f"{last['train_seconds']:.3g} s", *_figures(last)]
        return self._joined([*words, *([why] if why else [])])

    def now(self) -> str:
        """What goes on, in at most 80 columns."""
        if not self._number:
            return "reading"
        if self._record is None:
            return self._joined([self._where(), f"setting up, {self._clock() - self._since:.1f} s"])
        record = self._record
        spent = record["train_seconds"] + self._clock() - self._since
        if self._budget is not None:
            spent = min(spent, self._budget)
            far = f"{spent:.0f} s of {self._budget:g}" if self._budget < 3600 else _hours(spent, self._budget)
        else:
            far = f"{spent:.0f} s"
        iteration = f"iteration {record['iteration']}"
        if self._iterations < FOREVER:
            iteration += f" of {self._iterations + self._before}"
        return self._joined([self._where(), far, iteration, *_figures(record)])

    def _where(self) -> str:
        return f"{self._number} of {self._total}, {self._name}"

    def _joined(self, words: list[str]) -> str:
        while len(words) > 2 and len(", ".join(words)) > COLUMNS:
            words.pop()
        return shortened(", ".join(words), COLUMNS)


def _hours(spent: float, budget: float) -> str:
    return f"{duration(spent)} of {duration(budget)}"


def _figures(record: Mapping[str, Any]) -> list[str]:
    found = [f"f {record['loss']:.4g}"]
    name = metric_name(record)
    for part in ("test", "validation", "train"):
        if (score := record.get(f"{part}_{name}")) is not None:
            found.append(f"{part} {name} {score:.4g}")
            break
    return found


def shown(display: Display, text: str, always: bool = False) -> None:
    """Show a line that is not empty."""
    if text:
        display(text, always)
