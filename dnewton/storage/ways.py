"""The words of a command or of a call from Python for what a user may do about a run directory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ways:
    """What the command or the call that opens a run directory has for another one, and for a run that is in it."""

    out: str = "another --out"
    overwrite: str = "--overwrite"
    resume: str = "--resume"  # empty: it cannot
    changed_data: str = "--changed-data"
    call: bool = False  # it is a call from Python

    def anew(self) -> str:
        """What starts a run where there is none to resume."""
        return f"{self.overwrite} or " + ('resume="auto"' if self.call else "--resume auto")

    def past_a_run(self) -> str:
        """What may be given where there is a run already."""
        return f"{', '.join(way for way in (self.overwrite, self.resume) if way)} or {self.out}"
