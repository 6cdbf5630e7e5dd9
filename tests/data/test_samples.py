"""Samples, scaling and targets, each against something simpler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from places import same

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import loss_of
from dnewton.data.bundled import read_bundled
from dnewton.data.format_register import Opening
from dnewton.data.formats.npz import open_npz
from dnewton.data.samples import Window, load
from dnewton.data.scaling import Scaling
from dnewton.data.sources import Source, from_arrays
from dnewton.data.targets import Targets
from dnewton.errors import UserError
from dnewton.grid import SplitAxis, grids


def load_columns(
    source: Source, shape: tuple[int, ...], units: SplitAxis, bounds: tuple[int, int], how: str | Scaling, dtype: str
) -> tuple[np.ndarray, Scaling]:
    """Columns on one rank alone."""
    x, scaling = load(source, Window.of(shape, units, bounds), how, dtype, Comm.alone())
    return np.asarray(x), scaling


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressed", [False, True])
def test_columns_of_npz(tmp_path: Path, order: str, compressed: bool) -> None:
    x = np.asarray(np.random.default_rng(0).normal(size=(50, 3, 4, 2)), order=order)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "d.npz", x=x, y=np.arange(50))
    source = open_npz(str(tmp_path / "d.npz"), Opening("data.train", None, Comm.alone()))
    assert (source.samples, source.shape, source.features) == (50, (3, 4, 2), 24)
    assert same(np.concatenate(list(source.blocks(8, 24))), x.reshape(50, 24)[:, 8:24])
    assert np.concatenate(list(source.blocks(5, 5))).shape == (50, 0)


@pytest.mark.parametrize("how", ["none", "standardize", "minmax", "unit"])
def test_scaling_is_feature_wise_and_fitted_on_train(how: str) -> None:
    rng = np.random.default_rng(0)
    x, other = rng.normal(3, 2, size=(30, 6)), rng.normal(size=(5, 6))
    x[:, 2] = 7.0  # constant
    source, test = from_arrays("a", x, np.zeros(30)), from_arrays("b", other, np.zeros(5))
    whole, fitted = load_columns(source, (6,), SplitAxis(6), (0, 6), how, "float64")
    shift, factor = fitted.shift, fitted.factor
    assert np.allclose(whole, (x - shift) * factor) and np.isfinite(whole).all()
    rest = [0, 1, 3, 4, 5]
    if how == "standardize":
        assert np.allclose(whole[:, rest].mean(0), 0) and np.allclose(whole[:, rest].std(0), 1)
    if how == "minmax":
        assert np.allclose(whole[:, rest].min(0), 0) and np.allclose(whole[:, rest].max(0), 1)
    if how == "unit":
        assert np.allclose(np.abs(whole).max(0), 1)
    assert np.allclose(load_columns(test, (6,), SplitAxis(6), (0, 6), fitted, "float64")[0], (other - shift) * factor)
    for grid in grids(4):  # every rank's columns are the columns of the whole
        for rank in range(4):
            lo, hi = grid.bounds("all", SplitAxis(6), rank)
            part, _ = load_columns(source, (6,), SplitAxis(6), (lo, hi), how, "float64")
            assert same(part, whole[:, lo:hi])


def test_images_arrive_channels_last() -> None:
    x = np.arange(2 * 3 * 4 * 5, dtype=float).reshape(2, 60)
    part, _ = load_columns(from_arrays("a", x, np.zeros(2)), (3, 4, 5), SplitAxis(3), (1, 3), "none", "float64")
    assert same(part, x.reshape(2, 3, 4, 5)[:, 1:].transpose(0, 2, 3, 1))


def encode(y: object, outputs: int, loss: str, new: object = None) -> list[object]:
    raw = np.asarray(y)
    targets = Targets.fit(raw, outputs, loss_of(loss), "none", "a.npz")
    return targets.encode(raw if new is None else np.asarray(new), "float64", "b.npz").tolist()


def test_targets() -> None:
    assert encode([2, 0], 3, "cross_entropy") == [[0, 0, 1], [1, 0, 0]]
    assert encode([5, 9, 7], 3, "cross_entropy") == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert encode(["cat", "ant", "cat"], 2, "squared") == [[0, 1], [1, 0], [0, 1]]
    assert encode([-1, 1, 1], 1, "logistic") == [[0], [1], [1]]
    assert encode([1.0, 0.0], 1, "logistic") == [[1], [0]]
    assert encode([1.5, 2.5], 1, "squared") == [[1.5], [2.5]]
    assert encode([3, 4], 1, "squared") == [[3], [4]]
    assert encode([[0.25, 0.75], [1, 0]], 2, "cross_entropy") == [[0.25, 0.75], [1, 0]]
    assert encode([[1, 2], [3, 4]], 2, "squared") == [[1, 2], [3, 4]]
    for y, outputs, loss, message in [
        ([0, 1, 2], 1, "logistic", "3 classes"),
        ([[1.0, 2.0]], 3, "squared", "2 target"),
        ([0.5], 2, "cross_entropy", "row 0: label 0.5"),
        ([0.5, np.nan], 1, "squared", "row 1"),
        ([[0.5, 0.7]], 2, "cross_entropy", "sum to 1"),
    ]:
        with pytest.raises(UserError, match=message):
            encode(y, outputs, loss)
    with pytest.raises(UserError, match=r"b.npz: row 1: label 8"):
        encode([5, 9], 2, "cross_entropy", [5, 8])


def test_real_targets_are_reported_unscaled() -> None:
    y = np.array([[100.0], [200.0], [300.0]])
    targets = Targets.fit(y, 1, loss_of("squared"), "standardize", "a")
    coded = targets.encode(y, "float64", "a")
    assert coded.mean() == pytest.approx(0) and coded.std() == pytest.approx(1)
    total = targets.metric_sum(loss_of("squared"))(np.zeros((3, 1)), coded)
    assert targets.metric_value(total, 3) == pytest.approx(np.sqrt(np.mean((y - 200) ** 2)))


def test_bundled_splits_are_fixed_and_apart() -> None:
    (x, y), (xt, yt) = read_bundled("digits", "train"), read_bundled("digits", "test")
    assert (len(y), len(yt)) == (1437, 360) and np.bincount(yt).min() >= 34
    assert same(x, read_bundled("digits", "train")[0])
    assert x.shape[1] == xt.shape[1] == 64


# --- files ------------------------------------------------------------------------------------------------------------


def test_scaling_survives_float32() -> None:
    """Small differences of large float64 numbers are scaled before they are rounded to float32."""
    stamps = 1.6e9 + np.arange(60.0)[:, None]
    x, _ = load_columns(from_arrays("a", stamps, np.zeros(60)), (1,), SplitAxis(1), (0, 1), "standardize", "float32")
    assert x.dtype == np.float32 and len(np.unique(x)) == 60 and abs(float(x.std()) - 1) < 1e-5


def test_a_constant_that_rounds_is_constant() -> None:
    """0.1 has a standard deviation of 1e-17 in float64."""
    train = from_arrays("a", np.full((50, 1), 0.1), np.zeros(50))
    test = from_arrays("b", np.full((1, 1), 0.2), np.zeros(1))
    _, fitted = load_columns(train, (1,), SplitAxis(1), (0, 1), "standardize", "float64")
    assert abs(load_columns(test, (1,), SplitAxis(1), (0, 1), fitted, "float64")[0][0, 0]) < 1
