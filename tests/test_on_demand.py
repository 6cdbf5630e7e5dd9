"""What a run names is imported, and nothing else: solvers, data formats, and the libraries behind them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dnewton.config.solver_register import SOLVERS
from dnewton.data.file_kinds import kind_of
from dnewton.data.format_register import FORMATS
from dnewton.errors import UserError
from dnewton.solvers.kind import SolverKind

NET = "net: {input: [2], loss: squared, layers: [{dense: {units: 1}}]}"
LIBRARIES = {"sklearn", "scipy", "h5py", "rich", "matplotlib", "safetensors", "array_api_compat"}


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has after running `code`."""
    show = "import sys; print('modules:', *sys.modules)"
    ran = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], check=True, capture_output=True, text=True)
    return set(ran.stdout.rpartition("modules:")[2].split())


def test_every_solver_is_in_the_file_that_the_table_names() -> None:
    for name in SOLVERS.names():
        kind = SOLVERS[name]
        assert isinstance(kind, SolverKind)
        assert kind.section.model_validate({"name": name}).name == name  # type: ignore[attr-defined]


def test_every_format_is_in_the_file_that_the_table_names() -> None:
    for name in FORMATS.names():
        assert FORMATS[name].words


@pytest.mark.parametrize(
    ("solver", "expected"),
    [("newton", {"newton"}), ("sgd", {"first_order"}), ("dc_asgd", {"delay_compensated"}), ("d_kfac", {"kfac"})],
)
def test_a_configuration_imports_its_solver_alone(solver: str, expected: set[str]) -> None:
    code = f"from dnewton.config import parse; parse.load({NET!r}, 'net.yaml', ['solver.name={solver}'])"
    methods = {"newton", "first_order", "delay_compensated", "kfac", "elastic", "downpour", "rank_m", "hessian_free"}
    if solver == "d_kfac":
        methods -= {"first_order"}  # its base
    ends = {name.rpartition(".")[2] for name in imported(code) if name.startswith("dnewton.solvers.")}
    assert ends & methods == expected


def test_a_file_imports_its_format_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    code = (
        "from dnewton.comm.communicator import Comm\nfrom dnewton.data.format_register import Opening\n"
        f"from dnewton.data.readers import open_part\nopen_part({str(tmp_path / 'a.npy')!r}, "
        "Opening('data.train', None, Comm.world()))"
    )
    modules = imported(code)
    formats = {name for name in modules if name.startswith("dnewton.data.formats.")}
    assert {name.rpartition(".")[2] for name in formats} == {"array_files", "array_names", "npy"}
    assert not modules & {"h5py", "scipy", "sklearn"}


def test_a_command_line_imports_no_library_that_its_run_may_not_need() -> None:
    assert not imported("import dnewton.train") & LIBRARIES


def test_of_scipy_and_for_numpy_a_run_imports_what_it_needs() -> None:
    code = (
        "import numpy as np\nfrom dnewton.arrays import namespace\nfrom dnewton.arrays.linear_algebra import Cholesky\n"
        "namespace.load_lapack()\nassert Cholesky.factor(4 * np.eye(2)).lower[0, 0] == 2\n"
        "assert namespace.namespace(np.ones(1)).sum(np.ones(3)) == 3"
    )
    modules = imported(code)
    assert "scipy" in modules
    assert not modules & {"scipy.linalg", "numpy.f2py"}
    if hasattr(np, "cumulative_sum"):
        assert "array_api_compat" not in modules


def test_the_name_of_a_file_is_a_promise(tmp_path: Path) -> None:
    """The suffix decides between texts; any other content under it is refused, and without one the content decides."""
    for name, content, kind in [
        ("a.csv", b"1:2 3\n", ".csv"),
        ("a.svm", b"1\n-1\n", ".libsvm"),
        ("a.libsvm", b"1\n-1\n", ".libsvm"),
        ("a.txt", b"1 1:2\n", ".libsvm"),
        ("a.txt", b"1,2\n", ".csv"),
        ("a.tsv", b"1\t2\n", ".csv"),
        ("labels", bytes([0, 0, 8, 1, 0]), "idx"),
        ("a.bin", bytes(3073), "CIFAR records"),
        ("batch", b"\x80\x02}", "CIFAR batch"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert FORMATS[kind_of(str(tmp_path / name))] is FORMATS[kind]
    (tmp_path / "a.npy").write_bytes(b"1,2\n")
    with pytest.raises(UserError, match=r"begins with b'1,2.*that is not a NumPy array"):
        kind_of(str(tmp_path / "a.npy"))
    (tmp_path / "a.csv").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(UserError, match="that is not a table of text"):
        kind_of(str(tmp_path / "a.csv"))
