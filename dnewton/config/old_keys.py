"""Keys of earlier versions: what is read for a release and said in a line, and what is gone."""

from __future__ import annotations

from typing import Any

from dnewton.errors import UserError

RENAMED = {("solver", "early_stop"): "early_termination"}
GONE = {("solver", "lambda_trials"): 1}  # and the value that has no effect, as written-out configurations hold it


def renewed_path(path: str) -> str:
    """A `section.key...` path with the key's name of today."""
    section, _, rest = path.partition(".")
    key, dot, more = rest.partition(".")
    return f"{section}.{RENAMED.get((section, key), key)}{dot}{more}" if rest else path


def renew(values: Any, source: str, strict: bool = True) -> list[str]:
    """Give old keys of a configuration, as YAML or a checkpoint holds it, the names of today, in place.

    Returns a line for each that was found. Raises UserError where a key stands under both names, or, if `strict`, is
    gone and asked for something.
    """
    notes: list[str] = []
    if not isinstance(values, dict):
        return notes
    for (section, key), new in RENAMED.items():
        inside = values.get(section)
        if isinstance(inside, dict) and key in inside:
            if new in inside:
                raise UserError(f"{source}: {section}.{key} is the old name of {section}.{new}, which is given too")
            inside[new] = inside.pop(key)
            notes.append(f"{source}: {section}.{key} is called {section}.{new} now; the old name is read for a release")
    for (section, key), harmless in GONE.items():
        inside = values.get(section)
        if isinstance(inside, dict) and key in inside and inside.pop(key) != harmless and strict:
            raise UserError(f"{source}: {section}.{key} is gone; leave it out (see docs/performance.md)")
    return notes
