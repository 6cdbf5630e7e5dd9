"""What a signal to an MPI launcher does to its ranks: `python scripts/launcher_signals.py [LAUNCHER ...]`.

Starts four ranks with each launcher (default: mpirun of the active environment), sends the launcher a signal and prints
which ranks got it, how many times, how long they lived on if they wanted to go on for `--linger` seconds (as long as a
checkpoint may take), and how the launcher ended when all ranks exit with code 85. The whole takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIGNALS = ("SIGUSR1", "SIGTERM", "SIGINT")
CODE = 85


def rank(folder: Path, linger: float) -> None:
    """One rank: notes the signals that it gets and, from the first on, lives for `linger` seconds; then exits 85."""
    from mpi4py import MPI

    got: list[tuple[str, float]] = []
    for name in SIGNALS:
        signal.signal(getattr(signal, name), lambda n, _: got.append((signal.Signals(n).name, time.time())))
    path = folder / str(MPI.COMM_WORLD.Get_rank())
    MPI.COMM_WORLD.Barrier()
    while not got or time.time() - got[0][1] < linger:
        path.with_suffix(".new").write_text(json.dumps({"got": got, "alive": time.time(), "done": False}))
        path.with_suffix(".new").rename(path)  # so that a kill leaves no half file
        time.sleep(0.05)
    MPI.COMM_WORLD.Barrier()
    path.write_text(json.dumps({"got": got, "alive": time.time(), "done": True}))
    MPI.Finalize()
    sys.exit(CODE)


def measure(launcher: str, name: str, linger: float, group: bool) -> str:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        me = [sys.executable, os.path.abspath(__file__), "--rank", temporary, "--linger", str(linger)]
        with subprocess.Popen(
            [*shlex.split(launcher), *me],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as job:
            end = time.monotonic() + 60
            while len([p for p in folder.iterdir() if not p.suffix]) < 4:
                if job.poll() is not None or time.monotonic() > end:
                    job.kill()
                    return f"the job did not start:\n{job.communicate()[1]}"
                time.sleep(0.05)
            time.sleep(1)
            sent = time.time()
            (os.killpg if group else os.kill)(job.pid, getattr(signal, name))
            try:
                job.communicate(timeout=linger + 30)
            except subprocess.TimeoutExpired:
                job.kill()
                job.communicate()
            ended = time.time() - sent
        ranks = [json.loads((folder / str(r)).read_text()) for r in range(4)]
    reached = [r for r in ranks if r["got"]]
    each = sorted({" ".join(n for n, _ in r["got"]) or "nothing" for r in ranks})
    lived = max(r["alive"] for r in ranks) - sent
    done = sum(r["done"] for r in ranks)
    return (
        f"{name:8} {linger:6.0f} {len(reached):7} {' | '.join(each):24} {done:5} {lived:8.1f} {ended:8.1f} "
        f"{job.returncode:6}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("launchers", nargs="*", default=["mpirun -np 4"], metavar="LAUNCHER")
    parser.add_argument("--linger", type=float, nargs="*", default=[1.0, 15.0], metavar="SECONDS")
    parser.add_argument("--group", action="store_true", help="signal the launcher's process group, as a terminal does")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        rank(args.rank, args.linger[0])
    for launcher in args.launchers:
        whom = "its process group, as Ctrl-C does" if args.group else "the launcher"
        print(f"\n{launcher}: the signal goes to {whom}")
        print("signal   linger reached each rank got             done  lived s  ended s   code")
        for name in SIGNALS:
            for linger in args.linger:
                print(measure(launcher, name, linger, args.group), flush=True)


if __name__ == "__main__":
    main()
