"""The layout of a table of text, found out from its beginning and what the data section says of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dnewton.data.format_register import Opening
from dnewton.data.formats.table_beginning import Dialect, cut, dialect, is_missing, read_beginning
from dnewton.data.formats.table_columns import Target, roles
from dnewton.data.formats.table_header import are_units, counts_rows, has_header, is_index_name, names_rows
from dnewton.data.formats.text import is_number
from dnewton.errors import UserError

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
    numbers = opening.strict or opening.columns is not None  # may be names: not where the training table had none
    header = has_header(rows[0], rows[1:], known, numbers) if keys.header is None else keys.header
    titles = written.titles
    above = _fields(beginning.lines[titles - 1], written) if titles else []
    stated = keys.header is True and len(above) == len(rows[0]) - 1
    if stated or (not header and above and names_rows(above, rows, beginning.lines[titles:], known)):
        rows, header, titles = [[b"", *above], *rows], True, titles - 1
    units = header and are_units(rows[1:])
    body = rows[1 + units :] if header else rows
    if not body:
        raise UserError(f"{path}: holds a header and no samples")
    columns = len(rows[0]) if header else written.columns
    heads = [f.decode("utf-8", "replace") for f in (rows[0] if header else max(rows, key=len))]
    if len(heads) != columns:
        columns = len(heads)
    skip = beginning.starts[titles + header + units]
    first = tuple(f.decode("utf-8", "replace") for f in rows[0])
    known_roles = roles(path, heads, header, body, features, wanted, opening)
    targets, left, chosen = known_roles.targets, known_roles.features, None
    if keys.features is not None:
        chosen = left
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
        words = opening.words if opening.words is not None else not real and any(map(is_word, inside))
    names = tuple(heads[j] for j in left) if header else None
    table = Table(
        written.delimiter,
        columns,
        skip,
        targets,
        words,
        names,
        known_roles.weight,
        unlabelled=unlabelled is not None and bool(targets),
        chosen=chosen,
        ignored=known_roles.ignored,
        trailing=written.trailing,
        decimal=written.decimal,
        first=first,
        drop=keys.drop,
        gaps=keys.gaps,
        real=real,
    )
    asides = [f"{len(known_roles.unnamed)} column(s) without a name left out"] if known_roles.unnamed else []
    asides += ["a line of units left out"] if units else []
    return _with_notes(path, table, written, header, heads, body, beginning.lines[:titles], asides)


def _are_fractions(fields: Sequence[bytes], decimal: bytes) -> bool:
    """Whether most of the fields are numbers with something behind the decimal sign."""
    numbers = [f.replace(decimal, b".") for f in fields]
    fractions = sum(is_number(f) and math.isfinite(v := float(f)) and v != math.floor(v) for f in numbers)
    return 2 * fractions > len(fields)


def _fields(line: bytes, written: Dialect) -> list[bytes]:
    fields = cut(line, written.delimiter)
    return fields[:-1] if written.trailing and len(fields) > 1 and fields[-1] == b"" else fields


def is_word(field: bytes) -> bool:
    """Whether a field is neither a number nor missing."""
    return not is_number(field) and not is_missing(field)


def _words(columns: Sequence[Target] | None) -> list[str]:
    return [c for c in columns or () if isinstance(c, str)]


def _with_notes(
    path: str,
    table: Table,
    written: Dialect,
    header: bool,
    heads: list[str],
    body: list[list[bytes]],
    above: list[bytes],
    asides: list[str],
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
    notes = [f"{path}: {'; '.join([*about, *asides])}"]
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
