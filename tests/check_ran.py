"""Fail when a test never ran at any number of ranks: `python tests/check_ran.py LEDGER [LEFT_OUT ...]`.

`LEFT_OUT` are beginnings of test names that this machine does not allow to run; they are named and counted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    """Read the ledger that conftest writes (one JSON line per pytest run) and list what never ran."""
    runs = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    ran: dict[str, bool] = {}
    for run in runs:
        for name, did in run["tests"].items():
            ran[name] = ran.get(name, False) or did
    allowed = tuple(sys.argv[2:])
    left_out = sorted(name for name, did in ran.items() if not did and name.startswith(allowed))
    never = sorted(name for name, did in ran.items() if not did and not name.startswith(allowed))
    print(f"{len(runs)} runs on {sorted({r['ranks'] for r in runs})} ranks, {len(ran)} tests, {len(never)} never ran")
    if left_out:
        print(f"{len(left_out)} more left out on this machine: {', '.join(allowed)}")
    for name in never:
        print(f"  never ran: {name}")
    return 1 if never or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
