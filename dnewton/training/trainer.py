"""The outer loop: start, iterate, measure, save, stop. It prints nothing; `show` gets what is to be shown."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from dnewton import __version__
from dnewton.arrays.namespace import Array
from dnewton.comm.stop import CHECKPOINT, LOST, Stopped
from dnewton.comm.trace import ITERATION
from dnewton.data.samples import Samples
from dnewton.data.sampling import run
from dnewton.errors import UserError, one_line
from dnewton.grid import cut
from dnewton.loggers.interface import FAILED, FINISHED
from dnewton.loggers.interface import STOPPED as STOPPED_RUN
from dnewton.loggers.loggers import Loggers
from dnewton.solvers.interface import IterationReport, StartPoint
from dnewton.storage.manifest import Manifest
from dnewton.storage.posterior import Posterior
from dnewton.storage.run_directory import STOPPED, RunDirectory
from dnewton.training import error_bars
from dnewton.training.checkpoint_writer import Saver, State, reported
from dnewton.training.ending import CALLBACK, Ending, Standing, ending, reason
from dnewton.training.job import Job
from dnewton.training.metrics import Metrics
from dnewton.training.trace_file import TraceFile

BESIDE = ("evaluate", "report", "output")  # phases that are not training
LISTED_RANKS = 64  # up to so many ranks have figures of their own in a line of metrics

Record = dict[str, Any]


class Trainer:
    """One run of a job into a run directory."""

    def __init__(
        self,
        job: Job,
        out: RunDirectory,
        started: float,
        show: Callable[[Record], None],
        resumed: Manifest | None = None,
        budget: float | None = None,
        tell: Callable[[str], None] = lambda text: None,
        watch: Callable[[Record], str] | None = None,
    ) -> None:
        """`started` is the clock (perf_counter) that `seconds` counts from; a resumed run has its first line. `tell`
        gets warnings, on all ranks.

        `watch`, if given on all ranks, is called on rank 0 with the figures of every iteration; the run ends where it
        returns a text, which says why.

        With a `budget`, the run ends after the iteration in which so many seconds of training are over; what the job
        sent before this run is then not counted as the run's.
        """
        self._budget = budget
        self._begun = time.perf_counter()
        self._beside = sum(job.comm.ledger[name].elapsed for name in BESIDE)
        self._job = job
        self._out = out
        self._started = started
        self._show = show
        self._resumed = resumed
        self._tell = tell
        self._watch = watch
        self._metrics = Metrics(job.comm, job.device, from_now=budget is not None)
        self.records: list[Record] = []
        self._samples_seen = resumed.samples_seen if resumed else 0.0
        self._trained_before = resumed.train_seconds if resumed else 0.0
        self._unreported: IterationReport | None = None
        self._before: State | None = None  # the step that is being taken; None where it may be interrupted
        self._saved_at = time.monotonic()
        self._saver: Saver
        self._loggers: Loggers
        self.ended: Ending | None = None  # why, once nothing is left to do
        self.begun = False  # whether the solver has started
        self.saved = resumed is not None  # whether the last state is in a checkpoint

    @property
    def _has_rate(self) -> bool:
        return hasattr(self._job.config.solver, "learning_rate")

    @property
    def totals(self) -> dict[str, dict[str, float]]:
        """Traffic and seconds by phase, over all lines of metrics."""
        return self._metrics.totals

    def run(self, start: StartPoint) -> Stopped | None:
        """Train from `start` (iteration 0, or a checkpoint's) to the end, or until all ranks stop together: then what
        stopped them is returned, and the state is in a checkpoint.

        Raises UserError when f is not finite, and when another job has taken over the run directory. Collective over
        the workers.
        """
        self._loggers = self._opened(start)
        how = FAILED
        try:
            stop = self._traced(start)
            how = FINISHED if stop is None else STOPPED_RUN
        finally:
            self._loggers.close(how)
        return stop

    def _opened(self, start: StartPoint) -> Loggers:
        """The loggers of the run; none but on rank 0."""
        job, resumed = self._job, self._resumed
        names = job.config.output.loggers if job.comm.rank == 0 and self._out.keeps else []
        about = {"version": __version__, "ranks": job.groups.world.size}
        config = {**job.config.resolved(), "dnewton": about}
        first = None if resumed is None else start.iteration + (resumed.unreported is None)
        return Loggers(names, self._out.path, config, self._tell, first)

    def _traced(self, start: StartPoint) -> Stopped | None:
        """The run, and its trace if that is asked for. Collective over the workers."""
        if not (self._job.config.output.trace and self._out.keeps):
            return self._run(start)
        trace = TraceFile(self._job.comm)
        try:
            stop = self._run(start)
        except UserError:  # alike on all ranks
            self._write(trace)
            raise
        self._write(trace)
        return stop

    def _write(self, trace: TraceFile) -> None:
        """Write the trace; where that fails it is a warning. Collective over the workers."""
        about = {"ranks": self._job.comm.size, "solver": self._job.config.solver.name}
        try:
            left_out = trace.write(self._out.trace, about)
        except OSError as error:  # on rank 0, after the last message
            self._tell(f"warning: no trace: {one_line(error)}")
        else:
            if left_out:
                self._tell(f"warning: {self._out.trace} leaves out the last {left_out} spans of all ranks")

    def _run(self, start: StartPoint) -> Stopped | None:
        stops, resumed = self._job.comm.stops, self._resumed
        self._saver = Saver(self._job, self._out, start, resumed, self._tell)
        self._out.watch(lambda: stops.want(LOST))
        stops.armed = True
        try:
            first = self._job.solver.begin(start)
            self._unreported = first if resumed is None else reported(resumed, self._job.comm.rank)
        except Stopped as stop:
            return self._unless_lost(stop)
        except (KeyError, ValueError, TypeError) as error:  # the same on all ranks, which have read the same manifest
            if resumed is None or isinstance(error, np.linalg.LinAlgError):
                raise
            where = self._out.checkpoint(resumed.iteration, resumed.position)
            raise UserError(f"{where}: does not hold what the solver needs: {one_line(error)}") from error
        self.begun = True
        if self._unreported is None:
            self.ended = self._ending()
            if self.ended is not None and self._job.comm.rank == 0:
                self._out.end(self.ended.as_json())
        while True:
            try:
                if self._advance():
                    break
            except Stopped as stop:
                self._unless_lost(stop)
                self._save()
                if stop.reason != CHECKPOINT:
                    return stop
                stops.resume()
        if self._job.config.output.checkpoint_every:
            self._save()
        with self._job.comm.phase("output"):
            self._saver.write_final()  # also where error bars fail or take long
        self.find_error_bars()
        with self._job.comm.phase("output"):
            if self._saver.posterior is not None:
                self._saver.write_final()
            self._saver.write_best()
        return None

    def find_error_bars(self) -> None:
        """The posterior of the final weights, where it is asked for. Raises UserError. Collective over the workers."""
        if self._job.config.output.error_bars and self._saver.posterior is None:
            found = self._saver.posterior = error_bars.posterior(self._job, self.final_theta)
            if self._job.comm.rank == 0:
                self._tell(error_bars.described(found, self._job))

    @property
    def posterior(self) -> Posterior | None:
        """The posterior of the final weights, where it was asked for and the run has ended."""
        return self._saver.posterior

    def _unless_lost(self, stop: Stopped) -> Stopped:
        """Raises UserError where another job writes to the run directory now. Collective over the workers."""
        if stop.reason == LOST:
            raise UserError(self._job.comm.text_from_root(self._out.lost()))
        return stop

    def _advance(self) -> bool:
        """Report what has not been reported, save if it is time, take a step; True when nothing is left to do.

        May be called again after it raised Stopped. Collective over the workers.
        """
        solver = self._job.solver
        if self._unreported is not None:
            self._report(self._unreported)
            self._unreported = None
        if self._is_due():
            self._save()
        if self.ended is not None:
            return True
        self._before = self._state() if solver.position is None else None
        self._ask_by_the_clock()
        began = time.perf_counter()
        step = solver.step()
        if (trace := self._job.comm.ledger.trace) is not None:
            trace.add(ITERATION, f"iteration {solver.iteration}", began, time.perf_counter())
        self._job.comm.stops.due(None)
        self._before = None
        self._unreported = step
        if not math.isfinite(step.loss):
            self._saver.write_best()
            raise UserError(
                f"f is {step.loss} after iteration {solver.iteration}: {self._job.config.solver.name} has diverged"
                + ("; a smaller solver.learning_rate usually helps" if self._has_rate else "")
                + ("; the best model so far is in best.safetensors" if self._out.keeps else "")
            )
        return False

    def _is_due(self) -> bool:
        """Whether a checkpoint is, between two steps. Collective over the workers."""
        output, solver = self._job.config.output, self._job.solver
        if solver.position:
            return False
        if output.checkpoint_every and (solver.iteration % output.checkpoint_every == 0):
            return True  # at the start, too: a run killed before the first regular checkpoint can be resumed
        if output.checkpoint_minutes is None or solver.position is not None:
            return False
        with self._job.comm.phase("output"):
            waited = time.monotonic() - self._saved_at
            return bool(self._job.comm.bcast_scalars([waited >= 60 * output.checkpoint_minutes])[0])

    def _ask_by_the_clock(self) -> None:
        """Where a step can be interrupted, ask for a stop when a checkpoint is due by rank 0's clock."""
        minutes = self._job.config.output.checkpoint_minutes
        if minutes is not None and self._before is None:
            self._job.comm.stops.due(self._saved_at + 60 * minutes)

    @property
    def iteration(self) -> int:
        """The iteration after which a stopped run resumes."""
        return self._before.iteration if self._before is not None else self._job.solver.iteration

    @property
    def final_theta(self) -> Array:
        """This rank's blocks of the weights that the run ends with, or has where it was stopped."""
        patient = self._saver.final_iteration != self._job.solver.iteration
        return self._before.theta if self._before is not None and not patient else self._saver.final_theta

    @property
    def final_iteration(self) -> int:
        """The iteration whose weights model.safetensors holds at the end."""
        return self._saver.final_iteration

    def _state(self) -> State:
        solver = self._job.solver
        return State(solver.theta, solver.iteration, solver.position or 0, solver.saved(), self._unreported)

    def _save(self) -> None:
        """Save a checkpoint. Collective over the workers."""
        self.saved = self._saver.save(self._before or self._state(), self._samples_seen, self._trained())
        self._saved_at = time.monotonic()

    def _ending(self) -> Ending | None:
        """Why the run ends here: nothing left to do, or no time left by rank 0's clock. Collective over the workers."""
        job = self._job
        options, best = job.config.solver, self._saver.best_iteration
        over = False
        if self._budget is not None:
            over = bool(job.comm.bcast_scalars([self._trained() >= self._budget])[0])
        folder, called = str(self._out.path) if self._out.keeps else "", self._out.ways.call
        name, passes = job.targets.metric_name, job.solver.passes_before
        at = Standing(job.solver.iteration, name, best, folder, called, passes)
        why = reason(job.solver.ending, at, options.max_iterations, options.patience, over)
        return ending(why, job.config, at) if why else None

    def _trained(self) -> float:
        """Seconds of the run without evaluations for the record, messages for the report, and files."""
        beside = sum(self._job.comm.ledger[name].elapsed for name in BESIDE)
        return self._trained_before + time.perf_counter() - self._begun - (beside - self._beside)

    # --- one line of metrics ----------------------------------------------------------------------------------------

    def _report(self, step: IterationReport) -> None:
        job, comm = self._job, self._job.comm
        name = job.targets.metric_name
        record: Record = {
            "iteration": job.solver.iteration,
            "loss": step.loss,
            "grad_norm": step.grad_norm,
            "lambda": step.damping,
            "step": step.alpha,
            "ratio": step.ratio,
        }
        with comm.phase("evaluate"):
            scores = {f"train_{name}": job.targets.metric_value(step.metric, step.samples)}
            for part, samples in job.others.items():
                scores[f"{part}_{name}"] = job.targets.metric_value(self._metric_over(samples), samples.count)
        with comm.phase("report"):
            if (validation := scores.get(f"validation_{name}")) is not None:
                (validation,) = comm.bcast_scalars([validation])
                score = -validation if name == "accuracy" else validation
            else:
                score = step.loss if step.score is None else step.score
            self._saver.consider(job.solver.theta, job.solver.iteration, score)
            record.update(self._gathered(step, scores))
            self.ended = self._watched(record) or self._ending()
            if self.ended is not None:
                record[STOPPED] = self.ended.as_json()
        if comm.rank == 0:
            self._out.record(record)
            self.records.append(record)
            self._loggers.record(record)
            self._show(record)

    def _watched(self, record: Record) -> Ending | None:
        """The end that whoever watches asks for. Collective over the workers."""
        if self._watch is None:
            return None
        why = self._watch(record) if self._job.comm.rank == 0 else ""
        why = self._job.comm.text_from_root(why)
        at = f"ended after iteration {self._job.solver.iteration} ({CALLBACK})"
        return Ending(CALLBACK, f"{at}: {why}") if why else None

    def _metric_over(self, samples: Samples) -> float:
        """The metric's sum over a data set, each replica taking its share. Collective over the workers."""
        job, replicas = self._job, self._job.groups.layout.replicas
        lo, hi = cut(samples.count, replicas, job.groups.replica)
        total = job.objective.accumulate(job.solver.theta, run(lo, hi), None, samples)[1]
        if replicas == 1:
            return total
        job.comm.stops.sync_point()
        return job.comm.sum_scalars([total if job.network.comm.rank == 0 else 0.0])[0]

    def _gathered(self, step: IterationReport, scores: Record) -> Record:
        """What all ranks contribute to, on rank 0: CG counts, traffic per phase, peak memory.

        Collective over the workers.
        """
        figures = self._metrics.gather(step)
        device: Record = {}
        if figures.device is not None:
            device = {
                "peak_device_bytes": int(figures.device.peak_bytes),
                "device_waits": int(figures.device.waits),
                "staged_bytes": int(figures.device.staged_bytes),
            }
        self._samples_seen += step.seen + step.seen_per_cg * figures.cg.mean
        return {
            "samples_seen": self._samples_seen,
            **step.extra,
            "cg_iterations": dataclasses.asdict(figures.cg) if step.solved else None,
            "rank_cg_iterations": figures.cg_of_ranks if step.solved and self._job.comm.size <= LISTED_RANKS else None,
            "early_stopped": len(figures.terminated),
            "early_stopped_ranks": figures.terminated,
            "wait_seconds": figures.wait_seconds,
            "trials": step.trials,
            **scores,
            "seconds": time.perf_counter() - self._started,
            "train_seconds": self._trained(),
            "phase_seconds": self._metrics.phase_seconds,
            "comm": {
                name: {"calls": int(traffic.calls), "bytes": int(traffic.bytes), "seconds": traffic.seconds}
                for name, traffic in figures.traffic.items()
            },
            "peak_rss_bytes": figures.peak_rss_bytes,
            **device,
        }
