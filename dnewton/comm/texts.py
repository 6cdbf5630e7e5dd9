"""A text of one rank on all: one message where it is short, as names and errors are, else two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SHORT = 1024  # bytes of the first message: the length, and what fits of the text
LENGTH = 8


def broadcast(text: str | None, bcast: Callable[[Any], None]) -> str:
    """The root's text on every rank; the others pass None. `bcast` brings the root's bytes into a buffer.

    Collective over the ranks of `bcast`.
    """
    first = np.zeros(SHORT, dtype=np.uint8)
    coded = b""
    if text is not None:
        coded = text.encode("utf-8", "surrogateescape")  # file names need not be text
        first[:LENGTH].view(np.int64)[0] = len(coded)
        begins = np.frombuffer(coded[: SHORT - LENGTH], dtype=np.uint8)
        first[LENGTH : LENGTH + begins.size] = begins
    bcast(first)
    length = int(first[:LENGTH].view(np.int64)[0])
    head = first[LENGTH : LENGTH + length].tobytes()
    if length > SHORT - LENGTH:
        rest = np.zeros(length - len(head), dtype=np.uint8)
        if text is not None:
            rest[:] = np.frombuffer(coded[len(head) :], dtype=np.uint8)
        bcast(rest)
        head += rest.tobytes()
    return head.decode("utf-8", "surrogateescape")
