"""What a parameter server does with a push, and what a worker that pulls gets: the base of the methods' rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from dnewton.arrays.namespace import Array


@dataclass
class Shard:
    """One model rank's slice on one server, with what the method's rule needs."""

    centre: Array
    version: int = 0  # updates taken in
    second: Array | None = None  # velocity (mdownpour), average (adownpour, mvadownpour), mean square (dc_asgd)
    backup: dict[int, Array] = field(default_factory=dict)  # dc_asgd: what each worker was given last
    pulled: dict[int, int] = field(default_factory=dict)  # the version that each worker was given last


class Rule:
    """x̃ += push: the worker has multiplied by α, or by -η. Other methods override :meth:`apply` and :meth:`given`."""

    averaged = False  # whether the point that counts is an average of the centres
    extra = 0  # numbers behind a pushed vector
    copies_per_worker = 0  # of a server's slices

    def hand_out(self, shard: Shard, worker: int) -> Array:
        """What a worker that pulls gets."""
        shard.pulled[worker] = shard.version
        return self.given(shard, worker)

    def take_in(self, shard: Shard, worker: int, push: Array) -> int:
        """Apply a push; returns its staleness: updates since the worker's last pull."""
        stale = shard.version - shard.pulled.get(worker, shard.version)
        self.apply(shard, worker, push)
        shard.version += 1
        return stale

    def given(self, shard: Shard, worker: int) -> Array:
        """The point for a worker."""
        return shard.centre

    def apply(self, shard: Shard, worker: int, push: Array) -> None:
        """The update by a push."""
        shard.centre = shard.centre + push
