"""Model files and files of samples that no run can use, and what the one line about each must say."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
from typing import Any

import numpy as np
from bad_inputs import Entry
from safetensors.numpy import save

WEIGHTS: dict[str, np.ndarray] = {  # of the net in mlp.yaml
    "layers.0.weight": np.ones((4, 5), np.float32),
    "layers.0.bias": np.zeros(4, np.float32),
    "layers.1.weight": np.ones((3, 4), np.float32),
    "layers.1.bias": np.zeros(3, np.float32),
}
X = np.random.default_rng(0).normal(size=(6, 5))
Y = np.array([0, 1, 2, 0, 1, 2])


# --- models -----------------------------------------------------------------------------------------------------------


def model(header: Any, body: bytes, length: int | None = None) -> bytes:
    """A file in the form of safetensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def models() -> dict[str, bytes]:
    good = save(WEIGHTS)
    length = struct.unpack("<Q", good[:8])[0]
    body = good[8 + length :]

    def changed(**entry: Any) -> bytes:
        header = json.loads(good[8 : 8 + length])
        header["layers.0.weight"].update(entry)
        return model(header, body)

    def but(**tensors: np.ndarray) -> bytes:
        return save({**WEIGHTS, **{name.replace("_", "."): value for name, value in tensors.items()}})

    sequential = {name.replace("layers.1", "2").replace("layers.", ""): value for name, value in WEIGHTS.items()}
    halves = {}
    for i, (name, value) in enumerate(WEIGHTS.items()):
        at = sum(2 * v.size for v in list(WEIGHTS.values())[:i])
        halves[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [at, at + 2 * value.size]}
    found = {
        "good": good,
        "empty": b"",
        "words": b"not a model, only a line of text\n",
        "archive": b"PK\x03\x04" + bytes(99),
        "cut": good[:-7],
        "longer": good + bytes(8),
        "seven": good[:7],
        "head": good[:40],
        "len_half": struct.pack("<Q", 2**63) + good[8:],
        "len_most": struct.pack("<Q", 2**64 - 1) + good[8:],
        "len_big": struct.pack("<Q", 10**8) + good[8:],
        "len_none": struct.pack("<Q", 0) + good[8:],
        "json": model(b"{]" * 10, body),
        "array": model(b"[1, 2, 3]", body),
        "latin": model(b'{"\xff": 1}', body),
        "deep": model(b'{"a":' * 5000 + b"1" + b"}" * 5000, body),
        "number": model({"__metadata__": {"a": 1}, "x": 5}, body),
        "beyond": changed(data_offsets=[0, 10**6]),
        "back": changed(data_offsets=[80, 0]),
        "minus": changed(data_offsets=[-1, 79]),
        "shape_lies": changed(shape=[400, 500]),
        "shape_huge": changed(shape=[2**62, 8]),
        "shape_minus": changed(shape=[-4, -5]),
        "dtype_none": changed(dtype="F33"),
        "dtype_half": model(halves, bytes(2 * sum(v.size for v in WEIGHTS.values()))),
        "dtype_int": but(layers_0_weight=np.ones((4, 5), np.int32)),
        "turned": but(layers_0_weight=np.ones((5, 4), np.float32)),
        "flat": but(layers_0_weight=np.ones(20, np.float32)),
        "nan": but(layers_1_weight=np.full((3, 4), np.nan, np.float32)),
        "inf": but(layers_1_bias=np.full(3, np.inf, np.float32)),
        "wide": but(layers_0_weight=np.full((4, 5), 1e300)),
        "missing": save({name: value for name, value in WEIGHTS.items() if name != "layers.1.bias"}),
        "extra": but(layers_2_weight=np.ones((3, 3), np.float32)),
        "names": save(sequential | {"4.weight": np.ones((2, 3), np.float32)}),
        "norm": save(sequential | {"1.running_mean": np.ones(4, np.float32)}),
        "bare": save({name: value for name, value in sequential.items() if name != "2.bias"}),
        "narrow": save(sequential | {"2.weight": np.ones((3, 5), np.float32)}),
    }
    return {f"{name}.safetensors": content for name, content in found.items()}


UNREADABLE = (
    "empty",
    "words",
    "archive",
    "cut",
    "longer",
    "seven",
    "head",
    "len_half",
    "len_most",
    "len_big",
    "len_none",
    "json",
    "array",
    "latin",
    "deep",
    "number",
    "beyond",
    "back",
    "minus",
    "shape_lies",
    "shape_huge",
    "shape_minus",
    "dtype_none",
    "nothing",
    "loop",
)
MODELS: list[Entry] = [  # --init this
    *((f"{name}.safetensors", f"{name}.safetensors", "not a readable safetensors file") for name in UNREADABLE),
    (".", ".: is not a file", "a safetensors file is needed"),
    ("mlp.yaml", "mlp.yaml", "not a readable safetensors file"),
    ("dtype_half.safetensors", "layers.0.weight", "BF16", "F32 or F64 is needed"),
    ("dtype_int.safetensors", "layers.0.weight", "I32", "F32 or F64 is needed"),
    ("turned.safetensors", "layers.0.weight", "[5, 4]", "the net needs [4, 5]"),
    ("flat.safetensors", "layers.0.weight", "[20]", "the net needs [4, 5]"),
    ("nan.safetensors", "layers.1", "NaN", "finite weights"),
    ("inf.safetensors", "layers.1", "infinity", "finite weights"),
    ("wide.safetensors", "layers.0", "infinity", "finite weights"),
    ("missing.safetensors", "has no tensor layers.1.bias", "the net needs layers.0.bias"),
    ("extra.safetensors", "layers.2.weight", "belongs to no layer"),
    ("names.safetensors", "has 3 layer(s) with weights (0, 2, 4)", "the net has 2 (layers.0, layers.1)"),
    ("norm.safetensors", "1.running_mean", "neither weight nor bias"),
    ("bare.safetensors", "has no tensor 2.bias", "or none for biases of zero"),
    ("narrow.safetensors", "2.weight has shape [3, 5]", "the net needs [3, 4] for layers.1"),
]


# --- samples ----------------------------------------------------------------------------------------------------------


def npy(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def header(text: str) -> bytes:
    """The beginning of a .npy file with this header, and no data."""
    padded = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype("u1").tobytes()


def samples() -> dict[str, bytes]:
    def spoilt(value: float) -> np.ndarray:
        return np.where(np.arange(30).reshape(6, 5) == 24, value, X)  # row 4, column 4: the last rank's

    def table(**lines: str) -> bytes:
        rows = [",".join(map(str, [*row.round(3), label])) for row, label in zip(X, Y, strict=True)]
        for place, line in lines.items():
            rows[int(place[1:])] = line
        return "\n".join(rows).encode() + b"\n"

    def pairs(line: str = "1 1:2") -> bytes:
        return "".join(f"{y} 1:{y + 1} 5:2\n" for y in Y).encode() + line.encode() + b"\n"

    class Evil:
        def __reduce__(self) -> Any:
            return (os.mkdir, ("pwned",))

    good = npz(x=X, y=Y)
    batch = {b"labels": [0, 1, 2, 3], b"data": np.zeros((4, 3072), np.uint8)}
    record = bytes(3073)
    return {
        "nan.npz": npz(x=spoilt(np.nan), y=Y),
        "inf.npz": npz(x=spoilt(-np.inf), y=Y),
        "big.npz": npz(x=spoilt(1e300), y=Y),
        "no_x.npz": npz(y=Y),
        "no_y.npz": npz(x=X),
        "short.npz": npz(x=X, y=Y[:4]),
        "flat.npz": npz(x=X[:, 0], y=Y),
        "object.npz": npz(x=np.array([{}], dtype=object), y=Y),
        "words.npz": npz(x=X.astype(str), y=Y),
        "complex.npz": npz(x=X * 1j, y=Y),
        "none.npz": npz(x=X[:0], y=Y[:0]),
        "narrow.npz": npz(x=X[:, :4], y=Y),
        "image.npz": npz(x=X.reshape(6, 5, 1, 1, 1), y=Y),
        "many.npz": npz(x=X, y=Y * 10 + np.arange(6)),
        "one.npz": npz(x=X, y=Y * 0),
        "half.npz": npz(x=X, y=Y + 0.5),
        "y_nan.npz": npz(x=X, y=np.where(Y == 2, np.nan, Y)),
        "heavy.npz": npz(x=X, y=Y, w=np.where(np.arange(6) == 2, np.nan, 1.0)),
        "zero.npz": npz(x=X, y=Y, w=0.0 * Y),
        "minus.csv": b"w\n1\n2\n3\n4\n-1\n5\n",
        "words.csv": b"w\n1\ntwo\n3\n",
        "w5.csv": b"1\n2\n3\n4\n5\n",
        "y.npy": npy(Y),
        "far.npz": npz(x=X, y=Y * 2.0**60),
        "unknown.npz": npz(x=X, y=np.where(np.arange(6) == 5, 7, Y)),
        "rows.npz": npz(x=X, y=np.ones((6, 3))),
        "two.npz": npz(x=X, y=np.ones((6, 2)) / 2),
        "sole.npz": npz(x=X[:1], y=Y[:1]),
        "real.npz": npz(x=X, y=X[:, :2]),
        "text.npz": b"not an archive at all",
        "cut.npz": good[:300],
        "tail.npz": good[:-40],
        "packed.npz": npz(True, x=X, y=Y),
        "magic.npy": b"not an array",
        "alone.npy": npy(X),
        "vector.npy": npy(X[:, 0]),
        "cut.npy": npy(X)[:-30],
        "more.npy": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 5), }"),
        "minus.npy": header("{'descr': '<f8', 'fortran_order': False, 'shape': (-6, 5), }"),
        "run.npy": header("__import__('os').mkdir('pwned')"),
        "descr.npy": header("{'descr': '|O', 'shape': (6, 5)}"),
        "pickled.npy": npy(np.array([[{}] * 5] * 6), allow_pickle=True),
        "long.npy": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        "x.npy": npy(X),
        "y4.npy": npy(Y[:4]),
        "yo.npy": npy(np.array([{}] * 6), allow_pickle=True),
        "empty.npy": b"",
        "empty.csv": b"",
        "blank.csv": b"\n\n# nothing\n",
        "head.csv": b"a,b,c,d,e,label\n",
        "wide.csv": b"1,2,3\n4,5,6\n",
        "ragged.csv": table(r4="1,2,3,4,0"),
        "word.csv": table(r4="1,2,three,4,5,0"),
        "nan.csv": table(r4="1,2,nan,4,5,0"),
        "gap.csv": table(r4="1,2,,4,5,0"),
        "quote.csv": table(r4='1,2,"3,4,5,0'),
        "label.csv": table(r4="1,2,3,4,5,0.5"),
        "cut.csv.gz": gzip.compress(table() * 99)[:-12],
        "cut.csv.xz": lzma.compress(table() * 99)[:-12],
        "flip.csv.bz2": bz2.compress(table() * 99)[:60] + b"\x55" * 40,
        "npy.csv.gz": gzip.compress(npy(X)),
        "named.csv": b"a,b,c,d,e,label\n" + table(),
        "other.csv": b"b,a,c,d,e,label\n" + table(),
        "good.svm": pairs(),
        "wide.svm": pairs("1 9:1"),
        "falls.svm": pairs("1 3:1 2:1"),
        "word.svm": pairs("1 2:x"),
        "label.svm": pairs("spam 2:1"),
        "nan.svm": pairs("1 2:nan"),
        "pair.svm": pairs("1 2"),
        "zero.svm": pairs("1 0:1 5:2"),
        "blank.svm": b"\n  \n",
        "x.idx": idx(X),
        "cut.idx": idx(X)[:-3],
        "labels.idx": idx(Y),
        "y4.idx": idx(Y[:4]),
        "none.idx": idx(X[:0]),
        "odd.bin": record[:-5],
        "label.bin": b"\xc8" + record[1:],
        "evil": pickle.dumps({b"data": Evil()}, protocol=2),
        "batch": pickle.dumps(batch, protocol=2),
        "cut_batch": pickle.dumps(batch, protocol=2)[:200],
        "list": pickle.dumps([1, 2], protocol=2),
        "noise": b"\x01\x02\x03\x04" * 99,
        "magic.h5": b"not an array",
        "cut.h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
        "magic.mat": b"not an array",
        "cut.mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(50),
    }


FILES: list[Entry] = [  # data.train=this (or settings as in bad_inputs)
    ("nan.npz", "row 4", "column 4", "nan", "clean the data"),
    ("inf.npz", "row 4", "column 4", "inf", "clean the data"),
    ("big.npz", "row 4", "column 4", "too large for float32"),
    ("no_x.npz", "has no array 'x'"),
    ("no_y.npz", "has no labels", "'y'"),
    ("short.npz", "one row per sample (6)", "[4]"),
    ("flat.npz", "[samples, features]", "[6]"),
    ("object.npz", "x must hold numbers", "object"),
    ("words.npz", "x must hold numbers"),
    ("complex.npz", "x must hold numbers", "complex128"),
    ("none.npz", "x is empty"),
    ("narrow.npz", "[4]", "net.input is [5]"),
    ("image.npz", "[samples, channels, height, width]", "[6, 5, 1, 1, 1]"),
    ("many.npz", "6 classes", "3 output(s)", "as many units"),
    ("one.npz", "one class only"),
    ("half.npz", "row 0", "label 0.5", "not a whole number"),
    ("y_nan.npz", "row 2", "nan"),
    ("far.npz", "row 1", "too large"),
    ("rows.npz", "row 0", "rows that sum to 1"),
    ("two.npz", "2 columns", "3 output(s)"),
    ("real.npz & net.loss=squared", "2 target(s)", "3 output(s)"),
    ("text.npz", "that is not an .npz"),
    ("cut.npz", "damaged or cut short"),
    ("tail.npz", "damaged or cut short"),
    ("packed.npz & data.max_resident=1MiB", "raise data.max_resident", "dnewton.data convert"),
    ("sole.npz & data.split=0.5", "data.split", "at least two are needed"),
    ("good.npz & data.test=unknown.npz", "unknown.npz", "row 5", "label 7"),
    ("good.npz & data.test=narrow.npz", "data.test", "narrow.npz", "net.input is [5]"),
    ("good.npz & data.test=no_y.npz", "no_y.npz", "has no labels"),
    ("good.npz & data.test=nan.npz", "nan.npz", "row 4", "column 4"),
    ("good.npz & data.validation=digits", "data.validation", "name a file"),
    ("good.npz & data.validation=nothing.npz", "data.validation", "nothing.npz"),
    ("good.npz & data.scale_targets=standardize", "data.scale_targets", "good.npz has labels"),
    ("good.npz & data.target=4", "good.npz", "leave target out"),
    ("good.npz & data.weights=minus.csv", "minus.csv: row 4", "its weight is -1", "finite and not negative"),
    ("good.npz & data.weights=words.csv", "words.csv: line 3", "'two' is not a number"),
    ("good.npz & data.weights=w5.csv", "data.weights", "w5.csv has 5 weights", "6 samples"),
    ("good.npz & data.weights=x.npy", "data.weights", "x.npy", "one number a sample", "[6, 5]"),
    ("good.npz & data.weights=yo.npy", "yo.npy", "cannot be read as an array"),
    ("good.npz & data.weights=empty.csv", "data.weights", "empty.csv is empty"),
    ("good.npz & data.weights=none.npy", "data.weights", "there is no file none.npy"),
    ("good.npz & data.class_weights={7: 2}", "data.class_weights", "no label 7", "0, 1, 2"),
    ("heavy.npz & data.weights=w", "heavy.npz: row 2", "its weight is nan"),
    ("[good.npz, heavy.npz] & data.weights=w", "data.weights", "good.npz", "no array 'w'"),
    ("{x: x.npy, y: y.npy, w: minus.csv}", "minus.csv: row 4", "its weight is -1"),
    ("{x: x.npy, y: y.npy, w: none.csv}", "data.train.w", "none.csv"),
    ("zero.npz & data.weights=w", "zero.npz", "all weights are 0", "data.weights"),
    (
        "real.npz & net.loss=squared & net.layers.1.dense.units=2 & data.class_weights=balanced",
        "data.class_weights",
        "numbers, not classes",
    ),
    ("[good.npz, narrow.npz]", "narrow.npz", "[4]", "[5]"),
    ("[good.npz, no_y.npz]", "no_y.npz", "has no labels"),
    ("{x: good.npz, y: good.svm}", "good.svm", "FILE:NAME"),
    ("magic.npy", "that is not a NumPy array"),
    ("alone.npy", "has no labels"),
    ("vector.npy", "[samples, features]"),
    ("cut.npy", "cut short", "row 5 of 6"),
    ("more.npy", "cut short", "are needed"),
    ("minus.npy", "cannot be read as an array", "[-6, 5]"),
    ("run.npy", "run.npy", "cannot be read as an array"),
    ("descr.npy", "descr.npy", "cannot be read as an array"),
    ("pickled.npy", "x must hold numbers", "object"),
    ("long.npy", "long.npy"),
    ("{x: x.npy, y: y4.npy}", "y4.npy", "one row per sample (6)"),
    ("{x: x.npy, y: yo.npy}", "yo.npy", "numbers or strings"),
    ("{x: x.npy, y: nothing.npy}", "data.train", "nothing.npy", "neither a file"),
    ("empty.npy", "data.train", "empty.npy is empty"),
    ("empty.csv", "data.train", "empty.csv is empty"),
    ("blank.csv", "holds no samples"),
    ("head.csv", "a header and no samples"),
    ("wide.csv", "3 columns", "5 features"),
    ("ragged.csv", "line 5", "5 columns", "the first line 6"),
    ("word.csv", "line 5", "column 3", "'three' is not a number"),
    ("nan.csv", "line 5", "column 3", "nan"),
    ("gap.csv", "line 5", "column 3"),
    ("quote.csv", "line 5", "quotation mark"),
    ("label.csv", "label.csv", "0.5", "not a whole number"),
    ("cut.csv.gz", "damaged or cut short"),
    ("cut.csv.xz", "damaged or cut short"),
    ("flip.csv.bz2", "damaged or cut short"),
    ("npy.csv.gz", "decompress it first"),
    ("named.csv & data.target=class", "data.target", "no column is called 'class'", "label"),
    ("named.csv & data.target=9", "data.target", "there is no column 9", "6 columns"),
    ("named.csv & data.target=[label, 5]", "data.target", "names a column twice"),
    ("named.csv & data.test=other.csv", "other.csv", "feature 0 is 'b'", "'a'"),
    ("wide.svm", "line 7", "index 9", "5 features"),
    ("falls.svm", "line 7", "must ascend"),
    ("word.svm", "line 7", "'x'", "not a number"),
    ("label.svm", "line 7", "'spam'", "not a number"),
    ("nan.svm", "line 7", "nan", "clean the data"),
    ("pair.svm", "line 7", "'2' is not index:value"),
    ("zero.svm", "row 0", "index 5", "count from 0"),
    ("good.svm & data.test=zero.svm", "line 7", "index 0", "counts from 1"),
    ("blank.svm", "holds no samples"),
    ("cut.idx", "cut short", "row 5 of 6"),
    ("labels.idx", "holds labels", "name the file of images"),
    ("none.idx", "is empty"),
    ("{x: x.idx, y: y4.idx}", "y4.idx", "one row per sample (6)"),
    ("odd.bin", "not a whole number of CIFAR records"),
    ("label.bin & net.input=[3072]", "row 0", "label 200"),
    ("batch", "[3, 32, 32]", "net.input is [5]"),
    ("cut_batch", "not a CIFAR python batch"),
    ("evil", "not a CIFAR python batch", "mkdir"),
    ("list", "not a CIFAR python batch"),
    ("noise", "unknown kind of file", "readable are"),
    ("magic.h5", "that is not an HDF5 file"),
    ("cut.h5", "not a readable HDF5 file"),
    ("magic.mat", "that is not a MATLAB .mat file"),
    ("cut.mat", "not a readable .mat file"),
    ("mlp.yaml", "mlp.yaml"),
    ("nothing.npz", "data.train", "neither a file nor a bundled set", "iris"),
    ("folder.npz", "data.train", "directory", "name a file inside it"),
    ("loop.npz", "data.train", "loop.npz", "cannot be read"),
    ("dangling.npz", "data.train", "dangling.npz", "cannot be read"),
    ("pipe.npz", "data.train", "not a regular file"),
    ("digits", "digits", "[64]", "net.input is [5]"),
]
