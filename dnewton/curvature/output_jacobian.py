"""D^m[i,k,q,o] = ∂z^L_{i,k}/∂s^m_{i,q,o} of one block on a batch of S, in the form that needs least memory.

The D of the last layer selects outputs, that of the layer before it is W^L times a slope: neither is formed. After
max-pooling, D has at most one non-zero per pooled cell and is kept pooled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dnewton.arrays.namespace import Array, diagonal, namespace, nbytes, zeros
from dnewton.curvature.sample_store import ALL, SampleStore
from dnewton.model.layers.max_pool import MaxIndices


class OutputJacobian(Protocol):
    """D of one block in some form."""

    def contract(self, t: Array, part: slice = ALL) -> Array:
        """Σ_{q,o} D[i,k,q,o] t[i,q,o] for the samples of a slice: (n, Q, O) to (n, K)."""
        ...

    def expand(self, w: Array, part: slice = ALL) -> Array:
        """Σ_k w[i,k] D[i,k,q,o] for the samples of a slice: (n, K) to (n, Q, O)."""
        ...

    def dense(self, samples: int, part: slice = ALL) -> Array:
        """D itself for the `samples` samples of a slice, (n, K, Q, O)."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


@dataclass(frozen=True)
class Selection:
    """The last layer: D is the identity's columns [lo, hi), times the slope of an output activation if there is one."""

    lo: int
    hi: int
    outputs: int
    slope: Array | None  # (S, 1, O)
    like: Array  # any array of the same kind

    def contract(self, t: Array, part: slice = ALL) -> Array:
        u = zeros((t.shape[0], self.outputs), t)
        u[:, self.lo : self.hi] = (t if self.slope is None else t * self.slope[part, ...])[:, 0, :]
        return u

    def expand(self, w: Array, part: slice = ALL) -> Array:
        e = w[:, None, self.lo : self.hi]
        return e if self.slope is None else e * self.slope[part, ...]

    def dense(self, samples: int, part: slice = ALL) -> Array:
        own = self.hi - self.lo
        ones = zeros((self.outputs, own), self.like)
        if own:
            square = ones[self.lo : self.hi, :]
            here = diagonal(square)
            here += 1
        ones = ones[None, :, None, :]
        if self.slope is None:
            return namespace(ones).broadcast_to(ones, (samples, self.outputs, 1, own))
        return ones * self.slope[part, ...][:, None, ...]

    @property
    def nbytes(self) -> int:
        return nbytes(self.slope)


@dataclass(frozen=True)
class Shared:
    """D[i,k,q,o] = A[k,q,o] σ′[i,q,o], A the same for all samples (the layer before the last): D is never formed."""

    outer: Array  # (K, Q·O)
    slope: Array | None  # (S, Q, O)

    def contract(self, t: Array, part: slice = ALL) -> Array:
        t = t if self.slope is None else t * self.slope[part, ...]
        return namespace(t).reshape(t, (t.shape[0], t.shape[1] * t.shape[2])) @ self.outer.T

    def expand(self, w: Array, part: slice = ALL) -> Array:
        e = w @ self.outer
        if self.slope is None:
            return e[:, None, :]
        slope = self.slope[part, ...]
        return namespace(e).reshape(e, slope.shape) * slope

    def dense(self, samples: int, part: slice = ALL) -> Array:
        xp, k = namespace(self.outer), self.outer.shape[0]
        if self.slope is None:
            return xp.broadcast_to(
                xp.reshape(self.outer, (1, k, 1, self.outer.shape[1])), (samples, k, 1, self.outer.shape[1])
            )
        _, q, o = self.slope.shape
        return xp.reshape(self.outer, (1, k, q, o)) * self.slope[part, ...][:, None, ...]

    @property
    def nbytes(self) -> int:
        return nbytes(self.outer, self.slope)


@dataclass(frozen=True)
class PerSample:
    """D stored sample-major, (S, K, Q, O)."""

    d: SampleStore

    def contract(self, t: Array, part: slice = ALL) -> Array:
        if part == ALL and self.d.array is None:
            u = zeros(self.d.shape[:2], t)
            for here, d in self.d.pieces():
                u[here, ...] = self._contract(d, t[here, ...])
            return u
        return self._contract(self.d.part(part), t)

    @staticmethod
    def _contract(d: Array, t: Array) -> Array:
        xp = namespace(t)
        (s, k, q, o) = d.shape
        if k == 1:  # a product of vectors a sample: as small matrices they take several times as long
            return xp.vecdot(xp.reshape(d, (s, q * o)), xp.reshape(t, (s, q * o)))[:, None]
        return xp.matmul(xp.reshape(d, (s, k, q * o)), xp.reshape(t, (s, q * o, 1)))[..., 0]

    def expand(self, w: Array, part: slice = ALL) -> Array:
        if part == ALL and self.d.array is None:
            s, _, q, o = self.d.shape
            e = zeros((s, q, o), w)
            for here, d in self.d.pieces():
                e[here, ...] = self._expand(d, w[here, ...])
            return e
        return self._expand(self.d.part(part), w)

    @staticmethod
    def _expand(d: Array, w: Array) -> Array:
        xp = namespace(w)
        (s, k, q, o) = d.shape
        if k == 1:
            return xp.reshape(w * xp.reshape(d, (s, q * o)), (s, q, o))
        return xp.reshape(xp.matmul(w[:, None, :], xp.reshape(d, (s, k, q * o))), (s, q, o))

    def dense(self, samples: int, part: slice = ALL) -> Array:
        return self.d.part(part)

    @property
    def nbytes(self) -> int:
        return self.d.nbytes


@dataclass(frozen=True)
class Pooled:
    """D after max-pooling: its values at the maxima (S, K, Qp, O); t is gathered there and e scattered back."""

    d: PerSample
    winners: MaxIndices

    def contract(self, t: Array, part: slice = ALL) -> Array:
        return self.d.contract(self.winners.gather(t, part), part)

    def expand(self, w: Array, part: slice = ALL) -> Array:
        return self.winners.scatter(self.d.expand(w, part), part)

    def dense(self, samples: int, part: slice = ALL) -> Array:
        return self.winners.unpool(self.d.d.part(part), part)

    @property
    def nbytes(self) -> int:
        return self.d.nbytes + nbytes(self.winners.code) + self.winners.mask_bytes
