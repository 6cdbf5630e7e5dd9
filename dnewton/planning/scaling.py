"""From forecasts on several numbers of ranks to speed-up, efficiency, and where adding ranks stops paying. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dnewton.errors import UserError

LEAST_GAIN = 1.1  # how much faster twice the ranks, or fewer than twice, must be to pay
MOST = 64  # numbers of ranks in a list
LARGEST = 2**20


class Forecast(Protocol):
    """What this module asks of a plan."""

    @property
    def ranks(self) -> int:
        """Of the job."""
        ...

    @property
    def total(self) -> float:
        """Seconds of an iteration."""
        ...


T = TypeVar("T", bound=Forecast)


@dataclass(frozen=True)
class Row(Generic[T]):
    """A forecast beside the first one."""

    planned: T
    faster: float
    efficiency: float


@dataclass(frozen=True)
class Scaling(Generic[T]):
    """Forecasts by rising numbers of ranks."""

    rows: tuple[Row[T], ...]

    @classmethod
    def of(cls, found: Sequence[T]) -> Scaling[T]:
        """Speed-up over the fewest ranks, and that over the ranks that were added."""
        first = found[0]
        rows = []
        for planned in found:
            faster = first.total / planned.total if planned.total else 1.0
            rows.append(Row(planned, faster, faster * first.ranks / planned.ranks))
        return cls(tuple(rows))


def paying(scaling: Scaling[T]) -> Row[T]:
    """The most ranks that pay: each number before them makes an iteration clearly faster than the one before it."""
    found = scaling.rows[0]
    for row in scaling.rows[1:]:
        doublings = max(1.0, math.log2(row.planned.ranks / found.planned.ranks))
        if row.faster < LEAST_GAIN**doublings * found.faster:
            break
        found = row
    return found


def verdict(scaling: Scaling[T]) -> str:
    """Where adding ranks stops paying, in a sentence; empty for a single number of ranks."""
    rows = scaling.rows
    if len(rows) < 2:
        return ""
    last = rows[-1]
    best = max(rows, key=lambda row: row.faster)
    pays = paying(scaling)
    if pays is last:
        return f"adding ranks pays up to {last.planned.ranks}, the most that was asked for"
    most = pays.planned.ranks
    if best is pays:
        return f"beyond {most} rank(s) more ranks cost more than they save"
    return (
        f"beyond {most} rank(s) more ranks save little: the quickest iteration is {best.faster / pays.faster:.2g}x as "
        f"fast, on {best.planned.ranks}"
    )


def rank_list(text: str) -> list[int]:
    """Numbers of ranks from `8`, `1,2,4` or `1,2,4,...,1024`, where the progression goes on. Raises UserError."""
    found: list[int] = []
    words = [word.strip() for word in text.split(",")]
    for k, word in enumerate(words):
        if word in ("...", "…"):
            if k + 2 != len(words) or len(found) < 2:
                raise UserError(f"--ranks {text}: ... stands after at least two numbers and before the last one")
            found += _going_on(found, _number(words[-1], text), text)
            break
        found.append(_number(word, text))
    if any(b <= a for a, b in zip(found, found[1:], strict=False)):
        raise UserError(f"--ranks {text}: numbers of ranks must rise")
    if len(found) > MOST:
        raise UserError(f"--ranks {text}: {len(found)} numbers; use at most {MOST}")
    return found


def _going_on(found: Sequence[int], end: int, text: str) -> list[int]:
    """The numbers after those `found`, up to the end: by their ratio, or by their difference."""
    before, last = found[-2], found[-1]
    ratios = all(b * found[-2] == a * found[-1] for a, b in zip(found, found[1:], strict=False))
    geometric = ratios and last % before == 0 and last > before and (len(found) > 2 or last == 2 * before)
    step = last - before
    if step <= 0 or (not geometric and any(b - a != step for a, b in zip(found, found[1:], strict=False))):
        raise UserError(f"--ranks {text}: the numbers before ... have neither a common ratio nor a common difference")
    following: list[int] = []
    while True:
        value = (following or found)[-1]
        value = value * last // before if geometric else value + step
        if value >= end or len(following) > MOST:
            return [*following, end]
        following.append(value)


def _number(word: str, text: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= LARGEST:
        shown = word if word != text else ""
        raise UserError(
            f"--ranks {text}: {f'{shown}: ' if shown else ''}a number of ranks from 1 to {LARGEST} is needed"
        )
    return int(word)
