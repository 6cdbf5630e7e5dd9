"""Who holds a run directory: a process, and whether another process can see that it is alive."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass

JOBS = {"SLURM_JOB_ID": "Slurm job", "PBS_JOBID": "PBS job", "LSB_JOBID": "LSF job"}
ENDED = ("Z", "X")  # states of a process that has ended and whose parent has not asked for its exit code yet


@dataclass(frozen=True)
class Owner:
    """One process as it stands in a lock file."""

    token: str  # of this taking of the lock alone
    host: str
    pid: int
    started: str  # when the process was, in the kernel's ticks: a number that is used again starts later
    processes: str  # boot and PID namespace: who has the same sees the same processes; empty where it is not known
    since: str  # when the lock was taken, by the clock of the owner, for people
    job: str = ""

    @classmethod
    def here(cls) -> Owner:
        """This process, with a new token."""
        pid = os.getpid()
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        started = (state_and_start(pid) or ("", ""))[1]
        return cls(os.urandom(8).hex(), platform.node(), pid, started, visible_processes(), now, job_of(os.environ))

    def dumped(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def parsed(cls, line: str) -> Owner | None:
        """What :meth:`dumped` wrote; None where the line is something else, or not complete."""
        try:
            values = json.loads(line)
            owner = cls(**values)
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (owner.token, owner.host, owner.started, owner.processes, owner.since, owner.job)
        fits = isinstance(owner.pid, int) and owner.pid > 0 and all(isinstance(text, str) for text in texts)
        return owner if fits and owner.token.isalnum() else None

    def alive(self, observer: Owner) -> bool | None:
        """Whether the process runs; None where `observer`, on another host or in another container, cannot see it."""
        if not self.processes or self.processes != observer.processes:
            return None
        found = state_and_start(self.pid)
        return found is not None and found[0] not in ENDED and found[1] == self.started

    def __str__(self) -> str:
        job = f"{self.job}, " if self.job else ""
        return f"process {self.pid} on {self.host} ({job}since {self.since})"


def state_and_start(pid: int) -> tuple[str, str] | None:
    """The state of a process and when it was started; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return None


def visible_processes() -> str:
    """What two processes have in common exactly where each finds the other in /proc; empty where that is not known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def job_of(environment: Mapping[str, str]) -> str:
    """The batch job that a process belongs to, with its number, or nothing."""
    array = [environment.get(f"SLURM_ARRAY_{name}", "") for name in ("JOB_ID", "TASK_ID")]
    if all(array):
        return f"Slurm job {'_'.join(array)}"
    return next((f"{words} {environment[name]}" for name, words in JOBS.items() if environment.get(name)), "")
