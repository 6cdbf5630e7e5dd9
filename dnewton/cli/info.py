"""Command line: `dnewton info`, alone or under a launcher: what a run would find here, and a self-test."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from dnewton import __version__
from dnewton.cli.launch import check_launcher, run
from dnewton.cli.parser import Parser
from dnewton.comm import library
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.hardware import node
from dnewton.hardware.device import open_device

LIBRARIES = ("numpy", "scipy", "mpi4py", "h5py", "safetensors", "cupy")
GIB = 2.0**30
EXAMPLES = (
    "dnewton info",
    "mpirun -np 4 dnewton info --check",
    "srun --ntasks-per-node 8 dnewton info --json",
)


def make_parser(rank: int = 0) -> Parser:
    """The options. Only rank 0 prints."""
    parser = Parser("dnewton info", "Show what a run would find here: libraries, MPI, cores, GPUs.", rank, EXAMPLES)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--check", action="store_true", help="also test sums, gradient, curvature and a Newton step, in seconds"
    )
    return parser


def _main(comm: Comm, argv: Sequence[str]) -> None:
    args = make_parser(comm.rank).parse_args(argv)
    about: dict[str, Any] = {"versions": _versions(), "mpi": _mpi(comm), "ranks": comm.size, "nodes": _nodes(comm)}
    speaks = comm.rank == 0 and library.told_rank(os.environ) == 0
    if speaks and not args.json:
        print("\n".join(_lines(about)), flush=True)
    fine = bool(about["mpi"]["launcher_fits"])
    if args.check:
        about["check"] = _check(comm, speaks and not args.json)
        fine = fine and all(item["ok"] for item in about["check"])
    if speaks and args.json:
        print(json.dumps(about, indent=1), flush=True)
    if not fine:
        raise SystemExit(1)


def _versions() -> dict[str, str | None]:
    """Versions by distribution; None of what is not installed. CuPy's has a name for every version of CUDA."""
    found: dict[str, str | None] = {"dnewton": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        found[name] = None
        for distribution in (name, f"{name}-cuda12x", f"{name}-cuda13x") if name == "cupy" else (name,):
            try:
                found[name] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def _mpi(comm: Comm) -> dict[str, Any]:
    """The library, also where this one process would not need it, and what check_launcher says of it."""
    about: dict[str, Any] = {"library": None, "thread_level": None, "launcher_fits": True, "problem": ""}
    about["launched"] = library.started_by_launcher()
    try:
        about["library"], about["thread_level"] = library.version(), library.thread_level()
        check_launcher(comm.size, os.environ, trains=False)
    except UserError as error:
        about["problem"] = str(error)
        about["launcher_fits"] = about["library"] is None
    return about


def _nodes(comm: Comm) -> list[dict[str, Any]]:
    """What every node's first rank finds, in the order of ranks. Collective over the world."""
    import scipy.linalg as _own_blas  # noqa: F401  (a run has it, too)

    node.limit_threads(comm.ranks_on_node, comm.cores)
    about = {
        "host": platform.node(),
        "ranks": comm.ranks_on_node,
        "cores": len(os.sched_getaffinity(0)),
        "cores_per_rank": comm.cores,
        "memory": node.available_memory(),
        "blas": _blas(),
        "device": _device(comm),
    }
    text = json.dumps(about) + "\n" if comm.place_on_node == 0 else ""
    every = comm.concatenate(np.frombuffer(text.encode(), dtype=np.uint8).copy())
    return [json.loads(line) for line in every.tobytes().decode().splitlines()]


def _blas() -> list[str]:
    from threadpoolctl import threadpool_info

    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return [f"{p['internal_api']} {p.get('version') or ''}: {p['num_threads']} thread(s)" for p in pools]


def _device(comm: Comm) -> str:
    """This rank's GPU and how messages leave it, or why there is none. Collective over the world."""
    try:
        return open_device("cuda", "auto", comm, "cuda")[1][0].removeprefix("device: ")
    except UserError as error:
        return f"none ({error})"


def _lines(about: dict[str, Any]) -> list[str]:
    mpi = about["mpi"]
    versions = ", ".join(f"{name} {version or '-'}" for name, version in about["versions"].items())
    where = f"{about['ranks']} rank(s) on {len(about['nodes'])} node(s)"
    if mpi["library"] is None:
        found, launcher = mpi["problem"], "one process, without MPI"
    else:
        found = f"{mpi['library'][:60]}, thread level {mpi['thread_level']}"
        fits = "fits the library" if mpi["launcher_fits"] else mpi["problem"]
        launcher = f"{where}; {fits}" if mpi["launched"] else f"none, {where}"
    lines = [f"versions   {versions}", f"mpi        {found}", f"launcher   {launcher}"]
    for n in about["nodes"]:
        cores = f"{n['ranks']} rank(s), {n['cores']} cores, {n['cores_per_rank']:.3g} per rank"
        free = f"{n['memory'] / GIB:.1f} GiB free"
        lines.append(f"node       {n['host']}: {cores}, {free}; {', '.join(n['blas'])}; GPU: {n['device']}")
    return lines


def _check(comm: Comm, speaks: bool) -> list[dict[str, Any]]:
    """The self-test, told while it goes on. Collective over the world."""
    from dnewton.training import self_test  # the whole engine

    items = []
    for item in self_test.run(comm):
        items.append({"name": item.name, "ok": item.ok, "difference": item.difference, "limit": item.limit})
        if speaks:
            verdict = "ok    " if item.ok else "failed"
            figures = f"difference {item.difference:.1e}, limit {item.limit:.0e}, {item.seconds:.1f} s"
            print(f"check      {verdict} {item.name}: {figures}", flush=True)
    return items


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Collective over all processes."""
    run(_main, argv, needs_mpi=False, any_launcher=True)
