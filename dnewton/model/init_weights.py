"""The random numbers that weights start from: a row is the same whatever the layout, and drawn on the host."""

from __future__ import annotations

import math

import numpy as np

from dnewton.arrays.namespace import Array
from dnewton.model.block import Block
from dnewton.model.layers.activation import gain
from dnewton.model.network import Network


def weights(network: Network, seed: int, dtype: str) -> Array:
    """θ drawn by (seed, layer, output row): normal weights of variance 2/fan-in before rectifiers (He et al.
    2015), 1/fan-in otherwise; zero biases. Unknowns of equations begin where they are told to."""
    theta = np.zeros(network.size, dtype=dtype)
    for block in network.blocks:
        spec = block.layer.spec
        start = getattr(spec.options, "start", None)
        if start is not None:
            if block.has_bias:
                block.bias(theta)[...] = start[block.out[0] : block.out[1]]
            continue
        fan_in = math.prod(spec.weight_shape[1:])
        block.weight(theta)[...] = drawn_rows(block, [seed, spec.key], 0, math.sqrt(gain(spec.drawn_for) / fan_in))
    return theta


def drawn_rows(block: Block, key: list[int], draw: int, deviation: float) -> Array:
    """Normal numbers for a block's W, by (key, draw, output row): a rank draws just its rows, whole ones."""
    shape = block.weight_shape
    rows = np.empty((block.shape[0], *shape[1:]))
    for i in range(block.shape[0]):
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, draw, block.out[0] + i, 0]))
        rows[i] = generator.normal(0.0, deviation, size=shape[1:])
    return block.from_file_order(rows[:, block.inputs[0] : block.inputs[1]])
