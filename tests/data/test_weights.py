"""Weights of samples and classes: where they are read from, what they go with, and what a run makes of them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import start
from runs import fails, metrics, train
from scipy import io
from sklearn.utils.class_weight import compute_class_weight

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import loss_of
from dnewton.config.schema import DataSection, FilePair
from dnewton.data import weights
from dnewton.data.parts import open_parts
from dnewton.data.scale_check import baseline
from dnewton.data.sources import Source, from_arrays
from dnewton.data.targets import Targets
from dnewton.errors import UserError

RNG = np.random.default_rng(3)
X = RNG.normal(size=(12, 3)).round(4)
Y = np.arange(12) % 3
W = np.array([2, 1, 1, 3, 0, 1, 1, 2, 1, 1, 4, 1], dtype=float)


def table(path: Path, order: str, head: str = "", rows: slice = slice(None), sep: str = ",") -> None:
    """A table of text with columns x, y and w in the order that the letters say."""
    columns = {"x": X.T, "y": [np.array(["blue", "red", "white"])[Y]], "n": [Y], "w": [W]}
    every = np.concatenate([np.array(columns[letter], dtype=object) for letter in order]).T[rows]
    lines = [sep.join(map(str, row)) for row in every]
    path.write_text("\n".join([*([head] if head else []), *lines]) + "\n")


@pytest.fixture
def files(comm: Comm, tmp_path: Path) -> Path:
    """A folder of rank 0's that all ranks see."""
    folder = Path(comm.text_from_root(str(tmp_path)))
    if comm.rank == 0:
        table(folder / "named.csv", "wxy", "w,a,b,c,label")
        table(folder / "inside.csv", "xwn", "a,b,c,w,label")
        table(folder / "plain.csv", "xnw")
        table(folder / "blanks.tsv", "xnw", sep=" ")
        table(folder / "without.csv", "xy", "a,b,c,label")
        table(folder / "bare.csv", "xn")
        np.savez(folder / "d.npz", x=X, y=Y, w=W)
        np.savez_compressed(folder / "packed.npz", x=X, y=Y, w=W[:, None])
        with h5py.File(folder / "d.h5", "w") as file:
            file["x"], file["y"], file["w"] = X, Y, W
        io.savemat(folder / "d.mat", {"x": X, "y": Y, "w": W})
        with h5py.File(folder / "new.mat", "w", userblock_size=512) as file:
            file["x"], file["y"], file["w"] = X.T, Y[None], W[None]
        with open(folder / "new.mat", "r+b") as head:
            head.write(b"MATLAB 7.3 MAT-file".ljust(128))
        np.save(folder / "x.npy", X)
        np.save(folder / "y.npy", Y)
        np.save(folder / "w.npy", W)
        (folder / "w.csv").write_text("weight\n" + "".join(f"{v}\n" for v in W))
        (folder / "w.txt.gz").write_bytes(gzip.compress("".join(f"{v}\n" for v in W).encode()))
        (folder / "d.svm").write_text("".join(f"{y} 1:{x[0]} 2:{x[1]} 3:{x[2]}\n" for x, y in zip(X, Y, strict=True)))
    comm.barrier()
    return folder


def opened(comm: Comm, folder: Path, **section: Any) -> Any:
    found = {k: str(folder / v) if k in ("train", "test") and isinstance(v, str) else v for k, v in section.items()}
    return open_parts(DataSection.model_validate(found), (3,), 0, comm)


def columns(source: Source) -> np.ndarray:
    if source.fetch is not None:
        source.fetch(0, 3)
    return np.concatenate(list(source.blocks(0, 3)))


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("named.csv", "w"),
        ("named.csv", 0),
        ("inside.csv", "w"),
        ("inside.csv", 3),
        ("plain.csv", -1),
        ("blanks.tsv", 4),
        ("d.npz", "w"),
        ("packed.npz", "w"),
        ("d.h5", "w"),
        ("d.mat", "w"),
        ("new.mat", "w"),
        ("x.npy", "w.npy"),
        ("x.npy", "w.csv"),
        ("d.svm", "w.txt.gz"),
        ("bare.csv", "w.npy"),
    ],
)
def test_columns_arrays_and_files(comm: Comm, files: Path, name: str, where: Any) -> None:
    """Features and targets are those without the weights."""
    where = str(files / where) if weights.is_file(where) else where
    source = opened(comm, files, train=name, weights=where).train
    assert np.array_equal(weights.of_samples(source), W)
    assert np.array_equal(columns(source), X)
    words = np.array(["blue", "red", "white"])[Y]
    assert np.array_equal(source.all_targets(), words if name == "named.csv" else Y)


@pytest.mark.mpi
def test_they_go_with_their_samples(comm: Comm, files: Path) -> None:
    """Through a split, through a list of files, and in a triple of files."""
    parts = opened(comm, files, train="d.npz", weights="w", split=0.4)
    for part in (parts.train, parts.test):
        rows = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in columns(part)]
        assert np.array_equal(weights.of_samples(part), W[rows])
    assert sorted([*weights.of_samples(parts.train), *weights.of_samples(parts.test)]) == sorted(W)
    both = opened(comm, files, train=[str(files / n) for n in ("d.npz", "d.h5")], weights="w").train
    assert np.array_equal(weights.of_samples(both), [*W, *W])
    triple = FilePair(x=str(files / "x.npy"), y=str(files / "y.npy"), w=str(files / "w.npy"))
    assert np.array_equal(weights.of_samples(opened(comm, files, train=triple).train), W)
    memory = from_arrays("arrays", X, Y)
    assert np.array_equal(weights.of_samples(memory), np.ones(12))


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("train", "test", "where", "has"),
    [
        ("named.csv", "named.csv", "w", True),
        ("named.csv", "without.csv", "w", False),
        ("plain.csv", "plain.csv", 4, True),
        ("plain.csv", "bare.csv", 4, False),
        ("d.npz", "d.h5", "w", True),
        ("d.npz", "x.npy", "w", False),
        ("d.npz", "d.svm", "w", False),
    ],
)
def test_the_test_part_has_them_where_its_file_has(
    comm: Comm, files: Path, train: str, test: str, where: Any, has: bool
) -> None:
    parts = opened(comm, files, train=train, test=test, weights=where)
    assert np.array_equal(weights.of_samples(parts.test), W if has else np.ones(12))
    assert np.array_equal(columns(parts.test), X)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"train": "named.csv", "weights": "v"}, ["named.csv", "data.weights", "no column is called 'v'"]),
        ({"train": "named.csv", "weights": 5}, ["named.csv", "data.weights", "no column 5", "5 columns"]),
        ({"train": "bare.csv", "weights": "w"}, ["bare.csv", "data.weights", "no header"]),
        ({"train": "bare.csv", "weights": -1}, ["bare.csv", "has no labels"]),
        ({"train": "named.csv", "weights": "w", "target": "w"}, ["named.csv", "same column"]),
        ({"train": "d.npz", "weights": "v"}, ["data.weights", "d.npz", "no array 'v'", "w, x, y"]),
        ({"train": "d.h5", "weights": "v"}, ["data.weights", "d.h5", "no array 'v'"]),
        ({"train": "d.mat", "weights": "v"}, ["data.weights", "d.mat", "no array 'v'"]),
        ({"train": "d.npz", "weights": "x"}, ["data.weights", "d.npz", "one weight per sample (12)", "[12, 3]"]),
        ({"train": "d.npz", "weights": 2}, ["data.weights", "d.npz", "no column 2", "give a file"]),
        ({"train": "d.svm", "weights": "w"}, ["data.weights", "d.svm", "LIBSVM", "give a file"]),
    ],
)
def test_mistakes(comm: Comm, files: Path, section: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        opened(comm, files, **section).train.all_targets()
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_no_weight_is_named(bad: float) -> None:
    source = from_arrays("set", X, Y)
    values = np.where(np.arange(12) == 7, bad, W)
    with pytest.raises(UserError, match="set: row 7: its weight is"):
        weights.of_samples(Source(**{**source.__dict__, "weights": lambda: values}))
    with pytest.raises(UserError, match="set: all weights are 0"):
        weights.joined(np.eye(3)[Y], 0 * W, source)


# --- classes ----------------------------------------------------------------------------------------------------------


def targets_of(y: np.ndarray, outputs: int, loss: str) -> tuple[Targets, np.ndarray]:
    found = Targets.fit(y, outputs, loss_of(loss), "none", "set")
    return found, found.encode(y, "float64", "set")


@pytest.mark.parametrize(
    ("y", "outputs", "loss"),
    [
        (Y, 3, "cross_entropy"),
        (np.array(["a", "b", "b"])[Y], 1, "logistic"),
        (np.array(["x", "y", "z"])[Y], 3, "squared"),
        (5 * Y - 5, 3, "cross_entropy"),
    ],
)
def test_balanced_is_scikit_learns(y: np.ndarray, outputs: int, loss: str) -> None:
    y = y[[0, 1, 2, 3, 4, 5, 6, 7, 1, 1, 4, 1]]
    targets, encoded = targets_of(y, outputs, loss)
    for own in (np.ones(12), W):
        classes = np.unique(y)
        expected = dict(
            zip(classes, compute_class_weight("balanced", classes=classes, y=y, sample_weight=own), strict=True)
        )
        assert np.allclose(weights.of_classes("balanced", encoded, own, targets), [expected[v] for v in y])


def test_weights_of_labels() -> None:
    targets, encoded = targets_of(5 * Y - 5, 3, "cross_entropy")
    section = DataSection.model_validate({"class_weights": {-5: 2, 5.0: 0.5}})
    assert isinstance(section.class_weights, dict)
    found = weights.of_classes(section.class_weights, encoded, W, targets)
    assert np.array_equal(found, np.array([2, 1, 0.5])[Y])
    soft = np.array([[0.5, 0.25, 0.25], [0, 0, 1]])
    assert np.allclose(weights.of_classes(section.class_weights, soft, np.ones(2), targets), [1.375, 0.5])
    with pytest.raises(UserError, match="class_weights: there is no label 3; the labels are -5, 0, 5"):
        weights.of_classes({"3": 1.0}, encoded, W, targets)
    numbers, real = targets_of(X[:, :2], 2, "squared")
    with pytest.raises(UserError, match="class_weights: the targets are numbers"):
        weights.of_classes("balanced", real, W, numbers)


@pytest.mark.parametrize(("outputs", "loss"), [(3, "cross_entropy"), (1, "logistic"), (2, "squared"), (2, "poisson")])
def test_scores_are_those_of_repeated_samples(outputs: int, loss: str) -> None:
    y = {"squared": X[:, :2], "poisson": Y[:, None] + np.array([0, 1])}.get(loss, Y % max(2, outputs))
    targets, encoded = targets_of(y, outputs, loss)
    z = RNG.normal(size=(12, outputs))
    joined, total = weights.joined(encoded, W, from_arrays("set", X, Y))
    times = np.repeat(np.arange(12), W.astype(int))
    plain = targets.metric_sum(loss_of(loss))(z[times], encoded[times])
    found = targets.metric_sum(loss_of(loss), weighted=True)(z, joined)
    assert targets.metric_value(found, 12) == pytest.approx(targets.metric_value(plain, len(times)))
    assert total == len(times)
    assert baseline(encoded, targets, joined[:, -1]) == pytest.approx(baseline(encoded[times], targets))


# --- runs -------------------------------------------------------------------------------------------------------------

NET: dict[str, Any] = {
    "net": {
        "input": [3],
        "loss": "cross_entropy",
        "layers": [{"dense": {"units": 4, "activation": "tanh"}}, {"dense": {"units": 3}}],
    },
    "data": {"train": "named.csv", "test": "named.csv", "weights": "w"},
    "solver": {"max_iterations": 4, "subsample": 1.0, "subproblem": "exact", "damping": "paper", "C": 0.5},
    "parallel": {"dtype": "float64"},
}


@pytest.mark.jobs(3)
def test_a_run_is_that_of_repeated_samples(tmp_path: Path) -> None:
    """f and both accuracies; it resumes with the same weights and not with others; its table can be predicted."""
    table(tmp_path / "named.csv", "wxy", "w,a,b,c,label")
    lines = (tmp_path / "named.csv").read_text().splitlines()
    times = np.repeat(np.arange(12), W.astype(int))
    rows = [lines[0][2:], *(lines[1 + i].split(",", 1)[1] for i in times)]
    (tmp_path / "repeated.csv").write_text("\n".join(rows) + "\n")
    assert train(3, tmp_path, NET, "weighted").returncode == 0
    twice = {**NET, "data": {"train": "repeated.csv", "test": "repeated.csv"}}
    assert train(3, tmp_path, twice, "repeated").returncode == 0
    for one, two in zip(metrics(tmp_path, "weighted"), metrics(tmp_path, "repeated"), strict=True):
        for key in ("loss", "grad_norm", "train_accuracy", "test_accuracy"):
            assert one[key] == pytest.approx(two[key], rel=1e-7), key
    more = ["--resume", "weighted", "--set", "solver.max_iterations=5"]
    assert start(3, *more, cwd=tmp_path).returncode == 0
    predicted = start(
        2, "--model", "weighted", "--data", "named.csv", "--out", "p.txt", cwd=tmp_path, module="dnewton.predict"
    )
    assert predicted.returncode == 0, predicted.stderr
    changed = [line if i != 3 else f"7{line[line.index(',') :]}" for i, line in enumerate(lines)]
    (tmp_path / "named.csv").write_text("\n".join(changed) + "\n")
    fails(start(3, "--resume", "weighted", "--set", "solver.max_iterations=6", cwd=tmp_path), "weights")


@pytest.mark.jobs(2)
def test_class_weights_are_weights_of_the_training_part(tmp_path: Path) -> None:
    """The run with the same numbers for every sample; balanced counts weights."""
    table(tmp_path / "named.csv", "wxy", "w,a,b,c,label")
    named = {"blue": 2.0, "white": 0.5}
    values = np.array([2.0, 1.0, 0.5])[Y]
    np.save(tmp_path / "w.npy", values)
    table(tmp_path / "without.csv", "xy", "a,b,c,label")
    data = {"train": "without.csv", "test": "without.csv"}
    runs = []
    for name, extra in (("classes", {"class_weights": named}), ("file", {"weights": "w.npy"})):
        result = train(2, tmp_path, {**NET, "data": {**data, **extra}}, name)
        assert result.returncode == 0, result.stderr
        runs.append([(r["loss"], r["train_accuracy"], r["test_accuracy"]) for r in metrics(tmp_path, name)])
    assert np.allclose(runs[0], runs[1], rtol=1e-12)
    assert any(a != b for _, a, b in runs[0])  # the test part has none
    for extra, words in (
        ({"class_weights": {"green": 2.0}}, ["data.class_weights", "no label green", "blue, red, white"]),
        ({"class_weights": {"blue": 0.0, "red": 0.0, "white": 0.0}}, ["without.csv", "all weights are 0"]),
        ({"weights": "none.npy"}, ["data.weights", "none.npy"]),
    ):
        fails(train(2, tmp_path, {**NET, "data": {**data, **extra}}, "refused"), *words)
