"""Weights of other programs: an `nn.Sequential`, modules of any names, files without biases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from places import host, same
from problems import Problem, lay_out
from safetensors.numpy import save_file

from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.grid import grids
from dnewton.planning.net_plan import infer_shapes
from dnewton.storage import tensors
from dnewton.storage.tensor_file import read_weights

LAYERS = [
    {"conv": {"channels": 3, "kernel": 3, "padding": 1, "activation": "relu"}},
    {"residual": [{"conv": {"channels": 3, "kernel": 1}}]},
    "flatten",
    {"dense": {"units": 5, "activation": "tanh"}},
    {"dense": {"units": 5, "activation": "tanh"}},
    {"dense": {"units": 5, "activation": "tanh"}},
    {"dense": {"units": 2}},
]
OURS = ["layers.0", "layers.1.layers.0", "layers.3", "layers.4", "layers.5", "layers.6"]
MODULES = {
    "sequential": ["0", "2.0", "6", "8", "10", "12"],
    "nested": ["body.0.conv", "body.1.0", "head.2", "head.9", "head.10", "head.11"],
    "named layers": ["layers.0", "layers.2.0", "layers.4", "layers.9", "layers.11", "layers.13"],
}


def problem() -> Problem:
    return Problem((2, 4, 5), LAYERS)


def renamed(params: dict[str, np.ndarray], modules: list[str]) -> dict[str, np.ndarray]:
    names = dict(zip(OURS, modules, strict=True))
    return {f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": np.ascontiguousarray(p) for n, p in params.items()}


@pytest.mark.mpi
@pytest.mark.parametrize("modules", MODULES)
def test_modules_in_natural_order(comm: Comm, tmp_path_factory: pytest.TempPathFactory, modules: str) -> None:
    """2 comes before 10; every rank of every grid finds its blocks."""
    folder = comm.text_from_root(str(tmp_path_factory.mktemp("names")) if comm.rank == 0 else None)
    path = f"{folder}/m.safetensors"
    if comm.rank == 0:
        save_file(renamed(problem().params, MODULES[modules]), path)
    comm.barrier()
    for grid in grids(comm.size):
        on = lay_out(problem(), comm, grid)
        assert same(tensors.load(path, on.network, "float64"), on.theta)


def test_names_out_of_order_go_by_shapes_where_only_one_order_fits(comm: Comm, tmp_path: Path) -> None:
    layers = [{"dense": {"units": 4, "activation": "tanh"}}, {"dense": {"units": 3}}]
    on = lay_out(Problem((5,), layers), comm)
    given = {n.replace("layers.0", "trunk").replace("layers.1", "head"): p for n, p in on.problem.params.items()}
    save_file(given, tmp_path / "m.safetensors")
    assert same(tensors.load(str(tmp_path / "m.safetensors"), on.network, "float64"), on.theta)


def test_no_bias_at_all_is_a_bias_of_zero(comm: Comm, tmp_path: Path) -> None:
    on = lay_out(problem(), comm)
    given = {n: p for n, p in renamed(on.problem.params, MODULES["sequential"]).items() if n.endswith("weight")}
    save_file(given, tmp_path / "m.safetensors")
    found = host(tensors.load(str(tmp_path / "m.safetensors"), on.network, "float64"))
    for block in on.network.blocks:
        if block.weights:
            assert np.array_equal(block.weight(found), block.weight(host(on.theta)))
        if block.has_bias:
            assert not block.bias(found).any()


def test_whole_tensors_without_a_network(tmp_path: Path) -> None:
    """The same names, in one process; half precision becomes float32."""
    from dnewton.config.schema import Config

    what = problem()
    net = Config.model_validate({"net": {"input": what.input, "loss": what.loss, "layers": LAYERS}}).net
    save_file({n: p.astype(np.float16) for n, p in renamed(what.params, MODULES["nested"]).items()}, tmp_path / "m")
    found = read_weights(str(tmp_path / "m"), infer_shapes(net))
    assert list(found) == [f"{name}.{kind}" for name in OURS for kind in ("weight", "bias")]
    for name, value in what.params.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], value.astype(np.float16))
    what.params["layers.0.bias"][1] = np.nan
    save_file(what.params, tmp_path / "m")
    with pytest.raises(UserError, match=r"layers.0.bias holds NaN"):
        read_weights(str(tmp_path / "m"), infer_shapes(net))
