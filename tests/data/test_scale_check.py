"""Data that a net cannot be trained on as they are get a warning, others none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import start
from runs import arguments, metrics, train

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import loss_of
from dnewton.config.schema import DataSection
from dnewton.data import scale_check
from dnewton.data.samples import Samples
from dnewton.data.targets import Targets
from dnewton.grid import cut
from dnewton.training.ending import no_better

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(300, 5))
PIXELS = np.where(RNG.random((300, 5)) < 0.01, 1 / 255, RNG.random((300, 5)))  # some nearly always black
FINE = {
    "standardised": NORMAL,
    "images": np.hstack([PIXELS[:, :4], np.where(np.arange(300) == 7, 1 / 255, 0.0)[:, None]]),
    "white background": 1 - PIXELS * (RNG.random((300, 5)) < 0.01),
    "constant": np.hstack([NORMAL, np.full((300, 1), 3.0)]),
    "small": 0.05 * NORMAL,
    "rare": (RNG.random((300, 5)) < 0.004).astype(float),
    "zero": np.zeros((300, 5)),
}
BAD = {
    "a feature has a root mean square of 5e+04": np.hstack([NORMAL, 5e4 + NORMAL]),
    "a feature has a root mean square of 1": 128 + 64 * NORMAL,
    "no feature has a standard deviation above": 1e-3 * NORMAL,
    "some features vary by": np.hstack([NORMAL, 1e-4 * NORMAL]),
}


def found(x: Any, comm: Comm, **section: Any) -> str:
    """What rank 0 says where every rank has its columns."""
    lo, hi = cut(x.shape[1], comm.size, comm.rank)
    samples = Samples(x[:, lo:hi].astype("float32"), np.zeros((len(x), 1)))
    warnings = scale_check.about_features(samples, hi - lo, DataSection(**section), comm)
    return comm.text_from_root("\n".join(warnings))


@pytest.mark.parametrize("name", FINE)
def test_features_of_ordinary_sizes(comm: Comm, name: str) -> None:
    assert found(FINE[name], comm) == ""


@pytest.mark.parametrize("words", BAD)
def test_features_far_from_one(comm: Comm, words: str) -> None:
    for x in (BAD[words], BAD[words][:, ::-1]):  # on the last rank and on the first
        text = found(x, comm)
        assert words in text and "data.scale: standardize" in text and "\n" not in text
    assert found(BAD[words], comm, scale="standardize") == ""


def targets_warning(y: Any, scale: str = "none", loss: str = "squared") -> list[str]:
    targets = Targets.fit(y, 1 if y.ndim == 1 else y.shape[1], loss_of(loss), scale, "y")
    encoded = targets.encode(y, "float64", "y")
    return scale_check.about_targets(encoded, DataSection(scale_targets=scale), loss_of(loss), targets)


def test_targets_far_from_one() -> None:
    y = RNG.normal(size=400)
    for fine in (y, 5 + y, 50 * y, 0.05 * y, np.full(400, 7.0), 152 + 77 * y, np.stack([y, 3 - y], axis=1)):
        assert targets_warning(fine) == []
    for bad in (1e6 + y, 1e3 * y, 1e-4 * y, np.stack([y, 50 + y], axis=1)):
        (text,) = targets_warning(bad)
        assert "data.scale_targets: standardize" in text
        assert targets_warning(bad, "standardize") == []
        assert targets_warning(bad, loss="huber")
    assert targets_warning(np.round(np.abs(1e4 * y)), loss="poisson") == []


def test_the_score_without_features() -> None:
    y = RNG.normal(size=(50, 2)) * [1, 10]
    for scale in ("none", "standardize"):
        targets = Targets.fit(y, 2, loss_of("squared"), scale, "y")
        expected = np.sqrt(np.mean((y - y.mean(axis=0)) ** 2))
        assert scale_check.baseline(targets.encode(y, "float64", "y"), targets) == pytest.approx(expected)
    labels = np.array([3] * 5 + [8] * 15)
    for outputs, loss in ((1, "logistic"), (2, "cross_entropy")):
        targets = Targets.fit(labels, outputs, loss_of(loss), "none", "y")
        assert scale_check.baseline(targets.encode(labels, "float32", "y"), targets) == 0.75


def test_a_model_that_is_no_better() -> None:
    none, both = DataSection(), DataSection(scale="minmax", scale_targets="standardize")
    text = no_better("rmse", 1.0, 1.0, none)
    assert "the mean of the targets" in text and "data.scale: standardize and data.scale_targets" in text
    assert "data." not in no_better("rmse", 0.995, 1.0, both)
    assert "most frequent class" in no_better("accuracy", 0.6, 0.6, none)
    for name, score, without in (("rmse", 0.9, 1.0), ("rmse", 0.0, 0.0), ("accuracy", 0.61, 0.6), ("accuracy", 1, 1)):
        assert no_better(name, score, without, none) == ""


@pytest.mark.jobs(2)
def test_a_run_that_is_no_good_says_so_at_its_start_and_its_end(tmp_path: Path) -> None:
    x = np.random.default_rng(1).uniform(-1, 1, (100, 2))
    y = np.sin(2 * x[:, 0])
    np.savez(tmp_path / "bad.npz", x=x * [1, 1e-3] + [5e4, 0], y=1e6 + y)
    np.savez(tmp_path / "good.npz", x=x, y=y)
    net = {"input": [2], "loss": "squared", "layers": [{"dense": {"units": 8, "activation": "tanh"}}]}
    net["layers"].append({"dense": {"units": 1}})  # type: ignore[attr-defined]
    values = {"net": net, "solver": {"max_iterations": 15, "C": float("inf"), "subsample": 1.0}}
    for name, warnings in (("bad", 3), ("good", 0)):
        result = train(2, tmp_path, values, name, settings=[f"data.train={name}.npz"])
        assert result.returncode == 0, result.stderr
        lines = [line for line in result.stdout.splitlines() if line.startswith("warning: ")]
        assert len(lines) == warnings, result.stdout
    assert "no better than the mean" in train(2, tmp_path, values, "again", settings=["data.train=bad.npz"]).stdout
    cured = ["data.train=bad.npz", "data.scale=standardize", "data.scale_targets=standardize"]
    assert "warning" not in train(2, tmp_path, values, "cured", settings=cured).stdout
    assert metrics(tmp_path, "cured")[-1]["train_rmse"] < 0.2
    # of data on the disk the first samples are looked at
    args = arguments(tmp_path, values, "streamed", settings=["data.train=bad.npz", "data.max_resident=1MiB"])
    assert "warning: a feature has" in start(2, *args, cwd=tmp_path).stdout
