"""From sources to what the solver trains on: this rank's scaled columns, and encoded targets.

Scaling is fitted on the training part, feature by feature, so that no rank needs another's columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dnewton.arrays import Array, sample_blocks
from dnewton.data.sources import Source, Values
from dnewton.errors import UserError
from dnewton.layout import Units


def check_shapes(source: Source, input_shape: tuple[int, ...], where: str) -> None:
    """Raise UserError unless the source's samples fit `net.input` (an image may come flattened, channel-major)."""
    wanted = tuple(input_shape)
    fits = source.shape == wanted or (1 in (len(source.shape), len(wanted)) and source.features == np.prod(wanted))
    if not fits:
        raise UserError(f"{where}: {source.name}: samples have shape {list(source.shape)}, net.input is {list(wanted)}")


LARGEST_LABEL = 2**53  # beyond it float64 no longer tells neighbours apart


@dataclass(frozen=True)
class Scaling:
    """x ↦ (x - shift) * factor per feature; `unit` divides by the largest absolute value."""

    shift: Values
    factor: Values

    @classmethod
    def fit(cls, x: Values, how: str) -> Scaling:
        """Statistics of the training columns, float64; constant features are only shifted."""
        width = x.shape[1]
        shift, spread = np.zeros(width), np.ones(width)
        if how == "standardize":
            shift = x.mean(axis=0, dtype=np.float64)
            spread = spread_of(x, shift)
        elif how == "minmax":
            shift = x.min(axis=0).astype(np.float64)
            spread = x.max(axis=0) - shift
        elif how == "unit":
            spread = np.abs(x).max(axis=0).astype(np.float64)
        return cls(shift, 1.0 / np.where(spread > 0, spread, 1.0))

    def apply(self, x: Values, dtype: str) -> Values:
        """Scaled columns in `dtype`; computed in float64, so that small differences of large numbers survive."""
        out = x if x.dtype == dtype else np.empty(x.shape, dtype=dtype)
        for part in sample_blocks(x.shape[0], 8 * x.shape[1]):
            out[part] = (x[part].astype(np.float64) - self.shift) * self.factor
        return out


def spread_of(x: Values, mean: Values) -> Values:
    """Standard deviation per column, zero where it is no more than rounding of a constant."""
    deviation = x.std(axis=0, dtype=np.float64)
    return np.where(deviation > 16 * np.finfo(np.float64).eps * np.abs(mean), deviation, 0.0)


@dataclass(frozen=True)
class Targets:
    """How raw targets become (N, K) numbers: labels one-hot (or 0/1 for one output), real ones shifted and scaled."""

    outputs: int
    classes: Values | None
    shift: Values
    spread: Values

    @classmethod
    def fit(cls, y: Values, outputs: int, loss: str, scale: str, source: str) -> Targets:
        """The mapping for the training targets.

        Raises UserError when they do not suit the loss or the number of outputs.
        """
        nothing, one = np.zeros(outputs), np.ones(outputs)
        if _is_regression(y, outputs, loss):
            real = _as_real(y, outputs, source)
            if scale == "standardize":
                spread = spread_of(real, real.mean(axis=0))
                return cls(outputs, None, real.mean(axis=0), np.where(spread > 0, spread, 1.0))
            return cls(outputs, None, nothing, one)
        if scale != "none":
            raise UserError(f"data.scale_targets: {scale} is for real targets, {source} has labels")
        allowed = max(outputs, 2)
        if y.ndim == 2 and y.shape[1] > 1:
            _check_distribution(y, outputs, source)
            return cls(outputs, np.arange(outputs), nothing, one)
        labels = _as_labels(y, source)
        found = np.unique(labels)
        if found.dtype.kind != "U" and found[0] >= 0 and found[-1] < allowed:
            found = np.arange(allowed)
        if len(found) > allowed:
            raise UserError(f"{source}: y has {len(found)} classes but the net has {outputs} output(s)")
        return cls(outputs, found, nothing, one)

    def encode(self, y: Values, dtype: str, source: str) -> Values:
        """Raw targets as (N, K). Raises UserError naming the first row with a label that training does not know."""
        if self.classes is None:
            return ((_as_real(y, self.outputs, source) - self.shift) / self.spread).astype(dtype)
        if y.ndim == 2 and y.shape[1] > 1:
            _check_distribution(y, self.outputs, source)
            return y.astype(dtype)
        labels = _as_labels(y, source)
        if (labels.dtype.kind == "U") != (self.classes.dtype.kind == "U"):
            raise UserError(f"{source}: y holds {labels.dtype} labels, the training set {self.classes.dtype}")
        place = np.clip(np.searchsorted(self.classes, labels), 0, len(self.classes) - 1)
        unknown = np.flatnonzero(self.classes[place] != labels)
        if unknown.size:
            row = int(unknown[0])
            raise UserError(f"{source}: row {row}: label {labels[row]} does not occur in the training set")
        if self.outputs == 1:
            return place[:, None].astype(dtype)
        out = np.zeros((len(labels), self.outputs), dtype=dtype)
        out[np.arange(len(labels)), place] = 1
        return out

    @property
    def metric_name(self) -> str:
        """accuracy or rmse."""
        return "rmse" if self.classes is None else "accuracy"

    def metric_sum(self) -> Callable[[Array, Array], float]:
        """Of a batch's outputs and targets: the number of right answers, or squared errors in the targets' units."""
        if self.classes is None:
            squares = self.spread**2
            return lambda z, y: float(np.sum(squares * (z - y).astype(np.float64) ** 2))
        if self.outputs == 1:
            return lambda z, y: float(np.sum((z > 0) == (y > 0.5)))
        return lambda z, y: float(np.sum(np.argmax(z, axis=1) == np.argmax(y, axis=1)))

    def metric_value(self, total: float, samples: int) -> float:
        """The metric from a sum over `samples` samples."""
        if self.classes is None:
            return float(np.sqrt(total / (samples * self.outputs)))
        return total / samples


def _is_regression(y: Values, outputs: int, loss: str) -> bool:
    if loss != "squared":
        return False
    if y.dtype.kind == "U":
        return False
    labels = y.dtype.kind in "iub" and (y.ndim == 1 or y.shape[1] == 1)
    return not (labels and outputs > 1)


def _as_real(y: Values, outputs: int, source: str) -> Values:
    if y.dtype.kind == "U":
        raise UserError(f"{source}: y holds strings, the net is trained on real targets")
    real = y.astype(np.float64).reshape(len(y), 1 if y.ndim == 1 else y.shape[1])
    if real.shape[1] != outputs:
        raise UserError(f"{source}: y has {real.shape[1]} target(s) per sample but the net has {outputs} output(s)")
    _check_finite(real, source, "y")
    return real


def _as_labels(y: Values, source: str) -> Values:
    labels = y.reshape(len(y))
    if labels.dtype.kind == "f":
        _check_finite(labels[:, None], source, "y")
        broken = np.flatnonzero(labels != np.round(labels))
        if broken.size:
            row = int(broken[0])
            raise UserError(f"{source}: row {row}: label {labels[row]} is not a whole number; classes are needed")
    if labels.dtype.kind == "U":
        return labels
    far = np.flatnonzero((labels > LARGEST_LABEL) | (labels < -LARGEST_LABEL))
    if far.size:
        row = int(far[0])
        raise UserError(f"{source}: row {row}: label {labels[row]} is too large; classes are small whole numbers")
    return labels.astype(np.int64)


def _check_distribution(y: Values, outputs: int, source: str) -> None:
    if y.shape[1] != outputs:
        raise UserError(f"{source}: y has {y.shape[1]} columns but the net has {outputs} output(s)")
    bad = np.flatnonzero((y < 0).any(axis=1) | ~(np.abs(y.sum(axis=1) - 1) < 1e-4))
    if bad.size:
        raise UserError(f"{source}: row {int(bad[0])}: y must be labels or rows that sum to 1")


def _check_finite(values: Values, source: str, name: str, first_column: int = 0) -> None:
    if not np.isfinite(values.sum(dtype=np.float64)):  # cheap, and exact unless the sum itself overflows
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = (int(v) for v in bad[0])
            value = values[row, column]
            raise UserError(f"{source}: {name}: row {row}, column {first_column + column} is {value}; clean the data")


def load_columns(
    source: Source, input_shape: tuple[int, ...], units: Units, bounds: tuple[int, int], scaling: Scaling | str,
    dtype: str,
) -> tuple[Array, Scaling]:  # fmt: skip
    """This rank's columns of every sample, scaled: (N, features) or (N, H, W, channels).

    `scaling` is a fitted one, or how to fit one on these samples. Raises UserError for NaN and infinities.
    """
    size = units.size * int(np.prod(input_shape[1:], dtype=np.int64))
    lo, hi = bounds[0] * size, bounds[1] * size
    exact = np.can_cast(source.dtype, dtype, casting="safe")
    x = source.columns(lo, hi, dtype if exact or scaling == "none" else "float64")
    _check_finite(x, source.name, "x", lo)
    if isinstance(scaling, str):
        scaling = Scaling.fit(x, scaling)
    x = scaling.apply(x, dtype)
    if len(input_shape) == 3:
        _, h, w = input_shape
        x = np.ascontiguousarray(x.reshape(source.samples, bounds[1] - bounds[0], h, w).transpose(0, 2, 3, 1))
    return x, scaling

