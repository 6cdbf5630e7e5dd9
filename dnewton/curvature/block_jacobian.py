"""J of one weight block on samples of S: as D and φ, or as rows contracted over positions.

Row (i, k) is Σ_q D[i,k,q,O] ⊗ φ[i,q,I] (Wang et al. 2018, equations 16-20).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dnewton.arrays.namespace import Array, empty, namespace, nbytes, zeros
from dnewton.curvature.output_jacobian import OutputJacobian
from dnewton.curvature.sample_store import ALL, SampleStore
from dnewton.model.block import Block


def _times(phi: SampleStore, w: Array) -> Array:
    """φ w for w (I, O): (S, Q, O)."""
    xp = namespace(w)
    (s, q, i) = phi.shape
    o = w.shape[1]
    if phi.array is not None:
        return xp.reshape(xp.reshape(phi.array, (s * q, i)) @ w, (s, q, o))
    out = empty((s, q, o), w)
    for here, part in phi.pieces():
        out[here, ...] = xp.reshape(xp.reshape(part, (part.shape[0] * q, i)) @ w, (part.shape[0], q, o))
    return out


def _transposed_times(e: Array, phi: SampleStore) -> Array:
    """Σ over samples and positions of e ⊗ φ for e (S, Q, O): (O, I)."""
    xp = namespace(e)
    (_, q, i) = phi.shape
    o = e.shape[2]
    total = None
    for here, part in phi.pieces():
        n = part.shape[0] * q
        partial = xp.reshape(e[here, ...], (n, o)).T @ xp.reshape(part, (n, i))
        total = partial if total is None else total + partial
    return zeros((o, i), e) if total is None else total


class BlockJacobian(Protocol):
    """J of one weight block on one batch of S."""

    @property
    def block(self) -> Block:
        """The weight block."""
        ...

    def times(self, v: Array) -> Array:
        """J v for a vector laid out like θ, (S, K)."""
        ...

    def add_transposed(self, w: Array, out: Array) -> None:
        """out += Jᵀ w, on this block's span of a vector laid out like θ."""
        ...

    def begin(self, v: Array) -> Array:
        """What a product J v needs of v before it is taken for some samples at a time by :meth:`part_times`."""
        ...

    def part_times(self, begun: Array, part: slice) -> Array:
        """J v for the samples of a slice, (n, K)."""
        ...

    def part_transposed(self, w: Array, part: slice, begun: Array, out: Array) -> None:
        """Take in Jᵀ w of the samples of a slice, after their :meth:`part_times`; :meth:`end` adds it to `out`."""
        ...

    def end(self, begun: Array, out: Array) -> None:
        """out += Jᵀ w for all that was taken in."""
        ...

    def gram_times(self, y: Array) -> Array:
        """J Jᵀ y, (S, K) to (S, K)."""
        ...

    def gram(self) -> Array:
        """J Jᵀ as a matrix, (S·K, S·K)."""
        ...

    def as_rows(self, part: slice = ALL) -> Array:
        """J on the samples of a slice, whose step may be more than one, as a matrix, (n·K, variables)."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


@dataclass
class Factored:
    """J as D and φ: one matrix product with φ over all samples, one contraction with D."""

    block: Block
    phi: SampleStore  # (S, Q, I)
    d: OutputJacobian
    inputs_gram: Array | None = None  # φφᵀ (S, S), with one added for a bias; dense layers only

    def times(self, v: Array) -> Array:
        return self.d.contract(self.begin(v))

    def add_transposed(self, w: Array, out: Array) -> None:
        self.end(self.d.expand(w), out)

    def begin(self, v: Array) -> Array:
        """φ Vᵀ, (S, Q, O)."""
        products = _times(self.phi, self.block.weight(v).T)
        if self.block.has_bias:
            products += self.block.bias(v)
        return products

    def part_times(self, begun: Array, part: slice) -> Array:
        return self.d.contract(begun[part, ...], part)

    def part_transposed(self, w: Array, part: slice, begun: Array, out: Array) -> None:
        begun[part, ...] = self.d.expand(w, part)  # nobody needs φ Vᵀ of these samples any more

    def end(self, begun: Array, out: Array) -> None:
        self.block.add(out, _transposed_times(begun, self.phi), begun)

    def make_inputs_gram(self) -> None:
        """Form φφᵀ, so that J Jᵀ y of a dense layer costs 2 S² O operations instead of 4 S O I."""
        if self.inputs_gram is None:
            flat = self.phi.part()[:, 0, :]
            self.inputs_gram = flat @ flat.T + (1 if self.block.has_bias else 0)

    def gram_times(self, y: Array) -> Array:
        xp, e = namespace(y), self.d.expand(y)
        if self.inputs_gram is not None:
            return self.d.contract((self.inputs_gram @ e[:, 0, :])[:, None, :])
        t = _times(self.phi, _transposed_times(e, self.phi).T)
        if self.block.has_bias:
            t += xp.sum(e, axis=(0, 1))
        return self.d.contract(t)

    def gram(self) -> Array:
        """For a dense layer the elementwise product of the Gram matrices of φ and D; else by the rows."""
        xp = namespace(self.phi.like)
        (s, q, _) = self.phi.shape
        if q > 1:
            rows = self.as_rows()
            return rows @ rows.T
        d = self.d.dense(s)
        k, o = d.shape[1], d.shape[3]
        self.make_inputs_gram()
        flat = xp.reshape(d, (s * k, o))
        gram = xp.reshape(flat @ flat.T, (s, k, s, k)) * self.inputs_gram[:, None, :, None]  # type: ignore[index]
        return xp.reshape(gram, (s * k, s * k))

    def as_rows(self, part: slice = ALL) -> Array:
        xp = namespace(self.phi.like)
        phi = self.phi.part(part)
        o = self.block.shape[0]
        s = phi.shape[0]
        d = self.d.dense(s, part)  # (n, K, Q, O)
        k = d.shape[1]
        weights = xp.matmul(xp.permute_dims(d, (0, 1, 3, 2)), phi[:, None, ...])  # (n, K, O, I)
        rows = xp.reshape(weights, (s * k, o * self.phi.shape[2]))
        if self.block.has_bias:
            rows = xp.concat([rows, xp.reshape(xp.sum(d, axis=2), (s * k, o))], axis=1)
        return rows

    @property
    def nbytes(self) -> int:
        return self.phi.nbytes + nbytes(self.inputs_gram) + self.d.nbytes


@dataclass(frozen=True)
class Rows:
    """J as its rows, contracted over positions: far smaller than D and φ for convolutions on large images."""

    block: Block
    rows: SampleStore  # (S·K, |O|·|I| [+ |O|]), laid out like the block's span of θ
    outputs: int

    def times(self, v: Array) -> Array:
        parts = [rows @ v[self.block.span] for _, rows in self.rows.pieces()]
        u = parts[0] if len(parts) == 1 else namespace(v).concat(parts)
        return namespace(v).reshape(u, (self.rows.shape[0] // self.outputs, self.outputs))

    def add_transposed(self, w: Array, out: Array) -> None:
        flat = namespace(w).reshape(w, (w.shape[0] * self.outputs,))
        here = out[self.block.span]
        for some, rows in self.rows.pieces():
            here += flat[some] @ rows

    def gram_times(self, y: Array) -> Array:
        back = zeros((self.rows.shape[1],), y)
        for some, rows in self.rows.pieces():
            back += namespace(y).reshape(y, (y.shape[0] * self.outputs,))[some] @ rows
        parts = [rows @ back for _, rows in self.rows.pieces()]
        return namespace(y).reshape(parts[0] if len(parts) == 1 else namespace(y).concat(parts), y.shape)

    def gram(self) -> Array:
        if (whole := self.rows.array) is not None:
            return whole @ whole.T
        out = empty((self.rows.shape[0], self.rows.shape[0]), self.rows.like)
        for here, left in self.rows.pieces():
            for there, right in self.rows.pieces():
                out[here, there] = left @ right.T
        return out

    def as_rows(self, part: slice = ALL) -> Array:
        if part == ALL:
            return self.rows.part()
        if part.step in (None, 1):
            return self._some(part)
        chosen = [self._some(slice(i, i + 1)) for i in range(self.rows.shape[0] // self.outputs)[part]]
        return namespace(chosen[0]).concat(chosen)

    def begin(self, v: Array) -> Array:
        return v[self.block.span]

    def part_times(self, begun: Array, part: slice) -> Array:
        u = self._some(part) @ begun
        return namespace(u).reshape(u, (part.stop - part.start, self.outputs))

    def part_transposed(self, w: Array, part: slice, begun: Array, out: Array) -> None:
        out[self.block.span] += namespace(w).reshape(w, ((part.stop - part.start) * self.outputs,)) @ self._some(part)

    def end(self, begun: Array, out: Array) -> None:
        return

    def _some(self, part: slice) -> Array:
        return self.rows.part(slice(part.start * self.outputs, part.stop * self.outputs))

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes
