"""Whether features and targets have sizes that a net can be trained on; the thresholds are stated in docs/data.md.

Weights are drawn for inputs and outputs of about 1. Only what is far from it is warned of: samples in [0, 1] or
[-1, 1], standardised ones, rare features and nearly constant pixels of images are as they should be.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import LossSection
from dnewton.config.schema import DataSection
from dnewton.data.samples import Samples, Streamed
from dnewton.data.scaling import Statistics, deviation
from dnewton.data.sources import Values
from dnewton.data.targets import Targets

SAMPLES = 2048  # that are looked at
BLOCK_BYTES = 1 << 20  # of them at a time
LARGE = 30.0  # root mean square of a feature
SMALL = 0.01  # deviation of all features, or of a target
WIDE = 100.0  # deviation of a target
SPREAD = 1e3  # ratio of the widest feature's range to the narrowest one's
LISTED = 5  # labels in a line
OFFSET = 10.0  # |mean| of a target over its deviation


class Sizes(NamedTuple):
    """What a rank's columns say; the ranks' figures are put together by their extremes."""

    large: float  # the largest root mean square of a feature
    wide: float  # the largest deviation
    ranges: float  # the largest distance from the mean
    narrow: float  # the smallest one of a feature that is not constant


NOTHING = Sizes(0.0, 0.0, 0.0, math.inf)


def sizes(blocks: Iterator[Values], width: int) -> Sizes:
    """The figures of some samples, (n, width) at a time."""
    statistics = Statistics(width)
    for block in blocks:
        statistics.add(block)
    if not statistics.count or not width:
        return NOTHING
    spread = deviation(statistics.squares, statistics.count, statistics.mean)
    ranges = np.maximum(statistics.high - statistics.mean, statistics.mean - statistics.low)
    moving = ranges[spread > 0]
    size = np.sqrt(statistics.mean**2 + spread**2)
    return Sizes(
        float(size.max()),
        float(spread.max()),
        float(moving.max(initial=0.0)),
        float(moving.min(initial=math.inf)),
    )


def _blocks(samples: Samples) -> Iterator[Values]:
    """Some samples of this rank, flat: evenly spread where they are in memory, else the first ones."""
    width = math.prod(samples.x.window.shape(1) if isinstance(samples.x, Streamed) else samples.x.shape[1:])
    few = min(samples.count, SAMPLES)
    streamed = isinstance(samples.x, Streamed)
    rows = np.arange(few) if streamed else np.arange(few) * samples.count // max(1, few)
    step = max(1, BLOCK_BYTES // (8 * max(1, width)))
    for block in samples.batches([rows[k : k + step] for k in range(0, few, step)]):
        yield block.reshape(len(block), width).astype(np.float64)


def about_features(samples: Samples, width: int, section: DataSection, comm: Comm) -> list[str]:
    """A warning on rank 0 where unscaled features are far from 1 or from each other.

    Collective over the ranks of `comm`.
    """
    if section.scale != "none":
        return []
    ranks = comm.gather_to_root(list(sizes(_blocks(samples), width)))
    large, wide, ranges = (float(v) for v in ranks[:, :3].max(axis=0))
    return features_warning(Sizes(large, wide, ranges, float(ranks[:, 3].min())))


def features_warning(found: Sizes) -> list[str]:
    """The warning that figures of all features give, if any."""
    cure = "data.scale: standardize usually cures it"
    if found.large > LARGE:
        return [f"warning: a feature has a root mean square of {found.large:.3g}, weights are drawn for 1; {cure}"]
    if 0 < found.wide < SMALL:
        return [f"warning: no feature has a standard deviation above {found.wide:.3g}, weights are drawn for 1; {cure}"]
    if found.ranges > SPREAD * found.narrow:
        return [f"warning: some features vary by {found.ranges:.3g}, others by {found.narrow:.3g}; {cure}"]
    return []


def about_targets(y: Values, section: DataSection, loss: LossSection, targets: Targets) -> list[str]:
    """A warning where unscaled real targets (N, K) are far from 1, or vary little beside their mean, and where classes
    have a single sample."""
    if targets.classes is not None:
        return _single_samples(y, targets)
    if not targets.real or targets.counts or loss.targets == "counts" or section.scale_targets != "none":
        return []
    mean = y.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.square(y - mean).mean(axis=0))
    for k in np.flatnonzero(spread > 0):
        what = "the targets have" if len(spread) == 1 else f"target {k} has"
        if abs(mean[k]) > OFFSET * spread[k] or not SMALL <= spread[k] <= WIDE:
            return [
                f"warning: {what} mean {mean[k]:.3g} and standard deviation {spread[k]:.3g}, weights are drawn for 0 "
                "and 1; data.scale_targets: standardize usually cures it"
            ]
    return []


def _single_samples(y: Values, targets: Targets) -> list[str]:
    assert targets.classes is not None
    counts = y.sum(axis=0, dtype=np.float64)
    counts = np.array([len(y) - counts[0], counts[0]]) if targets.outputs == 1 else counts[: len(targets.classes)]
    single = [str(label) for label in targets.classes[np.flatnonzero(counts == 1)]]
    if not single:
        return []
    listed = ", ".join(single[:LISTED]) + (", ..." if len(single) > LISTED else "")
    return [f"warning: {len(single)} class(es) have a single training sample, of which little can be learned: {listed}"]


def baseline(y: Values, targets: Targets, weights: Values | None = None) -> float:
    """The score of a model that knows no features: rmse of the mean target, or accuracy of the most frequent class."""
    if weights is not None:
        return _weighted_baseline(y.astype(np.float64), targets, weights.astype(np.float64))
    mean = y.mean(axis=0, dtype=np.float64)
    if targets.real:
        return float(np.sqrt((np.square(y - mean).mean(axis=0) * targets.spread**2).mean()))
    if targets.outputs == 1 or targets.sets:
        return float(np.maximum(mean, 1 - mean).mean())
    return float(np.bincount(np.argmax(y, axis=1)).max() / len(y))


def _weighted_baseline(y: Values, targets: Targets, weights: Values) -> float:
    mean = np.average(y, axis=0, weights=weights)
    if targets.real:
        return float(np.sqrt((np.average(np.square(y - mean), axis=0, weights=weights) * targets.spread**2).mean()))
    if targets.outputs == 1 or targets.sets:
        return float(np.maximum(mean, 1 - mean).mean())
    return float(np.bincount(np.argmax(y, axis=1), weights).max() / weights.sum())
