"""What each column of a table is: a feature, a target, a weight, or to be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dnewton.data.format_register import Opening
from dnewton.data.formats.table_beginning import is_missing
from dnewton.data.formats.table_header import is_unnamed
from dnewton.errors import UserError

Target = str | int


@dataclass(frozen=True)
class Roles:
    """Column numbers by what they are for."""

    features: tuple[int, ...]
    targets: tuple[int, ...]
    weight: int | None
    ignored: tuple[int, ...]
    unnamed: tuple[int, ...]  # of the ignored ones those that nobody named


def roles(
    path: str,
    heads: list[str],
    header: bool,
    body: Sequence[Sequence[bytes]],
    features: int | None,
    wanted: list[Target] | None,
    opening: Opening,
) -> Roles:
    """The roles of columns with these names (or, without a `header`, fields). Raises UserError."""
    keys = opening.table
    weight = _weight_column(path, opening, heads, header)
    ignored = _ignored(path, heads, header, opening)
    chosen = None
    if keys.features is not None:
        chosen = tuple(column(path, c, heads, header, "data.features") for c in keys.features)
    unnamed: tuple[int, ...] = ()
    if header and chosen is None:
        apart = {weight, *ignored}
        unnamed = _unnamed(heads, apart, features, wanted, opening, body)
    others = [j for j in range(len(heads)) if j != weight and j not in ignored and j not in unnamed]
    targets = _targets(path, features, wanted, opening, heads, header, others, weight, chosen)
    if chosen is not None and (both := sorted({*chosen} & {*targets, *ignored, weight} - {None})):
        raise UserError(
            f"{path}: data.features names column {heads[both[0]]!r}, which is a target, a weight or ignored"
        )
    left = tuple(j for j in others if j not in targets) if chosen is None else chosen
    return Roles(left, targets, weight, (*ignored, *unnamed), unnamed)


def _ignored(path: str, heads: list[str], header: bool, opening: Opening) -> tuple[int, ...]:
    """The columns of data.ignore; in other tables than that of the training those that it names may be missing."""
    names = [c for c in opening.table.ignore if opening.strict or not isinstance(c, str) or c in heads]
    return tuple(column(path, c, heads, header, "data.ignore") for c in names)


def _unnamed(
    heads: list[str],
    apart: set[int | None],
    features: int | None,
    wanted: list[Target] | None,
    opening: Opening,
    body: Sequence[Sequence[bytes]],
) -> tuple[int, ...]:
    """Columns without a name that nobody needs: the first ones, which number or name the rows, and empty ones."""
    asked = {*(wanted or ()), opening.weights}
    found: list[int] = []
    first = True
    for j, name in enumerate(heads):
        empty = name == "" and all(j >= len(row) or is_missing(row[j]) for row in body)
        first &= is_unnamed(name)
        if not (first or empty) or j in apart or j in asked or j - len(heads) in asked or name in asked:
            continue
        left = len(heads) - len(apart - {None}) - len(found) - 1
        if opening.columns is not None:
            needed = name in opening.columns
        else:
            needed = features is None or left < features + (opening.unlabelled is None)
        if not needed:
            found.append(j)
    return tuple(found)


def _targets(
    path: str,
    features: int | None,
    wanted: list[Target] | None,
    opening: Opening,
    heads: list[str],
    header: bool,
    others: list[int],
    weight: int | None,
    chosen: tuple[int, ...] | None,
) -> tuple[int, ...]:
    unlabelled = opening.unlabelled
    known = set(unlabelled.names or ()) if unlabelled is not None and header else set()
    if known and len(known) == features and known <= set(heads):
        return tuple(j for j in others if heads[j] not in known)
    if chosen is not None and wanted is None:
        rest = [j for j in others if j not in chosen]
        return tuple(rest[-1:])
    if len(others) == features and not (wanted is not None and opening.strict):
        return ()
    if wanted is None:
        return tuple(others[len(others) - 1 if features is None else min(features, len(others)) :])
    targets = tuple(column(path, t, heads, header) for t in wanted)
    if weight in targets:
        raise UserError(f"{path}: data.weights and data.target name the same column")
    if len(set(targets)) < len(targets):
        raise UserError(f"{path}: data.target names a column twice")
    return targets


def _weight_column(path: str, opening: Opening, names: list[str], header: bool) -> int | None:
    """The number of the column that `data.weights` names; None where a file need not have it and has not.

    By its number it is looked for where there are more columns than features and targets. Raises UserError where the
    file must have it.
    """
    wanted = opening.weights
    if wanted is None:
        return None
    if not opening.needs_weights:
        targets = 1 if opening.target is None else len(opening.target)
        spare = opening.features is None or len(names) > opening.features + targets
        if not (spare if isinstance(wanted, int) else header and wanted in names):
            return None
    return column(path, wanted, names, header, "data.weights")


def column(path: str, target: Target, names: list[str], header: bool, key: str = "data.target") -> int:
    """The number of a column. Raises UserError where there is none of this name or number."""
    if isinstance(target, int):
        if not -len(names) <= target < len(names):
            raise UserError(f"{path}: {key}: there is no column {target}; the file has {len(names)} columns")
        return target % len(names)
    if not header:
        raise UserError(
            f"{path}: {key}: the file has no header to find {target!r} in; give the column's number, or set "
            "data.header: true"
        )
    if target not in names:
        raise UserError(f"{path}: {key}: no column is called {target!r}; there are {', '.join(names[:20])}")
    if (count := Counter(names)[target]) > 1:
        raise UserError(f"{path}: {key}: {count} columns are called {target!r}; give the column's number, from 0")
    return names.index(target)
