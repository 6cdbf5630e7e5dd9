"""A checksum of a matrix that ranks compute from any blocks of it: the blocks' parts add up to the whole.

Σ w_ij a_i b_j modulo 2⁶⁴, with w_ij the bits of an element as an unsigned integer and a_i, b_j odd numbers drawn from
the row's and the column's number. As a_i b_j is odd, a change of one element always changes the sum; any other change
is missed with a probability of about 2⁻⁶⁴. It detects damage, not forgery.
"""

from __future__ import annotations

import numpy as np

WORDS = 1 << 16  # elements at a time: what is widened stays in the cache


def partial(block: np.ndarray, row: int, column: int) -> int:
    """The part of the checksum that a contiguous block (rows, columns) at (row, column) of a matrix contributes."""
    rows, columns = block.shape
    if rows == 0 or columns == 0:
        return 0
    bits = block.view(np.uint32 if block.itemsize == 4 else np.uint64)
    across, down = _odd(column, columns, 2), _odd(row, rows, 1)
    total, step = np.zeros((), dtype=np.uint64), max(1, WORDS // columns)
    for i in range(0, rows, step):
        sums = np.zeros(len(bits[i : i + step]), dtype=np.uint64)
        for j in range(0, columns, WORDS):
            sums += bits[i : i + step, j : j + WORDS].astype(np.uint64) @ across[j : j + WORDS]
        total += sums @ down[i : i + step]
    return int(total)


def added(parts: list[int]) -> int:
    """The sum of parts."""
    return sum(parts) % (1 << 64)


def _odd(start: int, count: int, salt: int) -> np.ndarray:
    """Odd pseudo-random numbers for positions start, start + 1, ... (SplitMix64; Steele, Lea and Flood 2014)."""
    z = np.arange(start, start + count, dtype=np.uint64) * np.uint64(2) + np.uint64(salt)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z | np.uint64(1)
