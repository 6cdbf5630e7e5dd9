"""A checkpoint with any byte changed, or cut short anywhere, is refused, and the one before serves."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import MLP, Problem

from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.storage import checksum, manifest, parallel_file
from dnewton.storage.manifest import Manifest
from dnewton.storage.run_directory import STATE, RunDirectory
from dnewton.training import load_config
from dnewton.training.checkpoint_reader import OtherRun, initial_state, resumed_state
from dnewton.training.job import Job, assemble
from dnewton.training.run_identity import changes
from dnewton.training.trainer import Trainer

SETS = ["solver.name=adam", "solver.max_iterations=2", "solver.batch=4", "output.checkpoint_every=1"]


@pytest.fixture(scope="module")
def run(comm: Comm) -> Iterator[tuple[Job, RunDirectory]]:
    """A finished run with checkpoints after iterations 0, 1 and 2."""
    folder = comm.text_from_root(tempfile.mkdtemp() if comm.rank == 0 else None)
    problem = Problem((5,), MLP, samples=20)
    if comm.rank == 0:
        np.savez(Path(folder) / "data.npz", x=problem.x, y=problem.y)
    comm.barrier()
    job, out = made(comm, folder), RunDirectory(str(Path(folder) / "run"))
    if comm.rank == 0:
        out.create("")
    comm.barrier()
    Trainer(job, out, 0.0, lambda record: None).run(initial_state(job, None))
    yield job, out
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(folder)


def made(comm: Comm, folder: str, *more: str) -> Job:
    net = {"input": [5], "loss": "cross_entropy", "layers": MLP}
    text = json.dumps({"net": net, "data": {"train": "data.npz"}})
    config, _ = load_config.configure(text, folder, "net.yaml", [*SETS, *more])
    job = assemble(config, comm, "net.yaml")
    assert isinstance(job, Job)
    return job


def refusals(job: Job, out: RunDirectory) -> tuple[int, list[str]]:
    """The iteration that a run would go on from, and what was said of the checkpoints passed over."""
    job.notes.clear()
    found = resumed_state(job, out, fresh=True)
    return (-1 if found is None else found[0].iteration), job.notes


def test_what_was_saved_is_found(comm: Comm, run: tuple[Job, RunDirectory]) -> None:
    job, out = run
    assert refusals(job, out) == (2, [])
    found = resumed_state(job, out)
    assert found is not None
    start, about = found
    assert np.array_equal(start.theta, job.solver.theta) and about.iteration == 2 and about.best is not None
    assert start.saved is not None
    assert sorted(start.saved.vectors) == ["best"] * (about.best[0] != 2) + ["first", "second"]


def damaged(comm: Comm, out: RunDirectory, name: str, change: bytes) -> None:
    """The newest checkpoint with other bytes in one of its files, for all ranks. Collective."""
    comm.barrier()
    if comm.rank == 0:
        Path(out.checkpoints()[-1], name).write_bytes(change)
    comm.barrier()


@pytest.mark.parametrize("name", [STATE, manifest.NAME])
def test_every_changed_byte_is_seen(comm: Comm, run: tuple[Job, RunDirectory], name: str) -> None:
    job, out = run
    whole = Path(out.checkpoints()[-1], name).read_bytes()
    draw = np.random.default_rng(3)
    header = int.from_bytes(whole[:8], "little") + 8 if name == STATE else len(whole)
    places = np.concatenate([draw.integers(0, header, 30), draw.integers(0, len(whole), 30), [0, 7, len(whole) - 1]])
    try:
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= 1 << int(draw.integers(8))
            damaged(comm, out, name, bytes(changed))
            found, notes = refusals(job, out)
            assert found == 1 and len(notes) == 1 and name in notes[0] and "damaged" in notes[0], (place, notes)
    finally:
        damaged(comm, out, name, whole)
    assert refusals(job, out) == (2, [])


@pytest.mark.parametrize("name", [STATE, manifest.NAME])
def test_every_cut_is_seen(comm: Comm, run: tuple[Job, RunDirectory], name: str) -> None:
    job, out = run
    whole = Path(out.checkpoints()[-1], name).read_bytes()
    try:
        for length in [0, 1, 7, 8, 9, *np.linspace(10, len(whole) - 1, 15).astype(int)]:
            damaged(comm, out, name, whole[:length])
            found, notes = refusals(job, out)
            assert found == 1 and len(notes) == 1 and name in notes[0], (length, notes)
        damaged(comm, out, name, whole + b"x")
        assert refusals(job, out)[0] == 1
    finally:
        damaged(comm, out, name, whole)


def test_a_missing_file_is_seen(comm: Comm, run: tuple[Job, RunDirectory]) -> None:
    job, out = run
    for name in (STATE, manifest.NAME):
        place = Path(out.checkpoints()[-1], name)
        whole = place.read_bytes()
        comm.barrier()
        if comm.rank == 0:
            place.unlink()
        comm.barrier()
        found, notes = refusals(job, out)
        assert found == 1 and name in notes[0]
        comm.barrier()
        if comm.rank == 0:
            place.write_bytes(whole)
        comm.barrier()


def test_nothing_whole_means_start_again_or_refuse(comm: Comm, run: tuple[Job, RunDirectory]) -> None:
    job, out = run
    kept = {path: Path(path, manifest.NAME).read_bytes() for path in out.checkpoints()}
    comm.barrier()
    if comm.rank == 0:
        for path in kept:
            Path(path, manifest.NAME).write_bytes(b"{}")
    comm.barrier()
    found, notes = refusals(job, out)
    assert found == -1 and len(notes) == 3
    with pytest.raises(UserError, match=r"damaged.*no other checkpoint"):
        resumed_state(job, out)
    comm.barrier()
    if comm.rank == 0:
        for path, content in kept.items():
            Path(path, manifest.NAME).write_bytes(content)
    comm.barrier()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("solver.seed=4", "seed was 0 and is 4"),
        ("solver.name=adamw", 'solver was "adam" and is "adamw"'),
        ("data.scale=standardize", 'data.scale was "none" and is "standardize"'),
        ("net.layers.0.dense.activation=relu", r'net.layers\[0\].dense.activation was "tanh" and is "relu"'),
    ],
)
def test_another_run_is_refused(comm: Comm, run: tuple[Job, RunDirectory], change: str, said: str) -> None:
    job = made(comm, str(run[1].path.parent), change)
    with pytest.raises(OtherRun, match=f"iteration-00000002: belongs to another run: {said}"):
        resumed_state(job, run[1])


def test_other_labels_are_another_data_set(comm: Comm, run: tuple[Job, RunDirectory]) -> None:
    job, out = run
    job.objective.data.y[0] = job.objective.data.y[0][::-1].copy() + 1
    try:
        with pytest.raises(OtherRun, match="targets was"):
            resumed_state(job, out)
    finally:
        job.objective.data.y[0] = (job.objective.data.y[0] - 1)[::-1].copy()


def test_changed_settings_are_named() -> None:
    before = {"solver": {"name": "sgd", "batch": 4}, "parallel": {"grid": "auto"}}
    now = {"solver": {"name": "sgd", "batch": 8, "momentum": 0.5}, "parallel": {"grid": "auto"}}
    assert changes(before, now) == ["solver.batch: 4 -> 8", "solver.momentum: None -> 0.5"]


@pytest.mark.parametrize("lacking", [0, 2])
def test_a_full_disk_is_a_warning(
    comm: Comm, run: tuple[Job, RunDirectory], monkeypatch: pytest.MonkeyPatch, lacking: int
) -> None:
    """Blocks that one rank cannot write: the checkpoints before stay, and only the model's absence is an error."""
    job, out = run
    before, said = out.checkpoints(), list[str]()
    start = resumed_state(job, out)
    assert start is not None
    allowed = [0]

    def put(handle: int, piece: parallel_file.Piece) -> None:
        allowed[0] += 1
        if comm.rank == 0 and allowed[0] > lacking:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(parallel_file, "_put_block", put)
    more = made(comm, str(out.path.parent), "solver.max_iterations=3")
    trainer = Trainer(more, out, 0.0, lambda record: None, start[1], tell=said.append)
    with pytest.raises(UserError, match="No space left on device"):
        trainer.run(start[0])
    assert said == ["warning: no checkpoint after iteration 3: [Errno 28] No space left on device"] * len(said) and said
    assert out.checkpoints() == before and not trainer.saved
    comm.barrier()
    if comm.rank == 0:
        out.reopen("", 2, out.checkpoint(2, 0))


# --- the parts -------------------------------------------------------------------------------------------------------


def example(**values: object) -> Manifest:
    given: dict[str, object] = {
        "format": manifest.FORMAT,
        "version": "0",
        "iteration": 1,
        "position": 0,
        "replicas": 1,
        "samples_seen": 1.0,
        "train_seconds": 0.5,
        "best": (1, float("inf")),
        "unreported": {"loss": 1.5},
        "values": {"a": "b"},
        "identity": {"net": [1, {"x": None}]},
        "config": {"C": float("inf")},
        "tensors": {"w": "00"},
        "header": "ab",
        "size": 9,
    }
    return Manifest.model_validate({**given, **values})


def test_a_manifest_comes_back() -> None:
    about = example()
    assert manifest.parse("m", manifest.render(about)) == about


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": 99}, "format 99.*update dnewton"),
        ({"format": 1}, "format 1.*cannot be read any more"),
    ],
)
def test_other_formats_say_so(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=f"^m: has {said}"):
        manifest.parse("m", manifest.render(example(**values)))


NAMES = st.sampled_from(["manifest", "sha256", "format"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
)


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_are_a_manifest_by_chance(data: bytes) -> None:
    with pytest.raises(UserError, match=r"^m: "):
        manifest.parse("m", data)


@given(st.integers(0, 7), st.integers(0, 9), st.data())
def test_checksums_of_parts_add_up(rows: int, columns: int, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    matrix = np.random.default_rng(rows * 10 + columns).standard_normal((rows, columns)).astype(dtype)
    r, c = data.draw(st.integers(0, rows)), data.draw(st.integers(0, columns))
    parts = [
        checksum.partial(np.ascontiguousarray(matrix[a, b]), a.start, b.start)
        for a in (slice(0, r), slice(r, rows))
        for b in (slice(0, c), slice(c, columns))
    ]
    whole = checksum.partial(matrix, 0, 0)
    assert checksum.added(parts) == whole
    if matrix.size:
        i, j = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
        bits = matrix.view(np.uint32 if matrix.itemsize == 4 else np.uint64)
        bits[i, j] ^= bits.dtype.type(1 << data.draw(st.integers(0, 8 * matrix.itemsize - 1)))
        assert checksum.partial(matrix, 0, 0) != whole


def test_checksums_see_an_exchange() -> None:
    matrix = np.arange(200_000, dtype=np.float32).reshape(2, 100_000)  # longer than what is summed at a time
    swapped = np.ascontiguousarray(matrix[:, np.r_[1, 0, 2:100_000]])
    assert checksum.partial(matrix, 0, 0) != checksum.partial(swapped, 0, 0)
    assert checksum.partial(matrix, 0, 0) != checksum.partial(np.ascontiguousarray(matrix[::-1]), 0, 0)
