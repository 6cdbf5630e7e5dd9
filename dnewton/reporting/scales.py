"""Axes: from values to positions, and ticks with labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LARGEST = 1e290  # what is larger is drawn at the edge: differences of such values overflow
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high` on a line from position `start` to `end`, in powers of ten where it is `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """The position of a value; what lies outside is placed at the edge."""
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def shows(self, value: float | None) -> bool:
        """Whether the value has a position: on an axis in powers of ten only those above 0."""
        return value is not None and (not self.log or value > 0)

    def ticks(self, most: int = 6, whole: bool = False) -> list[tuple[float, str]]:
        """At most about `most` values of the axis, `whole` numbers where asked, with their labels."""
        if self.log:
            return _log_ticks(self.low, self.high, most)
        return _linear_ticks(self.low, self.high, most, 1.0 if whole else 0.0)


def scale_for(
    values: Iterable[float | None],
    start: float,
    end: float,
    log: bool = False,
    limits: tuple[float, float] | None = None,
    tight: bool = False,
) -> Scale:
    """An axis that shows all values. `log` is taken back where a value is below 0, or none above; `limits` bound the
    axis, and a `tight` one begins and ends with its values."""
    known = [value for value in values if value is not None and abs(value) < _LARGEST]
    positive = [value for value in known if value > 1 / _LARGEST]
    log = log and bool(positive) and not any(value < 0 for value in known)
    shown = positive if log else known
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    if limits is not None:
        low, high = min(max(low, limits[0]), limits[1]), max(min(high, limits[1]), limits[0])
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - _around(low), high + _around(high))
    elif log and not tight:
        margin = (high / low) ** 0.04
        low, high = low / margin, high * margin
    elif not tight:
        margin = 0.04 * (high - low)
        low, high = low - margin, high + margin
    return Scale(low, high, start, end, log)


def _around(value: float) -> float:
    return abs(value) / 10 or 1.0


def _linear_ticks(low: float, high: float, most: int, least: float = 0.0) -> list[tuple[float, str]]:
    rough = max((high - low) / most, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * s for s in _STEPS if power * s >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    values = [step * k for k in range(first, math.floor(high / step + 1e-9) + 1)]
    digits = max(0, -math.floor(math.log10(step)) + (1 if step / power == 2.5 else 0))
    largest = max(map(abs, values), default=0.0)
    if largest >= 1e6 or (largest > 0 and largest < 1e-3):
        return [(value, "0" if value == 0 else f"{value:.3g}") for value in values]
    return [(value, f"{value:,.{digits}f}") for value in values]


def _log_ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    if last - first >= 2:
        every = math.ceil((last - first + 1) / (most + 2))
        plain = first >= -3 and last <= 4
        names = {k: f"{10.0**k:g}" if plain else power_of_ten(k) for k in range(first, last + 1) if k % every == 0}
        return [(10.0**k, name) for k, name in names.items()]
    decades = range(first - 1, last + 1)
    fine = [m * 10.0**k for k in decades for m in (1, 2, 5)]
    inside = [value for value in fine if low <= value <= high]
    if len(inside) < 3:
        inside = [value for value in (m * 10.0**k for k in decades for m in (1, 2, 3, 4, 5, 7)) if low <= value <= high]
    if len(inside) < 3:
        return [(value, f"{value:.6g}") for value, _ in _linear_ticks(low, high, most) if value > 0]
    return [(value, f"{value:.6g}") for value in inside]


def power_of_ten(exponent: int) -> str:
    """10⁻³ and the like; 1 is 1."""
    return "10" + str(exponent).translate(_RAISED) if exponent else "1"


_BYTES = ("B", "kB", "MB", "GB", "TB", "PB")


def bytes_unit(largest: float) -> tuple[float, str]:
    """What bytes are divided by on an axis up to `largest`, and the unit's name."""
    step = 0
    while largest >= 2000 and step < len(_BYTES) - 1:
        largest /= 1000
        step += 1
    return 1000.0**step, _BYTES[step]


def seconds_unit(largest: float) -> tuple[float, str]:
    """What seconds are divided by on an axis up to `largest`, and the unit's name."""
    for unit, name in ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if largest >= 3 * unit:
            return unit, name
    return (1.0, "s") if largest >= 0.1 else (1e-3, "ms")


def thinned(places: Sequence[float], heights: Sequence[float]) -> list[int]:
    """Which points of a line to keep, so that it looks the same: in every column of one pixel the first, the lowest,
    the highest and the last."""
    kept: list[int] = []
    begin = 0
    for k in range(1, len(places) + 1):
        if k < len(places) and math.floor(places[k]) == math.floor(places[begin]):
            continue
        column = range(begin, k)
        lowest, highest = min(column, key=heights.__getitem__), max(column, key=heights.__getitem__)
        kept += sorted({begin, lowest, highest, k - 1})
        begin = k
    return kept
