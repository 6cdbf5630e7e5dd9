"""Fail when a test never ran at any number of ranks: `python tests/check_ran.py LEDGER [LEFT_OUT ...]`.

`LEFT_OUT` are beginnings of test names, or after a `*` parts of them, that this machine does not allow to run; they are
named and counted.
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
    allowed = tuple(word for word in sys.argv[2:] if not word.startswith("*"))
    parts = [word[1:] for word in sys.argv[2:] if word.startswith("*")]
    missing = [name for name, did in ran.items() if not did]
    left_out = sorted(n for n in missing if n.startswith(allowed) or any(part in n for part in parts))
    never = sorted(set(missing) - set(left_out))
    print(f"{len(runs)} runs on {sorted({r['ranks'] for r in runs})} ranks, {len(ran)} tests, {len(never)} never ran")
    if left_out:
        print(f"{len(left_out)} more left out on this machine: {', '.join(sys.argv[2:])}")
    for name in never:
        print(f"  never ran: {name}")
    return 1 if never or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
