"""Error bars: the posterior against dense matrices of derivatives by complex step, on all ranks; files; refusals."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import start
from places import ARRAYS
from runs import fails

import dnewton as dn
from dnewton.comm import library
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.hardware import node
from dnewton.model.network import Network
from dnewton.storage.posterior import numbers_of

pytestmark = pytest.mark.skipif(ARRAYS != "numpy", reason="the API's arrays are of the host")

RNG = np.random.default_rng(5)
NEW = RNG.normal(size=(6, 3))
FLOAT64 = {"dtype": "float64"}
STEP = 1e-30


def mlp(units: int, outputs: int, loss: str) -> Any:
    return dn.net([3], [dn.dense(units, "tanh"), dn.dense(outputs)], loss=loss)


def flat(weights: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([w.ravel() for w in weights.values()])


def forward(theta: np.ndarray, shapes: list[tuple[int, ...]], x: np.ndarray) -> np.ndarray:
    """A net of dense layers, tanh between them; θ may be complex."""
    z, start = x, 0
    for k in range(0, len(shapes), 2):
        if k:
            z = np.tanh(z)
        size = int(np.prod(shapes[k]))
        w = theta[start : start + size].reshape(shapes[k])
        start += size
        z = z @ w.T + theta[start : start + shapes[k + 1][0]]
        start += shapes[k + 1][0]
    return z


def jacobian(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(N, K, n), a weight at a time."""
    shapes, theta = [w.shape for w in weights.values()], flat(weights)
    columns = []
    for i in range(len(theta)):
        moved = theta.astype(complex)
        moved[i] += 1j * STEP
        columns.append(forward(moved, shapes, x).imag / STEP)
    return np.stack(columns, axis=2)


def groups_of(model: Any, blocks: bool, comm: Comm) -> list[np.ndarray]:
    """Numbers of the weights that are correlated."""
    own = numbers_of(Network(model.plan, comm.on_grid(model.plan.grid)))
    every = [np.asarray(part) for part in library.mpi().COMM_WORLD.allgather(own)] if comm.size > 1 else [own]
    return every if blocks else [np.concatenate(every)]


def covariance(hessian: np.ndarray, groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The inverse, and with several groups that of the blocks on the diagonal, and the mask of these."""
    out, mask = np.zeros_like(hessian), np.zeros(hessian.shape, dtype=bool)
    for g in groups:
        out[np.ix_(g, g)] = np.linalg.inv(hessian[np.ix_(g, g)])
        mask[np.ix_(g, g)] = True
    return out, mask


@pytest.mark.mpi
def test_bayesian_linear_regression(comm: Comm) -> None:
    """A net without hidden layers is the closed form."""
    x = RNG.normal(size=(50, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 + 0.1 * np.random.default_rng(1).normal(size=50)
    net = dn.net([3], [dn.dense(1)], loss="squared")
    model = dn.fit(net, x, y, error_bars="full", solver={"C": 2.0, "max_iterations": 40}, parallel=FLOAT64)
    design, new = (np.column_stack([v, np.ones(len(v))]) for v in (x, NEW))
    hessian = design.T @ design + np.eye(4) / 4
    w = np.linalg.solve(hessian, design.T @ y)
    determined = np.trace(np.linalg.solve(hessian, design.T @ design))
    noise = np.sum((design @ w - y) ** 2) / (50 - determined)
    variance = noise * np.sum(new * np.linalg.solve(hessian, new.T).T, axis=1)
    told, std = model.predict(NEW, std=True)
    assert told == pytest.approx(new @ w, rel=1e-9)
    assert std == pytest.approx(np.sqrt(variance + noise), rel=1e-10)
    assert model.predict(NEW, std="mean")[1] == pytest.approx(np.sqrt(variance), rel=1e-10)


@pytest.mark.mpi
@pytest.mark.parametrize("samples", [12, 90], ids=["fewer rows than weights", "more"])
@pytest.mark.parametrize("kind", ["full", "blocks"])
def test_values(comm: Comm, samples: int, kind: str) -> None:
    """Two outputs of different spread, weights of samples."""
    rng = np.random.default_rng(samples)
    x, w = rng.normal(size=(samples, 3)), rng.uniform(0.5, 3, samples)
    y = np.column_stack([np.sin(x[:, 0]), 5 * x[:, 1] * x[:, 2]]) + 0.1 * rng.normal(size=(samples, 2))
    model = dn.fit(
        mlp(6, 2, "squared"),
        x,
        y,
        sample_weight=w,
        error_bars=kind,
        data={"scale_targets": "standardize"},
        solver={"C": 3.0, "max_iterations": 8},
        parallel=FLOAT64,
    )
    weights, spread = model.weights(), model._described.targets.spread
    a = np.sqrt(2 * w)[:, None, None] * jacobian(weights, x)
    a = a.reshape(-1, a.shape[2])
    errors = np.sum(w[:, None] * ((model.predict(x) - y) / spread) ** 2)
    inverse, _ = covariance(a.T @ a + np.eye(a.shape[1]) / 3, groups_of(model, kind == "blocks", comm))
    determined, count = np.trace(inverse @ (a.T @ a)), 2 * w.sum()
    scale = 2 * errors / max(count - determined, 0.01 * count)
    j = jacobian(weights, NEW)
    variance = scale * np.einsum("nki,ij,nkj->nk", j, inverse, j)
    told, std = model.predict(NEW, std="mean")
    assert told == pytest.approx(model.predict(NEW))
    assert std == pytest.approx(spread * np.sqrt(variance), rel=1e-7)
    assert model.predict(NEW, std=True)[1] == pytest.approx(spread * np.sqrt(variance + scale / 2), rel=1e-7)


@pytest.mark.mpi
def test_probabilities(comm: Comm) -> None:
    """Three classes; of two, softmax and one output give the probit correction."""
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    model = dn.fit(mlp(4, 3, "cross_entropy"), x, labels, error_bars="full", parallel=FLOAT64)
    weights = model.weights()
    p, j = model.predict_proba(x), jacobian(weights, x)
    b = p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :]
    hessian = np.einsum("nki,nkl,nlj->ij", j, b, j) + np.eye(j.shape[2])
    j = jacobian(weights, NEW)
    c = np.einsum("nki,ij,nlj->nkl", j, np.linalg.inv(hessian), j)
    z = model.outputs(NEW)
    expected = np.zeros((len(NEW), 3))
    for n in range(len(NEW)):
        for k in range(3):
            v = [c[n, k, k] + c[n, i, i] - 2 * c[n, k, i] for i in range(3)]
            expected[n, k] = 1 / sum(np.exp((z[n, i] - z[n, k]) / np.sqrt(1 + np.pi / 8 * v[i])) for i in range(3))
    expected /= expected.sum(axis=1, keepdims=True)
    told, std = model.predict(NEW, std=True)
    assert told == pytest.approx(expected, rel=1e-8)
    slope = told[:, :, None] * np.eye(3) - told[:, :, None] * told[:, None, :]
    plain = np.sqrt(np.einsum("nki,nij,nkj->nk", slope, c, slope))
    assert std == pytest.approx(np.minimum(plain, np.sqrt(told * (1 - told))), rel=1e-8)

    two = dn.fit(mlp(4, 1, "logistic"), x, labels > 0, error_bars="full", parallel=FLOAT64)
    p, j = two.predict_proba(x)[:, 1], jacobian(two.weights(), x)[:, 0, :]
    hessian = (j * (p * (1 - p))[:, None]).T @ j + np.eye(j.shape[1])
    j = jacobian(two.weights(), NEW)[:, 0, :]
    v = np.sum(j * np.linalg.solve(hessian, j.T).T, axis=1)
    expected = 1 / (1 + np.exp(-two.outputs(NEW)[:, 0] / np.sqrt(1 + np.pi * v / 8)))
    assert two.predict(NEW, std=True)[0][:, 1] == pytest.approx(expected, rel=1e-8)


@pytest.mark.mpi
@pytest.mark.parametrize("points", [10, 60], ids=["fewer rows than weights", "more"])
def test_terms_scatter_by_themselves(comm: Comm, points: int) -> None:
    """An equation and data, of other noise and number: the covariance of weighted least squares, unknown included."""
    rng = np.random.default_rng(points)
    inside, seen = rng.uniform(-1, 1, (points, 3)), rng.uniform(-1, 1, (points // 2, 3))
    y = 2 * np.sin(seen[:, :1]) + 0.1 * rng.normal(size=(len(seen), 1))

    def equation(x: Any, u: Any, a: Any) -> Any:
        return u.value - a * np.sin(x[:, :1])

    terms = [dn.Residual(equation, inside, parameters=[dn.Parameter("a", 1.0)]), dn.Data(seen, y, weight=3.0)]
    model = dn.fit(
        mlp(6, 1, "squared"),
        terms=terms,
        error_bars="full",
        solver={"C": 5.0, "max_iterations": 12},
        parallel=FLOAT64,
    )
    weights, a = model.weights(), model.parameters["a"]
    total = len(inside) + len(seen)
    scales = [np.sqrt(total / len(inside)), np.sqrt(3 * total / len(seen))]
    by_a = [-np.sin(inside[:, 0]), np.zeros(len(seen))]
    residuals = [model.predict(inside) - a * np.sin(inside[:, 0]), model.predict(seen) - y[:, 0]]
    rows = []
    for scale, x, column in zip(scales, (inside, seen), by_a, strict=True):
        rows.append(np.sqrt(2) * scale * np.column_stack([jacobian(weights, x)[:, 0, :], column]))
    errors = [scale**2 * np.sum(r**2) for scale, r in zip(scales, residuals, strict=True)]
    inverse = np.linalg.inv(rows[0].T @ rows[0] + rows[1].T @ rows[1] + np.eye(rows[0].shape[1]) / 5)
    determined = [np.trace(inverse @ r.T @ r) for r in rows]
    scatter = [2 * e / max(len(r) - g, 0.01 * len(r)) for e, r, g in zip(errors, rows, determined, strict=True)]
    overall = 2 * sum(errors) / max(total - sum(determined), 0.01 * total)
    middle = sum(s * r.T @ r for s, r in zip(scatter, rows, strict=True)) + overall / 5 * np.eye(len(inverse))
    found = inverse @ middle @ inverse
    assert model.parameters_std["a"] == pytest.approx(np.sqrt(found[-1, -1]), rel=1e-6)
    j = jacobian(weights, NEW)[:, 0, :]
    expected = np.sqrt(np.einsum("ni,ij,nj->n", j, found[:-1, :-1], j))
    assert model.predict(NEW, std=True)[1] == pytest.approx(expected, rel=1e-6)
    again = pickle.loads(pickle.dumps(model))
    assert again.predict(NEW, std=True)[1] == pytest.approx(expected, rel=1e-6)
    assert again.parameters_std == pytest.approx(model.parameters_std)


@pytest.mark.mpi
def test_files_serve_any_ranks(comm: Comm, tmp_path: Path) -> None:
    """A run directory written on all ranks, read on one, and saved and read again on all; float32 weights."""
    folder = Path(comm.text_from_root(str(tmp_path)))
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = np.sin(x[:, 0])
    model = dn.fit(mlp(5, 1, "squared"), x, y, error_bars="blocks", out=folder / "run", data={"scale": "standardize"})
    expected = model.predict(NEW, std=True)[1]
    assert np.all(expected > 0)
    alone = dn.load(folder / "run", comm=library.mpi().COMM_SELF)
    assert alone.predict(NEW, std=True)[1] == pytest.approx(expected, rel=1e-6)
    model.save(folder / "saved.safetensors")
    alone.save(folder / f"alone{comm.rank}.safetensors")
    copied = pickle.loads(pickle.dumps(model))  # the weights' precision is not that of the error bars
    assert copied.theta.dtype == model.theta.dtype == np.float32
    # its layers have other numbers than those of the file
    deeper = dn.net([3, 1, 1], ["flatten", dn.dense(5, "tanh"), dn.dense(1)], loss="squared")
    dn.fit(deeper, x.reshape(40, 3, 1, 1), y, init=folder / "run" / "model.safetensors", solver={"max_iterations": 1})
    for name in ("saved", "alone0"):
        comm.barrier()
        found = dn.load(folder / f"{name}.safetensors")
        assert found.predict(NEW, std=True)[1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.jobs(3)
def test_predict_std_on_ranks(tmp_path: Path) -> None:
    """The command adds columns, the same on any ranks, and refuses what has no place for them or no error bars."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    np.save(tmp_path / "new.npy", NEW)
    model = dn.fit(mlp(5, 1, "squared"), x, np.sin(x[:, 0]), error_bars=True, comm=library.mpi().COMM_SELF)
    model.save(tmp_path / "m.safetensors")
    common = ["--model", "m.safetensors", "--data", "new.npy", "--unlabelled"]
    for ranks in (1, 3):
        done = start(ranks, *common, "--std", "--out", f"{ranks}.csv", cwd=tmp_path, module="dnewton.predict")
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / f"{ranks}.csv").read_text().splitlines()
        assert lines[0] == "value,std_value"
        told = np.array([[float(v) for v in line.split(",")] for line in lines[1:]])
        assert told[:, 1] == pytest.approx(model.predict(NEW, std=True)[1], rel=1e-6)
    done = start(1, *common, "--std=mean", "--out", "m.json", cwd=tmp_path, module="dnewton.predict")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "m.json").read_text())
    assert told["std_value"] == pytest.approx(model.predict(NEW, std="mean")[1], rel=1e-6)
    done = start(1, *common, "--std", "--out", "m.txt", cwd=tmp_path, module="dnewton.predict")
    fails(done, "--std: m.txt would hold predictions only")


def _without_numbers(network: Network, theta: Any, x: Any, y: Any, loss: Any) -> tuple[Any, Any]:
    z = network.forward(theta, x).z
    return np.full((len(z), 1, len(theta)), np.nan), z


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, before training where that is possible."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = x[:, 0]
    few = {"max_iterations": 1}
    with pytest.raises(UserError, match=r"output\.error_bars: needs \d+ MiB on the largest rank, parallel\.memory"):
        wide = dn.net([3], [dn.dense(2000, "tanh"), dn.dense(2, "tanh"), dn.dense(1)], loss="squared")
        many = np.zeros((9000, 3)) + x[0]
        allowed = f"{node.peak_rss_bytes() // 2**20 + 450}MiB"  # a session of tests holds more than a run
        dn.fit(wide, many, many[:, 0], error_bars=True, solver=few, parallel={"memory": allowed})
    with pytest.raises(UserError, match=r"net\.loss has no error bars"):
        dn.fit(mlp(2, 1, "huber"), x, y, error_bars=True, solver=few)
    with pytest.raises(UserError, match="error_bars must be"):
        dn.fit(mlp(2, 1, "squared"), x, y, error_bars="some", solver=few)
    with pytest.raises(UserError, match=r"error_bars: this loss gives no probabilities of labels"):
        dn.fit(mlp(2, 2, "squared"), x, (y > 0).astype(int), error_bars=True, solver=few)
    monkeypatch.setattr("dnewton.training.error_bars.laplace.rows_of", _without_numbers)
    with pytest.raises(UserError, match="the derivatives of the net are not finite"):
        dn.fit(mlp(2, 1, "squared"), x, y, error_bars=True, solver=few, out=tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").is_file()  # the training is not lost
    monkeypatch.undo()
    model = dn.fit(mlp(2, 1, "squared"), x, y, solver=few)
    with pytest.raises(UserError, match="the model has no error bars"):
        model.predict(x, std=True)
