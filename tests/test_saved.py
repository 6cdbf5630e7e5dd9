"""What a solver saves is all that it needs: it goes on from there bit by bit, through a checkpoint file too."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crews import OnCrew, crewed
from problems import MLP, Problem

from dnewton import checkpoint
from dnewton.comm import Comm
from dnewton.solvers.solver import Saved, Start

# The factors of K-FAC and what servers hold are not saved yet: those runs go on, but not on the same path.
WHOLE: dict[str, dict[str, Any]] = {
    "sgd": {}, "adam": {}, "adamw": {"weight_decay": 0.1}, "easgd": {"tau": 2}, "eamsgd": {"tau": 2},
    "averaging": {"tau": 3, "block_momentum": 0.5}, "rank_m": {"tau": 3, "overlap": 5}, "hessian_free": {},
    "entropy_sgd": {"inner_steps": 3}, "parle": {"inner_steps": 3},
}  # fmt: skip


def made(comm: Comm, name: str) -> OnCrew | None:
    options = {**WHOLE[name], **({} if name == "hessian_free" else {"batch": 2, "learning_rate": 0.05})}
    found = crewed(Problem((6,), MLP, samples=13), comm, 2 if comm.size > 1 else 1, name=name, **options)
    assert found is None or isinstance(found, OnCrew)
    return found


@pytest.mark.parametrize("name", WHOLE)
def test_goes_on_bit_by_bit(comm: Comm, name: str) -> None:
    one, two = made(comm, name), made(comm, name)
    if one is None or two is None:
        return
    one.begin()
    for _ in range(2):
        one.solver.step()
    saved, theta = one.solver.saved(), one.solver.theta.copy()
    crew, workers = one.crew, one.crew.workers
    assert workers is not None
    folder = workers.text_from_root(tempfile.mkdtemp() if workers.rank == 0 else None)
    path = str(Path(folder) / "state.safetensors")
    vectors = {"": theta} | {f"{k}.": v for k, v in saved.vectors.items()}
    own = {f"{k}.": v for k, v in saved.own.items()}
    checkpoint.save(path, one.on.network, vectors, saved.values, workers, own, crew.replica, crew.layout.replicas)
    mine = f"worker{crew.replica}."
    prefixes = checkpoint.prefixes(path, two.on.network)
    assert len(prefixes) == len(vectors) + len(own) * crew.layout.replicas
    read = {p: checkpoint.load(path, two.on.network, "float64", p) for p in prefixes}
    start = Start(read[""], 2, Saved(
        {p[:-1]: v for p, v in read.items() if p and not p.startswith("worker")},
        {p.removeprefix(mine)[:-1]: v for p, v in read.items() if p.startswith(mine)},
        checkpoint.read_metadata(path),
    ))  # fmt: skip
    first = two.solver.begin(start)
    assert two.solver.iteration == 2
    for _ in range(2):
        last, again = one.solver.step(), two.solver.step()
        assert last.loss == again.loss and last.grad_norm == again.grad_norm
    assert np.array_equal(one.solver.theta, two.solver.theta)
    assert np.isfinite(first.loss)
