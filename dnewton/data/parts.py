"""The training, test and validation parts of a job: opened, split, with their targets encoded alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import LossSection
from dnewton.config.schema import DataPart, DataSection
from dnewton.data import weights
from dnewton.data.format_register import Opening
from dnewton.data.readers import arrays_of, check_columns, open_part, with_weights
from dnewton.data.samples import Samples, Window, check_shapes, load
from dnewton.data.scaling import Scaling
from dnewton.data.sources import Source, Values, subset
from dnewton.data.table_keys import TableKeys
from dnewton.data.targets import Targets
from dnewton.errors import UserError

SPLIT = 3  # the purpose of this random draw


@dataclass(frozen=True)
class Parts:
    """The sources of a job; `held` is what `data.split` took from the training file."""

    train: Source
    test: Source | None
    validation: Source | None
    held: Source | None = None


@dataclass(frozen=True)
class Loaded:
    """The parts on this rank, and how they were prepared."""

    train: Samples
    test: Samples | None
    validation: Samples | None
    scaling: Scaling
    targets: Targets


def open_parts(
    section: DataSection,
    input_shape: tuple[int, ...],
    seed: int,
    comm: Comm,
    given: Mapping[str, Source] | None = None,
    labels: Callable[[Values], Values | None] | None = None,
) -> Parts:
    """Open every part that the section names; those that are `given`, by `train`, `test` and `validation`, are not
    files. `labels` gives the classes of raw targets, or None: `data.split` leaves one sample of each in training.

    Raises UserError alike on all ranks. Collective over the world.
    """
    given = given or {}
    of_file = section.weights if weights.is_file(section.weights) else None
    inside = section.weights if of_file is None else None
    if inside is None and section.arrays is not None:
        inside = section.arrays.w
    opening = Opening(
        "data.train",
        math.prod(input_shape),
        comm,
        section.target,
        weights=inside,
        input=tuple(input_shape),
        arrays=arrays_of(section),
        table=TableKeys.of(section),
        timeout=section.timeout,
    )
    train = given.get("train") or open_part(section.train, opening)
    check_shapes(train, input_shape, opening.key)
    if of_file is not None:
        train = with_weights(train, str(of_file), weights.KEY, opening)

    def other(key: str, part: DataPart | None) -> Source | None:
        if part is None:
            return None
        source = given.get(key.removeprefix("data."))
        if source is None:
            lies = replace(opening.arrays, samples=train.samples_in)
            alike = replace(opening, key=key, zero_based=train.zero_based, words=train.words, arrays=lies)
            alike = replace(alike, columns=train.columns)
            source = open_part(part, alike)
        check_shapes(source, input_shape, key)
        check_columns(source, train.columns, "the training file")
        return source

    test = other("data.test", section.test)
    validation = other("data.validation", section.validation)
    if section.split is None:
        return Parts(train, test, validation)
    with comm.raise_together():
        classes = labels(train.all_targets()) if labels is not None and train.targets is not None else None
    train, held = divide(train, section.split, seed, classes)
    return Parts(train, held, validation, held) if test is None else Parts(train, test, held, held)


def divide(source: Source, share: float, seed: int, labels: Values | None = None) -> tuple[Source, Source]:
    """All but a share of the samples, and that share, drawn by the seed (at least one sample each).

    Of a class that would be held out whole, one sample stays: what nothing is known of cannot be learned.
    """
    if source.samples < 2:
        raise UserError(f"data.split: {source.name} has {source.samples} sample(s); at least two are needed")
    order = np.random.Generator(np.random.Philox(key=[seed, SPLIT])).permutation(source.samples)
    count = min(max(1, round(share * source.samples)), source.samples - 1)
    held, kept = order[:count], order[count:]
    if labels is not None:
        lost, first = np.unique(labels[held], return_index=True)
        back = np.sort(first[~np.isin(lost, labels[kept])])
        if len(back) < len(held):
            held, kept = np.delete(held, back), np.concatenate([kept, held[back]])
    return subset(source, np.sort(kept)), subset(source, np.sort(held))


def load_parts(
    parts: Parts,
    section: DataSection,
    window: Window,
    outputs: int,
    loss: LossSection,
    dtype: str,
    resident: float,
    comm: Comm,
) -> Loaded:
    """Every part's columns, targets and weights on this rank; at most `resident` bytes of columns are kept in memory.

    Raises UserError alike on all ranks. Collective over the world.
    """
    with comm.raise_together():
        y = parts.train.all_targets()
        held = parts.held.all_targets() if parts.held is not None else None
        own = weights.of_samples(parts.train) if parts.train.weights is not None else None
        if own is not None and not own.any():
            raise UserError(f"{parts.train.name}: all weights are 0; change data.weights")
        targets = Targets.fit(y, outputs, loss, section.scale_targets, parts.train.origin, held, own)
    scaling: Scaling | str = section.scale
    left = resident
    every = (parts.train, parts.test, parts.validation)
    weighted = section.class_weights is not None or any(s is not None and s.weights is not None for s in every)

    def part(source: Source | None, raw: Values | None = None, fitted: Values | None = None) -> Samples | None:
        nonlocal scaling, left
        if source is None:
            return None
        with comm.raise_together():
            encoded = targets.encode(source.all_targets() if raw is None else raw, dtype, source.origin)
            total = None
            if weighted:
                own = weights.of_samples(source)
                if section.class_weights is not None and source is parts.train:
                    own = own * weights.of_classes(section.class_weights, encoded, own, targets)
                encoded, total = weights.joined(encoded, own, source)
        strict, fill = section.max_resident != "auto", section.missing == "mean"
        x, scaling = load(source, window, scaling, dtype, comm, left, strict, fitted, fill)
        if isinstance(x, np.ndarray):
            left -= x.nbytes
        return Samples(x, encoded, total)

    train = part(parts.train, y, own)
    test, validation = part(parts.test), part(parts.validation)
    assert train is not None
    assert isinstance(scaling, Scaling)
    return Loaded(train, test, validation, scaling, targets)
