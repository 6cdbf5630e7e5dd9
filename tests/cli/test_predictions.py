"""What predict writes, by the ending of the file's name."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from dnewton.cli import predict
from dnewton.cli.predictions import Predictions, value_names, write
from dnewton.config.schema import Config, NetSection
from dnewton.data.targets import Targets
from dnewton.errors import UserError
from dnewton.training.prediction import probabilities

RNG = np.random.default_rng(2)
WORDS = np.array(["ant", 'bee, "or" so', "cat"])
Z = RNG.normal(size=(5, 3)) * 3
P = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
OF_WORDS = Predictions(WORDS[np.argmax(Z, axis=1)], Z, P, WORDS, value_names(3, None))
OF_VALUES = Predictions(Z, Z, None, None, value_names(3, None))


def test_tables_of_labels(tmp_path: Path) -> None:
    write(str(tmp_path / "p.csv"), OF_WORDS)
    head, *rows = list(csv.reader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert head == ["label", *(f"p_{w}" for w in WORDS)]
    assert [r[0] for r in rows] == OF_WORDS.predicted.tolist()
    assert np.array_equal(np.array([r[1:] for r in rows], dtype=float), P)
    write(str(tmp_path / "p.json"), OF_WORDS)
    table = json.loads((tmp_path / "p.json").read_text())
    assert list(table) == head and table["label"] == [r[0] for r in rows]
    assert np.array_equal(np.stack([table[name] for name in head[1:]], axis=1), P)


def test_tables_of_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("-", OF_VALUES)
    head, *rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert head == ["value_0", "value_1", "value_2"] and np.array_equal(np.array(rows, dtype=float), Z)
    one = Predictions(np.array([[1.5], [np.inf]]), Z[:2, :1], None, None, value_names(1, ["height"]))
    write(str(tmp_path / "p.csv"), one)
    assert (tmp_path / "p.csv").read_text() == "height\n1.5\ninf\n"
    write(str(tmp_path / "p.json"), one)
    assert json.loads((tmp_path / "p.json").read_text()) == {"height": [1.5, None]}
    assert value_names(1, None) == ("value",) and value_names(2, ["a"]) == ("value_0", "value_1")


def test_arrays(tmp_path: Path) -> None:
    write(str(tmp_path / "p.npy"), OF_VALUES)
    assert np.array_equal(np.load(tmp_path / "p.npy"), Z)
    write(str(tmp_path / "p.npy"), OF_WORDS)
    assert np.array_equal(np.load(tmp_path / "p.npy"), P)
    wanted = {"prediction": OF_WORDS.predicted, "output": Z, "probabilities": P, "classes": WORDS}
    write(str(tmp_path / "p.npz"), OF_WORDS)
    write(str(tmp_path / "p.h5"), OF_WORDS)
    with np.load(tmp_path / "p.npz") as archive, h5py.File(tmp_path / "p.h5") as file:
        assert set(archive) == set(file) == set(wanted)
        for name, values in wanted.items():
            assert np.array_equal(archive[name], values)
            found = file[name].asstr()[:] if values.dtype.kind == "U" else file[name][:]
            assert np.array_equal(found, values)
    assert not list(tmp_path.glob("*.tmp"))


def test_names_that_cannot_be() -> None:
    need = ["--model", "m", "--data", "d"]
    with pytest.raises(UserError, match=r"p.parquet.*\.csv, \.json, \.npy, \.npz, \.h5"):
        predict.arguments([*need, "--out", "p.parquet"], 0)
    with pytest.raises(UserError, match=r"--probabilities.*labels only.*\.csv"):
        predict.arguments([*need, "--probabilities"], 0)


def net(loss: str) -> NetSection:
    outputs = 1 if loss == "logistic" else 3
    return Config.model_validate({"net": {"input": [2], "loss": loss, "layers": [{"dense": {"units": outputs}}]}}).net


def test_probabilities() -> None:
    """Against their definition; they sum to 1 over the classes that there are, and are not lost where small."""
    labels = Targets(3, np.array([4, 9]), np.zeros(3), np.ones(3))
    found = probabilities(net("cross_entropy"), labels, Z)
    assert np.allclose(found, np.exp(Z[:, :2]) / np.exp(Z[:, :2]).sum(axis=1, keepdims=True), rtol=1e-14)
    two = Targets(1, np.array([4, 9]), np.zeros(1), np.ones(1))
    z = np.array([[-800.0], [-50.0], [0.0], [2.0], [50.0]])
    found = probabilities(net("logistic"), two, z)
    assert np.allclose(found[1:, 1], 1 / (1 + np.exp(-z[1:, 0])), rtol=1e-14, atol=0)
    assert np.allclose(found[1:, 0], 1 / (1 + np.exp(z[1:, 0])), rtol=1e-14, atol=0)
    assert found[0].tolist() == [1.0, 0.0]
    with pytest.raises(UserError, match="loss gives no probabilities"):
        probabilities(net("squared"), labels, Z)
    with pytest.raises(UserError, match="values"):
        probabilities(net("cross_entropy"), Targets(3, None, np.zeros(3), np.ones(3)), Z)
