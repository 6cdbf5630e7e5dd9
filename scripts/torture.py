#!/usr/bin/env python3
"""Kill random ranks of a training run at random moments, resume it each time, and compare with an undisturbed run.

    python scripts/torture.py --kills 50 --ranks 4 --net cnn.yaml

Every kill is SIGKILL to one rank; half of them come while a checkpoint is being written. Exit status 0 when the final
weights and the figures equal those of the undisturbed run bit for bit, every checkpoint that was ever published could
be read, and every killed job ended in time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from dnewton.errors import UserError
from dnewton.storage.run_directory import TEMPORARY, RunDirectory
from dnewton.training.checkpoint_reader import check

ENOUGH = 10.0  # seconds in which a job must end after one of its ranks was killed


def ranks_of(out: Path) -> dict[int, int]:
    """Process numbers of a run's ranks, by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[1:3] == [b"-m", b"dnewton.train"] and os.fsencode(out) in words:
                variables = dict(v.partition(b"=")[::2] for v in (entry / "environ").read_bytes().split(b"\0"))
                rank = variables.get(b"PMI_RANK", variables.get(b"OMPI_COMM_WORLD_RANK"))
                if rank is not None:
                    found[int(rank)] = int(entry.name)
        except (OSError, ValueError):
            continue  # gone, or none of ours
    return found


def command(args: argparse.Namespace, out: Path, *more: str) -> list[str]:
    """One start of the run."""
    sets = ["solver.early_termination.mode=lockstep", "output.checkpoint_every=1", *args.set]
    pairs = [word for item in sets for word in ("--set", item)]
    start = [*args.launcher.split(), "-np", str(args.ranks), sys.executable, "-m", "dnewton.train"]
    return [*start, "--net", args.net, "--out", str(out), *pairs, *more]


def wait_for(condition: object, seconds: float, job: subprocess.Popen[bytes]) -> bool:
    """Look often; False when the time is over or the job is."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end and job.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)
    return False


def kill_once(args: argparse.Namespace, out: Path, draw: random.Random, length: float) -> tuple[str, float]:
    """Start or resume, kill a rank; returns what was hit and how long the job took to end, ("", 0) if it was done."""
    log = (out.parent / "output.txt").open("ab")
    job = subprocess.Popen(command(args, out, "--resume", "auto"), stdout=log, stderr=log)
    writing = out / "checkpoints"
    if draw.random() < 0.5:
        what = "while a checkpoint is written"
        wait_for(lambda: out.exists(), 60, job)
        wait_for(lambda: False, draw.random() * length, job)
        wait_for(lambda: writing.is_dir() and any(n.startswith(TEMPORARY) for n in os.listdir(writing)), 60, job)
        wait_for(lambda: False, draw.random() * 0.02, job)
    else:
        what = "at any moment"
        wait_for(lambda: False, draw.random() * 2 * length, job)
    pids = ranks_of(out)
    if job.poll() is not None or not pids:
        return ("", 0.0) if job.wait() == 0 else ("before the ranks had started", 0.0)
    rank = draw.choice(sorted(pids))
    began = time.monotonic()
    try:
        os.kill(pids[rank], signal.SIGKILL)
    except ProcessLookupError:
        return "", 0.0
    try:
        job.wait(timeout=60)
    except subprocess.TimeoutExpired:
        job.kill()
        raise SystemExit(f"FAILED: the job still ran 60 s after rank {rank} was killed {what}") from None
    return what, time.monotonic() - began


def unreadable(out: Path) -> list[str]:
    """Published checkpoints whose manifest, length or header is wrong."""
    bad = []
    for path in RunDirectory(str(out)).checkpoints():
        try:
            check(path)
        except (UserError, OSError) as error:
            bad.append(str(error))
    return bad


def lines(out: Path) -> list[dict[str, object]]:
    """The figures of metrics.jsonl that do not depend on time."""
    keys = ("iteration", "loss", "grad_norm", "lambda", "ratio", "cg_iterations", "samples_seen", "test_accuracy")
    return [{k: json.loads(line).get(k) for k in keys} for line in (out / "metrics.jsonl").read_text().splitlines()]


def compare(straight: Path, out: Path) -> tuple[bool, bool, int]:
    """Whether weights and figures are those of the undisturbed run, and how often a checkpoint was passed over."""
    a, b = load_file(straight / "model.safetensors"), load_file(out / "model.safetensors")
    same = a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    return same, lines(straight) == lines(out), (out / "log.txt").read_text().count("trying an older checkpoint")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--net", default="cnn.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--launcher", default="mpirun", help="such as 'mpirun --oversubscribe' (default: %(default)s)")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    straight, out = folder / "straight", folder / "run"
    try:
        began = time.monotonic()
        subprocess.run(command(args, straight), check=True, stdout=subprocess.DEVNULL)
        length = json.loads((straight / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
        hits: dict[str, int] = {}
        slowest, bad = 0.0, list[str]()
        ends: list[tuple[bool, bool, int]] = []
        while sum(hits.values()) < args.kills:
            what, ended = kill_once(args, out, draw, length)
            if not what:  # it got through: start again, there are kills left
                ends.append(compare(straight, out))
                shutil.rmtree(out)
                continue
            hits[what] = hits.get(what, 0) + 1
            slowest = max(slowest, ended)
            bad += unreadable(out)
        subprocess.run(command(args, out, "--resume", "auto"), check=True, stdout=subprocess.DEVNULL)
        ends.append(compare(straight, out))
        same, figures, passed = sum(e[0] for e in ends), sum(e[1] for e in ends), sum(e[2] for e in ends)
        print(f"{args.net} on {args.ranks} rank(s): {sum(hits.values())} kills in {time.monotonic() - began:.0f} s")
        for what, count in sorted(hits.items()):
            print(f"  {count} {what}")
        print(f"  slowest end of a job after its rank was killed: {slowest:.2f} s")
        print(f"  checkpoints that could not be read: {len(bad)}; passed over when resuming: {passed}")
        print(
            f"  runs that got to their end: {len(ends)}; with the undisturbed run's weights, bit for bit: {same}; "
            f"with its metrics.jsonl: {figures}"
        )
        for text in bad[:5]:
            print(f"  {text}")
        return 0 if same == figures == len(ends) and not bad and not passed and slowest < ENOUGH else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
