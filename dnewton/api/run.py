"""One run as a call from Python asks for it: the trainer on every rank, and what remains of it afterwards."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnewton import __version__
from dnewton.arrays.namespace import to_host
from dnewton.cli import console
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import StopAgreement, Stopped
from dnewton.config.schema import Config
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError
from dnewton.model.network import Network
from dnewton.planning.net_plan import NetPlan
from dnewton.solvers.interface import STOPPED
from dnewton.storage import posterior
from dnewton.storage.posterior import Posterior
from dnewton.storage.run_directory import RunDirectory
from dnewton.storage.whole_tensors import cut, gathered
from dnewton.training import prediction
from dnewton.training.begin import begin
from dnewton.training.ending import TIME
from dnewton.training.equations import EquationSet
from dnewton.training.job import Job, assemble
from dnewton.training.ownership import owned
from dnewton.training.trainer import Record, Trainer

Callback = Callable[[Record], object]


@dataclass(frozen=True)
class Wishes:
    """What a call asks for besides the net and the data."""

    init: Any
    out: RunDirectory
    overwrite: bool
    resume: str  # no, yes, auto
    changed_data: bool
    max_seconds: float | None
    callbacks: tuple[Callback, ...]
    labels: str | None  # the kind that labels are given back in, where it is not that of files
    tell: Callable[[str], None]
    equations: EquationSet | None = None


@dataclass(frozen=True)
class Outcome:
    """What is left of a run, the same on all ranks but for `theta`, this rank's blocks of the weights."""

    header: Mapping[str, str]
    plan: NetPlan
    theta: Values
    records: Sequence[Record]
    stopped: str
    message: str
    posterior: Posterior | None = None


def run(
    config: Config, world: Comm, stops: StopAgreement, source: str, parts: Mapping[str, Source], wishes: Wishes
) -> Outcome:
    """Train. Raises UserError alike on all ranks, and KeyboardInterrupt where one of them was interrupted.

    Collective over the world.
    """
    started = time.perf_counter()
    if wishes.max_seconds is not None:
        stops.limit(time.monotonic() + wishes.max_seconds)
    with owned(world, wishes.out, wishes.tell):  # before the data are read: a directory in use is reported at once
        return _owned(config, world, stops, source, parts, wishes, started)


def _owned(
    config: Config,
    world: Comm,
    stops: StopAgreement,
    source: str,
    parts: Mapping[str, Source],
    wishes: Wishes,
    started: float,
) -> Outcome:
    """The run in its own directory. Collective over the world."""
    with world.phase("setup"):
        if wishes.resume != "yes":
            with world.raise_together():
                if world.rank == 0:
                    wishes.out.check(wishes.overwrite, resume=wishes.resume == "auto")
        job = assemble(config, world, source, given=parts, equations=wishes.equations)
    if not isinstance(job, Job):  # a rank that serves
        stops.armed = True
        job.serve()
        return _shared(None, None, config, world, stops)
    if wishes.labels is not None:
        about = json.loads(job.description["dnewton"])
        job.description["dnewton"] = json.dumps({**about, "labels": wishes.labels})
    try:
        trainer, stop, theta = _train(job, source, started, wishes)
    except UserError as error:  # raised alike on all ranks
        job.solver.close(str(error))
        raise
    job.solver.close(STOPPED if stop is not None else "")
    return _shared((job, trainer, theta), stop, config, world, stops)


def _train(job: Job, source: str, started: float, wishes: Wishes) -> tuple[Trainer, Stopped | None, Values]:
    comm, out = job.comm, wishes.out
    title = f"dnewton {__version__}: {source} on {job.groups.world.size} rank(s)"
    beginning = begin(job, out, [title], wishes.init, wishes.resume, wishes.changed_data)

    def show(text: str) -> None:
        if comm.rank == 0:
            out.log(text)
        wishes.tell(text)

    for text in [*beginning.notes, console.HEADER]:
        show(text)
    trainer = Trainer(
        job,
        out,
        started - beginning.before,
        lambda record: show(console.line(record)),
        beginning.resumed,
        tell=show,
        watch=_watch(wishes.callbacks) if wishes.callbacks else None,
    )
    stop = trainer.run(beginning.start)
    if stop is not None and stop.reason != signal.SIGINT and trainer.begun:
        comm.stops.armed = False
        trainer.find_error_bars()
    if trainer.ended is not None:
        show(trainer.ended.text)
    return trainer, stop, to_host(trainer.final_theta if trainer.begun else beginning.start.theta)


def _watch(callbacks: Sequence[Callback]) -> Callable[[Record], str]:
    """What the trainer asks after every iteration: whether one of the callbacks wants the end, and which."""

    def asked(record: Record) -> str:
        for callback in callbacks:
            try:
                answer = callback(dict(record))
            except UserError as error:  # of this rank alone
                raise RuntimeError(f"a callback failed: {error}") from error
            if answer is not None and not isinstance(answer, (bool, np.bool_)):
                raise TypeError(f"a callback returned {answer!r}; True ends the run, False or None lets it go on")
            if answer:
                return f"{getattr(callback, '__name__', type(callback).__name__)} asked for it"
        return ""

    return asked


def _shared(
    own: tuple[Job, Trainer, Values] | None, stop: Stopped | None, config: Config, world: Comm, stops: StopAgreement
) -> Outcome:
    """The outcome on every rank, laid out over all of them. Collective over the world."""
    stops.armed = False
    text = ""
    if own is not None and world.rank == 0:
        job, trainer, _ = own
        why, message = "", ""
        if trainer.ended is not None:
            why, message = trainer.ended.reason, trainer.ended.text
        if stop is not None:
            why, message = TIME, f"ended by {stop.why} after iteration {trainer.iteration}"
        interrupted = stop is not None and stop.reason == signal.SIGINT
        text = json.dumps([interrupted, why, message, dict(job.description), trainer.records], default=float)
    interrupted, why, message, header, records = json.loads(world.text_from_root(text))
    if interrupted:
        raise KeyboardInterrupt(message)
    split = own is None or own[0].groups.layout.replicas > 1 or own[0].groups.layout.servers > 0
    split |= own is not None and own[0].equations is not None  # the net alone is the model
    if own is not None and not split:
        return Outcome(header, own[0].plan, own[2], records, why, message, own[1].posterior)
    bars, about = _shared_posterior(own, world)
    tensors = gathered(own[0].network, own[2]) if own is not None else {}
    if own is not None and own[0].equations is not None:
        header = own[0].equations.described(header, tensors)
    plan = prediction.plan_for(config.net, world, prediction.BATCH, float("inf"), "float64", prediction.BATCH, "fit")
    network = Network(plan, world.on_grid(plan.grid))
    for layer in plan.parametric():  # every replica has a model; the first one's is kept
        name, shape = layer.spec.name, tuple(layer.spec.weight_shape)
        for kind, size in (("weight", shape), ("bias", shape[:1])):
            tensor = tensors.get(f"{name}.{kind}", np.zeros(size, dtype=config.parallel.dtype))
            tensors[f"{name}.{kind}"] = world.bcast(np.ascontiguousarray(tensor))
    theta = cut(network, tensors, config.parallel.dtype)
    return Outcome(header, plan, theta, records, why, message, posterior.of_net(bars, about, network))


def _shared_posterior(
    own: tuple[Job, Trainer, Values] | None, world: Comm
) -> tuple[Mapping[str, Values], dict[str, str]]:
    """The whole tensors of the posterior and the header's entry on every rank; empty where there is none.

    Collective over the world.
    """
    found, about = None, ""
    if own is not None and own[1].posterior is not None:
        found, about = posterior.gathered(own[1].posterior, own[0].network), json.dumps(own[1].posterior.header())
    about = world.text_from_root(about)
    if not about:
        return {}, {}
    return posterior.shared(found, world).tensors, json.loads(about)
