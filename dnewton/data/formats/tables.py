"""Tables of text: CSV with commas, semicolons, tabs or blanks, with or without a header, labels as numbers or words."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.data.format_register import FORMATS, Format, Opening
from dnewton.data.formats.table_beginning import cut, has_comma, holds_data, is_missing
from dnewton.data.formats.table_plan import Table, is_word, plan
from dnewton.data.formats.text import (
    BadLine,
    Parsed,
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

GAPS = "clean the data, or set data.missing: mean or drop"
_MISSING = re.compile(
    rb'(?i)(?:^|[,;|\t\n ])"?(?:[?]|n/?a|<na>|nan|null|none|#[a-z]+(?:/[a0])?[!?]?)?"?[ ]*(?=[,;|\t\r\n])'
)
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_COMMA = re.compile(rb"(?<![^;|\t\n ])([+-]?\d*),(\d+(?:[eE][+-]?\d+)?|)(?=[;|\t\n\r ]|$)")  # a whole number with one


def parse(text: bytes, table: Table) -> Rows:
    """The rows of a block of whole lines. Raises BadLine with the number of the first bad line in the block."""
    if text and not text.endswith(b"\n"):
        text += b"\n"
    lines = None
    if table.trailing:
        text = re.sub(re.escape(table.delimiter) + rb"[ \r]*(?=\n)", b"", text)
    if table.decimal == b",":
        text = _with_points(text, table)
    if table.free or ((table.drop or table.gaps) and _MISSING.search(text)):
        text = _rewritten(text, table)
    if b"#" in text or _BLANK_LINE.search(text) or text[:1].isspace() or b'"' in text:
        every = text.split(b"\n")[:-1]
        lines = [i for i, line in enumerate(every) if holds_data(line)]
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


def _with_points(text: bytes, table: Table) -> bytes:
    """The text with decimal points in the columns of numbers, which have commas. Raises BadLine for a point there."""
    words = {*table.free, *(table.targets if table.words else ())}
    if not words and b"." not in text and b'"' not in text:
        return _COMMA.sub(rb"\1.\2", text)
    out = []
    for number, line in enumerate(text.split(b"\n")[:-1]):
        try:
            fields = cut(line, table.delimiter) if holds_data(line) and line.count(b'"') % 2 == 0 else None
        except csv.Error:
            fields = None
        if fields is None:
            out.append(line)
            continue
        for j, field in enumerate(fields):
            if j in words:
                continue
            if b"." in field and is_number(field):
                what = f"column {j + 1}: {field.decode()!r} has a point where decimals have commas (data.decimal)"
                raise BadLine(number, what)
            if has_comma(field):
                fields[j] = field.replace(b",", b".")
        out.append(table.delimiter.join(_quoted_field(f, table.delimiter) for f in fields))
    return b"\n".join([*out, b""])


def _rewritten(text: bytes, table: Table) -> bytes:
    """The text with 0 in the columns that may hold anything, and nan for values of features that are missing, where
    they may be; lines stay lines."""
    out, free = [], set(table.free)
    features = table.features if table.drop or table.gaps else []
    for line in text.split(b"\n")[:-1]:
        try:
            fields = cut(line, table.delimiter) if holds_data(line) else None
        except csv.Error:
            fields = None
        if fields is None:
            out.append(line)
            continue
        while len(fields) < table.columns and len(fields) in free:
            fields.append(b"")
        for j in free:
            if j < len(fields):
                fields[j] = b"0"
        for j in features:
            if j < len(fields) and is_missing(fields[j]):
                fields[j] = b"nan"
        out.append(table.delimiter.join(_quoted_field(f, table.delimiter) for f in fields))
    return b"\n".join([*out, b""])


def _quoted_field(field: bytes, delimiter: bytes) -> bytes:
    return b'"' + field.replace(b'"', b'""') + b'"' if delimiter in field or b'"' in field else field


def _rows(numbers: Any, words: Any, lines: Any, table: Table) -> Rows:
    if table.drop and not np.isfinite(numbers.sum()):
        whole = ~np.isnan(numbers[:, table.features]).any(axis=1)
        numbers, lines = numbers[whole], lines[whole]
        words = None if words is None else words[whole]
    features = table.features
    bad: Any = []
    if not np.isfinite(numbers.sum()):
        fault = ~np.isfinite(numbers)
        if table.gaps:
            fault[:, features] = np.isinf(numbers[:, features])
        bad = np.argwhere(fault)
    if len(bad):
        row, column = (int(v) for v in bad[0])
        what = numbers[row, column]
        cure = GAPS if np.isnan(what) and column in features else "clean the data"
        raise BadLine(int(lines[row]), f"column {column + 1} is {what}; {cure}")
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
    features = () if table.gaps or table.drop else set(table.features)
    for number, line in enumerate(text.split(b"\n")[:-1]):
        fields = cut(line, table.delimiter)
        if len(fields) != table.columns:
            shown = ", ".join(table.first[:8]) + (", ..." if len(table.first) > 8 else "")
            return BadLine(
                number,
                f"has {len(fields)} columns, the first line {table.columns}: {shown} (see data.delimiter)",
            )
        for column, field in enumerate(fields):
            word = field.decode("utf-8", "replace")
            if table.words and column in table.targets:
                if not word:
                    return BadLine(number, f"column {column + 1}: the label is missing")
            elif is_missing(field) and column in features:
                return BadLine(number, f"column {column + 1}: {word!r} is no value; {GAPS}")
            elif not is_number(field):
                if is_missing(field) and column in table.targets:
                    return BadLine(number, f"column {column + 1}: the label is missing")
                return BadLine(number, f"column {column + 1}: {word[:40]!r} is not a number; {_cure(field, features)}")
    return BadLine(0, "cannot be read as a table")


def _cure(field: bytes, features: Collection[int]) -> str:
    if has_comma(field):
        return "decimal commas are read where all numbers have them (data.decimal)"
    return "clean the data, or leave the column out (data.ignore)" if features else "clean the data"


def _quoted(lines: list[bytes], places: Any, table: Table) -> Rows:
    """Rows with quotation marks, one by one."""
    numbers, words = np.zeros((len(lines), table.columns)), []
    for i, line in enumerate(lines):
        if line.count(b'"') % 2:
            raise BadLine(int(places[i]), "a quotation mark is not closed on its line")
        try:
            fields = cut(line, table.delimiter)
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
    return replace(table, delimiter=delimiter)


def _has_words(parsed: Parsed, comm: Comm) -> bool:
    """Whether a label of any rank's is a word. Collective over the world."""
    labels = {label for rows in parsed.blocks.values() for label in np.unique(rows.y).tolist()}
    return comm.minmax(float(any(is_word(label.encode()) for label in labels)))[1] > 0


def _open_table(path: str, labels: str | None, opening: Opening) -> Source:
    comm = opening.comm
    wanted = None if opening.target is None else list(opening.target)
    with comm.raise_together():
        table = plan(path, opening.features, wanted, opening)
    try:
        parsed = parse_file(path, lambda block: parse(block, table), comm, table.skip)
    except UserError as fault:  # alike on all ranks
        if len(table.targets) != 1 or table.words or table.real or table.unlabelled or opening.words is not None:
            raise
        table = replace(table, words=True)  # the column tells: a label further down may be a word
        try:
            parsed = parse_file(path, lambda block: parse(block, table), comm, table.skip)
        except UserError:
            raise fault from None
        if not _has_words(parsed, comm):
            raise fault
    if not parsed.starts[-1]:
        raise UserError(f"{path}: holds no samples")
    features = parsed_source(path, parsed, len(table.features), comm)
    features = replace(features, columns=table.names, notes=table.notes)
    if table.weight is not None:
        w = gathered_weights(parsed, comm)
        features = replace(features, weights=lambda: w)
    if not table.targets or table.unlabelled:
        return features
    y = gathered_targets(path, parsed, comm)
    return replace(features, targets=lambda: y, words=table.words if len(table.targets) == 1 else None)


FORMATS.add(".csv", ".tsv")(
    Format("a table of text", lambda head, path: is_text(head), _open_table, packed=True, is_table=True)
)
