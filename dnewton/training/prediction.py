"""What a trained net says of new samples: outputs, and from them labels, values and probabilities."""

from __future__ import annotations

import numpy as np

from dnewton.arrays.namespace import to_device, to_host
from dnewton.comm.communicator import Comm
from dnewton.config.schema import NetSection
from dnewton.data.samples import Samples
from dnewton.data.sampling import in_batches
from dnewton.data.sources import Values
from dnewton.data.targets import Targets
from dnewton.errors import UserError
from dnewton.model.network import Network
from dnewton.planning import grid_search
from dnewton.planning.net_plan import NetPlan, infer_shapes

BATCH = 1024  # samples at a time


def plan_for(net: NetSection, comm: Comm, samples: int, memory: float, dtype: str, batch: int, source: str) -> NetPlan:
    """The layout in which the ranks predict. Raises UserError."""
    shapes = infer_shapes(net, source)
    work = grid_search.Workload(samples, 1, shapes[-1].out_shape[0], batch, np.dtype(dtype).itemsize, cg=0)
    machine = grid_search.Machine.shared(comm.least_cores)
    return grid_search.choose(shapes, comm.size, work, memory=memory, machine=machine)


def outputs(network: Network, theta: Values, samples: Samples, batch_size: int = BATCH) -> Values:
    """z^L of all samples (N, K), float64. Collective over the ranks of the network."""
    batches = in_batches(np.arange(samples.count), batch_size)
    passes = (network.forward(theta, to_device(x, theta), keep=False) for x in samples.batches(batches))
    return np.concatenate([to_host(tape.z).astype(np.float64) for tape in passes])


def predicted(net: NetSection, targets: Targets, z: Values) -> Values:
    """Labels (N,), or values (N, K) in the targets' units, of outputs (N, K)."""
    return targets.decode(net.loss.mean(z))


def probabilities(net: NetSection, targets: Targets, z: Values) -> Values:
    """Of every known class (N, classes), in the order of `targets.classes`, or of every label of a set (N, K).

    Raises UserError where there are none.
    """
    if targets.real:
        raise UserError("probabilities are for classes; this model gives values")
    known = z if targets.outputs == 1 or targets.classes is None else z[:, : len(targets.classes)]
    p = net.loss.probabilities(known)
    if p is None:
        raise UserError("this model's loss gives no probabilities; cross_entropy and logistic do")
    return np.asarray(p)
