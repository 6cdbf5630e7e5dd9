"""`dnewton report` and `dnewton watch` as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from inside import start
from run_folders import record, write_run
from runs import metrics, train

from dnewton.cli import watch
from dnewton.cli.report import WRITERS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "a", map(record, range(6)))
    return tmp_path


@pytest.mark.jobs(3)
def test_a_run_is_reported(tmp_path: Path) -> None:
    net: dict[str, Any] = {
        "net": {"input": [64], "loss": "cross_entropy", "layers": [{"dense": {"units": 5}}, {"dense": {"units": 10}}]},
        "data": {"train": "digits", "test": "digits"},
        "solver": {"max_iterations": 2},
    }
    assert train(3, tmp_path, net, "out").returncode == 0
    done = start(1, "out", "-o", "out.html", cwd=tmp_path, module="dnewton.report")
    assert done.returncode == 0 and "1 run(s) with 3 lines" in done.stdout, done.stderr
    text = (tmp_path / "out.html").read_text()
    for line in metrics(tmp_path, "out"):
        assert f"iteration {line['iteration']}: {line['loss']:.6g}<" in text
    assert re.search(r"rank 2: W\[\d+:\d+, \d+:\d+\]", text) and 'data-chart="memory"' in text
    assert "solver.max_iterations is 2" in text and "by the most frequent class alone" in text
    done = start(1, "out", "--once", cwd=tmp_path, module="dnewton.watch")
    assert done.returncode == 0 and "iteration 2/2" in done.stdout and "ended: iterations" in done.stdout


@pytest.mark.jobs(1)
def test_the_suffix_decides(folder: Path) -> None:
    begin = {
        ".html": b"<!DOCTYPE html>",
        ".svg": b"<svg",
        ".png": b"\x89PNG",
        ".json": b'{"runs"',
        ".csv": b"iteration,",
    }
    for suffix in WRITERS:
        done = start(1, "a", "-o", f"r{suffix}", cwd=folder, module="dnewton.report")
        content = (folder / f"r{suffix}").read_bytes()
        assert done.returncode == 0 and content.startswith(begin[suffix]) and f"{len(content):,} bytes" in done.stdout
    assert start(1, "a", cwd=folder, module="dnewton.report").stdout.startswith("a.html: ")
    assert start(1, "a", "--overwrite", cwd=folder, module="dnewton.report").returncode == 0
    assert not list(folder.glob("*.tmp"))


@pytest.mark.jobs(1)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no"], "no: no such run directory"),
        (["a/log.txt", "-o", "x.html"], "a/log.txt: is a file; name the run directory"),
        ([".", "-o", "x.html"], ".: is no run directory"),
        (["a", "a"], "a: is given more than once"),
        (["a", "-o", "x.pdf"], "-o x.pdf: the suffix says what to write: .html, .svg, .png, .json, .csv"),
        (["a", "-o", "no/x.html"], "-o no/x.html: there is no folder no"),
        (["a", "-o", "there.html"], "-o there.html: exists; use --overwrite"),
        (["a", "-o", "folder.html", "--overwrite"], "-o folder.html: is a directory"),
        ([], "required: RUN"),
    ],
)
def test_mistakes(folder: Path, words: list[str], said: str) -> None:
    (folder / "there.html").write_text("mine")
    (folder / "folder.html").mkdir()
    done = start(1, *words, cwd=folder, module="dnewton.report")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert (folder / "there.html").read_text() == "mine" and not (folder / "x.html").exists()


@pytest.mark.jobs(1)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no", "--once"], "no: is not there yet"),
        (["a/log.txt"], "a/log.txt: is a file"),
        (["a", "--every", "0"], "--every 0: a number of seconds"),
    ],
)
def test_mistakes_of_watch(folder: Path, words: list[str], said: str) -> None:
    done = start(1, *words, cwd=folder, module="dnewton.watch")
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.jobs(1)
def test_watch_in_a_pipe_ends_with_the_run(folder: Path) -> None:
    done = start(1, "a", cwd=folder, module="dnewton.watch")
    assert done.returncode == 0 and done.stdout.splitlines()[0] == "watching a"
    assert "ended: iterations" in done.stdout and "ended after iteration 5: enough" in done.stdout


def test_watch_waits_for_a_run_and_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def wait(seconds: float) -> bool:
        looks.append(len(looks))
        if len(looks) == 1:
            write_run(tmp_path / "b", [record(0)], ended=False)
        elif len(looks) == 2:
            with open(tmp_path / "b" / "metrics.jsonl", "a") as out:
                out.write(json.dumps(record(1, stopped={"reason": "time", "text": "over"})) + "\n")
        return len(looks) > 5

    class Keys:
        def __enter__(self) -> watch.Wait:
            return wait

        def __exit__(self, *_: Any) -> None:
            return None

    monkeypatch.setattr(watch, "_keys", Keys)
    for show in (watch._lines, watch._lively):
        looks.clear()
        follower = watch.Follower(str(tmp_path / "b"))
        show(follower, 0.1)
        assert follower.ended and len(looks) in (0, 2)


def test_q_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with watch._keys() as wait:
            assert not wait(0.0)
            os.write(ours, b"x")
            assert not wait(1.0)
            os.write(ours, b"q")
            assert wait(1.0)
    os.close(ours)


@pytest.mark.jobs(1)
def test_watch_ends_with_a_job_that_is_gone(tmp_path: Path) -> None:
    """A killed job leaves no end; its files and its lock are no longer renewed."""
    write_run(tmp_path / "killed", map(record, range(3)), ended=False)
    for file in (tmp_path / "killed").iterdir():
        os.utime(file, (1e9, 1e9))
    done = start(1, "killed", cwd=tmp_path, module="dnewton.watch")
    assert done.returncode == 0 and "no sign of life for" in done.stdout
    assert "dnewton train --resume killed" in done.stdout


@pytest.mark.jobs(1)
@pytest.mark.parametrize("name", ["$a_b^{$", "bad\udcff"])
def test_names_are_no_formulas(tmp_path: Path, name: str) -> None:
    for run in ("first", "plain"):
        write_run(tmp_path / run, map(record, range(3)))
    (tmp_path / "first").rename(tmp_path / name)
    done = start(1, name, "plain", "-o", "both.png", cwd=tmp_path, module="dnewton.report")
    assert done.returncode == 0 and (tmp_path / "both.png").read_bytes()[:4] == b"\x89PNG", done.stderr
