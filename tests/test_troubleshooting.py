"""docs/troubleshooting.md quotes messages: each must be one that the program has."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
FOREIGN = {"There are not enough slots available"}  # Open MPI's


def quoted() -> list[str]:
    """The messages in the first column of the tables."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [row.split(" | ")[0] for row in rows]
    return [m for cell in cells for m in re.findall(r"`([^`]+)`", cell) if m not in FOREIGN]


@functools.cache
def strings() -> list[str]:
    """All texts of the package; what an f-string puts in is a place where anything may stand."""
    found = []
    for path in (ROOT / "dnewton").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def said(message: str, texts: list[str]) -> bool:
    """Whether one text has all that a message says between the places that change, in that order."""
    found = [p.strip(" ;:,.()") for p in message.split("…")]
    pieces = [p for p in found if len(p) > 2]
    assert pieces, message
    pattern = re.compile(".*".join(map(re.escape, pieces)), re.S)
    return any(pieces[0] in text and pattern.search(text) for text in texts)


def test_every_message_exists() -> None:
    messages, texts = quoted(), strings()
    assert len(messages) > 60
    assert [m for m in messages if not said(m, texts)] == []


def test_an_invented_message_is_found_out() -> None:
    assert not said("… is neither a file nor a bundled cat …", strings())
