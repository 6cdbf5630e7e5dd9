"""What the ways to solve a diagonal system cost on a stated machine: floating-point operations and bytes moved.

Seconds = operations / flops + bytes / bandwidth. The rates are stated, not measured; docs/method.md has the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton.curvature.blocks import Factored
from dnewton.curvature.jacobian import Jacobian, Unit

OVERHEAD = 5e-5  # seconds that the calls of one product with a block take, however small the block
EXPECTED_CG, EXPECTED_KRONECKER = 12.0, 5.0  # assumed iterations of a solve to ‖r‖ ≤ 0.1 ‖g‖


@dataclass(frozen=True)
class Rates:
    """Operations of matrix products and bytes of memory traffic per second."""

    flops: float = 5e10
    bandwidth: float = 1e10


@dataclass(frozen=True)
class Costs:
    """Seconds of one solve of a unit by each way."""

    plain: float
    gram: float
    kronecker: float
    primal: float
    dual: float


def of(jacobian: Jacobian, unit: Unit, itemsize: int, rates: Rates) -> Costs:
    """The stated costs for a unit of a Jacobian."""
    s, sk, n = jacobian.samples, jacobian.samples * jacobian.outputs, unit.size
    flops = {"plain": 0.0, "gram": 0.0, "setup": 0.0, "dual": 0.0, "rows": 0.0, "factors": 0.0, "apply": 0.0}
    dense = True
    moved = {"plain": 10.0 * n * itemsize, "gram": 30.0 * sk * 8}
    for i in unit.blocks:
        for piece in jacobian.pieces[i]:
            o, inputs = piece.j.block.shape
            dense &= isinstance(piece.j, Factored) and piece.j.phi.shape[1] == 1
            flops["factors"] += 2.0 * s * inputs**2 + 4.0 * o**3 + 2.0 * inputs**3
            flops["apply"] += 2.0 * o * inputs * (o + inputs)
            if not isinstance(piece.j, Factored):
                moved["plain"] += piece.j.nbytes
                moved["gram"] += 2.0 * piece.j.nbytes
                flops["dual"] += 2.0 * sk * sk * o * inputs
                continue
            q = piece.j.phi.shape[1]
            here = piece.j.phi.shape[0]
            products = 4.0 * here * q * o * inputs
            by_gram = 2.0 * here * here * o
            use = q == 1 and by_gram < products
            flops["plain"] += products
            flops["gram"] += by_gram if use else products
            flops["setup"] += 2.0 * here * here * inputs if use else 0.0
            flops["rows"] += 2.0 * sk * q * o * inputs
            flops["dual"] += 2.0 * sk * sk * (o if q == 1 else o * inputs) + 2.0 * s * s * inputs
            for way in ("plain", "gram"):
                moved[way] += 2.0 * piece.j.d.nbytes

    calls = OVERHEAD * sum(len(jacobian.pieces[i]) for i in unit.blocks)

    def seconds(operations: float, traffic: float) -> float:
        return operations / rates.flops + traffic / rates.bandwidth

    setup = seconds(flops["setup"] + flops["plain"] / 2, 0.0)  # φφᵀ, J g at the start and Jᵀ y at the end
    return Costs(
        plain=EXPECTED_CG * (calls + seconds(flops["plain"], moved["plain"])),
        gram=EXPECTED_CG * (calls + seconds(flops["gram"], moved["gram"])) + setup,
        kronecker=seconds(flops["factors"], 0.0)
        + EXPECTED_KRONECKER * (2 * calls + seconds(flops["plain"] + flops["apply"], moved["plain"]))
        if dense
        else math.inf,
        primal=seconds(flops["rows"] + 2.0 * sk * n * n + n**3 / 3, 6.0 * sk * n * itemsize),
        dual=seconds(flops["dual"] + sk**3 / 3, 12.0 * sk * sk * itemsize),
    )


def make_input_grams(jacobian: Jacobian, unit: Unit) -> None:
    """Form φφᵀ for the unit's dense layers where products with it are cheaper than with φ."""
    for i in unit.blocks:
        for piece in jacobian.pieces[i]:
            j = piece.j
            if isinstance(j, Factored) and j.phi.shape[1] == 1 and j.phi.shape[0] < 2 * j.phi.shape[2]:
                j.make_inputs_gram()
