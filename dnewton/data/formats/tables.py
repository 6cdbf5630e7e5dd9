"""Tables of text: CSV with commas, semicolons, tabs or blanks, with or without a header, labels as numbers or words."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnewton.data.file_kinds import guard, open_bytes
from dnewton.data.format_register import FORMATS, Format, Opening
from dnewton.data.formats.text import (
    BadLine,
    Rows,
    gathered_targets,
    gathered_weights,
    is_number,
    is_text,
    parse_file,
    parse_numbers,
)
from dnewton.data.formats.text import source as parsed_source
from dnewton.data.sources import Source
from dnewton.errors import UserError

_DELIMITERS = (b",", b";", b"\t")
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_MARK = b"\xef\xbb\xbf"  # some programs begin UTF-8 files with it
Target = str | int


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

    @property
    def features(self) -> list[int]:
        """The columns that are neither targets nor weights."""
        return [j for j in range(self.columns) if j not in self.targets and j != self.weight]


def plan(path: str, features: int | None, wanted: list[Target] | None, opening: Opening | None = None) -> Table:
    """Find out the layout from the first lines.

    Targets are the columns named (or numbered from 0) in `wanted`, else those after the first `features` columns, else
    the last one; the column of weights that the opening names does not count. Raises UserError when the columns do not
    fit.
    """
    every: list[bytes] = []
    lines: list[bytes] = []
    with guard(path), open_bytes(path) as file:
        while len(lines) < 20 and (line := file.readline(1 << 24)):
            every.append(line)
            if _holds_data(line.removeprefix(_MARK)):
                lines.append(line)
    if not lines:
        raise UserError(f"{path}: holds no samples")
    first = lines[0].removeprefix(_MARK)
    delimiter = _delimiter([first, *lines[1:]])
    try:
        fields = _fields(first, delimiter)
        sample = _fields(lines[1] if len(lines) > 1 else first, delimiter)
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from None
    header = not any(is_number(f) for f in fields)
    if header and len(lines) == 1:
        raise UserError(f"{path}: holds a header and no samples")
    skip = len(_MARK) if every[0].startswith(_MARK) else 0
    if header:
        skip = sum(len(line) for line in every[: every.index(lines[0]) + 1])
    columns = len(fields)
    heads = [f.decode("utf-8", "replace") for f in fields]
    weight = None if opening is None else _weight_column(path, opening, heads, header)
    others = [j for j in range(columns) if j != weight]
    if len(others) == features:
        targets: tuple[int, ...] = ()  # samples without labels
    elif wanted is not None:
        targets = tuple(_column(path, t, heads, header) for t in wanted)
        if weight in targets:
            raise UserError(f"{path}: data.weights and data.target name the same column")
        if len(set(targets)) < len(targets):
            raise UserError(f"{path}: data.target names a column twice")
    else:
        targets = tuple(others[len(others) - 1 if features is None else min(features, len(others)) :])
    if features is not None and len(others) - len(targets) != features:
        also = "" if weight is None else " and one the weights"
        raise UserError(
            f"{path}: has {columns} columns, {len(targets)} of them targets{also}, and net.input declares {features} "
            "features"
        )
    if len(others) == len(targets):
        raise UserError(f"{path}: has {columns} column(s) and no features")
    sample = sample if header else fields
    words = len(targets) == 1 and len(sample) > targets[0] and not is_number(sample[targets[0]])
    names = tuple(heads[j] for j in others if j not in targets) if header else None
    return Table(delimiter, columns, skip, targets, words, names, weight)


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
    return _column(path, wanted, names, header, "data.weights")


def _delimiter(lines: list[bytes]) -> bytes:
    """The one that cuts all lines into equally many columns; of several, the one that makes most columns."""
    best = b" ", 1
    for delimiter in _DELIMITERS:
        try:
            counts = {len(_fields(line, delimiter)) for line in lines}
        except csv.Error:
            continue
        if len(counts) == 1 and max(counts) > best[1]:
            best = delimiter, max(counts)
    if best[1] > 1:
        return best[0]
    return next((d for d in _DELIMITERS if d in lines[0]), b" ")


def _column(path: str, target: Target, names: list[str], header: bool, key: str = "data.target") -> int:
    if isinstance(target, int):
        if not -len(names) <= target < len(names):
            raise UserError(f"{path}: {key}: there is no column {target}; the file has {len(names)} columns")
        return target % len(names)
    if not header:
        raise UserError(f"{path}: {key}: the file has no header to find {target!r} in; give the column's number")
    if target not in names:
        raise UserError(f"{path}: {key}: no column is called {target!r}; there are {', '.join(names[:20])}")
    return names.index(target)


def _fields(line: bytes, delimiter: bytes) -> list[bytes]:
    if delimiter == b" ":
        return [word.strip(b'"') for word in line.split()]
    if b'"' in line:
        fields = next(csv.reader([line.decode("utf-8", "replace").strip("\r\n")], delimiter=delimiter.decode()))
        return [f.strip().encode() for f in fields]
    return [f.strip() for f in line.strip(b"\r\n").split(delimiter)]


def _holds_data(line: bytes) -> bool:
    return bool(line.strip()) and not line.startswith(b"#")


def parse(text: bytes, table: Table) -> Rows:
    """The rows of a block of whole lines. Raises BadLine with the number of the first bad line in the block."""
    if text and not text.endswith(b"\n"):
        text += b"\n"
    lines = None
    if b"#" in text or _BLANK_LINE.search(text) or text[:1].isspace() or b'"' in text:
        every = text.split(b"\n")[:-1]
        lines = [i for i, line in enumerate(every) if _holds_data(line)]
        if b'"' in text:
            return _quoted([every[i] for i in lines], np.array(lines, dtype=np.int64), table)
        text = b"".join(every[i] + b"\n" for i in lines)
    elif not text.strip():
        return _rows(np.zeros((0, table.columns)), None, np.zeros(0, dtype=np.int64), table)
    try:
        numbers, words = _fast(text, table)
    except BadLine as error:
        raise BadLine(error.line if lines is None else lines[error.line], str(error)) from None
    at = np.arange(len(numbers)) if lines is None else np.array(lines, dtype=np.int64)
    return _rows(numbers, words, at, table)


def _rows(numbers: Any, words: Any, lines: Any, table: Table) -> Rows:
    bad: Any = np.argwhere(~np.isfinite(numbers)) if not np.isfinite(numbers.sum()) else []
    if len(bad):
        row, column = (int(v) for v in bad[0])
        raise BadLine(int(lines[row]), f"column {column + 1} is {numbers[row, column]}; clean the data")
    features = table.features
    weights = None if table.weight is None else np.ascontiguousarray(numbers[:, table.weight])
    y = words if words is not None else numbers[:, list(table.targets)]
    if features == list(range(len(features))):
        values = np.ascontiguousarray(numbers[:, : len(features)])
    else:
        values = np.ascontiguousarray(numbers[:, features])
    return Rows(y, None, None, values, lines, weights)


def _fast(text: bytes, table: Table) -> tuple[Any, Any]:
    """All numbers by one parser in C; every field must hold just one token."""
    raw = np.frombuffer(text, dtype=np.uint8).copy()
    blank = raw <= 32 if table.delimiter == b" " else (raw <= 32) | (raw == table.delimiter[0])
    words = None
    ends = np.flatnonzero(raw == 10)
    if table.delimiter == b" ":
        starts = _run_starts(~blank)
        per_line = np.diff(np.searchsorted(starts, ends), prepend=0)
        fits = bool(np.all(per_line == table.columns))
        if fits and table.words:
            limits = starts[table.targets[0] :: table.columns]
            stops = np.append(np.flatnonzero(blank), len(raw))
            words = _words(text, raw, limits, stops[np.searchsorted(stops, limits)])
    else:
        bounds = np.flatnonzero((raw == 10) | (raw == table.delimiter[0]))
        per_line = np.diff(np.searchsorted(bounds, ends), prepend=-1)
        fits = bool(np.all(per_line == table.columns))
        if fits and table.words:
            k = table.targets[0]
            begins = np.concatenate([[0], bounds[:-1] + 1])[k :: table.columns]
            words = _words(text, raw, begins, bounds[k :: table.columns])
            if any(not w for w in words.tolist()):
                fits = False
            blank = (raw <= 32) | (raw == table.delimiter[0])
        if fits:
            starts = _run_starts(~blank)
            fits = len(starts) == len(bounds) and bool(np.all(starts < bounds) and np.all(starts[1:] > bounds[:-1]))
    if fits:
        if table.delimiter != b" ":
            raw[raw == table.delimiter[0]] = 32
        numbers = parse_numbers(raw.tobytes())
        if len(numbers) == len(ends) * table.columns:
            return numbers.reshape(len(ends), table.columns), words
    raise _first_fault(text, table)


def _run_starts(solid: Any) -> Any:
    starts = np.flatnonzero(solid[1:] & ~solid[:-1]) + 1
    return np.concatenate([[0], starts]) if len(solid) and solid[0] else starts


def _words(text: bytes, raw: Any, begins: Any, ends: Any) -> Any:
    """The fields between `begins` and `ends`, blotted out in `raw` by zeros."""
    words = [text[a:b].decode("utf-8", "replace").strip() for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    edges = np.zeros(len(raw) + 1, dtype=np.int8)
    edges[begins] += 1
    edges[ends] -= 1
    raw[np.cumsum(edges[:-1], dtype=np.int8) > 0] = 48
    return np.array(words, dtype=str)


def _first_fault(text: bytes, table: Table) -> BadLine:
    for number, line in enumerate(text.split(b"\n")[:-1]):
        fields = _fields(line, table.delimiter)
        if len(fields) != table.columns:
            return BadLine(number, f"has {len(fields)} columns, the first line {table.columns}")
        for column, field in enumerate(fields):
            word = field.decode("utf-8", "replace")
            if table.words and column in table.targets:
                if not word:
                    return BadLine(number, f"column {column + 1}: the label is missing")
            elif not is_number(field):
                return BadLine(number, f"column {column + 1}: {word[:40]!r} is not a number; clean the data")
    return BadLine(0, "cannot be read as a table")


def _quoted(lines: list[bytes], places: Any, table: Table) -> Rows:
    """Rows with quotation marks, one by one."""
    numbers, words = np.zeros((len(lines), table.columns)), []
    for i, line in enumerate(lines):
        if line.count(b'"') % 2:
            raise BadLine(int(places[i]), "a quotation mark is not closed on its line")
        try:
            fields = _fields(line, table.delimiter)
        except csv.Error as error:
            raise BadLine(int(places[i]), f"cannot be read: {error}") from None
        fault = _first_fault(b"\x1f".join(fields) + b"\n", _with_delimiter(table, b"\x1f"))
        if len(fields) != table.columns or "cannot be read" not in str(fault):
            raise BadLine(int(places[i]), str(fault))
        for j, field in enumerate(fields):
            if table.words and j in table.targets:
                words.append(field.decode("utf-8", "replace"))
            else:
                numbers[i, j] = float(field)
    return _rows(numbers, np.array(words, dtype=str) if table.words else None, places, table)


def _with_delimiter(table: Table, delimiter: bytes) -> Table:
    return Table(delimiter, table.columns, table.skip, table.targets, table.words, weight=table.weight)


def _open_table(path: str, labels: str | None, opening: Opening) -> Source:
    comm = opening.comm
    wanted = None if opening.target is None else list(opening.target)
    with comm.raise_together():
        table = plan(path, opening.features, wanted, opening)
    parsed = parse_file(path, lambda block: parse(block, table), comm, table.skip)
    if not parsed.starts[-1]:
        raise UserError(f"{path}: holds no samples")
    features = parsed_source(path, parsed, len(table.features), comm)
    features = replace(features, columns=table.names)
    if table.weight is not None:
        w = gathered_weights(parsed, comm)
        features = replace(features, weights=lambda: w)
    if not table.targets:
        return features
    y = gathered_targets(path, parsed, comm)
    return replace(features, targets=lambda: y)


FORMATS.add(".csv", ".tsv")(
    Format("a table of text", lambda head, path: is_text(head), _open_table, packed=True, is_table=True)
)
