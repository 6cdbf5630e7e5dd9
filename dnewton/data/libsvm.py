"""One block of LIBSVM text as a sparse matrix: `label index:value index:value ...` per line.

The whole block goes through one number parser in C; where each number belongs follows from the places of the colons.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dnewton.data.text import BadLine, Rows, is_number, parse_numbers

_TO_SPACE = bytes.maketrans(b":,", b"  ")
_SAFE = 2**31 - 2


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
    numbers = _numbers(text, labels * len(lines) + 2 * len(colons))
    ends = np.cumsum(labels + 2 * counts)
    head_places = ends - 2 * counts - labels
    keep = np.ones(len(numbers), dtype=bool)
    for k in range(labels):
        keep[head_places + k] = False
    y = np.stack([numbers[head_places + k] for k in range(labels)], axis=1) if len(lines) else np.zeros((0, 1))
    rest = numbers[keep]
    columns, values = rest[0::2], rest[1::2]
    indptr = np.concatenate([[0], np.cumsum(counts)])
    _check_values(y, columns, values, indptr, lines, width, zero_based)
    return Rows(y, indptr, columns.astype(np.int64), np.ascontiguousarray(values), lines)


def _without_extras(text: bytes) -> bytes:
    """The text without comments and query ids; lines stay lines."""
    out = []
    for line in text.split(b"\n"):
        words = line.split(b"#", 1)[0].split()
        out.append(b" ".join([w for i, w in enumerate(words) if i != 1 or not w.startswith(b"qid:")]))
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


def _numbers(text: bytes, wanted: int) -> Any:
    numbers = parse_numbers(text.translate(_TO_SPACE))
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
    def line_of(place: int) -> int:
        return int(lines[np.searchsorted(indptr, place, side="right") - 1])

    def refuse(bad: Any, message: str, show: Any) -> None:
        places = np.flatnonzero(bad)
        if len(places):
            raise BadLine(line_of(int(places[0])), message.format(f"{show[places[0]]:.16g}"))

    broken = np.flatnonzero(~np.isfinite(y).all(axis=1))
    if len(broken):
        raise BadLine(int(lines[broken[0]]), f"the label is {y[broken[0]].tolist()}; clean the data")
    if not np.isfinite(values.sum()):
        refuse(~np.isfinite(values), "a value is {}; clean the data", values)
    refuse((columns != np.floor(columns)) | ~(columns >= 0), "index {} is not a whole number from 1 on", columns)
    refuse(columns > _SAFE, "index {} is too large", columns)
    if len(columns):
        falling = np.diff(columns) <= 0
        inner = indptr[1:-1]
        falling[inner[(inner > 0) & (inner < len(columns))] - 1] = False  # from one line to the next
        places = np.flatnonzero(falling)
        if len(places):
            i = int(places[0]) + 1
            raise BadLine(line_of(i), f"index {columns[i]:.0f} comes after {columns[i - 1]:.0f}; they must ascend")
    if width is not None:
        refuse(columns > width, f"index {{}} is beyond net.input, which declares {width} features", columns)
    if zero_based is False:
        refuse(columns < 1, "index {} but the training file counts from 1", columns)


def _show(word: bytes) -> str:
    return repr(word[:40].decode("utf-8", "replace"))
