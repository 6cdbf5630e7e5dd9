"""Run by a Python that has the real CuPy: does it have what the fake defines? Complaints go to the output.

Reads JSON: per owner ("module" or "module:Class") the names, each with its parameters or null. The fake may lack
parameters of the real one, but it may have no others. CuPy's compiled methods tell their parameters in the docstring.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any


def parameters(thing: Any, name: str) -> list[str] | None:
    """The names of the parameters, or None where nothing tells them."""
    try:
        return list(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        line = ((getattr(thing, "__doc__", None) or "").strip().splitlines() or [""])[0]
    found = re.match(r"[\w.]*?" + name + r"\((.*)\)", line)
    if found is None:
        return None
    parts = [part.split("=")[0].split() for part in found[1].split(",")]
    return [part[-1].lstrip("*") for part in parts if part]


def main() -> None:
    for path, names in json.load(sys.stdin).items():
        module, _, rest = path.partition(":")
        owner = importlib.import_module(module)
        for part in filter(None, rest.split(".")):
            owner = getattr(owner, part)
        for name, wanted in names.items():
            if not hasattr(owner, name):
                print(f"{path} has no {name}")
                continue
            real = parameters(getattr(owner, name), name)
            extra = [p for p in wanted or [] if real is not None and p not in real]
            if extra and "args" not in (real or []):
                print(f"{path}, {name}: the real one has {real} and not {extra}")


if __name__ == "__main__":
    main()
