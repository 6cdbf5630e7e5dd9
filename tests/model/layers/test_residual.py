"""Skip connections: by the oracle on every grid, where axes of the cuts differ, nested, with projections; as a whole
run; and what they are for: a deep net that trains."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import everywhere, function_and_gradient, products
from inside import start
from problems import ALL_KINDS, Problem, flat, lay_out
from runs import fails, metrics, train
from safetensors.numpy import load_file

from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.errors import UserError
from dnewton.grid import grids
from dnewton.planning.net_plan import infer_shapes


def dense(units: int, activation: str = "tanh") -> dict[str, Any]:
    return {"dense": {"units": units, "activation": activation}}


def conv(channels: int, kernel: int = 3, padding: int = 1, **more: Any) -> dict[str, Any]:
    return {"conv": {"channels": channels, "kernel": kernel, "padding": padding, "activation": "tanh", **more}}


NETS: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "dense": ((5,), [dense(6), {"residual": [dense(7), dense(6)]}, {"dense": {"units": 3}}]),
    "at the input": ((5,), [{"residual": [dense(7), dense(5)]}, {"dense": {"units": 3}}]),
    "at the end": ((5,), [dense(3), {"residual": [dense(4), dense(3, "linear")]}]),
    "linear everywhere": ((4,), [{"residual": [{"dense": {"units": 4}}]}, {"dense": {"units": 2}}]),
    "projection": ((5,), [dense(4), {"residual": {"layers": [dense(6)], "projection": True}}, {"dense": {"units": 3}}]),
    "projection at both ends": ((4,), [{"residual": {"layers": [dense(6), dense(3)], "projection": True}}]),
    "nested": ((5,), [dense(6), {"residual": [{"residual": [dense(6)]}, dense(6)]}, {"dense": {"units": 3}}]),
    "one unit": ((1,), [{"residual": [dense(1)]}, {"residual": [dense(2), dense(1)]}]),
    "image": ((2, 4, 5), [conv(3), {"residual": [conv(4), conv(3)]}, "flatten", {"dense": {"units": 3}}]),
    "image with a projection": (
        (2, 5, 6),
        [conv(3), {"residual": {"layers": [conv(4, stride=2)], "projection": True}}, "global_avgpool", dense(3)],
    ),
    "sequence with a projection": (
        (2, 8),
        [{"residual": {"layers": [conv(3, stride=2)], "projection": True}}, "flatten", {"dense": {"units": 3}}],
    ),
    "mean inside": (
        (2, 4, 4),
        [{"residual": [{"avgpool": {"size": 3, "stride": 1, "padding": 1}}]}, "flatten", dense(3)],
    ),
    "other cuts": ((2, 2, 3), [conv(2), "flatten", {"residual": [dense(12)]}, {"dense": {"units": 3}}]),
}
WITH_MAXIMA = {
    "maximum inside": (
        (2, 6, 6),
        [conv(4), {"residual": [conv(4), {"maxpool": {"size": 3, "stride": 1, "padding": 1}}]}, "flatten", dense(3)],
    ),
    "maximum above": ((2, 6, 6), [{"residual": [conv(2)]}, {"maxpool": {"size": 2}}, "flatten", dense(3)]),
    "pooled inside": (
        (3, 6, 6),
        [{"residual": {"layers": [conv(4), {"maxpool": {"size": 2}}], "projection": True}}, "flatten", dense(3)],
    ),
}


@pytest.mark.mpi
@pytest.mark.at16
@pytest.mark.parametrize("name", [*NETS, *WITH_MAXIMA])
def test_everywhere(comm: Comm, name: str) -> None:
    shape, layers = {**NETS, **WITH_MAXIMA}[name]
    loss = "squared" if name == "one unit" else "cross_entropy"
    everywhere(comm, Problem(shape, layers, loss, samples=7), kinks=name in WITH_MAXIMA)


@pytest.mark.mpi
def test_every_combination_of_splits(comm: Comm) -> None:
    """Inner chain and projection end in any splits, and meet."""
    layers = [dense(4), {"residual": {"layers": [dense(5)], "projection": True}}, {"dense": {"units": 2}}]
    problem = Problem((6,), layers, "squared", samples=5)
    for grid, kinds in product(grids(comm.size), product(ALL_KINDS, repeat=3)):
        on = lay_out(problem, comm, grid, [*kinds, ALL_KINDS[0]])
        function_and_gradient(problem, on)
        products(problem, on, "factored")


def test_names_follow_the_nesting() -> None:
    net = {"input": [5], "loss": "squared", "layers": NETS["nested"][1]}
    specs = infer_shapes(Config.model_validate({"net": net}).net)
    named = [spec.name for spec in specs if spec.parametric]
    assert named == ["layers.0", "layers.1.layers.0.layers.0", "layers.1.layers.1", "layers.2"]
    keys = [spec.key for spec in specs if spec.parametric]
    assert len(set(keys)) == len(keys) and keys[0] == 0 and keys[-1] == 2


def test_keys_of_deep_nests_fit() -> None:
    """They go into a generator of 64-bit keys, and differ."""
    entry: Any = dense(4)
    for _ in range(6):
        entry = {"residual": {"layers": [entry, dense(4)], "projection": True}}
    net = {"input": [4], "loss": "squared", "layers": [entry, dense(1)]}
    keys = [s.key for s in infer_shapes(Config.model_validate({"net": net}).net) if s.parametric]
    assert len(set(keys)) == len(keys) and max(keys) < 1 << 48 and keys[-1] == 1


def test_a_projection_is_advised_where_there_is_one() -> None:
    for layers, words in (
        ([dense(4), {"residual": [dense(5)]}], "use residual"),
        ([conv(2), {"residual": ["flatten"]}], "no projection leads there"),
        ([conv(2), {"residual": [conv(2, padding=0)]}], "no projection leads there"),
    ):
        shape = [4] if "dense" in layers[0] else [2, 24]
        with pytest.raises(UserError, match=words):
            infer_shapes(Config.model_validate({"net": {"input": shape, "loss": "squared", "layers": layers}}).net)


@pytest.mark.jobs(1)
def test_init_takes_all_or_nothing(tmp_path: Path) -> None:
    """The tensors of a residual are not those of a vector under a prefix."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(30, 2, 4, 4)), y=np.arange(30) % 3)

    def net(middle: Any) -> dict[str, Any]:
        layers = [conv(2), middle, "flatten", {"dense": {"units": 3}}]
        section = {"input": [2, 4, 4], "loss": "cross_entropy", "layers": layers}
        return {"net": section, "data": {"train": "d.npz"}, "solver": {"max_iterations": 0}}

    assert train(1, tmp_path, net({"residual": [conv(2)]}), "a").returncode == 0
    other = train(1, tmp_path, net({"maxpool": {"size": 1}}), "b", "--init", "a/model.safetensors")
    fails(other, "layers.1.layers.0.bias", "belongs to no layer")


def surface(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2))
    np.savez(folder / "d.npz", x=x, y=np.sin(3 * x[:, :1]) * np.cos(2 * x[:, 1:]))


def config(layers: list[Any], **solver: Any) -> dict[str, Any]:
    return {
        "net": {"input": [2], "loss": "squared", "layers": layers},
        "data": {"train": "d.npz"},
        "solver": {
            "damping": "paper",
            "C": float("inf"),
            "subsample": 1.0,
            "early_termination": {"mode": "lockstep"},
            **solver,
        },
        "parallel": {"dtype": "float64"},
    }


@pytest.mark.jobs(3)
def test_a_run_from_start_to_prediction(tmp_path: Path) -> None:
    surface(tmp_path)
    net = config([dense(8), {"residual": [dense(8), dense(8)]}, {"dense": {"units": 1}}], max_iterations=6)
    assert train(3, tmp_path, net, "whole").returncode == 0
    assert train(3, tmp_path, net, "half", settings=["solver.max_iterations=3"]).returncode == 0
    assert start(3, "--resume", "half", "--set", "solver.max_iterations=6", cwd=tmp_path).returncode == 0
    losses = [[line["loss"] for line in metrics(tmp_path, run)] for run in ("whole", "half")]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]
    model = load_file(tmp_path / "whole" / "model.safetensors")
    assert model["layers.1.layers.0.weight"].shape == (8, 8)
    words = ("--model", "whole", "--data", "d.npz", "--out", "p.txt")
    assert start(2, *words, cwd=tmp_path, module="dnewton.predict").returncode == 0
    z, x = np.loadtxt(tmp_path / "p.txt"), np.load(tmp_path / "d.npz")["x"]
    a = np.tanh(x @ model["layers.0.weight"].T + model["layers.0.bias"])
    b = np.tanh(a @ model["layers.1.layers.0.weight"].T + model["layers.1.layers.0.bias"])
    b = a + np.tanh(b @ model["layers.1.layers.1.weight"].T + model["layers.1.layers.1.bias"])
    assert np.allclose(z, (b @ model["layers.2.weight"].T + model["layers.2.bias"])[:, 0], atol=1e-6)
    planned = start(1, "--net", "net.yaml", "--ranks", "4", cwd=tmp_path, module="dnewton.plan")
    assert planned.returncode == 0 and "layers.1.layers.1" in planned.stdout
    again = train(1, tmp_path, {**net, "net": {**net["net"], "layers": [*net["net"]["layers"][:1], dense(1)]}}, "other")
    assert again.returncode == 0
    fails(start(1, "--resume", "half", "--net", "net.yaml", cwd=tmp_path), "belongs to another run", "net.layers")


@pytest.mark.jobs(1)
def test_a_deep_net_trains_with_skips_where_it_stalls_without(tmp_path: Path) -> None:
    """12 layers of 6 tanh units with small weights: without skips the signal dies out on the way."""
    surface(tmp_path)
    deep = [dense(6) for _ in range(12)]
    skips = [dense(6), *({"residual": [dense(6), dense(6)]} for _ in range(5)), dense(6)]
    ends = {}
    for name, layers in (("without", deep), ("with", skips)):
        net = config([*layers, {"dense": {"units": 1}}], max_iterations=40)
        assert train(1, tmp_path, net, name).returncode == 0
        ends[name] = metrics(tmp_path, name)[-1]["loss"]
    assert ends["with"] < 0.1 * ends["without"], ends


@pytest.mark.jobs(1)
def test_mistakes(tmp_path: Path) -> None:
    surface(tmp_path)

    def failing(entry: Any, *words: str) -> None:
        fails(train(1, tmp_path, config([dense(4), entry, {"dense": {"units": 1}}]), "run"), "net.layers[1]", *words)

    failing({"residual": [dense(5)]}, "make [5] of [4]", "projection: true")
    failing({"residual": [{"dense": {"units": 4}}, "global_avgpool"]}, "(residual).layers[1]", "needs an image")
    failing({"residual": []}, "residual.layers", "at least one entry")
    failing({"residual": [{"dens": {"units": 4}}]}, "residual.layers[0].dens", "did you mean 'dense'")
    failing({"residual": {"layers": [dense(4)], "projektion": True}}, "did you mean 'projection'")
    failing({"residual": [{"maxpool": {"size": 2}}]}, "(residual).layers[0] (maxpool)", "needs an image")
    failing("residual", "is required")


@pytest.mark.mpi
def test_flat_vectors_have_the_oracles_order(comm: Comm) -> None:
    problem = Problem(*NETS["nested"])
    on = lay_out(problem, comm)
    assert np.array_equal(flat(on.whole(on.theta)), flat(problem.params))
