"""Fourier features: the formula, as the first layer on any ranks, their derivatives, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dnewton as dn
from dnewton.comm import library
from dnewton.comm.communicator import Comm
from dnewton.model.layers.fourier import Fourier

X = np.random.default_rng(0).uniform(-1, 1, size=(50, 2))
Y = np.sin(9 * X[:, 0]) * X[:, 1]
NET = dn.net([2], [dn.fourier(12, scale=4, seed=3), dn.dense(7, "tanh"), dn.dense(1)])
PARALLEL = {"dtype": "float64"}
WHOLE = {"curvature": "full", "subproblem": "exact", "max_iterations": 5, "C": 10.0}


def test_the_formula() -> None:
    found = Fourier(200, 2, 4.0, 3).forward(X)[0]
    cosines, sines = found[:, :200], found[:, 200:]
    assert np.abs(cosines**2 + sines**2 - 1).max() < 1e-12
    step = 1e-6
    slope = (Fourier(200, 2, 4.0, 3).forward(X + np.array([step, 0]))[0] - found)[:, 200:] / step
    b = (slope / cosines)[np.abs(cosines) > 0.9]
    assert 3.0 < b.std() < 5.0
    assert not np.allclose(Fourier(200, 2, 4.0, 4).forward(X)[0], found)


@pytest.mark.mpi
def test_the_same_on_any_ranks(comm: Comm) -> None:
    models = [
        dn.fit(NET, X, Y, solver=WHOLE, parallel=PARALLEL, data={"scale": "standardize"}, comm=c)
        for c in (None, library.mpi().COMM_SELF)
    ]
    a, b = (m.history["loss"] for m in models)
    assert a == pytest.approx(b, rel=1e-8)
    assert a[-1] < 0.3 * a[0]
    assert models[0].predict(X) == pytest.approx(models[1].predict(X), rel=1e-6, abs=1e-9)
    found = models[0].derivatives(X, ["value", "d1", "d01"])
    step = 1e-4
    e = step * np.eye(2)
    slope = (models[0].predict(X + e[1]) - models[0].predict(X - e[1])) / (2 * step)
    assert found["value"] == pytest.approx(models[0].predict(X), abs=1e-12)
    assert np.abs(found["d1"] - slope).max() < 1e-4 * np.abs(slope).max()
    ahead, behind = (models[0].derivatives(X + s * e[0], ["d1"])["d1"] for s in (1, -1))
    mixed = (ahead - behind) / (2 * step)
    assert np.abs(found["d01"] - mixed).max() < 1e-4 * np.abs(mixed).max()


@pytest.mark.mpi
def test_equations_on_them(comm: Comm) -> None:
    def wave(x, u):  # type: ignore[no-untyped-def]
        return u.dd(0, 0) + 81 * u.value

    terms = [dn.Residual(wave, X, weight=1e-3), dn.Data(X, Y)]
    model = dn.fit(NET, terms=terms, parallel=PARALLEL, solver={"max_iterations": 40})
    assert model.history["loss"][-1] < 0.01 * model.history["loss"][0]


def test_a_saved_model(tmp_path: Path) -> None:
    model = dn.fit(NET, X, Y, solver={"max_iterations": 2})
    model.save(tmp_path / "m.safetensors")
    assert dn.load(tmp_path / "m.safetensors").predict(X) == pytest.approx(model.predict(X))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([dn.dense(4), dn.fourier(4), dn.dense(1)], r"layers\[1\] \(fourier\): .* put the layer first"),
        ([dn.residual(dn.fourier(2)), dn.dense(1)], r"put the layer first"),
        ([dn.fourier(5), dn.dense(1)], r"features.*multiple of 2"),
        ([dn.fourier(4, scale=0), dn.dense(1)], r"scale"),
        ([dn.fourier(4)], r"at least one conv or dense layer"),
    ],
)
def test_mistakes(layers: list[dn.api.nets.Layer], message: str) -> None:
    with pytest.raises(dn.UserError, match=message):
        dn.fit(dn.net([2], layers), X, Y, solver={"max_iterations": 1})
