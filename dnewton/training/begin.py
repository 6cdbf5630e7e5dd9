"""How a run begins: from its weights or a checkpoint, with its directory made or opened again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dnewton.config.schema import Config
from dnewton.data.sources import Values
from dnewton.solvers.interface import StartPoint
from dnewton.storage.manifest import Manifest
from dnewton.storage.run_directory import RunDirectory
from dnewton.training import versions
from dnewton.training.checkpoint_reader import initial_state, resumed_state
from dnewton.training.job import Job
from dnewton.training.run_identity import changes


@dataclass(frozen=True)
class Beginning:
    """Where a run begins, and what the log says of it."""

    start: StartPoint
    resumed: Manifest | None
    before: float  # seconds that the run has taken already
    notes: list[str]


def begin(
    job: Job,
    out: RunDirectory,
    title: Sequence[str],
    init: str | Mapping[str, Values] | None,
    resume: str,
    changed_data: bool = False,
) -> Beginning:
    """The start of a run whose notes begin with `title`: `resume` is "no", "yes" (there must be a checkpoint) or "auto"
    (from one if there is one); `changed_data` resumes with other features, too.

    A mistake that is found here has changed no file. Raises UserError alike on all ranks. Collective over the workers.
    """
    comm = job.comm
    checkpoint = None if resume == "no" else resumed_state(job, out, resume == "auto", changed_data)
    start, resumed = checkpoint or (initial_state(job, init), None)
    notes, before = [*title, versions.line(comm), *job.notes], 0.0
    with comm.raise_together():
        if comm.rank == 0 and resumed is not None:
            last = start.iteration - (resumed.unreported is not None)
            before, missing = out.reopen(job.config.dump(), last, out.checkpoint(start.iteration, start.position))
            notes += _about(resumed, job, start, missing)
        elif comm.rank == 0:
            if resume == "auto" and (kept := out.set_aside()):
                notes.append(f"warning: no checkpoint could be used; the files of the run before are in {kept}")
            out.create(job.config.dump())
    return Beginning(start, resumed, before, notes)


def _about(resumed: Manifest, job: Job, start: StartPoint, missing: list[int]) -> list[str]:
    """Notes for the log of a resumed run."""
    within = f" and {start.position} step(s) of the next" if start.position else ""
    notes = [f"resuming after iteration {start.iteration}{within}"]
    now = json.loads(json.dumps(job.config.resolved()))
    solver = type(job.config.solver).model_validate({})
    known = json.loads(Config(net=job.config.net, solver=solver).model_dump_json(by_alias=True))
    before = {k: {**known[k], **v} if isinstance(v, dict) else v for k, v in resumed.config.items()}  # of new keys
    differing = [text for text in changes(before, now) if not text.startswith("parallel.rates")]
    notes += [f"changed since the checkpoint: {text}" for text in differing]
    if missing:
        notes.append(f"warning: metrics.jsonl has no line for iteration(s) {', '.join(map(str, missing[:5]))}")
    return notes
