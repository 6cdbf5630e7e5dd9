"""Arrays as people have them: by name, in groups, channels last, samples in columns; with the values written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from inside import needs, start
from runs import fails, train
from scipy import io

from dnewton.comm.communicator import Comm
from dnewton.config.schema import DataSection
from dnewton.data.parts import open_parts
from dnewton.data.readers import find_part
from dnewton.data.sources import Source

RNG = np.random.default_rng(7)
X = RNG.normal(size=(12, 5))
Y = RNG.normal(size=(12, 2))
WORDS = np.array(["ant", "bee", "cat"])[RNG.integers(0, 3, 12)]
IMAGES = RNG.normal(size=(12, 2, 3, 4))  # channels first


def opened(folder: Path, train: Any, shape: tuple[int, ...] = (5,), **keys: Any) -> Source:
    section = DataSection.model_validate({"train": train, **keys})
    section = section.model_copy(update={"train": find_part(section.train, str(folder))})
    return open_parts(section, shape, 0, Comm.alone()).train


def columns(source: Source, lo: int = 0, hi: int | None = None) -> np.ndarray:
    """As read in whole, and, where the format can do that, row by row."""
    hi = source.features if hi is None else hi
    if source.fetch is not None:
        source.fetch(lo, hi)
    whole = np.concatenate(list(source.blocks(lo, hi)))
    if source.rows is not None:
        some = np.array([1, 4, 5, 11])
        assert np.array_equal(source.rows(some, lo, hi), whole[some])
    return whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arrays")
    np.savez(path / "two.npz", x_train=X, y_train=Y, x_test=-X, y_test=-Y, w=np.arange(12.0))
    np.savez_compressed(path / "packed.npz", x_train=X, y_train=Y)
    with h5py.File(path / "g.h5", "w") as file:
        file["train/deep/x"], file["train/deep/y"], file["test/x"] = X, Y, -X
        file["last"] = np.moveaxis(IMAGES, 1, -1)
    last = np.moveaxis(IMAGES, 1, -1)
    np.save(path / "last.npy", last)
    np.save(path / "last_f.npy", np.asfortranarray(last))
    np.save(path / "grey.npy", IMAGES[:, 0])
    np.save(path / "y.npy", Y)
    np.save(path / "turned.npy", X.T)
    cells = np.empty((12, 1), dtype=object)
    cells[:, 0] = WORDS
    io.savemat(path / "c.mat", {"X": X.T, "y": Y.T})
    io.savemat(path / "words.mat", {"x": X, "y": cells})
    return path


@pytest.mark.serial
@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("two.npz", {"arrays": {"x": "x_train", "y": "y_train"}}),
        ("packed.npz", {"arrays": {"x": "x_train", "y": "y_train"}}),
        ({"x": "two.npz:x_train", "y": "two.npz:y_train"}, {}),
        ({"x": "packed.npz:x_train", "y": "y.npy"}, {}),
        ("g.h5:/train/deep", {}),
        ({"x": "g.h5:/train/deep/x", "y": "g.h5:train/deep/y"}, {}),
        ({"x": "turned.npy", "y": "y.npy"}, {}),
        ("c.mat", {}),
    ],
    ids=str,
)
def test_values(folder: Path, part: Any, keys: dict[str, Any]) -> None:
    source = opened(folder, part, **keys)
    assert (source.samples, source.features) == (12, 5)
    assert np.array_equal(columns(source), X)
    assert np.array_equal(columns(opened(folder, part, **keys), 1, 3), X[:, 1:3])
    assert np.array_equal(source.all_targets(), Y)


@pytest.mark.serial
@pytest.mark.parametrize("name", ["last.npy", "last_f.npy", "g.h5:last"])
def test_channels_last(folder: Path, name: str) -> None:
    part = {"x": name, "y": "y.npy"}
    source = opened(folder, part, (2, 3, 4), channels="last")
    flat = IMAGES.reshape(12, 24)
    assert np.array_equal(columns(source), flat) and np.array_equal(columns(source, 12, 24), flat[:, 12:])
    with pytest.raises(Exception, match=r"data\.channels: last"):
        opened(folder, part, (2, 3, 4))


@pytest.mark.serial
def test_labels_in_cells_and_images_without_channels(folder: Path) -> None:
    source = opened(folder, "words.mat")
    assert np.array_equal(columns(source), X) and source.all_targets().tolist() == WORDS.tolist()
    grey = opened(folder, {"x": "grey.npy", "y": "y.npy"}, (1, 3, 4))
    assert np.array_equal(columns(grey), IMAGES[:, 0].reshape(12, 12))


@pytest.mark.parametrize("ranks", [needs(1, 1), needs(3, 3)])
def test_as_a_user_runs_it(folder: Path, tmp_path: Path, ranks: int) -> None:
    """The same run from arrays by name, in groups and in columns as from plain ones, on any ranks, streamed too."""
    np.savez(tmp_path / "plain.npz", x=X, y=Y)
    net = {
        "net": {"input": [5], "loss": "squared", "layers": [{"dense": {"units": 2}}]},
        "solver": {"max_iterations": 2},
        "parallel": {"dtype": "float64"},
    }
    losses = set()
    for k, part in enumerate(
        ["plain.npz", f"{folder}/g.h5:train/deep", {"x": f"{folder}/turned.npy", "y": f"{folder}/y.npy"}]
    ):
        result = train(ranks, tmp_path, {**net, "data": {"train": part}}, f"run{k}")
        assert result.returncode == 0, result.stderr
        losses.add(next(line.split("|g|")[0] for line in result.stdout.splitlines() if line.startswith("2/2")))
    assert len(losses) == 1 and "samples are in columns" in result.stdout
    bad = train(ranks, tmp_path, {**net, "data": {"train": f"{folder}/g.h5:train/depe"}}, "bad")
    fails(bad, "g.h5", "train/deep")
    fails(train(ranks, tmp_path, {**net, "data": {"train": f"{folder}/two.npz:x_trian"}}, "bad"), "two.npz", "x_train")


@pytest.mark.parametrize("ranks", [needs(1, 1), needs(3, 3)])
def test_a_model_knows_how_its_arrays_lie(folder: Path, tmp_path: Path, ranks: int) -> None:
    """Its own file, channels last, samples in columns and arrays by name, is read as in training; so is Model's."""
    square = RNG.normal(size=(5, 5))
    io.savemat(tmp_path / "square.mat", {"a": square.T, "b": square[:, :1].T})
    np.savez(tmp_path / "square.npz", x=square[:3])
    last = {"x": str(folder / "last.npy"), "y": str(folder / "y.npy")}
    np.save(tmp_path / "first.npy", IMAGES)
    ways: list[tuple[list[int], int, dict[str, Any], str, str]] = [
        ([2, 3, 4], 2, {"train": last, "channels": "last"}, last["x"], "first.npy"),
        (
            [5],
            1,
            {"train": "square.mat", "arrays": {"x": "a", "y": "b"}, "samples": "columns"},
            "square.mat",
            "square.npz",
        ),
    ]
    for k, (shape, outputs, data, own, plain) in enumerate(ways):
        layers = ["flatten"] if len(shape) > 1 else []
        net = {"input": shape, "loss": "squared", "layers": [*layers, {"dense": {"units": outputs}}]}
        done = train(ranks, tmp_path, {"net": net, "data": data, "solver": {"max_iterations": 1}}, f"r{k}")
        assert done.returncode == 0, done.stderr
        found = []
        for name in (own, plain):
            args = ["--model", f"r{k}", "--data", name, "--out", "p.npy"]
            said = start(ranks, *args, cwd=tmp_path, module="dnewton.predict")
            assert said.returncode == 0, said.stderr
            found.append(np.load(tmp_path / "p.npy"))
        assert np.array_equal(found[0][: len(found[1])], found[1]) and np.ptp(found[0]) > 0


@pytest.mark.serial
def test_weights_from_an_array_of_another_file(folder: Path) -> None:
    source = opened(folder, {"x": "turned.npy", "y": "y.npy"}, weights=str(folder / "two.npz:w"))
    assert source.weights is not None and np.array_equal(source.weights(), np.arange(12.0))
    with pytest.raises(Exception, match=r"data\.weights: .*has no array or group 'v'"):
        opened(folder, {"x": "turned.npy", "y": "y.npy"}, weights=str(folder / "two.npz:v"))


@pytest.mark.serial
def test_the_group_of_the_part_is_named(folder: Path) -> None:
    with pytest.raises(Exception, match=r"name the group: \S*g.h5:/train/deep$"):
        opened(folder, "g.h5")
