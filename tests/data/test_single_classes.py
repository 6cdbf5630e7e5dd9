"""Classes of one sample, and labels that training does not know."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside import needs, start
from runs import train

from dnewton.data.parts import divide
from dnewton.data.sources import from_arrays

RNG = np.random.default_rng(4)


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 99), st.floats(0.01, 0.99))
def test_no_class_is_held_out_whole(samples: int, classes: int, seed: int, share: float) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, samples)
    source = from_arrays("made", np.arange(samples)[:, None], labels)
    kept, held = divide(source, share, seed, labels)
    every = [np.concatenate(list(part.blocks(0, 1)))[:, 0] for part in (kept, held)]
    assert sorted(np.concatenate(every)) == list(range(samples)) and min(map(len, every)) > 0
    lost = set(labels) - set(kept.all_targets())
    assert not lost or len(held.all_targets()) == 1 or kept.samples < len(set(labels))
    plain = divide(source, share, seed)
    if not set(labels) - set(plain[0].all_targets()):
        assert np.array_equal(plain[1].all_targets(), held.all_targets())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    x = RNG.normal(size=(40, 2))
    labels = np.where(x[:, 0] > 0, "up", "down").astype("<U6")
    labels[7] = "rare"
    rows = [f"{a!r},{b!r},{k}" for (a, b), k in zip(x.tolist(), labels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,k", *rows]))
    (tmp_path / "new.csv").write_text("\n".join(["a,b,k", *rows[:6], "1.5,0.5,left", "-1.5,0.5,right"]))
    (tmp_path / "none.csv").write_text("\n".join(["a,b,k", "1.5,0.5,left", "-1.5,0.5,right"]))
    yield tmp_path


@pytest.mark.parametrize("ranks", [needs(1, 1), needs(3, 3)])
def test_as_a_user_runs_it(folder: Path, ranks: int) -> None:
    net = {
        "net": {"input": [2], "loss": "cross_entropy", "layers": [{"dense": {"units": 3}}]},
        "data": {"train": "t.csv", "split": 0.9},
        "solver": {"max_iterations": 8},
    }
    for seed in range(2):
        done = train(ranks, folder, net, "run", "--overwrite", settings=[f"solver.seed={seed}"])
        assert done.returncode == 0, done.stderr
        assert re.search(r"class\(es\) have a single training sample, .*: .*rare", done.stdout)
    for name, known in (("new.csv", 6), ("none.csv", 0)):
        args = ["--model", "run", "--data", name, "--out", "p.txt", "--scores", "s.json"]
        said = start(ranks, *args, cwd=folder, module="dnewton.predict")
        assert said.returncode == 0, said.stderr
        assert "2 label(s) are none of the training data, and left out of the figures; first" in said.stdout
        scores = json.loads((folder / "s.json").read_text())
        assert scores["unknown_labels"] == 2 and ("accuracy" in scores) == (known > 0)
        assert len((folder / "p.txt").read_text().split()) == known + 2
