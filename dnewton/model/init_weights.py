"""The random numbers that weights start from: a row is the same whatever the layout, and drawn on the host."""

from __future__ import annotations

import math

import numpy as np

from dnewton.arrays.namespace import Array
from dnewton.model.network import Block, Network


def weights(network: Network, seed: int, dtype: str) -> Array:
    """θ drawn by (seed, layer, output row): normal weights of variance 2/fan-in before relu and softplus
    (He et al. 2015), 1/fan-in otherwise; zero biases."""
    theta = np.zeros(network.size, dtype=dtype)
    for block in network.blocks:
        shape = block.layer.shape
        fan_in = math.prod(shape.weight_shape[1:])
        gain = 2.0 if shape.activation in ("relu", "softplus") else 1.0
        block.weight(theta)[...] = drawn_rows(block, [seed, shape.index], 0, math.sqrt(gain / fan_in))
    return theta


def drawn_rows(block: Block, key: list[int], draw: int, deviation: float) -> Array:
    """Normal numbers for a block's W, by (key, draw, output row): a rank draws just its rows, whole ones."""
    shape = block.layer.shape.weight_shape
    rows = np.empty((block.shape[0], *shape[1:]))
    for i in range(block.shape[0]):
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, draw, block.out[0] + i, 0]))
        rows[i] = generator.normal(0.0, deviation, size=shape[1:])
    return block.from_file_order(rows[:, block.inputs[0] : block.inputs[1]])
