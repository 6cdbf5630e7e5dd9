"""Fail when a test never ran at any number of ranks: `python tests/check_ran.py LEDGER`."""

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
    never = sorted(name for name, did in ran.items() if not did)
    print(f"{len(runs)} runs on {sorted({r['ranks'] for r in runs})} ranks, {len(ran)} tests, {len(never)} never ran")
    for name in never:
        print(f"  never ran: {name}")
    return 1 if never or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
