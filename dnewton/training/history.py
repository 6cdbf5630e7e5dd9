"""The figures of a run as arrays: one entry for each line of metrics.jsonl, as pandas takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnewton.reporting.figures import columns


def history_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An array per figure; figures inside others have both names with a point between, and what is missing is NaN."""
    return {name: _array(values) for name, values in columns(records).items()}


def _array(values: Sequence[Any]) -> Any:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values])
    if all(isinstance(value, int) for value in values):
        return np.array(values)
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
