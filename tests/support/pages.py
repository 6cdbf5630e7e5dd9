"""The documentation as data: blocks of code and commands in docs/*.md and README.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "hostfiles/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
BEGINS = re.compile(
    r"(mpirun|mpiexec|srun|sbatch|dnewton|python|pip|bash|source|scripts/|pytest|\.ci/run|[A-Z_]+=\S+ )"
)
COMMENT = re.compile(r"<!-- (not run|file): (.*?) -->\s*$")


@dataclass(frozen=True)
class Block:
    """A block of code: where it is, its language, and the comment above it."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str = ""  # why
    file: str = ""  # the name under which the page's reader saves it

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page: fenced ones, and in pages without fences indented ones."""
    lines = page.read_text().split("\n")
    fenced = any(line.startswith("```") for line in lines)
    above: dict[str, str] = {}
    start: int | None = None
    for number, line in enumerate([*lines, ""], 1):
        if found := COMMENT.match(line.strip()):
            above[found[1]] = found[2]
        elif fenced and line.lstrip().startswith("```"):
            if start is None:
                start = number
                continue
            indent = len(line) - len(line.lstrip())
            text = "\n".join(row[indent:] for row in lines[start : number - 1])
            yield _block(page, start + 1, lines[start - 1].strip("` "), text, above)
            start, above = None, {}
        elif not fenced and start is None and line.startswith("    "):
            start = number
        elif not fenced and start is not None and line and not line.startswith("    "):
            text = "\n".join(row[4:] for row in lines[start - 1 : number - 1]).rstrip()
            yield _block(page, start, _language(text), text, above)
            start, above = None, {}
        elif start is None and line.strip():
            above = {}


def _block(page: Path, line: int, language: str, text: str, above: dict[str, str]) -> Block:
    return Block(page, line, language, text, above.get("not run", ""), above.get("file", ""))


def _language(text: str) -> str:
    """Of a block that does not say."""
    if BEGINS.match(text) or text.startswith("EXTRAS="):
        return "sh"
    if re.match(r"(net|data|solver|parallel|output):|- ", text):
        return "yaml"
    return "python" if re.match(r"(import|from) ", text) else "text"


def commands(text: str) -> list[list[str]]:
    """The words of each command of a block of shell, comments left out. Raises ValueError."""
    found, waiting = [], ""
    for line in text.split("\n"):
        waiting += line
        if line.endswith("\\"):
            waiting = waiting[:-1]
            continue
        try:
            words = shlex.split(waiting, comments=True)
        except ValueError:  # within quotes
            waiting += "\n"
            continue
        found += [words] if words else []
        waiting = ""
    if waiting:
        raise ValueError(f"not closed: {waiting}")
    return found


def spans(page: Path) -> Iterator[list[str]]:
    """Commands within the text of a page, in single backticks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for span in re.findall(r"`([^`]+)`", text):
        if BEGINS.match(span) and " " in span:
            try:
                yield shlex.split(span.replace("\n", " ").replace(r"\|", "|"), comments=True)
            except ValueError as error:
                raise AssertionError(f"{page.name}: {span}: {error}") from None
