"""Opens what the YAML's data section names: bundled sets, and files of every readable kind, alone or several."""

from __future__ import annotations

import os
from dataclasses import replace

from dnewton.config.schema import DataPart, FilePair
from dnewton.data import weights
from dnewton.data.bundled import NAMES, read_bundled
from dnewton.data.file_kinds import check_regular, kind_of
from dnewton.data.format_register import FORMATS, Opening
from dnewton.data.sources import Source, from_arrays, joined
from dnewton.errors import UserError


def is_bundled(name: object) -> bool:
    """True for a bundled set that no file of the same name hides."""
    return isinstance(name, str) and name in NAMES and not os.path.isfile(name)


def find_part(part: DataPart, folder: str) -> DataPart:
    """A data part with absolute paths, looked up in the working directory and then in `folder`, the YAML file's.

    The name of a bundled set, and a name that is not found, stay as they are.
    """
    if isinstance(part, FilePair):
        w = None if part.w is None else _find(part.w, folder)
        return FilePair(x=_find(part.x, folder), y=_find(part.y, folder), w=w)
    if isinstance(part, str):
        return _find(part, folder)
    return [_find(name, folder) for name in part]


def find_weights(name: str | int | None, folder: str) -> str | int | None:
    """`data.weights`, likewise where it is a file."""
    return _find(name, folder) if isinstance(name, str) and weights.is_file(name) else name


def _find(name: str, folder: str) -> str:
    if is_bundled(name):
        return name
    path = next((p for p in (name, os.path.join(folder, name)) if os.path.exists(p)), None)
    return os.path.abspath(path) if path else name


def open_part(part: DataPart, opening: Opening) -> Source:
    """The source of one part of the data. Raises UserError alike on all ranks. Collective over the world."""
    if isinstance(part, FilePair):
        source = _open_file(part.x, part.y, opening)
        return source if part.w is None else weights.with_file(source, part.w, f"{opening.key}.w", opening.comm)
    if isinstance(part, str):
        return _open_bundled(part, opening) if is_bundled(part) else _open_file(part, None, opening)
    sources = []
    for name in part:
        sources.append(_open_file(name, None, opening))
        if sources[-1].zero_based is not None and opening.zero_based is None:
            opening = replace(opening, zero_based=sources[-1].zero_based)
    return joined(sources, f"{part[0]} and {len(part) - 1} more" if len(part) > 1 else part[0])


def _open_bundled(name: str, opening: Opening) -> Source:
    if opening.key not in ("data.train", "data.test", "--data"):
        raise UserError(f"{opening.key}: {name} is a bundled set with a train and a test part; name a file")
    if opening.needs_weights:
        raise UserError(f"data.weights: {name} is a bundled set and has none; give a file (.npy, .csv, .tsv, .txt)")
    part = "train" if opening.key.endswith("train") else "test"
    x = y = None
    with opening.comm.raise_together():
        if opening.comm.rank == 0:
            x, y = read_bundled(name, part)
    return from_arrays(name, opening.comm.array_from_root(x), opening.comm.array_from_root(y))


def _open_file(path: str, labels: str | None, opening: Opening) -> Source:
    comm = opening.comm
    name = ""
    with comm.raise_together():
        for needed in (path, *([labels] if labels is not None else [])):
            if not os.path.lexists(needed):
                raise UserError(f"{opening.key}: {needed} is neither a file nor a bundled set ({', '.join(NAMES)})")
            check_regular(needed, opening.key)
        if comm.rank == 0:
            name = kind_of(path)
    kind = FORMATS[comm.text_from_root(name)]
    if labels is not None and not kind.labels_apart:
        raise UserError(
            f"{opening.key}: {path} holds its own labels; the form {{x: FILE, y: FILE}} is for .npy and idx"
        )
    if opening.target is not None and not kind.is_table:
        raise UserError(
            f"{opening.key}: {path} is not a table of text, its labels have a fixed place; leave target out"
        )
    if opening.needs_weights and not (kind.is_table or (kind.has_arrays and isinstance(opening.weights, str))):
        raise UserError(
            f"data.weights: {path} has no {'column' if isinstance(opening.weights, int) else 'column or array'} "
            f"{opening.weights!r}, it is {kind.words}; give a file (.npy, .csv, .tsv, .txt)"
        )
    return kind.open(path, labels, opening)
