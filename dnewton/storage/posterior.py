"""The Gaussian posterior of a net's weights, in memory as one rank has it, and in model files (docs/model_format.md).

A group of weights has the covariance Vᵀ diag(d) V + o (I - VᵀV) with orthonormal rows V; weights of different groups
are taken for independent. Every rank holds the columns of V that belong to its blocks; the file has them by the numbers
of the weights in the sequence of all tensors, so that any other layout finds its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.errors import UserError
from dnewton.grid import runs
from dnewton.model.network import Network
from dnewton.storage.tensor_file import FURTHER, opened, shapes_of
from dnewton.storage.tensors import Contents
from dnewton.storage.whole_tensors import cut

Values = np.ndarray[Any, Any]

ENTRY = "error_bars"  # of the header, and what the tensors' names begin with
BLOCK = 32 << 20  # bytes of a basis that are read at a time


@dataclass(frozen=True)
class Group:
    """Weights whose uncertainties are correlated. Float64, on the host."""

    basis: Values  # V, (r, columns of this rank)
    places: Values  # of these columns in this rank's θ
    variances: Values  # d, (r,)
    outside: float  # o; 0 where V is square
    others: Values  # columns of V of numbers that are no weights of this net, the same on all ranks: unknown parameters
    others_numbers: Values  # of these, in the sequence of all tensors


@dataclass(frozen=True)
class Posterior:
    """The posterior on this rank, with the same groups on all ranks."""

    groups: tuple[Group, ...]
    noise: float  # variance of a target about the net's outputs, in the units of the loss
    determined: float  # number of parameters that the data determine

    def deviations(self, first: int, count: int) -> Values:
        """The standard deviations of some numbers beyond the net's weights, from their number in the sequence of all
        tensors on."""
        found = np.full(count, np.nan)
        for group in self.groups:
            columns = np.flatnonzero((group.others_numbers >= first) & (group.others_numbers < first + count))
            v = group.others[:, columns]
            squares = (group.variances @ v**2) + group.outside * np.maximum(1 - np.sum(v**2, axis=0), 0)
            found[group.others_numbers[columns] - first] = np.sqrt(squares)
        return found

    def header(self) -> dict[str, str]:
        """The header's entry."""
        about = {
            "groups": [{"outside": group.outside} for group in self.groups],
            "noise": self.noise,
            "determined": self.determined,
        }
        return {ENTRY: json.dumps(about)}


@dataclass(frozen=True)
class WholePosterior:
    """The same with all columns, whole on one rank or on all; `shapes` are those of the tensors everywhere."""

    shapes: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, Values]  # empty on other ranks


def of_net(tensors: Mapping[str, Values], header: Mapping[str, str], network: Network) -> Posterior | None:
    """This rank's columns, from whole tensors; None where the header names none. Raises UserError."""

    def columns(name: str, chosen: Values) -> Values:
        return np.ascontiguousarray(tensors[name][:, chosen])

    return _of_net("model", header, network, tensors, columns) if ENTRY in header else None


def count_of(network: Network) -> int:
    """Weights and biases of the net, over all ranks."""
    return sum(math.prod(shape) for shape in shapes_of([layer.spec for layer in network.plan.layers]).values())


def numbers_of(network: Network) -> Values:
    """For every entry of this rank's θ, the number of its weight in the sequence of all tensors, each in C order."""
    start, whole = 0, {}
    for name, shape in shapes_of([layer.spec for layer in network.plan.layers]).items():
        size = math.prod(shape)
        whole[name] = np.arange(start, start + size, dtype=np.float64).reshape(shape)
        start += size
    return np.asarray(cut(network, whole, "float64")).astype(np.int64)


def gathered(posterior: Posterior, network: Network) -> WholePosterior:
    """All columns on rank 0, in the order of the weights' numbers. Collective over the ranks of the network."""
    comm, own = network.comm, numbers_of(network)
    shapes: dict[str, tuple[int, ...]] = {}
    tensors: dict[str, Values] = {}
    for g, group in enumerate(posterior.groups):
        numbers = own[group.places]
        every = np.sort(np.concatenate([comm.concatenate(numbers), group.others_numbers]))
        whole = np.zeros((len(group.variances), len(every)))
        whole[:, np.searchsorted(every, numbers)] = group.basis
        if comm.rank == 0:
            whole[:, np.searchsorted(every, group.others_numbers)] = group.others
        whole = comm.reduce(whole, 0)
        made = {"basis": whole, "variances": group.variances, "weights": every.astype(np.float64)}
        for name, tensor in made.items():
            shapes[f"{ENTRY}.{g}.{name}"] = tuple(tensor.shape)
            if comm.rank == 0:
                tensors[f"{ENTRY}.{g}.{name}"] = tensor
    return WholePosterior(shapes, tensors)


def contents(plain: Contents, posterior: Posterior, network: Network, writes: bool = True) -> Contents:
    """A model's contents with its posterior, which rank 0 of the network writes if it `writes`. Collective over the
    ranks of the network."""
    whole = gathered(posterior, network)
    metadata = {**plain.metadata, **posterior.header()}
    return replace(plain, metadata=metadata, shapes=whole.shapes, whole=whole.tensors if writes else {}, wide=True)


def shared(whole: WholePosterior | None, comm: Comm) -> WholePosterior:
    """What rank 0 has, on all ranks. Collective over `comm`."""
    told = "" if whole is None else json.dumps({name: list(shape) for name, shape in whole.shapes.items()})
    shapes = {name: tuple(shape) for name, shape in json.loads(comm.text_from_root(told)).items()}
    held = whole.tensors if whole is not None and comm.rank == 0 else {}
    tensors = {name: comm.bcast(held.get(name, np.zeros(shape))) for name, shape in shapes.items()}
    return WholePosterior(shapes, tensors)


def read(path: str, header: Mapping[str, str], network: Network) -> Posterior | None:
    """This rank's columns of a model file's posterior; None where it has none. Raises UserError."""
    if ENTRY not in header:
        return None
    with opened(path) as file:
        names = set(file.keys())

        class Held(dict[str, Values]):
            def __missing__(self, name: str) -> Values:
                if FURTHER + name not in names:
                    raise UserError(f"{path}: has no tensor {FURTHER}{name}, which its header speaks of")
                return np.asarray(file.get_tensor(FURTHER + name))

        def columns(name: str, chosen: Values) -> Values:
            if FURTHER + name not in names:
                raise UserError(f"{path}: has no tensor {FURTHER}{name}, which its header speaks of")
            part = file.get_slice(FURTHER + name)
            rows, width = part.get_shape()
            out = np.empty((rows, len(chosen)))
            for some in runs(rows, max(1, BLOCK // (8 * max(1, width)))):
                out[some] = part[some.start : some.stop][:, chosen]
            return out

        return _of_net(path, header, network, Held(), columns)


def _of_net(
    path: str,
    header: Mapping[str, str],
    network: Network,
    tensors: Mapping[str, Values],
    columns: Callable[[str, Values], Values],
) -> Posterior:
    """This rank's columns of the groups that a header names. Raises UserError where they do not fit."""
    own = numbers_of(network)
    order, total = np.argsort(own), count_of(network)
    groups = []
    try:
        about = json.loads(header[ENTRY])
        for g, entry in enumerate(about["groups"]):
            name = f"{ENTRY}.{g}."
            weights = tensors[name + "weights"].astype(np.int64)
            chosen = np.flatnonzero(np.isin(weights, own))
            beyond = np.flatnonzero(weights >= total)
            basis, variances = columns(name + "basis", chosen), tensors[name + "variances"]
            if basis.shape != (len(variances), len(chosen)) or not np.isfinite(variances).all():
                raise ValueError("shape")
            places = order[np.searchsorted(own, weights[chosen], sorter=order)]
            others = columns(name + "basis", beyond)
            groups.append(Group(basis, places, np.asarray(variances), float(entry["outside"]), others, weights[beyond]))
        return Posterior(tuple(groups), float(about["noise"]), float(about["determined"]))
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(f"{path}: its error bars are damaged; train again with output.error_bars") from None
