"""Features without a value: left out, filled with the mean of the training part, or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inside import needs, start
from runs import fails, train
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, StandardScaler

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import loss_of
from dnewton.config.schema import DataSection
from dnewton.data.parts import Loaded, load_parts, open_parts
from dnewton.data.samples import Window
from dnewton.data.scaling import Statistics
from dnewton.errors import UserError

RNG = np.random.default_rng(11)
WIDTH = 5
X = RNG.normal(size=(60, WIDTH)) * [1, 1e3, 1e-3, 2, 1] + [0, 1e4, 3, -7, 0]
X[:, 4] = 2.5  # constant
X[RNG.random(X.shape) < 0.2] = np.nan
X[0, 4] = np.nan
Y = RNG.normal(size=60)
ORACLES = {
    "none": FunctionTransformer(),
    "standardize": StandardScaler(),
    "minmax": MinMaxScaler(),
    "unit": MaxAbsScaler(),
}


def loaded(comm: Comm, window: tuple[int, int] = (0, WIDTH), **data: Any) -> Loaded:
    section = DataSection.model_validate({"missing": "mean", **data})
    parts = open_parts(section, (WIDTH,), 0, comm)
    loss = loss_of("squared")
    seen = Window(*window, window[1] - window[0], ())
    return load_parts(parts, section, seen, 1, loss, "float64", math.inf, comm)


def write(folder: Path, name: str, x: np.ndarray, words: tuple[str, ...] = ("", "?", "NA", "nan")) -> str:
    """A table with the gaps written in several ways, or arrays."""
    if name.endswith(".npz"):
        np.savez(folder / name, x=x, y=Y[: len(x)])
    else:
        rows = []
        for k, (row, y) in enumerate(zip(x.tolist(), Y.tolist(), strict=False)):
            rows.append(",".join(words[(k + j) % len(words)] if v != v else repr(v) for j, v in enumerate([*row, y])))
        (folder / name).write_text("\n".join(rows) + "\n")
    return str(folder / name)


@pytest.mark.parametrize("scale", ORACLES)
@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_the_mean_of_the_training_part(tmp_path: Path, comm: Comm, scale: str, name: str) -> None:
    """As scikit-learn's imputer and scalers have it; the test part is filled with the means of training."""
    folder = Path(comm.text_from_root(str(tmp_path)))
    if comm.rank == 0:
        write(folder, name, X[:40])
        write(folder, "test-" + name, X[40:])
    comm.barrier()
    lo, hi = (WIDTH * (comm.rank + k) // comm.size for k in (0, 1))
    found = loaded(comm, (lo, hi), train=str(folder / name), test=str(folder / ("test-" + name)), scale=scale)
    oracle = make_pipeline(SimpleImputer(), ORACLES[scale]).fit(X[:40])
    assert found.test is not None
    for part, rows in ((found.train, X[:40]), (found.test, X[40:])):
        wanted = oracle.transform(rows)[:, lo:hi]
        assert np.allclose(part.x, wanted, rtol=1e-10, atol=1e-10)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**32 - 1), st.integers(1, 7), st.booleans())
@settings(max_examples=60, deadline=None)
def test_statistics_beside_gaps(samples: int, width: int, seed: int, step: int, weighted: bool) -> None:
    """Those of the values that are there, whatever the blocks; deviations with the means in the gaps."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, width))
    x[rng.random(x.shape) < 0.4] = np.nan
    counts = rng.integers(0, 3, samples) if weighted else np.ones(samples, dtype=int)
    found = Statistics(width)
    for start_ in range(0, samples, step):
        part = slice(start_, start_ + step)
        found.add(x[part], counts[part].astype(float) if weighted else None)
    repeated = np.repeat(x, counts, axis=0)
    for j in range(width):
        there = repeated[np.isfinite(repeated[:, j]), j]
        assert found.present[j] == len(there) and found.count == len(repeated)
        if len(there):
            assert np.isclose(found.mean[j], there.mean(), atol=1e-12)
            assert np.isclose(found.squares[j], ((there - there.mean()) ** 2).sum(), atol=1e-10)
            assert (found.low[j], found.high[j]) == (there.min(), there.max())


@pytest.mark.serial
def test_mistakes(tmp_path: Path) -> None:
    alone = Comm.alone()
    empty = X.copy()
    empty[:, 2] = np.nan
    with pytest.raises(UserError, match="feature 2 has no value in any sample; leave it out"):
        loaded(alone, train=write(tmp_path, "a.csv", empty))
    with pytest.raises(UserError, match=r"row 0: x: column \d is nan; clean the data, or set data.missing: mean"):
        loaded(alone, train=write(tmp_path, "a.npz", X), missing="error")
    bad = X.copy()
    bad[3, 1] = np.inf
    for name in ("b.csv", "b.npz"):
        with pytest.raises(UserError, match="inf"):
            loaded(alone, train=write(tmp_path, name, bad))
    rows = (tmp_path / write(tmp_path, "c.csv", X)).read_text().splitlines()
    rows[7] = rows[7].rsplit(",", 1)[0] + ","
    (tmp_path / "c.csv").write_text("\n".join(rows))
    with pytest.raises(UserError, match=r"c.csv: line 8: column 6"):
        loaded(alone, train=str(tmp_path / "c.csv"))


@pytest.mark.parametrize("ranks", [needs(1, 1), needs(3, 3)])
def test_as_a_user_runs_it(tmp_path: Path, ranks: int) -> None:
    """Training, resuming and predicting; predictions are those of the filled table."""
    write(tmp_path, "t.csv", X)
    write(tmp_path, "new.csv", X[:9])
    means = np.nanmean(X, axis=0)
    write(tmp_path, "filled.csv", np.where(np.isnan(X[:9]), means, X[:9]))
    net = {
        "net": {"input": [WIDTH], "loss": "squared", "layers": [{"dense": {"units": 1}}]},
        "data": {"train": "t.csv", "scale": "standardize"},
        "solver": {"max_iterations": 2},
    }
    refused = train(ranks, tmp_path, net, "run")
    fails(refused, "line 1: column", "data.missing: mean or drop")
    net["data"]["missing"] = "mean"
    done = train(ranks, tmp_path, net, "run")
    assert done.returncode == 0, done.stderr
    again = train(ranks, tmp_path, "net.yaml", "run", "--resume", "auto", settings=["solver.max_iterations=4"])
    assert again.returncode == 0, again.stderr
    texts = []
    for name in ("new.csv", "filled.csv"):
        said = start(ranks, "--model", "run", "--data", name, "--out", "p.txt", cwd=tmp_path, module="dnewton.predict")
        assert said.returncode == 0, said.stderr
        texts.append((tmp_path / "p.txt").read_text())
    assert texts[0] == texts[1]
