"""One owner for a run directory: a lock file, taken atomically before anything else is written and held to the end.

The file is made complete under a name of its own and linked to its place: of any number of processes, on any hosts
that share a file system, NFS included, one succeeds. Where a file system has no links, O_EXCL does the same. The owner
renews a counter in the file from a thread of its own every `BEAT` seconds, because a job reads data, or computes within
one library call, for longer than any other place in it can promise to come by.

Whoever finds the lock taken asks whether the owner lives. A process of this host is looked up, with the time of its
start. Of another host (or container) only the counter is seen: it is alive when the counter changes and dead when it
does not for `PATIENCE` seconds by the observer's own clock; clocks of two hosts are never compared. A dead owner's
lock is replaced by rename, under a lock of its own whose name has the dead owner's token: so of two takers one
replaces it, once, and never a lock that is not the one that was judged.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dnewton.errors import UserError
from dnewton.storage.owner import Owner

NAME = "owner.lock"
NEW = ".new-"  # in the names of lock files that are not yet in their place
BEAT = 5.0  # seconds between two changes of the counter
# A counter that stands still for so long is a dead owner's: twelve beats, and twice the 30 s for which network file
# systems may show an old file (NFS: acregmax is 60 s, but opening a file asks the server).
PATIENCE = 60.0
LOOK = 0.25  # seconds between two looks at the counter
DIGITS = 20  # of the counter
OTHER = "another process"
LARGEST = 1 << 14  # bytes of a lock file that are read
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)

Tell = Callable[[str], None]


class InUse(UserError):
    """Another process holds the run directory."""


@dataclass(frozen=True)
class Waits:
    """How often and how long an observer looks at the lock of an owner that it cannot see."""

    beat: float = BEAT
    patience: float = PATIENCE
    look: float = LOOK


class RunLock:
    """The lock on a folder, held by this process."""

    def __init__(self, path: Path, handle: int, beat: float) -> None:
        """`handle`: the open lock file, which stays this owner's even where another took its place."""
        self._path = path
        self._handle = handle
        self._beat = beat
        self._count = 0
        self._on_loss: Callable[[], None] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beats, name="dnewton-owner", daemon=True)
        self._thread.start()

    def watch(self, on_loss: Callable[[], None]) -> None:
        """`on_loss` is called by another thread when another process has taken the lock for a dead owner's: this one
        was suspended for longer than `PATIENCE`."""
        self._on_loss = on_loss

    def taken_by(self) -> str:
        """Who has the lock instead of this process, or nothing."""
        try:
            same = os.path.samestat(os.stat(self._path), os.fstat(self._handle))
            return "" if same else str(_owner(_read(self._path)) or OTHER)
        except OSError:  # removed by hand, so nobody else's; or a file system that fails for a time
            return ""

    def release(self) -> None:
        """Give the lock back."""
        self._over.set()
        self._thread.join()
        with suppress(OSError):  # where it cannot be removed it is a dead owner's for the next one; the run is whole
            if not self.taken_by():
                self._path.unlink(missing_ok=True)
        os.close(self._handle)

    def _beats(self) -> None:
        while not self._over.wait(self._beat):
            self._count += 1
            with suppress(OSError):  # a disk that fails for a time: the next beat tries again
                size = os.fstat(self._handle).st_size
                os.pwrite(self._handle, _counter(self._count), size - DIGITS - 1)
                os.close(os.dup(self._handle))  # closing is what sends it to the server of a network file system
            if self._on_loss is not None and self.taken_by():
                self._on_loss()
                return


def take(folder: Path, owner: Owner, tell: Tell = lambda text: None, waits: Waits | None = None) -> RunLock:
    """Take the lock on a folder, a dead owner's too; `tell` gets a line where that may take a time.

    Raises InUse, which names the owner, and OSError where the folder cannot be written.
    """
    waits = waits or Waits()
    path = folder / NAME
    lock = RunLock(path, _take(path, owner, tell, waits), waits.beat)
    for leftover in folder.glob(NAME + ".*"):  # of processes that were killed while they took the lock
        whose = _owner(_read(leftover))
        if whose is not None and whose.alive(owner) is False:
            leftover.unlink(missing_ok=True)
    return lock


def _take(path: Path, owner: Owner, tell: Tell, waits: Waits) -> int:
    """The handle of the lock file, now this owner's."""
    while (handle := _placed(path, owner)) is None:
        found = _read(path)
        if found is None:
            continue  # it was given back
        if _alive(path, found, owner, tell, waits):
            raise InUse(f"{path.parent}: is in use by {_owner(found) or OTHER}")
        with _guard(path, found, owner, tell, waits) as held:
            if held and _content(_read(path)) == _content(found):
                return _replaced(path, owner)
    return handle


@contextmanager
def _guard(path: Path, dead: bytes, owner: Owner, tell: Tell, waits: Waits) -> Iterator[bool]:
    """Inside, this process alone may replace the dead owner's lock; False where another one is about to."""
    whose = _owner(dead)
    guard = path.with_name(f"{path.name}.{whose.token if whose else 'unknown'}")
    try:
        handle = _take(guard, owner, tell, waits)
    except InUse:
        time.sleep(0.01)  # it takes that one a moment
        yield False
        return
    try:
        yield True
    finally:
        guard.unlink(missing_ok=True)
        os.close(handle)


def _alive(path: Path, found: bytes, observer: Owner, tell: Tell, waits: Waits) -> bool:
    """Whether the owner of a lock file with this content lives; True also where the file has changed meanwhile and
    shows that."""
    whose = _owner(found)
    seen = None if whose is None else whose.alive(observer)
    if seen is not None:
        return seen
    tell(f"{path.parent} was taken by {whose or OTHER}; waiting up to {waits.patience:g} s for a sign of it")
    end = time.monotonic() + waits.patience
    while time.monotonic() < end:
        time.sleep(waits.look)
        now = _read(path)
        if now != found:
            return now is not None and _content(now) == _content(found)  # else another owner's, or nobody's
    return False


# --- files ----------------------------------------------------------------------------------------------------------


def _written(path: Path, owner: Owner) -> int:
    """The handle of a new lock file with its whole content."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(handle, owner.dumped().encode() + b"\n" + _counter(0))
        os.close(os.dup(handle))
    except OSError:
        os.close(handle)
        path.unlink(missing_ok=True)
        raise
    return handle


def _placed(path: Path, owner: Owner) -> int | None:
    """The handle of a lock file that was put in its place, or None where there is one already."""
    new = path.with_name(f"{NAME}{NEW}{owner.token}")
    handle = _written(new, owner)
    placed = False
    try:
        os.link(new, path)
        placed = True
    except FileExistsError:
        placed = os.stat(new).st_nlink == 2  # the answer of an NFS server to a call that was sent twice
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _exclusive(path, owner)
    finally:
        new.unlink(missing_ok=True)
        if not placed:
            os.close(handle)
    return handle if placed else None


def _exclusive(path: Path, owner: Owner) -> int | None:
    """As `_placed`, on a file system without links: the file is there before its content is."""
    try:
        return _written(path, owner)
    except FileExistsError:
        return None


def _replaced(path: Path, owner: Owner) -> int:
    """The handle of a lock file that has taken the place of a dead owner's."""
    new = path.with_name(f"{NAME}{NEW}{owner.token}")
    handle = _written(new, owner)
    try:
        os.rename(new, path)
    except OSError:
        os.close(handle)
        raise
    return handle


def _read(path: Path) -> bytes | None:
    """What a lock file holds, or None where there is none. It is opened each time, as network file systems want it."""
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # removed on the server while it was read
            return None
        raise


def _content(data: bytes | None) -> bytes | None:
    """What does not change while an owner holds the lock."""
    return None if data is None else data.split(b"\n")[0]


def _owner(data: bytes | None) -> Owner | None:
    return Owner.parsed((_content(data) or b"").decode("utf-8", "replace"))


def _counter(count: int) -> bytes:
    return f"{count:0{DIGITS}d}\n".encode()
