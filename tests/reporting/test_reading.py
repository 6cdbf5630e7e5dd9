"""Reading run directories: whole ones, those that grow, and what is left of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_folders import record, write_run

from dnewton.errors import UserError
from dnewton.reporting.follow import Follower
from dnewton.reporting.log_facts import facts_of
from dnewton.reporting.metrics_file import MetricsFile
from dnewton.reporting.runs import read_run, read_runs, short_names


def test_a_run_says_what_it_is(tmp_path: Path) -> None:
    run = read_run(str(write_run(tmp_path / "a", map(record, range(6)))), "a")
    facts = run.facts
    assert (facts.version, facts.ranks, facts.grid, facts.subsample, facts.samples) == ("0.1.0", 4, (2, 2), 144, 1437)
    assert facts.layers == {"layers.0": "full->all", "layers.1": "row->col"}
    assert facts.plan_parts == {"process": 112 * 2**20, "vectors": 2**19, "curvature": 76 * 2**20}
    assert facts.planned == 188.5 * 2**20 and facts.warnings[0].startswith("a feature has")
    assert run.ended == "ended after iteration 5: enough" and run.setting("solver", "seed") == 1
    assert run.columns["comm.cg.bytes"] == [3000] * 6 and run.columns["lambda"][0] is None


def test_the_last_start_counts_and_a_stop_ends_a_run() -> None:
    facts = facts_of(
        [
            "dnewton 0.1.0: a.yaml on 2 rank(s), run directory r",
            "grid: 1 x 2 ranks; memory per rank: 1 GiB",
            "stopped by SIGTERM after iteration 3; continue with --resume r (exit code 85)",
            "dnewton 0.2.0: r/config.yaml on 4 rank(s), run directory r",
        ]
    )
    assert (facts.version, facts.ranks, facts.starts, facts.grid, facts.stopped) == ("0.2.0", 4, 2, None, "")
    assert facts_of(["stopped by SIGTERM after iteration 3; continue"]).stopped.startswith("stopped by SIGTERM")


def test_a_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    run = read_run(str(write_run(tmp_path / "a", map(record, range(6)), cut=True)), "a")
    assert [r["iteration"] for r in run.records] == [0, 1, 2, 3, 4]
    assert run.unfinished and run.unread == 0 and run.ended == ""


def test_metrics_are_read_as_they_grow(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"itera')
    file = MetricsFile(path)
    assert file.refresh() and len(file.records) == 1 and file.unfinished
    assert not file.refresh()
    with open(path, "a") as out:
        out.write('tion": 1}\n[1]\n{"x": \n{"iteration": 2}\n')
    assert file.refresh() and [r["iteration"] for r in file.records] == [0, 1, 2]
    assert file.unread == 2 and not file.unfinished
    path.write_text('{"iteration": 7}\n')  # shorter
    assert file.refresh() and [r["iteration"] for r in file.records] == [7] and file.unread == 0


def test_a_run_is_followed_from_before_its_start_to_its_end(tmp_path: Path) -> None:
    follower = Follower(str(tmp_path / "a"))
    assert not follower.look() and follower.run is None and not follower.ended
    write_run(tmp_path / "a", [record(0)], ended=False)
    assert follower.look() and not follower.look() and not follower.ended
    with open(tmp_path / "a" / "metrics.jsonl", "a") as out:
        out.write(json.dumps(record(1, stopped={"reason": "time", "text": "over"})) + "\n")
    assert follower.look() and follower.ended and follower.run is not None and len(follower.run.records) == 2


def test_damaged_files_beside_the_metrics_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", [record(0)])
    (folder / "config.yaml").write_text("net: [")
    (folder / "log.txt").write_bytes(b"\xff\x00 on rank(s)\n")
    (folder / "model.safetensors").write_bytes(b"no model")
    checkpoint = folder / "checkpoints" / "iteration-00000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("[]")
    run = read_run(str(folder), "a")
    assert run.config == {} and run.header == {} and run.manifest == {} and run.config_text == "net: ["
    assert run.checkpoints == ["iteration-00000001"]


def test_names_are_short_and_different(tmp_path: Path) -> None:
    assert short_names(["x/a", "x/b/"]) == ["a", "b"]
    assert short_names(["x/a", "y/a", "b"]) == ["x/a", "y/a", "b"]
    with pytest.raises(UserError, match="more than once"):
        short_names(["x/a", "x/b/../a"])


@pytest.mark.parametrize(("name", "said"), [("no", "no such"), ("file", "is a file"), ("empty", "is no run directory")])
def test_what_is_no_run(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        read_runs([str(tmp_path / name)])
