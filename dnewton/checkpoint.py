"""Models and checkpoints as safetensors: whole tensors in PyTorch's names and order, independent of the ranks.

Every rank writes its own blocks by MPI-IO into a temporary file, which is renamed when all have written.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError, safe_open

from dnewton.arrays import Array
from dnewton.comm import Comm
from dnewton.errors import UserError, one_line
from dnewton.network import Block, Network
from dnewton.traffic import Piece

_DTYPES = {"float32": "F32", "float64": "F64"}


def save(
    path: str, network: Network, vectors: Mapping[str, Array], metadata: Mapping[str, str], comm: Comm,
    own: Mapping[str, Array] | None = None, replica: int = 0, replicas: int = 1,
) -> None:  # fmt: skip
    """Write vectors laid out like θ under name prefixes ("" for the weights), which replica 0 holds for all, and those
    that every replica has of its `own`, under `worker<replica>.` and their prefixes.

    Raises OSError alike on all ranks. Collective over `comm`, the ranks of all replicas.
    """
    own = own or {}
    dtype = next(iter(vectors.values())).dtype
    names = [*vectors, *(f"worker{r}.{name}" for r in range(replicas) for name in own)]
    header, offsets = _header(network, names, dtype, metadata)
    held = dict(vectors) if replica == 0 else {}
    held |= {f"worker{replica}.{name}": vector for name, vector in own.items()}
    pieces = []
    for prefix, vector in held.items():
        for block in network.blocks:
            weight, bias = _pieces(block, vector)
            name = prefix + block.layer.shape.name
            out = block.layer.shape.weight_shape[0]
            starts = (block.out[0], block.inputs[0], *(0 for _ in block.layer.shape.weight_shape[2:]))
            pieces.append(Piece(offsets[name + ".weight"], block.layer.shape.weight_shape, starts, weight))
            pieces.append(Piece(offsets[name + ".bias"], (out,), (block.out[0],), bias))
    temporary = path + ".tmp"
    with comm.phase("output"):
        with comm.together():
            if comm.rank == 0 and os.path.lexists(temporary):
                os.unlink(temporary)  # left by a run that was killed while writing
        comm.write_file(temporary, header, pieces, dtype)
        with comm.together():
            if comm.rank == 0:
                os.replace(temporary, path)


def _pieces(block: Block, vector: Array) -> tuple[np.ndarray, np.ndarray | None]:
    weight = np.ascontiguousarray(block.to_file_order(block.weight(vector)))
    return weight, np.asarray(block.bias(vector)) if block.has_bias else None


def _header(
    network: Network, prefixes: list[str], dtype: np.dtype, metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, int]]:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    relative, end = {}, 0
    for prefix in prefixes:
        for layer in network.plan.parametric():
            for kind, shape in (("weight", layer.shape.weight_shape), ("bias", layer.shape.weight_shape[:1])):
                name, size = f"{prefix}{layer.shape.name}.{kind}", math.prod(shape) * dtype.itemsize
                entries[name] = {"dtype": _DTYPES[dtype.name], "shape": list(shape), "data_offsets": [end, end + size]}
                relative[name] = end
                end += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return struct.pack("<Q", len(text)) + text, {name: start + offset for name, offset in relative.items()}


def read_metadata(path: str) -> dict[str, str]:
    """The metadata of a safetensors file. Raises UserError when it is not one."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {one_line(error)}") from None


def prefixes(path: str, network: Network) -> list[str]:
    """The name prefixes of the vectors like θ that a checkpoint holds ("" for the weights)."""
    first = f"{network.plan.parametric()[0].shape.name}.weight"
    with safe_open(path, framework="numpy") as file:
        return [name.removesuffix(first) for name in list(file.keys()) if name == first or name.endswith("." + first)]


def load(path: str, network: Network, dtype: str, prefix: str = "") -> Array:
    """This rank's blocks of the tensors under `prefix`, as a vector like θ.

    Raises UserError naming the first tensor that is missing, left over or of another shape.
    """
    theta = np.zeros(network.size, dtype=dtype)
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            _check_names(path, names, network, prefix)
            for block in network.blocks:
                name = prefix + block.layer.shape.name
                weight = file.get_slice(name + ".weight")
                _check_shape(path, name + ".weight", weight.get_shape(), block.layer.shape.weight_shape)
                bias = file.get_slice(name + ".bias")
                _check_shape(path, name + ".bias", bias.get_shape(), block.layer.shape.weight_shape[:1])
                for kind, entry in (("weight", weight), ("bias", bias)):
                    if entry.get_dtype() not in ("F16", "F32", "F64"):
                        raise UserError(f"{path}: {name}.{kind} has dtype {entry.get_dtype()}; F32 or F64 is needed")
                if block.weights:
                    part = weight[block.out[0] : block.out[1], block.inputs[0] : block.inputs[1]]
                    block.weight(theta)[...] = block.from_file_order(part)
                if block.has_bias and block.shape[0]:
                    block.bias(theta)[...] = bias[block.out[0] : block.out[1]]
                if not np.isfinite(theta[block.span]).all():
                    raise UserError(f"{path}: {name} holds NaN or infinity; start from finite weights")
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {one_line(error)}") from None
    return theta


def _check_names(path: str, names: set[str], network: Network, prefix: str) -> None:
    wanted = {f"{prefix}{layer.shape.name}.{k}" for layer in network.plan.parametric() for k in ("weight", "bias")}
    missing = sorted(wanted - names)
    if missing:
        raise UserError(f"{path}: has no tensor {missing[0]}; the net needs {', '.join(sorted(wanted))}")
    if prefix == "":
        extra = sorted(n for n in names - wanted if not any(n.endswith("." + w) for w in wanted))
        if extra:
            raise UserError(f"{path}: tensor {extra[0]} belongs to no layer of the net")


def _check_shape(path: str, name: str, found: list[int], wanted: tuple[int, ...]) -> None:
    if tuple(found) != tuple(wanted):
        raise UserError(f"{path}: {name} has shape {list(found)}, the net needs {list(wanted)}")
