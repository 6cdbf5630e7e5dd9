"""LIBSVM text: `label index:value index:value ...` per line, parsed in blocks as sparse matrices.

A whole block goes through one number parser in C; where each number belongs follows from the places of the colons.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from dnewton.data.file_kinds import guard, open_bytes, suffix_of
from dnewton.data.format_register import FORMATS, Format, Opening
from dnewton.data.formats.text import (
    BadLine,
    Parsed,
    Rows,
    gathered_targets,
    is_number,
    is_text,
    parse_file,
    parse_numbers,
)
from dnewton.data.formats.text import source as parsed_source
from dnewton.data.sources import Source
from dnewton.errors import UserError

_SUFFIXES = (".svm", ".libsvm", ".svmlight")
_DIGITS = 9  # of an index; they fit 32-bit integers


def parse(text: bytes, width: int | None, zero_based: bool | None) -> Rows:
    """The rows of a block of whole lines, as (labels, CSR parts); `width` is the declared number of features.

    Indices stay as they are in the file. Raises BadLine with the number of the first bad line in the block.
    """
    if b"#" in text or b"qid:" in text:
        text = _without_extras(text)
    raw = np.frombuffer(text, dtype=np.uint8)
    solid = raw > 32
    starts = np.flatnonzero(solid[1:] & ~solid[:-1]) + 1  # first bytes of tokens
    if raw.size and solid[0]:
        starts = np.concatenate([[0], starts])
    line_ends = np.flatnonzero(raw == 10)
    first = np.searchsorted(starts, np.concatenate([[0], line_ends + 1]))  # the first token of every line
    tokens = np.diff(np.append(first, len(starts)))
    lines = np.flatnonzero(tokens)  # a blank line is no sample
    heads = first[lines]
    counts = tokens[lines] - 1
    colons = np.flatnonzero(raw == 58)
    pairs = np.ones(len(starts), dtype=bool)
    pairs[heads] = False
    pair_starts = starts[pairs]
    labels = _labels_per_line(raw, starts, heads, lines)
    _check_pairs(raw, solid, colons, pair_starts, starts[heads], text)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    columns, rest = _indices(raw, pair_starts, colons, lambda place: _line_of(place, indptr, lines))
    numbers = _numbers(text, rest, labels * len(lines) + len(colons))
    head_places = indptr[:-1] + labels * np.arange(len(lines))
    keep = np.ones(len(numbers), dtype=bool)
    for k in range(labels):
        keep[head_places + k] = False
    y = np.stack([numbers[head_places + k] for k in range(labels)], axis=1) if len(lines) else np.zeros((0, 1))
    values = numbers[keep]
    _check_values(y, columns, values, indptr, lines, width, zero_based)
    return Rows(y, indptr, columns, values, lines)


def _line_of(place: int, indptr: Any, lines: Any) -> int:
    """The line that the pair number `place` of a block stands in."""
    return int(lines[np.searchsorted(indptr, place, side="right") - 1])


def _indices(raw: Any, starts: Any, colons: Any, line_of: Callable[[int], int]) -> tuple[Any, bytes]:
    """The whole numbers before the colons, digit by digit, and the text without them.

    They are half of all numbers and so simple that the general parser would be a waste.
    """
    rest = raw.copy()
    rest[raw == 44] = 32
    columns = np.zeros(len(colons), dtype=np.int64)
    lengths = colons - starts
    for k in range(int(lengths.max(initial=0))):
        some = slice(None) if lengths.min() > k else np.flatnonzero(lengths > k)
        digits = raw[colons[some] - 1 - k] - np.uint8(48)
        wrong = np.flatnonzero((digits > 9) | (k >= _DIGITS))
        if len(wrong):
            place = int(np.arange(len(colons))[some][wrong[0]])
            word = bytes(raw[starts[place] : colons[place]])
            raise BadLine(line_of(place), f"index {_show(word)} is not a whole number from 1 on, or is too large")
        columns[some] += digits * np.int64(10**k)
        rest[colons[some] - 1 - k] = 32
    rest[colons] = 32
    return columns, rest.tobytes()


def _without_extras(text: bytes) -> bytes:
    """The text without comments and query ids; lines stay lines."""
    out = []
    for line in text.split(b"\n"):
        words = line.split(b"#", 1)[0].split()
        out.append(b" ".join([w for i, w in enumerate(words) if i != 1 or not w.startswith(b"qid:")]))
    return b"\n".join(out)


def _without_labels(text: bytes) -> bytes:
    """The text with the label 0 on every line, whatever it was, or where there was none; lines stay lines."""
    out = []
    for line in text.split(b"\n"):
        words = line.split(b"#", 1)[0].split()
        pairs = [w for w in (words[1:] if words and b":" not in words[0] else words) if not w.startswith(b"qid:")]
        out.append(b" ".join([b"0", *pairs]) if words else b"")
    return b"\n".join(out)


def _labels_per_line(raw: Any, starts: Any, heads: Any, lines: Any) -> int:
    """1, or the number of comma-separated targets that every line begins with."""
    commas = np.flatnonzero(raw == 44)
    if not len(commas):
        return 1
    line_of = np.searchsorted(starts[heads], commas, side="right") - 1
    token = np.searchsorted(starts, commas, side="right") - 1
    stray = np.flatnonzero(token != heads[line_of])
    if len(stray):
        raise BadLine(int(lines[line_of[stray[0]]]), "a comma among the features; write index:value pairs")
    per_line = np.bincount(line_of, minlength=len(lines))
    odd = np.flatnonzero(per_line != per_line[0])
    if len(odd):
        raise BadLine(int(lines[odd[0]]), f"has {per_line[odd[0]] + 1} target(s), the lines before {per_line[0] + 1}")
    return int(per_line[0]) + 1


def _check_pairs(raw: Any, solid: Any, colons: Any, pair_starts: Any, head_starts: Any, text: bytes) -> None:
    """Every token but the first of a line must be index:value, with one colon inside."""
    if len(colons) == len(pair_starts):
        limits = np.append(pair_starts[1:], len(raw))
        inside = (colons > pair_starts) & (colons < limits)
        closed = solid[np.minimum(colons + 1, len(raw) - 1)] & (colons + 1 < len(raw)) & solid[colons - 1]
        if bool(np.all(inside & closed)):
            return
    for number, line in enumerate(text.split(b"\n")):  # something is wrong: look for it word by word
        for word in line.split()[:1]:
            if b":" in word:
                raise BadLine(number, f"begins with {_show(word)}; a label or target comes first")
        for word in line.split()[1:]:
            index, colon, value = word.partition(b":")
            if not (index and colon and value) or b":" in value:
                raise BadLine(number, f"{_show(word)} is not index:value")
    raise BadLine(0, "cannot be read as index:value pairs")


def _numbers(text: bytes, rest: bytes, wanted: int) -> Any:
    numbers = parse_numbers(rest)
    if len(numbers) == wanted:
        return numbers
    for line, content in enumerate(text.split(b"\n")):  # something is wrong: look for it word by word
        for word in content.split():
            for number in word.replace(b",", b":").split(b":"):
                if not is_number(number):
                    raise BadLine(line, f"{_show(number)} in {_show(word)} is not a number")
    raise BadLine(0, "holds something that is not a number")


def _check_values(
    y: Any, columns: Any, values: Any, indptr: Any, lines: Any, width: int | None, zero_based: bool | None
) -> None:
    def refuse(bad: Any, message: str, show: Any) -> None:
        places = np.flatnonzero(bad)
        if len(places):
            raise BadLine(_line_of(int(places[0]), indptr, lines), message.format(f"{show[places[0]]:.16g}"))

    broken = np.flatnonzero(~np.isfinite(y).all(axis=1))
    if len(broken):
        raise BadLine(int(lines[broken[0]]), f"the label is {y[broken[0]].tolist()}; clean the data")
    if not np.isfinite(values.sum()):
        refuse(~np.isfinite(values), "a value is {}; clean the data", values)
    if len(columns):
        falling = np.diff(columns) <= 0
        inner = indptr[1:-1]
        falling[inner[(inner > 0) & (inner < len(columns))] - 1] = False  # from one line to the next
        places = np.flatnonzero(falling)
        if len(places):
            i = int(places[0]) + 1
            raise BadLine(
                _line_of(i, indptr, lines), f"index {columns[i]} comes after {columns[i - 1]}; they must ascend"
            )
    if width is not None:
        refuse(columns > width, f"index {{}} is beyond net.input, which declares {width} features", columns)
    if zero_based is False:
        refuse(columns < 1, "index {} but the training file counts from 1", columns)


def _show(word: bytes) -> str:
    return repr(word[:40].decode("utf-8", "replace"))


def _open_libsvm(path: str, labels: str | None, opening: Opening) -> Source:
    comm, width = opening.comm, opening.features
    with comm.raise_together(), guard(path), open_bytes(path) as file:
        skip = 3 if file.read(3) == b"\xef\xbb\xbf" else 0  # a mark that some programs begin UTF-8 files with

    def parsed_block(block: bytes) -> Rows:
        return parse(_without_labels(block) if opening.unlabelled else block, width, opening.zero_based)

    parsed = parse_file(path, parsed_block, comm, skip)
    if not parsed.starts[-1]:
        raise UserError(f"{path}: holds no samples")
    columns = [rows.columns for rows in parsed.blocks.values() if len(rows.columns)]
    least = comm.minmax(float(min([2**31, *(int(c.min()) for c in columns)])))[0]
    most = int(comm.minmax(float(max([0, *(int(c.max()) for c in columns)])))[1])
    zero_based = least == 0 if opening.zero_based is None else opening.zero_based
    base = 0 if zero_based else 1
    features = width if width is not None else most + 1 - base
    if most - base >= features:
        with comm.raise_together():
            _refuse_last_index(path, parsed, base, features)
    source = parsed_source(path, parsed, features, comm, base, zero_based)
    if opening.unlabelled:
        return source
    y = gathered_targets(path, parsed, comm)
    return replace(source, targets=lambda: y)


def _refuse_last_index(path: str, parsed: Parsed, base: int, features: int) -> None:
    """Raise UserError for this rank's first index that is the width itself, where indices count from 0."""
    for b, rows in sorted(parsed.blocks.items()):
        places = np.flatnonzero(rows.columns - base >= features)
        if len(places):
            row = int(parsed.starts[b]) + int(np.searchsorted(rows.indptr, places[0], side="right")) - 1
            raise UserError(
                f"{path}: row {row}: index {int(rows.columns[places[0]])} is beyond net.input, which declares "
                f"{features} features; they count from 0 here, because an index 0 occurs"
            )


def _is_libsvm(head: bytes, path: str) -> bool:
    """By the suffix, as samples without features have nothing else that tells, or by an index:value."""
    return is_text(head) and (suffix_of(path) in _SUFFIXES or re.search(rb"(?:^|[\s])\d+:[^\s:]", head) is not None)


FORMATS.add(*_SUFFIXES)(Format("LIBSVM text", _is_libsvm, _open_libsvm, packed=True))
