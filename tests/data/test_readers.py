"""Every file format, read by columns on any number of ranks and compared with what was written."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnewton.comm.communicator import Comm
from dnewton.config.schema import FilePair
from dnewton.data.convert import Output, convert
from dnewton.data.format_register import Opening
from dnewton.data.formats import array_files, text
from dnewton.data.parts import divide
from dnewton.data.readers import open_part
from dnewton.data.samples import Streamed, Window, load
from dnewton.data.sources import Source
from dnewton.errors import UserError
from dnewton.grid import SplitAxis, cut

PACKERS = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture
def folder(comm: Comm) -> Iterator[Path]:
    """A folder that all ranks see."""
    path = comm.text_from_root(tempfile.mkdtemp() if comm.rank == 0 else None)
    yield Path(path)
    comm.barrier()
    if comm.rank == 0:
        shutil.rmtree(path)


def put(comm: Comm, path: Path, write: Callable[[Path], Any]) -> Path:
    """A file written once, by rank 0."""
    if comm.rank == 0:
        write(path)
    comm.barrier()
    return path


def opened(path: object, comm: Comm, features: int | None = None, **options: Any) -> Source:
    part = path if isinstance(path, (list, FilePair)) else str(path)
    return open_part(part, Opening("data.train", features, comm, **options))


def whole(source: Source, comm: Comm) -> np.ndarray:
    """All columns, put together from every rank's."""
    lo, hi = cut(source.features, comm.size, comm.rank)
    if source.fetch is not None:
        source.fetch(lo, hi)
    mine = np.concatenate([np.zeros((0, hi - lo)), *source.blocks(lo, hi)])
    assert mine.shape == (source.samples, hi - lo)
    if source.rows is not None:  # single rows are the same rows
        some = np.unique(np.arange(source.samples) ** 2 % source.samples)
        assert np.array_equal(source.rows(some, lo, hi), mine[some])
        assert source.rows(some[:0], lo, hi).shape == (0, hi - lo)
    return comm.concatenate(np.ascontiguousarray(mine.T)).T


def refused(path: object, comm: Comm, *words: str, features: int | None = None, **options: Any) -> None:
    with pytest.raises(UserError) as error:
        source = opened(path, comm, features, **options)
        load(source, Window.of(source.shape, SplitAxis(source.shape[0]), (0, source.shape[0])), "none", "float64", comm)
    message = str(error.value)
    assert "\n" not in message
    for word in (*words, str(path) if isinstance(path, Path) else ""):
        assert word in message, message


# --- LIBSVM text ------------------------------------------------------------------------------------------------------


def reference(content: str, width: int, base: int) -> tuple[np.ndarray, np.ndarray]:
    """LIBSVM text read word by word."""
    x, y = [], []
    for line in content.split("\n"):
        words = line.split("#")[0].split()
        if not words:
            continue
        row = np.zeros(width)
        for word in words[1:]:
            key, value = word.split(":")
            if key != "qid":
                row[int(key) - base] = float(value)
        x.append(row)
        y.append([float(v) for v in words[0].split(",")])
    labels = np.array(y)
    return np.array(x).reshape(len(x), width), labels[:, 0] if labels.shape[1] == 1 else labels


@st.composite
def libsvm_texts(draw: st.DrawFn) -> tuple[str, int, int]:
    """A text, its width and the index of its first feature."""
    width, base = draw(st.integers(1, 12)), draw(st.sampled_from([0, 1]))
    targets, blanks = draw(st.sampled_from([1, 1, 3])), draw(st.booleans())
    lines = []
    for i in range(draw(st.integers(1, 12))):
        columns = sorted(draw(st.sets(st.integers(0, width - 1))))
        if i == 0 and base == 0:
            columns = sorted({0, *columns})  # shows that features count from 0
        numbers = draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=len(columns) + targets))
        label = ",".join(draw(st.sampled_from(["{:+g}", "{!r}", "{:.3e}"])).format(v) for v in numbers[:targets])
        pairs = [f"{c + base}:{v!r}" for c, v in zip(columns, numbers[targets:], strict=False)]
        query = [f"qid:{i + 1}"] if blanks and i % 3 == 0 else []
        lines.append(draw(st.sampled_from(["", " "] if blanks else [""])) + " ".join([label, *query, *pairs]))
        if blanks:
            lines[-1] += draw(st.sampled_from(["", " ", "\t", "\r", " # 1:2 remark", "#"]))
            lines += draw(st.sampled_from([[], [""], ["# a:b only a remark"], ["  "]]))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"])), width, base


@given(libsvm_texts(), st.sampled_from(list(PACKERS)), st.sampled_from([3, 40, 8 << 20]))
def test_libsvm(comm: Comm, content: tuple[str, int, int], packer: str, block: int) -> None:
    words, width, base = content
    path = Path(comm.text_from_root(tempfile.mktemp() if comm.rank == 0 else None) + ".svm" + packer)
    put(comm, path, lambda p: p.write_bytes(PACKERS[packer](words.encode())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "TEXT_BLOCK", block)
        patch.setattr(text, "_PACKED_BLOCK", block)
        source = opened(path, comm, width)
        x, y = reference(words, width, base)
        assert source.zero_based == (base == 0)
        assert np.array_equal(whole(source, comm), x)
        assert np.array_equal(source.all_targets(), y)
    comm.barrier()
    if comm.rank == 0:
        path.unlink()


def test_libsvm_is_what_sklearn_reads(comm: Comm, folder: Path) -> None:
    from sklearn.datasets import load_svmlight_file  # slow to import, and few sessions come here

    rng = np.random.default_rng(0)
    pairs = [" ".join(f"{c + 1}:{rng.normal():.8g}" for c in range(i % 7)) for i in range(200)]
    rows = [f"{rng.integers(0, 3)} {p}" for p in pairs]
    path = put(comm, folder / "a.txt", lambda p: p.write_text("\n".join(rows) + "\n"))
    x, y = load_svmlight_file(str(path), n_features=9)
    source = opened(path, comm, 9)
    assert np.array_equal(whole(source, comm), x.toarray())
    assert np.array_equal(source.all_targets(), y) and source.all_targets().dtype == np.int64


def test_widths_and_first_features(comm: Comm, folder: Path) -> None:
    path = put(comm, folder / "a.svm", lambda p: p.write_text("1 1:2 7:3\n0 2:1\n"))
    assert opened(path, comm).features == 7 and opened(path, comm, 9).features == 9
    # a file in which feature 0 never occurs is read like the training file
    assert opened(path, comm, 8, zero_based=True).zero_based is True
    assert np.array_equal(whole(opened(path, comm, 8, zero_based=True), comm)[0], [0, 2, 0, 0, 0, 0, 0, 3])
    refused(path, comm, "line 1", "index 7", "5 features", features=5)
    refused(path, comm, "row 0", "index 7", "count from 0", features=7, zero_based=True)
    zero = put(comm, folder / "z.svm", lambda p: p.write_text("1 1:1\n1 0:2\n"))
    refused(zero, comm, "line 2", "index 0", "counts from 1", features=4, zero_based=False)


@pytest.mark.parametrize("packer", ["", ".gz"])
@pytest.mark.parametrize("block", [8, 1 << 20])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 3:1 2:4", ["index 2 comes after 3"]),
        ("1 2:1 2:4", ["index 2 comes after 2"]),
        ("1 2:x", ["'x'", "not a number"]),
        ("spam 2:1", ["'spam'", "not a number"]),
        ("1 2:", ["'2:'", "not index:value"]),
        ("1 :5", ["':5'", "not index:value"]),
        ("1 2:3 4", ["'4'", "not index:value"]),
        ("1 2:3:4", ["'2:3:4'", "not index:value"]),
        ("1 1:2:3 4", ["'1:2:3'"]),
        ("1:2 3:4", ["'1:2'", "label"]),
        ("1 +2:4", ["index '+2'"]),
        ("1 2:nan", ["nan", "clean"]),
        ("1 2:1e999", ["inf", "clean"]),
        ("nan 2:1", ["label", "nan"]),
        ("1 -2:1", ["index '-2'"]),
        ("1 1.5:1", ["index '1.5'"]),
        ("1 9:1", ["index 9", "8 features"]),
        ("1 9999999999:1", ["index '9999999999'", "too large"]),
        ("1,2 2:1", ["target"]),
        ("1 2:1,5", ["comma"]),
        ("1 2:1_0", ["'1_0'"]),
    ],
)
def test_bad_lines(comm: Comm, folder: Path, line: str, words: list[str], block: int, packer: str) -> None:
    content = "1 1:1 8:2\n\n0 2:1\n" * 9 + line + "\n" + "1 3:4\n" * 30
    path = put(comm, folder / f"a.svm{packer}", lambda p: p.write_bytes(PACKERS[packer](content.encode())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "TEXT_BLOCK", block)
        patch.setattr(text, "_PACKED_BLOCK", block)
        where = "target" if line.startswith("1,2") else "line 28: "
        refused(path, comm, where, *words, features=8)


# --- tables of text ---------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 4),
    st.integers(1, 9),
    st.sampled_from([",", ";", "\t", " ", "  "]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([5, 64, 1 << 20]),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(0, 4),
)
def test_tables(
    comm: Comm, features: int, samples: int, delimiter: str, header: bool, words: bool, block: int, end: str, place: int
) -> None:
    rng = np.random.default_rng(features * 100 + samples)
    x = np.round(rng.normal(size=(samples, features)), 4)
    names = ["Iris-virginica", "äpfel", "10%"]
    y = np.array([names[i % 3] if words else i % 3 for i in range(samples)])
    place = min(place, features)
    rows = []
    for i in range(samples):
        fields = [repr(float(v)) for v in x[i]]
        fields.insert(place, str(y[i]))
        rows.append(delimiter.join(fields))
    if header:
        rows.insert(0, delimiter.join(f"name{j}" for j in range(features + 1)))
        rows.insert(0, "# written by a test")
    content = end.join(rows) + end
    path = Path(comm.text_from_root(tempfile.mktemp() if comm.rank == 0 else None) + ".csv")
    put(comm, path, lambda p: p.write_bytes(content.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "TEXT_BLOCK", block)
        target = [f"name{place}"] if header and place % 2 else [place]
        source = opened(path, comm, features, target=target)
        assert np.array_equal(whole(source, comm), x)
        assert np.array_equal(source.all_targets(), y)
    comm.barrier()
    if comm.rank == 0:
        path.unlink()


def test_where_targets_stand(comm: Comm, folder: Path) -> None:
    path = put(comm, folder / "a.csv", lambda p: p.write_text("1,2,0.5,9\n3,4,0.25,8\n"))
    source = opened(path, comm, 2)  # what is left after the features
    assert np.array_equal(source.all_targets(), [[0.5, 9], [0.25, 8]])
    assert np.array_equal(opened(path, comm).all_targets(), [9, 8])
    source = opened(path, comm, 2, target=[0, -1])
    assert np.array_equal(whole(source, comm), [[2, 0.5], [4, 0.25]])
    assert np.array_equal(source.all_targets(), [[1, 9], [3, 8]])
    assert opened(path, comm, 4).targets is None
    refused(path, comm, "column 4", features=2, target=[4])
    refused(path, comm, "no header", features=2, target=["a"])
    refused(path, comm, "4 columns", "5 features", features=5)
    quoted = put(comm, folder / "q.csv", lambda p: p.write_text('"a, b","c"\n"1","yes, it is"\n2,no\n'))
    source = opened(quoted, comm, 1)
    assert whole(source, comm).tolist() == [[1], [2]] and source.all_targets().tolist() == ["yes, it is", "no"]
    refused(quoted, comm, "'x'", "a, b", features=1, target=["x"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,2", ["2 columns", "3"]),
        ("1,2,3,4", ["4 columns", "3"]),
        ("1,,2", ["column 2", "''"]),
        ("1,,2 3", ["column 2"]),
        ("1,?,2", ["column 2", "'?'"]),
        ("1,NA,2", ["column 2", "'NA'"]),
        ("1,nan,2", ["column 2", "nan"]),
        ("inf,1,2", ["column 1", "inf"]),
        ('1,"2,2', ["quotation mark"]),
        ('1,"x",2', ["column 2", "'x'"]),
    ],
)
@pytest.mark.parametrize("block", [8, 1 << 20])
def test_bad_rows(comm: Comm, folder: Path, line: str, words: list[str], block: int) -> None:
    content = "a,b,c\n" + "1,2,0\n\n" * 9 + line + "\n" + "4,5,1\n" * 30
    path = put(comm, folder / "a.csv", lambda p: p.write_text(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "TEXT_BLOCK", block)
        refused(path, comm, "line 20: ", *words, features=2)


# --- arrays -----------------------------------------------------------------------------------------------------------


def some(shape: tuple[int, ...], dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = (rng.normal(size=shape) * 50 + 100).astype(dtype)
    return x, rng.integers(0, 3, shape[0])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(23, 7), (5, 3, 4, 2), (3, 9000), (1, 1)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8", ">i2"])
def test_npy(comm: Comm, folder: Path, order: str, shape: tuple[int, ...], dtype: str) -> None:
    x, y = some(shape, dtype)
    path = put(comm, folder / "x_train.npy", lambda p: np.save(p, np.asarray(x, order=order)))  # type: ignore[call-overload]
    labels = put(comm, folder / "y_train.npy", lambda p: np.save(p, y))
    for part in (path, FilePair(x=str(path), y=str(labels))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(array_files, "BLOCK_BYTES", 300)
            source = opened(part, comm)
            assert source.shape == shape[1:]
            assert np.array_equal(whole(source, comm), x.reshape(shape[0], -1))
            assert np.array_equal(source.all_targets(), y)


@pytest.mark.parametrize("layout", ["plain", "chunked", "gzip"])
@pytest.mark.parametrize("shape", [(23, 7), (5, 3, 4, 2)])
def test_hdf5(comm: Comm, folder: Path, layout: str, shape: tuple[int, ...]) -> None:
    x, y = some(shape)
    options: dict[str, Any] = {"plain": {}, "chunked": {"chunks": (4, 2, *shape[2:])}, "gzip": {"compression": "gzip"}}
    words = np.array(["abc"[i] for i in y])

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("Data", data=x, **options[layout])
            file["labels"] = [w.encode() for w in words]

    source = opened(put(comm, folder / "a.h5", write), comm)
    assert np.array_equal(whole(source, comm), x.reshape(shape[0], -1))
    assert np.array_equal(source.all_targets(), words)


@pytest.mark.parametrize("kind", ["dense", "sparse", "images", "7.3"])
def test_mat(comm: Comm, folder: Path, kind: str) -> None:
    from scipy import io as scipy_io  # slow to import, and few sessions come here
    from scipy import sparse

    x, y = some((6, 3, 4, 2) if kind == "images" else (23, 7))

    def write(path: Path) -> None:
        if kind == "7.3":
            with h5py.File(path, "w", userblock_size=512) as file:
                file["X"], file["y"] = x.T, y[None].astype(float)
            with open(path, "r+b") as file:
                file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
        else:
            scipy_io.savemat(path, {"Z": sparse.csc_matrix(x) if kind == "sparse" else x, "y": y[:, None]})

    source = opened(put(comm, folder / "a.mat", write), comm)
    assert source.shape == x.shape[1:]
    assert np.array_equal(whole(source, comm), x.reshape(len(x), -1))
    assert np.array_equal(source.all_targets(), y)


def idx(values: np.ndarray) -> bytes:
    code = {"uint8": 8, "int32": 12, "float32": 13}[values.dtype.name]
    header = bytes([0, 0, code, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("packer", ["", ".gz", ".xz"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_idx(comm: Comm, folder: Path, packer: str, dtype: str) -> None:
    x, y = some((11, 5, 4), dtype)
    name = f"t-images-idx3-ubyte{packer}"
    path = put(comm, folder / name, lambda p: p.write_bytes(PACKERS[packer](idx(x))))
    labels = name.replace("images-idx3", "labels-idx1")
    put(comm, folder / labels, lambda p: p.write_bytes(PACKERS[packer](idx(y.astype("uint8")))))
    source = opened(path, comm)
    assert source.shape == (1, 5, 4) and np.array_equal(whole(source, comm), x.reshape(11, 20))
    assert np.array_equal(source.all_targets(), y)
    refused(folder / labels, comm, "labels")


def cifar(samples: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.integers(0, 256, (samples, 3072)).astype(np.uint8), rng.integers(0, 10, samples)


@pytest.mark.parametrize("packer", ["", ".xz"])
def test_cifar_records(comm: Comm, folder: Path, packer: str) -> None:
    x, y = cifar(7)
    ten = np.concatenate([y[:, None].astype(np.uint8), x], axis=1).tobytes()
    hundred = np.concatenate([y[:, None].astype(np.uint8) // 2, y[:, None].astype(np.uint8), x], axis=1).tobytes()
    for content in (ten, hundred):
        path = put(comm, folder / f"a.bin{packer}", lambda p, c=content: p.write_bytes(PACKERS[packer](c)))
        source = opened(path, comm)
        assert source.shape == (3, 32, 32) and np.array_equal(whole(source, comm), x)
        assert np.array_equal(source.all_targets(), y)
        comm.barrier()
    pair = opened([str(path), str(path)], comm)
    assert pair.samples == 14 and np.array_equal(whole(pair, comm), np.concatenate([x, x]))
    put(comm, folder / "b.bin", lambda p: p.write_bytes(ten[:-5]))
    refused(folder / "b.bin", comm, "whole number of CIFAR records")


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batches_run_nothing(comm: Comm, folder: Path, protocol: int) -> None:
    x, y = cifar(4)
    content = {b"batch_label": b"batch 1 of 5", b"labels": y.tolist(), b"data": x, b"filenames": [b"a.png"] * 4}
    path = put(comm, folder / "data_batch_1", lambda p: p.write_bytes(pickle.dumps(content, protocol=protocol)))
    source = opened(path, comm)
    assert np.array_equal(whole(source, comm), x) and np.array_equal(source.all_targets(), y)

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(folder / "pwned"),))

    put(comm, folder / "evil", lambda p: p.write_bytes(pickle.dumps({b"data": Evil()}, protocol=protocol)))
    refused(folder / "evil", comm, "not a CIFAR python batch", "mkdir")
    assert not (folder / "pwned").exists()
    put(comm, folder / "list", lambda p: p.write_bytes(pickle.dumps([1, 2], protocol=protocol)))
    refused(folder / "list", comm, "not a CIFAR python batch")
    put(comm, folder / "cut", lambda p: p.write_bytes(path.read_bytes()[:200]))
    refused(folder / "cut", comm, "not a CIFAR python batch")


# --- broken files -----------------------------------------------------------------------------------------------------


def test_broken_files(comm: Comm, folder: Path) -> None:
    x, y = some((9, 5))
    buffer = io.BytesIO()
    np.save(buffer, x)
    plain = b"1 1:2 3:4\n" * 200

    def file(name: str, content: bytes) -> Path:
        return put(comm, folder / name, lambda p: p.write_bytes(content))

    refused(file("cut.npy", buffer.getvalue()[:-30]), comm, "cut short", "row 8")
    refused(file("cut.svm.gz", gzip.compress(plain)[:-12]), comm, "damaged or cut short")
    refused(file("cut.svm.xz", lzma.compress(plain)[:-12]), comm, "damaged or cut short")
    refused(file("cut.svm.bz2", bz2.compress(plain)[:-12]), comm, "damaged or cut short")
    flipped = bytearray(gzip.compress(plain))
    flipped[len(flipped) // 2] ^= 0x55
    refused(file("flip.svm.gz", bytes(flipped)), comm, "damaged or cut short")
    refused(file("cut-images-idx3-ubyte.gz", gzip.compress(idx(x.astype("uint8")[:, :, None])[:-4])), comm, "row 8")
    refused(file("cut-images-idx3-ubyte", idx(x.astype("uint8")[:, :, None])[:-4]), comm, "cut short", "row 8")
    refused(file("magic.npy", b"not an array at all"), comm, "not a NumPy array")
    refused(file("magic.h5", b"not an array at all"), comm, "not an HDF5 file")
    refused(file("magic.mat", b"not an array at all"), comm, "not a MATLAB .mat file")
    refused(file("cut.h5", b"\x89HDF\r\n\x1a\n" + bytes(100)), comm, "HDF5")
    refused(file("cut.mat", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(50)), comm, ".mat")
    refused(file("noise.bin2", bytes(range(256)) * 9), comm, "unknown kind of file")
    refused(file("noise", b"\x01\x02\x03\x04" * 99), comm, "unknown kind of file")
    refused(file("empty.csv", b""), comm, "empty")
    refused(file("empty.csv.gz", gzip.compress(b"")), comm, "empty")
    refused(file("blank.svm", b"\n\n  \n"), comm, "")
    refused(file("blank.csv", b"\n\n# nothing\n"), comm, "no samples")
    refused(put(comm, folder / "dir.npy", Path.mkdir), comm, "directory")
    refused(put(comm, folder / "pipe", os.mkfifo), comm, "not a regular file")
    refused(folder / "nothing.npy", comm, "neither a file nor a bundled set")
    put(comm, folder / "bad.npy", lambda p: np.save(p, np.where(np.arange(45).reshape(9, 5) == 38, np.nan, x)))
    refused(folder / "bad.npy", comm, "row 7", "nan")
    put(comm, folder / "flat.npy", lambda p: np.save(p, x[:, 0]))
    refused(folder / "flat.npy", comm, "[samples, features]")
    put(comm, folder / "other.npy", lambda p: np.save(p, y[:4]))
    put(comm, folder / "x.npy", lambda p: np.save(p, x))
    with pytest.raises(UserError, match="one row per sample"):
        opened(FilePair(x=str(folder / "x.npy"), y=str(folder / "other.npy")), comm)


def test_what_a_reviewer_found(comm: Comm, folder: Path) -> None:
    """Files that used to be misread, or to end in a traceback."""

    def file(name: str, content: bytes | str) -> Path:
        data = content if isinstance(content, bytes) else content.encode()
        return put(comm, folder / name, lambda p: p.write_bytes(data))

    plain = "".join(f"{i},{i + 1},{i % 2}\n" for i in range(30))
    assert np.array_equal(whole(opened(file("bom.csv", "\ufeff" + plain), comm, 2), comm)[:, 0], np.arange(30))
    svm = opened(file("bom.svm", "\ufeff1 1:5\n2 2:6\n"), comm, 2)
    assert whole(svm, comm).tolist() == [[5, 0], [0, 6]] and svm.all_targets().tolist() == [1, 2]
    words = opened(file("u.csv", "1,2,кошка\n3,4,собака\n"), comm, 2)
    assert words.all_targets().tolist() == ["кошка", "собака"]
    tabs = opened(file("a.tsv", "1\t2\ta, setosa\n3\t4\tb, virginica\n"), comm, 2)
    assert tabs.all_targets().tolist() == ["a, setosa", "b, virginica"]
    assert opened(file("c.csv", "# remark\n" * 70 + plain), comm, 2).samples == 30
    assert whole(opened(file("q.txt", '"0.5" "1" 0\n"1.5" "2" 1\n'), comm, 2), comm).tolist() == [[0.5, 1], [1.5, 2]]
    refused(file("long.csv", '"' + "1" * 200_000 + '",2,0\n3,4,1\n'), comm, features=2)
    refused(file("head.csv", "a,b,c\n"), comm, "no samples", features=2)
    assert opened(file("dark.bin", bytes([0, 0, 8, 2]) + bytes(3069)), comm).shape == (3, 32, 32)
    refused(file("a.npy.gz", gzip.compress(b"\x93NUMPY" + bytes(99))), comm, "decompress it")
    refused(file("i-images-idx3-ubyte", idx(np.zeros((2, 3, 3), np.uint8)) + b"x"), comm, "goes on")
    for labels in ([1.5] * 4, [-1] * 4, [2**70] * 4, [1] * 3):
        content = pickle.dumps({b"labels": labels, b"data": cifar(4)[0]}, protocol=2)
        refused(file(f"batch{labels[0]}{len(labels)}", content), comm, "labels")
    refused(file("deep", b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b"."), comm, "not a CIFAR python batch")
    put(comm, folder / "void.h5", lambda p: h5py.File(p, "w").create_dataset("x", data=h5py.Empty("f8")).file.close())
    refused(folder / "void.h5", comm, "empty")
    put(comm, folder / "bytes.npz", lambda p: np.savez(p, x=np.eye(3), y=np.array([b"a", b"b", b"a"])))
    assert opened(folder / "bytes.npz", comm).all_targets().tolist() == ["a", "b", "a"]
    put(comm, folder / "object.y.npy", lambda p: np.save(p, np.array([{}, {}]), allow_pickle=True))
    put(comm, folder / "object.npy", lambda p: np.save(p, np.eye(2)))
    with pytest.raises(UserError, match="numbers or strings"):
        opened(folder / "object.npy", comm)


def test_rows_are_named_as_the_file_has_them(comm: Comm, folder: Path) -> None:
    """Also after a split, and in the second file of a list."""
    bad = np.ones((30, 4))
    bad[25, 2] = np.nan
    put(comm, folder / "ok.npz", lambda p: np.savez(p, x=np.ones((40, 4)), y=np.arange(40) % 2))
    put(comm, folder / "bad.npz", lambda p: np.savez(p, x=bad, y=np.arange(30) % 2))
    both = opened([str(folder / "ok.npz"), str(folder / "bad.npz")], comm)
    train, held = divide(both, 0.5, seed=1)
    window = Window.of((4,), SplitAxis(4), (0, 4))
    messages = []
    for source in (both, train, held):
        try:
            load(source, window, "none", "float64", comm)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) == 2
    assert all("bad.npz: row 25: x: column 2 is nan" in message for message in messages), messages
    put(comm, folder / "huge.npz", lambda p: np.savez(p, x=np.full((3, 4), 1e300), y=np.arange(3) % 2))
    with pytest.raises(UserError, match=r"huge\.npz: row 0.*too large for float32"):
        load(opened(folder / "huge.npz", comm), window, "none", "float32", comm)


# --- splits, streams, conversion --------------------------------------------------------------------------------------


def test_split_is_a_partition(comm: Comm, folder: Path) -> None:
    x, y = some((31, 4))
    for name in ("a.npz", "a.csv"):
        write = {
            "a.npz": lambda p: np.savez(p, x=x, y=y),
            "a.csv": lambda p: np.savetxt(p, np.column_stack([x, y]), delimiter=","),
        }[name]
        source = opened(put(comm, folder / name, write), comm, 4)
        train, held = divide(source, 0.2, seed=5)
        assert (train.samples, held.samples) == (25, 6)
        both = np.concatenate([whole(train, comm), whole(held, comm)])
        assert np.array_equal(np.unique(both, axis=0), np.unique(x, axis=0))
        targets = np.concatenate([train.all_targets(), held.all_targets()])
        order = np.lexsort(both.T)
        assert np.array_equal(targets[order], y[np.lexsort(x.T)])


@pytest.mark.parametrize("shape", [(40, 6), (40, 3, 4, 2)])
@pytest.mark.parametrize("how", ["none", "standardize", "mean_image"])
def test_streams_equal_resident_columns(comm: Comm, folder: Path, shape: tuple[int, ...], how: str) -> None:
    x, _ = some(shape, "float32")
    path = put(comm, folder / "x.npy", lambda p: np.save(p, x))
    units = SplitAxis(shape[1])
    window = Window.of(shape[1:], units, cut(shape[1], comm.size, comm.rank))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_files, "BLOCK_BYTES", 500)
        held, scaling = load(opened(path, comm), window, how, "float64", comm)
        streamed, other = load(opened(path, comm), window, how, "float64", comm, resident=-1)
        assert isinstance(streamed, Streamed) and isinstance(held, np.ndarray)
        assert np.allclose(scaling.shift, other.shift, rtol=1e-13)
        wanted = [np.arange(3, 9), np.array([1, 20, 39]), np.array([30, 2, 31]), np.array([], dtype=int)]
        batches = list(streamed.batches(wanted))
        assert all(np.allclose(b, held[i], rtol=1e-13) for b, i in zip(batches, wanted, strict=True))
    packed = put(comm, folder / "x.npz", lambda p: np.savez_compressed(p, x=x, y=np.zeros(40)))
    if window.width:
        refuse = pytest.raises(UserError, match=r"dnewton\.data convert")
    else:
        refuse = pytest.raises(UserError)
    with refuse:
        load(opened(packed, comm), window, how, "float64", comm, resident=-1)


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
@pytest.mark.parametrize("shape", [(40, 7), (10, 3, 4, 2)])
def test_conversion_keeps_everything(comm: Comm, folder: Path, suffix: str, shape: tuple[int, ...]) -> None:
    x, y = some(shape)
    words = np.array(["ab"[v % 2] for v in y])
    path = put(comm, folder / "in.npz", lambda p: np.savez(p, x=x, y=words))
    orders = [None, "C"] + (["F"] if len(shape) == 2 and suffix == ".npy" else [])
    for order in orders:
        output = Output(str(folder / f"out{order}{suffix}"), None, order)
        convert(opened(path, comm), output, comm)
        source = opened(output.path, comm)
        assert source.shape == shape[1:] and source.dtype == x.dtype
        assert np.array_equal(whole(source, comm), x.reshape(len(x), -1))
        assert np.array_equal(source.all_targets(), words)
    numbers = some((len(y), 7))[0]
    rows = [" ".join(f"{j + 1}:{n!r}" for j, n in enumerate(row)) for row in numbers.tolist()]
    content = "\n".join(f"{label} {row}" for label, row in zip(y, rows, strict=True))
    table = put(comm, folder / "in.svm", lambda p: p.write_text(content))
    output = Output(str(folder / f"text{suffix}"), "float32", None)
    convert(opened(table, comm), output, comm)
    assert np.array_equal(whole(opened(output.path, comm), comm), np.float32(numbers))
