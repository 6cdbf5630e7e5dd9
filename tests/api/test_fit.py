"""`dnewton.fit` and the model that it gives: the command line's run, from arrays, on any number of ranks."""

from __future__ import annotations

import copy
import logging
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fit_job import ask
from inside import needs, start
from runs import fails, metrics, train
from safetensors.numpy import load_file, save_file

import dnewton as dn
from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import LOSSES

RNG = np.random.default_rng(3)
X = RNG.uniform(-1, 1, (70, 5))
Y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
KINDS = np.where(Y > 0.3, "high", np.where(Y > -0.3, "middle", "low"))
NET: dict[str, Any] = {
    "input": [5],
    "loss": "squared",
    "layers": [{"dense": {"units": 6, "activation": "tanh"}}, {"dense": {"units": 1}}],
}
FOUR = {"max_iterations": 4, "C": 10.0}
small = dn.net([5], [dn.dense(6, "tanh"), dn.dense(1)])


def classes() -> Any:
    return dn.net([5], [dn.dense(4, "tanh"), dn.dense(3)], loss="cross_entropy")


# --- the same run as the command line's -------------------------------------------------------------------------------

WAYS = [
    needs(1, 1, {}, "arrays"),
    needs(3, 3, {}, "arrays"),
    needs(3, 3, {}, "columns"),
    needs(4, 4, {"name": "adam", "batch": 16}, "columns"),
    needs(4, 4, {"name": "easgd", "mode": "sync", "batch": 16}, "arrays"),
]


@pytest.mark.parametrize(("ranks", "solver", "given"), WAYS)
def test_the_bits_of_the_command_line(tmp_path: Path, ranks: int, solver: dict[str, Any], given: str) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    settings = {"max_iterations": 4, **solver}
    data = {"scale": "standardize", "scale_targets": "standardize"}
    written = train(ranks, tmp_path, {"net": NET, "data": {**data, "train": "data.npz"}, "solver": settings}, "run")
    assert written.returncode == 0, written.stderr
    ask(tmp_path, "call", net=NET, solver=settings, data=data, x=given, out="called")
    called = start(ranks, "call", cwd=tmp_path, module="fit_job")
    assert called.returncode == 0, called.stderr
    wanted = load_file(tmp_path / "run" / "model.safetensors")
    for name in ("call.safetensors", "called/model.safetensors"):
        found = load_file(tmp_path / name)
        assert list(found) == list(wanted)
        assert all(np.array_equal(found[k], wanted[k]) and found[k].dtype == wanted[k].dtype for k in wanted)
    parts = [np.load(tmp_path / f"call-{rank}.npz") for rank in range(ranks)]
    for part in parts:
        assert np.array_equal(part["predicted"], parts[0]["predicted"])
        assert np.allclose(part["again"], part["predicted"], rtol=1e-12, atol=1e-12)
        assert np.array_equal(part["loss"], [line["loss"] for line in metrics(tmp_path, "run")])
    done = start(1, "--model", "called", "--data", "data.npz", "--out", "p.txt", cwd=tmp_path, module="dnewton.predict")
    assert done.returncode == 0, done.stderr
    assert np.allclose(np.loadtxt(tmp_path / "p.txt"), parts[0]["predicted"], rtol=1e-8, atol=1e-8)


@pytest.mark.jobs(3)
def test_servers_have_the_model_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    ask(tmp_path, "call", net=NET, solver={"name": "downpour", "max_iterations": 2, "batch": 16})
    called = start(3, "call", cwd=tmp_path, module="fit_job")
    assert called.returncode == 0, called.stderr
    first, *others = (np.load(tmp_path / f"call-{rank}.npz")["predicted"] for rank in range(3))
    assert np.isfinite(first).all() and all(np.array_equal(first, other) for other in others)


@pytest.mark.jobs(3)
@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"solver": {"lamda": 1}}, ["solver.lamda", "lambda"]),
        ({"x": "differing"}, ["ranks", "shapes"]),
        ({"init": "none.safetensors"}, ["none.safetensors"]),
    ],
)
def test_mistakes_are_raised_on_all_ranks(tmp_path: Path, call: dict[str, Any], words: list[str]) -> None:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    ask(tmp_path, "call", net=NET, **call)
    result = start(3, "call", cwd=tmp_path, module="fit_job")
    fails(result, *words)
    assert result.stdout.count("dnewton: error:") == 2  # of the two other ranks


# --- data -------------------------------------------------------------------------------------------------------------


def test_what_x_may_be(comm: Comm) -> None:
    """Lists, F-ordered and strided arrays, float32, sparse matrices, and images are the same samples."""
    from scipy.sparse import csr_matrix

    wide = np.zeros((70, 10))
    wide[:, ::2] = X
    wanted = dn.fit(small, X, Y, solver=FOUR).predict(X)
    for x in (X.tolist(), np.asfortranarray(X), wide[:, ::2], csr_matrix(X), X.astype(object)):
        assert np.array_equal(dn.fit(small, x, Y.tolist(), solver=FOUR).predict(x), wanted)
    images = dn.net([1, 4, 4], [dn.conv(2, 3, "relu", padding=1), dn.maxpool(2), dn.flatten(), dn.dense(1)])
    x = RNG.normal(size=(20, 1, 4, 4))
    assert dn.fit(images, x, x.sum(axis=(1, 2, 3)), solver={"max_iterations": 2}).predict(x).shape == (20,)


@pytest.mark.parametrize("labels", [KINDS, KINDS == "high", (KINDS == "high") * 2.0 + 1, np.searchsorted(["a"], KINDS)])
def test_labels_come_back_as_they_were(comm: Comm, labels: Any) -> None:
    labels = labels if len(np.unique(labels)) > 1 else np.where(KINDS == "high", 7, -3)
    model = dn.fit(classes(), X, labels, solver={"max_iterations": 3})
    found = model.predict(X)
    assert found.dtype.kind == labels.dtype.kind and set(found) <= set(labels)
    assert model.classes is not None and set(labels) <= set(model.classes)
    p = model.predict_proba(X)
    assert p.shape == (70, len(model.classes)) and np.allclose(p.sum(axis=1), 1)
    assert np.array_equal(model.classes[p.argmax(axis=1)], found)
    assert model.scores(X, labels)["accuracy"] == np.mean(found == labels)


def test_probabilities_of_two_classes(comm: Comm) -> None:
    net = dn.net([5], [dn.dense(1)], loss="logistic")
    model = dn.fit(net, X, Y > 0, solver={"max_iterations": 3})
    p = model.predict_proba(X)
    assert np.allclose(p[:, 1], 1 / (1 + np.exp(-model.outputs(X)[:, 0])))
    assert np.array_equal(model.predict(X), p[:, 1] > 0.5)
    with pytest.raises(dn.UserError, match="values"):
        dn.fit(small, X, Y, solver={"max_iterations": 0}).predict_proba(X)


def test_weights_are_repetitions(comm: Comm) -> None:
    counts = 1 + np.arange(70) % 3
    options = {"solver": {"max_iterations": 5, "subproblem": "exact"}, "parallel": {"dtype": "float64"}}
    weighted = dn.fit(small, X, Y, sample_weight=counts, **options)
    repeated = dn.fit(small, np.repeat(X, counts, axis=0), np.repeat(Y, counts), **options)
    assert np.allclose(weighted.history["loss"], repeated.history["loss"], rtol=1e-9)
    assert np.allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dn.fit(small, X, Y[:-1]), "70 sample"),
        (lambda: dn.fit(small, X), "targets"),
        (lambda: dn.fit(small), "x is needed"),
        (lambda: dn.fit(small, X[:, :4], Y), r"net.input"),
        (lambda: dn.fit(small, np.where(X > 0.9, np.nan, X), Y), "row"),
        (lambda: dn.fit(small, X, Y + 1j), "numbers"),
        (lambda: dn.fit(small, X, [object()] * 70), "numbers or strings"),
        (lambda: dn.fit(small, [[1, 2], [3]], [1, 2]), "numbers"),
        (lambda: dn.fit(small, X, Y, solver={"C": -1}), "solver.C"),
        (lambda: dn.fit(small, X, Y, data={"target": 0}), "as y"),
        (lambda: dn.fit(small, X, Y, data={"weights": "w"}), "sample_weight"),
        (lambda: dn.fit(small, X, Y, solver=3), "mapping"),
        (lambda: dn.fit(7, X, Y), "net must be"),
        (lambda: dn.fit("nowhere.yaml", X, Y), "nowhere.yaml"),
        (lambda: dn.fit(small, X, Y, test=X), "pair"),
        (lambda: dn.fit(small, X, Y, resume=True), "out="),
        (lambda: dn.fit(small, X, Y, output={"keep": 3}), "out="),
        (lambda: dn.fit(small, X, Y, init={}), "no tensor"),
        (lambda: dn.fit(small, X, Y, sample_weight=[1.0]), "sample_weight"),
        (lambda: dn.fit(small, X, Y, max_seconds=0), "max_seconds"),
        (lambda: dn.fit(small, dn.columns(X, 7 * 5), Y), "total"),
        (lambda: dn.net([5], [dn.dense(0)]), "units"),
        (lambda: dn.load("nowhere"), "nowhere"),
    ],
)
def test_mistakes(comm: Comm, call: Any, words: str) -> None:
    with pytest.raises(dn.UserError, match=words):
        call()


# --- the run ----------------------------------------------------------------------------------------------------------


def test_history_and_callbacks(comm: Comm) -> None:
    seen: list[int] = []

    def enough(report: dict[str, Any]) -> bool:
        seen.append(report["iteration"])
        return report["iteration"] == 2

    model = dn.fit(small, X, Y, test=(X[:9], Y[:9]), solver=FOUR, callbacks=[lambda report: None, enough])
    assert model.stopped == "callback" and "enough" in model.message
    assert seen == ([0, 1, 2] if comm.rank == 0 else [])
    assert model.history["iteration"].tolist() == [0, 1, 2]
    assert np.isclose(model.history["test_rmse"][-1], model.scores(X[:9], Y[:9])["rmse"], rtol=1e-5)
    assert {len(values) for values in model.history.values()} == {3}
    assert "cg_iterations.mean" in model.history
    ended = dn.fit(small, X, Y, solver=FOUR)
    assert ended.stopped == "iterations" and "init=model" in ended.message


def test_it_goes_on_from_a_model(comm: Comm) -> None:
    first = dn.fit(small, X, Y, solver=FOUR)
    for init in (first, first.weights()):
        onward = dn.fit(small, X, Y, solver={**FOUR, "max_iterations": 1}, init=init)
        assert onward.history["loss"][0] == first.history["loss"][-1]


@pytest.mark.serial
def test_a_run_directory(tmp_path: Path) -> None:
    def folder(path: Path, **call: Any) -> dn.Model:
        return dn.fit(small, X, Y, out=path, output={"checkpoint_every": 2}, **call)

    whole = folder(tmp_path / "whole", solver=FOUR)
    folder(tmp_path / "cut", solver={**FOUR, "max_iterations": 2})
    with pytest.raises(dn.UserError, match="another run"):
        folder(tmp_path / "cut", solver=FOUR)
    resumed = folder(tmp_path / "cut", solver=FOUR, resume=True)
    assert resumed.history["iteration"].tolist() == [3, 4]
    assert np.array_equal(resumed.weights()["layers.0.weight"], whole.weights()["layers.0.weight"])
    loaded = dn.load(tmp_path / "whole")
    assert np.array_equal(loaded.predict(X), whole.predict(X)) and str(tmp_path) in str(whole.out)
    assert np.array_equal(loaded.predict(X), dn.load(tmp_path / "whole" / "model.safetensors").predict(X))


@pytest.mark.serial
def test_pickles_and_copies() -> None:
    model = dn.fit(small, X, Y, solver=FOUR, data={"scale": "standardize"})
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(other.predict(X), model.predict(X)) and other.stopped == model.stopped
        assert np.array_equal(other.history["loss"], model.history["loss"])


@pytest.mark.serial
def test_nothing_around_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    from threadpoolctl import threadpool_info

    def handler(number: int, frame: Any) -> None:
        return None

    before = signal.signal(signal.SIGINT, handler), signal.signal(signal.SIGTERM, handler)
    settings, blas = np.geterr(), [library["num_threads"] for library in threadpool_info()]
    try:
        with caplog.at_level(logging.INFO, logger="dnewton"):
            dn.fit(small, X, Y, solver=FOUR)
        with pytest.raises(dn.UserError):
            dn.fit(small, X, Y, solver={"C": "no"})
        assert signal.getsignal(signal.SIGINT) is handler and signal.getsignal(signal.SIGTERM) is handler
        assert np.geterr() == settings
        assert [library["num_threads"] for library in threadpool_info()][: len(blas)] == blas
        assert sum("ended after iteration 4" in record.message for record in caplog.records) == 1
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


@pytest.mark.serial
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C stops between two steps, with a checkpoint; in another thread it is not caught."""

    def interrupt(report: dict[str, Any]) -> None:
        if report["iteration"] == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        dn.fit(small, X, Y, solver=FOUR, out=tmp_path / "run", callbacks=[interrupt])
    assert dn.fit(small, X, Y, solver=FOUR, out=tmp_path / "run", resume=True).history["iteration"].tolist() == [3, 4]
    found: list[dn.Model] = []
    thread = threading.Thread(target=lambda: found.append(dn.fit(small, X, Y, solver=FOUR)))
    thread.start()
    thread.join()
    assert found[0].stopped == "iterations"
    ended = dn.fit(small, X, Y, solver={"name": "sgd", "max_iterations": 10**6}, max_seconds=0.5)
    assert ended.stopped == "time" and np.isfinite(ended.predict(X)).all()


@pytest.fixture
def own_losses() -> Iterator[None]:
    """Losses that a test adds are gone after it."""
    before = dict(LOSSES._modules)
    yield
    for name in set(LOSSES._modules) - set(before):
        del LOSSES._modules[name], LOSSES._objects[name]


@pytest.mark.serial
@pytest.mark.usefixtures("own_losses")
def test_a_loss_of_ones_own(tmp_path: Path) -> None:
    from dnewton.arrays.namespace import Array, namespace

    @dn.loss("log_cosh")
    class LogCosh(dn.Loss):
        """ξ = log cosh(z - y)."""

        targets = "real"

        def terms(self, z: Array, y: Array) -> Array:
            xp = namespace(z)
            return xp.log(xp.cosh(xp.astype(z - y, xp.float64)))

        def gradient(self, z: Array, y: Array) -> Array:
            return namespace(z).tanh(z - y)

        def state(self, z: Array, y: Array) -> Array:
            return 1 - namespace(z).tanh(z - y) ** 2

        def hessian_product(self, state: Array, u: Array) -> Array:
            return state * u

        def half(self, state: Array, u: Array) -> Array:
            return namespace(u).sqrt(state) * u

    for own in (LogCosh(), "log_cosh"):
        net = dn.net([5], [dn.dense(6, "tanh"), dn.dense(1)], loss=own)
        model = dn.fit(net, X, Y, solver=FOUR)
        assert model.history["loss"][-1] < 0.5 * model.history["loss"][0]
    model.save(tmp_path / "m.safetensors")
    assert np.array_equal(dn.load(tmp_path / "m.safetensors").predict(X), model.predict(X))
    with pytest.raises(dn.UserError, match="exists"):
        dn.loss("squared")(LogCosh)


@pytest.mark.serial
def test_many_fits_on_one_communicator() -> None:
    """Communicators are given back: MPI libraries have about 2,000."""
    from dnewton.comm import library

    world = library.mpi().COMM_WORLD
    for _ in range(5):
        dn.fit(small, X[:9], Y[:9], solver={"max_iterations": 0}, comm=world).predict(X[:2])
    first = world.Dup()
    handle = library.mpi()._handleof(first)
    first.Free()
    for _ in range(5):
        dn.fit(small, X[:9], Y[:9], solver={"max_iterations": 0}, comm=world).predict(X[:2])
    second = world.Dup()
    assert library.mpi()._handleof(second) == handle
    second.Free()


def test_part_of_the_ranks(comm: Comm) -> None:
    """On a communicator of some ranks the others do not take part."""
    from dnewton.comm import library

    MPI = library.mpi()
    half = MPI.COMM_WORLD.Split(comm.rank % 2, comm.rank)
    model = dn.fit(small, X, Y + comm.rank % 2, solver=FOUR, comm=half)
    assert abs(model.predict(X).mean() - (Y + comm.rank % 2).mean()) < 0.3
    half.Free()


@pytest.mark.serial
def test_init_from_a_file(tmp_path: Path) -> None:
    model = dn.fit(small, X, Y, solver=FOUR)
    save_file(model.weights(), tmp_path / "w.safetensors")
    onward = dn.fit(small, X, Y, solver={**FOUR, "max_iterations": 0}, init=str(tmp_path / "w.safetensors"))
    assert onward.history["loss"][0] == model.history["loss"][-1]


@pytest.mark.serial
def test_weights_of_an_nn_sequential(tmp_path: Path) -> None:
    """A file that has no description of ours: its net is given, and names are modules' numbers."""
    net = dn.net([5], [dn.dense(4, "relu"), dn.dense(3)], loss="cross_entropy")
    w = {"0.weight": RNG.normal(size=(4, 5)), "0.bias": RNG.normal(size=4), "2.weight": RNG.normal(size=(3, 4))}
    w["2.bias"] = RNG.normal(size=3)
    save_file(w, tmp_path / "s.safetensors")
    model = dn.load(tmp_path / "s.safetensors", net=net)
    z = np.maximum(X @ w["0.weight"].T + w["0.bias"], 0) @ w["2.weight"].T + w["2.bias"]
    assert np.allclose(model.outputs(X), z, rtol=1e-12) and np.array_equal(model.predict(X), z.argmax(axis=1))
    with pytest.raises(dn.UserError, match="not written by dnewton"):
        dn.load(tmp_path / "s.safetensors")


@pytest.mark.serial
def test_importing_loads_little() -> None:
    import subprocess
    import sys

    code = "import sys, dnewton; print({'numpy', 'mpi4py', 'yaml', 'sklearn'} & set(sys.modules), dir(dnewton))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("set()") and "'fit'" in said
