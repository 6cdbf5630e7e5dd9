"""What a user sees of a run."""

from __future__ import annotations

from typing import Any

import pytest

from dnewton.cli import console


def record(iteration: int, **scores: float) -> dict[str, Any]:
    plain = {"loss": 1.0, "grad_norm": 1.0, "step": None, "ratio": None, "lambda": 1.0, "cg_iterations": None}
    return {"iteration": iteration, **plain, **scores, "seconds": 1.0}


@pytest.mark.parametrize(
    ("name", "values", "shown"),
    [
        ("rmse", (0.5, 4.516e-8), ("0.5", "4.516e-08")),
        ("rmse", (51.78862, 123456.7), ("51.79", "1.235e+05")),
        ("accuracy", (0.98765, 0.999996), ("0.98765", "0.999996")),
    ],
)
def test_scores_keep_their_digits(name: str, values: tuple[float, float], shown: tuple[str, str]) -> None:
    records = [record(k, **{f"train_{name}": v, f"validation_{name}": v}) for k, v in enumerate(values)]
    for entry, text in zip(records, shown, strict=True):
        line = console.line(entry)
        assert text in line.split() and len(line) == len(console.HEADER)
    best = min(values) if name == "rmse" else max(values)
    place = values.index(best)
    rows = console.summary(records, {})
    for part in ("train", "validation"):
        assert f"{part} {name}: final {shown[1]}, best {shown[place]} at iteration {place}" in rows
    assert not any(row.startswith("test") for row in rows)
