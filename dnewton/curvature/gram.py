"""The Gram matrix A Aᵀ of a Jacobian block's rows, A = F(J) for a map F of every sample's K rows, by block columns.

A dense layer's row (i, k) is D'[i,k] ⊗ φ[i], D' = F(D), so that A Aᵀ = (D' D'ᵀ) ∘ (φφᵀ ⊗ 1 1ᵀ). Other blocks have their
rows themselves. F acts on D or on rows before the products: they are then symmetric, and only the lower triangle is
formed, in tiles that stay in cache between the product, the factor φφᵀ and the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dnewton.arrays.linear_algebra import product
from dnewton.arrays.namespace import Array, empty, namespace, on_cuda
from dnewton.grid import runs

SampleMap = Callable[[Array, slice], Array]  # (n, K, X) of the samples of a slice to the same shape, sample by sample

TILE = 512  # rows and columns of a tile on the host
DEVICE_TILE = 2048


@dataclass(frozen=True)
class GramTerm:
    """(F Fᵀ) ∘ (P ⊗ 1 1ᵀ), 1 1ᵀ of K x K: a part of A Aᵀ."""

    factor: Array  # F, (S·K, m)
    inputs: Array | None  # P, (S, S); None for ones
    outputs: int

    def block(self, rows: slice, columns: slice, room: Array) -> Array:
        """The term's block, perhaps in the memory of `room`; the slices begin and end with a sample."""
        xp = namespace(self.factor)
        part = product(self.factor[rows, :], self.factor[columns, :].T, room)
        if self.inputs is None:
            return part
        k = self.outputs
        samples = self.inputs[rows.start // k : rows.stop // k, columns.start // k : columns.stop // k]
        weights = samples if k == 1 else xp.repeat(samples, k, axis=1)
        shaped = xp.reshape(part, (weights.shape[0], k, weights.shape[1]))
        shaped *= weights[:, None, :]
        return xp.reshape(shaped, part.shape)


@dataclass(frozen=True)
class Panel:
    """Some columns of a symmetric matrix from their first diagonal entry downwards."""

    start: int  # the first row and column
    values: Array  # (n - start, width)

    @property
    def columns(self) -> slice:
        """Where they are in the matrix."""
        return slice(self.start, self.start + self.values.shape[1])


def panel_width(outputs: int, wanted: int) -> int:
    """Columns of a panel, near `wanted`: whole samples, at least one."""
    return outputs * max(1, wanted // outputs)


def tile(like: Array) -> int:
    """Rows and columns of a tile where `like` is."""
    return DEVICE_TILE if on_cuda(like) else TILE


def panels_of(matrix: Array, width: int) -> list[Panel]:
    """Views of a matrix by panels of `width` columns."""
    return [Panel(c.start, matrix[c.start :, c]) for c in runs(int(matrix.shape[0]), width)]


def add_term(term: GramTerm, panels: Sequence[Panel]) -> None:
    """The panels += the term, on the lower triangle and on the tiles on the diagonal."""
    step = panel_width(term.outputs, tile(term.factor))
    widest = max((int(panel.values.shape[1]) for panel in panels), default=0)
    room = empty((step * widest,), term.factor)
    for panel in panels:
        for here in runs(int(panel.values.shape[0]), step):
            rows = slice(panel.start + here.start, panel.start + here.stop)
            part = panel.values[here, :]
            part += term.block(rows, panel.columns, room)


def add_squares(matrix: Array, factor: Array) -> None:
    """The lower triangle of `matrix` += F Fᵀ for F (n, m)."""
    add_term(GramTerm(factor, None, 1), panels_of(matrix, tile(factor)))
