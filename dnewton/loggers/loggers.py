"""All loggers of a run, on rank 0: what the trainer knows of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dnewton.config.logger_register import LOGGERS
from dnewton.errors import UserError, one_line
from dnewton.loggers.delivery import Delivery
from dnewton.loggers.interface import FAILED, FINISHED, STOPPED, About, Logger
from dnewton.reporting.figures import finite, flat
from dnewton.reporting.metrics_file import MetricsFile

PATIENCE = {FINISHED: 30.0, STOPPED: 10.0, FAILED: 3.0}  # seconds for what is not delivered yet
IDENTIFIER = "identifier"  # a file in each logger's folder


def check(names: Sequence[str]) -> None:
    """Import the libraries of loggers. Raises UserError where one is missing; for the rank that logs."""
    for name in names:
        try:
            LOGGERS[name]
        except ImportError as error:
            raise UserError(
                f"output.loggers: {name} needs a library that cannot be imported ({one_line(error)}); "
                f"pip install 'dnewton[{name}]', or leave it out"
            ) from None


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by their names with points; the iteration is the step."""
    found = {name: number for name, value in flat(record).items() if (number := finite(_number(value))) is not None}
    found.pop("iteration", None)
    return found


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


class Loggers:
    """The loggers of one run. Without names it does nothing."""

    def __init__(
        self,
        names: Sequence[str],
        run: Path,
        config: Mapping[str, Any],
        tell: Callable[[str], None],
        resumed_at: int | None = None,
    ) -> None:
        """Open them beside the files of the run directory `run`; of a resumed run with the first step that will come.
        `tell` gets where to look, and a warning where one fails."""
        self._tell = tell
        self._deliveries = [Delivery(name, partial(_opened, name, run, config, resumed_at)) for name in names]

    def record(self, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, for all of them."""
        if self._deliveries:
            figures = scalars(record)
            for delivery in self._deliveries:
                delivery.record(int(record["iteration"]), figures)
            self._say()

    def close(self, how: str) -> None:
        """The run has ended: `how` is FINISHED, STOPPED or FAILED."""
        for delivery in self._deliveries:
            delivery.close(how, PATIENCE[how])
        self._say()

    def _say(self) -> None:
        for delivery in self._deliveries:
            for text in delivery.messages():
                self._tell(text)


def _opened(name: str, run: Path, config: Mapping[str, Any], resumed_at: int | None) -> Logger:
    """One that has logged this run before goes on; a new one gets first what the run has written without it."""
    folder = run / "loggers" / name
    kept, identifier = folder / IDENTIFIER, ""
    if resumed_at is not None and kept.is_file():
        identifier = kept.read_text().strip()
    folder.mkdir(parents=True, exist_ok=True)
    first = (resumed_at or 0) if identifier else 0
    logger: Logger = LOGGERS[name](About(run.resolve().name, folder, config, first, identifier))
    kept.write_text(f"{logger.identifier}\n")
    if resumed_at and not identifier:
        for step, figures in _earlier(run / "metrics.jsonl", resumed_at):
            logger.record(step, figures)
    return logger


def _earlier(path: Path, first: int) -> Iterator[tuple[int, dict[str, float]]]:
    metrics = MetricsFile(path)
    if path.is_file():
        metrics.refresh()
    for record in metrics.records:
        step = record.get("iteration")
        if isinstance(step, int) and step < first:
            yield step, scalars(record)
