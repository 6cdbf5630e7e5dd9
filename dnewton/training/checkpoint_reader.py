"""Where a run begins: the initial point, or the newest checkpoint that is whole and belongs to this run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dnewton.arrays.namespace import Array
from dnewton.errors import UserError, one_line
from dnewton.model import init_weights
from dnewton.solvers.interface import SolverState, StartPoint
from dnewton.storage import manifest, tensors
from dnewton.storage.manifest import Manifest
from dnewton.storage.run_directory import STATE, RunDirectory
from dnewton.training.job import Job
from dnewton.training.run_identity import difference


class OtherRun(UserError):
    """A checkpoint of another net, data set, solver or seed."""


def initial_state(job: Job, init: str | None) -> StartPoint:
    """θ drawn by the seed, or read from a model file.

    Raises UserError when the file does not fit the net. Collective over the world.
    """
    dtype = job.config.parallel.dtype
    with job.comm.raise_together():
        seed = job.config.solver.seed
        theta = tensors.load(init, job.network, dtype) if init else init_weights.weights(job.network, seed, dtype)
        return StartPoint(job.device.put(theta))


def resumed_state(job: Job, out: RunDirectory, fresh: bool = False) -> tuple[StartPoint, Manifest] | None:
    """The newest checkpoint of a run directory that is whole; of those passed over the job's notes tell.

    With `fresh` None where there is none. Raises UserError when there is none, or when it belongs to another run.
    Collective over the workers.
    """
    comm, refused = job.comm, ""
    paths = comm.text_from_root("\n".join(out.checkpoints()[::-1]) if comm.rank == 0 else None)
    for path in filter(None, paths.split("\n")):
        try:
            return _read(path, job)
        except OtherRun:
            raise
        except UserError as error:
            refused = refused or str(error)
            job.notes.append(f"{error}; trying an older checkpoint")
    if fresh:
        return None
    if refused:
        raise UserError(f"{refused}; there is no other checkpoint to go on from")
    raise UserError(f"{out.path}: has no checkpoint to go on from; start again with --overwrite or --resume auto")


def _read(path: str, job: Job) -> tuple[StartPoint, Manifest]:
    state, sums = os.path.join(path, STATE), dict[str, int]()
    with job.comm.raise_together():
        found = check(path)
    if differs := job.comm.text_from_root(difference(found, job)):
        raise OtherRun(f"{path}: belongs to another run: {differs}; use another --out, or --overwrite")
    with job.comm.raise_together():
        try:
            start = _start(state, found, job, sums)
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: does not hold what the solver needs: {one_line(error)}") from None
        assert start.saved is not None
        for name in list(start.saved.whole)[job.comm.rank :: job.comm.size]:
            if not np.isfinite(start.saved.whole[name]).all():  # reading one checks it
                raise UserError(f"{state}: {name} holds NaN or infinity")
    names = sorted(found.tensors)
    total = job.network.comm.allreduce(np.array([sums.get(name, 0) for name in names], dtype=np.uint64))
    read = job.network.comm.allreduce(np.array([name in sums for name in names], dtype=np.int64))
    with job.comm.raise_together():
        for name, value, ranks in zip(names, total, read, strict=True):
            if ranks and f"{int(value):016x}" != found.tensors[name]:
                raise UserError(f"{state}: tensor {name} is damaged: its checksum differs from the manifest's")
    return start, found


def check(path: str) -> Manifest:
    """The manifest of a checkpoint whose file has the length and the header that it says. Raises UserError."""
    state = os.path.join(path, STATE)
    for name in (manifest.NAME, STATE):
        if not os.path.isfile(os.path.join(path, name)):
            raise UserError(f"{os.path.join(path, name)}: is missing or no file; the checkpoint is not whole")
    found = manifest.parse(os.path.join(path, manifest.NAME), Path(path, manifest.NAME).read_bytes())
    length = os.path.getsize(state)
    if length != found.size:
        raise UserError(f"{state}: is damaged: has {length} bytes, the manifest says {found.size}")
    if tensors.header_hash(state) != found.header:
        raise UserError(f"{state}: is damaged: its header differs from what the manifest says")
    return found


def _start(state: str, found: Manifest, job: Job, sums: dict[str, int]) -> StartPoint:
    dtype, groups = job.config.parallel.dtype, job.groups

    def read(prefix: str) -> Array:
        return job.device.put(tensors.load(state, job.network, dtype, prefix, sums))

    theta = read("")
    vectors = {}
    own = {}
    mine = f"worker{groups.replica}."
    workers = found.replicas == groups.layout.replicas  # else they start again from the common point
    for prefix in tensors.prefixes(state, job.network):
        if prefix.startswith("worker"):
            if workers and prefix.startswith(mine):
                own[prefix.removeprefix(mine)[:-1]] = read(prefix)
        elif prefix:
            vectors[prefix[:-1]] = read(prefix)
    whole = tensors.Tensors(state, {name: int(value, 16) for name, value in found.tensors.items()})
    return StartPoint(theta, found.iteration, SolverState(vectors, own, found.values, whole=whole), found.position)
