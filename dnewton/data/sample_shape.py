"""How the samples of an array lie, by net.input and the number of targets: rows or columns, channels first or last.

Pure functions of shapes. A sample is [features], [channels, length] or [channels, height, width] as net.input says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dnewton.errors import UserError

Shape = tuple[int, ...]


def fits(shape: Shape, wanted: Shape) -> bool:
    """Whether samples of `shape` are those of net.input, `wanted`, number by number: alike, one of them flattened
    (channel by channel), or without the axis of a single channel."""
    if tuple(shape) == tuple(wanted):
        return True
    flattened = 1 in (len(shape), len(wanted)) and math.prod(shape) == math.prod(wanted)
    return flattened or (wanted[0] == 1 and tuple(shape) in (wanted[1:], (*wanted[1:], 1)))


def has_channels_last(shape: Shape, wanted: Shape) -> bool:
    """Whether samples of `shape` are those of net.input with the channels as the last axis."""
    return len(wanted) > 1 and tuple(shape) == (*wanted[1:], wanted[0])


def mismatch(shape: Shape, wanted: Shape, key: str) -> str:
    """What is said of samples that do not fit; `key` names the part."""
    text = f"samples have shape {list(shape)}, net.input is {list(wanted)}"
    if not has_channels_last(shape, wanted):
        return text
    cure = "data.channels: last reads them" if key.startswith("data.") else "turn them to channels first"
    return f"{text}: channels last; {cure}"


def channel_places(
    name: str, shape: Shape, wanted: Shape | None, channels: Literal["first", "last"] | None, strict: bool
) -> tuple[Shape, Any] | None:
    """Samples of `shape` with channels last: their channel-major shape, and for every number of it the place where the
    array has it; None where the channels come first.

    `channels` is what is stated; it is tried first and, if `strict`, must hold. Raises UserError where it does not.
    """
    if channels != "last" or wanted is None:
        return None
    if len(wanted) == 1 and len(shape) > 1:
        wanted = (shape[-1], *shape[:-1])
    flat = len(wanted) > 1 and tuple(shape) == (math.prod(wanted),)
    if not (flat or has_channels_last(shape, wanted)):
        if strict:
            raise UserError(
                f"data.channels: last: {name}: samples have shape {list(shape)}, net.input is {list(wanted)}; "
                f"with the channels last they would be {[*wanted[1:], wanted[0]]}"
            )
        return None
    stored = np.arange(math.prod(wanted)).reshape(*wanted[1:], wanted[0])
    return wanted, np.moveaxis(stored, -1, 0).ravel()


def in_columns(
    name: str,
    shape: Shape,
    targets: Sequence[int] | None,
    wanted: Shape | None,
    stated: Literal["rows", "columns"] | None,
    strict: bool,
    matlab: bool,
) -> bool:
    """Whether an array of `shape` has a sample in every column (its last axis) instead of in every row (its first).

    `stated` holds if `strict`, and is tried first otherwise. Without it what fits net.input and the shape of the
    `targets` decides; where both fit it is rows, except in MATLAB's files, in which both are usual: raises UserError.
    """
    if stated is not None and strict:
        return stated == "columns"

    def plausible(columns: bool) -> bool:
        sample, count = (shape[:-1], shape[-1]) if columns else (shape[1:], shape[0])
        if targets is not None and count not in _counts(targets):
            return False
        return wanted is None or fits(sample, wanted) or has_channels_last(sample, wanted)

    rows, columns = plausible(False), plausible(True)
    if rows and columns:
        if stated is None and matlab and wanted is not None:
            raise UserError(
                f"{name}: x is {list(shape)}, which fits with samples in rows and in columns; say which: "
                "data.samples: rows, or columns"
            )
        return stated == "columns"
    # A wrong width may fit by chance where there are no targets to count; rows are what others than MATLAB have.
    counted = targets is not None or matlab or stated == "columns"
    return columns and counted


def _counts(targets: Sequence[int]) -> set[int]:
    """How many samples targets of a shape may be of."""
    whole = math.prod(targets)
    return {whole} if whole in targets or len(targets) == 1 else set(targets)


def targets_by_sample(values: Any, samples: int) -> Any:
    """Targets with a row per sample: [1, N] as [N], [K, N] as [N, K]; others as they are."""
    if values.ndim != 2:
        return values
    if 1 in values.shape and values.size == samples:
        return values.reshape(samples)
    return values.T if values.shape[0] != samples and values.shape[1] == samples else values


def said(name: str, shape: Shape, columns: bool) -> tuple[str, ...]:
    """The line for the log where samples are in columns."""
    if not columns:
        return ()
    return (f"{name}: samples are in columns: x is {list(shape)}, {shape[-1]} samples of {list(shape[:-1])}",)
