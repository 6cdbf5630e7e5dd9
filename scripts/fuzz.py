"""Feeds damaged files to the readers: whatever is in a file, a UserError is the only exception that may come of it.

    python scripts/fuzz.py --target yaml --inputs 100000 --seed 0

Targets: yaml (the loader and the schema), set (--set), init (model files), manifest (of checkpoints), and formats of
samples: npy, npz, libsvm, csv, idx, records, batch. HDF5 and .mat are left out: their libraries can hang or crash on
damaged files. What fails is printed and kept in --keep; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import math
import os
import pickle
import random
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from dnewton.comm.communicator import Comm
from dnewton.config import parse, strict_yaml
from dnewton.config.loss_entry import loss_of
from dnewton.config.schema import Config, DataSection
from dnewton.config.shipped_nets import read_net, shipped_nets
from dnewton.config.solver_register import SOLVERS, keys
from dnewton.data.parts import load_parts, open_parts
from dnewton.data.samples import Window
from dnewton.errors import UserError, one_line
from dnewton.grid import SplitAxis
from dnewton.model.network import Network
from dnewton.planning import grid_search
from dnewton.planning.net_plan import infer_shapes
from dnewton.storage import manifest, tensors
from dnewton.training import load_config

SECONDS = 3.0  # for one input
MEMORY = 2 << 30  # bytes more than at the start
NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"2",
    b"1.5",
    b"nan",
    b".nan",
    b"inf",
    b"-.inf",
    b"1e400",
    b"1e-400",
    b"2147483648",
    b"65536",
    b"9223372036854775808",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"1" * 400,
    b"1_0",
    b"0x10",
    b"true",
    b"null",
    b"~",
    b"''",
    b"[]",
    b"{}",
    b"off",
    b"1e3",
]
SIGNS = [bytes([c]) for c in b" \t\n\r\0:,[]{}\"'#&*!|>%@-?=<.()\\/\xff\x80\x1f\x7f"] + [
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xe2\x80\xa8",
    b"\xc2\x85",
    b"\r\n",
    b"<<: ",
    b"&a ",
    b"*a",
    b"!!python/name:a ",
    b"!!binary ",
    b"!!set ",
    b"!!omap ",
    b"!!timestamp ",
    b"!!bool ",
    b"!!float ",
    b"!!int ",
    b"!!str ",
    b"- ",
    b"? ",
    b"---\n",
    b"...\n",
    b"%YAML 1.2\n",
    b'"\\ud800"',
    b'"\\0"',
    b"qid:1 ",
    b"1:",
    b":1",
    b"1:2",
    b"data",
    b"shape",
]


class TooSlow(BaseException):
    """An input took longer than SECONDS."""


@dataclass
class Target:
    """Valid files to begin with, words of their grammar, and what reads them."""

    seeds: list[bytes]
    words: list[bytes]
    read: Callable[[bytes], None]
    mend: Callable[[random.Random, bytes], bytes] = lambda rng, data: data


def mutated(rng: random.Random, target: Target) -> bytes:
    """A valid file with one to six changes."""
    data = bytearray(rng.choice(target.seeds))
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        at = rng.randrange(len(data) + 1)
        size = min(len(data) - at, int(2 ** rng.uniform(0, 7)))
        kind = rng.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + size]
        elif kind == 2:
            data[at:at] = data[at : at + size] * rng.choice([1, 2, 50])
        elif kind == 3:
            other = rng.choice(target.seeds)
            start = rng.randrange(len(other))
            data[at : at + rng.choice([0, size])] = other[start : start + size]
        elif kind == 4:
            data[at:at] = rng.choice(SIGNS) * rng.choice([1, 1, 2, 100])
        elif kind == 5:
            data[at : at + size] = rng.randbytes(size)
        else:  # a number, or a word of the grammar, for another
            pattern = rb"[-+]?[0-9][0-9.e+-]*" if kind == 6 else rb"[A-Za-z_][A-Za-z0-9_.]*"
            found = list(re.finditer(pattern, data))
            if found:
                place = rng.choice(found)
                data[place.start() : place.end()] = rng.choice(NUMBERS + target.words if kind < 8 else target.words)
        if len(data) > 1 << 16:
            del data[1 << 16 :]
    return target.mend(rng, bytes(data))


# --- what reads -------------------------------------------------------------------------------------------------------


def yaml_target() -> Target:
    def read(data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise UserError("not a text file") from None
        config, _ = load_config.configure(text, "/nowhere", "net.yaml", [])
        infer_shapes(config.net, "net.yaml")
        if parse.load(config.dump(), "config.yaml") != config:
            raise AssertionError("the resolved configuration is another one")

    return Target(yaml_seeds(), words(), read)


def set_target() -> Target:
    net = yaml_seeds()[0].decode()
    seeds = [
        f"{key}={value}".encode()
        for key in ("solver.C", "net.layers.0.dense.units", "net.layers", "data", "parallel.grid")
        for value in ("1", "[1, 2]", "{a: b}", "off", "[{dense: {units: 3}}]")
    ]

    def read(data: bytes) -> None:
        items = data.decode(errors="surrogateescape").split("\n")
        config, _ = load_config.configure(net, "/nowhere", "net.yaml", items)
        infer_shapes(config.net, "net.yaml")

    return Target(seeds, [*words(), b"0", b"1", b"layers", b"."], read)


def yaml_seeds() -> list[bytes]:
    texts = [read_net(name)[0] for name in shipped_nets()]
    net = "net: {input: [5], loss: squared, layers: [{dense: {units: 4, activation: tanh}}, {dense: {units: 1}}]}\n"
    tables = [parse.load(net, "net.yaml").dump()]
    for name in SOLVERS.names():
        section = SOLVERS[name].section
        tables.append(
            net + strict_yaml.dump({"solver": section.model_validate({"name": name}).model_dump(by_alias=True)})
        )
    return [re.sub("^#.*\n", "", text, flags=re.MULTILINE).encode() for text in (*texts, *tables)]


def words() -> list[bytes]:
    """Keys and values of the schema."""
    found = {key for name in SOLVERS.names() for key in keys(SOLVERS[name].section)}
    for text in yaml_seeds():
        found |= set(re.findall(r"[A-Za-z_]+", text.decode()))
    return [word.encode() for word in sorted(found)]


def init_target(path: Path, comm: Comm) -> Target:
    net = {"input": [5], "loss": "squared", "layers": [{"dense": {"units": 4}}, {"dense": {"units": 3}}]}
    shapes = infer_shapes(Config.model_validate({"net": net}).net)
    network = Network(grid_search.choose(shapes, comm.size, grid_search.Workload(9, 9, 3)), comm)
    weights = {"layers.0.weight": (4, 5), "layers.0.bias": (4,), "layers.1.weight": (3, 4), "layers.1.bias": (3,)}
    seeds = [
        save({k: np.ones(s, dtype) for k, s in weights.items()}, {"format": "1", "dnewton": "{}"})
        for dtype in (np.float32, np.float64, np.float16, np.int32)
    ]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        tensors.read_metadata(str(path))
        tensors.load(str(path), network, "float32")

    def mend(rng: random.Random, data: bytes) -> bytes:
        """Mostly with a length that fits the header again, so that more than the length is read."""
        end = data.rfind(b"}}") + 2
        if rng.random() < 0.3 or end < 10:
            return data
        return struct.pack("<Q", end - 8) + data[8:end] + data[end:].lstrip(b" ")

    names = [
        *(w.encode() for w in weights),
        b"dtype",
        b"shape",
        b"data_offsets",
        b"__metadata__",
        b"F32",
        b"F64",
        b"BF16",
        b"BOOL",
        b"I64",
        b"F4",
    ]
    return Target(seeds, names, read, mend)


def manifest_target() -> Target:
    about = manifest.Manifest(
        format=manifest.FORMAT,
        version="0",
        iteration=1,
        position=0,
        replicas=1,
        samples_seen=1.0,
        train_seconds=0.5,
        best=(1, 2.0),
        unreported={"loss": 1.5, "ranks": [[1.0]]},
        values={"a": "b"},
        identity={"net": [1]},
        config={},
        tensors={"w": "00"},
        header="ab",
        size=9,
    )

    def read(data: bytes) -> None:
        manifest.parse("manifest.json", data)

    def mend(rng: random.Random, data: bytes) -> bytes:
        """Mostly with a SHA-256 that fits again, so that more than that is read."""
        try:
            content = json.loads(data)["manifest"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return data
        return data if rng.random() < 0.2 else manifest.sealed(content)

    names = [*(w.encode() for w in manifest.Manifest.model_fields), b"manifest", b"sha256", b"null", b"[1, 2.0]"]
    return Target([manifest.render(about)], names, read, mend)


def sample_target(path: Path, comm: Comm, seeds: list[bytes], names: list[bytes]) -> Target:
    section = DataSection(train=str(path), scale="standardize")

    def read(data: bytes) -> None:
        path.write_bytes(data)
        shape = (3, 32, 32) if path.suffix in (".bin", ".batch") else (5,)
        parts = open_parts(section, shape, 0, comm)
        window = Window.of(shape, SplitAxis(shape[0]), (0, shape[0]))
        load_parts(parts, section, window, 3, loss_of("cross_entropy"), "float32", math.inf, comm)

    return Target(seeds, names, read)


def arrays(write: Callable[..., None], *values: Any, **named: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *values, **named)
    return buffer.getvalue()


def make(name: str, folder: Path, comm: Comm) -> Target:
    """The target of a name."""
    x, y = np.random.default_rng(0).normal(size=(9, 5)), np.arange(9) % 3
    if name == "yaml":
        return yaml_target()
    if name == "set":
        return set_target()
    if name == "manifest":
        return manifest_target()
    if name == "init":
        return init_target(folder / "model.safetensors", comm)
    if name == "npy":
        np.save(folder / "a.y.npy", y)
        seeds = [arrays(np.save, a) for a in (x, x.astype("f4"), np.asfortranarray(x), x.astype(">f8"), x.astype("i2"))]
        return sample_target(
            folder / "a.npy", comm, seeds, [b"descr", b"fortran_order", b"shape", b"True", b"|O", b"<f8"]
        )
    if name == "npz":
        seeds = [
            arrays(np.savez, x=x, y=y),
            arrays(np.savez_compressed, x=x, y=y),
            arrays(np.savez, data=x, labels=y.astype(str)),
        ]
        return sample_target(folder / "a.npz", comm, seeds, [b"x.npy", b"y.npy", b"PK", b"<f8", b"shape"])
    if name == "libsvm":
        rows = [" ".join(f"{j + 1}:{v:.3g}" for j, v in enumerate(row)) for row in x.tolist()]
        text = "\n".join(f"{label} {row}" for label, row in zip(y, rows, strict=True)).encode()
        seeds = [text, b"1 0:1 4:2\n0 1:3 # a\n2 qid:3 2:1\n", b"1,0,0 1:1\n0,1,0 2:1\n", b"\n" + text + b"\n"]
        return sample_target(folder / "a.svm", comm, seeds, [b"qid", b"1:2", b"5:1e9"])
    if name == "csv":
        rows = [",".join(map(str, [*row, label])) for row, label in zip(x.round(3).tolist(), y, strict=True)]
        text = "\n".join(rows).encode()
        seeds = [
            text,
            b"a,b,c,d,e,f\n" + text,
            text.replace(b",", b" "),
            text.replace(b",", b";"),
            text.replace(b",", b"\t"),
            b'1,2,3,4,5,"a b"\n6,7,8,9,0,"c"\n' * 4,
        ]
        return sample_target(folder / "a.csv", comm, seeds, [b"a", b'"', b'"1"', b",,", b"\n\n"])
    if name == "idx":
        plain = bytes([0, 0, 8, 2]) + np.array([9, 5], ">u4").tobytes() + bytes(range(45))
        (folder / "labels-idx1").write_bytes(
            bytes([0, 0, 8, 1]) + np.array([9], ">u4").tobytes() + bytes([0, 1, 2] * 3)
        )
        return sample_target(
            folder / "images-idx2", comm, [plain, plain[:2] + b"\r" + plain[3:] + bytes(135)], [b"\0\0"]
        )
    images = np.zeros((3, 3072), np.uint8)
    if name == "records":
        return sample_target(
            folder / "a.bin", comm, [b"".join(bytes([i]) + images[i].tobytes() for i in range(3))], [b"\0"]
        )
    if name == "batch":
        content = {b"batch_label": b"b", b"labels": [0, 1, 2], b"data": images, b"filenames": [b"a.png"] * 3}
        return sample_target(
            folder / "a.batch", comm, [pickle.dumps(content, p) for p in (2, 3, 4, 5)], [b"labels", b"data"]
        )
    raise SystemExit(f"no such target: {name}")


# --- the loop ---------------------------------------------------------------------------------------------------------


def tried(target: Target, data: bytes, timed: bool = True) -> tuple[str, str]:
    """What came of an input: read, refused, memory, or what failed and where."""
    if timed:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        faulthandler.dump_traceback_later(10 * SECONDS, exit=True)  # in C, where no signal is looked at
    try:
        target.read(data)
        return "read", ""
    except UserError as error:
        return ("refused", "") if one_line(error) else ("refused without a word", repr(data))
    except MemoryError:
        return "out of memory", ""
    except (Exception, TooSlow) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}", traceback.format_exc()
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()


def too_slow(*_: object) -> None:
    raise TooSlow


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="fuzz-failures", help="folder for inputs that fail")
    args = parser.parse_args()
    signal.signal(signal.SIGALRM, too_slow)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    np.seterr(all="ignore")
    rng, counts, begin = random.Random(args.seed), Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        target = make(args.target, Path(folder), Comm.world())
        for seed in target.seeds:
            if tried(target, seed)[0] not in ("read", "refused"):
                raise SystemExit(f"a valid file fails: {tried(target, seed)}")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        try:
            for number in range(args.inputs):
                data = mutated(rng, target)
                outcome, trace = tried(target, data)
                counts[outcome] += 1
                if trace and counts[outcome] == 1:
                    kept = Path(args.keep, f"{args.target}-{args.seed}-{number}")
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_bytes(data)
                    print(f"{kept}: {outcome}\n{trace}", flush=True)
        except KeyboardInterrupt:  # ended early: what was found is said all the same
            pass
    print(f"{args.target}: {counts.total()} inputs in {time.monotonic() - begin:.0f} s: {dict(counts.most_common())}")
    return int(any(outcome not in ("read", "refused", "out of memory") for outcome in counts))


if __name__ == "__main__":
    sys.exit(main())
