"""A run directory has one owner: whoever comes second, at the same moment or later, changes nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from inside import start
from runs import arguments, fails, train

import dnewton
from dnewton.errors import UserError
from dnewton.storage import run_lock
from dnewton.storage.owner import Owner
from dnewton.storage.run_directory import RunDirectory
from dnewton.storage.run_lock import InUse, Waits, take

pytestmark = pytest.mark.serial
QUICK = Waits(beat=0.05, patience=0.4, look=0.02)
CONTEXT = multiprocessing.get_context("fork")


def elsewhere(owner: Owner) -> Owner:
    """A process of another host, which cannot be looked up."""
    return replace(owner, host="other", processes="another boot")


def _attempt(folder: Path, gate: Any, results: Any, hold: float) -> None:
    gate.wait()
    try:
        lock = take(folder, Owner.here(), waits=QUICK)
    except InUse as error:
        results.put(str(error))
        return
    time.sleep(hold)
    results.put("")
    lock.release()


def _attempts(folders: list[Path], gate: Any, results: Any) -> None:
    for folder in folders:
        gate.wait(60)
        lock, said = None, ""
        try:
            lock = take(folder, Owner.here(), waits=QUICK)
        except InUse as error:
            said = str(error)
        gate.wait(60)  # both have tried
        if lock is not None:
            lock.release()
        results.put((str(folder), said))


def test_fifty_times_at_the_same_moment(tmp_path: Path) -> None:
    folders = [tmp_path / str(i) for i in range(50)]
    for folder in folders:
        folder.mkdir()
    gate, results = CONTEXT.Barrier(2), CONTEXT.SimpleQueue()
    both = [CONTEXT.Process(target=_attempts, args=(folders, gate, results), daemon=True) for _ in range(2)]
    for process in both:
        process.start()
    found = [results.get() for _ in range(2 * len(folders))]
    for process in both:
        process.join()
    for folder in folders:
        said = [text for name, text in found if name == str(folder)]
        assert sorted(text == "" for text in said) == [False, True], said
        assert "is in use by process" in max(said, key=len) and str(os.uname().nodename) in max(said, key=len)
        assert not list(folder.iterdir())


def _owner_that_dies(folder: Path, ready: Any) -> None:
    take(folder, Owner.here(), waits=QUICK)
    ready.set()
    time.sleep(60)


@pytest.fixture
def dead_owner(tmp_path: Path) -> Iterator[Path]:
    """A folder whose owner was killed."""
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=_owner_that_dies, args=(tmp_path, ready))
    process.start()
    assert ready.wait(10) and process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    yield tmp_path


def test_a_killed_owner_is_replaced_at_once(dead_owner: Path) -> None:
    lock = take(dead_owner, Owner.here())  # without waiting for a sign of it
    with pytest.raises(InUse):
        take(dead_owner, Owner.here())
    lock.release()
    assert not list(dead_owner.iterdir())


def test_of_many_takers_one_replaces_it(dead_owner: Path) -> None:
    gate, results = CONTEXT.Barrier(8), CONTEXT.SimpleQueue()
    takers = [CONTEXT.Process(target=_attempt, args=(dead_owner, gate, results, 0.5)) for _ in range(8)]
    for process in takers:
        process.start()
    said = [results.get() for _ in takers]
    for process in takers:
        process.join()
    assert said.count("") == 1 and not list(dead_owner.iterdir())


def test_an_owner_elsewhere_lives_as_long_as_its_counter_moves(tmp_path: Path) -> None:
    lock = take(tmp_path, elsewhere(Owner.here()), waits=QUICK)
    told: list[str] = []
    with pytest.raises(InUse, match="on other"):
        take(tmp_path, Owner.here(), told.append, QUICK)
    assert len(told) == 1 and "waiting" in told[0]
    lock._over.set()  # it dies: its lock stays, and the counter stands still
    lock._thread.join()
    began = time.monotonic()
    taken = take(tmp_path, Owner.here(), waits=QUICK)
    assert time.monotonic() - began >= QUICK.patience
    assert str(Owner.here().pid) in lock.taken_by()
    lost = threading.Event()
    taken.watch(lost.set)
    taken.release()
    assert not list(tmp_path.iterdir()) and not lost.is_set()


def test_a_file_system_that_fails_ends_neither_the_heartbeat_nor_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = take(tmp_path, Owner.here(), waits=QUICK)
    lost = threading.Event()
    lock.watch(lost.set)

    def fails(*_: Any, **__: Any) -> None:
        failed.set()
        raise OSError(run_lock.errno.EIO, "Input/output error")

    failed = threading.Event()
    with monkeypatch.context() as broken:
        (tmp_path / "other").write_bytes(elsewhere(Owner.here()).dumped().encode())
        os.rename(tmp_path / "other", tmp_path / run_lock.NAME)  # whose is it? The answer is an error
        broken.setattr(run_lock, "_read", fails)
        assert failed.wait(60) and lock._thread.is_alive()
    assert lost.wait(60)  # it asked again
    (tmp_path / "b").mkdir()
    own = take(tmp_path / "b", Owner.here())
    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", fails)
        own.release()
    lock.release()


def test_a_job_that_lost_its_directory_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one finds it that was suspended for longer than another host waits for a sign of it."""
    monkeypatch.setattr(run_lock, "Waits", lambda: QUICK)
    path = tmp_path / "run" / run_lock.NAME

    def taken(record: Any) -> None:
        if record["iteration"] == 1:
            (tmp_path / "new").write_bytes(elsewhere(Owner.here()).dumped().encode())
            os.rename(tmp_path / "new", path)

    x = np.linspace(-1, 1, 40).reshape(20, 2)
    net = dnewton.net([2], [dnewton.dense(3, "tanh"), dnewton.dense(1)])
    with pytest.raises(UserError, match=r"run: was taken over by process .* on other"):
        dnewton.fit(
            net, x, x[:, :1], out=tmp_path / "run", solver={"name": "sgd", "max_iterations": 10**6}, callbacks=[taken]
        )
    assert path.exists() and not (tmp_path / "run" / "model.safetensors").exists()


def test_a_number_of_a_process_that_is_used_again(tmp_path: Path) -> None:
    """The owner's process number is another process now."""
    owner = replace(Owner.here(), started="1")
    (tmp_path / run_lock.NAME).write_bytes(owner.dumped().encode() + b"\n" + b"0" * 20 + b"\n")
    take(tmp_path, Owner.here()).release()


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(run_lock.errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    lock = take(tmp_path, Owner.here())
    with pytest.raises(InUse):
        take(tmp_path, Owner.here())
    lock.release()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """One line, and no end of tries."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(UserError):
        RunDirectory(str(tmp_path / "link" / "run")).claim()


WAYS = (
    ["--out", "run"],
    ["--out", "run", "--overwrite"],
    ["--out", "run", "--resume", "auto"],
    ["--resume", "run"],
)


@pytest.mark.parametrize("words", WAYS, ids=" ".join)
def test_every_way_of_starting(tmp_path: Path, words: list[str]) -> None:
    first = train(1, tmp_path, "mlp.yaml", "run", settings=["solver.max_iterations=1"])
    assert first.returncode == 0, first.stderr
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    lock = take(tmp_path / "run", Owner.here())
    net = [] if "--resume" in words and "auto" not in words else ["--net", "mlp.yaml"]
    result = start(1, *net, *words, cwd=tmp_path)
    lock.release()
    fails(result, "run: is in use by process", "since", "another --out" if net else "")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_compare_and_fit(tmp_path: Path) -> None:
    import numpy as np

    import dnewton as dn

    (tmp_path / "all" / "newton").mkdir(parents=True)
    lock = take(tmp_path / "all" / "newton", Owner.here())
    words = ["--net", "mlp.yaml", "--solvers", "newton", "--budget", "1s", "--out", "all"]
    fails(start(1, *words, cwd=tmp_path, module="dnewton.compare"), "newton", "in use")
    with pytest.raises(dn.UserError, match="in use"):
        dn.fit(dn.net(1, [dn.dense(1)]), np.eye(3)[:, :1], [1, 2, 3], out=tmp_path / "all" / "newton")
    lock.release()


def test_jobs_of_their_own_at_the_same_moment(tmp_path: Path) -> None:
    """Of two launched jobs in one directory one trains, the other ends with one line."""
    words = arguments(tmp_path, "mlp.yaml", "run", settings=["solver.max_iterations=30"])
    command = jobs.command(2, *words)
    both = [
        subprocess.Popen(
            command, cwd=tmp_path, env=jobs.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ends = [(*process.communicate(timeout=90), process.returncode) for process in both]
    assert sorted(code for _, _, code in ends) == [0, 2], ends
    assert "in use by" in next(said for _, said, code in ends if code == 2) + ""
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 31
    assert sys.executable in command
