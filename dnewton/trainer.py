"""The outer loop: start, iterate, measure, checkpoint, stop. It prints nothing; `show` receives what to show."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dnewton import checkpoint, machine
from dnewton.assemble import Job
from dnewton.data.samples import Samples
from dnewton.errors import UserError
from dnewton.layout import cut
from dnewton.rundir import RunDirectory
from dnewton.settings import PARTS
from dnewton.solvers.solver import Saved, Start, Step

PHASES = (
    "setup", "function", "gradient", "jacobian", "cg", "early_stop", "combine", "factors", "precondition", "exchange",
    "evaluate", "report", "output",
)  # fmt: skip
BESIDE = ("evaluate", "report", "output")  # phases that train nothing
FORMAT = "1"
NO_CG = {"min": 0, "mean": 0.0, "max": 0}

Record = dict[str, Any]


class Trainer:
    """One run of a job into a run directory."""

    def __init__(
        self, job: Job, out: RunDirectory, started: float, show: Callable[[Record], None], resumed: bool = False,
        budget: float | None = None,
    ) -> None:  # fmt: skip
        """`started` is the clock (perf_counter) that `seconds` counts from; a resumed run has its first line.

        With a `budget`, the run ends after the iteration in which so many seconds of training are over; what the job
        sent before this run is then not counted as the run's.
        """
        self._budget, self._begun = budget, time.perf_counter()
        self._beside = sum(job.comm.ledger[name].elapsed for name in BESIDE)
        self._job, self._out, self._started, self._show = job, out, started, show
        self._resumed = resumed
        self._seen = {n: job.comm.ledger[n].values() if budget is not None else (0.0,) * 4 for n in PHASES}
        self.totals: dict[str, dict[str, float]] = {name: {} for name in PHASES}
        self.records: list[Record] = []
        self._checkpointed = -1
        self._samples_seen, self._trained_before = 0.0, 0.0

    def run(self, start: Start) -> None:
        """Train from `start` (iteration 0, or a checkpoint's) to the end. Collective over the world."""
        job, solver = self._job, self._job.solver
        if start.saved is not None:
            self._samples_seen = float(start.saved.values.get("samples_seen", "0"))
            self._trained_before = float(start.saved.values.get("train_seconds", "0"))
        first = solver.begin(start)
        every = job.config.output.checkpoint_every
        if not self._resumed:
            self._report(first)
            if every:
                self._checkpoint()  # a run killed before its first regular checkpoint can go on, too
        while not self._done():
            step = solver.step()
            self._report(step)
            if not math.isfinite(step.loss):
                raise UserError(
                    f"f is {step.loss} after iteration {solver.iteration}: {job.config.solver.name} has diverged; "
                    "a smaller solver.learning_rate usually helps"
                )
            if every and solver.iteration % every == 0:
                self._checkpoint()
        if every:
            self._checkpoint()
        checkpoint.save(
            self._out.model, job.network, {"": solver.theta}, {"format": FORMAT, **job.description}, job.comm,
            replica=job.crew.replica,
        )  # fmt: skip

    def _done(self) -> bool:
        """Enough iterations, nothing left to do, or no time left by rank 0's clock. Collective over the world."""
        solver = self._job.solver
        if solver.iteration >= self._job.config.solver.max_iterations or solver.converged:
            return True
        if self._budget is None:
            return False
        return bool(self._job.comm.from_root([self._trained() >= self._budget])[0])

    def _trained(self) -> float:
        """Seconds of the run without evaluations for the record, messages for the report, and files."""
        beside = sum(self._job.comm.ledger[name].elapsed for name in BESIDE)
        return self._trained_before + time.perf_counter() - self._begun - (beside - self._beside)

    def _checkpoint(self) -> None:
        job, solver = self._job, self._job.solver
        if self._checkpointed == solver.iteration:
            return
        saved = solver.saved()
        values = {
            **saved.values,
            "format": FORMAT,
            "iteration": str(solver.iteration),
            "samples_seen": repr(self._samples_seen),
            "train_seconds": repr(self._trained()),
            "replicas": str(job.crew.layout.replicas),
            "identity": json.dumps(identity(job)),
            **job.description,
        }
        vectors = {"": solver.theta} | {f"{name}.": vector for name, vector in saved.vectors.items()}
        checkpoint.save(
            self._out.checkpoint(solver.iteration), job.network, vectors, values, job.comm,
            {f"{name}.": vector for name, vector in saved.own.items()}, job.crew.replica, job.crew.layout.replicas,
        )  # fmt: skip
        self._checkpointed = solver.iteration
        with job.comm.together():
            if job.comm.rank == 0:
                self._out.prune(job.config.output.keep)

    # --- one line of metrics ----------------------------------------------------------------------------------------

    def _report(self, step: Step) -> None:
        job, comm = self._job, self._job.comm
        name = job.targets.metric_name
        record: Record = {
            "iteration": job.solver.iteration,
            "loss": step.loss,
            "grad_norm": step.grad_norm,
            "lambda": step.damping,
            "step": step.step,
            "ratio": step.ratio,
        }
        with comm.phase("evaluate"):
            scores = {f"train_{name}": job.targets.metric_value(step.metric, step.samples)}
            for part, samples in job.others.items():
                scores[f"{part}_{name}"] = job.targets.metric_value(self._metric_over(samples), samples.count)
        with comm.phase("report"):
            record.update(self._gathered(step, scores))
        if comm.rank == 0:
            self._out.record(record)
            self.records.append(record)
            self._show(record)

    def _metric_over(self, samples: Samples) -> float:
        """The metric's sum over a data set, each replica taking its share. Collective over the workers."""
        job, replicas = self._job, self._job.crew.layout.replicas
        lo, hi = cut(samples.count, replicas, job.crew.replica)
        total = job.objective.accumulate(job.solver.theta, np.arange(lo, hi), None, samples)[1]
        if replicas == 1:
            return total
        return job.comm.sum_scalars([total if job.network.comm.rank == 0 else 0.0])[0]

    def _gathered(self, step: Step, scores: Record) -> Record:
        """What all ranks contribute to, in one message: CG counts, traffic per phase, peak memory."""
        comm = self._job.comm
        now = {n: comm.ledger[n].values() for n in PHASES}
        change = {n: [a - b for a, b in zip(now[n], self._seen[n], strict=True)] for n in PHASES}
        self._seen = now
        mine = [step.cg, step.active, step.cut, step.waited, machine.peak_rss_bytes()]
        every = comm.gather_to_root([float(v) for v in mine] + [v for n in PHASES for v in change[n][:3]])
        _, _, cut, waited, _, *traffic = (float(v) for v in every.sum(axis=0))
        counts, peak = every[every[:, 1] > 0, 0], every[:, 4].max()
        cg = NO_CG
        if len(counts):
            cg = {"min": int(counts.min()), "mean": float(counts.mean()), "max": int(counts.max())}
        summed = {n: traffic[3 * i : 3 * i + 3] for i, n in enumerate(PHASES)}
        for n in PHASES:
            for key, value in zip(("calls", "bytes", "seconds", "elapsed"), (*summed[n], change[n][3]), strict=True):
                self.totals[n][key] = self.totals[n].get(key, 0.0) + value
        self._samples_seen += step.seen + step.seen_per_cg * cg["mean"]
        return {
            "samples_seen": self._samples_seen,
            **step.extra,
            "cg_iterations": cg if step.solved else None,
            "early_stopped": int(cut),
            "wait_seconds": waited,
            "trials": step.trials,
            **scores,
            "seconds": time.perf_counter() - self._started,
            "train_seconds": self._trained(),
            "phase_seconds": {n: change[n][3] for n in PHASES},
            "comm": {n: {"calls": int(c), "bytes": int(b), "seconds": s} for n, (c, b, s) in summed.items()},
            "peak_rss_bytes": int(peak),
        }


def identity(job: Job) -> dict[str, Any]:
    """What must not change between a checkpoint and its resumption."""
    config = job.config.resolved()
    layers = [
        {k: {o: v for o, v in opts.items() if o != "split"} for k, opts in layer.items()}
        for layer in config["net"]["layers"]
    ]
    return {
        "net": {**config["net"], "layers": layers},
        "data": {k: _names_only(v) if k in PARTS else v for k, v in config["data"].items() if k != "max_resident"},
        "solver": config["solver"]["name"],
        "seed": config["solver"]["seed"],
        "samples": job.objective.data.count,
    }


def _names_only(part: Any) -> Any:
    """A data part without its folders, which may differ from machine to machine."""
    if isinstance(part, dict):
        return {k: _names_only(v) for k, v in part.items()}
    if isinstance(part, list):
        return [_names_only(v) for v in part]
    return os.path.basename(part) if part else part


def initial_state(job: Job, init: str | None) -> Start:
    """θ drawn by the seed, or read from a model file.

    Raises UserError when the file does not fit the net. Collective over the world.
    """
    dtype = job.config.parallel.dtype
    with job.comm.together():
        seed = job.config.solver.seed
        return Start(checkpoint.load(init, job.network, dtype) if init else job.network.initial(seed, dtype))


def resumed_state(job: Job, out: RunDirectory) -> Start:
    """The newest checkpoint of a run directory.

    Raises UserError when there is none or it belongs to another net, data set, solver or seed. Collective over the
    world.
    """
    comm = job.comm
    with comm.together():
        paths = out.checkpoints()[::-1]
        if not paths:
            raise UserError(f"{out.path}: has no checkpoint to go on from (output.checkpoint_every was 0?)")
    for path in paths:
        try:
            with comm.together():
                return _read_state(path, job)
        except UserError as error:
            if path == paths[-1] or not os.path.exists(path) or "belongs to another run" in str(error):
                raise
            job.notes.append(f"{error}; trying an older checkpoint")
    raise AssertionError("unreachable")


def _read_state(path: str, job: Job) -> Start:
    values, dtype, crew = checkpoint.read_metadata(path), job.config.parallel.dtype, job.crew
    missing = {"format", "iteration", "first_norm", "replicas", "identity"} - set(values)
    if missing or values["format"] != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this version of dnewton")
    difference = _first_difference(json.loads(values["identity"]), json.loads(json.dumps(identity(job))))
    if difference:
        raise UserError(f"{path}: belongs to another run: {difference} differs")
    theta = checkpoint.load(path, job.network, dtype)
    vectors, own, mine = {}, {}, f"worker{crew.replica}."
    workers = int(values["replicas"]) == crew.layout.replicas  # else they start again from the common point
    for prefix in checkpoint.prefixes(path, job.network):
        if prefix.startswith("worker"):
            if workers and prefix.startswith(mine):
                own[prefix.removeprefix(mine)[:-1]] = checkpoint.load(path, job.network, dtype, prefix)
        elif prefix:
            vectors[prefix[:-1]] = checkpoint.load(path, job.network, dtype, prefix)
    return Start(theta, int(values["iteration"]), Saved(vectors, own, values))


def _first_difference(a: Any, b: Any, path: str = "") -> str | None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            found = _first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        entries = (_first_difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return next((entry for entry in entries if entry), None)
    return None if a == b else path
