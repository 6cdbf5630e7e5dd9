"""One logger in a thread of its own: the training neither waits for a network nor ends where one fails."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from dnewton.errors import one_line
from dnewton.loggers.interface import Logger

MOST = 100_000  # records that wait for a slow network

Figures = Mapping[str, float]


class Delivery:
    """Records on their way to a logger."""

    def __init__(self, name: str, opened: Callable[[], Logger]) -> None:
        """`opened` opens the logger, in the thread."""
        self.name = name
        self._queue: queue.Queue[tuple[int, Figures] | str] = queue.Queue(MOST)
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._run, args=(opened,), name=f"dnewton-{name}", daemon=True)
        self._thread.start()

    def record(self, step: int, figures: Figures) -> None:
        """Hand a record over; it never waits. Nothing where the logger has failed."""
        if self._failed:
            return
        try:
            self._queue.put_nowait((step, figures))
        except queue.Full:
            self._fail(f"{MOST} lines wait for it")

    def messages(self) -> list[str]:
        """What is to be told since the last call."""
        found = []
        while not self._messages.empty():
            found.append(self._messages.get())
        return found

    def close(self, how: str, seconds: float) -> None:
        """Wait at most so long until all is delivered."""
        until = time.monotonic() + seconds
        with suppress(queue.Full):
            self._queue.put(how, timeout=0 if self._failed else seconds)
        self._thread.join(0 if self._failed else max(0.0, until - time.monotonic()))
        if self._thread.is_alive() and not self._failed:
            self._fail(f"it took longer than {seconds:g} s to end")

    def _run(self, opened: Callable[[], Logger]) -> None:
        """The thread. Whatever a library raises ends this logger and nothing else."""
        try:
            logger = opened()
            self._messages.put(f"logging to {self.name}: {logger.where}")
            while not isinstance(item := self._queue.get(), str):
                logger.record(*item)
            logger.close(item)
        except Exception as error:
            self._fail(one_line(f"{type(error).__name__}: {error}")[:300])

    def _fail(self, why: str) -> None:
        self._failed = True
        self._messages.put(
            f"warning: output.loggers: {self.name} failed and gets no more lines ({why}); the training goes on, "
            "metrics.jsonl has all figures"
        )
