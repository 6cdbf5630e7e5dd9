"""Which of a file's named arrays are samples, targets and weights: FILE:NAME, data.arrays, or by their usual names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dnewton.data.format_register import Opening
from dnewton.errors import UserError

X_NAMES = ("x", "data", "images", "features", "inputs", "z")  # Z: the papers' own .mat files
Y_NAMES = ("y", "labels", "label", "targets", "target")
PAIRS = (("x", "y"), ("X", "y"), ("X", "Y"), ("images", "labels"), ("data", "labels"), ("data", "target"))
LISTED = 12  # names in a message


@dataclass(frozen=True)
class Chosen:
    """The names of arrays in a file."""

    x: str
    y: str | None
    w: str | None = None


def companions(name: str) -> list[str]:
    """Names of the targets that belong to samples of a name: x and y, images and labels, data and target as words of
    it."""
    found = [re.sub(rf"(?<![A-Za-z]){old}(?![A-Za-z])", new, name) for old, new in PAIRS]
    return [other for other in dict.fromkeys(found) if other != name]


def choose(path: str, names: Sequence[str], opening: Opening | None) -> Chosen:
    """Which of a file's arrays are x, y and the weights. `names` are all of them, those in groups as `group/name`.

    Raises UserError that lists what there is.
    """
    if opening is None:
        opening = Opening("", None, None)  # type: ignore[arg-type]
    asked = opening.arrays
    group, x = _place(path, names, opening)
    beside = {name.removeprefix(group): name for name in names if name.startswith(group)}
    named_here = x is not None
    if x is None:
        x = _stated(path, beside, names, "x", asked.x, opening) or _usual(beside, X_NAMES)
    if x is None:
        raise UserError(_without_x(path, names, beside, opening))
    y = None
    if asked.targets_apart is None:
        if not named_here or opening.strict:  # of a part that names its own array the section's y is another part's
            y = _stated(path, beside, names, "y", asked.y, opening)
        own = x.removeprefix(group)
        y = y or next((beside[n] for n in companions(own) if n in beside), None)
        if y is None and (not named_here or own.lower() in X_NAMES):
            y = _usual(beside, Y_NAMES)
    return Chosen(x, y, _weights(path, beside, opening))


def named(path: str, names: Sequence[str], name: str | None, key: str) -> str:
    """The array that FILE:NAME means where only one is wanted; without a name the one of targets, or the only one.

    Raises UserError.
    """
    if name is None:
        only = names[0] if len(names) == 1 else None
        found = only or _usual({n: n for n in names}, Y_NAMES)
        if found is None:
            raise UserError(f"{key}: {path}: which array? Write {path}:NAME ({listed(names)})")
        return found
    inside = name.strip("/")
    if inside not in names:
        raise UserError(f"{key}: {path}: {_missing(inside, names)}")
    return inside


def listed(names: Sequence[str]) -> str:
    """What a file has, for messages."""
    some = sorted(names)[:LISTED]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"found {', '.join(some)}{more}" if some else "found nothing"


def _place(path: str, names: Sequence[str], opening: Opening) -> tuple[str, str | None]:
    """The group that FILE:NAME means, with its slash, and the array in it, if it means one."""
    if opening.arrays.name is None:
        return "", None
    inside = opening.arrays.name.strip("/")
    if inside in names:
        return inside.rpartition("/")[0] + "/" if "/" in inside else "", inside
    if not inside or any(name.startswith(f"{inside}/") for name in names):
        return f"{inside}/" if inside else "", None
    raise UserError(f"{opening.key}: {path}: {_missing(inside, names)}")


def _stated(
    path: str, beside: dict[str, str], names: Sequence[str], letter: str, name: str | None, opening: Opening
) -> str | None:
    """The array that data.arrays names; other files than the training file may lack it."""
    if name is None:
        return None
    inside = name.strip("/")
    if inside in beside or inside in names:
        return beside.get(inside, inside)
    if opening.strict:
        raise UserError(f"data.arrays.{letter}: {path}: {_missing(inside, names)}")
    return None


def _usual(beside: dict[str, str], wanted: Sequence[str]) -> str | None:
    return next((path for w in wanted for name, path in beside.items() if name.lower() == w), None)


def _missing(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    last = [n for n in names if n.rpartition("/")[2] == name.rpartition("/")[2]]
    guess = f"; did you mean {(near or last)[0]!r}?" if near or last else ""
    return f"has no array or group {name!r}{guess} ({listed(names)})"


def _without_x(path: str, names: Sequence[str], beside: dict[str, str], opening: Opening) -> str:
    text = f"{path}: has no array 'x'; x and y are needed ({listed(list(beside.values()))})"
    groups = [n.rpartition("/")[0] for n in names if n.rpartition("/")[2].lower() in X_NAMES]
    if groups:
        part = opening.key.rpartition(".")[2]
        groups = [g for g in groups if part in g.lower()] or groups
        return f"{text}; name the group: {' or '.join(f'{path}:/{g}' for g in groups[:3])}"
    return f"{text}; name them: data.arrays: {{x: NAME, y: NAME}}" if beside else text


def _weights(path: str, beside: dict[str, str], opening: Opening) -> str | None:
    """The array that data.weights or data.arrays.w names; None where the file need not have it and has not."""
    if not isinstance(opening.weights, str):
        return None
    name = opening.weights.strip("/")
    if name in beside:
        return beside[name]
    if opening.needs_weights:
        raise UserError(f"data.weights: {path}: has no array {name!r} ({listed(list(beside.values()))})")
    return None
