"""Whole layers as matrices W (outputs x inputs), the bias as last column, from every rank's blocks, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnewton.arrays.namespace import Array, copy, empty, namespace, zeros
from dnewton.comm.communicator import Comm
from dnewton.model.block import Block, blocks_of
from dnewton.model.network import Network


class GatheredLayers:
    """The layers of a network on the M ranks of a replica. Columns are in patch order (kh, kw, channel)."""

    def __init__(self, network: Network) -> None:
        self.comm: Comm = network.comm
        self._mine = network.blocks
        self._all: list[list[Block]] = [blocks_of(network.plan, r) for r in range(network.comm.size)]
        self.shapes = [(b.weight_shape[0], _inputs(b) + 1) for b in self._mine]

    def matrices(self, vector: Array) -> list[Array]:
        """Every layer's matrix (g, a) from a vector laid out like θ. Collective over the replica when M > 1."""
        xp = namespace(vector)
        found = [zeros(shape, vector) for shape in self.shapes]
        every = self.comm.concatenate(vector)
        start = 0
        for blocks in self._all:
            size = sum(b.size for b in blocks)
            part = every[start : start + size]
            start += size
            for out, block in zip(found, blocks, strict=True):
                _weight(out, block)[...] = xp.reshape(block.weight(part), _by_channel(block))
                if block.has_bias:
                    out[block.out[0] : block.out[1], -1] = block.bias(part)
        return found

    def vector(self, matrices: Sequence[Array]) -> Array:
        """This rank's blocks of whole matrices, laid out like θ."""
        xp = namespace(matrices[0])
        out = empty((sum(b.size for b in self._mine),), matrices[0])
        for matrix, block in zip(matrices, self._mine, strict=True):
            block.weight(out)[...] = xp.reshape(copy(_weight(matrix, block)), block.shape)
            if block.has_bias:
                block.bias(out)[...] = matrix[block.out[0] : block.out[1], -1]
        return out


def _inputs(block: Block) -> int:
    return math.prod(block.weight_shape[1:])


def _by_channel(block: Block) -> tuple[int, int, int]:
    return block.shape[0], block.kernel_size, block.inputs[1] - block.inputs[0]


def _weight(matrix: Array, block: Block) -> Array:
    """View of a block's part in its layer's matrix, (|O|, kh·kw, |I|)."""
    out, kernel = matrix.shape[0], block.kernel_size
    channels = block.weight_shape[1]
    flat = matrix[:, : kernel * channels]
    whole = namespace(matrix).reshape(flat, (out, kernel, channels))  # never a copy: rows have one stride
    return whole[block.out[0] : block.out[1], :, block.inputs[0] : block.inputs[1]]
