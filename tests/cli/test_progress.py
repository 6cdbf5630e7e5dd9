"""How far a run is, as a user reads it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import jobs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside import needs
from runs import train

from dnewton.cli import progress, starting, terminal
from dnewton.comm.traffic import PHASES

NUMBERS = st.floats(1e-300, 1e300) | st.just(0.0)


def record(iteration: int, loss: float = 1.0, norm: float | None = 1.0, **scores: float) -> dict[str, Any]:
    return {"iteration": iteration, "loss": loss, "grad_norm": norm, **scores}


@given(st.integers(0, 10**6), NUMBERS, st.none() | NUMBERS, NUMBERS, st.floats(1e-4, 1e7), st.integers(1, 2**31 - 1))
def test_lines_have_80_columns(
    iteration: int, loss: float, norm: float | None, score: float, seconds: float, total: int
) -> None:
    now = [0.0]
    pace = progress.Pace(max(total, iteration), lambda: now[0])
    pace.passed(0)
    now[0] = seconds * max(1, iteration)
    pace.passed(max(1, iteration))
    for name in ("rmse", "accuracy"):
        scores = {f"train_{name}": score, f"validation_{name}": score}
        for columns in (80, 60):
            text = progress.line(record(iteration, loss, norm, **scores), pace, columns)
            assert len(text) <= columns and text.strip().startswith(str(iteration))
            assert f"f {loss:.4g}" in text


@given(st.lists(st.text("ab/_=.", min_size=1, max_size=30), min_size=1, max_size=30), st.data())
def test_long_lines_are_folded(words: list[str], data: st.DataObject) -> None:
    """No word is lost or broken, and no line is wider but for a word that is."""
    ends = [data.draw(st.sampled_from(["", ",", ";", ":"])) for _ in words]
    text = " ".join(word + end for word, end in zip(words, ends, strict=True))
    for width in (80, 60):
        lines = terminal.folded(text, width)
        assert all(len(line) <= width or " " not in line.strip() for line in lines)
        assert " ".join(line.removeprefix("  ") if k else line for k, line in enumerate(lines)) == text


def test_where_lines_are_broken() -> None:
    assert terminal.folded("short; as it is") == ["short; as it is"]
    command = "--resume runs/mlp --set solver.max_iterations=60"
    assert terminal.folded(f"ended after iteration 30 (iterations): max_iterations is 30; for more: {command}") == [
        "ended after iteration 30 (iterations): max_iterations is 30;",
        f"  for more: {command}",
    ]
    told = terminal.folded(f"stopped by SIGTERM on rank 1; continue with --resume {'/a/path' * 9} (exit code 85)")
    assert any(f"--resume {'/a/path' * 9}" in line for line in told)  # an option and its value stay together
    path = "/a/long/path" * 9
    assert terminal.folded(f"mlp.yaml on 2 rank(s), run directory {path}")[-1] == "  " + path


def test_what_the_live_line_says() -> None:
    assert progress.within("setup", None, 0.5) == "  setting up, 0.5 s"
    assert progress.within("cg", 3, 1.25, "CG 7") == "  iteration 3: solving, CG 7, 1.2 s"
    assert progress.within("output", 30, 0.5, ending=True) == "  at the end: writing the model, 0.5 s"
    missing = set(PHASES) - set(progress.WORDS)
    assert not missing


def test_pace_and_durations() -> None:
    now = [100.0]
    pace = progress.Pace(50, lambda: now[0])
    assert pace.each is None and pace.left is None
    for iteration in range(13):
        pace.passed(iteration)
        now[0] += 2.0 if iteration < 6 else 3.0
    assert pace.each == pytest.approx((2 * 2.0 + 6 * 3.0) / 8) and pace.left == pytest.approx(38 * pace.each)
    assert [progress.duration(s) for s in (0, 6.2, 60, 754, 11100)] == ["0:00", "0:07", "1:00", "12:34", "3:05:00"]
    endless = progress.Pace(2**31 - 1, lambda: 0.0)
    assert endless.left is None and "/" not in progress.line(record(3, train_rmse=1.0), endless)


@pytest.mark.parametrize("ranks", [needs(1, 1), needs(2, 2)])
def test_lines_in_a_pipe(tmp_path: Path, ranks: int) -> None:
    settings = ["solver.max_iterations=3"]
    plain = train(ranks, tmp_path, "mlp.yaml", "a", settings=settings).printed
    lines = plain.splitlines()
    assert lines[0].startswith("dnewton ") and "reading digits" in lines[0]
    assert [line for line in lines if len(line) > 80] == []
    rows = [line.split() for line in lines if re.match(r"[a-z]+ +[\d.]+ +", line)]
    *phases, together = [[float(figure) for figure in row[1:]] for row in rows if len(row) == 5]
    for column, total in zip(zip(*phases, strict=True), together, strict=True):
        assert sum(column) == pytest.approx(total, abs=0.002 * len(phases))
    assert [line.split()[0] for line in lines if re.match(r"\d+/3 ", line)] == ["0/3", "1/3", "2/3", "3/3"]
    assert "\x1b" not in plain and "\r" not in plain
    quiet = train(ranks, tmp_path, "mlp.yaml", "b", "--quiet", settings=settings).printed.splitlines()
    assert len(quiet) == 4 and quiet[-2].startswith("ended after iteration 3") and "for more:" in quiet[-1]
    wide = train(ranks, tmp_path, "mlp.yaml", "c", "--verbose", settings=settings).stdout
    assert "#CG min/mean/max" in wide
    log = (tmp_path / "b" / "log.txt").read_text()
    assert "#CG min/mean/max" in log and "grid:" in log  # all of it, however little is printed


@pytest.mark.serial
@pytest.mark.parametrize("columns", [80, 60])
def test_the_launchers_terminal_is_seen(tmp_path: Path, columns: int) -> None:
    """Under mpirun rank 0 writes into a pipe; where that leads to a terminal there is a live line, of its width."""
    words = [
        "--net",
        "mlp.yaml",
        "--out",
        "run",
        "--set",
        "solver.max_iterations=50",
    ]  # long enough to be drawn, 8 times a second
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    job = subprocess.Popen(
        jobs.command(2, *words), cwd=tmp_path, env=jobs.environment(), stdin=other, stdout=other, stderr=other
    )
    os.close(other)
    seen = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the terminal has no writer any more
            break
        if not part:
            break
        seen += part
    os.close(main)
    assert job.wait(timeout=60) == 0, seen.decode()
    text = seen.decode()
    assert "setting up" in text and re.search(r"  iteration \d+: ", text)
    assert re.search(r"^.*50/50 ", text, re.M) and "ended after iteration 50" in text
    assert "iteration 51" not in text
    drawn = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", text))
    assert max(map(len, drawn)) <= columns


def test_the_first_line_needs_nothing_large(tmp_path: Path) -> None:
    """It comes before NumPy and MPI are imported, from rank 0 alone, and names the ranks where the launcher does."""
    rank0 = {"PMI_RANK": "0", "PMI_SIZE": "3"}
    assert starting.first_line(["--net", "mlp.yaml"], rank0).endswith(": starting on 3 ranks")
    assert starting.first_line([], {}).endswith(": starting")
    assert not starting.first_line([], {"PMI_RANK": "1", "PMI_SIZE": "3"})
    assert not starting.first_line(["--net", "mlp.yaml", "--quiet"], rank0)
    script = (
        "import sys; from dnewton.cli import starting; starting.say([]); print({'numpy', 'mpi4py'} & {*sys.modules})"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[0].endswith("starting") and said.splitlines()[1] == "set()"
    assert "2 of 4 ranks done" in progress.solve_detail([], (2, 4)) and progress.solve_detail([]) == ""
