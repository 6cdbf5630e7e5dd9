"""The losses, their gradients and Hessians against plain loops, and at extreme outputs."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from problems import loss_targets

from dnewton.config.loss_entry import LOSSES, loss_of


@pytest.mark.parametrize(("name", "k"), [*((name, 4) for name in LOSSES.names()), ("logistic", 1)])
def test_losses(name: str, k: int) -> None:
    rng = np.random.default_rng(0)
    z, loss = rng.normal(size=(6, k)), loss_of(name)
    y = loss_targets(name, z)
    assert loss.value(z, y) == pytest.approx(oracle.loss_value(z, y, name))
    assert np.allclose(loss.gradient(z, y), oracle.loss_gradient(z, y, name))
    u = rng.normal(size=(2, 6, k))
    expected = np.einsum("ikj,nij->nik", oracle.loss_hessian(z, y, name), u)
    assert np.allclose(loss.hessian_product(loss.state(z, y), u), expected)


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_losses_at_extreme_outputs(name: str, scale: float) -> None:
    """float32 outputs far out give finite values where the mathematics does, or infinity, never NaN."""
    k = 1 if name == "logistic" else 3
    z = (scale * np.linspace(-1, 1, 3 * k).reshape(3, k)).astype(np.float32)
    y = np.ones((3, 1), np.float32) if k == 1 else np.eye(3, dtype=np.float32)
    with np.errstate(over="ignore"):
        assert not np.isnan(loss_of(name).value(z, y)) and not np.isnan(loss_of(name).gradient(z, y)).any()
