"""docs/model_format.md: its example runs on a trained model, and says what the training data were."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from models import header
from runs import train
from safetensors import safe_open

PAGE = (Path(__file__).parents[2] / "docs" / "model_format.md").read_text()
NET = {
    "input": [2, 3, 3],
    "loss": "cross_entropy",
    "layers": [{"conv": {"channels": 2, "kernel": 2, "activation": "tanh"}}, "flatten", {"dense": {"units": 3}}],
}


@pytest.mark.jobs(3)
@pytest.mark.parametrize("scale", ["standardize", "none"])
def test_the_example_reads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scale: str
) -> None:
    """Trained on 3 ranks, so that the scaling comes from several of them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(5, 2, (30, 2, 3, 3)), np.array(["b", "a", "ü"])[np.arange(30) % 3]
    np.savez(tmp_path / "d.npz", x=x, y=y)
    config = {"net": NET, "data": {"train": "d.npz", "scale": scale}, "solver": {"max_iterations": 1}}
    result = train(3, tmp_path, config, "run")
    assert result.returncode == 0, result.stderr
    example = re.findall(r"^```python\n(.*?)^```", PAGE.split("## Reading it without dnewton")[1], re.M | re.S)
    (tmp_path / "run" / "example.py").write_text("".join(example))
    monkeypatch.chdir(tmp_path / "run")
    found = runpy.run_path("example.py")
    assert "layers.0.weight" in capsys.readouterr().out
    shapes = {name: tensor.shape for name, tensor in found["weights"].items()}
    assert shapes == {
        "layers.0.weight": (2, 2, 2, 2),
        "layers.0.bias": (2,),
        "layers.2.weight": (3, 8),
        "layers.2.bias": (3,),
    }
    flat = x.reshape(30, 18)
    assert np.allclose(found["shift"], flat.mean(0) if scale != "none" else 0)
    assert np.allclose(found["factor"], 1 / flat.std(0) if scale != "none" else 1)
    assert found["about"]["targets"]["classes"] == ["a", "b", "ü"]


@pytest.mark.jobs(1)
def test_every_key_is_documented(tmp_path: Path) -> None:
    """The page names what a trained model has, and tests/support/models.py writes no other keys."""
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(9, 2)), y=np.arange(9) % 4)
    net = {"input": [2], "loss": "poisson", "layers": [{"dense": {"units": 1}}]}
    config = {"net": net, "data": {"train": "d.npz", "scale": "minmax"}, "solver": {"max_iterations": 1}}
    result = train(1, tmp_path, config, "run")
    assert result.returncode == 0, result.stderr
    import json

    with safe_open(tmp_path / "run" / "model.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    about = json.loads(metadata["dnewton"])
    documented = set(re.findall(r"`([a-z_.]+)`", PAGE))
    assert {*metadata, *about, *about["targets"]} <= documented
    assert about.keys() == header(net).keys()
