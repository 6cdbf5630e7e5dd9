"""Training from Python: the run of `python -m dnewton.train`, from arrays in memory, with a model as its result."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dnewton.api import ranks
from dnewton.api.columns import source_of
from dnewton.api.model import Model
from dnewton.api.run import Callback, Wishes, run
from dnewton.api.settings import config_of_terms, configuration, with_error_bars
from dnewton.api.surroundings import failing_together, interruptible, kept
from dnewton.api.terms import equation_set
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import StopAgreement
from dnewton.data.sources import Source
from dnewton.errors import UserError
from dnewton.storage.no_directory import NoDirectory
from dnewton.storage.run_directory import RunDirectory
from dnewton.storage.ways import Ways
from dnewton.training.history import history_of

log = logging.getLogger("dnewton")
WAYS = Ways("another out", "overwrite=True", 'resume="auto"', "changed_data=True", call=True)


def fit(
    net: Any,
    x: Any = None,
    y: Any = None,
    *,
    terms: Any = None,
    test: Any = None,
    validation: Any = None,
    sample_weight: Any = None,
    init: Any = None,
    data: Mapping[str, Any] | None = None,
    solver: Mapping[str, Any] | None = None,
    parallel: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    error_bars: bool | str = False,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool | str = False,
    changed_data: bool = False,
    max_seconds: float | None = None,
    comm: Any = None,
    callbacks: Iterable[Callback] = (),
    log_ranks: str = "first",
) -> Model:
    """Train a net and return it as a :class:`dnewton.Model`.

    `net`: :func:`dnewton.net`, a mapping as the YAML file's, or the name of a YAML file or a shipped net.
    `x`, `y`: samples (N, ...) and targets, as arrays, nested lists, tables, a sparse `x`, :func:`dnewton.columns`; or
    `x` the name of a file. On several ranks all give the same. `test`, `validation`: pairs (x, y), or file names.
    `terms`: equations on points, a list of :class:`dnewton.Residual` and :class:`dnewton.Data`, instead of x and y
    ([physics.md](physics.md)).
    `sample_weight`: a number for each sample. `init`: a model, its weights, or a file to start from.
    `error_bars`: True keeps the uncertainty of the weights for `predict(x, std=True)`, of all of them together or, with
    `curvature: diagonal` on several ranks, of each rank's own; "full" and "blocks" are the two.
    `data`, `solver`, `parallel`, `output`: entries of these sections of the YAML file, which they change.
    `out`: a run directory; without one nothing is written. `overwrite` replaces the run in it, `resume=True` continues
    from its last checkpoint, and `resume="auto"` does so if there is one, with `changed_data` also where the features
    have changed since.
    `max_seconds`: the run ends with what it has then. `callbacks`: each is called on rank 0 with the figures of every
    iteration (a line of metrics.jsonl); what returns True ends the run. `log_ranks`: "first" or "all" log to
    `logging.getLogger("dnewton")`.
    `comm`: any mpi4py communicator; by default all ranks of the job, or this process alone without MPI where no
    launcher started it.

    Ctrl-C ends the run at the next point where all ranks can, with a checkpoint in `out`, and raises KeyboardInterrupt.
    Raises UserError alike on all ranks, with nothing changed. Collective over `comm`.
    """
    by_terms = terms is not None
    if by_terms:
        _check_terms(x=x, y=y, validation=validation, sample_weight=sample_weight, data=data)
    given = {"train": ()} if by_terms else _parts(x, y, test, validation)
    _check(log_ranks, resume, overwrite, out, init, max_seconds)
    start = init.weights() if isinstance(init, Model) else init
    world = ranks.opened(comm)
    try:
        with failing_together(world), kept():
            directory = NoDirectory() if out is None else RunDirectory(world.text_from_root(os.fspath(out)), WAYS)
            sections = {"data": data, "solver": solver, "parallel": parallel, "output": output}
            config, notes, source = configuration(net, sections, given, directory.keeps, world)
            config = with_error_bars(config, error_bars)
            in_memory, equations = {}, None
            if by_terms:
                equations = equation_set(terms, test, config.solver.seed, world)
                config = config_of_terms(config, equations, world.size)
                start = equations.start(start) if isinstance(start, Mapping) else start
            else:
                pairs = {name: part for name, part in given.items() if isinstance(part, tuple)}
                in_memory = {name: _source(name, part, world) for name, part in pairs.items()}
            if sample_weight is not None:
                in_memory = _weighted(in_memory, sample_weight, world)
            wishes = Wishes(
                start,
                directory,
                overwrite,
                "auto" if resume == "auto" else "yes" if resume else "no",
                changed_data,
                max_seconds,
                tuple(callbacks),
                _kind(y),
                _teller(world.rank == 0 or log_ranks == "all"),
                equations,
            )
            for note in notes:
                wishes.tell(note)
            stops = StopAgreement(world, config.parallel.timeout)
            world.stops = stops
            with interruptible(stops):
                outcome = run(config, world, stops, source, in_memory, wishes)
            stops.close()
    finally:
        world.free()
    return Model(
        outcome.header,
        outcome.plan,
        outcome.theta,
        comm,
        config.parallel.device,
        history_of(outcome.records),
        outcome.stopped,
        outcome.message,
        str(directory.path) if directory.keeps else None,
        outcome.posterior,
    )


def _check(log_ranks: str, resume: bool | str, overwrite: bool, out: Any, init: Any, max_seconds: float | None) -> None:
    if log_ranks not in ("first", "all"):
        raise UserError(f"fit: log_ranks must be 'first' or 'all', not {log_ranks!r}")
    if resume not in (False, True, "auto"):
        raise UserError(f"fit: resume must be True, False or 'auto', not {resume!r}")
    if out is None and (resume or overwrite):
        raise UserError("fit: resume and overwrite are for a run directory; name one with out=")
    if out is not None and not os.fspath(out):
        raise UserError("fit: out needs the name of a directory, not an empty one")
    if resume and overwrite:
        raise UserError("fit: resume keeps the run in out, overwrite replaces it; give one of them")
    if resume is True and init is not None:
        raise UserError("fit: resume=True continues from a checkpoint; leave init out")
    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise UserError(f"fit: max_seconds is {max_seconds}; a number of seconds above 0 is needed")


def _check_terms(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"fit: {name} is for samples, and terms have points of their own; leave {name} out")


def _parts(x: Any, y: Any, test: Any, validation: Any) -> dict[str, Any]:
    """What the call gives, by part: a pair (x, y) in memory, or what names files."""
    parts = {}
    if x is None and y is not None:
        raise UserError("fit: y is given without x")
    if x is not None:
        parts["train"] = _pair("x", x, y)
    for name, given in (("test", test), ("validation", validation)):
        if given is None:
            continue
        if _is_file(given):
            parts[name] = _file(given)
        elif isinstance(given, (tuple, list)) and len(given) == 2:
            parts[name] = _pair(name, *given)
        else:
            raise UserError(f"fit: {name} must be a pair (x, y) or the name of a file")
    return parts


def _pair(name: str, x: Any, y: Any) -> Any:
    if not _is_file(x):
        if y is None:
            raise UserError(f"fit: {name}: targets are needed with samples in memory; give x and y")
        return (x, y)
    if y is None:
        return _file(x)
    if not isinstance(y, (str, os.PathLike)):
        raise UserError(f"fit: {name}: x is a file and y is not; give both as files, or both in memory")
    return {"x": os.fspath(x), "y": os.fspath(y)}


def _is_file(given: Any) -> bool:
    names = given if isinstance(given, list) and given else [given]
    return isinstance(given, Mapping) or all(isinstance(name, (str, os.PathLike)) for name in names)


def _file(given: Any) -> Any:
    if isinstance(given, Mapping):
        return dict(given)
    return [os.fspath(name) for name in given] if isinstance(given, list) else os.fspath(given)


def _source(name: str, pair: tuple[Any, Any], comm: Comm) -> Source:
    return source_of("x" if name == "train" else name, *pair, comm)


def _weighted(parts: dict[str, Source], weights: Any, comm: Comm) -> dict[str, Source]:
    with comm.raise_together():
        if "train" not in parts:
            raise UserError("fit: sample_weight is for samples in memory; of files, name data.weights")
        values = np.asarray(weights, dtype=np.float64)
        if values.shape != (parts["train"].samples,):
            raise UserError(
                f"fit: sample_weight must be one number for each of {parts['train'].samples} samples, it has shape "
                f"{list(values.shape)}"
            )
    return {**parts, "train": replace(parts["train"], weights=lambda: values)}


def _kind(y: Any) -> str | None:
    """The kind in which labels are given back, where it is not that of numbers or text in files."""
    if y is None or isinstance(y, (str, os.PathLike)):
        return None
    dtype = getattr(y, "dtype", None)
    kind = getattr(dtype, "kind", None) or np.asarray(y).dtype.kind
    return {"b": "bool", "f": "float64"}.get(kind)


def _teller(heard: bool) -> Callable[[str], None]:
    def tell(text: str) -> None:
        if heard:
            log.log(logging.WARNING if text.startswith("warning") else logging.INFO, text)

    return tell
