#!/usr/bin/env python3
"""Seconds and bytes of Newton iterations on several numbers of ranks, one thread each, and the planner's forecast.

    python scripts/bench/scaling.py [--ranks 1 2 4] [--rounds 5] [--nets "large MLP" CNN] [--json FILE]
    python scripts/bench/scaling.py --device cuda               (a GPU per rank, or shared ones where there are fewer)

The jobs of iteration.py, interleaved over the rounds. Every rank's local system is its own, so that the path, the trial
steps and the CG iterations differ with the ranks: "alike" puts the medians together to an iteration with one trial step
and 10 CG iterations, the same work on any number of ranks. Bytes must equal the forecast: the script fails otherwise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from iteration import NETS, PHASES, launched, medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--nets", nargs="+", default=["large MLP", "CNN"], choices=list(NETS))
    parser.add_argument("--samples", type=int, help="|S| instead of the nets' own")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--launcher", default="mpirun")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    reports: list[dict[str, Any]] = []
    wrong = 0
    for name in args.nets:
        found: dict[int, list[dict[str, Any]]] = {ranks: [] for ranks in args.ranks}
        for _ in range(args.rounds):
            for ranks in args.ranks:
                report = launched(name, ranks, 1, args.iterations, args.launcher.split(), args.device, args.samples)
                found[ranks].append(report)
                wrong += sum(r["bytes"] != r["forecast"] for r in report["rows"] if r["accepted"])
        reports += [r for reports_ in found.values() for r in reports_]
        middle = {
            ranks: {key: statistics.median(medians(r)[key] for r in rows) for key in medians(rows[0])}
            for ranks, rows in found.items()
        }
        base = middle[args.ranks[0]]
        print(f"\n{name}: medians of {args.rounds} runs of {args.iterations} iterations, one thread per rank")
        print(
            f"{'ranks':>5} {'ms':>9} {'faster':>7} "
            + " ".join(f"{p:>10}" for p in PHASES)
            + f" {'CG':>4} {'a trial':>8} {'a CG':>7} {'alike ms':>9} {'faster':>7} {'bytes':>10} {'peak MiB':>8} "
            f"{'planned':>7}"
        )
        for ranks, m in middle.items():
            last = found[ranks][-1]
            sent = sum(last["rows"][-1]["bytes"].values())
            print(
                f"{ranks:>5} {1e3 * m['all']:>9.1f} {base['all'] / m['all']:>6.2f}x "
                + " ".join(f"{1e3 * m[p]:>10.1f}" for p in PHASES)
                + f" {m['cg iterations']:>4.0f} {1e3 * m['trial']:>8.1f} {1e3 * m['cg each']:>7.2f} "
                f"{1e3 * m['alike']:>9.1f} {base['alike'] / m['alike']:>6.2f}x {sent:>10d} "
                f"{last['peak'] / 2**20:>8.0f} {last['planned_peak'] / 2**20:>7.0f}",
                flush=True,
            )
    print(f"\niterations whose bytes differ from the forecast: {wrong}")
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1) + "\n")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
