"""What a computation tells of itself so that a job can be stopped: by default nobody listens."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class StopHooks:
    """What a rank looks after beside its work; here nothing. See :class:`dnewton.comm.stop.StopAgreement`."""

    armed = False  # whether there are places to stop at, alike on all ranks

    def look(self, waiting_since: float) -> None:
        """Called now and then while the rank waits, since a time of time.monotonic()."""

    def safe_point(self) -> None:
        """A place to stop at, passed in the same order by all ranks of a replica."""

    def sync_point(self) -> None:
        """The place before ranks of several replicas sum, passed by all ranks."""

    def stop_requested(self) -> bool:
        """A place inside a computation that needs no other rank; True: finish at once."""
        return False

    def no_stop(self) -> AbstractContextManager[None]:
        """Inside there is no place to stop at."""
        return nullcontext()

    def due(self, at: float | None) -> None:
        """A checkpoint is due when rank 0's time.monotonic() says so."""

    def reserve(self, seconds: float) -> None:
        """How long the last checkpoint took to write, and some more."""

    def resume(self) -> None:
        """Go on after a stop; all ranks call it."""

    def serve(self, waiting_since: float) -> None:
        """What a rank does that has no places to stop at, as a server, and that has heard nothing since then."""

    def poll(self) -> None:
        """Called now and then in the middle of long work that has no places to stop at."""
