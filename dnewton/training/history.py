"""The figures of a run as arrays: one entry for each line of metrics.jsonl, as pandas takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def history_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An array per figure; figures inside others have both names with a point between, and what is missing is NaN."""
    rows = [_flat(record) for record in records]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _array([row.get(name) for row in rows]) for name in names}


def _flat(record: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            row.update(_flat(value, f"{before}{name}."))
        else:
            row[before + name] = value
    return row


def _array(values: Sequence[Any]) -> Any:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values])
    if all(isinstance(value, int) for value in values):
        return np.array(values)
    if any(isinstance(value, (list, tuple)) for value in values):
        return np.array([json.dumps(value) for value in values])
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
