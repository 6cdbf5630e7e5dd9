"""A job of tests that calls `dnewton.fit` as a user's script does: settings from a JSON file, results beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from places import DEVICE

import dnewton as dn
from dnewton.comm import library


def ask(folder: Path, name: str, **call: Any) -> None:
    """Write down what the job is to do: `net` and further arguments of fit; `x`: arrays (default), file or columns."""
    (folder / f"{name}.json").write_text(json.dumps(call))


def main(argv: list[str] | None = None) -> int:
    """One call of fit for every name on the command line."""
    codes = [_one(name) for name in (sys.argv[1:] if argv is None else argv)]
    return max(codes)


def _one(name: str) -> int:
    call = json.loads(Path(f"{name}.json").read_text())
    world = library.mpi().COMM_WORLD
    rank, ranks = world.Get_rank(), world.Get_size()
    data = np.load(call.pop("file", "data.npz"))
    x, y, kind = data["x"], data["y"], call.pop("x", "arrays")
    given: Any = x
    if kind == "columns":  # as unequal as may be: the last rank has most, the first ones maybe none
        bounds = [r * r * x.shape[1] // ranks**2 for r in range(ranks + 1)]
        given = dn.columns(x[:, bounds[rank] : bounds[rank + 1]], x.shape[1])
    elif kind == "differing":
        given = x[: len(x) - rank]
        y = y[: len(y) - rank]
    net = call.pop("net")
    call["parallel"] = {"device": DEVICE, **call.get("parallel", {})}  # as jobs of the command line
    try:
        model = dn.fit(net, given, y, **call)
    except dn.UserError as error:
        print(f"dnewton: error: {error}", file=sys.stderr if rank == 0 else sys.stdout)
        return 2
    model.save(f"{name}.safetensors")
    again = dn.load(f"{name}.safetensors")
    np.savez(
        f"{name}-{rank}.npz",
        predicted=model.predict(x),
        again=again.predict(given if kind == "columns" else x),
        loss=model.history["loss"],
        stopped=model.stopped,
    )
    return 0
