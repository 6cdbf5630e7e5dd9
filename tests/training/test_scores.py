"""Accuracy, AUC and the confusion matrix against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dnewton.config.loss_entry import loss_of
from dnewton.data.targets import Targets
from dnewton.training.scores import area_under_curve, score

RNG = np.random.default_rng(4)


@pytest.mark.serial
@pytest.mark.parametrize("outputs", [1, 2])
def test_binary_labels(outputs: int) -> None:
    from sklearn.metrics import confusion_matrix, roc_auc_score  # not on every rank of every session

    y = np.where(RNG.random(50) < 0.4, -1, 1)
    targets = Targets.fit(y, outputs, loss_of("logistic" if outputs == 1 else "cross_entropy"), "none", "a")
    z = np.round(RNG.normal(size=(50, outputs)) + (y[:, None] if outputs == 1 else np.outer(y, [-1, 1])), 1)  # ties
    found = score(z, targets.encode(y, "float64", "a"), targets)
    margin = z[:, 0] if outputs == 1 else z[:, 1] - z[:, 0]
    assert np.isclose(found.auc, roc_auc_score(y, np.round(margin, 9)))
    guess = np.where(margin > 0, 1, -1)
    assert found.matrix.tolist() == confusion_matrix(y, guess).tolist() and found.classes == [-1, 1]
    assert targets.decode(z).tolist() == guess.tolist()
    assert Targets.from_json(json.loads(json.dumps(targets.as_json()))).decode(z).tolist() == guess.tolist()


@pytest.mark.serial
def test_area_under_curve_needs_both_classes() -> None:
    assert area_under_curve(np.array([1.0, 2.0]), np.array([1, 1])) is None
    assert area_under_curve(np.array([1.0, 1.0, 0.0]), np.array([1, 0, 0])) == 0.75
