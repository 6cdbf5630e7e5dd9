"""Command line: `mpirun -np P python -m dnewton.train --net cnn.yaml`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dnewton import __version__, progress, settings
from dnewton.assemble import Job, assemble
from dnewton.cli import Parser
from dnewton.comm import Comm
from dnewton.config import Config
from dnewton.errors import UserError
from dnewton.launch import run
from dnewton.rundir import RunDirectory
from dnewton.solvers.server import Server
from dnewton.trainer import Record, Trainer, initial_state, resumed_state


def arguments(argv: Sequence[str], rank: int) -> argparse.Namespace:
    """Parse the command line. Raises UserError."""
    parser = Parser("python -m dnewton.train", "Train a neural network on MPI ranks.", rank)
    parser.add_argument("--net", metavar="FILE", help="YAML file, or the name of a shipped net such as cnn.yaml")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a YAML entry")
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/<net>-<time>)")
    parser.add_argument("--init", metavar="FILE", help="start from the weights of a safetensors file")
    parser.add_argument("--init-only", action="store_true", help="write the initial point and stop")
    parser.add_argument("--resume", metavar="DIR", help="go on from the newest checkpoint of a run directory")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that --out holds")
    parser.add_argument("--version", action="version", version=f"dnewton {__version__}")
    args = parser.parse_args(argv)
    if args.resume and (args.out or args.init or args.init_only or args.overwrite):
        raise UserError("--resume goes on in its own directory; leave --out, --init, --init-only and --overwrite out")
    if args.out == "" or args.resume == "":
        raise UserError("--out and --resume need the name of a directory, not an empty one")
    if not args.net and not args.resume:
        raise UserError("--net FILE or --resume DIR is needed; see python -m dnewton.train --help")
    return args


def _configuration(args: argparse.Namespace, comm: Comm) -> tuple[Config, str, list[str]]:
    """The configuration, the name it has in messages, and notes for the log. Collective over the world."""
    source = args.net or os.path.join(args.resume, "config.yaml")
    with comm.together():
        if comm.rank == 0 and args.resume and not os.path.isfile(os.path.join(args.resume, "config.yaml")):
            raise UserError(f"--resume {args.resume}: holds no run (there is no config.yaml)")
    text, folder = settings.read(source, comm)
    if not args.net:
        folder = comm.text_from_root(os.getcwd())
    loaded, notes = settings.configure(text, folder, source, args.set)
    if args.init_only:
        loaded = loaded.model_copy(update={"solver": loaded.solver.model_copy(update={"max_iterations": 0})})
    return loaded, source, notes


def _main(comm: Comm) -> None:
    started = time.perf_counter()
    args = arguments(sys.argv[1:], comm.rank)
    config, source, notes = _configuration(args, comm)
    stamp = f"runs/{Path(source).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    out = RunDirectory(comm.text_from_root(args.resume or args.out or stamp))
    with comm.phase("setup"):
        if not args.resume:
            with comm.together():  # before the data are read: a taken directory is found at once
                if comm.rank == 0:
                    out.check(args.overwrite)
        job = assemble(config, comm, source)
    if isinstance(job, Server):
        job.serve()
        return
    job.notes.extend(notes)
    try:
        _train(job, args, out, started, source)
    except UserError as error:  # raised alike on all ranks
        job.solver.close(str(error))
        raise
    job.solver.close()


def _train(job: Job, args: argparse.Namespace, out: RunDirectory, started: float, source: str) -> None:
    comm = job.comm
    start = resumed_state(job, out) if args.resume else initial_state(job, args.init)
    with comm.together():  # only now: a mistake found above leaves nothing behind
        if comm.rank == 0 and args.resume:
            started -= out.reopen(job.config.dump(), start.iteration)
        elif comm.rank == 0:
            out.create(job.config.dump())
    show, close = _display(comm.rank, out)
    notes = [f"dnewton {__version__}: {source} on {job.crew.world.size} rank(s), run directory {out.path}", *job.notes]
    notes += [f"going on after iteration {start.iteration}"] if args.resume else []
    for text in [*notes, progress.HEADER]:
        show(text)
    trainer = Trainer(job, out, started, lambda record: show(progress.line(record), record), bool(args.resume))
    try:
        trainer.run(start)
    finally:
        close()
    if trainer.records:
        peak = trainer.records[-1]["peak_rss_bytes"] / 2**20
        show(f"peak memory of the largest rank: {peak:.1f} MiB, planned {job.strategy.peak / 2**20:.1f} MiB")
    for text in progress.summary(trainer.records, trainer.totals):
        show(text)


def _display(rank: int, out: RunDirectory) -> tuple[Callable[..., None], Callable[[], None]]:
    """`show(text, record=None)` and `close()`: a live line on a terminal, one line per iteration in a pipe."""
    if rank != 0:
        return lambda *_: None, lambda: None
    if not sys.stdout.isatty() or "OMPI_COMM_WORLD_SIZE" in os.environ:  # Open MPI gives every rank a terminal

        def plain(text: str, record: Record | None = None) -> None:
            out.log(text)
            print(text, flush=True)

        return plain, lambda: None
    from rich.live import Live
    from rich.text import Text

    live = Live(Text(""), refresh_per_second=8)
    live.start()

    def lively(text: str, record: Record | None = None) -> None:
        out.log(text)
        if record is None:
            live.console.print(text, highlight=False, soft_wrap=True)
        else:
            live.update(Text(text))

    def close() -> None:
        live.stop()

    return lively, close


def main(argv: Any = None) -> NoReturn:
    """Entry point. Collective over all processes."""
    run(_main)


if __name__ == "__main__":
    main()
