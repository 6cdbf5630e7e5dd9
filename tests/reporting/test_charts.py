"""Axes, tables and curves of characters."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from run_folders import record, write_run

from dnewton.reporting.bar_chart import largest_parts
from dnewton.reporting.runs import read_runs
from dnewton.reporting.scales import bytes_unit, scale_for, seconds_unit
from dnewton.reporting.tables import as_csv, as_json
from dnewton.reporting.terminal import Screen, clock, standing, view
from dnewton.reporting.text_plot import Curve, plot


@pytest.mark.parametrize(
    ("values", "log", "labels"),
    [
        ([0, 12], False, ["0", "2", "4", "6", "8", "10", "12"]),
        ([1e-7, 1e-1], True, ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]),
        ([0.02, 20], True, ["0.1", "1", "10"]),
        ([0.16, 2.4], True, ["0.2", "0.5", "1", "2"]),
        ([1.0, 1.002], True, ["1", "1.0005", "1.001", "1.0015", "1.002"]),
        ([-1, 0.5], True, ["-1.00", "-0.75", "-0.50", "-0.25", "0.00", "0.25", "0.50"]),  # not in powers of ten
    ],
)
def test_ticks(values: list[float], log: bool, labels: list[str]) -> None:
    scale = scale_for(values, 0, 100, log, tight=True)
    assert [label for _, label in scale.ticks()] == labels
    assert scale.place(scale.low) == 0 and scale.place(scale.high) == 100


def test_iterations_are_whole() -> None:
    assert [label for _, label in scale_for([0, 3], 0, 100, tight=True).ticks(whole=True)] == ["0", "1", "2", "3"]


def test_units() -> None:
    assert bytes_unit(1999) == (1, "B") and bytes_unit(2e7) == (1e6, "MB")
    assert seconds_unit(0.05) == (1e-3, "ms") and seconds_unit(7200) == (60, "min") and seconds_unit(2) == (1, "s")


def test_small_parts_share_a_colour() -> None:
    many = {f"p{k}": 10.0 - k for k in range(10)}
    drawn = largest_parts({**many, "nothing": 0.0})
    assert len(set(drawn.values())) == 8 and [k for k, v in drawn.items() if v == "other"] == ["p7", "p8", "p9"]
    assert largest_parts({"a": 1.0, "b": 0.0}) == {"a": "a"}


def test_csv_and_json_have_the_figures(tmp_path: Path) -> None:
    records = [record(k, step=float("inf") if k == 1 else 1.0) for k in range(3)]
    folders = [str(write_run(tmp_path / name, records, seed=k)) for k, name in enumerate("ab")]
    rows = list(csv.DictReader(io.StringIO(as_csv(read_runs(folders)))))
    assert [row["run"] for row in rows] == ["a"] * 3 + ["b"] * 3
    assert [float(row["comm.cg.bytes"]) for row in rows] == [3000.0] * 6
    assert [row["step"] for row in rows][:3] == ["1.0", "", "1.0"] and rows[0]["lambda"] == ""
    assert rows[2]["stopped.reason"] == "iterations" and rows[1]["stopped.reason"] == ""
    assert "run" not in as_csv(read_runs(folders[:1])).splitlines()[0].split(",")
    (run, _) = json.loads(as_json(read_runs(folders)))["runs"]
    assert run["metrics"]["loss"] == [r["loss"] for r in records] and run["metrics"]["step"][1] is None
    assert run["versions"] == {"Python": "3.12.3", "NumPy": "2.3.1", "MPI": "Open MPI v5.0.5"}
    assert run["config"]["solver"]["seed"] == 0 and run["ranks"] == 4 and run["ended"].startswith("ended")


def test_a_curve_of_characters() -> None:
    lines = plot([Curve("f", [0, 1, 2, 3], [1, 2, None, 4]), Curve("g", [0, 3], [4, 1])], 40, 8)
    assert len(lines) == 9 and max(map(len, lines)) <= 40
    assert lines[0].startswith("        4 │") and lines[7].startswith("        1 │")
    body = [line[11:].ljust(29) for line in lines[:8]]
    drawn = {(row, k) for row, text in enumerate(body) for k, c in enumerate(text) if "⠀" < c <= "⣿"}
    assert ((7, 0) in drawn and (0, 28) not in drawn) or body[0][28] != " "  # from the lower left to the upper right
    assert not any(10 < k < 28 for _, k in drawn)  # the gap: after iteration 1, until 3
    plain = plot([Curve("f", [0, 1], [1, 2])], 40, 6, fine=False)
    assert all(line.isascii() for line in plain) and "*" in plain[0] and "* f" in plain[-1]


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("size", [(80, 40), (80, 24), (44, 20)])
def test_a_picture_fits_the_terminal(tmp_path: Path, size: tuple[int, int], fine: bool) -> None:
    (run,) = read_runs([str(write_run(tmp_path / "a", map(record, range(6)), ended=False))])
    lines = view(run, Screen(*size, fine))
    assert max(map(len, lines)) <= size[0] and len(lines) <= size[1]
    assert all(line.isascii() for line in lines) or fine
    text = "\n".join(lines)
    assert "iteration 5/20" in text and "CG 7/9.5/14" in text and "0.0555556" in text and "test accuracy" in text


def test_how_far_it_is(tmp_path: Path) -> None:
    (run,) = read_runs([str(write_run(tmp_path / "a", [record(k, seconds=4.0 * k) for k in range(6)], ended=False))])
    assert standing(run, run.written) == "iteration 5/20  20.0 s  4 s/it  left at most 1:00"
    assert standing(run, run.written + 3700).endswith("(nothing new for 1:01:40)")
    assert [clock(s) for s in (4.25, 65, 7384)] == ["4.2 s", "1:05", "2:03:04"]
