"""predict and convert as a user runs them, and what training does with the users' data files."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from inside import start
from runs import fails, metrics, train
from safetensors import safe_open
from safetensors.numpy import load_file

from dnewton.cli.predictions import Predictions, write
from dnewton.errors import UserError

RNG = np.random.default_rng(4)
X = RNG.normal(size=(60, 5)) * [1, 10, 100, 0.1, 1] + 3
CLASSES = np.array(["setosa", "versicolor", "virginica"])
Y = np.argmax(X @ RNG.normal(size=(5, 3)) / 10 + RNG.normal(size=(60, 3)), axis=1)
NET: dict[str, Any] = {
    "net": {
        "input": [5],
        "loss": "cross_entropy",
        "layers": [{"dense": {"units": 4, "activation": "tanh"}}, {"dense": {"units": 3}}],
    },
    "data": {"train": "train.csv", "test": "test.csv", "scale": "standardize"},
    "solver": {"max_iterations": 4, "subsample": 1.0},
    "parallel": {"dtype": "float64"},
}


def table(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    rows = [",".join([*(repr(float(v)) for v in row), str(label)]) for row, label in zip(x, y, strict=True)]
    path.write_text("a,b,c,d,e,kind\n" + "\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on 2 ranks from a table whose labels are words."""
    path = tmp_path_factory.mktemp("predict")
    table(path / "train.csv", X[:40], CLASSES[Y[:40]])
    table(path / "test.csv", X[40:], CLASSES[Y[40:]])
    assert train(2, path, NET, "run").returncode == 0
    return path


def predict(ranks: int, folder: Path, *args: str) -> Any:
    return start(ranks, *args, cwd=folder, module="dnewton.predict")


@pytest.mark.jobs(3)
@pytest.mark.parametrize("model", ["run", "run/model.safetensors", "run/checkpoints/iteration-00000004"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_labels_and_figures(folder: Path, ranks: int, model: str) -> None:
    from sklearn.metrics import confusion_matrix, roc_auc_score  # not on every rank of every session

    result = predict(ranks, folder, "--model", model, "--data", "test.csv", "--out", "p.txt", "--scores", "s.json")
    assert result.returncode == 0, result.stderr
    params = load_file(folder / "run" / "model.safetensors")
    mean, spread = X[:40].mean(0), X[:40].std(0)
    z = oracle.forward(params, oracle.parse(NET["net"]["layers"]), (X[40:] - mean) / spread)[-1]
    found = np.array((folder / "p.txt").read_text().split())
    assert np.array_equal(found, CLASSES[np.argmax(z, axis=1)])
    figures = json.loads((folder / "s.json").read_text())
    truth = Y[40:]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert figures["accuracy"] == np.mean(np.argmax(z, axis=1) == truth)
    assert figures["accuracy"] == metrics(folder, "run")[-1]["test_accuracy"]
    assert figures["confusion_matrix"] == confusion_matrix(truth, np.argmax(z, axis=1)).tolist()
    assert figures["classes"] == CLASSES.tolist()
    assert np.isclose(figures["auc"], roc_auc_score(truth, p, multi_class="ovr"))
    assert "versicolor" in result.stdout and f"accuracy  {figures['accuracy']:.6g}" in result.stdout


@pytest.mark.jobs(4)
def test_the_same_on_any_number_of_ranks(folder: Path) -> None:
    texts = []
    for ranks in (1, 2, 4):
        files = [f"{ranks}.txt", f"{ranks}.json"]
        written = ["--out", files[0], "--scores", files[1]]
        result = predict(ranks, folder, "--model", "run", "--data", "train.csv", *written)
        assert result.returncode == 0, result.stderr
        texts.append([(folder / f).read_bytes() for f in files])
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.jobs(3)
def test_a_model_needs_no_run_directory_and_no_labels(folder: Path, tmp_path: Path) -> None:
    os.link(folder / "run" / "model.safetensors", tmp_path / "m.safetensors")
    np.save(tmp_path / "new.npy", X[40:])  # no labels beside it
    np.savetxt(tmp_path / "new.csv", X[40:], delimiter=";")
    result = predict(2, tmp_path, "--model", "m.safetensors", "--data", "new.npy", "--out", "a.npz")
    assert result.returncode == 0 and "accuracy" not in result.stdout, result.stderr
    assert predict(1, tmp_path, "--model", "m.safetensors", "--data", "new.csv").returncode == 0
    with np.load(tmp_path / "a.npz") as found:
        assert found["output"].shape == (20, 3)
        words = (tmp_path / "predictions.txt").read_text().split()
        assert found["prediction"].tolist() == words == CLASSES[np.argmax(found["output"], axis=1)].tolist()
    np.savez(tmp_path / "other.npz", x=X[40:], y=np.full(20, "setose"))
    done = predict(2, tmp_path, "--model", "m.safetensors", "--data", "other.npz")
    assert done.returncode == 0 and "20 label(s) are none of the training data" in done.stdout, done.stderr
    assert "row 0: setose" in done.stdout
    assert predict(1, tmp_path, "--model", "m.safetensors", "--data", "other.npz", "--unlabelled").returncode == 0


@pytest.mark.jobs(3)
def test_tables_without_looking_at_labels(folder: Path, tmp_path: Path) -> None:
    """Labels that are missing, and probabilities on standard output, where nothing else goes."""
    rows = (folder / "test.csv").read_text().splitlines()
    damaged = [row.rpartition(",")[0] + ("", ",", ",?")[k % 3] for k, row in enumerate(rows[1:])]
    (tmp_path / "new.csv").write_text("\n".join([rows[0], *damaged]) + "\n")
    words = ["--model", str(folder / "run"), "--unlabelled", "--probabilities", "--data"]
    whole = predict(1, tmp_path, *words, str(folder / "test.csv"), "--out", "p.npz")
    assert whole.returncode == 0 and "accuracy" not in whole.stdout, whole.stderr
    streamed = predict(3, tmp_path, *words, "new.csv", "--out", "-")
    assert streamed.returncode == 0 and streamed.stderr.endswith("20 samples, predictions on standard output\n")
    head, *lines = (line.split(",") for line in streamed.stdout.splitlines())
    assert head == ["label", "p_setosa", "p_versicolor", "p_virginica"]
    with np.load(tmp_path / "p.npz") as arrays:
        assert [line[0] for line in lines] == arrays["prediction"].tolist()
        p = np.exp(arrays["output"]) / np.exp(arrays["output"]).sum(1, keepdims=True)
        assert np.allclose(np.array([line[1:] for line in lines], dtype=float), p, rtol=1e-10)
        assert np.allclose(arrays["probabilities"], p, rtol=1e-14)
    fails(predict(1, tmp_path, "--model", str(folder / "run"), "--data", "new.csv"), "new.csv", "line 2")


@pytest.mark.jobs(3)
def test_regression_in_the_targets_own_units(tmp_path: Path) -> None:
    y = np.stack([X @ [1, 2, 0, 0, 1], 1e4 + X[:, 1]], axis=1)
    np.savez(tmp_path / "d.npz", x=X, y=y)
    net = {
        **NET,
        "net": {**NET["net"], "loss": "squared", "layers": [{"dense": {"units": 2}}]},
        "data": {"train": "d.npz", "split": 0.25, "scale": "minmax", "scale_targets": "standardize"},
        "solver": {"max_iterations": 20, "subsample": 1.0, "C": float("inf"), "lambda": 1e-6, "cg_tolerance": 1e-6},
    }
    result = train(2, tmp_path, net, "run")
    assert result.returncode == 0, result.stderr
    assert metrics(tmp_path, "run")[-1]["test_rmse"] < 1e-3
    result = predict(3, tmp_path, "--model", "run", "--data", "d.npz", "--scores", "s.json")
    assert result.returncode == 0, result.stderr
    found = np.loadtxt(tmp_path / "predictions.txt", delimiter=",")
    assert np.allclose(found, y, atol=0.01)
    figures = json.loads((tmp_path / "s.json").read_text())
    result = predict(1, tmp_path, "--model", "run", "--data", "d.npz", "--out", "p.npz")
    with np.load(tmp_path / "p.npz") as full:  # text has nine digits
        assert np.allclose(full["prediction"], found, rtol=1e-8)
        assert np.isclose(figures["rmse"], np.sqrt(np.mean((full["prediction"] - y) ** 2)), rtol=1e-3, atol=1e-11)
    assert len(figures["rmse_per_target"]) == 2


@pytest.mark.jobs(3)
def test_mistakes_in_predict(folder: Path) -> None:
    fails(predict(2, folder, "--model", "none", "--data", "test.csv"), "--model none", "no such")
    fails(predict(1, folder, "--model", ".", "--data", "test.csv"), "model.safetensors")
    fails(predict(2, folder, "--model", "run", "--data", "none.csv"), "none.csv")
    fails(predict(1, folder, "--model", "run", "--data", "test.csv", "--out", "no/where.txt"), "no/where.txt")
    fails(predict(1, folder, "--model", "run", "--data", "digits"), "[64]", "[5]")
    fails(predict(2, folder, "--model", "run"), "--data")
    np.save(folder / "wide.npy", X[:, :4])
    fails(predict(2, folder, "--model", "run", "--data", "wide.npy"), "[4]", "[5]")
    np.save(folder / "new.npy", X)
    fails(predict(1, folder, "--model", "run", "--data", "new.npy", "--scores", "s.json"), "--scores", "no labels")
    with safe_open(folder / "run" / "model.safetensors", framework="numpy") as file:
        assert "dnewton" in file.metadata()
    from safetensors.numpy import save_file

    save_file(load_file(folder / "run" / "model.safetensors"), folder / "bare.safetensors")
    fails(predict(1, folder, "--model", "bare.safetensors", "--data", "test.csv"), "bare.safetensors")
    save_file(load_file(folder / "run" / "model.safetensors"), folder / "odd.safetensors", {"dnewton": '{"net": 1}'})
    fails(predict(1, folder, "--model", "odd.safetensors", "--data", "test.csv"), "odd.safetensors", "damaged")


def test_a_standard_output_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.ones((1, 1))
    with open("/dev/full", "w") as full, monkeypatch.context() as here:
        here.setattr("sys.stdout", full)
        with pytest.raises(UserError, match=r"^--out -: standard output .*No space left"):
            write("-", Predictions(values[:, 0], values, None, None, ("y",)))
        here.undo()
        with suppress(OSError):
            full.close()


@pytest.mark.jobs(3)
def test_convert(folder: Path) -> None:
    result = start(3, "convert", "train.csv", "t.npy", cwd=folder, module="dnewton.data")
    assert result.returncode == 0, result.stderr
    assert "40 x 5 to t.npy and t.y.npy" in result.stdout
    converted = np.load(folder / "t.npy")
    assert np.isfortran(converted) and np.array_equal(converted, X[:40])
    assert np.array_equal(np.load(folder / "t.y.npy"), CLASSES[Y[:40]])
    fails(start(2, "convert", "train.csv", "t.npy", cwd=folder, module="dnewton.data"), "t.npy", "--overwrite")
    fails(start(1, "convert", "train.csv", "t.xyz", cwd=folder, module="dnewton.data"), "t.xyz", ".npy")
    fails(start(2, "convert", "none.csv", "u.npy", cwd=folder, module="dnewton.data"), "none.csv")
    fails(start(1, "konvert", "none.csv", "u.npy", cwd=folder, module="dnewton.data"), "konvert")
    assert not (folder / "u.npy").exists()
    run = train(2, folder, {**NET, "data": {**NET["data"], "train": "t.npy", "test": "test.csv"}}, "converted")
    assert run.returncode == 0, run.stderr
    straight = metrics(folder, "run")[-1]["loss"]
    assert np.isclose(metrics(folder, "converted")[-1]["loss"], straight, rtol=1e-6)


@pytest.mark.jobs(3)
def test_streaming_changes_nothing(folder: Path) -> None:
    """The same bits whether the samples stay in memory or on disk, in both ways of taking batches."""
    np.save(folder / "x.npy", np.repeat(X, 600, axis=0))
    np.save(folder / "y.npy", np.repeat(Y, 600))
    net = {
        **NET,
        "data": {"train": "x.npy", "test": "x.npy", "validation": "x.npy"},
        "solver": {"max_iterations": 2, "subsample": 500, "start": "none"},
    }
    for batch in ("all", "2000"):
        for name, limit in (("held", "auto"), ("streamed", "1MiB")):
            settings = [f"solver.gradient_batch={batch}", f"data.max_resident={limit}"]
            result = train(2, folder, net, name, "--overwrite", settings=settings)
            assert result.returncode == 0, result.stderr
            assert ("train, test, validation streamed" in result.stdout) == (name == "streamed")
        held, streamed = (metrics(folder, name)[-1] for name in ("held", "streamed"))
        for key in ("loss", "grad_norm", "test_accuracy", "validation_accuracy"):
            assert held[key] == streamed[key], key
    os.truncate(folder / "x.npy", os.path.getsize(folder / "x.npy") - 8)
    fails(train(2, folder, net, "cut", settings=["data.max_resident=1MiB"]), "x.npy", "cut short")


@pytest.mark.jobs(3)
def test_what_a_reviewer_found(folder: Path, tmp_path: Path) -> None:
    """Silently wrong columns, stale labels, numbers that did not survive, and a class that nobody has."""
    rows = [f"{CLASSES[Y[i]]},{','.join(repr(float(v)) for v in X[i])}" for i in range(60)]
    (tmp_path / "first.csv").write_text("kind,a,b,c,d,e\n" + "\n".join(rows) + "\n")
    (tmp_path / "swapped.csv").write_text("kind,b,a,c,d,e\n" + "\n".join(rows) + "\n")
    net = {**NET, "data": {"train": "first.csv", "target": "kind", "scale": "standardize"}}
    assert train(1, tmp_path, net, "run").returncode == 0
    result = predict(2, tmp_path, "--model", "run", "--data", "first.csv", "--scores", "s.json")
    assert result.returncode == 0, result.stderr  # the column is the training file's
    assert json.loads((tmp_path / "s.json").read_text())["accuracy"] == metrics(tmp_path, "run")[-1]["train_accuracy"]
    fails(predict(1, tmp_path, "--model", "run", "--data", "swapped.csv"), "swapped.csv", "'b'", "'a'")
    swapped = {**net, "data": {**net["data"], "test": "swapped.csv"}}
    fails(train(2, tmp_path, swapped, "bad"), "swapped.csv", "feature 0", "'b'", "'a'")
    fails(train(1, tmp_path, {**NET, "data": {"train": "digits", "target": 0}}, "bad"), "[64]", "[5]")
    np.savez(tmp_path / "d.npz", x=X, y=np.array(["yes", "no"])[Y % 2])  # two classes, three outputs
    assert train(1, tmp_path, {**NET, "data": {"train": "d.npz"}}, "two").returncode == 0
    result = predict(2, tmp_path, "--model", "two", "--data", "d.npz")
    assert result.returncode == 0 and set((tmp_path / "predictions.txt").read_text().split()) <= {"yes", "no"}
    fails(train(1, tmp_path, {**NET, "data": {"train": "d.npz", "target": 0}}, "bad"), "d.npz", "target")
    np.savez(tmp_path / "one.npz", x=X, y=np.full(60, "yes"))
    fails(train(2, tmp_path, {**NET, "data": {"train": "one.npz"}}, "bad"), "one.npz", "one class")
    np.savez(tmp_path / "x.npz", x=X)
    assert predict(1, tmp_path, "--model", "two", "--data", "x.npz").returncode == 0
    np.savez(tmp_path / "some.npz", x=X, y=Y % 2)
    np.savez(tmp_path / "more.npz", x=X, y=Y)
    more = {**NET, "data": {"train": "some.npz", "test": "more.npz"}}
    fails(train(2, tmp_path, more, "bad"), "more.npz", f"row {int(np.flatnonzero(Y == 2)[0])}", "label 2")

    def convert(*args: str) -> Any:
        return start(2, "convert", *args, cwd=tmp_path, module="dnewton.data")

    fails(convert("d.npz", "u.npy", "--dtype", "uint8"), "d.npz", "row 0", "uint8")
    assert convert("d.npz", "o.npy").returncode == 0 and (tmp_path / "o.y.npy").exists()
    assert convert("x.npz", "o.npy", "--overwrite").returncode == 0 and not (tmp_path / "o.y.npy").exists()
    assert not list(tmp_path.glob("*.tmp"))
    fails(convert("digits", "o2.npy"), "digits", "bundled")


SVM = "1 1:1 3:2\n2 2:1\n3 5:4\n1 1:2\n"
BAD_DATA: dict[str, tuple[bytes, list[str]]] = {  # as jobs; all kinds in process: tests/support/bad_data.py
    "cut.svm.gz": (gzip.compress(SVM.encode() * 500)[:-20], ["cut.svm.gz", "cut short"]),
    "nan.svm": (b"1 1:1\n2 2:nan\n", ["nan.svm", "line 2", "nan"]),
    "inf.csv": (b"1,2,3,4,5,1\n1,2,inf,4,5,2\n", ["inf.csv", "line 2", "column 3", "inf"]),
    "many.csv": (b"1,2,3,4,5,a\n1,2,3,4,5,b\n1,2,3,4,5,c\n1,2,3,4,5,d\n", ["many.csv", "4 classes", "3 output"]),
}


@pytest.mark.jobs(3)
@pytest.mark.parametrize("ranks", [3])
def test_bad_data(tmp_path: Path, ranks: int) -> None:
    (tmp_path / "good.svm").write_text(SVM)
    (tmp_path / "unseen.svm").write_text("1 1:1\n9 2:1\n")
    (tmp_path / "folder.svm").mkdir()
    net = {**NET, "data": {"train": "good.svm"}}
    assert train(ranks, tmp_path, net, "good").returncode == 0
    for name, (content, words) in BAD_DATA.items():
        (tmp_path / name).write_bytes(content)
        fails(train(ranks, tmp_path, {**net, "data": {"train": name}}, "bad"), *words)
        assert not (tmp_path / "bad").exists()
    fails(train(ranks, tmp_path, {**net, "data": {"train": "folder.svm"}}, "bad"), "folder.svm", "directory")
    unseen = {"train": "good.svm", "test": "unseen.svm"}
    fails(train(ranks, tmp_path, {**net, "data": unseen}, "bad"), "unseen.svm", "row 1", "label 9")
    validation = {"train": "good.svm", "validation": "nan.svm"}
    fails(train(ranks, tmp_path, {**net, "data": validation}, "bad"), "nan.svm", "line 2")
    both = {"train": "good.svm", "test": "good.svm", "validation": "good.svm", "split": 0.2}
    fails(train(ranks, tmp_path, {**net, "data": both}, "bad"), "data", "split")
