"""Every example runs as it stands, in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jobs
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "surface.py": "ended (callback)",
    "pipeline.py": "on the test part",
    "own_loss.py": "distance to the true curve",
    "export_onnx.py": "labels agree: 1.000",
    "physics/poisson.py": "relative L2 error of u: ",
    "physics/heat_inverse.py": "k = 0.20",
}
FEW = {  # iterations, and what the error falls below within them; most examples go on for longer
    "physics/heat.py": (12, 2e-2),
    "physics/heat4.py": (8, 0.1),
    "physics/poisson5.py": (12, 0.3),
    "physics/burgers.py": (8, 0.7),
    "physics/helmholtz.py": (12, 0.5),
    "physics/lorenz_inverse.py": (70, 0.1),
}
ENVIRONMENT = {**jobs.environment(), "PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent), *sys.path])}


@pytest.mark.serial
@pytest.mark.parametrize("name", sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py")))
def test_example(name: str, tmp_path: Path) -> None:
    if name == "export_onnx.py":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    ranks = [*jobs.launcher(), "-np", "3"] if name == "columns_mpi.py" else []
    command = [*ranks, sys.executable, str(EXAMPLES / name), *(str(FEW[name][0]) for _ in range(name in FEW))]
    result = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    if name in FEW:
        assert float(result.stdout.split()[-1]) < FEW[name][1], result.stdout
    else:
        assert SAYS.get(name, "3 rank(s)") in result.stdout
    assert not list(tmp_path.iterdir())  # it leaves nothing behind
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


@pytest.mark.serial
def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("pandas")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    texts = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("did you mean 'lambda'" in text for text in texts)
