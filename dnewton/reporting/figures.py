"""The figures of a run by name: records inside records have both names with a point between."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def flat(record: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A line of metrics.jsonl as one row: {"comm": {"cg": {"bytes": 1}}} becomes {"comm.cg.bytes": 1}."""
    row: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            row.update(flat(value, f"{before}{name}."))
        else:
            row[before + name] = value
    return row


def columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """A list per figure, an entry per record; None where a record lacks it, lists as JSON."""
    rows = [flat(record) for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [_plain(row.get(name)) for row in rows] for name in names}


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def finite(value: Any) -> float | None:
    """A number that can be drawn, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def numbers(columns: Mapping[str, Sequence[Any]], name: str) -> list[float | None]:
    """A column as numbers; None where there is none, all of them where the column is missing."""
    if name in columns:
        return [finite(value) for value in columns[name]]
    return [None] * max(map(len, columns.values()), default=0)


def metric_names(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """accuracy or rmse: what has a column of the training part."""
    return [name.removeprefix("train_") for name in columns if name in ("train_accuracy", "train_rmse")]
