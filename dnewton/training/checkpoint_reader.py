"""Where a run begins: the initial point, or the newest valid checkpoint of this run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnewton.arrays.namespace import Array
from dnewton.errors import UserError, one_line
from dnewton.model import init_weights
from dnewton.solvers.interface import SolverState, StartPoint
from dnewton.storage import manifest, tensors, whole_tensors
from dnewton.storage.manifest import Manifest
from dnewton.storage.run_directory import STATE, RunDirectory
from dnewton.storage.ways import Ways
from dnewton.training.job import Job
from dnewton.training.run_identity import CHANGED, difference


class OtherRun(UserError):
    """A checkpoint of another net, data set, solver or seed."""


def initial_state(job: Job, init: str | Mapping[str, np.ndarray] | None) -> StartPoint:
    """θ drawn by the seed, read from a model file, or cut from whole tensors.

    Raises UserError when they do not fit the net. Collective over the world.
    """
    dtype = job.config.parallel.dtype
    with job.comm.raise_together():
        seed = job.config.solver.seed
        if isinstance(init, Mapping):
            theta = whole_tensors.cut(job.network, init, dtype)
        elif init:
            theta = tensors.load(init, job.network, dtype)
        else:
            theta = init_weights.weights(job.network, seed, dtype)
        return StartPoint(job.device.put(theta), given=init is not None)


def resumed_state(
    job: Job, out: RunDirectory, fresh: bool = False, changed_data: bool = False
) -> tuple[StartPoint, Manifest] | None:
    """The newest valid checkpoint of a run directory. The job's notes name those that were skipped, and why.

    With `fresh` None where there is none; `changed_data` allows other features than the checkpoint's. Raises UserError
    when there is none, or when it belongs to another run.
    Collective over the workers.
    """
    comm, refused = job.comm, ""
    paths = comm.text_from_root("\n".join(out.checkpoints()[::-1]) if comm.rank == 0 else None)
    for path in filter(None, paths.split("\n")):
        try:
            return _read(path, job, changed_data, out.ways)
        except OtherRun:
            raise
        except UserError as error:
            refused = refused or str(error)
            job.notes.append(f"{error}; trying an older checkpoint")
    if fresh:
        return None
    if refused:
        raise UserError(f"{refused}; there is no other checkpoint to resume from")
    raise UserError(f"{out.path}: has no checkpoint to resume from; start again with {out.ways.anew()}")


def _read(path: str, job: Job, changed_data: bool, ways: Ways) -> tuple[StartPoint, Manifest]:
    state, sums = os.path.join(path, STATE), dict[str, int]()
    with job.comm.raise_together():
        checkpoint = check(path)
    differs = job.comm.text_from_root(difference(checkpoint, job))
    if differs == CHANGED and changed_data:
        job.notes.append(f"warning: resuming although {differs}")
    elif differs == CHANGED:
        raise OtherRun(f"{path}: {differs}; {ways.changed_data} resumes all the same")
    elif differs:
        raise OtherRun(f"{path}: belongs to another run: {differs}; use {ways.out}, or {ways.overwrite}")
    with job.comm.raise_together():
        try:
            start = _start(state, checkpoint, job, sums)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: does not hold what the solver needs: {one_line(error)}") from None
        assert start.saved is not None
        for name in list(start.saved.whole)[job.comm.rank :: job.comm.size]:
            if not np.isfinite(start.saved.whole[name]).all():  # reading one verifies its checksum
                raise UserError(f"{state}: {name} holds NaN or infinity")
    names = sorted(checkpoint.tensors)
    total = job.network.comm.allreduce(np.array([sums.get(name, 0) for name in names], dtype=np.uint64))
    read = job.network.comm.allreduce(np.array([name in sums for name in names], dtype=np.int64))
    with job.comm.raise_together():
        for name, value, ranks in zip(names, total, read, strict=True):
            if ranks and f"{int(value):016x}" != checkpoint.tensors[name]:
                raise UserError(f"{state}: tensor {name} is damaged: its checksum differs from the manifest's")
    return start, checkpoint


def check(path: str) -> Manifest:
    """The manifest of a checkpoint, whose tensor file has the stated length and header. Raises UserError."""
    state = os.path.join(path, STATE)
    for name in (manifest.NAME, STATE):
        if not os.path.isfile(os.path.join(path, name)):
            raise UserError(f"{os.path.join(path, name)}: is missing or not a file; the checkpoint is incomplete")
    checkpoint = manifest.parse(os.path.join(path, manifest.NAME), Path(path, manifest.NAME).read_bytes())
    length = os.path.getsize(state)
    if length != checkpoint.size:
        raise UserError(f"{state}: is damaged: has {length} bytes, the manifest says {checkpoint.size}")
    if tensors.header_hash(state) != checkpoint.header:
        raise UserError(f"{state}: is damaged: its header differs from what the manifest says")
    return checkpoint


def _start(state: str, checkpoint: Manifest, job: Job, sums: dict[str, int]) -> StartPoint:
    dtype, groups = job.config.parallel.dtype, job.groups

    def read(prefix: str) -> Array:
        return job.device.put(tensors.load(state, job.network, dtype, prefix, sums))

    theta = read("")
    vectors = {}
    own = {}
    own_prefix = f"worker{groups.replica}."
    workers = checkpoint.replicas == groups.layout.replicas  # else all workers start from the common point
    for prefix in tensors.prefixes(state, job.network):
        if prefix.startswith("worker"):
            if workers and prefix.startswith(own_prefix):
                own[prefix.removeprefix(own_prefix)[:-1]] = read(prefix)
        elif prefix:
            vectors[prefix[:-1]] = read(prefix)
    whole = tensors.Tensors(state, {name: int(value, 16) for name, value in checkpoint.tensors.items()})
    return StartPoint(
        theta, checkpoint.iteration, SolverState(vectors, own, checkpoint.values, whole=whole), checkpoint.position
    )
