"""The page: it is whole, needs nothing else, and its curves are where the figures say, read back from the picture."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import CONFIG, record, write_run

from dnewton.reporting.page import page
from dnewton.reporting.runs import Run, read_run, read_runs
from dnewton.reporting.sheet import sheet
from dnewton.reporting.terminal import Screen, view

VOID = {"meta", "br", "link"}
NUMBER = r"-?\d+(?:\.\d+)?"


class Balanced(HTMLParser):
    """Raises where tags do not fit; collects addresses."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.addresses += [
            value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "data", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> dict[str, ElementTree.Element]:
    """The pictures of a page by name, once it is seen to be whole and to ask for nothing."""
    parser = Balanced()
    parser.feed(text)
    parser.close()
    assert parser.open == [] and parser.addresses == [] and parser.scripts == 0
    assert not re.search(r"https?:|url\(|@import", text)
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg .*?</svg>", text, re.S)]
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in found)
    names = [svg.get("data-chart", "") for svg in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def number(label: str) -> float:
    """What a tick says."""
    if raised := re.fullmatch("10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", label):
        return 10.0 ** int(raised[1].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    return float(label.replace(",", ""))


def axis(svg: ElementTree.Element, kind: str, log: bool) -> Any:
    """From positions to values, by the first and the last tick."""
    at = "y" if kind == "ty" else "x"
    ticks = [(float(t.get(at, "")) - (4 if kind == "ty" else 0), number(t.text or "")) for t in svg.iter("text")
             if t.get("class") == kind]  # fmt: skip
    (a, low), (b, high) = ticks[0], ticks[-1]
    if log:
        return lambda p: 10 ** (math.log10(low) + (p - a) / (b - a) * (math.log10(high) - math.log10(low)))
    return lambda p: low + (p - a) / (b - a) * (high - low)


def curves(svg: ElementTree.Element, log: bool) -> dict[str, list[list[tuple[float, float]]]]:
    """By label the pieces of a line as values."""
    x, y = axis(svg, "tx", False), axis(svg, "ty", log)
    found = {}
    for path in svg.iter("path"):
        if (label := path.get("data-line")) is not None:
            pieces = [re.findall(f"({NUMBER}) ({NUMBER})", piece) for piece in path.get("d", "").split("M")[1:]]
            found[label] = [[(x(float(a)), y(float(b))) for a, b in piece] for piece in pieces]
    return found


def test_curves_are_where_the_figures_are(tmp_path: Path) -> None:
    records = [record(k) for k in range(6)]
    pictures = checked(page(read_runs([str(write_run(tmp_path / "a", records))])))
    for name, key, log in (("loss", "loss", True), ("grad_norm", "grad_norm", True), ("ratio", "ratio", False)):
        (piece,) = curves(pictures[name], log)[""]
        known = [(r["iteration"], r[key]) for r in records if r[key] is not None]
        assert len(piece) == len(known)
        spread = max(v for _, v in known) - min(v for _, v in known)
        for (x, y), (iteration, value) in zip(piece, known, strict=True):
            assert x == pytest.approx(iteration, abs=0.01)
            assert y == pytest.approx(value, rel=0.01) if log else y == pytest.approx(value, abs=0.005 * spread)
    scores = curves(pictures["accuracy"], False)
    assert set(scores) == {"train", "test"} and len(scores["test"][0]) == 6
    tips = [t.text or "" for t in pictures["loss"].iter("title")]
    assert [t.rsplit(" ", 1)[1] for t in tips] == [f"{r['loss']:.6g}" for r in records]
    assert {"cg", "early_stopped", "wait_seconds", "seconds", "bytes", "memory", "layout"} <= set(pictures)


def test_every_rank_has_a_bar(tmp_path: Path) -> None:
    """Rank 0 does 3 to 7 iterations of CG, rank 1 has nothing to solve, rank 2 is cut off in lines 1, 3 and 5."""
    path = write_run(tmp_path / "a", map(record, range(6)))
    picture = checked(page(read_runs([str(path)])))["rank-cg"]
    tips = [t.text or "" for t in picture.iter("title")]
    assert "rank 0, cut off 0 of 5 times, ended by the rank's own rule: 5 iterations, mean over the run" in tips
    assert "rank 2, cut off 3 of 5 times, cut off: 7.2 iterations, mean over the run" in tips  # (10 + 12 + 14) / 5
    assert "rank 2, cut off 3 of 5 times, ended by the rank's own rule: 4.8 iterations, mean over the run" in tips


def test_bars_add_up(tmp_path: Path) -> None:
    pictures = checked(page(read_runs([str(write_run(tmp_path / "a", map(record, range(6))))])))
    tips = [t.text or "" for t in pictures["seconds-total"].iter("title")]
    assert "a, cg: 18 s" in tips and "a, function: 1.5 s" in tips  # 6 × 0.5 + 0 + 1 + … + 5, and 6 × 0.25
    assert "a, cg: 18 kB" in [t.text for t in pictures["bytes-total"].iter("title")]
    areas = [r for r in pictures["seconds-total"].iter("rect") if r.find("title") is not None and r.get("y") == "50.00"]
    widths = {(r.find("title").text or "").split(",")[1].split(":")[0]: float(r.get("width", "")) for r in areas}  # type: ignore[union-attr]
    assert widths[" cg"] / widths[" function"] == pytest.approx(12, rel=0.01)
    edges = [(float(r.get("x", "")), float(r.get("width", ""))) for r in areas]
    assert edges[0][0] == 14 and all(
        x + w == pytest.approx(b, abs=0.02) for (x, w), (b, _) in zip(edges, edges[1:], strict=False)
    )
    bars = [r for r in pictures["seconds"].iter("rect") if r.find("title") is not None]
    assert len(bars) == 5 * 3  # the first line's are not shown
    y = axis(pictures["seconds"], "ty", False)
    for k in range(5):
        stack = sorted(bars[3 * k : 3 * k + 3], key=lambda r: -float(r.get("y", "")))
        assert y(float(stack[0].get("y", "")) + float(stack[0].get("height", ""))) == pytest.approx(0, abs=0.05)
        assert y(float(stack[-1].get("y", ""))) == pytest.approx(
            0.875 + k + 1, rel=0.02
        )  # 0.25 + 0.125 + 0.5 + iteration
    tips = [t.text or "" for t in pictures["memory"].iter("title")]
    assert "planned, process: 112 MiB" in tips and "measured, measured: 100 MiB" in tips


def test_missing_values_leave_gaps(tmp_path: Path) -> None:
    records = [record(k, loss=None) if k in (2, 3) else record(k) for k in range(8)]
    records[6]["grad_norm"] = 0.0  # has no place on an axis in powers of ten
    pictures = checked(page(read_runs([str(write_run(tmp_path / "a", records))])))
    assert [len(piece) for piece in curves(pictures["loss"], True)[""]] == [2, 4]
    assert [len(piece) for piece in curves(pictures["grad_norm"], True)[""]] == [6, 1]


def test_seeds_are_one_band(tmp_path: Path) -> None:
    factors = (1.0, 2.0, 4.0)
    for seed, factor in enumerate(factors):
        write_run(tmp_path / f"s{seed}", [record(k, loss=factor / (k + 1)) for k in range(6 + seed)], seed=seed)
    write_run(tmp_path / "other", [record(k, loss=8.0 / (k + 1)) for k in range(4)], solver="adam")
    folders = [str(tmp_path / name) for name in ("s0", "s1", "s2", "other")]
    pictures = checked(page(read_runs(folders)))
    lines = curves(pictures["loss"], True)
    assert set(lines) == {"s0 (3 seeds)", "other"}
    middle = [value for _, value in lines["s0 (3 seeds)"][0]]
    assert middle == pytest.approx([*(2 / (k + 1) for k in range(6)), 3 / 7, 4 / 8], rel=0.01)  # two runs, then one
    bands = [p for p in pictures["loss"].iter("path") if (p.get("class") or "").startswith("band")]
    y = axis(pictures["loss"], "ty", True)
    edges = [y(float(b)) for _, b in re.findall(f"({NUMBER}) ({NUMBER})", bands[0].get("d", ""))]
    assert len(bands) == 1 and max(edges) == pytest.approx(4, rel=0.01) and min(edges) == pytest.approx(1 / 6, rel=0.01)
    assert set(curves(pictures["loss-seconds"], True)) == {"s0", "s1", "s2", "other"}
    styles = {p.get("data-line"): (p.get("class"), p.get("stroke-dasharray")) for p in pictures["loss"].iter("path")}
    assert styles["other"][0] != styles["s0 (3 seeds)"][0] and styles["other"][1] != styles["s0 (3 seeds)"][1]


def test_runs_of_which_little_is_left(tmp_path: Path) -> None:
    going = write_run(tmp_path / "going", map(record, range(3)), ended=False)
    cut = write_run(tmp_path / "cut", map(record, range(3)), cut=True)
    begun = write_run(tmp_path / "begun", [])
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "metrics.jsonl").touch()
    text = page(read_runs([str(going), str(cut), str(begun), str(bare)]))
    pictures = checked(text)
    assert set(curves(pictures["loss"], True)) == {"going (2 runs)"}  # of one seed
    assert text.count("no iteration has been written yet") == 2 and "no end is recorded" in text
    for folder in (going, cut, begun, bare):
        checked(page(read_runs([str(folder)])))


def test_ten_thousand_iterations_are_thinned(tmp_path: Path) -> None:
    from dnewton.reporting.scales import thinned

    places = [0.04 * k for k in range(10_000)]
    heights = [100.0 + 50 * math.sin(k) for k in range(10_000)]
    heights[4321] = 999.0
    kept = thinned(places, heights)
    assert kept[0] == 0 and kept[-1] == 9999 and len(kept) <= 4 * 401 and 4321 in kept
    for column in range(400):
        inside = [k for k in range(10_000) if int(places[k]) == column]
        shown = [heights[k] for k in kept if int(places[k]) == column]
        assert max(shown) == max(heights[k] for k in inside) and min(shown) == min(heights[k] for k in inside)


def test_names_are_no_markup(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "<script>alert(1)</script>".replace("/", "_"), [record(k, **{"a<b>": k}) for k in range(3)]
    )
    (folder / "log.txt").write_text('warning: </pre><script src="x">\x1b[0m\n')
    text = page(read_runs([str(folder)]))
    checked(text)
    assert "<script" not in text and "\x1b" not in text


def test_the_sheet_is_one_svg(tmp_path: Path) -> None:
    text = sheet(read_runs([str(write_run(tmp_path / "a", map(record, range(4))))]))
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and len(root.findall("{*}svg")) > 8
    boxes = [tuple(float(svg.get(k, "")) for k in ("x", "y", "width", "height")) for svg in root.findall("{*}svg")]
    for i, (x, y, w, h) in enumerate(boxes):
        assert x + w <= float(root.get("width", "")) and y + h <= float(root.get("height", ""))
        assert all(x + w <= a or a + c <= x or y + h <= b or b + d <= y for a, b, c, d in boxes[:i])


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**330), 10**330),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers()),
)
_RECORDS = st.lists(
    st.fixed_dictionaries(
        {"iteration": st.one_of(st.integers(0, 9), _VALUES)},
        optional={
            **{name: st.one_of(st.floats(), _VALUES) for name in ("loss", "grad_norm", "lambda", "train_seconds", "x")},
            "train_accuracy": _VALUES,
            "train_rmse": _VALUES,
            "cg_iterations": st.one_of(_VALUES, st.dictionaries(st.sampled_from(["min", "mean", "max"]), _VALUES)),
            "comm": st.one_of(_VALUES, st.dictionaries(st.text(max_size=2), st.dictionaries(st.text(), _VALUES))),
            "phase_seconds": st.one_of(_VALUES, st.dictionaries(st.text(max_size=2), _VALUES)),
            "stopped": _VALUES,
        },
    ),
    max_size=5,
)


@given(_RECORDS)
@settings(max_examples=60, deadline=None)
def test_any_figures_make_a_page(records: list[dict[str, Any]]) -> None:
    run = Run("r", "r", records, {"solver": {"max_iterations": 3}}, CONFIG)
    checked(page([run]))
    ElementTree.fromstring(sheet([run]))
    assert all(len(line) <= 80 for line in view(run, Screen()))


def test_the_layout_covers_every_weight_once(tmp_path: Path) -> None:
    from dnewton.reporting.layout_picture import layout_of

    known = layout_of(read_run(str(write_run(tmp_path / "a", [record(0)])), "a"))
    assert known is not None
    for layer, shape in zip(known[1], ((6, 4), (3, 6)), strict=True):
        owners = [[0] * shape[1] for _ in range(shape[0])]
        for block in layer.blocks:
            for o in range(*block.outputs):
                for i in range(*block.inputs):
                    owners[o][i] += 1
        assert all(count == 1 for row in owners for count in row)
        assert layer.weights == shape[0] * shape[1]
    first, second = known[1]
    assert [b.outputs for b in first.blocks] == [(0, 1), (1, 3), (3, 4), (4, 6)]  # full->all: rows of W, one per rank
    assert [b.inputs for b in second.blocks] == [(0, 3), (0, 3), (3, 6), (3, 6)]  # row->col: by the grid's row
