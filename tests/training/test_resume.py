"""What a solver saves is all that it needs: it goes on from there bit by bit, through a checkpoint file too."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from crews import OnCrew, crewed
from places import put, same
from problems import MLP, Problem

from dnewton.comm.communicator import Comm, StopHooks
from dnewton.comm.stop import Stopped
from dnewton.solvers.interface import SolverState, StartPoint
from dnewton.storage import tensors
from dnewton.storage.tensors import Contents

# What servers hold goes on, too, but they take in pushes in another order.
WHOLE: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {},
    "adamw": {"weight_decay": 0.1},
    "easgd": {"tau": 2},
    "eamsgd": {"tau": 2},
    "averaging": {"tau": 3, "block_momentum": 0.5},
    "rank_m": {"tau": 3, "overlap": 5},
    "hessian_free": {},
    "entropy_sgd": {"inner_steps": 3},
    "parle": {"inner_steps": 3},
    "dp_kfac": {"factor_every": 3, "inverse_every": 3},
    "d_kfac": {"inverse_every": 2, "inverse": "pi"},
    "mpd_kfac": {},
}


def made(comm: Comm, name: str) -> OnCrew | None:
    options = {**WHOLE[name], **({} if name == "hessian_free" else {"batch": 2, "learning_rate": 0.05})}
    found = crewed(Problem((6,), MLP, samples=13), comm, 2 if comm.size > 1 else 1, name=name, **options)
    assert found is None or isinstance(found, OnCrew)
    return found


def through_a_file(one: OnCrew, two: OnCrew) -> StartPoint:
    """What the first solver saves, as the second one reads it."""
    saved, groups, workers = one.solver.saved(), one.groups, one.groups.workers
    assert workers is not None
    folder = workers.text_from_root(tempfile.mkdtemp() if workers.rank == 0 else None)
    path = str(Path(folder) / "state.safetensors")
    vectors = {"": one.solver.theta} | {f"{k}.": v for k, v in saved.vectors.items()}
    own = {f"{k}.": v for k, v in saved.own.items()}
    contents = Contents(vectors, {}, own, saved.shapes, saved.whole)
    written = tensors.save(path, one.on.network, contents, workers, groups.replica, groups.layout.replicas)
    mine = f"worker{groups.replica}."
    prefixes = tensors.prefixes(path, two.on.network)
    assert len(prefixes) == len(vectors) + len(own) * groups.layout.replicas
    read = {p: put(tensors.load(path, two.on.network, "float64", p)) for p in prefixes}
    return StartPoint(
        read[""],
        one.solver.iteration,
        SolverState(
            {p[:-1]: v for p, v in read.items() if p and not p.startswith("worker")},
            {p.removeprefix(mine)[:-1]: v for p, v in read.items() if p.startswith(mine)},
            saved.values,
            whole=tensors.Tensors(path, written.checksums),
        ),
        one.solver.position or 0,
    )


class StopAt(StopHooks):
    """Stops at a point, on all ranks."""

    def __init__(self, point: int) -> None:
        self._left, self._held = point, 0

    def safe_point(self) -> None:
        if not self._held:
            self._left -= 1
            if self._left == 0:
                raise Stopped(15, 0)

    def sync_point(self) -> None:
        self.safe_point()

    @contextmanager
    def no_stop(self) -> Iterator[None]:
        self._held += 1
        yield
        self._held -= 1


@pytest.mark.parametrize("name", WHOLE)
def test_goes_on_bit_by_bit(comm: Comm, name: str) -> None:
    one, two = made(comm, name), made(comm, name)
    if one is None or two is None:
        return
    one.begin()
    for _ in range(2):
        one.solver.step()
    two.solver.begin(through_a_file(one, two))
    assert two.solver.iteration == 2
    for _ in range(2):
        last, again = one.solver.step(), two.solver.step()
        assert last.loss == again.loss and last.grad_norm == again.grad_norm
    assert same(one.solver.theta, two.solver.theta)


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "hessian_free"])
@pytest.mark.parametrize("after", [2, 5, 9])
def test_goes_on_from_the_middle_of_a_pass(comm: Comm, name: str, after: int) -> None:
    one, two = made(comm, name), made(comm, name)
    if one is None or two is None:
        return
    one.begin()
    two.begin()
    assert one.groups.workers is not None
    shared = [c for c in (one.groups.workers, one.groups.peers, one.groups.model, one.on.network.comm) if c is not None]
    before = [c.stops for c in shared]
    stop = StopAt(after)
    try:
        for c in shared:
            c.stops = stop
        with pytest.raises(Stopped):
            for _ in range(9):
                one.solver.step()
    finally:
        for c, stops in zip(shared, before, strict=True):
            c.stops = stops
    assert one.solver.iteration or one.solver.position
    three = made(comm, name)
    assert three is not None
    three.solver.begin(through_a_file(one, three))
    for _ in range(one.solver.iteration):
        two.solver.step()
    for _ in range(2):
        last, again = two.solver.step(), three.solver.step()
        assert (last.loss, last.grad_norm, last.seen) == (again.loss, again.grad_norm, again.seen)
        assert last.extra == again.extra
    assert same(two.solver.theta, three.solver.theta)
