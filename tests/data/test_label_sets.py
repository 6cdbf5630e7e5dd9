"""Several labels a sample: `logistic` with as many outputs, on columns of 0 and 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import start
from runs import fails, metrics, train
from sklearn.metrics import accuracy_score, roc_auc_score

import dnewton as dn
from dnewton.comm.communicator import Comm

RNG = np.random.default_rng(8)
X = RNG.normal(size=(80, 4))
Y = (X @ RNG.normal(size=(4, 3)) + 0.5 * RNG.normal(size=(80, 3)) > 0.3).astype(int)
NET: dict[str, Any] = {"input": [4], "loss": "logistic", "layers": [{"dense": {"units": 3}}]}


@pytest.mark.jobs(3)
@pytest.mark.parametrize("ranks", [1, 3])
def test_as_a_user_runs_it(tmp_path: Path, ranks: int) -> None:
    header = "a,b,c,d,cat,dog,bird"
    np.savetxt(tmp_path / "t.csv", np.hstack([X, Y]), delimiter=",", header=header, comments="", fmt="%.9g")
    net = {
        "net": NET,
        "data": {"train": "t.csv", "test": "t.csv", "target": ["cat", "dog", "bird"]},
        "solver": {"max_iterations": 8},
        "parallel": {"dtype": "float64"},
    }
    result = train(ranks, tmp_path, net, "run")
    assert result.returncode == 0, result.stderr
    alone = np.maximum(Y.mean(axis=0), 1 - Y.mean(axis=0)).mean()
    assert f"by the more frequent value of each label alone {alone:.6g}" in result.stdout
    words = ["--model", "run", "--data", "t.csv", "--out", "p.json", "--scores", "s.json", "--probabilities"]
    done = start(ranks, *words, cwd=tmp_path, module="dnewton.predict")
    assert done.returncode == 0, done.stderr
    table = json.loads((tmp_path / "p.json").read_text())
    names = ("cat", "dog", "bird")
    found, p = (np.array([table[before + name] for name in names]).T for before in ("", "p_"))
    scores = json.loads((tmp_path / "s.json").read_text())
    assert np.array_equal(found, p > 0.5) and set(found.ravel()) == {0, 1}
    assert scores["accuracy"] == pytest.approx((found == Y).mean()) and scores["accuracy"] > 0.8
    assert scores["exact"] == pytest.approx(accuracy_score(Y, found))
    assert scores["auc"] == pytest.approx(roc_auc_score(Y, p))
    assert metrics(tmp_path, "run")[-1]["test_accuracy"] == pytest.approx(scores["accuracy"])


@pytest.mark.jobs(1)
def test_other_targets_are_refused(tmp_path: Path) -> None:
    for y, words in ((Y * 2, "row"), (Y[:, :2], "2 target(s)"), (Y[:, 0], "cross_entropy"), (Y - 0.5, "0 or 1")):
        np.savez(tmp_path / "t.npz", x=X, y=y)
        fails(train(1, tmp_path, {"net": NET, "data": {"train": "t.npz"}}, "run", "--overwrite"), "t.npz", words)


def test_from_python(comm: Comm) -> None:
    net = dn.net([4], [dn.dense(3)], loss="logistic")
    for y in (Y, Y.astype(bool)):
        model = dn.fit(net, X, y, solver={"max_iterations": 8}, sample_weight=np.arange(80) % 3)
        found = model.predict(X)
        assert found.dtype.kind == y.dtype.kind and model.classes is None
        assert np.array_equal(found, model.predict_proba(X) > 0.5)
        assert model.scores(X, y)["accuracy"] > 0.8
    weights = np.arange(80) % 3
    weighted = np.average((found == Y).mean(axis=1), weights=weights)
    assert model.history["train_accuracy"][-1] == pytest.approx(weighted, abs=1e-6)
