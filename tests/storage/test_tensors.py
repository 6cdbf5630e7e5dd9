"""Model files: the same from every layout, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from places import cast, same
from problems import CNN, Problem, flat, lay_out
from safetensors.numpy import load_file, save_file

from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.grid import Grid, grids
from dnewton.storage import tensors
from dnewton.storage.tensors import Contents


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


def test_whole_tensors_have_one_owner_each(comm: Comm) -> None:
    on = lay_out(Problem((2, 7, 6), CNN), comm)
    assert comm.sum_scalars([float(on.network.size)])[0] == len(flat(on.problem.params))
