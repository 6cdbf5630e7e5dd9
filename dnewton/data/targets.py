"""Targets: labels of any kind become one-hot rows (or 0/1), real ones are shifted and scaled; fitted on training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnewton.arrays.namespace import Array, namespace, to_device
from dnewton.config.loss_entry import LossSection
from dnewton.data.scaling import at, check_finite, moments
from dnewton.data.sources import Origin, Values
from dnewton.errors import UserError

LARGEST_LABEL = 2**53  # beyond it float64 no longer tells neighbours apart


@dataclass(frozen=True)
class Targets:
    """How raw targets become (N, K) numbers: labels one-hot (or 0/1 for one output), real ones shifted and scaled."""

    outputs: int
    classes: Values | None
    shift: Values
    spread: Values
    seen: Values | None = None  # the labels that training really has
    counts: bool = False  # real targets that must not be negative
    sets: bool = False  # every output is a label that a sample has or has not: K columns of 0 and 1

    @classmethod
    def fit(
        cls,
        y: Values,
        outputs: int,
        loss: LossSection,
        scale: str,
        source: str | Origin,
        held: Values | None = None,
        weights: Values | None = None,
    ) -> Targets:
        """The mapping for the training targets, scaled by the samples' `weights`; labels of the part `held` out of the
        training file count, too.

        Raises UserError when they do not suit the loss or the number of outputs.
        """
        nothing, one = np.zeros(outputs), np.ones(outputs)
        if loss.independent(outputs):
            if scale != "none":
                raise UserError(f"data.scale_targets: {scale} is for real targets, {source} has labels")
            _as_sets(y, outputs, source)
            return cls(outputs, None, nothing, one, sets=True)
        if _is_regression(y, outputs, loss):
            real = _as_real(y, outputs, source)
            if loss.targets == "counts":
                if scale != "none":
                    raise UserError(
                        f"data.scale_targets: {scale} is for real targets, this loss takes counts; use none"
                    )
                _check_counts(real, source)
                return cls(outputs, None, nothing, one, counts=True)
            if scale == "standardize":
                mean, spread = moments(real, weights)
                return cls(outputs, None, mean, np.where(spread > 0, spread, 1.0))
            return cls(outputs, None, nothing, one)
        if scale != "none":
            raise UserError(f"data.scale_targets: {scale} is for real targets, {source} has labels")
        allowed = max(outputs, 2)
        if y.ndim == 2 and y.shape[1] > 1:
            _check_distribution(y, outputs, source)
            return cls(outputs, np.arange(outputs), nothing, one)
        classes = np.unique(_as_labels(y, source))
        if held is not None and held.ndim == y.ndim:
            classes = np.union1d(classes, _as_labels(held, source))
        seen = classes
        if classes.dtype.kind != "U" and classes[0] >= 0 and classes[-1] < allowed:
            classes = np.arange(allowed)
        if len(classes) > allowed:
            shown = ", ".join(map(str, classes[: allowed + 1]))
            raise UserError(
                f"{source}: y has {len(classes)} classes ({shown}, ...) but the net has {outputs} output(s); the last "
                "layer needs as many units as there are classes"
            )
        if len(seen) < 2:
            raise UserError(f"{source}: y has one class only ({seen[0]}); there is nothing to learn")
        return cls(outputs, classes, nothing, one, seen)

    def encode(self, y: Values, dtype: str, source: str | Origin) -> Values:
        """Raw targets as (N, K). Raises UserError naming the first row with a label that training does not know."""
        if self.sets:
            return _as_sets(y, self.outputs, source).astype(dtype)
        if self.classes is None:
            real = _as_real(y, self.outputs, source)
            if self.counts:
                _check_counts(real, source)
            scaled = ((real - self.shift) / self.spread).astype(dtype)
            check_finite(scaled, source, "y", cure=f"too large for {dtype}; scale_targets: standardize may help")
            return scaled
        if y.ndim == 2 and y.shape[1] > 1:
            _check_distribution(y, self.outputs, source)
            return y.astype(dtype)
        labels = _as_labels(y, source)
        if (labels.dtype.kind == "U") != (self.classes.dtype.kind == "U"):
            raise UserError(f"{source}: y holds {labels.dtype} labels, the training set {self.classes.dtype}")
        place, known = self._places_of(labels)
        unknown = np.flatnonzero(~known)
        if unknown.size:
            row = int(unknown[0])
            more = f" ({unknown.size - 1} more such rows)" if unknown.size > 1 else ""
            raise UserError(f"{at(source, row)}: label {labels[row]} does not occur in the training set{more}")
        if self.outputs == 1:
            return place[:, None].astype(dtype)
        out = np.zeros((len(labels), self.outputs), dtype=dtype)
        out[np.arange(len(labels)), place] = 1
        return out

    def known(self, y: Values, source: str | Origin) -> Values:
        """Which rows (N,) of raw targets have labels that training knows; all, where targets are no labels.

        Raises UserError for what is no label.
        """
        labelled = self.classes is not None and (y.ndim == 1 or y.shape[1] == 1)
        if not labelled or (y.dtype.kind == "U") != (self.classes.dtype.kind == "U"):  # type: ignore[union-attr]
            return np.ones(len(y), dtype=bool)
        return self._places_of(_as_labels(y, source))[1]

    def _places_of(self, labels: Values) -> tuple[Values, Values]:
        """The number of each label's class, and whether there is one."""
        assert self.classes is not None
        place = np.clip(np.searchsorted(self.classes, labels), 0, len(self.classes) - 1)
        known = self.classes[place] == labels
        return place, known if self.seen is None else known & np.isin(labels, self.seen)

    def decode(self, z: Array) -> Values:
        """Outputs (N, K) as labels (N,), as values (N, K) in the targets' units, or as 0 and 1 (N, K)."""
        if self.sets:
            return np.asarray(z > 0).astype(np.int64)
        if self.classes is None:
            return np.asarray(z * self.spread + self.shift)
        return np.asarray(self.classes[self.places(z)])

    def places(self, z: Array) -> Values:
        """The number of the class that outputs (N, K) stand for; outputs beyond the known classes do not count."""
        assert self.classes is not None
        if self.outputs == 1:
            return np.asarray(z[:, 0] > 0).astype(int)
        return np.asarray(np.argmax(z[:, : len(self.classes)], axis=1))

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        classes = None if self.classes is None else self.classes.tolist()
        return {
            **({"counts": True} if self.counts else {}),
            **({"sets": True} if self.sets else {}),
            "outputs": self.outputs,
            "classes": classes,
            "shift": self.shift.tolist(),
            "spread": self.spread.tolist(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Targets:
        """The inverse of :meth:`as_json`. Raises ValueError, KeyError or TypeError for anything else."""
        outputs, classes = int(values["outputs"]), values["classes"]
        if classes is not None:
            words = all(isinstance(c, str) for c in classes)
            if not classes or not (words or all(type(c) is int for c in classes)):
                raise ValueError("classes")
            if len(classes) < 2:
                raise ValueError("classes")
            classes = np.array(classes, dtype=str if words else np.int64)
        shift, spread = (np.array(values[k], dtype=np.float64) for k in ("shift", "spread"))
        if shift.shape != (outputs,) or spread.shape != (outputs,):
            raise ValueError("targets")
        counts, sets = (bool(values.get(name, False)) for name in ("counts", "sets"))
        return cls(outputs, classes, shift, spread, counts=counts, sets=sets)

    @property
    def real(self) -> bool:
        """Whether targets are numbers: neither classes nor sets of labels."""
        return self.classes is None and not self.sets

    @property
    def metric_name(self) -> str:
        """accuracy or rmse."""
        return "rmse" if self.real else "accuracy"

    def metric_sum(self, loss: LossSection, weighted: bool = False) -> Callable[[Array, Array], float]:
        """Of a batch's outputs and targets: the number of right answers, or squared errors of the loss's predictions in
        the targets' units; each times the sample's weight where the last column of the targets is that."""
        if weighted:
            return self._weighted_sum(loss)
        if self.real:
            squares = self.spread**2

            def errors(z: Array, y: Array) -> float:
                xp = namespace(z)
                d = loss.mean(xp.astype(z, xp.float64)) - xp.astype(y, xp.float64)
                return float(xp.sum(to_device(squares, d) * d**2))

            return errors
        each = self.outputs == 1 or self.sets

        def right(z: Array, y: Array) -> float:
            xp = namespace(z)
            same = (z > 0) == (y > 0.5) if each else xp.argmax(z, axis=1) == xp.argmax(y, axis=1)
            return float(xp.sum(xp.astype(same, xp.int64))) / (y.shape[1] if each else 1)

        return right

    def _weighted_sum(self, loss: LossSection) -> Callable[[Array, Array], float]:
        squares, each = self.spread**2, self.outputs == 1 or self.sets

        def total(z: Array, weighted: Array) -> float:
            xp = namespace(z)
            y, w = weighted[:, :-1], xp.astype(weighted[:, -1], xp.float64)
            if self.real:
                d = loss.mean(xp.astype(z, xp.float64)) - xp.astype(y, xp.float64)
                return float(xp.sum(xp.sum(to_device(squares, d) * d**2, axis=1) * w))
            if each:
                same = xp.mean(xp.astype((z > 0) == (y > 0.5), xp.float64), axis=1)
            else:
                same = xp.astype(xp.argmax(z, axis=1) == xp.argmax(y, axis=1), xp.float64)
            return float(xp.sum(same * w))

        return total

    def metric_value(self, total: float, samples: int) -> float:
        """The metric from a sum over `samples` samples."""
        if self.real:
            return float(np.sqrt(total / (samples * self.outputs)))
        return total / samples


def class_labels(y: Values, outputs: int, loss: LossSection) -> Values | None:
    """The labels (N,) where raw targets are one class for each sample; None where they are something else."""
    single = y.ndim == 1 or y.shape[1] == 1
    return y.reshape(len(y)) if single and not _is_regression(y, outputs, loss) else None


def _is_regression(y: Values, outputs: int, loss: LossSection) -> bool:
    if loss.targets == "counts":
        return True
    if loss.targets == "classes" or y.dtype.kind == "U":
        return False
    labels = y.dtype.kind in "iub" and (y.ndim == 1 or y.shape[1] == 1)
    return not (labels and outputs > 1)


def _check_counts(real: Values, source: str | Origin) -> None:
    negative = np.flatnonzero((real < 0).any(axis=1))
    if negative.size:
        row = int(negative[0])
        raise UserError(f"{at(source, row)}: y is {real[row].min():g}, counts are not negative")


def _as_real(y: Values, outputs: int, source: str | Origin) -> Values:
    if y.dtype.kind == "U":
        raise UserError(f"{source}: y holds strings, numbers are needed")
    real = y.astype(np.float64).reshape(len(y), 1 if y.ndim == 1 else y.shape[1])
    if real.shape[1] != outputs:
        raise UserError(f"{source}: y has {real.shape[1]} target(s) per sample but the net has {outputs} output(s)")
    check_finite(real, source, "y")
    return real


def _as_labels(y: Values, source: str | Origin) -> Values:
    labels = y.reshape(len(y))
    if labels.dtype.kind == "f":
        check_finite(labels[:, None], source, "y")
        broken = np.flatnonzero(labels != np.round(labels))
        if broken.size:
            row = int(broken[0])
            raise UserError(f"{at(source, row)}: label {labels[row]} is not a whole number; classes are needed")
    if labels.dtype.kind == "U":
        return labels
    far = np.flatnonzero((labels > LARGEST_LABEL) | (labels < -LARGEST_LABEL))
    if far.size:
        row = int(far[0])
        raise UserError(f"{at(source, row)}: label {labels[row]} is too large; classes are small whole numbers")
    return labels.astype(np.int64)


def _as_sets(y: Values, outputs: int, source: str | Origin) -> Values:
    """Columns of 0 and 1, one for each label. Raises UserError naming the first row that has something else."""
    if y.ndim != 2 or y.shape[1] != outputs or y.dtype.kind == "U":
        have = "words" if y.dtype.kind == "U" else f"{1 if y.ndim == 1 else y.shape[1]} target(s) per sample"
        raise UserError(
            f"{source}: logistic with {outputs} outputs takes as many columns of 0 and 1, y has {have}; for one label "
            "of several use cross_entropy, for two classes one output"
        )
    bad = np.flatnonzero(((y != 0) & (y != 1)).any(axis=1))
    if bad.size:
        row = int(bad[0])
        raise UserError(f"{at(source, row)}: y is {y[row].tolist()}, labels of several outputs are 0 or 1")
    return y


def _check_distribution(y: Values, outputs: int, source: str | Origin) -> None:
    if y.shape[1] != outputs:
        raise UserError(f"{source}: y has {y.shape[1]} columns but the net has {outputs} output(s)")
    bad = np.flatnonzero((y < 0).any(axis=1) | ~(np.abs(y.sum(axis=1) - 1) < 1e-4))
    if bad.size:
        raise UserError(f"{at(source, int(bad[0]))}: y must be labels or rows that sum to 1")
