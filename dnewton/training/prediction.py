"""What a trained net says of new samples: outputs, and from them labels, values and probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dnewton.arrays.namespace import to_device, to_host
from dnewton.comm.communicator import Comm
from dnewton.config.schema import NetSection
from dnewton.curvature.laplace import output_covariances
from dnewton.data.samples import Samples
from dnewton.data.sampling import in_batches
from dnewton.data.sources import Values
from dnewton.data.targets import Targets
from dnewton.errors import UserError
from dnewton.model.network import Network
from dnewton.planning import grid_search
from dnewton.planning.net_plan import NetPlan, infer_shapes
from dnewton.storage.posterior import Posterior

BATCH = 1024  # samples at a time
AT_ONCE = 64 << 20  # bytes of Jacobians at a time


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


@dataclass(frozen=True)
class Uncertain:
    """Outputs (N, K) and the covariances of their uncertainty (N, K, K), in the units of the loss."""

    z: Values
    covariances: Values


def uncertain(
    network: Network,
    theta: Values,
    samples: Samples,
    posterior: Posterior,
    told: Callable[[Uncertain], tuple[Values, Values]],
    batch_size: int = BATCH,
) -> tuple[Values, Values, Values]:
    """The outputs z (N, K) of all samples, and what `told` makes of them and their covariances, batch by batch.

    Collective over the ranks of the network; `told` may raise UserError, alike on all of them.
    """
    outputs = network.plan.outputs
    ranks = max(len(group.variances) for group in posterior.groups)
    numbers = outputs * (3 * network.comm.minmax(float(len(theta)))[1] + 2 * ranks)
    at_once = max(1, min(batch_size, int(AT_ONCE // (8 * numbers))))
    batches = samples.batches(in_batches(np.arange(samples.count), at_once))
    found: list[tuple[Values, Values, Values]] = []
    for x in batches:
        z, covariances = output_covariances(network, theta, np.asarray(x, dtype=np.float64), posterior)
        found.append((z, *told(Uncertain(z, covariances))))
    z, mean, deviation = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return z, mean, deviation


def with_deviations(
    net: NetSection, targets: Targets, found: Uncertain, noise: float, observed: bool = True
) -> tuple[Values, Values]:
    """What is predicted and its standard deviation: values (N, K) in the targets' units, with the noise of a target if
    it is `observed`; or probabilities (N, classes) that allow for the uncertainty, as :func:`probabilities` has them.

    Raises UserError where a net of classes has no probabilities.
    """
    z, variances = found.z, np.maximum(np.diagonal(found.covariances, axis1=1, axis2=2), 0)
    if targets.real:
        mean = net.loss.mean(z)
        total = variances * net.loss.mean_slope(z) ** 2
        if observed:
            total = total + net.loss.scatter(mean) + noise
        return targets.decode(mean), np.sqrt(total) * targets.spread
    if targets.sets or targets.outputs == 1:
        p = probabilities(net, targets, z / np.sqrt(1 + np.pi / 8 * variances))
        slopes = p * (1 - p) * np.sqrt(variances)
        return p, np.minimum(slopes, np.sqrt(p * (1 - p)))
    probabilities(net, targets, z)
    assert targets.classes is not None
    known = len(targets.classes)
    z, c = z[:, :known], found.covariances[:, :known, :known]
    v = np.diagonal(c, axis1=1, axis2=2)
    between = np.maximum(v[:, :, None] + v[:, None, :] - 2 * c, 0)  # variances of z_k - z_j
    with np.errstate(over="ignore"):
        odds = np.exp((z[:, None, :] - z[:, :, None]) / np.sqrt(1 + np.pi / 8 * between))
    p = 1 / np.sum(odds, axis=2)
    p /= np.sum(p, axis=1, keepdims=True)
    slope = p[:, :, None] * (np.eye(known) - p[:, None, :])
    squares = np.einsum("nki,nij,nkj->nk", slope, c, slope)
    return p, np.sqrt(np.minimum(np.maximum(squares, 0), p * (1 - p)))


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
