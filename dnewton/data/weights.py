"""Weights of samples: files of them, those of classes, and how they go with the targets (docs/data.md, "Weights")."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Literal

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.config.schema import label_text
from dnewton.data.file_kinds import check_regular, guard, open_bytes, suffix_of
from dnewton.data.sources import Origin, Source, Values
from dnewton.data.targets import Targets
from dnewton.errors import UserError, one_line

SUFFIXES = (".npy", ".csv", ".tsv", ".txt")  # of a file of weights; what ends otherwise is a column or an array
_OF_ARRAYS = re.compile(r".+\.(npz|h5|hdf5|mat):.+", re.IGNORECASE)  # FILE:NAME
KEY = "data.weights"


def is_file(weights: str | int | None) -> bool:
    """Whether `data.weights` names a file, or an array of one."""
    return isinstance(weights, str) and (suffix_of(weights) in SUFFIXES or bool(_OF_ARRAYS.fullmatch(weights)))


def read_file(path: str, key: str, comm: Comm) -> Values:
    """The weights in a `.npy` of one axis or a text of one column, with or without a header.

    Raises UserError, alike on all ranks, that names the file and the line. Collective over the world.
    """
    values = None
    with comm.raise_together():
        if comm.rank == 0:
            if not os.path.lexists(path):
                raise UserError(f"{key}: there is no file {path}")
            check_regular(path, key)
            values = _read_npy(path) if suffix_of(path) == ".npy" else _read_column(path)
            values = _one_a_sample(values, path, key)
    shared: Values = comm.array_from_root(values)
    return shared


def _one_a_sample(values: Values, path: str, key: str) -> Values:
    if values.dtype.kind not in "fiub":
        raise UserError(f"{key}: {path} must hold numbers, it has dtype {values.dtype}")
    if values.size != max(values.shape, default=0):
        raise UserError(f"{key}: {path} must hold one number a sample, it has shape {list(values.shape)}")
    return np.ravel(values).astype(np.float64)


def _read_npy(path: str) -> Values:
    with guard(path):
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: cannot be read as an array: {one_line(error)}") from None


def _read_column(path: str) -> Values:
    with guard(path), open_bytes(path) as file:
        text = file.read().decode("utf-8-sig", "replace")
    found: list[float] = []
    first = True
    for number, line in enumerate(text.split("\n"), 1):
        word = line.strip().strip('"')
        if not word or word.startswith("#"):
            continue
        try:
            found.append(float(word))
        except ValueError:
            if not first:  # else a header
                raise UserError(f"{path}: line {number}: {word[:40]!r} is not a number; one weight a line") from None
        first = False
    return np.array(found, dtype=np.float64)


def with_file(source: Source, path: str, key: str, comm: Comm) -> Source:
    """A source with its weights from a file. Raises UserError alike on all ranks. Collective over the world."""
    return attached(source, read_file(path, key, comm), path, key)


def attached(source: Source, values: Values, path: str, key: str) -> Source:
    """A source with its weights from an array that `path` names. Raises UserError."""
    values = _one_a_sample(values, path, key)
    if len(values) != source.samples:
        raise UserError(f"{key}: {path} has {len(values)} weights, {source.name} has {source.samples} samples")
    check(values, Origin(path))
    return replace(source, weights=lambda: values)


def check(weights: Values, origin: Origin) -> None:
    """Raise UserError that names the first row with a weight that is none."""
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if bad.size:
        row = int(bad[0])
        raise UserError(f"{origin.row(row)}: its weight is {weights[row]:g}; weights must be finite and not negative")


def of_samples(source: Source) -> Values:
    """The weights of a source's samples, (N,) float64; ones where it has none. Raises UserError for what are none."""
    if source.weights is None:
        return np.ones(source.samples)
    weights = np.asarray(source.weights())
    if weights.dtype.kind not in "fiub" or weights.size != source.samples:
        raise UserError(f"{source.name}: one weight per sample ({source.samples}) is needed, as numbers")
    weights = np.ravel(weights).astype(np.float64)
    check(weights, source.origin)
    return weights


def of_classes(
    wanted: Literal["balanced"] | dict[str, float], encoded: Values, weights: Values, targets: Targets
) -> Values:
    """What every sample's weight is multiplied by, for targets as the loss takes them, (N, K).

    `balanced`: W / (classes · W_c) with W the sum of all weights, W_c of those of a class (King and Zeng 2001, as in
    scikit-learn). Rows of class probabilities get the mean by them. Raises UserError where targets are no classes, and
    for labels that are none of them.
    """
    key = "data.class_weights"
    if targets.classes is None:
        what = "several labels a sample" if targets.sets else "numbers, not classes"
        raise UserError(f"{key}: the targets are {what}; use data.weights")
    y = encoded.astype(np.float64)
    if targets.outputs == 1:
        y = np.concatenate([1 - y, y], axis=1)
    if wanted == "balanced":
        counts = weights @ y
        there = counts > 0
        factors = np.where(there, counts.sum() / (max(1, there.sum()) * np.where(there, counts, 1.0)), 0.0)
        return np.asarray(y @ factors)
    names = [label_text(c) for c in targets.classes.tolist()]
    for label in wanted:
        if label not in names:
            raise UserError(f"{key}: there is no label {label}; the labels are {', '.join(names[:20])}")
    factors = np.ones(y.shape[1])
    factors[: len(names)] = [wanted.get(name, 1.0) for name in names]
    return np.asarray(y @ factors)


def joined(encoded: Values, weights: Values, source: Source) -> tuple[Values, float]:
    """Targets (N, K) with the weights, scaled to mean 1, as a last column, and the sum of the weights.

    Raises UserError where that is 0 or no number.
    """
    total = float(weights.sum())
    if not 0 < total < np.inf:
        what = "all weights are 0" if total == 0 else "the sum of the weights is too large"
        raise UserError(f"{source.name}: {what}; change data.weights or data.class_weights")
    scaled = weights * (len(weights) / total)
    return np.concatenate([encoded, scaled[:, None].astype(encoded.dtype)], axis=1), total
