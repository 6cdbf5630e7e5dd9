"""The beginning of a table of text, and how it is written: delimiter, decimal sign, line ends, title lines.

The first lines decide together: the delimiter is the one by which they all have equally many fields.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from statistics import mode

from dnewton.data.file_kinds import guard, open_bytes
from dnewton.data.formats.text import is_number, line_end
from dnewton.data.table_keys import TableKeys
from dnewton.errors import UserError

BEGINNING = 64 << 10  # bytes that are looked at
LINES = 200
_LONGEST = 16 << 20  # bytes that are looked at where lines are long
_FEW = 20  # lines
_FIELDS = 1000  # of a line that are looked at
DELIMITERS = (b",", b";", b"\t", b"|", b" ")
_MARK = b"\xef\xbb\xbf"  # some programs begin UTF-8 files with it
_COMMA = re.compile(rb"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_POINT = re.compile(rb"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")
_WORD = re.compile(rb'"(?:[^"]|"")*"|\S+')
_ERRORS = (b"#n/a", b"#div/0!", b"#ref!", b"#value!", b"#name?", b"#num!", b"#null!")  # of spreadsheets
MISSING = frozenset([b"", b"?", b"na", b"n/a", b"<na>", b"nan", b"null", b"none", *_ERRORS])  # in any case of letters
_NO_COMMENT = re.compile(rb"(?i)#(?:[,;|\t]|(?:" + b"|".join(re.escape(e[1:]) for e in _ERRORS) + rb")(?:[,;|\t ]|$))")
_THOUSANDS = re.compile(rb"[+-]?[1-9]\d{0,2}(,\d{3})+")


@dataclass(frozen=True)
class Beginning:
    """The first lines with data of a file, without comments and blank lines, and where they start in the file."""

    lines: list[bytes]
    starts: list[int]  # and where the last one ends
    newline: bytes  # b"\n" also ends lines that end with b"\r\n"


@dataclass(frozen=True)
class Dialect:
    """How a table is written."""

    delimiter: bytes  # b" " stands for any run of blanks
    decimal: bytes
    trailing: bool  # lines end with the delimiter
    titles: int  # lines of the beginning above the table
    columns: int


def holds_data(line: bytes) -> bool:
    """Whether a line is neither blank nor a comment. A column may be called #, or begin with an error of a
    spreadsheet, such as #N/A."""
    return bool(line.strip()) and (not line.startswith(b"#") or _NO_COMMENT.match(line) is not None)


def is_missing(field: bytes) -> bool:
    """Whether a field stands for no value."""
    return len(field) < 9 and field.lower() in MISSING


def read_beginning(path: str, skip_rows: int = 0) -> Beginning:
    """The first lines after `skip_rows` lines. Raises UserError where nothing follows."""
    with guard(path), open_bytes(path) as file:
        head = file.read(BEGINNING)
        newline = line_end(head)
        while head.count(newline) < _FEW + skip_rows and len(head) < _LONGEST and (more := file.read(len(head))):
            head += more
        whole = not file.read(1)
    at = len(_MARK) if head.startswith(_MARK) else 0
    for _ in range(skip_rows):
        at = head.find(newline, at) + 1
        if not at:
            raise UserError(f"{path}: data.skip_rows: {skip_rows} leaves no line of its beginning")
    lines: list[bytes] = []
    starts: list[int] = []
    while at < len(head) and len(lines) < LINES:
        end = head.find(newline, at) + 1
        if not end:
            if not whole and lines:  # the last line is not whole
                break
            end = len(head)
        if holds_data(head[at:end]):
            lines.append(head[at:end].strip(b"\r\n"))
            starts.append(at)
        at = end
    return Beginning(lines, [*starts, at], newline)


def cut(line: bytes, delimiter: bytes) -> list[bytes]:
    """The fields of a line, without blanks and quotation marks around them. Raises csv.Error."""
    if delimiter == b" ":
        if b'"' not in line:
            return line.split()
        words = (w.group() for w in _WORD.finditer(line))
        return [w[1:-1].replace(b'""', b'"').strip() if w[:1] == w[-1:] == b'"' and len(w) > 1 else w for w in words]
    if b'"' in line:
        text = line.decode("utf-8", "surrogateescape").strip("\r\n")
        fields = next(csv.reader([text], delimiter=delimiter.decode(), skipinitialspace=True))
        return [f.strip().encode("utf-8", "surrogateescape") for f in fields]
    return [f.strip() for f in line.strip(b"\r\n").split(delimiter)]


def dialect(path: str, beginning: Beginning, keys: TableKeys, ragged: bool = False) -> Dialect:
    """How the table is written, where the keys do not say it. `ragged`: lines may end early.

    Raises UserError for lines that are no table.
    """
    wanted = None if keys.delimiter is None else keys.delimiter.encode()
    best: tuple[float, ...] = ()
    found: tuple[bytes, list[list[bytes]]] | None = None
    fault = ""
    for delimiter in DELIMITERS if wanted is None else (wanted,):
        try:
            rows = [cut(line, delimiter) for line in beginning.lines]
        except csv.Error as error:
            fault = str(error)
            continue
        score = _score(rows, delimiter, ragged)
        if found is None or score > best:
            best, found = score, (delimiter, rows)
    if found is None:
        raise UserError(f"{path}: cannot be read as a table: {fault}")
    delimiter, rows = found
    trailing = delimiter != b" " and _all_end(rows, ragged)
    if trailing:
        rows = [row[:-1] if row[-1] == b"" else row for row in rows]
    columns = _columns(rows, ragged)
    titles = 0 if keys.header is False else _titles(rows, columns, delimiter, ragged)
    body = rows[titles:]
    decimal = keys.decimal.encode() if keys.decimal is not None else _decimal(path, body)
    return Dialect(delimiter, decimal, trailing, titles, columns)


def _score(rows: list[list[bytes]], delimiter: bytes, ragged: bool) -> tuple[float, ...]:
    """How well a delimiter fits: whether there are columns, the lines that agree, the share of numbers, the columns."""
    if delimiter != b" " and _all_end(rows, ragged):
        rows = [row[:-1] if row[-1] == b"" else row for row in rows]
    columns = _columns(rows, ragged)
    body = rows[_titles(rows, columns, delimiter, ragged) :]
    if columns < 2:
        return (0.0, 0.0, 0.0, float(delimiter == b" "))
    agree = sum(len(row) == columns for row in body) / len(body)
    data = body[1:] or body
    numbers = fields = 0
    hollow = [True] * min(columns, _FIELDS)
    for j, field in enumerate(body[0][:columns][:_FIELDS]):
        hollow[j] &= is_missing(field)
    for row in data[:_FEW]:
        for j, field in enumerate(row[:_FIELDS]):
            if is_missing(field):
                continue
            if j < len(hollow):
                hollow[j] = False
            fields += 1
            numbers += is_number(field) or has_comma(field)
    if not ragged and len(data) > 1:
        fields += sum(hollow) * len(data[:_FEW])  # a column in which nothing ever stands is none
    return (1.0, agree if agree == 1 or not ragged else 0.9, numbers / max(1, fields), float(columns))


def _columns(rows: list[list[bytes]], ragged: bool) -> int:
    """What most lines have, of several the last ones."""
    counts = [len(row) for row in reversed(rows)]
    return max(counts) if ragged else mode(counts)


def _all_end(rows: list[list[bytes]], ragged: bool) -> bool:
    """Whether every line of the table, a header aside that is shorter, ends with the delimiter."""
    columns = _columns(rows, ragged)
    return columns > 1 and all(row[-1] == b"" for row in rows if len(row) == columns)


def _titles(rows: list[list[bytes]], columns: int, delimiter: bytes, ragged: bool) -> int:
    """How many first lines are no lines of the table: they have another number of fields, and are mostly words or say
    how many rows and columns follow."""
    for k, row in enumerate(rows):
        filled = [field for field in row if not is_missing(field)]
        alone = len(row) == columns > 2 and len(filled) == 1 and not is_number(filled[0]) and delimiter != b" "
        if not alone and (len(row) == columns or not _is_title(row, columns, delimiter, ragged)):
            return k
    return 0


def _is_title(row: list[bytes], columns: int, delimiter: bytes, ragged: bool) -> bool:
    numbers = [field for field in row if is_number(field)]
    if ragged:
        return not numbers
    if len(numbers) == len(row):
        whole = all(field.isdigit() for field in row)
        return whole and len(row) < min(4, columns) and any(int(field) in (columns, columns - 1) for field in row)
    if len(row) > columns and delimiter != b" " and not numbers:
        return False  # rather a header of other lines
    return 2 * len(numbers) <= len(row)


def _decimal(path: str, rows: list[list[bytes]]) -> bytes:
    """The comma where numbers are written with one and none with a point.

    Raises UserError where each of them may be a number of thousands.
    """
    fields = [field for row in rows for field in row[:_FIELDS]]
    commas = [field for field in fields if _COMMA.fullmatch(field)]
    if not commas or any(_POINT.fullmatch(field) for field in fields):
        return b"."
    if all(_THOUSANDS.fullmatch(field) for field in commas):
        raise UserError(
            f"{path}: {commas[0].decode()} may be a fraction or thousands; set data.decimal: ',' for fractions, or "
            "write the numbers without commas"
        )
    return b","


def has_comma(field: bytes) -> bool:
    """Whether a field is a number with a decimal comma."""
    return _COMMA.fullmatch(field) is not None
