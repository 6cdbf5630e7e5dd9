"""How far a run is: a line of at most 80 columns for each iteration, and on a terminal a live one below them."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from dnewton.cli import terminal
from dnewton.cli.console import metric_name, score_form
from dnewton.cli.terminal import COLUMNS
from dnewton.comm.communicator import Comm
from dnewton.solvers.conjugate_gradients import ConjugateGradients

RECENT = 8  # iterations whose mean is "s/it"
ENDLESS = 1_000_000  # so many iterations are no plan
WORDS = {  # phases as a user reads them
    "setup": "other work",
    "function": "f at a trial step",
    "gradient": "gradient",
    "jacobian": "Jacobian",
    "cg": "solving",
    "early_termination": "waiting for the solves of other ranks",
    "combine": "combining the blocks' steps",
    "factors": "factors of the curvature",
    "precondition": "preconditioning",
    "evaluate": "test and validation",
    "report": "figures of all ranks",
    "output": "writing files",
    "exchange": "exchanging weights",
}
AT_THE_END = {"output": "writing the model", "evaluate": "final evaluation"}


class Pace:
    """Seconds for each iteration, and until the last one."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`total`: iterations at most."""
        self.total = total
        self._clock = clock
        self._ends: deque[tuple[int, float]] = deque(maxlen=RECENT + 1)

    def passed(self, iteration: int) -> None:
        """An iteration has ended."""
        self._ends.append((iteration, self._clock()))

    @property
    def each(self) -> float | None:
        """Seconds for each of the last iterations."""
        (first, begun), (last, ended) = (self._ends[0], self._ends[-1]) if self._ends else ((0, 0.0), (0, 0.0))
        return (ended - begun) / (last - first) if last > first else None

    @property
    def left(self) -> float | None:
        """Seconds that all iterations would take; the run may end before."""
        if self.each is None or self.total >= ENDLESS:
            return None
        return self.each * max(0, self.total - self._ends[-1][0])


def duration(seconds: float) -> str:
    """0:07, 12:30 or 3:05:00."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def line(record: Mapping[str, Any], pace: Pace, columns: int = COLUMNS) -> str:
    """An iteration in few columns: what does not fit is left out, |g| first."""
    iteration, name, total = record["iteration"], metric_name(record), pace.total
    of = f"/{total}" if total < ENDLESS else ""
    words = {
        "at": f"{iteration:>{len(str(total)) if of else 4}}{of}",
        "loss": f"f {record['loss']:<10.4g}",
    }
    if record["grad_norm"] is not None:
        words["gradient"] = f"|g| {record['grad_norm']:<8.2g}"
    elif record.get("adam_pass"):
        words["gradient"] = "pass of Adam"
    for part in ("validation", "test", "train"):
        if (score := record.get(f"{part}_{name}")) is not None:
            words["score"] = f"{part[:5]} {name} {format(score, '<' + score_form(name).replace('9', '8', 1))}"
            break
    if pace.each is not None:
        words["each"] = f"{pace.each:.2g} s/it"
    if pace.left is not None:
        words["left"] = f"left {duration(pace.left)}"
    for least in ("gradient", "each", "score", "left"):
        if len("  ".join(words.values()).rstrip()) > columns:
            words.pop(least, None)
    return "  ".join(words.values()).rstrip()


def within(phase: str, iteration: int | None, seconds: float, detail: str = "", ending: bool = False) -> str:
    """The live line: what is going on inside an iteration, before the first one, or at the end, and for how long."""
    if ending:
        where = f"at the end: {AT_THE_END.get(phase, 'closing')}"
    elif iteration is None:
        where = "setting up"
    else:
        where = f"iteration {iteration}: {WORDS.get(phase, phase)}"
    return f"  {where}{f', {detail}' if detail else ''}, {seconds:.1f} s"


class Display:
    """What rank 0 prints while a run goes on; those of other ranks print nothing."""

    def __init__(
        self,
        comm: Comm,
        *,
        progress: str,
        quiet: bool,
        fold: bool = True,
        bottom: Callable[[], str] | None = None,
    ) -> None:
        """`progress`: whether to keep a line at the bottom that says what goes on, or what `bottom` says, in another
        thread ("on", "off", "auto": on a terminal); `quiet`: print warnings and the end only; `fold`: break long
        lines."""
        self._ledger = comm.ledger
        self._words = bottom or self._inside
        self._silent = comm.rank != 0
        self._quiet = quiet
        self._fold = fold
        self._live: Any = None
        self._iteration: int | None = None
        self._ending = False
        self._since = time.monotonic()
        self._terminal = "" if self._silent else terminal.device()
        if (progress == "on" or (progress == "auto" and self._terminal)) and not self._silent and not quiet:
            from rich.console import Console
            from rich.live import Live

            console = Console(force_terminal=True, width=COLUMNS, highlight=False, soft_wrap=True)
            self._live = Live(console=console, refresh_per_second=8, transient=True, get_renderable=self._bottom)
            self._live.start()

    @property
    def live(self) -> bool:
        """Whether there is a live line."""
        return self._live is not None

    @property
    def columns(self) -> int:
        """Columns that a line may have."""
        return terminal.columns(self._terminal)

    def now_in(self, iteration: int) -> None:
        """An iteration has begun."""
        self._iteration = iteration
        self._since = time.monotonic()

    def now_ending(self) -> None:
        """The last iteration is over."""
        self._ending = True
        self._since = time.monotonic()

    def _bottom(self) -> Any:
        """In a thread of its own, beside the run: nothing but what it reads."""
        from rich.text import Text

        return Text(self._words()[: self.columns - 1], style="dim", no_wrap=True)  # a full line may be wrapped

    def _inside(self) -> str:
        solving = self._ledger.phase == "cg"
        detail = solve_detail(self._ledger.solving, self._ledger.solved) if solving else ""
        seconds = time.monotonic() - self._since
        return within(self._ledger.phase, self._iteration, seconds, detail, self._ending)

    def __call__(self, text: str, always: bool = False) -> None:
        """Print a line; `always`: when quiet, too."""
        if self._silent or (self._quiet and not always and not text.startswith("warning")):
            return
        for part in terminal.folded(text, self.columns) if self._fold else [text]:
            self._print(part)

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False, soft_wrap=True)
            return
        with suppress(OSError):  # standard output may be a file on a disk that is full
            print(text, flush=True)

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def solve_detail(systems: Sequence[Any], solved: tuple[int, int] | None = None) -> str:
    """How far local solves are: the iterations of the one that had most, the largest residual, and how many of the
    ranks have `solved` theirs, as far as this one has heard."""
    iterative = [(s.products, s.residual) for s in systems if isinstance(s, ConjugateGradients)]
    words = []
    if iterative:
        words.append(f"CG {max(n for n, _ in iterative)}, |r|/|g| {max(r for _, r in iterative):.2g}")
    if solved is not None:
        words.append(f"{solved[0]} of {solved[1]} ranks done")
    return ", ".join(words)
