"""scikit-learn's own checks of the estimators, and what they do not look at."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import dnewton as dn
from dnewton import DNewtonClassifier, DNewtonRegressor

RNG = np.random.default_rng(6)
X = RNG.uniform(-1, 1, (90, 3))
Y = np.stack([np.sin(X[:, 0]) + X[:, 1], X[:, 1] * X[:, 2]], axis=1)
QUICK: dict[str, Any] = {"hidden_layers": (6,), "max_iter": 8, "random_state": 0}


@pytest.mark.serial
@pytest.mark.parametrize("estimator", [DNewtonRegressor(**QUICK), DNewtonClassifier(**QUICK)], ids=["real", "classes"])
def test_checks_of_scikit_learn(estimator: Any) -> None:
    logging.getLogger("dnewton").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_skip=None, on_fail=None)
    logging.getLogger("dnewton").setLevel(logging.NOTSET)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert not failed
    assert sum(r["status"] == "passed" for r in results) > 50
    assert all(r["status"] != "xfail" for r in results)


@pytest.mark.serial
def test_searches_pipelines_copies() -> None:
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    pipeline = make_pipeline(StandardScaler(), DNewtonClassifier(**QUICK))
    search = GridSearchCV(pipeline, {"dnewtonclassifier__C": [0.01, 1.0]}, cv=2, n_jobs=1).fit(x, names)
    assert search.best_score_ > 0.85
    best = search.best_estimator_
    for other in (pickle.loads(pickle.dumps(best)), copy.deepcopy(best)):
        assert np.array_equal(other.predict(x), best.predict(x))
        assert np.array_equal(other.predict_proba(x), best.predict_proba(x))
    again = clone(best).fit(x, names)
    assert np.array_equal(again.predict_proba(x), clone(best).fit(x, names).predict_proba(x))
    assert cross_val_score(DNewtonRegressor(**QUICK), *load_diabetes(return_X_y=True), cv=3).mean() > 0.3


@pytest.mark.serial
def test_outputs_have_the_shape_of_targets() -> None:
    for y, shape in ((Y, (90, 2)), (Y[:, 0], (90,)), (Y[:, :1], (90, 1))):
        model = DNewtonRegressor(**{**QUICK, "max_iter": 40}).fit(X, y)
        assert model.predict(X).shape == shape and model.score(X, y) > 0.95
    assert model.n_iter_ >= 1 and model.n_features_in_ == 3 and isinstance(model.model_, dn.Model)


@pytest.mark.serial
def test_warm_start_goes_on() -> None:
    model = DNewtonRegressor(**{**QUICK, "max_iter": 3, "C": 10.0}, warm_start=True).fit(X, Y)
    first = model.loss_
    assert model.fit(X, Y).model_.history["loss"][0] == pytest.approx(first, rel=1e-12)
    assert model.loss_ < first
    assert model.set_params(hidden_layers=(4,)).fit(X, Y).model_.net.layers[0].options.units == 4  # another net: anew
    words = np.where(Y[:, 0] > 0, "up", "down")
    classes = DNewtonClassifier(**{**QUICK, "max_iter": 2}, warm_start=True).fit(X, words)
    assert classes.fit(X, words).model_.history["loss"][0] <= classes.model_.history["loss"][0] + 1e-12


@pytest.mark.serial
def test_patience_keeps_the_best() -> None:
    noisy = Y[:, 0] + RNG.normal(size=90)
    model = DNewtonRegressor((20, 20), C=1e6, max_iter=60, patience=3, validation_fraction=0.3, random_state=1)
    history = model.fit(X, noisy).model_.history
    assert model.model_.stopped == "patience" and len(history["iteration"]) < 61
    with pytest.raises(ValueError, match="validation_fraction"):
        DNewtonRegressor(patience=3, validation_fraction=2.0).fit(X, noisy)


@pytest.mark.serial
def test_weights_of_classes() -> None:
    labels = np.where(Y[:, 0] > 0.9, "rare", "common")
    plain, balanced = (DNewtonClassifier(**QUICK, class_weight=w).fit(X[:, :1], labels) for w in (None, "balanced"))
    assert np.mean(balanced.predict(X[:, :1]) == "rare") > np.mean(plain.predict(X[:, :1]) == "rare")
    by_hand = DNewtonClassifier(**QUICK).fit(X[:, :1], labels, np.where(labels == "rare", 3, 1))
    by_label = DNewtonClassifier(**QUICK, class_weight={"rare": 3}).fit(X[:, :1], labels)
    assert np.array_equal(by_hand.predict_proba(X[:, :1]), by_label.predict_proba(X[:, :1]))


@pytest.mark.serial
@pytest.mark.parametrize(
    ("options", "words"),
    [({"C": -1.0}, "C"), ({"activation": "tan"}, "activation"), ({"solver": {"lamda": 1}}, "lambda")],
)
def test_mistakes_are_value_errors(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DNewtonRegressor(**{**QUICK, **options}).fit(X, Y)
