"""Whether the first line of a table names its columns, which the lines below it tell."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from dnewton.data.formats.table_beginning import has_comma, is_missing
from dnewton.data.formats.text import is_number

_NAMES = (
    "label, labels, class, classes, target, targets, y, output, outcome, response, category, species, quality, result"
)
TARGET_NAMES = frozenset(_NAMES.split(", "))
_INDEX_NAME = re.compile(
    r"|unnamed: ?\d+|index|idx|id|row|rows|row[ _.]?names?|row[ _]?(?:id|number)|nr|no|#|sample|obs"
)
Fields = Sequence[bytes]
FEW = 5  # lines, of which nothing can be told


def has_header(first: Fields, rest: Sequence[Fields], names: Collection[str] = (), numbers_alone: bool = True) -> bool:
    """Whether the fields of the first line are names. `names`: those of columns that are known; where one of them that
    is no number stands in the line, it is a header. `numbers_alone`: whether a line of numbers may be one.

    Otherwise: a line without numbers is one; words above columns of numbers are names, unless a single one of them may
    be a label, that occurs once, beside numbers which are no names; numbers alone are names if they count the columns.
    """
    heads = {field.decode("utf-8", "replace") for field in first}
    if any(n in heads and not is_number(n.encode()) for n in names):
        return True
    numbers = [field for field in first if _is_value(field)]
    words = [j for j, field in enumerate(first) if not _is_value(field) and not is_missing(field)]
    if not numbers:
        return len(words) > 1 or len(words) == len(first)
    if not rest:
        return False
    above = [j for j in words if _is_numeric(rest, j)]
    if len(above) > 1:
        return True
    named = any(first[j].decode("utf-8", "replace").lower() in TARGET_NAMES for j in words)
    below = {row[j] for row in rest for j in words if j < len(row)}
    if words and (named or above):
        return _may_be_names(numbers, rest) or (named and not any(first[j] in below for j in words))
    if any(first[j] in below for j in words):
        return False
    if not words and not (numbers_alone and len(rest) >= FEW):
        return False
    return len(numbers) > (2 if words else 1) and _count_columns(numbers, rest, strict=not words)


def _is_value(field: bytes) -> bool:
    return (is_number(field) and not is_missing(field)) or has_comma(field)


def _is_numeric(rows: Sequence[Fields], j: int) -> bool:
    """Whether a column holds numbers and nothing else."""
    found = [row[j] for row in rows if j < len(row) and not is_missing(row[j])]
    return bool(found) and all(_is_value(field) for field in found)


def _may_be_names(numbers: Fields, rest: Sequence[Fields]) -> bool:
    """Whether numbers beside a word can be names: they ascend, whole or several, and most rows below do not."""
    rows = [[f for f in row if _is_value(f)] for row in rest]
    return _ascend(numbers) and 2 * sum(map(_ascend, rows)) < len(rows)


def _ascend(fields: Fields) -> bool:
    if not all(f.isdigit() for f in fields) and (len(fields) < 5 or any(has_comma(f) for f in fields)):
        return False
    values = [float(f) for f in fields]
    return all(a < b for a, b in zip(values, values[1:], strict=False))


def _count_columns(numbers: Fields, rest: Sequence[Fields], strict: bool) -> bool:
    """Whether numbers count the columns, from 0 or 1 on, and no row below does so; `strict`: of few columns, and from
    1, only above fractions."""
    if not _counts(numbers) or any(_counts([f for f in row if _is_value(f)]) for row in rest):
        return False
    if not strict or (len(numbers) > 3 and int(numbers[0]) == 0):
        return True
    width = max(len(row) for row in rest)
    fractions = {j for row in rest for j, f in enumerate(row) if not f.lstrip(b"+-").isdigit() and not is_missing(f)}
    return 2 * len(fractions) >= width


def _counts(fields: Fields) -> bool:
    """Whether fields are 0, 1, 2, ... or 1, 2, 3, ..."""
    if len(fields) < 2 or fields[0] not in (b"0", b"1"):
        return False
    first = int(fields[0])
    return all(field == b"%d" % (first + k) for k, field in enumerate(fields))


def counts_rows(rows: Sequence[Fields]) -> bool:
    """Whether the first column is the number of the row, from 0 or 1 on."""
    return len(rows) > 2 and _counts([row[0] if row else b"" for row in rows])


def numbers_rows(rows: Sequence[Fields]) -> bool:
    """Whether the first column numbers the rows or has a different word for each: it can be no feature."""
    first = [row[0] if row else b"" for row in rows]
    words = not any(_is_value(field) for field in first) and len(set(first)) == len(first)
    return len(rows) > 2 and (_counts(first) or words)


def names_rows(above: Fields, rows: Sequence[Fields], lines: Sequence[bytes], names: Collection[str] = ()) -> bool:
    """Whether the line above a table names its columns but the first, which numbers or names the rows, as R writes
    tables: `above` has a field less than the `rows`, which R begins with a word or a number in quotes (`lines`)."""
    if len(rows) < 2 or any(len(row) != len(above) + 1 for row in rows):
        return False
    quoted = all(line.startswith(b'"') for line in lines)
    return (quoted or numbers_rows(rows)) and has_header(above, [row[1:] for row in rows], names)


def are_units(rows: Sequence[Fields]) -> bool:
    """Whether the first line below a header has words, such as units, in the columns of numbers that follow, and no
    number."""
    if len(rows) < 3 or any(_is_value(field) for field in rows[0]):
        return False
    numeric = [j for j in range(len(rows[0])) if _is_numeric(rows[1:], j)]
    words = [j for j in numeric if not is_missing(rows[0][j])]
    return len(words) > 0 and 2 * len(numeric) >= len(rows[0])


def is_unnamed(name: str) -> bool:
    """Whether a column has no name, as pandas writes that of its index, or reads it."""
    return name == "" or re.fullmatch(r"unnamed: ?\d+(\.\d+)?", name.lower()) is not None


def is_index_name(name: str) -> bool:
    """Whether a column of this name numbers the rows, as far as the name tells."""
    return _INDEX_NAME.fullmatch(name.strip().lower()) is not None
