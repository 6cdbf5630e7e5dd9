"""Calls by which a computation allows a job to be stopped; by default they do nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class StopHooks:
    """Does nothing; :class:`dnewton.comm.stop.StopAgreement` is the implementation."""

    armed = False  # whether there are safe points yet, the same on all ranks

    def look(self, waiting_since: float) -> None:
        """Called now and then while the rank waits, since a time of time.monotonic()."""

    def safe_point(self) -> None:
        """A point at which the ranks can stop, passed in the same order by all ranks of a replica."""

    def sync_point(self) -> None:
        """The point before ranks of several replicas sum, passed by all ranks."""

    def stop_requested(self) -> bool:
        """Asked inside a computation that needs no other rank; True: return at once."""
        return False

    def no_stop(self) -> AbstractContextManager[None]:
        """A context without safe points."""
        return nullcontext()

    def want(self, reason: int) -> None:
        """Ask for a stop, from a signal handler or another thread."""

    def due(self, at: float | None) -> None:
        """A checkpoint is due when rank 0's time.monotonic() says so."""

    def reserve(self, seconds: float) -> None:
        """Leave so many seconds before the limit of time for writing a checkpoint."""

    def resume(self) -> None:
        """Resume after a stop; all ranks call it."""

    def serve(self, waiting_since: float) -> None:
        """Called by a rank without safe points, a server, that has received nothing since then."""

    def poll(self) -> None:
        """Called now and then in the middle of long work without safe points."""
