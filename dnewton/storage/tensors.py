"""Models and checkpoints as safetensors: whole tensors in PyTorch's names and order, independent of the ranks.

Every rank writes and reads its own blocks. A checkpoint's tensors have checksums, to which all ranks contribute.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from dnewton.arrays.namespace import Array, dtype_name, itemsize, to_host
from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.model.block import Block
from dnewton.model.network import Network
from dnewton.storage import checksum, parallel_file
from dnewton.storage.parallel_file import Piece
from dnewton.storage.tensor_file import FURTHER, check_dtype, names_in, opened, shapes_of
from dnewton.storage.tensor_file import dtype_of as dtype_of
from dnewton.storage.tensor_file import read_metadata as read_metadata

_DTYPES = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Contents:
    """What goes into a file, as one rank has it."""

    vectors: Mapping[str, Array]  # like θ, by name prefix ("" for the weights); replica 0 writes them
    metadata: Mapping[str, str]
    own: Mapping[str, Array] = field(default_factory=dict)  # like θ; every replica's, under `worker<replica>.`
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of further tensors, the same on all ranks
    whole: Mapping[str, Array] = field(default_factory=dict)  # those of them that this rank writes
    wide: bool = False  # further tensors are float64, whatever the weights are


@dataclass(frozen=True)
class Written:
    """What a file can be verified with later."""

    checksums: dict[str, int]  # by tensor
    header: str  # SHA-256 of the file up to the first tensor
    size: int


def save(path: str, network: Network, contents: Contents, comm: Comm, replica: int = 0, replicas: int = 1) -> Written:
    """Write a new file. Raises UserError alike on all ranks. Collective over `comm`, the ranks of all replicas."""
    dtype = np.dtype(dtype_name(next(iter(contents.vectors.values()))))
    prefixes = [*contents.vectors, *(f"worker{r}.{name}" for r in range(replicas) for name in contents.own)]
    shapes = {prefix + name: shape for prefix in prefixes for name, shape in _shapes(network).items()}
    shapes |= {FURTHER + name: shape for name, shape in contents.shapes.items()}
    further = np.dtype("float64") if contents.wide else dtype
    dtypes = {name: further if name.startswith(FURTHER) else dtype for name in shapes}
    header, offsets, size = _header(shapes, dtypes, contents.metadata)
    vectors = dict(contents.vectors) if replica == 0 else {}
    vectors |= {f"worker{replica}.{name}": vector for name, vector in contents.own.items()}
    sums = dict.fromkeys(shapes, 0)

    def pieces() -> Iterator[Piece]:  # a generator: weights in the file's order are copies
        for prefix, vector in vectors.items():
            yield from _blocks(network, prefix, to_host(vector), offsets)
        for name, tensor in contents.whole.items():
            name = FURTHER + name
            flat = np.ascontiguousarray(to_host(tensor), dtype=further).reshape(_flat(shapes[name]))
            yield Piece(name, offsets[name], flat.shape[1], 0, 0, flat)

    def summed() -> Iterator[Piece]:
        for piece in pieces():
            sums[piece.name] = checksum.added([sums[piece.name], checksum.partial(piece.data, piece.row, piece.column)])
            yield piece

    with comm.phase("output"):
        parallel_file.write(path, header, size, summed(), comm)
        total = comm.allreduce(np.array(list(sums.values()), dtype=np.uint64))
    return Written(dict(zip(sums, map(int, total), strict=True)), hashlib.sha256(header).hexdigest(), size)


def publish(path: str, network: Network, contents: Contents, comm: Comm, replica: int = 0) -> None:
    """Write a file under a temporary name and rename it.

    Raises UserError alike on all ranks. Collective over `comm`.
    """
    temporary = path + ".tmp"
    try:
        save(temporary, network, contents, comm, replica)
        with comm.phase("output"), comm.raise_together():
            if comm.rank == 0:
                os.replace(temporary, path)
                parallel_file.sync_folder(os.path.dirname(path) or ".")
    except UserError:
        if comm.rank == 0:
            with suppress(OSError):
                os.unlink(temporary)  # it would take space that others need
        raise


def size(network: Network, contents: Contents, replicas: int) -> int:
    """About how many bytes a file takes."""
    length = sum(math.prod(s) for s in _shapes(network).values())
    numbers = length * (len(contents.vectors) + replicas * len(contents.own))
    numbers += sum(math.prod(s) for s in contents.shapes.values())
    return numbers * itemsize(next(iter(contents.vectors.values()))) + (1 << 16)


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights and biases."""
    return shapes_of([layer.spec for layer in network.plan.layers])


def _flat(shape: Sequence[int]) -> tuple[int, int]:
    """A tensor as a matrix: what blocks cut is its first axis and, of weights, the second."""
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


def _blocks(network: Network, prefix: str, vector: Array, offsets: Mapping[str, int]) -> Iterator[Piece]:
    for block in network.blocks:
        name = prefix + block.name
        columns = _flat(block.weight_shape)[1]
        if block.weights:
            weight = np.ascontiguousarray(block.to_file_order(block.weight(vector)))
            flat = weight.reshape(weight.shape[0], weight[0].size)
            column = _first_column(block)
            yield Piece(f"{name}.weight", offsets[f"{name}.weight"], columns, block.out[0], column, flat)
        if block.has_bias and block.shape[0]:
            bias = np.ascontiguousarray(block.bias(vector)).reshape(block.shape[0], 1)
            yield Piece(f"{name}.bias", offsets[f"{name}.bias"], 1, block.out[0], 0, bias)


def _first_column(block: Block) -> int:
    return block.inputs[0] * math.prod(block.weight_shape[2:])


def _header(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """The bytes before the first tensor, where each tensor starts, and the length of the file."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    relative, end = {}, 0
    for name, shape in shapes.items():
        dtype = dtypes[name]
        length = math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _DTYPES[dtype.name], "shape": list(shape), "data_offsets": [end, end + length]}
        relative[name] = end
        end += length
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return struct.pack("<Q", len(text)) + text, {name: start + at for name, at in relative.items()}, start + end


# --- reading ----------------------------------------------------------------------------------------------------------


def header_hash(path: str) -> str:
    """SHA-256 of a safetensors file up to the first tensor. Raises UserError."""
    with open(path, "rb") as file:
        start = file.read(8)
        (length,) = struct.unpack("<Q", start.ljust(8, b"\0"))
        if length > os.path.getsize(path):
            raise UserError(f"{path}: is damaged: cut off within its header")
        return hashlib.sha256(start + file.read(length)).hexdigest()


def prefixes(path: str, network: Network) -> list[str]:
    """The name prefixes of the vectors like θ that a checkpoint holds ("" for the weights)."""
    first = f"{network.plan.parametric()[0].spec.name}.weight"
    with opened(path) as file:
        names = [name for name in list(file.keys()) if name == first or name.endswith("." + first)]
    found = [name.removesuffix(first) for name in names]
    return [prefix for prefix in found if "layers" not in prefix.split(".")]  # else a layer's, inside a residual


def load(path: str, network: Network, dtype: str, prefix: str = "", sums: dict[str, int] | None = None) -> Array:
    """This rank's blocks of the tensors under `prefix`, as a vector like θ; `sums` gets their parts of the checksums.

    Raises UserError naming the first tensor that is missing, left over or of another shape.
    """
    theta = np.zeros(network.size, dtype=dtype)
    with opened(path) as file:
        names = names_in(path, file, [layer.spec for layer in network.plan.layers], prefix)
        for block in network.blocks:
            name = prefix + block.name
            entries = {}
            for kind in ("weight", "bias"):
                if (found := names[f"{block.name}.{kind}"]) is not None:  # else a bias of zero
                    entries[kind] = file.get_slice(found)
                    check_dtype(path, found, entries[kind])
            if block.weights:
                part = entries["weight"][block.out[0] : block.out[1], block.inputs[0] : block.inputs[1]]
                block.weight(theta)[...] = block.from_file_order(part)
                _add(sums, name + ".weight", part, block.out[0], _first_column(block))
            if block.has_bias and block.shape[0] and "bias" in entries:
                part = entries["bias"][block.out[0] : block.out[1]]
                block.bias(theta)[...] = part
                _add(sums, name + ".bias", part, block.out[0], 0)
            if not np.isfinite(theta[block.span]).all():
                raise UserError(f"{path}: {name} holds NaN or infinity; start from finite weights")
    return theta


def _add(sums: dict[str, int] | None, name: str, part: np.ndarray, row: int, column: int) -> None:
    if sums is not None:
        flat = np.ascontiguousarray(part).reshape(part.shape[0], part[0].size)
        sums[name] = checksum.added([sums.get(name, 0), checksum.partial(flat, row, column)])


class Tensors(Mapping[str, np.ndarray]):
    """The further tensors of a checkpoint by their names without FURTHER, each read and checked when asked for."""

    def __init__(self, path: str, checksums: Mapping[str, int]) -> None:
        """`checksums`: of all tensors of the file."""
        self._path = path
        self._checksums = {k.removeprefix(FURTHER): v for k, v in checksums.items() if k.startswith(FURTHER)}

    def __getitem__(self, name: str) -> np.ndarray:
        known, name = self._checksums[name], FURTHER + name
        with opened(self._path) as file:
            tensor: np.ndarray = file.get_tensor(name)
        sums: dict[str, int] = {}
        _add(sums, name, tensor, 0, 0)
        if sums[name] != known:
            raise UserError(f"{self._path}: tensor {name} is damaged: its checksum differs from the manifest's")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._checksums)

    def __len__(self) -> int:
        return len(self._checksums)
