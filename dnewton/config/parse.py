"""From YAML text and `--set` overrides to a checked configuration, or one line that says what is wrong with it."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dnewton.config import strict_yaml
from dnewton.config.layer_entry import LAYERS, LayerEntry
from dnewton.config.loss_entry import LOSSES, LossSection
from dnewton.config.old_keys import renew, renewed_path
from dnewton.config.schema import Config
from dnewton.config.solver_register import SOLVERS, left_out
from dnewton.errors import UserError, one_line

_UNKNOWN = ("extra_forbidden", "invalid_key")
_BRANCH = re.compile(r"(int|float|str|constrained-\w+|FilePair|RatesSection)$|.*\[")
_DEPTH = 20  # keys of a --set
_PLAIN = {None: "nothing", True: "true", False: "false"}
_WORDS = (  # of the validation library, and what they mean to somebody who writes YAML
    (r"^Input ", ""),
    (r"a valid dictionary or instance of \w+", "a mapping of options"),
    (r"a valid (tuple|list)", "a list"),
    (r"a valid boolean", "true or false"),
    (r"^List should have at least 1 item.*", "at least one entry is needed"),
)


def load(text: str, source: str, overrides: list[str] | None = None) -> Config:
    """Parse and check a YAML text; `overrides` are `section.key=value` strings whose values are YAML.

    Raises UserError with one line naming `source` (or --set) and the key.
    """
    values = strict_yaml.parse(text, source)
    if not isinstance(values, dict):
        given = "the file is empty" if values is None else f"got {_show(values)}"
        raise UserError(f"{source}: a mapping with the section 'net' is needed, {given}")
    changed = [renewed_path(_override(values, item)) for item in overrides or []]
    renew(values, source)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, source, changed, values)) from None


def notes_on(text: str, source: str, overrides: list[str] | None = None) -> list[str]:
    """Lines for the log on a text that :func:`load` has taken: old names of keys, and newton's keys that the chosen
    method does not use."""
    values = strict_yaml.parse(text, source)
    for item in overrides or []:
        _override(values, item)
    notes = renew(values, source)
    solver = values.get("solver")
    if unused := left_out(solver):
        notes.append(f"solver: {solver['name']} does not use newton's {', '.join(unused)}")
    return notes


def _override(values: dict[str, Any], item: str) -> str:
    path, equals, text = item.partition("=")
    if not equals or not path.strip():
        raise UserError(f"--set {item}: write section.key=value, for example solver.C=0.1")
    keys, here = path.strip().split("."), values
    if len(keys) > _DEPTH:
        raise UserError(f"--set {path[:40]}...: has {len(keys)} keys, no entry lies deeper than {_DEPTH}")
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        if isinstance(here, list):
            if not key.isdecimal() or len(key) > 9 or int(key) >= len(here):
                raise UserError(f"--set {path}: {'.'.join(keys[:i])} has entries 0 to {len(here) - 1}, not {key!r}")
            slot: Any = int(key)
        elif isinstance(here, dict):
            slot = key
        else:
            raise UserError(f"--set {path}: {'.'.join(keys[:i])} is a single value and has no key {key!r}")
        if last:
            here[slot] = strict_yaml.parse(text, f"--set {path}")
        else:
            if isinstance(here, dict) and here.get(slot) is None:
                here[slot] = {}
            here = here[slot]
    return path.strip()


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return _PLAIN[value]
    text = one_line(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _explain(error: ValidationError, source: str, changed: list[str], values: dict[str, Any]) -> str:
    """One line for the first (and most telling) validation error."""
    details = error.errors(include_url=False)
    first = next((e for e in details if e["type"] in _UNKNOWN), details[0])
    loc = [*_written(first["loc"][:-1]), *first["loc"][-1:]] if first["type"] in _UNKNOWN else _written(first["loc"])
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else ("." if path else "") + str(part)
    dotted = ".".join(str(part) for part in loc)
    changed = [*changed, *(c.replace("residual.", "residual.layers.") for c in changed)]  # a list stands for its layers
    origin = "--set" if any(f"{dotted}.".startswith(f"{c}.") or c.startswith(f"{dotted}.") for c in changed) else source
    where = f"{origin}: {path}" if path else origin
    if first["type"] in _UNKNOWN:
        import difflib  # for mistakes only

        known = _known_keys(loc[:-1], values)
        lower = {k.lower(): k for k in known}
        near = difflib.get_close_matches(str(loc[-1]).lower(), list(lower), n=1, cutoff=0.5)
        hint = f"did you mean {lower[near[0]]!r}?" if near else f"known keys: {', '.join(known) or 'none'}"
        return f"{where}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{where}: is required"
    if first["type"] == "value_error":
        message = one_line(first["ctx"]["error"])
        if path == "solver" and message.startswith("name: "):
            return f"{origin}: solver.{message}"
        if not path:  # of the whole: the message names the key
            return f"{where}: {message}"
        return f"{where}: {one_line(first['ctx']['error'])} (got {_show(first['input'])})"
    others = [e["msg"] for e in details if _written(e["loc"]) == loc]
    message = " or ".join(dict.fromkeys(_plain(m) for m in others[:3]))
    if first["type"] in ("model_type", "model_attributes_type", "dict_type") and (known := _known_keys(loc, values)):
        message += f": {', '.join(known)}"
    return f"{where}: {message} (got {_show(first['input'])})"


def _plain(message: str) -> str:
    """A message of the validation library in words that need no knowledge of Python."""
    message = one_line(message)
    for pattern, words in _WORDS:
        message = re.sub(pattern, words, message)
    return message


def _written(loc: tuple[Any, ...]) -> list[Any]:
    """A location without the branches of unions, which the validation library adds and no user ever wrote."""
    return [part for part in loc if not (isinstance(part, str) and _BRANCH.match(part))]


def _known_keys(loc: list[Any], values: dict[str, Any]) -> list[str]:
    model: Any = Config
    for part in loc:
        if isinstance(part, int):
            continue
        if part == "solver" and model is Config:
            solver = values["solver"]
            model = SOLVERS[solver.get("name", "newton") if isinstance(solver, dict) else "newton"].section
            continue
        if model is LayerEntry or model is LossSection:
            kinds: Any = LAYERS if model is LayerEntry else LOSSES
            if part not in kinds:
                return []
            model = kinds[part]
            continue
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        if field is None:
            return []
        model = _model_in(field.annotation)
    if model is LayerEntry:
        return list(LAYERS.names())
    return [f.alias or n for n, f in model.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)
