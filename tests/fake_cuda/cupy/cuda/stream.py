"""Streams as counters: what was issued, what is known to be done, and what a synchronisation brings about.

Work runs at once on the host; what is modelled is what the host may know. A kernel makes its stream busy until the
host waits for it. A copy to the host leaves garbage until then, and a copy from pinned memory looks then whether
its source was left alone.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from cupy import _fake
from cupy.cuda import runtime

TO_DEVICE = "copy to device"


@dataclass
class _Line:
    """One stream on one device."""

    issued: int = 0
    done: int = 0
    last: str = ""
    pending: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    sources: set[int] = field(default_factory=set)  # pending looks whether a source was left alone
    asked: int = 0  # up to where someone has polled

    def poll(self, until: int) -> bool:
        """The first question is answered no, the second completes the work: time passes by asking."""
        if self.done < until <= self.asked:
            self.complete(until)
        self.asked = until
        return self.done >= until

    def issue(self, what: str, then: Callable[[], None] | None = None) -> None:
        self.issued, self.last = self.issued + 1, what
        if then is not None:
            self.pending.append((self.issued, then))
            if what == TO_DEVICE:
                self.sources.add(self.issued)

    def check_sources(self) -> None:
        """What is issued next comes after the copies to the device: their sources may change from now on."""
        checks = [then for at, then in self.pending if at in self.sources]
        self.pending = [entry for entry in self.pending if entry[0] not in self.sources]
        self.sources.clear()
        for check in checks:
            check()

    def complete(self, until: int) -> None:
        self.done = max(self.done, until)
        due = [then for at, then in self.pending if at <= until]
        self.pending = [entry for entry in self.pending if entry[0] > until]
        failed: list[_fake.Overwritten] = []
        for then in due:
            try:
                then()
            except _fake.Overwritten as error:
                failed.append(error)  # the other copies have been made all the same
        if failed:
            raise failed[0]


_all: weakref.WeakSet[Stream] = weakref.WeakSet()


class Stream:
    """A CUDA stream; the null stream has a line on every device, others belong to the device they were made on."""

    null: ClassVar[Stream]

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        self.non_blocking, self.priority = non_blocking, priority
        self.device_id = -1 if null else runtime.getDevice()
        self.ptr = 0 if null else id(self)
        self._lines: defaultdict[int, _Line] = defaultdict(_Line)
        self._before: list[Stream] = []
        _all.add(self)

    def _line(self, device: int | None = None) -> _Line:
        if self.device_id >= 0:
            return self._lines[self.device_id]
        return self._lines[runtime.getDevice() if device is None else device]

    @property
    def done(self) -> bool:
        """True if all work has been done."""
        line = self._line()
        return line.poll(line.issued)

    def synchronize(self) -> None:
        """Wait for all work on this stream."""
        _fake.counts.synchronisations += 1
        self._complete()

    def _complete(self, device: int | None = None) -> None:
        line = self._line(device)
        line.complete(line.issued)

    def use(self) -> Stream:
        _current.stream = self
        return self

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Later work waits for the event; with work that runs at once in the order of issue, nothing to do."""

    def __enter__(self) -> Stream:
        self._before.append(_current.stream)
        _current.stream = self
        return self

    def __exit__(self, *exc: object) -> None:
        _current.stream = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)

    def __repr__(self) -> str:
        return f"<Stream {self.ptr} (device {self.device_id})>"


class Event:
    """A place in a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._place: tuple[_Line, int] | None = None

    def record(self, stream: Stream | None = None) -> None:
        line = (stream or get_current_stream())._line()
        self._place = (line, line.issued)

    def synchronize(self) -> None:
        """Wait for what was issued before the record."""
        _fake.counts.synchronisations += 1
        if self._place is not None:
            line, until = self._place
            line.complete(until)

    @property
    def done(self) -> bool:
        return self._place is None or self._place[0].poll(self._place[1])


Stream.null = Stream(null=True)


class _Current(threading.local):
    stream = Stream.null


_current = _Current()


def get_current_stream(device_id: int = -1) -> Stream:
    return _current.stream


def launch(name: str) -> None:
    """A kernel goes to the current stream."""
    _fake.counts.kernels += 1
    _current.stream._line().issue(name)


def blocking_transfer(nbytes: int, stream: Stream | None = None) -> None:
    """Bytes reach the host and the host has waited for them, so all work before them on the stream is done."""
    _fake.to_host(nbytes)
    (stream or _current.stream)._complete()


def synchronise_device(device: int) -> None:
    _fake.counts.synchronisations += 1
    for stream in list(_all):
        if stream.device_id in (-1, device):
            stream._complete(device)


def require_synchronised(device: int, what: str) -> None:
    """Raise unless the host knows that no kernel on this device is in flight."""
    for stream in list(_all):
        if stream.device_id in (-1, device):
            line = stream._line(device)
            if line.done < line.issued:
                why = (
                    f"{what} is read while {line.issued - line.done} operations are in flight on {stream!r} "
                    f"(the last: {line.last}); synchronise first"
                )
                sys.stderr.write(f"fake CUDA: {why}\n")  # mpi4py makes a bare TypeError of the exception
                raise _fake.NotSynchronised(why)
