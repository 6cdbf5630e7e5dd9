#!/usr/bin/env python3
"""One Gauss-Newton product, and a whole direction, against PyTorch on the same net, weights and subsample.

    pip install torch; python scripts/bench/gn_product.py [--threads 1 2] [--rounds 7] [--nets large] [--damping 1e-2]
    python scripts/bench/gn_product.py --device cuda            (both sides on the GPU)

Products: ours on vectors of θ, and per iteration of CG in Gram coordinates; PyTorch's jvp + vjp anew for every product
(as curvlinops), and with one linearisation kept. "GEMM bound": the two matrix products with φ of every layer alone.
Directions: Jacobian and solve to ‖r‖ ≤ 0.1 ‖g‖ on our side (the way that `subproblem: auto` picks), CG from zero
to the same residual on PyTorch's, the linearisation included. float32, cross-entropy (squared loss on the regression
nets), one process; TF32 off.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from sides import NETS, Ours, Theirs, add_devices, interleaved, opened, threads, torch_cg, write

from dnewton.arrays.namespace import ones
from dnewton.comm.communicator import Comm
from dnewton.curvature import jacobian
from dnewton.hardware import calibration
from dnewton.hardware.device import HOST, Device
from dnewton.hardware.rates import Rates
from dnewton.solvers.newton.gram_cg import GramCG

TOLERANCE = 0.1


def compare(
    name: str,
    net: tuple[list[int], list[Any], int],
    comm: Comm,
    n: int,
    rounds: int,
    damping: float,
    device: Device = HOST,
    torch_device: str = "cpu",
    rates: Rates | None = None,
) -> dict[str, Any]:
    """Both sides' products and directions on a net with `n` threads; `rates` are measured unless given."""
    shape, layers, samples = net
    loss = "squared" if "regression" in name else "cross_entropy"
    ours = Ours(comm, shape, layers, samples, loss, device=device)
    theirs = Theirs(ours, torch_device)
    tape = ours.forward()
    with threads(n):
        how = ours.strategy(rates or calibration.measure("float32", device))
    model, g = ours.model(tape, how), ours.gradient(tape)
    v = device.put(np.random.default_rng(1).normal(size=ours.network.size).astype(np.float32))
    tv, tg = theirs.named(v), theirs.named(g)
    keep = theirs.linearised()
    expected = theirs.fresh_product(tv, damping)
    found = theirs.named(model.block_product(v, ours.unit, damping))
    worst = max(float((found[k] - expected[k]).norm() / expected[k].norm()) for k in expected)
    # a GPU's convolutions may round more, and a number at its kink changes a whole term of the sums
    exact = device.is_host and torch_device == "cpu"
    assert worst < (1e-3 if exact else 5e-2), worst
    model.jacobian.make_input_grams(ours.unit)
    gram = GramCG(model, g, ours.unit, damping, 1e-9)
    factored = jacobian.build(ours.network, ours.theta, [tape], "factored")
    patches = [(j.phi.part().reshape(-1, j.phi.shape[2]), j.block.shape[0]) for j in factored.blocks]
    weights = [ones((i.shape[1], o), ours.theta) for i, o in patches]

    def bound() -> None:
        for (phi, _), w in zip(patches, weights, strict=True):
            phi.T @ (phi @ w)

    used: dict[str, Any] = {}

    def direction() -> None:
        found = ours.direction(tape, how, g, damping, TOLERANCE)
        used.update(way=how.ways[0], iterations=found.iterations, representations=dict(how.held))

    def fresh_direction() -> None:
        used["torch"] = torch_cg(theirs.fresh_product, tg, damping, TOLERANCE)[1]

    with threads(n):
        ms = interleaved(
            {
                "ours": lambda: model.block_product(v, ours.unit, damping),
                "ours, Gram": gram.advance,
                "torch jvp+vjp": lambda: theirs.fresh_product(tv, damping),
                "torch linearize": lambda: keep(tv, damping),
                "GEMM bound": bound,
                "our Jacobian": lambda: ours.model(tape, how),
            },
            rounds,
            device,
        )
        units = jacobian.local_systems(ours.network.blocks, per_layer=True)
        names = [f"{b.block.name} {how.held[b.block.name]}" for b in model.jacobian.blocks]
        alone = {n: (lambda u=u: model.block_product(v, u, damping)) for n, u in zip(names, units, strict=True)}
        by_block = interleaved(alone, rounds, device)
        whole = interleaved(
            {
                "ours": direction,
                "torch jvp+vjp": fresh_direction,
                "torch linearize": lambda: torch_cg(theirs.linearised(), tg, damping, TOLERANCE),
            },
            max(5, rounds // 2),
            device,
        )
    best = min(ms["ours"], ms["ours, Gram"])
    print(f"\n{name}, |S| = {samples}, " + (f"{n} thread(s)" if device.is_host else device.name))
    if not exact:
        print(f"  the two sides' products differ by {worst:.1e} in the worst layer")
    for side, value in ms.items():
        print(f"  {side:16} {value:9.2f} ms")
    print("  our product by block: " + ", ".join(f"{n} {t:.2f} ms" for n, t in by_block.items()))
    amortised = best + ms["our Jacobian"] / max(1, used["torch"])
    print(f"  our product with its share of the Jacobian over {used['torch']} products: {amortised:.2f} ms")
    print(f"  product: {ms['torch jvp+vjp'] / best:.2f} x jvp+vjp, {ms['torch linearize'] / best:.2f} x linearize")
    print(
        f"  direction: ours {whole['ours']:.1f} ms ({used['way']}, {used['iterations']} iteration(s), "
        f"{used['representations']}), jvp+vjp {whole['torch jvp+vjp']:.1f} ms, "
        f"linearize {whole['torch linearize']:.1f} ms ({used['torch']} iterations): "
        f"{whole['torch jvp+vjp'] / whole['ours']:.2f} x, {whole['torch linearize'] / whole['ours']:.2f} x",
        flush=True,
    )
    return {
        "net": name,
        "device": device.name,
        "threads": n,
        "samples": samples,
        "product_ms": ms,
        "by_block_ms": by_block,
        "direction_ms": whole,
        "used": used,
        "worst": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", help="1 and 2 unless given; on a GPU 1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--damping", type=float, default=1e-2, help="λ")
    parser.add_argument("--nets", nargs="+", default=[""], help="parts of names")
    parser.add_argument("--samples", type=int, help="|S| instead of the nets' own")
    add_devices(parser)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    comm = Comm.world()
    device, torch_device = opened(args, comm)
    nets = {name: (shape, layers, args.samples or s) for name, (shape, layers, s) in NETS.items()}
    rows = [
        compare(name, nets[name], comm, n, args.rounds, args.damping, device, torch_device)
        for n in args.threads or ([1, 2] if device.is_host else [1])
        for name in NETS
        if any(part in name for part in args.nets)
    ]
    write(args.json, rows)


if __name__ == "__main__":
    main()
