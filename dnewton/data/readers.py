"""Opens what the YAML's data section names: bundled sets, and files of every readable kind, alone or several."""

from __future__ import annotations

import os
from dataclasses import replace

from dnewton.config.schema import ArrayNames, DataPart, DataSection, FilePair
from dnewton.data import file_names, weights
from dnewton.data.bundled import NAMES, read_bundled
from dnewton.data.file_kinds import check_regular, kind_of
from dnewton.data.format_register import FORMATS, Arrays, Format, Opening
from dnewton.data.sample_shape import targets_by_sample
from dnewton.data.sources import Source, Values, from_arrays, joined
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
    return name if is_bundled(name) else file_names.found(name, folder)


def is_table(part: DataPart) -> bool:
    """Whether a part is one or more tables of text that are there: columns can be named then."""
    names = [part] if isinstance(part, str) else part if isinstance(part, list) else []
    return all(os.path.isfile(name) and FORMATS[kind_of(name)].is_table for name in names) and bool(names)


def arrays_of(section: DataSection) -> Arrays:
    """What a data section says of arrays."""
    named = section.arrays or ArrayNames()
    return Arrays(None, named.x, named.y, channels=section.channels, samples=section.samples)


def check_columns(source: Source, wanted: tuple[str, ...] | None, owner: str) -> None:
    """Raise UserError when a table's header names other features than `owner`'s, or in another order."""
    if source.columns is None or wanted is None or source.columns == wanted:
        return
    pairs = zip(source.columns, wanted, strict=True)
    k, (name, other) = next((k, pair) for k, pair in enumerate(pairs) if pair[0] != pair[1])
    raise UserError(f"{source.name}: feature {k} is {name!r}, in {owner} it is {other!r}; the columns must agree")


def open_part(part: DataPart, opening: Opening) -> Source:
    """The source of one part of the data. Raises UserError alike on all ranks. Collective over the world."""
    if isinstance(part, FilePair):
        source = _open_file(part.x, part.y, opening)
        return source if part.w is None else with_weights(source, part.w, f"{opening.key}.w", opening)
    if isinstance(part, str):
        return _open_bundled(part, opening) if is_bundled(part) else _open_file(part, None, opening)
    sources: list[Source] = []
    for name in part:
        sources.append(_open_file(name, None, opening))
        first = sources[0]
        check_columns(sources[-1], first.columns, first.name)
        if opening.zero_based is None:
            opening = replace(opening, zero_based=sources[-1].zero_based)
        if opening.columns is None:
            opening = replace(opening, columns=first.columns)
    if opening.words is None and len({source.words for source in sources} & {True, False}) > 1:
        return open_part(part, replace(opening, words=True))  # labels of one file are words: so are those of all
    return joined(sources, f"{part[0]} and {len(part) - 1} more" if len(part) > 1 else part[0])


def _open_bundled(name: str, opening: Opening) -> Source:
    if opening.key not in ("data.train", "data.test", "--data"):
        raise UserError(f"{opening.key}: {name} is a bundled set with a train and a test part; name a file")
    if opening.needs_weights:
        raise UserError(f"data.weights: {name} is a bundled set and has none; give a file (.npy, .csv, .tsv, .txt)")
    _check_keys(name, "a bundled set", None, opening)
    part = "train" if opening.key.endswith("train") else "test"
    x = y = None
    with opening.comm.raise_together():
        if opening.comm.rank == 0:
            x, y = read_bundled(name, part)
    return from_arrays(name, opening.comm.array_from_root(x), opening.comm.array_from_root(y))


def _open_file(name: str, labels: str | None, opening: Opening) -> Source:
    """A file, or a group or an array of one, with its labels in it, beside it or in another file."""
    path, inside = file_names.split(name)
    kind = _kind(path, opening)
    if inside is not None and not kind.has_arrays:
        raise UserError(f"{opening.key}: {path} is {kind.words} and has no arrays with names; leave :{inside} out")
    if opening.target is not None and not kind.is_table:
        raise UserError(
            f"{opening.key}: {path} is not a table of text, its labels have a fixed place; leave target out"
        )
    if opening.needs_weights and not (kind.is_table or (kind.has_arrays and isinstance(opening.weights, str))):
        raise UserError(
            f"data.weights: {path} has no {'column' if isinstance(opening.weights, int) else 'column or array'} "
            f"{opening.weights!r}, it is {kind.words}; give a file (.npy, .csv, .tsv, .txt)"
        )
    _check_keys(path, kind.words, kind, opening)
    opening = replace(opening, arrays=replace(opening.arrays, name=inside))
    if labels is None:
        return kind.open(path, None, opening)
    other, array = file_names.split(labels)
    labels_kind = _kind(other, opening)
    if kind.labels_apart and array is None and not labels_kind.has_arrays:
        return kind.open(path, other, opening)
    if not (kind.oriented and labels_kind.array):
        raise UserError(
            f"{opening.key}: {path} is {kind.words}, {other} is {labels_kind.words}; the form {{x: FILE, y: FILE}} is "
            "for .npy and idx, and with FILE:NAME for arrays in .npz, HDF5 and .mat"
        )
    y = _array(labels_kind, other, array, replace(opening, key=f"{opening.key}.y"))
    source = kind.open(path, None, replace(opening, arrays=replace(opening.arrays, targets_apart=y.shape)))
    with opening.comm.raise_together():
        y = targets_by_sample(y, source.samples)
        if len(y) != source.samples:
            raise UserError(f"{labels}: y must have one row per sample ({source.samples}), it has {list(y.shape)}")
    return replace(source, targets=lambda: y)


def _kind(path: str, opening: Opening) -> Format:
    comm = opening.comm
    name = ""
    with comm.raise_together():
        if not os.path.lexists(path):
            raise UserError(f"{opening.key}: {path} is neither a file nor a bundled set ({', '.join(NAMES)})")
        check_regular(path, opening.key)
        if comm.rank == 0:
            name = kind_of(path)
    return FORMATS[comm.text_from_root(name)]


def _check_keys(name: str, words: str, kind: Format | None, opening: Opening) -> None:
    """Raise UserError for keys of arrays where the training set is of another kind; other parts do not use them."""
    asked = opening.arrays
    if not opening.strict:
        return
    if (asked.x or asked.y) and not (kind and kind.has_arrays):
        raise UserError(f"data.arrays: {name} is {words} and has no arrays with names; leave it out")
    for key in opening.table.as_json():
        if not (kind and kind.is_table):
            if key == "gaps":  # any array of numbers may have NaN
                continue
            written = "missing: drop" if key == "drop" else key
            raise UserError(f"data.{written}: {name} is {words}, not a table of text; leave it out")
    for key in ("channels", "samples"):
        if getattr(asked, key) is not None and not (kind and kind.oriented):
            raise UserError(f"data.{key}: {name} is {words}, in which samples lie in one way only; leave it out")


def _array(kind: Format, path: str, name: str | None, opening: Opening) -> Values:
    """One array on every rank. Raises UserError alike on all ranks. Collective over the world."""
    comm = opening.comm
    values = None
    with comm.raise_together():
        if comm.rank == 0:
            assert kind.array is not None
            values = kind.array(path, name, opening)
    shared: Values = comm.array_from_root(values)
    return shared


def with_weights(source: Source, name: str, key: str, opening: Opening) -> Source:
    """A source with its weights from a file, or from an array of one, FILE:NAME. Raises UserError alike on all ranks.

    Collective over the world.
    """
    path, inside = file_names.split(name)
    if inside is None:
        return weights.with_file(source, path, key, opening.comm)
    kind = _kind(path, replace(opening, key=key))
    if kind.array is None or not kind.has_arrays:
        raise UserError(f"{key}: {path} is {kind.words} and has no arrays with names; leave :{inside} out")
    return weights.attached(source, _array(kind, path, inside, replace(opening, key=key)), name, key)
