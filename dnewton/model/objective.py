"""f, ∇f and the train metrics over batches of samples, with forward passes kept for the passes that follow.

f(θ) = ‖θ‖²/(2C) + (1/l) Σ ξ(z; y). Batches are cut so that the subsample S of the next Jacobian is whole batches, which
come last and are always kept; earlier ones are kept while they fit the memory limit and recomputed beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, dot, itemsize, namespace, take, to_device
from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import Loss
from dnewton.data.samples import Samples
from dnewton.data.sampling import Cycle, Draws, Indices, in_batches, joined, rest_of, run
from dnewton.model.network import Network, Tape


@dataclass
class Batch:
    """A batch's sample numbers, and its forward pass where it was kept."""

    indices: Indices
    tape: Tape | None = None


@dataclass
class Evaluation:
    """f at one point, and what its forward passes left."""

    value: float
    metric: float
    batches: list[Batch]
    subsample: list[Batch]
    samples: int

    def forget(self) -> None:
        """Let the forward passes go: the point is left."""
        for batch in (*self.batches, *self.subsample):
            batch.tape = None


class Objective:
    """The objective on this rank."""

    def __init__(
        self,
        network: Network,
        comm: Comm,
        data: Samples,
        loss: Loss,
        metric: Callable[[Array, Array], float],
        regulariser: float,
        batch_size: int,
        memory: float,
    ) -> None:
        """`metric` gives a batch's sum of the train metric; `memory` bounds the bytes of kept forward passes."""
        self.network = network
        self.comm = comm
        self.data = data
        self.loss = loss
        self.regulariser = regulariser
        self._metric = metric
        self._batch_size = batch_size
        self._memory = memory

    @property
    def replicas(self) -> int:
        """That share the samples."""
        return 1

    def share(self, indices: Indices) -> Indices:
        """The samples of these that this replica evaluates: all, unless there are several replicas."""
        return indices

    def totals(self, squares: float, loss: float, metric: float) -> list[float]:
        """‖θ‖² over the ranks, Σ ξ and the metric's sum as rank 0 has them. Collective over the world."""
        root = self.comm.rank == 0
        return self.comm.sum_scalars([squares, loss if root else 0.0, metric if root else 0.0])

    def summed(self, gradient: Array) -> Array:
        """Σ ∇ξ over the replicas."""
        return gradient

    def subsamples(self, size: int, seed: int, purpose: int) -> Draws:
        """What draws the samples of the curvature, all where `size` is their number."""
        return Cycle(self.data.count, size, seed, purpose)

    def of_curvature(self, batches: Sequence[Batch]) -> tuple[Loss, Array]:
        """The loss and the targets of a subsample, of which the curvature is the mean."""
        parts = [take(self.data.y, batch.indices) for batch in batches]
        return self.loss, namespace(parts[0]).concat(parts)

    def others(self, indices: Indices) -> Indices:
        """The samples that are not in `indices`."""
        return rest_of(self.data.count, indices)

    def batches(self, indices: Indices) -> list[Batch]:
        """Sample numbers cut into batches."""
        return [Batch(part) for part in in_batches(indices, self._batch_size)]

    def evaluate(self, theta: Array, rest: Indices, subsample: Indices) -> Evaluation:
        """f over the samples of `rest` and `subsample`, keeping the forward passes that fit.

        All in one batch where they fit in one. Every rank gets rank 0's value, bit for bit. Collective over the world.
        """
        samples = len(rest) + len(subsample)
        rest, subsample = self.share(rest), self.share(subsample)
        at_once = len(rest) + len(subsample) <= self._batch_size
        first = self.batches(joined(rest, subsample) if at_once else rest)
        last = [] if at_once else self.batches(subsample)
        total = metric = 0.0
        budget = self._memory
        per_sample = self.network.plan.kept_numbers() * itemsize(theta)
        columns = self.data.batches([b.indices for b in first + last])
        for batch, always in [(b, at_once) for b in first] + [(b, True) for b in last]:
            self.comm.stops.safe_point()
            keep = always or budget > 0  # alike on all ranks
            tape = self.network.forward(theta, to_device(next(columns), theta), keep)
            y = take(self.data.y, batch.indices)
            total += self.loss.value(tape.z, y)
            metric += self._metric(tape.z, y)
            budget -= len(batch.indices) * per_sample
            if always or (tape.inputs and budget >= 0):
                batch.tape = tape
        squares, total, metric = self.totals(dot(theta, theta), total, metric)
        value = 0.5 * self.regulariser * squares + total / samples
        if at_once and len(subsample):
            assert first[0].tape is not None
            tail = Batch(subsample, first[0].tape.part(slice(len(rest), None)))
            return Evaluation(value, metric, first, [tail], samples)
        return Evaluation(value, metric, first + last, last, samples)

    def forward(self, theta: Array, indices: Indices, keep: bool) -> Tape:
        """The forward pass of some samples. Collective over the world."""
        return self.network.forward(theta, to_device(next(self.data.batches([indices])), theta), keep)

    def cure(self, at: Evaluation) -> str:
        """What may help where f is not finite at the starting point."""
        return "scale the data or the weights"

    def renew(self, iteration: int) -> bool:
        """Whether the samples have been replaced by those of an iteration."""
        return False

    def outputs(self, theta: Array, batches: Sequence[Batch]) -> Array:
        """z^L (N, K) of some batches. Collective over the world."""
        passes = [self.forward(theta, batch.indices, keep=False).z for batch in batches]
        return passes[0] if len(passes) == 1 else namespace(theta).concat(passes)

    def value(self, theta: Array) -> tuple[float, float]:
        """f over all samples, and the metric's sum; nothing is kept. Collective over the world."""
        loss, metric = self.accumulate(theta, self.share(run(0, self.data.count)), None)
        squares, loss, metric = self.totals(dot(theta, theta), loss, metric)
        return 0.5 * self.regulariser * squares + loss / self.data.count, metric

    def gradient(self, theta: Array, at: Evaluation) -> Array:
        """∇f on this rank's blocks, at the point and over the samples of an evaluation; releases the kept passes
        except those of the subsample. Collective over the world."""
        grad = namespace(theta).zeros_like(theta)
        columns = self.data.batches([b.indices for b in at.batches if b.tape is None])
        for batch in at.batches:
            self.comm.stops.safe_point()
            tape = batch.tape or self.network.forward(theta, to_device(next(columns), theta))
            cot = self.loss.gradient(tape.z, take(self.data.y, batch.indices)) / at.samples
            self.network.gradient(theta, tape, cot, grad)
            if not any(batch is s for s in at.subsample):
                batch.tape = None
        grad = self.summed(grad)
        grad += self.regulariser * theta
        return grad

    def accumulate(
        self, theta: Array, indices: Indices, gradient: Array | None, data: Samples | None = None
    ) -> tuple[float, float]:
        """Σ ξ and the metric's sum over some samples (to be taken from rank 0); adds Σ ∇ξ to `gradient` if given.

        Collective over the world.
        """
        data = data or self.data
        loss = metric = 0.0
        batches = in_batches(indices, self._batch_size)
        for part, x in zip(batches, data.batches(batches), strict=True):
            self.comm.stops.safe_point()
            tape = self.network.forward(theta, to_device(x, theta), keep=gradient is not None)
            y = take(data.y, part)
            loss += self.loss.value(tape.z, y)
            metric += self._metric(tape.z, y)
            if gradient is not None:
                self.network.gradient(theta, tape, self.loss.gradient(tape.z, y), gradient)
        return loss, metric
