"""A job over two hosts, which scripts/two_hosts.sh makes out of network namespaces: the same run as on one host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnewton.config import strict_yaml

pytestmark = pytest.mark.serial

SCRIPT = Path(__file__).parents[2] / "scripts" / "two_hosts.sh"
HOSTNAME = ["sh", "-c", "hostname; sleep 1"]  # Open MPI hangs now and then when ranks end before all have started
NET = {
    "net": {
        "input": [64],
        "loss": "cross_entropy",
        "layers": [{"dense": {"units": 48, "activation": "tanh"}}, {"dense": {"units": 10}}],
    },
    "data": {"train": "data.npz"},
    "solver": {"C": 1.0, "max_iterations": 4, "subsample": 0.2, "early_termination": {"mode": "off"}},
    "parallel": {"dtype": "float64", "grid": [2, 2]},
}


@pytest.fixture(scope="module", autouse=True)
def allowed() -> None:
    """Machines on which nobody may make namespaces leave these tests out."""
    check = subprocess.run(["bash", str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    if check.returncode == 77:
        pytest.skip(check.stderr.strip())
    assert check.returncode == 0, check.stderr


def run(folder: Path, *command: str) -> Any:
    """Run a command with this environment's mpirun first on PATH; MPI's own variables are not passed on."""
    prefixes = ("PMI", "OMPI_", "PMIX", "HYDRA", "MPI_LOCAL", "MPIR_", "PRTE", "HYDI")
    env = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    env.update(
        PATH=f"{sysconfig.get_path('scripts')}:{env['PATH']}",
        OMP_NUM_THREADS="1",
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        PRTE_MCA_hwloc_default_binding_policy="none",
    )
    if command[0] == "mpirun":  # on one host Open MPI refuses more ranks than cores; a host file says how many it takes
        env["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def metrics(folder: Path, out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()]


def test_two_hosts_train_as_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 64))
    np.savez(tmp_path / "data.npz", x=x, y=np.argmax(x @ rng.normal(size=(64, 10)), axis=1))
    (tmp_path / "net.yaml").write_text(strict_yaml.dump(NET))
    train = ["mpirun", "-np", "4", sys.executable, "-m", "dnewton.train", "--net", "net.yaml", "--out"]
    two = run(tmp_path, "bash", str(SCRIPT), *train, "two")
    run(tmp_path, *train, "one")
    found, expected = metrics(tmp_path, "two"), metrics(tmp_path, "one")
    assert [r["iteration"] for r in found] == list(range(5)) and "on 4 rank(s)" in two.stdout
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], rel=1e-9)
    sent = re.search(r"alpha sent (\d+) bytes, beta sent (\d+) bytes", two.stderr)
    assert sent
    # All that the ranks handed to MPI; in a 2 x 2 grid, half of the partners are on the other host.
    handed = sum(phase["bytes"] for record in found for phase in record["comm"].values())
    assert all(int(n) > 0.1 * handed > 100_000 for n in sent.groups()), (sent.group(), handed)


def test_ranks_see_two_hosts(tmp_path: Path) -> None:
    done = run(tmp_path, "bash", str(SCRIPT), "--rate", "100mbit", "mpirun", "-np", "4", *HOSTNAME)
    assert sorted(done.stdout.split()) == ["alpha", "alpha", "beta", "beta"]


@pytest.mark.parametrize(("name", "each"), [("two-nodes", 8), ("one-rank-per-gpu", 4)])
def test_shipped_hostfiles(tmp_path: Path, name: str, each: int) -> None:
    version = run(tmp_path, "mpirun", "--version").stdout
    mpi, option = ("openmpi", "--hostfile") if "Open MPI" in version or "prte" in version else ("mpich", "-f")
    text = (SCRIPT.parents[1] / "hostfiles" / f"{mpi}-{name}").read_text()
    (tmp_path / "hosts").write_text(text.replace("node1", "alpha").replace("node2", "beta"))
    done = run(tmp_path, "bash", str(SCRIPT), "mpirun", option, "hosts", "-np", str(2 * each), *HOSTNAME)
    assert sorted(done.stdout.split()) == ["alpha"] * each + ["beta"] * each


def test_its_exit_status_is_the_commands(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT), "sh", "-c", "exit 85"], cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 85
