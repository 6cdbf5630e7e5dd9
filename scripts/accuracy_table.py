#!/usr/bin/env python3
"""Train the shipped benchmark nets with their common solver section; write a table as markdown and JSON.

    python scripts/accuracy_table.py --data DIR [--nets usps_mlp dna_mlp ...] [--solvers newton] [--ranks 2]
                                     [--samples 10000] [--set solver.seed=1]
                                     [--markdown docs/benchmarks.md] [--marker accuracy_table] [--json FILE]

DIR holds the data files under the names that the nets have. A net whose data are missing, or whose run fails, stands in
the table with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dnewton.config.shipped_nets import read_net, shipped_nets

BENCHMARKS = [n.removesuffix(".yaml") for n in shipped_nets() if "_" in n and n != "mlp_regression.yaml"]


def train(net: str, solver: str, args: argparse.Namespace) -> dict[str, Any]:
    row: dict[str, Any] = {"net": net, "solver": solver, "ranks": args.ranks}
    with tempfile.TemporaryDirectory() as folder:
        command = [*args.launcher.split(), "-np", str(args.ranks), sys.executable, "-m", "dnewton.train"]
        command += ["--net", f"{net}.yaml", "--out", f"{folder}/run", "--set=output.checkpoint_every=0"]
        command += [f"--set=solver.name={solver}"] if solver != "newton" else []
        command += [f"--set={s}" for s in args.set]
        command += [f"--set=data.train={cut(net, args, folder)}"] if args.samples else []
        result = subprocess.run(command, cwd=args.data, capture_output=True, text=True, check=False)
        if result.returncode:
            errors = [line for line in result.stderr.splitlines() if "error" in line] or [result.stderr[-200:]]
            return {**row, "failed": errors[0]}
        lines = [json.loads(text) for text in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    key = "accuracy" if "test_accuracy" in lines[-1] else "rmse"
    passes = sum(1 for line in lines if line.get("adam_pass"))  # of Adam, before newton's iterations
    best = max(lines, key=lambda line: line[f"test_{key}"] * (1 if key == "accuracy" else -1))
    return {
        **row,
        "measure": key,
        "test": lines[-1][f"test_{key}"],
        "train": lines[-1][f"train_{key}"],
        "best_test": best[f"test_{key}"],
        "best_iteration": max(0, best["iteration"] - passes),
        "loss": lines[-1]["loss"],
        "iterations": lines[-1]["iteration"] - passes,
        "seconds": lines[-1]["seconds"],
        "samples": args.samples,
        "peak_rss_bytes": max(line["peak_rss_bytes"] for line in lines),
    }


def cut(net: str, args: argparse.Namespace, folder: str) -> str:
    """The first samples of a net's training file, as files of their own."""
    source = yaml.safe_load(read_net(f"{net}.yaml")[0])["data"]["train"]
    whole = f"{folder}/whole.npy"
    convert = [sys.executable, "-m", "dnewton.data", "convert", source, whole]
    subprocess.run(convert, cwd=args.data, check=True, capture_output=True)
    for name in (whole, f"{folder}/whole.y.npy"):
        np.save(name.replace("whole", "cut"), np.load(name, mmap_mode="r")[: args.samples])
    return f"{{x: {folder}/cut.npy, y: {folder}/cut.y.npy}}"


def markdown(rows: list[dict[str, Any]]) -> str:
    out = [
        "| net | solver | test | best test (iteration) | train | f | iterations | seconds | memory per rank |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        if "failed" in r:
            out.append(f"| {r['net']} | {r['solver']} | failed: {r['failed']} | | | | | | |")
            continue
        out.append(
            f"| {r['net']} | {r['solver']} | {r['test']:.4f} | {r['best_test']:.4f} ({r['best_iteration']}) | "
            f"{r['train']:.4f} | {r['loss']:.4g} | {r['iterations']} | {r['seconds']:.1f} | "
            f"{r['peak_rss_bytes'] / 2**20:.0f} MiB |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the data files")
    parser.add_argument("--nets", nargs="+", default=BENCHMARKS, help=f"default: {' '.join(BENCHMARKS)}")
    parser.add_argument("--solvers", nargs="+", default=["newton"])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--samples", type=int, help="train on the first so many samples of the file alone")
    parser.add_argument("--set", action="append", default=[], help="override a YAML entry in all runs")
    parser.add_argument("--launcher", default="mpirun", help="for example 'mpirun --oversubscribe'")
    parser.add_argument("--markdown", type=Path, help="file to put the table in, between its markers")
    parser.add_argument("--marker", default="accuracy_table", help="name of the markers, <!-- NAME begins/ends -->")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for net in args.nets:
        for solver in args.solvers:
            rows.append(train(net, solver, args))
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
            write(rows, args)  # also what an interrupted run has found


def write(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    about = {"cores": os.cpu_count(), "machine": platform.machine(), "overrides": args.set, "rows": rows}
    if args.json:
        args.json.write_text(json.dumps(about, indent=1) + "\n")
    if args.markdown:
        begin, end = f"<!-- {args.marker} begins -->", f"<!-- {args.marker} ends -->"
        text = args.markdown.read_text() if args.markdown.exists() else f"{begin}\n{end}\n"
        before, _, rest = text.partition(begin)
        args.markdown.write_text(f"{before}{begin}\n{markdown(rows)}\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
