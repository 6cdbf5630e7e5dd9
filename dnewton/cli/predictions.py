"""Predictions as a file, by the ending of its name, or as a table on standard output."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnewton.data.sources import Values
from dnewton.errors import UserError, one_line

STDOUT = "-"


@dataclass(frozen=True)
class Predictions:
    """What a model says of N samples: `predicted` labels (N,) or values (N,) or (N, K); `outputs` (N, K) of the net;
    `probabilities` (N, classes) of the labels `classes`, where they were asked for; `names` of the K values;
    `deviations`, standard ones, of the values (N, K) or the probabilities, where they were asked for."""

    predicted: Values
    outputs: Values
    probabilities: Values | None
    classes: Values | None
    names: tuple[str, ...]
    deviations: Values | None = None

    def columns(self) -> dict[str, list[Any]]:
        """A table: `label` or the values' names, then p_<label> for each class, then std_<value or label>."""
        if self.classes is not None:
            table = {"label": self.predicted.tolist()}
        else:
            values = self.predicted.reshape(len(self.outputs), -1)
            table = {name: values[:, k].tolist() for k, name in enumerate(self.names)}
        if self.probabilities is not None:
            labels = self.names if self.classes is None else self.classes.tolist()
            table.update({f"p_{c}": self.probabilities[:, k].tolist() for k, c in enumerate(labels)})
        if self.deviations is not None:
            labels = self.names if self.classes is None else self.classes.tolist()
            table.update({f"std_{c}": self.deviations[:, k].tolist() for k, c in enumerate(labels)})
        return table

    def arrays(self) -> dict[str, Values]:
        """The arrays `prediction`, `output` and, where asked for, `probabilities`, `classes` and `std`."""
        found = {"prediction": self.predicted, "output": self.outputs}
        if self.probabilities is not None:
            found["probabilities"] = self.probabilities
            if self.classes is not None:
                found["classes"] = self.classes
        if self.deviations is not None:
            found["std"] = self.deviations
        return found


def value_names(outputs: int, target: list[str | int] | None) -> tuple[str, ...]:
    """Names of a regression's values: those of the training table's columns, else value, or value_0, value_1, ..."""
    if target is not None and len(target) == outputs and all(isinstance(t, str) for t in target):
        return tuple(str(t) for t in target)
    return ("value",) if outputs == 1 else tuple(f"value_{k}" for k in range(outputs))


def check(path: str, probabilities: bool, deviations: bool = False) -> None:
    """Raise UserError where the ending of a name stands for nothing, or nothing with what else was asked for."""
    if path == STDOUT:
        return
    ending = os.path.splitext(path)[1]
    if ending not in _WRITERS:
        raise UserError(f"--out {path}: the name must end in {', '.join(_WRITERS)}, or be - for standard output")
    if deviations and ending in (".txt", ".npy"):
        raise UserError(f"--std: {path} would hold predictions only; --out needs a name that ends in .csv or .npz")
    if probabilities and ending == ".txt":
        raise UserError(f"--probabilities: {path} would hold labels only; --out needs a name that ends in .csv or .npz")


def write(path: str, predictions: Predictions) -> None:
    """The whole file, or none; of this rank alone. Raises UserError where standard output takes nothing, OSError."""
    if path == STDOUT:
        _to_stdout(_table(predictions))
        return
    temporary = path + ".tmp"
    _WRITERS[os.path.splitext(path)[1]](temporary, predictions)
    os.replace(temporary, path)


def _to_stdout(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head`; what is left to flush goes nowhere
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except OSError as error:
        raise UserError(
            f"--out {STDOUT}: standard output cannot be written: {one_line(error.strerror or error)}"
        ) from None


def _table(predictions: Predictions) -> str:
    columns = predictions.columns()
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    return out.getvalue()


def _write_csv(path: str, predictions: Predictions) -> None:
    Path(path).write_text(_table(predictions), encoding="utf-8")


def _write_json(path: str, predictions: Predictions) -> None:
    columns = {name: [_plain(v) for v in values] for name, values in predictions.columns().items()}
    Path(path).write_text(json.dumps(columns, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_txt(path: str, predictions: Predictions) -> None:
    predicted = predictions.predicted
    rows = predicted[:, None] if predicted.ndim == 1 else predicted
    numbers = rows.dtype.kind == "f"
    text = "\n".join(",".join(f"{v:.9g}" if numbers else str(v) for v in row) for row in rows.tolist())
    Path(path).write_text(text + "\n", encoding="utf-8")


def _write_npy(path: str, predictions: Predictions) -> None:
    with open(path, "wb") as file:
        np.save(file, predictions.predicted if predictions.probabilities is None else predictions.probabilities)


def _write_npz(path: str, predictions: Predictions) -> None:
    with open(path, "wb") as file:
        np.savez(file, **predictions.arrays())  # type: ignore[arg-type]


def _write_hdf5(path: str, predictions: Predictions) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in predictions.arrays().items():
            text = values.dtype.kind == "U"
            dtype = h5py.string_dtype() if text else values.dtype
            file.create_dataset(name, data=values.astype(object) if text else values, dtype=dtype)


_WRITERS: dict[str, Callable[[str, Predictions], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".h5": _write_hdf5,
    ".hdf5": _write_hdf5,
    ".txt": _write_txt,
}
