"""Scaling by weights is scaling of the repeated samples."""

from __future__ import annotations

import numpy as np
import pytest

from dnewton.config.loss_entry import loss_of
from dnewton.data.scaling import Statistics
from dnewton.data.targets import Targets

RNG = np.random.default_rng(5)
X = RNG.normal(size=(23, 4)) * [1, 1e3, 1e-4, 0] + [0, 1e6, 3, 7]
COUNTS = RNG.integers(0, 4, 23)


@pytest.mark.parametrize("how", ["standardize", "minmax", "unit", "mean_image"])
def test_features(how: str) -> None:
    weighted, repeated = Statistics(4), Statistics(4)
    for part in (slice(0, 5), slice(5, 5), slice(5, 23)):
        weighted.add(X[part], COUNTS[part].astype(float))
    repeated.add(np.repeat(X, COUNTS, axis=0))
    a, b = (s.scaling(how, 3.0) for s in (weighted, repeated))
    assert np.allclose(a.shift, b.shift, rtol=1e-12) and np.allclose(a.factor, b.factor, rtol=1e-8)


def test_targets() -> None:
    def fit(y: np.ndarray, weights: np.ndarray | None = None) -> Targets:
        return Targets.fit(y, 2, loss_of("squared"), "standardize", "y", weights=weights)

    y = X[:, :2]
    a, b = fit(y, COUNTS.astype(float)), fit(np.repeat(y, COUNTS, axis=0))
    assert np.allclose(a.shift, b.shift, rtol=1e-12) and np.allclose(a.spread, b.spread, rtol=1e-9)
