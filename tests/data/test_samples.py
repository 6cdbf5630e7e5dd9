"""Losses, pooling codes, samples and files, each against something simpler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import oracle
import pytest
from places import cast, same
from problems import CNN, Problem, flat, lay_out
from safetensors.numpy import load_file, save_file

from dnewton.arrays.image_windows import max_pool, max_unpool, patches
from dnewton.arrays.namespace import sample_blocks
from dnewton.comm.communicator import MPI, Comm
from dnewton.data.formats.array_files import open_npz
from dnewton.data.readers import read_bundled
from dnewton.data.samples import Window, load
from dnewton.data.scaling import Scaling
from dnewton.data.sources import Source, from_arrays
from dnewton.data.targets import Targets
from dnewton.errors import UserError
from dnewton.grid import Grid, SplitAxis, grids
from dnewton.model.losses.losses import LOSSES
from dnewton.storage import tensors
from dnewton.storage.tensors import Contents


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    rng = np.random.default_rng(0)
    k = 1 if name == "logistic" else 4
    z, loss = rng.normal(size=(6, k)), LOSSES[name]
    y = {"squared": rng.normal(size=(6, k)), "logistic": rng.integers(0, 2, (6, 1)).astype(float)}.get(
        name, np.eye(4)[rng.integers(0, 4, 6)]
    )
    assert loss.value(z, y) == pytest.approx(oracle.loss_value(z, y, name))
    assert np.allclose(loss.gradient(z, y), oracle.loss_gradient(z, y, name))
    u = rng.normal(size=(2, 6, k))
    expected = np.einsum("ikj,nij->nik", oracle.loss_hessian(z, name), u)
    assert np.allclose(loss.hessian_product(loss.state(z), u), expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e3, 1e30])
def test_losses_at_extreme_outputs(name: str, scale: float) -> None:
    """float32 outputs far out give finite values where the mathematics does, or infinity, never NaN."""
    k = 1 if name == "logistic" else 3
    z = (scale * np.linspace(-1, 1, 3 * k).reshape(3, k)).astype(np.float32)
    y = np.ones((3, 1), np.float32) if k == 1 else np.eye(3, dtype=np.float32)
    with np.errstate(over="ignore"):
        assert not np.isnan(LOSSES[name].value(z, y)) and not np.isnan(LOSSES[name].gradient(z, y)).any()


def test_first_maximum_wins_and_nan_is_seen() -> None:
    x = np.array([[3.0, 3.0, 1.0, 5.0], [3.0, 3.0, 5.0, 5.0]])[None, :, :, None]
    best, code = max_pool(x, (2, 2), (2, 2), (0, 0))
    assert best.ravel().tolist() == [3.0, 5.0] and code.ravel().tolist() == [0, 1]
    back = max_unpool(np.ones((1, 1, 1, 2, 1)), code, (2, 4), (2, 2), (2, 2), (0, 0))
    assert back[0, 0, :, :, 0].tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    x[0, 0, 1, 0] = np.nan
    assert np.isnan(max_pool(x, (2, 2), (2, 2), (0, 0))[0][0, 0, 0, 0])


def test_large_windows_have_wide_codes() -> None:
    x = np.zeros((1, 17, 17, 1))
    x[0, 16, 16, 0] = 1.0
    assert max_pool(x, (17, 17), (17, 17), (0, 0))[1].ravel().tolist() == [288]


def test_patches_of_no_channels_and_no_samples() -> None:
    assert patches(np.zeros((2, 5, 5, 0)), (3, 3), (1, 1), (1, 1)).shape == (2, 25, 0)
    assert patches(np.zeros((0, 5, 5, 2)), (3, 3), (2, 1), (0, 1)).shape == (0, 10, 18)
    assert sample_blocks(0, 10) == [] and sample_blocks(3, 10**9) == [slice(0, 1), slice(1, 2), slice(2, 3)]


# --- data -------------------------------------------------------------------------------------------------------------


def load_columns(
    source: Source, shape: tuple[int, ...], units: SplitAxis, bounds: tuple[int, int], how: str | Scaling, dtype: str
) -> tuple[np.ndarray, Scaling]:
    """Columns on one rank alone."""
    x, scaling = load(source, Window.of(shape, units, bounds), how, dtype, Comm(MPI.COMM_SELF.Dup()))
    return np.asarray(x), scaling


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressed", [False, True])
def test_columns_of_npz(tmp_path: Path, order: str, compressed: bool) -> None:
    x = np.asarray(np.random.default_rng(0).normal(size=(50, 3, 4, 2)), order=order)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "d.npz", x=x, y=np.arange(50))
    source = open_npz(str(tmp_path / "d.npz"))
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
    targets = Targets.fit(raw, outputs, loss, "none", "a.npz")
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
    targets = Targets.fit(y, 1, "squared", "standardize", "a")
    coded = targets.encode(y, "float64", "a")
    assert coded.mean() == pytest.approx(0) and coded.std() == pytest.approx(1)
    total = targets.metric_sum()(np.zeros((3, 1)), coded)
    assert targets.metric_value(total, 3) == pytest.approx(np.sqrt(np.mean((y - 200) ** 2)))


def test_bundled_splits_are_fixed_and_apart() -> None:
    (x, y), (xt, yt) = read_bundled("digits", "train"), read_bundled("digits", "test")
    assert (len(y), len(yt)) == (1437, 360) and np.bincount(yt).min() >= 34
    assert same(x, read_bundled("digits", "train")[0])
    assert x.shape[1] == xt.shape[1] == 64


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.mpi
@pytest.mark.at16
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_models_do_not_depend_on_the_layout(comm: Comm, tmp_path_factory: pytest.TempPathFactory, dtype: str) -> None:
    """Written on one grid, read on another; PyTorch's names and shapes; the file is valid for the library."""
    folder = comm.text_from_root(str(tmp_path_factory.mktemp("models")) if comm.rank == 0 else None)
    problem = Problem((2, 7, 6), CNN)
    for i, grid in enumerate(grids(comm.size)):
        on = lay_out(problem, comm, grid)
        theta = cast(on.theta, dtype)
        path = f"{folder}/{i}-{dtype}.safetensors"
        tensors.save(path, on.network, Contents({"": theta, "previous.": 2 * theta}, {"note": "x"}), on.comm)
        found = load_file(path)
        for key, value in problem.params.items():
            assert same(found[key], value.astype(dtype))
            assert same(found["previous." + key], 2 * value.astype(dtype))
        assert tensors.read_metadata(path) == {"note": "x"}
        other = lay_out(problem, comm, Grid(grid.cols, grid.rows))
        assert same(tensors.load(path, other.network, dtype), cast(other.theta, dtype))
        comm.barrier()


def test_files_that_do_not_fit(comm: Comm, tmp_path: Path) -> None:
    problem = Problem((2, 7, 6), CNN)
    on = lay_out(problem, comm)
    for change, message in [
        ({"layers.0.weight": None}, "has no tensor layers.0.weight"),
        ({"layers.0.weight": np.zeros((3, 2, 3, 2))}, r"layers.0.weight has shape \[3, 2, 3, 2\], the net needs"),
        ({"layers.9.weight": np.zeros(3)}, "layers.9.weight belongs to no layer"),
    ]:
        changed = {k: v for k, v in {**problem.params, **change}.items() if v is not None}
        save_file(changed, tmp_path / "m.safetensors")
        with pytest.raises(UserError, match=message):
            tensors.load(str(tmp_path / "m.safetensors"), on.network, "float64")
    data = (tmp_path / "m.safetensors").read_bytes()
    for cut in (0, 7, 100, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"cut.safetensors: not a readable safetensors file"):
            tensors.load(str(tmp_path / "cut.safetensors"), on.network, "float64")


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


def test_whole_tensors_have_one_owner_each(comm: Comm) -> None:
    on = lay_out(Problem((2, 7, 6), CNN), comm)
    assert comm.sum_scalars([float(on.network.size)])[0] == len(flat(on.problem.params))


@pytest.mark.parametrize("limit", [1, 7, 10**6])
def test_long_messages_are_cut(comm: Comm, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """MPI counts are 32-bit numbers: sums and gathers of more elements go in pieces, with the same result."""
    monkeypatch.setattr("dnewton.comm.communicator.MESSAGE_BYTES", 8 * limit)
    total = comm.allreduce(np.arange(23.0).reshape(1, 23) * (comm.rank + 1))
    assert same(total, np.arange(23.0).reshape(1, 23) * sum(range(1, comm.size + 1)))
    widths = [r % 3 for r in range(comm.size)]  # some are empty
    mine = np.full((5, 2, widths[comm.rank]), float(comm.rank))
    whole = comm.gather_features(mine, "row", widths)
    expected = np.concatenate([np.full((5, 2, w), float(r)) for r, w in enumerate(widths)], axis=2)
    assert same(whole, expected if comm.size > 1 else mine)


def test_arrays_from_root_and_together(comm: Comm) -> None:
    for array in (np.arange(6).reshape(2, 3), np.zeros((0, 4), dtype=np.float32), np.array(["ant", "bee"])):
        found = comm.array_from_root(array if comm.rank == 0 else None)
        assert same(found, array) and found.dtype == array.dtype
    with pytest.raises(UserError, match=f"rank {comm.size - 1} is wrong"), comm.raise_together():
        if comm.rank == comm.size - 1:
            raise UserError(f"rank {comm.rank} is wrong")
