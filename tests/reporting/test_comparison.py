"""What methods reached, and what it took them: tables and curves against figures by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dnewton.cli import compare_report
from dnewton.reporting import compare_pictures, compare_tables, raster
from dnewton.reporting.compare_page import compare_page
from dnewton.reporting.comparison import (
    NEVER,
    Entry,
    Target,
    common_loss,
    median_line,
    methods,
    spread,
    to_target,
)
from dnewton.reporting.line_chart import Chart, Line, Point, render, scales
from dnewton.reporting.runs import Run


def record(k: int, loss: float | None, accuracy: float = 0.5, each: float = 1.0) -> dict[str, Any]:
    comm = {"exchange": {"bytes": 8}, "evaluate": {"bytes": 100}}
    return {
        "iteration": k,
        "train_seconds": each * k,
        "samples_seen": 10.0 * k,
        "loss": loss,
        "grad_norm": 1.0,
        "train_accuracy": accuracy,
        "comm": comm,
        "servers": {"bytes": 2},
    }


def entry(name: str, losses: list[float | None], seed: int = 0, failed: str = "", each: float = 1.0) -> Entry:
    records = [record(k, loss, 0.2 * k, each) for k, loss in enumerate(losses)]
    return Entry(Run(f"{name}-seed={seed}", "", records), name, seed, failed)


TWO = [entry("a", [8.0, 4.0, 2.0, 1.0]), entry("b", [8.0, 6.0]), entry("a", [8.0, 2.0, 1.0], 1, each=2.0)]


def test_bytes_are_those_of_the_training() -> None:
    assert TWO[1].axes["bytes"] == [10.0, 20.0]


def test_targets() -> None:
    a, b = methods(TWO)
    assert to_target(a, Target("loss", 2.0), "iteration") == [2.0, 1.0]
    assert to_target(a, Target("loss", 2.0), "seconds") == [2.0, 2.0]
    assert to_target(b, Target("loss", 2.0), "seconds") == [NEVER]
    assert to_target(a, Target("train_accuracy", 0.6), "bytes") == [40.0, NEVER]
    assert common_loss(TWO) == Target("loss", 6.0)
    assert common_loss([*TWO, Entry(Run("c", ""), "c", 0, "no memory"), entry("d", [9.0], failed="lost")]) == Target(
        "loss", 6.0
    )
    assert spread([1.0, NEVER, 3.0]) == (3.0, 1.0, NEVER) and spread([NEVER, NEVER]) == (NEVER, NEVER, NEVER)
    assert spread([None]) is None


def test_tables() -> None:
    lost = entry("lost", [8.0, None], failed="sgd has diverged")
    never = Entry(Run("none-seed=0", ""), "none", 0, "no memory")
    found = methods([*TWO, lost, never])
    head, rows = compare_tables.ends(found)
    assert head[:4] == ["run", "seeds", "iterations", "f"] and [row[0] for row in rows] == [
        *("a", "  least", "  most"),
        *("b", "lost", "none"),
    ]
    assert rows[0][:5] == ["a", "2", "2.5", "1", "0.5000"] and rows[1][:3] == ["  least", "", "2"]
    assert rows[4][3] == "-" and rows[5] == ["none", "1", "failed"]
    _, rows = compare_tables.reached(found, Target("train_accuracy", 0.6))
    assert [row[:3] for row in rows[:4]] == [
        ["a", "1 of 2", "never"],
        ["  least", "", "3.00"],
        ["  most", "", "never"],
        ["b", "0 of 1", "never"],
    ]
    text = compare_report.lines([*TWO, lost, never], [])
    assert text[-2:] == ["lost-seed=0: failed: sgd has diverged", "none-seed=0: failed: no memory"]
    assert all(line == line.rstrip() for line in text)


def test_the_median_over_an_axis_that_differs() -> None:
    """Of curves that are straight between their points, on the axes on which they are drawn."""
    a = methods(TWO)[0]
    x, y, low, high = median_line(a, "seconds", "loss")
    assert x == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert low == [8.0, 4.0, 2.0, 1.0, 1.0] and high == [8.0, 5.0, 2.0, 1.5, 1.0]
    assert y == [8.0, 4.5, 2.0, 1.25, 1.0]
    x, y, low, high = median_line(a, "seconds", "loss", x_log=True, y_log=True)
    assert x == [2.0, 3.0, 4.0]  # where both have begun
    share = math.log(1.5) / math.log(2)
    assert high is not None and high[1] == pytest.approx(2.0 ** (1 - share))
    failed = methods([entry("a", [4.0, 3.0], failed="lost"), entry("a", [4.0, 2.0, 1.0], 1)])[0]
    assert median_line(failed, "iteration", "loss")[0] == [0.0, 1.0]
    assert median_line(methods(TWO)[1], "seconds", "loss") == ([0.0, 1.0], [8.0, 6.0], None, None)


def test_charts_and_page(tmp_path: Path) -> None:
    targets = [Target("loss", 2.0)]
    charts = compare_pictures.charts(methods(TWO), targets)
    assert [chart.name for chart in charts[:4]] == ["loss-seconds", "loss-iteration", "loss-samples", "loss-bytes"]
    time = charts[0]
    assert time.x_log and scales(time)[0].log and time.levels == [2.0] and time.x_label == "seconds of training"
    assert [(p.x, p.y) for p in time.points] == [(2.0, 2.0)]  # b does not reach it
    assert not charts[1].x_log and charts[-1].levels == []
    assert raster.drawn(charts, "a title", 4)[:4] == b"\x89PNG"
    page = compare_page(TWO, targets, "a & b", ["budgets differ"])
    assert "<title>a &amp; b</title>" in page and "budgets differ" in page and "a (2 seeds)" in page
    assert "to f &lt;= 2" in page and page.count("data-chart=") >= 8
    silent = [Entry(Run("a", "", [record(k, 1.0) | {"comm": {}, "servers": {}} for k in range(2)]), "a")]
    assert not any(chart.name.endswith("bytes") for chart in compare_pictures.charts(methods(silent), []))


def test_a_run_that_diverges_leaves_room_for_the_others() -> None:
    lost = entry("lost", [8.0, 100.0, 1e36], failed="sgd has diverged")
    chart = compare_pictures.charts(methods([*TWO, lost]), [])[1]
    assert chart.lines[-1].y == [8.0, None, None] and chart.lines[0].y[0] == 8.0 and "above 80" in chart.note
    assert scales(chart)[1].high < 100
    _, rows = compare_tables.reached(methods([lost, replace(lost, seed=1)]), Target("loss", 1.0))
    assert rows == [["lost", "0 of 2", *["never"] * 4]]


def test_rings_and_levels_are_where_their_values_are() -> None:
    line = Line("a", [1.0, 10.0, 100.0], [1.0, 0.1, 0.01])
    chart = Chart("c", "t", "s", "f", [line], True, x_log=True, levels=[0.1], points=[Point(10.0, 0.1, 0, "here")])
    x, y = scales(chart)
    svg = render(chart)
    at = f'cx="{x.place(10.0):.1f}" cy="{y.place(0.1):.1f}"'
    assert x.place(10.0) == pytest.approx((x.start + x.end) / 2) and f'{at} r="6.5"' in svg and "here" in svg
    assert f"{y.place(0.1):.1f}H{x.end:.1f}" in svg and "target 0.1" in svg


def test_labels_do_not_cover_each_other() -> None:
    line = Line("a", [1100.0, 9.9e5], [1.0, 2.0])
    svg = render(Chart("c", "t", "samples", "f", [line], x_log=True))
    labels = re.findall(r'class="tx" x="([\d.]+)"[^>]*>([^<]+)<', svg)
    edges = [(float(x) - 3.5 * len(words), float(x) + 3.5 * len(words)) for x, words in labels]
    assert len(labels) >= 4 and all(right < left for (_, right), (left, _) in pairwise(edges))


def test_budgets_that_differ_are_said() -> None:
    same = [Entry(Run("a", ""), "a", budget=60.0)]
    assert compare_report.notes_on(same) == []
    both = [*same, Entry(Run("b", ""), "b", budget=30.0), Entry(Run("c", ""), "c")]
    assert compare_report.notes_on(both) == ["the runs had different budgets: 30 s, 60 s, none"]


def test_runs_of_other_budgets_make_no_median() -> None:
    run = Run("r", {}, [record(0, 1.0)])
    entries = [Entry(run, "adam", seed, "", 2.0) for seed in (0, 1)] + [Entry(run, "adam", None, "", 1.0)]
    found = methods([*entries, Entry(run, "sgd", None, "", 2.0)])
    assert [(m.label, len(m.entries)) for m in found] == [("adam, 2 s", 2), ("adam, one run, 1 s", 1), ("sgd", 1)]
