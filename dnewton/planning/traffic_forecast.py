"""What an iteration communicates, counted from the plan alone: bytes per phase, summed over ranks. Pure functions.

A sum counts the buffer that each rank passes in, a gather each rank's own slice, a broadcast the root's buffer. The
wrapper in comm.py counts the same way, so forecast and measurement are equal, not close (docs/layout.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dnewton.comm.riders import numbers
from dnewton.grid import Group, Move, SplitAxis
from dnewton.planning.net_plan import NetPlan, spatial

SCALAR = 8


@dataclass(frozen=True)
class Iteration:
    """What one Newton iteration did: `trials` function evaluations, `cg` iterations of a full solve, columns combined.

    `jacobian_batches` says how many chunks of which size S was cut into, `how` is how the curvature was held;
    `joint_cg` counts the iterations of diagonal solves by passes, in `units` systems per rank.
    """

    samples: int
    jacobian_batches: Mapping[int, int]
    trials: int = 1
    columns: int = 2
    combined: bool = True
    full_cg: int = 0
    how: str = "explicit"
    joint_cg: int = 0
    units: int = 1
    solves: int = 1  # of the same system with ever larger λ
    learns: bool = False  # the size of the preconditioner of G on few samples
    scales: bool = False  # λ by the curvature along the gradient, in the first iteration
    accelerated: int = 0  # directions whose second order was found
    test_samples: int = 0
    itemsize: int = 4


def iteration_bytes(plan: NetPlan, did: Iteration) -> dict[str, int]:
    """Bytes per phase, summed over ranks, of an accepted iteration whose forward passes were all kept."""
    ranks, item = plan.grid.size, did.itemsize
    if ranks == 1:
        return dict.fromkeys(("function", "gradient", "jacobian", "cg", "combine", "evaluate"), 0)
    outputs = plan.outputs
    s = sum(size * count for size, count in did.jacobian_batches.items())
    n = did.columns
    held = did.how == "explicit"
    forward = forward_numbers(plan)
    backward = backward_numbers(plan, 1, samples=1)
    image = (ranks * outputs * s if held else s * forward) * item  # of a column
    counts = 2 if did.learns else 0

    def products(columns: int, more: int) -> int:
        """J Z and the scalars that are summed with it."""
        scalars = columns + columns * (columns + 1) // 2 + more
        carried = numbers(scalars, ranks, item) * item if held else scalars * SCALAR
        return columns * image + ranks * carried

    combine = did.solves * (products(n, counts) + (2 + (n if did.combined else 0) + counts) * SCALAR)
    combine += products(1, 0) + 2 * SCALAR if did.scales else 0
    combine += did.accelerated * (image + ranks * 2 * SCALAR)
    product = ranks * outputs * s if did.how != "implicit" else s * (forward + backward)
    cg = did.full_cg * (product * item + ranks * 2 * SCALAR)
    if did.how == "implicit" and not did.full_cg:
        cg += did.joint_cg * did.units * ranks * s * (forward + backward) * item
    jacobian = sum(
        count * backward_numbers(plan, outputs, size, jacobian=True) for size, count in did.jacobian_batches.items()
    )
    return {
        "function": did.trials * (did.samples * forward * item + ranks * 3 * SCALAR)
        + did.accelerated * s * forward * item,
        "gradient": did.samples * backward * item + ranks * 2 * SCALAR,
        "jacobian": 0 if did.how == "implicit" else jacobian * item,
        "cg": cg,
        "combine": combine,
        "evaluate": did.test_samples * forward * item,
    }


def forward_numbers(plan: NetPlan) -> int:
    """Numbers per sample that all ranks together pass into the forward pass's collectives."""
    total = 0
    for layer in plan.layers:
        for steps, units, shape in zip(plan.incoming(layer), layer.source_units, layer.spec.in_shapes, strict=True):
            total += _gathered(plan, steps, units, spatial(shape))
        if layer.split_kind and plan.grid.ranks_in(layer.split_kind.forward) > 1:
            total += sum(layer.message_out(plan.grid, r) for r in range(plan.grid.size))
    last = plan.layers[-1]
    return total + _gathered(plan, plan.outgoing(), last.out_units, spatial(last.spec.out_shape))


def backward_numbers(plan: NetPlan, right_hand_sides: int, samples: int, jacobian: bool = False) -> int:
    """Numbers of a backward sweep over `samples` samples with K right-hand sides.

    A Jacobian's sweep starts with the identity, which all samples share until a slope or a maximum makes them differ.
    """
    total = 0
    for position, layer in enumerate(plan.layers):
        by_sample = layer.spec.depends_on_sample or plan.above_depends_on_sample[position]
        times = right_hand_sides * (samples if by_sample or not jacobian else 1)
        swept = [plan.needs_cotangent(p) for p in plan.producers(position)]
        if any(swept) and layer.split_kind and plan.grid.ranks_in(layer.split_kind.backward) > 1:
            total += times * sum(layer.message_in(plan.grid, r) for r in range(plan.grid.size))
        for needed, steps, units, shape in zip(
            swept, plan.returning(layer), layer.source_units, layer.spec.in_shapes, strict=True
        ):
            total += times * _gathered(plan, steps, units, spatial(shape)) if needed else 0
    return total


def _gathered(plan: NetPlan, steps: tuple[Move, ...], units: SplitAxis, positions: int) -> int:
    grid = plan.grid
    return sum(
        grid.width(step.source, units, r) * positions
        for step in steps
        if _communicates(plan, step.group)
        for r in range(grid.size)
    )


def _communicates(plan: NetPlan, group: Group) -> bool:
    return group != "none" and plan.grid.ranks_in(group) > 1


def table(plan: NetPlan, did: Iteration) -> list[str]:
    """The forecast as lines of text."""
    rows = [f"{'phase':<10} {'bytes per iteration':>20} {'per rank':>14}"]
    for name, total in iteration_bytes(plan, did).items():
        rows.append(f"{name:<10} {total:>20d} {math.ceil(total / plan.grid.size):>14d}")
    return rows
