"""Writes docs/keys.md: every key of the YAML with its default, what it takes and what it means, from the schema.

    python scripts/keys_page.py            # writes the page
    python scripts/keys_page.py --check    # exit status 1 where the page is not what the schema gives

Defaults and bounds are those that pydantic checks. What a key means is the comment beside its field in the source, or
the lines of comment above it. Where a check has a message of its own, its words are what the key takes.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo

from dnewton.config.baselines import CommonSection, ServedSection, WorkersSection
from dnewton.config.layer_entry import LAYERS, LayerEntry
from dnewton.config.loss_entry import LOSSES, LossSection
from dnewton.config.schema import DataSection, FilePair, NetSection, OutputSection, ParallelSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Section, SolverSection

PAGE = Path(__file__).resolve().parents[1] / "docs" / "keys.md"
LARGEST = 2**31 - 1  # a bound from here on is the computer's
HEADER = ("| key | default | takes | meaning |", "|---|---|---|---|")
PAGES = re.compile(r"docs/(\w+)\.md")
SHARED = (CommonSection, WorkersSection, ServedSection)
SERVED = ("mode", "server_ranks")  # the others of ServedSection are those of WorkersSection
ALSO = {
    ServedSection: "the solvers with parameter servers, of those with mini-batches and of all comparison solvers",
    WorkersSection: "the solvers with mini-batches and of all comparison solvers",
    CommonSection: "all comparison solvers",
}
INTRO = """# Every key

<!-- Written by scripts/keys_page.py from the schema; change the comments there, not this page. -->

A run is described by a YAML file with the sections `net`, `data`, `solver`, `parallel` and `output`. Only `net` is
needed. Any key can be set on the command line: `--set solver.max_iterations=10`, `--set parallel.grid=[2,2]`. The file
`config.yaml` of a run directory has all keys, with the values that were used. An unknown key or a value out of its
bounds ends the job with one line that names the key. So does an option that has no effect beside the others.

In the column "default", "–" means that nothing is set. A value that is `auto` is decided before the training starts,
and the log says how.
"""


class Untold(Exception):
    """A field without a comment that says what it means."""


@functools.cache
def comments(section: type[BaseModel]) -> dict[str, str]:
    """What the comments in the source of a class say of its fields."""
    try:
        source = inspect.getsource(section)
    except OSError:
        return {}
    source = inspect.cleandoc("\n" + source) if source[0] == " " else source
    lines = {
        t.start[0]: t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT
    }
    alone = {n for n, t in lines.items() if not t.line[: t.start[1]].strip()}
    told = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while first - 1 in alone:
                first -= 1
            rows = [n for n in range(first, (node.end_lineno or node.lineno) + 1) if n in lines]
            words = [lines[n].string.lstrip("# ") for n in rows if "noqa" not in lines[n].string]
            if words:
                told[node.target.id] = " ".join(words)
    return told


def meaning(section: type[BaseModel], name: str) -> str:
    """What a field means: by the class that states it, or by the one that it overrides."""
    if name == "name" and issubclass(section, SolverSection):
        return "the method"
    for base in section.__mro__:
        if issubclass(base, BaseModel) and base is not BaseModel and name in comments(base):
            return comments(base)[name]
    raise Untold(f"{section.__module__}.{section.__name__}.{name} has no comment that says what it means")


def nested(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, where its keys are rows of their own."""
    members = (field.annotation, *get_args(field.annotation))
    found = [t for t in members if isinstance(t, type) and issubclass(t, Section)]
    return found[0] if len(found) == 1 and found[0] not in (FilePair, LayerEntry, LossSection) else None


def _said_by(validator: BeforeValidator) -> str:
    """What a check of its own says is needed; empty where it leaves that to the type."""
    try:
        validator.func(object())  # type: ignore[call-arg, arg-type]
    except ValidationError:
        return ""
    except ValueError as error:
        words = str(error).removesuffix(" is needed").removesuffix(",").removeprefix("should be ")
        return re.sub(r"'(\w+)'", r"`\1`", words)
    return ""


def _bounds(metadata: Iterable[Any]) -> str:
    words = []
    for item in metadata:
        for kind, attribute, text in (
            (Ge, "ge", "at least"),
            (Gt, "gt", "above"),
            (Le, "le", "at most"),
            (Lt, "lt", "below"),
        ):
            bound = getattr(item, attribute, None) if isinstance(item, kind) or hasattr(item, attribute) else None
            if bound is not None and abs(bound) < LARGEST:
                words.append(f"{text} {bound:,.0f}" if abs(bound) >= 1e5 else f"{text} {bound:g}")
    return ", ".join(dict.fromkeys(words))


def _type(annotation: Any) -> list[str]:
    """The words for a type, one for each of a union's members."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [f"`{written(v)}`" for v in inside]
    if origin in (Union, UnionType):
        return [word for member in inside for word in _type(member)]
    if hasattr(annotation, "__metadata__"):
        return [takes(annotation.__origin__, annotation.__metadata__)]
    if origin is list and inside[0] is LayerEntry:
        return ["a list of layers"]
    if origin is list:
        return ["a list" if inside[0] is str else f"a list, each {' or '.join(_type(inside[0]))}"]
    if annotation is NoneType:
        return []
    return [
        {int: "a whole number", float: "a number", bool: "`true`, `false`", str: "a text"}.get(annotation, "options")
    ]


def takes(annotation: Any, metadata: Iterable[Any]) -> str:
    """What a field takes, in words."""
    metadata = list(metadata)
    for item in metadata:
        if isinstance(item, BeforeValidator) and (said := _said_by(item)):
            return said
    words = list(dict.fromkeys(_type(annotation)))
    inner = [m for item in metadata if isinstance(item, FieldInfo) for m in item.metadata]
    bounds = _bounds([*metadata, *inner])
    if words == ["a text"] and any(isinstance(m, (MinLen, AfterValidator)) for m in metadata):
        return "a name"
    return ", ".join(words) + (f" {bounds}" if bounds else "")


def written(value: Any) -> str:
    """A default as YAML has it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(written(v) for v in value)}]"
    return str(value)


def default(section: type[BaseModel], name: str, field: FieldInfo) -> str:
    """The default, and those of single solvers of a section that several share."""
    if field.is_required():
        return "needed"
    if field.default_factory is not None:
        return "–"
    usual = written(field.default)
    other = []
    if name != "name" and issubclass(section, SolverSection) and section not in SHARED:
        for solver in get_args(section.model_fields["name"].annotation):
            here = written(getattr(section.model_validate({"name": solver}), name))
            other += [f"`{solver}`: {here}"] if here != usual else []
    return f"`{usual}`{''.join(f' ({o})' for o in other)}" if usual != "–" else "–"


def rows(section: type[Section], prefix: str, names: Iterable[str] | None = None) -> Iterator[str]:
    """A row for each key of a section, and of the sections in it."""
    fields = section.model_fields
    for name in sorted(fields, key=lambda n: n != "name"):
        if names is not None and name not in names:
            continue
        field = fields[name]
        key = f"{prefix}{field.alias or name}"
        inner = nested(field)
        text = meaning(section, name)
        if name in section.needs:
            other, values = section.needs[name]
            text += f"; needs `{other}: {'` or `'.join(values)}`"
        what = takes(field.annotation, field.metadata)
        if inner:
            what = "`auto`, or the keys below" if "auto" in what else "the keys below"
        yield row(key, default(section, name, field), what, PAGES.sub(r"[\1](\1.md)", text))
        if inner:
            yield from rows(inner, f"{key}.")


def row(*cells: str) -> str:
    """A line of a table; `|` in a cell would end it."""
    key, *others = (cell.replace("|", "\\|") for cell in cells)
    return f"| `{key}` | " + " | ".join(others) + " |"


def own(section: type[Section]) -> list[str]:
    """The keys that a solver's section states itself, not those that it shares."""
    shared = {
        name for base in SHARED if base is not section and issubclass(section, base) for name in base.model_fields
    }
    return [n for n in section.model_fields if n not in shared or n in section.__annotations__]


def table(title: str, section: type[Section], prefix: str, names: Iterable[str] | None = None) -> list[str]:
    """A heading, what the section is, and its table."""
    first = inspect.cleandoc(section.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return ["", f"## {title}", "", first, "", *HEADER, *rows(section, prefix, names)]


def page() -> str:
    """The whole page."""
    lines = [INTRO.rstrip()]
    lines += table("`net`", NetSection, "net.")
    for name in LAYERS.names():
        lines += _kind(f"Layer `{name}`", LAYERS[name], f"{name}.")
    for name in LOSSES.names():
        if LOSSES[name].model_fields:
            lines += _kind(f"Loss `{name}`", LOSSES[name], f"{name}.")
    for title, section in (("data", DataSection), ("parallel", ParallelSection), ("output", OutputSection)):
        lines += table(f"`{title}`", section, f"{title}.")
    lines += table("`solver`: newton", SOLVERS["newton"].section, "solver.")
    lines += table("`solver`: keys of all comparison solvers", CommonSection, "solver.")
    lines += table("`solver`: keys of the solvers with mini-batches", WorkersSection, "solver.", own(WorkersSection))
    lines += table("`solver`: keys of the solvers with parameter servers", ServedSection, "solver.", SERVED)
    sections = dict.fromkeys(SOLVERS[name].section for name in SOLVERS.names() if name != "newton")
    for section in sections:
        names = get_args(section.model_fields["name"].annotation)
        lines += table(f"`solver`: {', '.join(names)}", section, "solver.", own(section))
        lines += ["", f"Also the keys of {ALSO[next(c for c in section.__mro__[1:] if c in SHARED)]}."]
    return "\n".join(lines) + "\n"


def _kind(title: str, section: type[Section], prefix: str) -> list[str]:
    """A table one level deeper, if there are keys."""
    blank, heading, *others = table(title, section, prefix)
    return [blank, f"#{heading}", *(others if section.model_fields else others[:2])]


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Write docs/keys.md from the schema.")
    parser.add_argument("--check", action="store_true", help="compare only; exit status 1 where they differ")
    found = page()
    if not parser.parse_args().check:
        PAGE.write_text(found)
        return 0
    if PAGE.read_text() == found:
        return 0
    print("docs/keys.md is not what the schema gives; run `python scripts/keys_page.py`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
