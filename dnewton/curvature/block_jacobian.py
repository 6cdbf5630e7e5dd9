"""J of one weight block on samples of S: as D and φ, or as rows contracted over positions.

Row (i, k) is Σ_q D[i,k,q,O] ⊗ φ[i,q,I] (Wang et al. 2018, equations 16-20).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from dnewton.arrays.linear_algebra import transposed_product
from dnewton.arrays.namespace import (
    Array,
    block_bytes,
    contiguous,
    empty,
    itemsize,
    namespace,
    nbytes,
    sample_blocks,
    zeros,
)
from dnewton.curvature.gram import GramTerm, SampleMap
from dnewton.curvature.output_jacobian import OutputJacobian
from dnewton.curvature.sample_store import ALL, SampleStore
from dnewton.grid import runs
from dnewton.model.block import Block
from dnewton.planning.costs import ROWS


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
        partial = transposed_product(xp.reshape(e[here, ...], (n, o)), xp.reshape(part, (n, i)))
        total = partial if total is None else total + partial
    return zeros((o, i), e) if total is None else total


def _collected(
    rows: Callable[[slice], Array],
    mapped: SampleMap,
    shape: tuple[int, int, int],
    numbers: int,
    like: Array,
    dtype: str,
) -> Array:
    """The mapped rows of all samples, (S·K, columns), from `rows(part)`, of a size for which the temporaries, `numbers`
    a sample, stay in cache."""
    xp = namespace(like)
    out = empty(shape, like, dtype)
    for part in sample_blocks(shape[0], numbers * itemsize(like), block_bytes(like)):
        some = xp.reshape(rows(part), (part.stop - part.start, *shape[1:]))
        out[part, ...] = xp.astype(mapped(some, part), out.dtype, copy=False)
    return xp.reshape(out, (shape[0] * shape[1], shape[2]))


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

    def gram_terms(self, outputs: int, mapped: SampleMap, dtype: str) -> Iterator[GramTerm]:
        """What A Aᵀ is the sum of, A the rows of J after `mapped`, one at a time, in a precision."""
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
            self.block.add_bias(products, v)
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
        e = self.d.expand(y)
        if self.inputs_gram is not None:
            return self.d.contract((self.inputs_gram @ e[:, 0, :])[:, None, :])
        t = _times(self.phi, _transposed_times(e, self.phi).T)
        if self.block.has_bias:
            here = self.block.at_bias(t)
            here += self.block.bias_sums(e)
        return self.d.contract(t)

    def gram_terms(self, outputs: int, mapped: SampleMap, dtype: str) -> Iterator[GramTerm]:
        """For a dense layer one term of D and φφᵀ; else the rows, of some output channels at a time."""
        xp = namespace(self.phi.like)
        (s, q, i) = self.phi.shape
        o = self.block.shape[0]
        if not o:
            return
        if q == 1:
            d = mapped(self.d.dense(s)[:, :, 0, :], slice(0, s))
            factor = xp.astype(xp.reshape(contiguous(d), (s * outputs, o)), getattr(xp, dtype), copy=False)
            yield GramTerm(factor, self._inputs_gram(dtype), outputs)
            return
        bias = int(self.block.has_bias)
        for channels in runs(o, max(1, ROWS // max(1, s * outputs * (i + bias) * itemsize(self.phi.like)))):
            width = (channels.stop - channels.start) * (i + bias)

            def rows(part: slice, channels: slice = channels) -> Array:
                return self._rows(self.d.dense(part.stop - part.start, part)[..., channels], part)

            temporary = outputs * (q * o + width) + q * i
            yield GramTerm(
                _collected(rows, mapped, (s, outputs, width), temporary, self.phi.like, dtype), None, outputs
            )

    def _inputs_gram(self, dtype: str) -> Array:
        """φφᵀ in a precision; kept in the weights'."""
        xp = namespace(self.phi.like)
        wanted = getattr(xp, dtype)
        if self.phi.like.dtype == wanted:
            self.make_inputs_gram()
            return self.inputs_gram
        flat = xp.astype(self.phi.part()[:, 0, :], wanted)
        return flat @ flat.T + (1 if self.block.has_bias else 0)

    def as_rows(self, part: slice = ALL) -> Array:
        n = self.phi.part(part).shape[0]
        return self._rows(self.d.dense(n, part), part)

    def _rows(self, d: Array, part: slice) -> Array:
        """The rows that belong to some of D's output channels, (n·K, variables of these)."""
        xp = namespace(self.phi.like)
        phi = self.phi.part(part)
        (s, k, _, o) = d.shape
        weights = xp.matmul(xp.permute_dims(d, (0, 1, 3, 2)), phi[:, None, ...])  # (n, K, O, I)
        rows = xp.reshape(weights, (s * k, o * self.phi.shape[2]))
        if self.block.has_bias:
            rows = xp.concat([rows, xp.reshape(xp.sum(self.block.at_bias(d), axis=2), (s * k, o))], axis=1)
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

    def gram_terms(self, outputs: int, mapped: SampleMap, dtype: str) -> Iterator[GramTerm]:
        samples, variables = self.rows.shape[0] // outputs, self.rows.shape[1]
        for columns in runs(variables, max(1, ROWS // max(1, self.rows.shape[0] * itemsize(self.rows.like)))):
            shape = (samples, outputs, columns.stop - columns.start)

            def rows(part: slice, columns: slice = columns) -> Array:
                return self._some(part)[:, columns]

            yield GramTerm(_collected(rows, mapped, shape, outputs * variables, self.rows.like, dtype), None, outputs)

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
