"""What a run directory may hold already, and what happens to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dnewton.errors import UserError
from dnewton.storage.run_directory import RunDirectory


def ended(path: Path, checkpoints: int = 1) -> RunDirectory:
    """A run with a line of metrics, a model and checkpoints."""
    run = RunDirectory(str(path))
    run.create("net: {}")
    run.record({"iteration": 0, "seconds": 0.5, "loss": float("nan")})
    run.log("said")
    Path(run.model).write_text("model")
    for i in range(checkpoints):
        final = run.checkpoint(i, 0)
        run.begin_checkpoint(final, 0)
        run.publish(final, "manifest.json", b"{}", keep=2)
    return run


def test_a_free_name_and_an_empty_folder_will_do(tmp_path: Path) -> None:
    RunDirectory(str(tmp_path)).check(overwrite=False)
    RunDirectory(str(tmp_path / "a" / "b")).check(overwrite=False)
    assert not (tmp_path / "a").exists()


def test_a_start_that_failed_blocks_nothing(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.create("net: {}")
    run.check(overwrite=False)
    run.check(overwrite=False, resume=True)


@pytest.mark.parametrize("name", ["config.yaml", "log.txt", "model.safetensors", "checkpoints/mine.bin"])
def test_what_is_of_no_run_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for resume in (False, True):
        with pytest.raises(UserError, match=r"holds .*give (--overwrite, --resume|another --out)"):
            RunDirectory(str(tmp_path)).check(overwrite=False, resume=resume)
    run = RunDirectory(str(tmp_path))
    run.check(overwrite=True)
    run.create("net: {}")
    assert (tmp_path / name).exists() == (name in ("config.yaml", "checkpoints/mine.bin"))


def test_another_run_is_not_replaced_unasked(tmp_path: Path) -> None:
    run = ended(tmp_path / "run")
    with pytest.raises(UserError, match="holds another run; give --overwrite, --resume or another --out"):
        run.check(overwrite=False)
    run.check(overwrite=False, resume=True)
    run.check(overwrite=True)
    run.create("net: {}")
    assert sorted(os.listdir(run.path)) == ["checkpoints", "config.yaml", "metrics.jsonl"]
    assert not run.checkpoints() and run.metrics.read_text() == ""


def test_a_finished_run_without_checkpoints_is_not_run_again(tmp_path: Path) -> None:
    run = ended(tmp_path / "run", checkpoints=0)
    with pytest.raises(UserError, match="finished run without checkpoints"):
        run.check(overwrite=False, resume=True)


@pytest.mark.parametrize("make", ["file", "below", "link"])
def test_no_directory_can_be_made(tmp_path: Path, make: str) -> None:
    place = tmp_path / "out"
    if make == "link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.write_text("")
    with pytest.raises(UserError, match=r"--out"):
        RunDirectory(str(place / "run" if make == "below" else place)).check(overwrite=True)


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    names = ("metrics.jsonl", "config.yaml", "log.txt")
    for name in names:
        (tmp_path / f"kept-{name}").write_text("mine")
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).symlink_to(tmp_path / f"kept-{name}")
    run = RunDirectory(str(tmp_path / "run"))
    run.create("net: {}")
    run.log("said")
    run.record({"iteration": 0})
    assert all((tmp_path / f"kept-{name}").read_text() == "mine" for name in names)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    run = ended(tmp_path / "run", checkpoints=4)
    final = run.checkpoint(3, 7)
    run.begin_checkpoint(final, 0)
    assert len(run.checkpoints()) == 2  # not before it is published
    run.publish(final, "manifest.json", b"[]", keep=2)
    assert [Path(p).name for p in run.checkpoints()] == ["iteration-00000003", "iteration-00000003-00000007"]
    assert sorted(os.listdir(run.path / "checkpoints")) == [Path(p).name for p in run.checkpoints()]
    run.begin_checkpoint(final, 0)
    run.publish(final, "manifest.json", b"{}", keep=2)  # in the place of a damaged one
    assert (final / "manifest.json").read_bytes() == b"{}"


def test_too_little_room_is_found_before(tmp_path: Path) -> None:
    run = ended(tmp_path / "run")
    with pytest.raises(UserError, match=r"iteration-00000005: needs \d+.* MiB and .* are free"):
        run.begin_checkpoint(run.checkpoint(5, 0), 1 << 60)
    assert sorted(os.listdir(run.path / "checkpoints")) == ["iteration-00000000"]


def test_going_on_drops_what_is_newer(tmp_path: Path) -> None:
    run = ended(tmp_path / "run")
    for i in (1, 2, 2, 3):
        run.record({"iteration": i, "seconds": float(i), "note": len(run.metrics.read_text())})
    with run.metrics.open("a") as file:
        file.write('{"iteration": 4, "sec')
    (run.path / "checkpoints" / ".writing-x").mkdir()
    newer = run.checkpoint(3, 0)
    newer.mkdir()
    (run.path / "checkpoints" / "iteration-00000009-mine").mkdir()
    assert run.reopen("net: {}", 2, run.checkpoint(2, 0)) == (2.0, [])
    assert [Path(p).name for p in run.checkpoints()] == ["iteration-00000000"]  # the damaged one counts no more
    names = [".refused-iteration-00000003", "iteration-00000000", "iteration-00000009-mine"]
    assert sorted(os.listdir(newer.parent)) == names
    assert [json.loads(line)["iteration"] for line in run.metrics.read_text().splitlines()] == [0, 1, 2]
    assert not (run.path / "checkpoints" / ".writing-x").exists()
    assert run.reopen("net: {}", 4, run.checkpoint(4, 0)) == (2.0, [3, 4])


def test_what_cannot_be_gone_on_from_is_set_aside(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    run.create("net: {}")
    assert run.set_aside() is None
    for number in (1, 2):
        run = ended(tmp_path / "run")
        assert run.set_aside() == str(run.path / f"before-{number}")
        assert sorted(os.listdir(run.path)) == [f"before-{n + 1}" for n in range(number)]
    assert len(RunDirectory(str(run.path / "before-1")).checkpoints()) == 1


def test_lines_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    run.create("net: {}")
    run.record({"iteration": 0})
    write, full = os.write, [True]

    def some(handle: int, content: bytes) -> int:
        if not full[0]:
            return write(handle, content)
        if len(content) > 3:
            return write(handle, content[:3])  # a part of a line, and then no more
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", some)
        run.record({"iteration": 1})
        run.record({"iteration": 2})
        assert run.unwritten() == 2 and len(run.metrics.read_text().splitlines()) == 1
        final = run.checkpoint(2, 0)
        run.begin_checkpoint(final, 0)
        with pytest.raises(OSError, match=r"metrics\.jsonl: cannot be written"):
            run.publish(final, "manifest.json", b"{}", keep=2)
        assert not run.checkpoints()
        full[0] = False
        run.record({"iteration": 3})
    assert run.unwritten() == 0
    assert [json.loads(line)["iteration"] for line in run.metrics.read_text().splitlines()] == [0, 1, 2, 3]
