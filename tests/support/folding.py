"""What training prints is folded at the width of a terminal; tests look for whole sentences."""

from __future__ import annotations

import re

FOLDED = re.compile(r"\n  (?! |\d+/\d+ |\d+ +(?:f )?[-\d.])")  # not before the line of an iteration


def unfolded(text: str) -> str:
    """With every sentence on one line."""
    return FOLDED.sub(" ", text)
