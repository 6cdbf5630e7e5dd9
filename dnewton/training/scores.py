"""How good predictions are: accuracy, area under the ROC curve, confusion matrix, root mean squared error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dnewton.data.sources import Values
from dnewton.data.targets import Targets

LARGEST_MATRIX = 30  # classes that a printed confusion matrix may have


@dataclass(frozen=True)
class Scores:
    """The figures for a set with known targets; `matrix[i, j]` counts class i predicted as class j."""

    samples: int
    accuracy: float | None = None
    correct: int = 0
    auc: float | None = None
    rmse: float | None = None
    rmse_per_target: list[float] = field(default_factory=list)
    r2: float | None = None  # 1 - squared errors over squared distances from the mean, summed over the targets
    largest_error: float | None = None  # of any value, in its units
    exact: float | None = None  # of sets of labels: the share of samples with all of them right
    matrix: Any = None
    classes: list[Any] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values, without what does not apply."""
        values = {
            "samples": self.samples,
            "accuracy": self.accuracy,
            "auc": self.auc,
            "rmse": self.rmse,
            "rmse_per_target": self.rmse_per_target if len(self.rmse_per_target) > 1 else None,
            "r2": self.r2,
            "largest_error": self.largest_error,
            "exact": self.exact,
            "classes": self.classes or None,
            "confusion_matrix": None if self.matrix is None else self.matrix.tolist(),
        }
        return {k: v for k, v in values.items() if v is not None}

    def lines(self) -> list[str]:
        """The figures as text."""
        if self.accuracy is None:
            each = ", ".join(f"{v:.6g}" for v in self.rmse_per_target)
            out = [f"rmse      {self.rmse:.6g}" + (f"  (per target: {each})" if len(self.rmse_per_target) > 1 else "")]
            if self.r2 is not None:
                out.append(f"R²        {share_text(self.r2)}")
            return [*out, f"largest error  {self.largest_error:.4g}"]
        if self.exact is not None:
            auc = "not defined: a label has one value only" if self.auc is None else f"{self.auc:.6g}"
            return [
                f"accuracy  {self.accuracy:.6g}  (of single labels; all right: {self.exact:.6g})",
                f"auc       {auc}",
            ]
        out = [f"accuracy  {self.accuracy:.6g}  ({self.correct} of {self.samples})"]
        out.append(f"auc       {self.auc:.6g}" if self.auc is not None else "auc       not defined: a class is missing")
        names = [str(c) for c in self.classes]
        if len(names) > LARGEST_MATRIX:
            return [*out, f"confusion matrix: {len(names)} classes, see --scores"]
        width = max(5, *(len(n) for n in names), len(str(self.matrix.max())))
        out.append("confusion matrix (rows: true label, columns: predicted)")
        out.append(" ".join(f"{n:>{width}}" for n in ["", *names]))
        for name, row in zip(names, self.matrix, strict=True):
            out.append(" ".join(f"{v:>{width}}" for v in [name, *row.tolist()]))
        return out


def score(z: Values, y: Values, targets: Targets) -> Scores:
    """The figures for outputs z (N, K) and encoded targets y (N, K)."""
    n = len(z)
    if targets.real:
        squares = ((z - y) * targets.spread) ** 2
        apart = float((((y - y.mean(axis=0)) * targets.spread) ** 2).sum())
        return Scores(
            n,
            rmse=float(np.sqrt(squares.mean())),
            rmse_per_target=[float(v) for v in np.sqrt(squares.mean(axis=0))],
            r2=1 - float(squares.sum()) / apart if apart > 0 else None,
            largest_error=float(np.sqrt(squares.max())),
        )
    if targets.classes is None:
        return _of_sets(z, y > 0.5)
    count = len(targets.classes)
    if targets.outputs == 1:
        count = 2
        predicted, true = (z[:, 0] > 0).astype(int), (y[:, 0] > 0.5).astype(int)
        auc = area_under_curve(z[:, 0], true)
    else:
        z = z[:, :count]
        predicted, true = targets.places(z), np.argmax(y, axis=1)
        areas = [area_under_curve(_log_odds(z, k), true == k) for k in range(count)]
        defined = [a for a in areas if a is not None]
        auc = float(np.mean(defined)) if len(defined) == count else None
        if count == 2:
            auc = areas[1]
    matrix = np.zeros((count, count), dtype=np.int64)
    np.add.at(matrix, (true, predicted), 1)
    correct = int(np.trace(matrix))
    return Scores(n, correct / n, correct, auc, matrix=matrix, classes=targets.classes.tolist()[:count])


def _of_sets(z: Values, y: Values) -> Scores:
    same = (z > 0) == y
    areas = [area_under_curve(z[:, k], y[:, k]) for k in range(z.shape[1])]
    defined = [a for a in areas if a is not None]
    auc = float(np.mean(defined)) if len(defined) == len(areas) else None
    return Scores(len(z), float(same.mean()), int(same.sum()), auc, exact=float(same.all(axis=1).mean()))


def share_text(share: float) -> str:
    """A share of 1 in significant digits of what it lacks: 0.98765, or 1 - 2.3e-07."""
    return f"1 - {1 - share:.3g}" if 0.999 < share < 1 else f"{share:.5g}"


def _log_odds(z: Values, k: int) -> Values:
    """log p_k/(1 - p_k) of the softmax: it orders samples as p_k does, without its rounding to 0 and 1."""
    others = np.delete(z, k, axis=1)
    top = others.max(axis=1)
    return np.asarray(z[:, k] - top - np.log(np.exp(others - top[:, None]).sum(axis=1)))


def area_under_curve(scores: Values, positive: Values) -> float | None:
    """The probability that a positive sample scores above a negative one, ties counting half; None without both.

    Mann and Whitney 1947: (sum of the positives' ranks - n₊(n₊+1)/2) / (n₊ n₋).
    """
    positive = np.asarray(positive, dtype=bool)
    n, p = len(scores), int(positive.sum())
    if p in (0, n):
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * (n - p)))
