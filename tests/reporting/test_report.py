"""Runs on one page, and as tables: values, gaps, runs that go on, several runs."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from inside import start
from runs import fails, metrics, train

from dnewton.reporting.charts import POINTS, Line, chart
from dnewton.reporting.page import charts, page
from dnewton.reporting.runs import Run, read_run

VOID = {"meta", "br", "hr", "img"}


class Balanced(HTMLParser):
    """Every element that begins ends."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href"), (tag, value)  # nothing is fetched

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> list[ElementTree.Element]:
    """The pictures of a page that is well formed and needs no network."""
    parser = Balanced()
    parser.feed(text)
    assert not parser.open and "url(" not in text and "<script" not in text
    found = re.findall(r"<svg viewBox=\"0 0 640.*?</svg>", text, re.S)
    return [ElementTree.fromstring(svg) for svg in found]


def record(iteration: int, loss: float | None = 1.0, **more: Any) -> dict[str, Any]:
    return {"iteration": iteration, "loss": loss, "train_rmse": 0.1, "seconds": float(iteration), **more}


@pytest.mark.jobs(1)
def test_a_run(tmp_path: Path) -> None:
    assert train(1, tmp_path, "mlp.yaml", "run", settings=["solver.max_iterations=4"]).returncode == 0
    done = start(1, "run", cwd=tmp_path, module="dnewton.report")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.html").read_text()
    pictures = checked(text)
    assert len(pictures) >= 7
    lines = metrics(tmp_path, "run")
    for figure in (
        f"{lines[-1]['loss']:.6g}",
        f"{lines[-1]['test_accuracy']:.6g}",
        "planned",
        "grid: 1 x 1",
        "ended after",
    ):
        assert figure in text
    for name in ("out.csv", "out.json"):
        assert start(1, "run", "-o", name, cwd=tmp_path, module="dnewton.report").returncode == 0
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in lines]
    assert rows[1]["cg_iterations.mean"] == str(float(lines[1]["cg_iterations"]["mean"]))
    assert json.loads((tmp_path / "out.json").read_text())[0]["metrics"] == lines


def test_points_are_where_the_figures_are() -> None:
    run = Run("r", [record(k, 10.0 ** (2 - k)) for k in range(5)], {}, [])
    (loss,) = (ElementTree.fromstring(svg.split('\n<p class="legend"')[0]) for svg in charts([run])[:1])
    (line,) = loss.iter("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    assert len(points) == 5
    steps = {round(b[1] - a[1], 0) for a, b in zip(points, points[1:], strict=False)}
    assert len(steps) == 1 and steps.pop() > 10  # powers of ten are evenly apart on a log axis, downwards


def test_gaps_and_thinning() -> None:
    values = [1.0, 2.0, None, 3.0, float("nan"), 0.0, 4.0, 5.0]
    svg = chart("t", "u", [Line("l", list(range(8)), values)], log=True)
    assert svg.count("<polyline") == 2 and svg.count("<circle") == 1
    long = list(range(50_000))
    spiky = [1.0 + (k == 31_234) * 8 - (k == 4_321) * 0.5 for k in long]
    svg = chart("t", "u", [Line("l", [float(k) for k in long], spiky)])
    points = re.findall(r"polyline.*?points=\"(.*?)\"", svg)[0].split()
    heights = {p.split(",")[1] for p in points}
    assert len(points) <= 2 * POINTS and len(heights) == 3  # the two extremes are kept
    assert chart("t", "u", [Line("l", [0.0], [None])]) == ""
    ElementTree.fromstring(
        chart("a < b & c", "µ", [Line("x & y", [0.0, 1.0], [1.0, 1.0])]).split('\n<p class="legend"')[0]
    )


def test_several_runs_and_seeds() -> None:
    def run(name: str, seed: int, solver: str, scale: float) -> Run:
        return Run(name, [record(k, scale / (k + 1)) for k in range(6)], {"solver": {"name": solver, "seed": seed}}, [])

    runs = [
        run("a", 0, "newton", 1.0),
        run("b", 1, "newton", 3.0),
        run("c", 2, "newton", 2.0),
        run("d", 0, "adam", 9.0),
    ]
    text = page(runs, "1")
    first = checked(text)[0]
    names = {"a (3 seeds) f", "d f", "a (3 seeds)", "d"}
    assert {t.text for t in first.iter("{http://www.w3.org/2000/svg}title")} - {"Objective f"} <= names
    assert len(list(first.iter("{http://www.w3.org/2000/svg}polygon"))) == 1
    assert len(list(first.iter("{http://www.w3.org/2000/svg}polyline"))) == 2


@pytest.mark.jobs(1)
def test_a_run_that_goes_on_and_mistakes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    fails(start(1, "run", cwd=tmp_path, module="dnewton.report"), "run", "no run")
    whole = "\n".join(json.dumps(record(k)) for k in range(3))
    (tmp_path / "run" / "metrics.jsonl").write_text(whole + '\n{"iteration": 3, "los')
    found = read_run(str(tmp_path / "run"))
    assert len(found.records) == 3 and found.ended == ""
    assert start(1, "run", cwd=tmp_path, module="dnewton.report").returncode == 0
    assert "goes on, or was cut off" in (tmp_path / "report.html").read_text()
    fails(start(1, "nowhere", cwd=tmp_path, module="dnewton.report"), "nowhere")
    fails(start(1, "run", "-o", "x.pdf", cwd=tmp_path, module="dnewton.report"), "x.pdf", ".html")
    fails(start(1, "run", "-o", "no/x.html", cwd=tmp_path, module="dnewton.report"), "no/x.html")
