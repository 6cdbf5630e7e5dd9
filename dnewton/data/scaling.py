"""Scaling of the features, fitted on the training part one feature at a time, so that no rank needs another's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnewton.data.sources import Origin, Values
from dnewton.errors import UserError


@dataclass(frozen=True)
class Scaling:
    """x ↦ (x - shift) * factor per feature, in float64, so that small differences of large numbers survive.

    `fill`: what stands for features without a value (NaN); None where every feature must have one.
    """

    shift: Values
    factor: Values
    fill: Values | None = None

    @classmethod
    def none(cls, width: int) -> Scaling:
        """The scaling that changes nothing."""
        return cls(np.zeros(width), np.ones(width))

    def apply(self, x: Values, dtype: str) -> Values:
        """Scaled columns in `dtype`."""
        if self.fill is not None and x.dtype.kind == "f":
            x = np.where(np.isnan(x), self.fill, x)
        with np.errstate(over="ignore"):  # looked for by the caller
            if not self.shift.any() and (self.factor == 1).all():
                return x.astype(dtype)
            return ((x.astype(np.float64) - self.shift) * self.factor).astype(dtype)

    def columns(self, lo: int, hi: int) -> Scaling:
        """The scaling of some columns."""
        return Scaling(self.shift[lo:hi], self.factor[lo:hi], None if self.fill is None else self.fill[lo:hi])


class Statistics:
    """Mean, deviation and extremes per feature over blocks of rows (Chan, Golub, LeVeque 1979).

    NaN is a value that is missing: it counts in no mean and no extreme; deviations are those of the features with their
    means in the gaps.
    """

    def __init__(self, width: int) -> None:
        self.count = 0.0  # samples, or the sum of their weights
        self.present = np.zeros(width)  # the same of those that have a value
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)
        self.low = np.full(width, np.inf)
        self.high = np.full(width, -np.inf)

    def add(self, block: Values, weights: Values | None = None) -> None:
        """Take in the rows of a block; a row of weight 2 counts twice, one of weight 0 not at all."""
        if weights is not None:
            block, weights = block[weights > 0], weights[weights > 0]
        if not len(block) or not block.shape[1]:
            return
        n: float | Values
        gaps = np.isnan(block) if block.dtype.kind == "f" and np.isnan(block.sum(dtype=np.float64)) else None
        if gaps is not None and gaps.any():
            n, mean, squares = _moments_beside(gaps, block, weights)
            low, high = (np.where(gaps, far, block) for far in (np.inf, -np.inf))
        else:
            n, mean, squares = _moments(block, weights)
            low = high = block
        total = self.present + n
        some = np.where(total > 0, total, 1.0)
        away = mean - self.mean
        self.squares += squares + away**2 * (self.present * n / some)
        self.mean = np.where(self.present > 0, self.mean + away * (n / some), mean)
        self.present = total
        self.count += float(len(block)) if weights is None else float(weights.sum())
        self.low = np.minimum(self.low, low.min(axis=0))
        self.high = np.maximum(self.high, high.max(axis=0))

    def scaling(self, how: str, span: float, fill: bool = False) -> Scaling:
        """The scaling of data.scale `how`; constant features are only shifted.

        `span` is the difference of the extremes over all features, for mean_image. With `fill` features without a value
        get the mean.
        """
        shift, spread = np.zeros_like(self.mean), np.ones_like(self.mean)
        if how == "standardize":
            shift = self.mean
            spread = deviation(self.squares, self.count, self.mean)
        elif how == "minmax":
            shift, spread = self.low, self.high - self.low
        elif how == "unit":
            spread = np.maximum(np.abs(self.low), np.abs(self.high))
        elif how == "mean_image":
            shift, spread = self.mean, np.full_like(self.mean, span)
        return Scaling(shift, 1.0 / np.where(spread > 0, spread, 1.0), self.mean if fill else None)


def _moments(block: Values, weights: Values | None) -> tuple[float, Values, Values]:
    """The number of rows, or their weight; the mean of every column, and the sum of squares of what differs from it."""
    if weights is None:
        mean = block.mean(axis=0, dtype=np.float64)
        return float(len(block)), mean, np.square(block - mean).sum(axis=0)
    n = float(weights.sum())
    mean = weights @ block.astype(np.float64) / n
    return n, mean, weights @ np.square(block - mean)


def _moments_beside(gaps: Values, block: Values, weights: Values | None) -> tuple[Values, Values, Values]:
    """Likewise of the values beside the gaps, for every column by itself."""
    each = np.where(gaps, 0.0, 1.0 if weights is None else weights[:, None])
    n = each.sum(axis=0)
    values = np.where(gaps, 0.0, block)
    mean = (each * values).sum(axis=0) / np.where(n > 0, n, 1.0)
    return n, mean, (each * np.square(values - mean)).sum(axis=0)


def deviation(squares: Values, count: float, mean: Values) -> Values:
    """Standard deviation per column, zero where it is no more than rounding of a constant."""
    spread = np.sqrt(squares / count) if count else np.zeros_like(squares)
    return np.where(spread > 16 * np.finfo(np.float64).eps * np.abs(mean), spread, 0.0)


def moments(x: Values, weights: Values | None = None) -> tuple[Values, Values]:
    """Mean and standard deviation of every column of an array, by the rows' weights if they have some."""
    mean = x.mean(axis=0) if weights is None else weights @ x / weights.sum()
    return mean, spread_of(x, mean, weights)


def spread_of(x: Values, mean: Values, weights: Values | None = None) -> Values:
    """Standard deviation of every column of an array, by the rows' weights if they have some."""
    squares = np.square(x - mean)
    if weights is not None:
        return deviation(weights @ squares, float(weights.sum()), mean)
    return deviation(squares.sum(axis=0), len(x), mean)


def check_finite(
    values: Values,
    source: str | Origin,
    name: str,
    first_row: int = 0,
    first_column: int = 0,
    cure: str = "clean the data",
    gaps: bool = False,
) -> None:
    """Raise UserError that names the first NaN (unless there may be `gaps`) or infinity; `first_row` and
    `first_column` are where `values` begin."""
    if values.dtype.kind != "f" or np.isfinite(values.sum(dtype=np.float64)):  # exact unless the sum itself overflows
        return
    bad = np.argwhere(np.isinf(values) if gaps else ~np.isfinite(values))
    if len(bad):
        row, column = (int(v) for v in bad[0])
        where = at(source, first_row + row)
        value = values[row, column]
        cure = cure if np.isnan(value) or not cure.startswith("clean") else "clean the data"
        raise UserError(f"{where}: {name}: column {first_column + column} is {value}; {cure}")


def at(source: str | Origin, row: int) -> str:
    """The file and the row, for messages."""
    return (source if isinstance(source, Origin) else Origin(source)).row(row)
