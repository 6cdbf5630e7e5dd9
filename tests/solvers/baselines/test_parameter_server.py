"""Methods with parameter servers: in turn against a serial emulation, and asynchronously that they end and count."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import oracle_solvers as reference
import pytest
from crews import OnCrew, crewed, section
from places import same
from problems import MLP, Problem, relative

from dnewton.arrays.namespace import copy
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.solvers.baselines.delay_compensated import EPSILON
from dnewton.solvers.baselines.parameter_server import PULL, STOP, Server, slice_of
from dnewton.solvers.baselines.server_rules import Shard
from dnewton.solvers.interface import IterationReport, StartPoint
from dnewton.solvers.kind import rule_of

pytestmark = pytest.mark.mpi
served = pytest.mark.mpi(min_size=2)  # a server and a worker

Run = tuple[list[np.ndarray], list[IterationReport]]


def problem(samples: int = 13) -> Problem:
    return Problem((5,), MLP, samples=samples)


def fits(comm: Comm, servers: int) -> int:
    """As many workers as there are ranks for, of one model rank each."""
    return comm.size - servers


def train(task: Problem, comm: Comm, workers: int, passes: int, **options: Any) -> Run | None:
    """Points and reports, the first of them of the start; None on ranks that serve or are left over. Collective."""
    found = crewed(task, comm, workers, **options)
    if isinstance(found, Server):
        found.serve()
    if not isinstance(found, OnCrew):
        return None
    steps, points = [found.solver.begin(StartPoint(copy(found.on.theta)))], [found.flat()]
    for _ in range(passes):
        steps.append(found.solver.step())
        points.append(found.flat())
    found.solver.close()
    return points, steps


IN_TURN: dict[str, dict[str, Any]] = {
    "easgd": {"name": "easgd", "tau": 1, "beta": 0.6},
    "easgd-tau": {"name": "easgd", "tau": 3},
    "eamsgd": {"name": "eamsgd", "tau": 2, "learning_rate": 0.05},
    "downpour": {"name": "downpour"},
    "downpour-tau": {"name": "downpour", "tau": 3, "schedule": {"name": "inverse", "decay": 0.5}},
    "mdownpour": {"name": "mdownpour", "momentum": 0.8, "learning_rate": 0.03},
    "adownpour": {"name": "adownpour", "tau": 2},
    "mvadownpour": {"name": "mvadownpour", "average": 0.2},
    "dc_asgd": {"name": "dc_asgd", "compensation": 2.0},
    "dc_asgd-adaptive": {"name": "dc_asgd", "compensation": 2.0, "variant": "adaptive", "mean_square": 0.7},
}


@served
@pytest.mark.parametrize("case", IN_TURN)
def test_in_turn_equals_the_emulation(comm: Comm, case: str) -> None:
    """13 samples in batches of 2: the last batch leaves workers with fewer samples or none. One server and two."""
    task, options = problem(), {"mode": "round_robin", "batch": 2, **IN_TURN[case]}
    for servers in (1, 2):
        workers = fits(comm, servers)
        if workers < 1:
            continue
        found = train(task, comm, workers, 3, server_ranks=servers, **options)
        if found is None:
            continue
        expected = reference.run(task, workers, section(task, **options).model_dump(), 3)
        for a, b in zip(found[0], expected, strict=True):
            assert relative(a, b) < 1e-9
        assert relative(expected[-1], expected[0]) > 1e-3


@served
@pytest.mark.parametrize("case", IN_TURN)
def test_in_turn_twice_the_same_bits(comm: Comm, case: str) -> None:
    runs = [train(problem(), comm, fits(comm, 1), 2, mode="round_robin", batch=2, **IN_TURN[case]) for _ in range(2)]
    if runs[0] is None or runs[1] is None:
        return
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        assert same(a, b)
    assert [s.loss for s in runs[0][1]] == [s.loss for s in runs[1][1]]


@served
def test_a_slow_server_changes_nothing(comm: Comm) -> None:
    """Pushes that are under way at the end of a pass are in what is evaluated."""
    workers = fits(comm, 1)
    task, options = problem(4 * workers), {"mode": "round_robin", "batch": 2, **IN_TURN["easgd"]}
    found = crewed(task, comm, workers, **options)
    if isinstance(found, Server):
        look, server, seen = found._next, found._comm, [0]

        def slow() -> tuple[int, int] | None:
            if seen[-1] == PULL:  # meanwhile its sender pushes, and the last one comes to the end of the pass
                time.sleep(0.1)
                for _ in range(20):  # let MPI see all that has arrived
                    server.arrived(tag=STOP)
            request = look()
            seen.append(request[1] if request else 0)
            return request

        found._next = slow  # type: ignore[method-assign]
        found.serve()
    elif isinstance(found, OnCrew):
        found.begin()
        found.solver.step()
        assert relative(found.flat(), reference.run(task, workers, section(task, **options).model_dump(), 1)[1]) < 1e-9
        found.solver.close()


@served
@pytest.mark.parametrize("mode", ["async", "round_robin"])
@pytest.mark.parametrize(
    "options",
    [
        {"name": "downpour"},
        {"name": "dc_asgd", "compensation": 3.0},
        {"name": "dc_asgd", "compensation": 3.0, "variant": "adaptive"},
        {"name": "mdownpour", "momentum": 0.0, "learning_rate": 0.1},
    ],
)
def test_one_worker_is_sgd(comm: Comm, mode: str, options: dict[str, Any]) -> None:
    """Nobody else moves the centre: exactly SGD, whatever the mode and the correction."""
    found = train(problem(), comm, 1, 3, mode=mode, batch=3, server_ranks=comm.size - 1, **options)
    plain = train(problem(), comm.split(comm.rank), 1, 3, name="sgd", momentum=0.0, batch=3)
    assert plain is not None
    if found is not None:
        for a, b in zip(found[0], plain[0], strict=True):
            assert same(a, b) if options["name"] != "downpour" else relative(a, b) < 1e-14


@served
def test_staleness_in_turn(comm: Comm) -> None:
    """Since its last pull every other worker has pushed once; an elastic push follows its pull at once."""
    workers = fits(comm, 1)
    options = {"mode": "round_robin", "batch": 2}
    steps = 12 // workers
    for name, more in [("easgd", {"tau": 1}), ("downpour", {}), ("dc_asgd", {})]:
        found = train(problem(2 * workers * steps), comm, workers, 2, name=name, **more, **options)
        if found is None or comm.rank != 0:
            continue
        for k, step in enumerate(found[1][1:]):
            counted = step.extra["staleness"]
            expected = [workers - 1] * workers * steps
            if k == 0:  # downpour's first push follows no pull; dc_asgd's follows a pull of everybody
                expected[:workers] = [0] * workers if name == "downpour" else list(range(workers))
            if name == "easgd":
                expected = [0] * workers * steps
            assert counted["pushes"] == len(expected)
            assert counted["max"] == max(expected)
            assert counted["mean"] == pytest.approx(np.mean(expected))
            assert step.extra["servers"]["bytes"] > 0 and step.extra["servers"]["calls"] > 0


@served
@pytest.mark.parametrize(
    ("case", "samples"),
    [*((case, 13) for case in IN_TURN), ("easgd", 2), ("downpour", 2), ("mdownpour", 1), ("dc_asgd", 2)],
)
def test_asynchronous_runs_end(comm: Comm, case: str, samples: int) -> None:
    """Also when batches leave workers without samples. Every step that took samples is pushed, and f goes down."""
    for servers in (1, 2):
        workers = fits(comm, servers)
        if workers < 1:
            continue
        options = {**IN_TURN[case], "server_ranks": servers, "batch": 1, "learning_rate": 0.02}
        found = train(problem(samples), comm, workers, 3, mode="async", **options)
        if found is None:
            continue
        losses = [reference.Task(problem(samples)).value(p) for p in found[0]]
        assert losses[-1] < losses[0]
        assert [s.loss for s in found[1]] == pytest.approx(losses, rel=1e-9)
        if comm.rank == 0 and IN_TURN[case].get("tau", 1) == 1 and "easgd" not in case:
            pushes = sum(s.extra["staleness"]["pushes"] for s in found[1])
            assert pushes == 3 * samples * servers


@served
def test_pushes_are_counted(comm: Comm) -> None:
    """Every worker's every exchange, on every server, over all passes."""
    workers = fits(comm, 1)
    found = train(problem(4 * workers), comm, workers, 3, name="eamsgd", tau=2, batch=1, mode="async")
    if found is not None and comm.rank == 0:
        counts = [s.extra["staleness"] for s in found[1]]
        assert sum(c["pushes"] for c in counts) == workers * 2 * 3
        assert all(0 <= c["mean"] <= c["max"] for c in counts)


@served
@pytest.mark.parametrize("mode", ["async", "round_robin"])
def test_servers_end_with_the_message_of_the_workers(comm: Comm, mode: str) -> None:
    found = crewed(problem(), comm, fits(comm, 1), name="downpour", mode=mode)
    if isinstance(found, Server):
        with pytest.raises(UserError, match="no more data: ä"):
            found.serve()
    elif isinstance(found, OnCrew):
        found.begin()
        found.solver.close("no more data: ä")


# --- the servers' rules alone -----------------------------------------------------------------------------------------


def options_of(**options: Any) -> Any:
    return section(problem(), **options)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_round_robin_bound(workers: int) -> None:
    """F = x²/2: the elastic exchange in turn is stable for α up to (4 - 2η)/(4 - η), whatever the number of workers,
    and with one worker not beyond: the eigenvalues of a round, which is what the servers' rules do."""
    rule = rule_of(options_of(name="easgd", mode="round_robin"))
    for eta in (0.1, 0.5, 1.0, 1.5, 1.9):
        bound = (4 - 2 * eta) / (4 - eta)
        for alpha in (bound - 0.05, bound - 0.03, bound + 0.03, bound + 0.06):
            one_round = np.eye(workers + 1)  # the workers and the centre
            for w in range(workers):
                one = np.eye(workers + 1)
                one[np.ix_([w, -1], [w, -1])] = [[1 - eta - alpha, alpha], [alpha, 1 - alpha]]
                one_round = one @ one_round
            radius = max(abs(np.linalg.eigvals(one_round)))
            assert radius < 1 if alpha < bound else radius > 1 or workers > 1
            shard, x = Shard(np.ones(1)), np.linspace(-1.0, 1.0, workers)[:, None] + 0.3
            expected = np.linalg.matrix_power(one_round, 30) @ [*x[:, 0], 1.0]
            for w in [*range(workers)] * 30:
                e = alpha * (x[w] - rule.hand_out(shard, w))
                x[w] = x[w] - eta * x[w] - e
                assert rule.take_in(shard, w, e) == 0
            assert relative([*x[:, 0], shard.centre[0]], expected) < 1e-9
    assert shard.version == 30 * workers


def test_the_averages_of_the_centre() -> None:
    """z is the mean of all centres so far, the first included, or an exponentially weighted one."""
    rng = np.random.default_rng(0)
    pushes = rng.normal(size=(6, 3))
    centres = np.cumsum(np.vstack([np.ones(3), pushes]), axis=0)
    plain, moving = Shard(np.ones(3), second=np.ones(3)), Shard(np.ones(3), second=np.ones(3))
    z = np.ones(3)
    for k, push in enumerate(pushes):
        rule_of(options_of(name="adownpour")).take_in(plain, 0, push)
        rule_of(options_of(name="mvadownpour", average=0.3)).take_in(moving, 0, push)
        z = 0.7 * z + 0.3 * centres[k + 1]
        assert np.allclose(plain.second, centres[: k + 2].mean(axis=0), rtol=1e-13)
        assert np.allclose(moving.second, z, rtol=1e-13)


@pytest.mark.parametrize("variant", ["constant", "adaptive"])
def test_delay_compensation_by_hand(variant: str) -> None:
    """Two workers: the second's gradient belongs to the point before the first's push."""
    extra = {"mean_square": 0.6} if variant == "adaptive" else {}
    rule = rule_of(options_of(name="dc_asgd", variant=variant, compensation=1.5, **extra))
    shard = Shard(np.array([1.0, -2.0]))
    for w in (0, 1):
        rule.hand_out(shard, w)
    first, second, rate = np.array([0.5, 1.0]), np.array([-1.0, 3.0]), 0.1
    assert rule.take_in(shard, 0, np.append(first, rate)) == 0
    w1 = np.array([1.0, -2.0]) - rate * first
    assert np.allclose(shard.centre, w1, rtol=1e-15)
    assert rule.take_in(shard, 1, np.append(second, rate)) == 1
    strength = 1.5 if variant == "constant" else 1.5 / np.sqrt(0.6 * first**2 + 0.4 * second**2 + EPSILON)
    assert np.allclose(shard.centre, w1 - rate * (second + strength * second**2 * (w1 - [1.0, -2.0])), rtol=1e-14)
    given = rule.hand_out(shard, 1)
    assert same(shard.backup[1], given) and same(shard.backup[0], [1.0, -2.0])


@pytest.mark.parametrize("servers", [1, 2, 3, 7])
def test_slices_cover_everything_once(servers: int) -> None:
    for n in (0, 1, 5, 100):
        covered = np.concatenate([np.arange(n)[slice_of(n, servers, s)] for s in range(servers)])
        assert same(covered, np.arange(n))
