#!/usr/bin/env python3
"""Break the code in thirteen ways, one at a time in a copy of the tree, and say which test finds each break first.

    python scripts/bench/mutations.py                # in the environment of the tests
    python scripts/bench/mutations.py --only damping # the breaks whose name holds the word

A break that no test finds, or whose text is no longer in its file exactly once, makes the exit status 1. The tests of
a break run on one rank first, then on three: what only several ranks show is found there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOUND = (r"^(?:FAILED|ERROR) (\S+)", r"^rank \d+: (\S+) failed$", r"^rank \d+: (\S+): longer than", r"^(E\s.*)")
LIMIT = 900.0  # seconds; a break may make ranks wait for each other, which tests/conftest.py ends sooner


@dataclass(frozen=True)
class Mutation:
    """One break: `old` stands in the file exactly once and becomes `new`; `tests` are those that should see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


NETWORK, NEWTON = "tests/model/test_network.py", "tests/solvers/newton/test_newton.py"
MUTATIONS = (
    Mutation(
        "a sum over ranks left out",
        "curvature/gauss_newton.py",
        "u = comm.allreduce(self.jacobian.times(v, unit))",
        "u = self.jacobian.times(v, unit)",
        (NETWORK, NEWTON),
    ),
    Mutation(
        "a bias added twice", "model/network.py", "s += block.bias(theta)", "s += 2 * block.bias(theta)", (NETWORK,)
    ),
    Mutation(
        "a slice that ends one too late",
        "model/network.py",
        "(hi - origin) * units.size]",
        "(hi - origin + 1) * units.size]",
        (NETWORK,),
    ),
    Mutation(
        "a factor in place of its transpose",
        "model/losses/cross_entropy.py",
        "return xp.sqrt(state) * (u - xp.sum(state * u, axis=-1, keepdims=True))",
        "return xp.sqrt(state) * u - state * xp.sum(xp.sqrt(state) * u, axis=-1, keepdims=True)",
        ("tests/model/losses/test_losses.py", "tests/solvers/newton/test_local_solver.py"),
    ),
    Mutation("the 2 of a loss's Hessian", "model/losses/squared.py", "return 2 * u", "return u", (NETWORK,)),
    Mutation(
        "a skip connection's cotangent dropped",
        "model/network.py",
        "cots[p] = cots[p] + moved if p in cots else moved",
        "cots[p] = moved",
        ("tests/model/layers/test_residual.py",),
    ),
    Mutation(
        "the slope of what was not kept",
        "model/network.py",
        'return out, out if activation.of == "z" else s',
        "return out, out",
        ("tests/model/layers/test_activation.py",),
    ),
    Mutation(
        "damping not in the product",
        "curvature/gauss_newton.py",
        "(self.regulariser + damping) * v[unit.span]",
        "self.regulariser * v[unit.span]",
        (NETWORK, NEWTON),
    ),
    Mutation(
        "a stale forward pass after a rejected step",
        "solvers/newton/newton.py",
        "objective.share(self._subsamples.draw(self.state.iteration))",
        "objective.share(self._subsamples.draw(max(0, self.state.iteration - 1)))",
        (NEWTON,),
    ),
    Mutation(
        "a vector of a checkpoint not restored",
        "solvers/newton/newton.py",
        'start.saved.vectors.get("previous")',
        "None",
        ("tests/training/test_resume.py", "tests/cli/test_train.py"),
    ),
    Mutation(
        "a forecast with one number too many",
        "planning/traffic_forecast.py",
        "forward * item + ranks * 3 * SCALAR",
        "forward * item + ranks * 4 * SCALAR",
        ("tests/planning/test_traffic_forecast.py",),
    ),
    Mutation(
        "a rank counted twice in early termination",
        "solvers/newton/early_termination.py",
        "sum_scalars([float(counts)])",
        "sum_scalars([2 * float(counts)])",
        (NEWTON,),
    ),
    Mutation(
        "a reader that is off by one column",
        "data/formats/array_files.py",
        "return whole[:, lo:hi]",
        "return whole[:, lo - (lo > 0) : hi - (lo > 0)]",
        ("tests/data/test_readers.py",),
    ),
)


def copied(folder: Path) -> Path:
    """What the tests need, in a folder of its own."""
    for name in ("dnewton", "tests", "scripts", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def first_failure(tree: Path, tests: tuple[str, ...], ranks: int) -> str:
    """Run tests until one fails; its name, or nothing."""
    launcher = ["mpirun", "-np", str(ranks)] if ranks > 1 else []
    command = [*launcher, sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PATH": path, "DNEWTON_TEST_TIMEOUT": "120"}
    try:
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return "(time limit)"
    if done.returncode in (0, 5):  # 5: none of them runs on so many ranks
        return ""
    said = done.stdout + done.stderr
    found = next((match for pattern in FOUND if (match := re.search(pattern, said, re.M))), None)
    return found[1] if found else f"(status {done.returncode})"


def main() -> int:
    """Run the breaks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD")
    wanted = parser.parse_args().only
    bad = 0
    print(f"{'break':<44} {'ranks':>5} {'seconds':>8}  found by")
    for m in (m for m in MUTATIONS if wanted in m.name):
        begin, ranks, found = time.perf_counter(), 0, ""
        with tempfile.TemporaryDirectory(prefix="mutation-") as name:
            tree = copied(Path(name))
            place = tree / "dnewton" / m.file
            text = place.read_text()
            if text.count(m.old) != 1:
                found = f"NO SUCH TEXT: {m.file} holds it {text.count(m.old)} times: {m.old.strip()}"
                bad += 1
            else:
                place.write_text(text.replace(m.old, m.new))
                for ranks in (1, 3):
                    if found := first_failure(tree, m.tests, ranks):
                        break
                bad += not found
        print(f"{m.name:<44} {ranks:>5} {time.perf_counter() - begin:>8.1f}  {found or 'SURVIVED'}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
