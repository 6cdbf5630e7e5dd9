"""What a rank holds in memory while it reads, and while it trains on samples that stay on disk: a file of 1 GiB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_cli import metrics, start, train

pytestmark = pytest.mark.serial

SAMPLES, FEATURES = 2**18, 2**10
BUFFER = 64 << 20  # what readers may hold besides their slice, as docs/data.md states


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("large")
    file = np.lib.format.open_memmap(folder / "x.npy", "w+", "float32", (SAMPLES, FEATURES))
    block = np.random.default_rng(0).normal(size=(4096, FEATURES)).astype("float32")
    for row in range(0, SAMPLES, len(block)):
        file[row : row + len(block)] = block + np.float32(row / SAMPLES)
    del file
    np.save(folder / "y.npy", np.arange(SAMPLES) % 3)
    yield folder
    (folder / "x.npy").unlink()


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("how", ["none", "standardize"])
def test_reading_holds_little_more_than_the_slice(large: Path, ranks: int, how: str) -> None:
    script = Path(__file__).with_name("read_columns.py")
    result = start(ranks, str(large / "x.npy"), how, cwd=large, module=str(script))
    assert result.returncode == 0, result.stderr
    for grown, slice_bytes in json.loads(result.stdout):
        assert slice_bytes == SAMPLES * FEATURES * 4 / ranks
        assert grown < 1.3 * slice_bytes + BUFFER


@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("batch", ["all", 4096])
def test_training_stays_under_max_resident(large: Path, ranks: int, batch: object) -> None:
    net = {
        "net": {"input": [FEATURES], "loss": "cross_entropy", "layers": [{"dense": {"units": 8, "activation": "relu"}},
                                                                         {"dense": {"units": 3}}]},
        "data": {"train": "x.npy", "scale": "standardize", "max_resident": "600MiB"},
        "solver": {"max_iterations": 2, "subsample": 0.05, "gradient_batch": batch},
        "output": {"checkpoint_every": 0},
    }  # fmt: skip
    result = train(ranks, large, net, f"run-{ranks}-{batch}", "--overwrite")
    assert result.returncode == 0, result.stderr
    lines = metrics(large, f"run-{ranks}-{batch}")
    assert lines[-1]["iteration"] == 2 and lines[-1]["loss"] < lines[0]["loss"]
    assert max(line["peak_rss_bytes"] for line in lines) < 600 * 2**20
    if ranks == 1:
        assert "streamed" in (large / f"run-{ranks}-{batch}" / "log.txt").read_text()
