"""A net's weights as whole arrays in PyTorch's names and order, gathered from the ranks' blocks and cut into them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dnewton.arrays.namespace import Array, dtype_name, to_host
from dnewton.errors import UserError
from dnewton.model.network import Network

Whole = dict[str, np.ndarray]


def gathered(network: Network, theta: Array) -> Whole:
    """Every weight and bias, whole, on every rank. Collective over the ranks of the network."""
    theta = to_host(theta)
    tensors: Whole = {}
    blocks = {block.name: block for block in network.blocks}
    for layer in network.plan.parametric():
        shape, name = tuple(layer.spec.weight_shape), layer.spec.name
        weight = np.zeros(shape, dtype=dtype_name(theta))
        bias = np.zeros(shape[:1], dtype=weight.dtype)
        block = blocks[name]
        rows = slice(*block.out)
        if block.weights:
            weight[rows, slice(*block.inputs)] = block.to_file_order(block.weight(theta))
        if block.has_bias and block.shape[0]:
            bias[rows] = block.bias(theta)
        tensors[f"{name}.weight"] = network.comm.allreduce(weight)  # one rank has each number, the others 0
        tensors[f"{name}.bias"] = network.comm.allreduce(bias)
    return tensors


def cut(network: Network, tensors: Mapping[str, np.ndarray], dtype: str) -> Array:
    """This rank's blocks of whole tensors, as a vector like θ. Raises UserError for tensors that do not fit."""
    for layer in network.plan.parametric():
        shape = tuple(layer.spec.weight_shape)
        for name, wanted in ((f"{layer.spec.name}.weight", shape), (f"{layer.spec.name}.bias", shape[:1])):
            if name not in tensors:
                raise UserError(f"init: has no tensor {name}; the net needs it")
            if tuple(np.shape(tensors[name])) != wanted:
                raise UserError(f"init: {name} has shape {list(np.shape(tensors[name]))}, the net needs {list(wanted)}")
            if not np.isfinite(tensors[name]).all():
                raise UserError(f"init: {name} holds NaN or infinity; start from finite weights")
    theta = np.zeros(network.size, dtype=dtype)
    for block in network.blocks:
        rows = slice(*block.out)
        if block.weights:
            part = tensors[f"{block.name}.weight"][rows, slice(*block.inputs)]
            block.weight(theta)[...] = block.from_file_order(part)
        if block.has_bias and block.shape[0]:
            block.bias(theta)[...] = tensors[f"{block.name}.bias"][rows]
    return theta
