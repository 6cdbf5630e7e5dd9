"""What a finished run says of its model: how good it is on every part of the data, and beside no model at all."""

from __future__ import annotations

import numpy as np

from dnewton.arrays.namespace import Array, namespace, to_device, to_host
from dnewton.data.samples import Samples
from dnewton.data.sampling import in_batches, run
from dnewton.data.scale_check import baseline
from dnewton.grid import cut
from dnewton.training.job import Job
from dnewton.training.scores import share_text

BATCH = 1024  # samples at a time


def closing_lines(job: Job, theta: Array) -> list[str]:
    """A line for each part of the data: the metric at θ, what it is without looking at features, R² and the largest
    error of a regression. Collective over the workers."""
    parts = {"train": job.objective.data, **job.others}
    return [_line(name, job, theta, samples) for name, samples in parts.items()]


def _line(name: str, job: Job, theta: Array, samples: Samples) -> str:
    targets = job.targets
    weights = None if samples.weights is None else np.asarray(to_host(samples.weights))
    alone = baseline(np.asarray(to_host(samples.targets)), targets, weights)
    total, largest = _summed(job, theta, samples)
    value = targets.metric_value(total, samples.count)
    if not targets.real:
        what = "the more frequent value of each label" if targets.sets else "the most frequent class"
        return f"{name}: accuracy {value:.6g} (by {what} alone {alone:.6g})"
    fit = f", R² {share_text(1 - (value / alone) ** 2)}" if alone > 0 else ""
    return f"{name}: rmse {value:.4g} (by the mean alone {alone:.4g}){fit}, largest error {largest:.4g}"


def _summed(job: Job, theta: Array, samples: Samples) -> tuple[float, float]:
    """The metric's sum, and the largest error of any real target in its units; every replica takes its share."""
    replicas = job.groups.layout.replicas
    lo, hi = cut(samples.count, replicas, job.groups.replica)
    batches = in_batches(run(lo, hi), min(BATCH, job.strategy.batch))  # as many as memory was planned for
    metric = largest = 0.0
    measure = job.targets.metric_sum(job.config.net.loss, weighted=samples.total is not None)
    for part, x in zip(batches, samples.batches(batches), strict=True):
        z = job.network.forward(theta, to_device(x, theta), keep=False).z
        xp = namespace(z)
        y = samples.y[part[0] : part[-1] + 1, :]
        metric += measure(z, y)
        if job.targets.real:
            wanted = xp.astype(y[:, : z.shape[1]], xp.float64)
            d = xp.abs(job.config.net.loss.mean(xp.astype(z, xp.float64)) - wanted)
            largest = max(largest, float(xp.max(d * to_device(job.targets.spread, d))))
    if replicas > 1:
        metric = job.comm.sum_scalars([metric if job.network.comm.rank == 0 else 0.0])[0]
        largest = job.comm.minmax(largest)[1]
    return metric, largest
