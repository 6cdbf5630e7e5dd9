"""A mistake ends in one line that names it and the cure, with exit code 2 on all ranks, and leaves nothing behind.

The jobs run in this process, on all of its ranks together, through the entry point: hundreds of them take seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import bad_data
import bad_files
import bad_inputs
import bad_solvers
import inside
import numpy as np
import pytest
from bad_inputs import CNN, MLP, Entry
from jobs import start
from runs import fails

from dnewton.cli import train
from dnewton.comm.communicator import Comm
from dnewton.comm.stop import StopAgreement
from dnewton.config import strict_yaml

LIMIT = 10.0  # seconds of a processor: a loose guard against what would grow with the size of a file or a net

TABLES: dict[str, tuple[dict[str, Any], list[Entry]]] = {
    "net": (MLP, bad_inputs.NET),
    "images": (CNN, bad_inputs.IMAGES),
    "data": (MLP, bad_inputs.DATA),
    "newton": (MLP, bad_inputs.NEWTON),
    "others": (MLP, bad_solvers.OTHERS),
    "ranks": (MLP, bad_solvers.RANKS),
    "output": (MLP, bad_solvers.OUTPUT),
}

Job = Callable[..., str]


@pytest.fixture(scope="module")
def folder(comm: Comm) -> Iterator[Path]:
    """A folder that all ranks see and work in, with files that the mistakes are about."""
    path, before = Path(comm.text_from_root(tempfile.mkdtemp() if comm.rank == 0 else None)), os.getcwd()
    os.chdir(path)
    if comm.rank == 0:
        written(path)
    comm.barrier()
    yield path
    os.chdir(before)
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(path)


def written(folder: Path) -> None:
    """Good files and bad ones."""
    rng = np.random.default_rng(0)
    np.savez(folder / "good.npz", x=rng.normal(size=(6, 5)), y=np.array([0, 1, 2, 0, 1, 2]))
    for table, (base, entries) in TABLES.items():
        for number, (settings, *_) in enumerate(entries):
            (folder / f"{table}-{number}.yaml").write_text(strict_yaml.dump(changed(base, settings)))
    (folder / "mlp.yaml").write_text(strict_yaml.dump(MLP))
    (folder / "cnn.yaml").write_text(strict_yaml.dump(CNN))
    bad_files.write(folder)


def changed(base: dict[str, Any], settings: str) -> dict[str, Any]:
    """The values of a YAML file with `key.key=value & ...` put in."""
    values = deepcopy(base)
    for setting in settings.split(" & "):
        path, _, text = setting.partition("=")
        *keys, last = path.split(".")
        here: Any = values
        for key in keys:
            here = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
        here[int(last) if isinstance(here, list) else last] = strict_yaml.parse(text, setting)
    return values


LIBRARY = re.compile(r"^\[\S+:\d+\] \S*openmpi\S* .*\n(\s*\n)?", re.M)  # what Open MPI says of itself
_vigils: dict[Comm, StopAgreement] = {}


@pytest.fixture
def job(comm: Comm, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Job]:
    """Starts dnewton.train with a command line that must be refused, and returns what rank 0 says about it.

    All jobs share one communicator: MPI libraries have about 2,000 to give.
    """

    monkeypatch.setattr(comm, "stops", comm.stops)  # what main puts there goes when the test does
    monkeypatch.setattr(
        train,
        "StopAgreement",
        lambda world, timeout: _vigils.get(world) or _vigils.setdefault(world, StopAgreement(world, timeout)),
    )
    monkeypatch.setattr(train, "catch_signals", lambda *_: None)

    def failed() -> None:
        raise AssertionError("an exception that is no UserError: see the traceback above")

    def start(*arguments: str) -> str:
        before = contents(folder) if comm.rank == 0 else []
        monkeypatch.setattr(sys, "argv", ["dnewton.train", *arguments])
        monkeypatch.setattr(Comm, "world", lambda: comm)
        monkeypatch.setattr(comm, "abort", failed, raising=False)
        capfd.readouterr()
        begin = time.process_time()
        with np.errstate(), pytest.raises(SystemExit) as stop:
            train.main()
        seconds = time.process_time() - begin
        out, said = (LIBRARY.sub("", text) for text in capfd.readouterr())
        assert stop.value.code == 2, (arguments, out, said)
        assert seconds < LIMIT, (arguments, seconds)
        assert "Traceback" not in said + out, (arguments, out, said)
        lines = [line for line in out.splitlines() if not line.startswith("  ")]  # but not what is folded
        assert all(": reading " in line for line in lines), (arguments, out, said)  # the first line of a run
        if comm.rank:
            assert not said, (arguments, said)
            return ""
        assert said.startswith("dnewton: error: ") and said.endswith("\n") and said.count("\n") == 1, (arguments, said)
        assert contents(folder) == before, (arguments, "left something behind")
        return said

    yield start
    if comm.rank == 0:
        shutil.rmtree(folder / "run", ignore_errors=True)  # of a job that should have been refused
    comm.barrier()


def contents(folder: Path) -> list[Any]:
    """What is in the folder; of the runs in it every file with its size and time."""
    runs = [(path, path.lstat()) for path in sorted((folder / "runs").rglob("*"))]
    times = [0 if path.is_dir() else status.st_mtime_ns for path, status in runs]  # a lock comes and goes in a folder
    return [
        *sorted(os.listdir(folder)),
        *((str(path), status.st_size, when) for (path, status), when in zip(runs, times, strict=True)),
    ]


def holds(said: str, words: tuple[str, ...] | list[str], rank: int) -> None:
    for word in words if rank == 0 else ():
        assert word in said, (word, said)


@pytest.mark.parametrize("table", TABLES)
def test_keys(job: Job, comm: Comm, table: str) -> None:
    base, entries = TABLES[table]
    for number, (settings, *words) in enumerate(entries):
        if comm.size == 1 or number % 2:
            said = job("--net", f"{table}-{number}.yaml", "--out", "run")
            holds(said, [f"{table}-{number}.yaml", *words] if "good.npz" not in said else words, comm.rank)
        if comm.size == 1 or not number % 2:
            options = [word for setting in settings.split(" & ") for word in ("--set", setting)]
            holds(job("--net", "cnn.yaml" if base is CNN else "mlp.yaml", "--out", "run", *options), words, comm.rank)


def test_yaml_files(job: Job, comm: Comm) -> None:
    for name, *words in bad_files.YAMLS:
        holds(job("--net", name, "--out", "run"), words, comm.rank)


def test_command_lines(job: Job, comm: Comm) -> None:
    for line, *words in bad_files.LINES:
        holds(job(*line.removesuffix("|").split(), *one_row(comm)), words, comm.rank)


def test_empty_words_on_the_command_line(job: Job, comm: Comm) -> None:
    for option, words in {
        "--net": ["--net FILE"],
        "--out": ["--out", "not an empty one"],
        "--set": ["write section"],
        "--resume": ["not an empty one"],
    }.items():
        holds(job("--net", "mlp.yaml", option, ""), words, comm.rank)


def test_models(job: Job, comm: Comm) -> None:
    for name, *words in bad_data.MODELS:
        said = job("--net", "mlp.yaml", "--out", "run", "--init", name, *one_row(comm))
        holds(said, [name, *words], comm.rank)


def test_samples(job: Job, comm: Comm) -> None:
    for settings, *words in bad_data.FILES:
        options = [word for setting in f"data.train={settings}".split(" & ") for word in ("--set", setting)]
        holds(job("--net", "mlp.yaml", "--out", "run", *options, *one_row(comm)), words, comm.rank)


def test_nothing_is_in_the_way_of_the_corrected_run(job: Job, comm: Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    """After all these mistakes, and one more into the same directory."""
    job("--net", "mlp.yaml", "--out", "run", "--init", "nan.safetensors", *one_row(comm))
    monkeypatch.setattr(sys, "argv", ["dnewton.train", "--net", "mlp.yaml", "--out", "run", *one_row(comm)])
    with np.errstate(), pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 0 and (comm.rank > 0 or Path("run/model.safetensors").exists())


ON_FOUR = [
    ("", ["--net FILE"]),
    ("--net tabs.yaml", ["tabs.yaml:2", "blanks"]),
    ("--net mlp.yaml --set solver.lamda=1", ["solver.lamda", "'lambda'"]),
    ("--net mlp.yaml --set solver.name=downpour --set solver.server_ranks=4", ["server_ranks", "at least 5 ranks"]),
    ("--net mlp.yaml --set parallel.grid=[3,2]", ["parallel.grid", "[2, 2]"]),
    ("--net mlp.yaml --set parallel.memory=1MiB", ["parallel.memory", "allow more"]),
    ("--net mlp.yaml --out mlp.yaml/run", ["mlp.yaml/run", "cannot be written"]),
    ("--net mlp.yaml --init nan.safetensors", ["nan.safetensors", "finite weights"]),
    ("--net mlp.yaml --set data.train=nan.npz", ["nan.npz", "row 4", "column 4"]),
    ("--net mlp.yaml --set data.train=word.csv", ["word.csv", "line 5", "'three'"]),
]


@pytest.mark.jobs(4)
def test_on_four_ranks(tmp_path: Path) -> None:
    written(tmp_path)
    for arguments, words in ON_FOUR:
        fails(inside.start(4, *arguments.split(), cwd=tmp_path), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.serial
def test_jobs_of_their_own(tmp_path: Path) -> None:
    """As a user starts them: the launcher, four processes, the module's own entry; found by one rank and by all."""
    written(tmp_path)
    for arguments, words in (ON_FOUR[0], ON_FOUR[3], ON_FOUR[9]):
        fails(start(4, *arguments.split(), cwd=tmp_path, timeout=60), *words)
    assert not (tmp_path / "run").exists()


def one_row(comm: Comm) -> list[str]:
    """A grid that needs no communicators for its rows and columns."""
    return ["--set", f"parallel.grid=[1, {comm.size}]"]
