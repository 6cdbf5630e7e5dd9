"""Writes checkpoints and the best model. An error of the disk is a warning: the run continues."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from dnewton import __version__
from dnewton.arrays.namespace import Array, copy, namespace
from dnewton.errors import UserError
from dnewton.solvers.interface import IterationReport, SolverState, StartPoint
from dnewton.storage import manifest, posterior, tensors
from dnewton.storage.manifest import FORMAT, Manifest
from dnewton.storage.posterior import Posterior
from dnewton.storage.run_directory import STATE, RunDirectory
from dnewton.storage.tensors import Contents
from dnewton.training.job import Job
from dnewton.training.run_identity import identity

MODEL = "1"  # format of model files
BEST = "best."  # prefix of the best model's tensors
PER_RANK = ("cg", "active", "cut", "waited")  # of what a step reports; the rest is the same on all ranks


def reported(checkpoint: Manifest, rank: int) -> IterationReport | None:
    """What the last iteration reports, as this rank had it."""
    if checkpoint.unreported is None:
        return None
    values = dict(checkpoint.unreported)
    if "step" in values:  # what earlier versions call alpha
        values["alpha"] = values.pop("step")
    ranks = values.pop("ranks")
    figures = ranks[rank] if rank < len(ranks) else [0.0] * len(PER_RANK)
    return IterationReport(**{**values, **dict(zip(PER_RANK, figures, strict=True))})


@dataclass(frozen=True)
class State:
    """What a run is resumed from."""

    theta: Array
    iteration: int
    position: int
    saved: SolverState
    unreported: IterationReport | None  # what the last iteration reports, where metrics.jsonl does not have it yet


class Saver:
    """Writes a job's checkpoints and its best model into a run directory."""

    def __init__(
        self, job: Job, out: RunDirectory, start: StartPoint, resumed: Manifest | None, tell: Callable[[str], None]
    ) -> None:
        """`tell` gets warnings, on all ranks."""
        self._job = job
        self._out = out
        self._tell = tell
        self._last = None if resumed is None else out.checkpoint(resumed.iteration, resumed.position)
        self._best: tuple[int, float] | None = resumed.best if resumed else None
        self._best_theta: Array | None = None
        if resumed is not None and start.saved is not None and resumed.best is not None:
            self._best_theta = start.saved.vectors.get(BEST[:-1], start.theta)
        self._best_written = False
        self.posterior: Posterior | None = None  # of the final weights, once they are known

    @property
    def best_iteration(self) -> int | None:
        """The iteration of the best weights so far."""
        return None if self._best is None else self._best[0]

    @property
    def final_theta(self) -> Array:
        """This rank's blocks of the final weights."""
        if self.final_iteration == self._job.solver.iteration:
            return self._job.solver.theta
        assert self._best_theta is not None
        return self._best_theta

    @property
    def final_iteration(self) -> int:
        """The iteration whose weights are the final ones: with `solver.patience` the best by validation."""
        best = self.best_iteration
        patient = self._job.config.solver.patience is not None and best is not None
        return best if patient and best is not None else self._job.solver.iteration

    def consider(self, theta: Array, iteration: int, score: float) -> None:
        """Keep a model whose score, the same number on all ranks, is lower than all before."""
        if not math.isnan(score) and (self._best is None or score < self._best[1]):
            unchanged = self._job.solver.position is None  # other solvers change θ in place
            self._best_theta = theta if unchanged else copy(theta)
            self._best = (iteration, score)
            self._best_written = False

    def save(self, state: State, samples_seen: float, train_seconds: float) -> bool:
        """Write a checkpoint unless this state has one; False, with a warning, where that fails.

        Collective over the workers.
        """
        job = self._job
        comm = self._job.comm
        out = self._out
        final = out.checkpoint(state.iteration, state.position)
        began = time.perf_counter()
        if final == self._last:
            return True
        if not out.keeps:
            return False
        contents = self._contents(state)
        if not self._finite(contents):
            self._tell(f"warning: no checkpoint after iteration {state.iteration}: its values are not finite")
            return False
        needed = tensors.size(job.network, contents, job.groups.layout.replicas)
        try:
            with comm.phase("output"):
                ranks = comm.gather_to_root([float(getattr(state.unreported, name, 0)) for name in PER_RANK])
                with comm.raise_together():
                    if comm.rank == 0:
                        out.begin_checkpoint(final, needed)
                path = str(out.temporary(final) / STATE)
                written = tensors.save(
                    path, job.network, contents, comm, job.groups.replica, job.groups.layout.replicas
                )
                with comm.raise_together():
                    if comm.rank == 0:
                        about = self._manifest(state, written, samples_seen, train_seconds, ranks.tolist())
                        out.publish(final, manifest.NAME, manifest.render(about), job.config.output.keep)
        except UserError as error:
            with comm.raise_together():
                if comm.rank == 0:
                    out.drop(final)
            self._tell(f"warning: no checkpoint after iteration {state.iteration}: {error}")
            return False
        self._last = final
        try:
            self.write_best()
        except UserError as error:
            self._tell(f"warning: the best model could not be written: {error}")
        comm.stops.reserve(1.5 * (time.perf_counter() - began))
        return True

    def _finite(self, contents: Contents) -> bool:
        """Whether the state is finite: a run that diverges must not replace the checkpoints before."""
        arrays = (*contents.vectors.values(), *contents.own.values(), *contents.whole.values())
        finite = all(bool(namespace(a).all(namespace(a).isfinite(a))) for a in arrays)
        with self._job.comm.phase("output"):
            return self._job.comm.minmax(float(finite))[0] == 1.0

    def write_best(self) -> None:
        """Bring best.safetensors up to date. Raises UserError alike on all ranks. Collective over the workers."""
        if self._out.keeps and self._best is not None and not self._best_written:
            self._write_best(self._out.best)
            self._best_written = True

    def write_final(self) -> None:
        """Write model.safetensors: the weights of the last iteration, with `solver.patience` the best by validation.

        Raises UserError alike on all ranks. Collective over the workers.
        """
        if not self._out.keeps:
            return
        if self.final_iteration != self._job.solver.iteration:
            self._write_best(self._out.model, self.posterior)
        else:
            self._write_model(self._out.model, self._job.solver.theta, {}, self.posterior)

    def _write_best(self, path: str, bars: Posterior | None = None) -> None:
        assert self._best is not None
        assert self._best_theta is not None
        about = {"best": json.dumps({"iteration": self._best[0], "score": self._best[1]})}
        self._write_model(path, self._best_theta, about, bars)

    def _write_model(self, path: str, theta: Array, about: dict[str, str], bars: Posterior | None = None) -> None:
        job = self._job
        metadata = {"format": MODEL, **about, **job.description}
        contents = Contents({"": theta}, metadata)
        if bars is not None:  # every replica has them
            contents = posterior.contents(contents, bars, job.network, writes=job.groups.replica == 0)
        tensors.publish(path, job.network, contents, job.comm, job.groups.replica)

    def _contents(self, state: State) -> Contents:
        saved = state.saved
        vectors = {"": state.theta} | {f"{name}.": vector for name, vector in saved.vectors.items()}
        if self._best is not None and (self._best[0] != state.iteration or state.position):
            assert self._best_theta is not None
            vectors[BEST] = self._best_theta
        return Contents(
            vectors,
            {"format": MODEL, **self._job.description},
            {f"{name}.": vector for name, vector in saved.own.items()},
            saved.shapes,
            saved.whole,
        )

    def _manifest(
        self,
        state: State,
        written: tensors.Written,
        samples_seen: float,
        train_seconds: float,
        ranks: list[list[float]],
    ) -> Manifest:
        job, unreported = self._job, None
        if state.unreported is not None:
            unreported = {**dataclasses.asdict(state.unreported), "ranks": ranks}
        return Manifest(
            format=FORMAT,
            version=__version__,
            iteration=state.iteration,
            position=state.position,
            replicas=job.groups.layout.replicas,
            samples_seen=samples_seen,
            train_seconds=train_seconds,
            best=self._best,
            unreported=unreported,
            values=dict(state.saved.values),
            identity=identity(job),
            config=job.config.resolved(),
            tensors={name: f"{value:016x}" for name, value in written.checksums.items()},
            header=written.header,
            size=written.size,
        )
