"""The layout of a table of text, found out from its beginning and what the data section says of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dnewton.data.format_register import Opening
from dnewton.data.formats.table_beginning import Dialect, cut, dialect, is_missing, read_beginning
from dnewton.data.formats.table_header import (
    counts_rows,
    has_header,
    is_index_name,
    is_unnamed,
    names_rows,
    numbers_rows,
)
from dnewton.data.formats.text import is_number
from dnewton.data.table_keys import TableKeys
from dnewton.errors import UserError

Target = str | int
SHOWN = 8  # names of columns in a line of the log


@dataclass(frozen=True)
class Table:
    """How a file of text is laid out."""

    delimiter: bytes  # b" " stands for any run of blanks
    columns: int
    skip: int  # bytes before the first line after the header
    targets: tuple[int, ...]  # column numbers
    words: bool  # the one target column holds words
    names: tuple[str, ...] | None = None  # of the features, where there is a header
    weight: int | None = None  # the column with weights of the samples
    unlabelled: bool = False  # what the target columns hold does not count, and lines may end before them
    chosen: tuple[int, ...] | None = None  # the feature columns, where they are not all others
    ignored: tuple[int, ...] = ()
    trailing: bool = False  # lines end with the delimiter
    decimal: bytes = b"."
    first: tuple[str, ...] = ()  # the fields of the first line, for messages
    notes: tuple[str, ...] = ()
    drop: bool = False  # samples with a feature without a value
    gaps: bool = False  # features without a value are NaN
    real: bool = False  # the one target column holds fractions: a word in it is a mistake

    @property
    def features(self) -> list[int]:
        """The columns that are neither targets nor weights nor ignored."""
        if self.chosen is not None:
            return list(self.chosen)
        apart = {*self.targets, *self.ignored, self.weight}
        return [j for j in range(self.columns) if j not in apart]

    @property
    def free(self) -> tuple[int, ...]:
        """Columns that may hold anything."""
        used = {*self.features, *self.targets, self.weight}
        unused = tuple(j for j in range(self.columns) if j not in used)
        return (*unused, *self.targets) if self.unlabelled else unused


def plan(path: str, features: int | None, wanted: list[Target] | None, opening: Opening | None = None) -> Table:
    """Find out the layout from the first lines.

    Targets are the columns named (or numbered from 0) in `wanted`, else those after the first `features` columns, else
    the last one; the columns of weights, and those to ignore, do not count. Without labels all columns but the
    features count as targets, where the features are known by name. Raises UserError when the columns do not fit.
    """
    opening = opening or Opening("data.train", features, None)  # type: ignore[arg-type]
    keys, unlabelled = opening.table, opening.unlabelled
    beginning = read_beginning(path, keys.skip_rows)
    if not beginning.lines:
        raise UserError(f"{path}: holds no samples")
    written = dialect(path, beginning, keys, ragged=unlabelled is not None)
    try:
        rows = [_fields(line, written) for line in beginning.lines[written.titles :]]
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from None
    known = [*_words(wanted), *_words(keys.features), *_words(keys.ignore)]
    known += unlabelled.names or () if unlabelled else ()
    header = has_header(rows[0], rows[1:], known) if keys.header is None else keys.header
    titles = written.titles
    if not header and titles and names_rows(above := _fields(beginning.lines[titles - 1], written), rows, known):
        rows, header, titles = [[b"", *above], *rows], True, titles - 1
    if header and len(rows) == 1:
        raise UserError(f"{path}: holds a header and no samples")
    body = rows[1:] if header else rows
    columns = len(rows[0]) if header else written.columns
    heads = [f.decode("utf-8", "replace") for f in (rows[0] if header else max(rows, key=len))]
    if len(heads) != columns:
        columns = len(heads)
    skip = beginning.starts[titles + header]
    first = tuple(f.decode("utf-8", "replace") for f in rows[0])
    weight = _weight_column(path, opening, heads, header)
    ignored = tuple(column(path, c, heads, header, "data.ignore") for c in keys.ignore)
    if not ignored and header and is_unnamed(heads[0]) and _is_spare(heads, features, wanted, opening, rows[1:]):
        ignored = (0,)
    chosen = None
    if keys.features is not None:
        chosen = tuple(column(path, c, heads, header, "data.features") for c in keys.features)
    others = [j for j in range(columns) if j != weight and j not in ignored]
    targets = _targets(path, features, wanted, opening, heads, header, others, weight, chosen)
    if chosen is None:
        left = [j for j in others if j not in targets]
    else:
        left = list(chosen)
    if features is not None and len(left) != features:
        shown = ", ".join(first[:SHOWN]) + (", ..." if len(first) > SHOWN else "")
        raise UserError(
            f"{path}: has {columns} columns, {len(targets)} of them targets, {len(left)} left, and net.input declares "
            f"{features} features; the first line was cut as {shown} (see data.delimiter, data.ignore, data.target)"
        )
    if not left:
        raise UserError(f"{path}: has {columns} column(s) and no features")
    words = real = False
    if unlabelled is None and len(targets) == 1:
        at = targets[0]
        inside = [row[at] for row in body if at < len(row)]
        real = _are_fractions(inside, written.decimal)
        words = opening.words if opening.words is not None else not real and any(not is_number(f) for f in inside)
    names = tuple(heads[j] for j in left) if header else None
    table = Table(
        written.delimiter,
        columns,
        skip,
        targets,
        words,
        names,
        weight,
        unlabelled=unlabelled is not None and bool(targets),
        chosen=chosen,
        ignored=ignored,
        trailing=written.trailing,
        decimal=written.decimal,
        first=first,
        drop=keys.drop,
        gaps=keys.gaps,
        real=real,
    )
    return _with_notes(path, table, written, header, heads, body, beginning.lines[:titles], keys)


def _is_spare(
    heads: list[str],
    features: int | None,
    wanted: list[Target] | None,
    opening: Opening,
    body: Sequence[Sequence[bytes]],
) -> bool:
    """Whether a first column without a name is one of numbers or names of the rows, which the net can do without."""
    asked = (*(wanted or ()), *(opening.table.features or ()), opening.weights)
    if 0 in asked or -len(heads) in asked or opening.table.features is not None:
        return False
    if opening.columns is not None:
        return heads[0] not in opening.columns
    if features is not None and len(heads) - 1 < features + (opening.unlabelled is None):
        return False
    return numbers_rows(body)


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
    if len(others) == features:
        return ()
    if wanted is None:
        return tuple(others[len(others) - 1 if features is None else min(features, len(others)) :])
    targets = tuple(column(path, t, heads, header) for t in wanted)
    if weight in targets:
        raise UserError(f"{path}: data.weights and data.target name the same column")
    if len(set(targets)) < len(targets):
        raise UserError(f"{path}: data.target names a column twice")
    return targets


def _are_fractions(fields: Sequence[bytes], decimal: bytes) -> bool:
    """Whether most of the fields are numbers with something behind the decimal sign."""
    numbers = [f.replace(decimal, b".") for f in fields]
    fractions = sum(is_number(f) and math.isfinite(v := float(f)) and v != math.floor(v) for f in numbers)
    return 2 * fractions > len(fields)


def _fields(line: bytes, written: Dialect) -> list[bytes]:
    fields = cut(line, written.delimiter)
    return fields[:-1] if written.trailing and len(fields) > 1 and fields[-1] == b"" else fields


def _words(columns: Sequence[Target] | None) -> list[str]:
    return [c for c in columns or () if isinstance(c, str)]


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
    return names.index(target)


def _with_notes(
    path: str,
    table: Table,
    written: Dialect,
    header: bool,
    heads: list[str],
    body: list[list[bytes]],
    above: list[bytes],
    keys: TableKeys,
) -> Table:
    """The table with what was decided, in a line for the log, and a warning where rows look numbered."""
    names = [heads[j] for j in table.features]
    listed = " ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
    kind = {b" ": "blanks", b"\t": "tabs"}.get(written.delimiter, repr(written.delimiter.decode()))
    about = [f"{'header' if header else 'no header'}, {kind} between columns"]
    if above:
        about.append(f"{len(above)} title line(s)")
    if written.decimal == b",":
        about.append("decimal commas")
    about.append(f"{len(names)} features{f' {listed}' if header else ''}")
    if table.targets and not table.unlabelled:
        where = ", ".join(heads[j] if header else f"column {j}" for j in table.targets)
        about.append(f"{'labels (words)' if table.words else 'targets'} in {where}")
    if table.ignored and not keys.ignore:
        about.append("the first column, which has no name, is left out")
    notes = [f"{path}: {'; '.join(about)}"]
    if above and not header and (cut_short := _fields(above[-1], written)) and len(cut_short) > 1:
        notes.append(
            f"warning: {path}: the line above the table has {len(cut_short)} fields and the table {table.columns} "
            f"columns, so that it is no header: {above[-1][:60].decode('utf-8', 'replace')}"
        )
    index = header and is_index_name(heads[0]) and not any(is_missing(row[0]) for row in body)
    if 0 in table.features and table.chosen is None and (counts_rows(body) or (index and len(body) > 2)):
        notes.append(
            f"warning: {path}: the first column looks like the number of the row and is taken as a feature; "
            "data.ignore: [0] leaves it out"
        )
    return replace(table, notes=tuple(notes))
