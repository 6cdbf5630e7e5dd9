#!/usr/bin/env python3
"""The engine on one GPU: the same numbers as on the host, and its speed and memory beside PyTorch's on the same GPU.

    pip install '.[cuda12]' torch; python scripts/bench/gpu.py [--rounds 9] [--json FILE]

Per net, float32 with TF32 off on both sides:

- Equality: gradient, J v, (G + λI) v, direction and two iterations against the same on the host. With relu and
  max-pooling a number at its kink may take the other side by rounding, which changes a whole term of a sum; the
  tolerances (KINKED) allow for it. The same net with tanh and average pooling in their place is held to SMOOTH. Of both
  nets' directions the host computes what they leave of its own system: no more than RESIDUAL of the solve's tolerance.
- Products and directions at λ = 0.01, as gn_product.py measures them. "of GEMM" is the rate of a product's matrix
  operations, counted as in `operations`, over that of a product of 4096 x 4096 on the same GPU.
- Iterations with l = 10 |S|: every round, each side takes the same iteration from the point and λ where dnewton is: f
  and its gradient over all samples, Jacobian (or linearisation), CG to ‖r‖ ≤ 0.1 ‖g‖, backtracking. The goal is 5x.
- Where our time goes, by phases that wait for the GPU, and the peaks of memory, each side for itself: dnewton's is what
  CuPy's pool took, PyTorch's what its tensors had and what its allocator took.

Fails if a comparison with the host does. The libraries' own workspaces are in neither peak.
`--device cuda --torch-device cpu --samples 6 --nets small` exercises all of it on the stand-in of tests/fake_cuda.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from pathlib import Path
from typing import Any

import gn_product
import numpy as np
import torch
from iteration import PHASES, exact_phases
from newton_sides import TheirNewton, first_state, our_newton, planned, release, torch_peak
from sides import NETS, Ours, Theirs, add_devices, dense, interleaved, opened, threads, write

from dnewton.arrays import namespace
from dnewton.arrays.namespace import to_host
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.hardware import calibration
from dnewton.hardware.device import HOST, Device
from dnewton.hardware.rates import Rates
from dnewton.planning import costs
from dnewton.planning.curvature_plan import CurvaturePlan

Net = tuple[list[int], list[Any], int]
CNN = "CNN 5x5-32, 3x3-64, 3x3-64"
GPU_NETS: dict[str, Net] = {
    CNN: (*NETS[CNN][:2], 1000),
    "MLP 784-4000-4000-10": ([784], dense(4000, 4000, 10), 1000),
    "small CNN 3x3-4": (
        [1, 8, 8],
        [
            {"conv": {"channels": 4, "kernel": 3, "padding": 1, "activation": "relu"}},
            {"maxpool": {"size": 2}},
            "flatten",
            {"dense": {"units": 10}},
        ],
        100,
    ),
    "small MLP 20-30-10": ([20], dense(30, 10), 100),
}
MEASURED = (CNN, "MLP 784-4000-4000-10")
# Settings of the solver to measure; the first is what the rest is compared with.
OURS: dict[str, dict[str, Any]] = {"ours": {}, "ours, J in float16": {"jacobian_dtype": "float16"}}
DAMPING, GOAL = 1e-2, 5.0
SMOOTH = {  # relative differences that rounding explains
    "gradient": 1e-5,
    "J v": 1e-5,
    "(G + λI) v": 1e-5,
    "direction": 1e-3,
    "direction by CG": 1e-3,
    "two iterations": 5e-3,
    "f": 1e-5,
}
KINKED = {
    "gradient": 1e-2,
    "J v": 1e-2,
    "(G + λI) v": 1e-2,
    "two iterations": 1e-1,
    "f": 1e-3,
}
RESIDUAL = 1.2  # of what a solve was to leave, on the host's matrix: two solves that end an iteration apart differ


def loss_of(name: str) -> str:
    return "squared" if "regression" in name else "cross_entropy"


def smooth(layers: list[Any]) -> list[Any]:
    """The layers with tanh for relu and average pooling for max-pooling."""
    found: list[Any] = copy.deepcopy(layers)
    for layer in found:
        if isinstance(layer, dict):
            for options in layer.values():
                if options.get("activation") == "relu":
                    options["activation"] = "tanh"
            if "maxpool" in layer:
                layer["avgpool"] = layer.pop("maxpool")
    return found


def difference(found: Any, expected: Any) -> float:
    """‖found - expected‖ / ‖expected‖ in float64 on the host."""
    a, b = (to_host(v).astype(np.float64).reshape(-1) for v in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def first_of(ours: Ours, s: int) -> Ours:
    """The same on the first `s` samples."""
    some = copy.copy(ours)
    some.x, some.y = ours.x[:s, ...], ours.y[:s, ...]
    return some


def figures(ours: Ours, decided: list[CurvaturePlan], options: NewtonSection, s: int) -> dict[str, Any]:
    """What is compared: on the first `s` samples, and after two iterations on all; θ is left as it is."""
    how, by_cg, run_how = decided
    some = first_of(ours, s)
    tape = some.forward()
    v = ours.device.put(np.random.default_rng(1).normal(size=ours.network.size).astype(np.float32))
    model, g = some.model(tape, how), some.gradient(tape)
    solved = some.direction(tape, how, g, DAMPING, gn_product.TOLERANCE)
    plain = some.direction(tape, by_cg, g, DAMPING, gn_product.TOLERANCE)
    solver = our_newton(ours, options, run_how)
    solver.start(first_state(ours, options))
    steps = [solver.step() for _ in range(2)]
    solver.close()

    def residual(d: Any) -> float:
        r = to_host(model.block_product(d, ours.unit, DAMPING) + g)
        return float(np.linalg.norm(r) / np.linalg.norm(to_host(g)))

    return {
        "residual": residual,
        "gradient": g,
        "J v": model.jacobian.times(v, ours.unit),
        "(G + λI) v": model.block_product(v, ours.unit, DAMPING),
        "direction": solved.d,
        "direction by CG": plain.d,
        "two iterations": solver.theta - ours.theta,
        "f": np.array([step.loss for step in steps]),
        "trials": [step.trials for step in steps],
        "cg": [solved.iterations, plain.iterations, *(step.cg for step in steps)],
    }


def equality(name: str, net: Net, comm: Comm, device: Device, rates: Rates) -> list[dict[str, Any]]:
    """The device against the host, on the net and on its smooth version."""
    shape, layers, s = net
    options, rows = NewtonSection(damping="paper", subsample=0.1, cg_tolerance=0.1), []
    for kind, these, tolerances in (("", layers, KINKED), (", smooth", smooth(layers), SMOOTH)):
        found: list[dict[str, Any]] = []
        decided: list[CurvaturePlan] = []  # by the device's rates, for both
        for place in (device, HOST):
            ours = Ours(comm, shape, these, 10 * s, loss_of(name), device=place)
            some, cg = first_of(ours, s), NewtonSection(damping="paper", subproblem="cg")
            decided = decided or [some.strategy(rates), some.strategy(rates, cg), planned(ours, options, rates)]
            found.append(figures(ours, decided, options, s))
        there, here = found
        checks = [(what, difference(there[what], here[what]), bound) for what, bound in tolerances.items()]
        for what in ("direction", "direction by CG"):
            left = here["residual"](to_host(there[what]))
            checks.append((f"residual of {what.replace('direction by ', '')}", left, RESIDUAL * gn_product.TOLERANCE))
        for what, apart, bound in checks:
            rows.append(
                {
                    "net": name + kind,
                    "what": what,
                    "difference": apart,
                    "tolerance": bound,
                    "passed": bool(apart <= bound),
                }
            )
        print(f"\n{name}{kind}, |S| = {s}, l = {10 * s}: {device.name} against the host, float32")
        for row in rows[-len(checks) :]:
            print(
                f"  {row['what']:21} {row['difference']:>9.1e}  at most {row['tolerance']:.0e}: "
                f"{'passed' if row['passed'] else 'FAILED'}"
            )
        print(
            f"  iterations of CG {there['cg']} and {here['cg']}, trial steps {there['trials']} and {here['trials']}",
            flush=True,
        )
        release(device)
    return rows


def operations(ours: Ours, held: dict[str, str], s: int) -> float:
    """Operations of the matrix products of a Gauss-Newton product: two with φ, or two with the rows."""
    total = 0.0
    for b in costs.blocks_of(ours.network.plan):
        total += 4.0 * s * (ours.outputs * b.size if held[b.name] == "dense" else b.q * b.o * b.i)
    return total


def iterations(name: str, net: Net, comm: Comm, device: Device, torch_device: str, rates: Rates, rounds: int) -> Any:
    """Milliseconds of an iteration of each side, every round from where dnewton is."""
    shape, layers, s = net
    ours = Ours(comm, shape, layers, 10 * s, loss_of(name), device=device)
    theirs = Theirs(ours, torch_device)
    solvers, batches = {}, []
    for label, settings in OURS.items():
        options = NewtonSection(damping="paper", subsample=0.1, cg_tolerance=0.1, **settings)
        how = planned(ours, options, rates)
        solvers[label] = our_newton(ours, options, how)
        solvers[label].start(first_state(ours, options))
        batches.append(how.batch)
    first, batch, options = (
        next(iter(solvers.values())),
        batches[0],
        NewtonSection(damping="paper", subsample=0.1, cg_tolerance=0.1),
    )
    others = {
        "torch jvp+vjp": TheirNewton(theirs, options, batch, kept=False),
        "torch linearize": TheirNewton(theirs, options, batch, kept=True),
    }
    rows: dict[str, list[tuple[int, int, float]]] = {side: [] for side in [*solvers, *others]}

    def our_step(label: str) -> None:
        step = solvers[label].step()
        rows[label].append((step.cg, step.trials, step.loss))

    def their_step(label: str) -> None:
        rows[label].append(tuple(others[label].step()))  # type: ignore[arg-type]

    def before() -> None:
        for side in others.values():
            side.start(first.state)

    sides = {label: (lambda label=label: our_step(label)) for label in solvers}
    sides |= {label: (lambda label=label: their_step(label)) for label in others}
    ms = interleaved(sides, rounds, device, before, warm_up=2)
    for solver in solvers.values():
        solver.close()
    cg = {side: statistics.median(r[0] for r in some[2:]) for side, some in rows.items()}
    trials = {side: statistics.median(r[1] for r in some[2:]) for side, some in rows.items()}
    values = {side: some[-1][2] for side, some in rows.items()}
    return {"iteration_ms": ms, "cg": cg, "trials": trials, "f": values}


def alone(name: str, net: Net, comm: Comm, device: Device, torch_device: str, rates: Rates, rounds: int) -> Any:
    """Seconds by phase of our iterations, and the peak of memory of every side, each with the GPU for itself."""
    shape, layers, s = net
    phases: dict[str, dict[str, float]] = {}
    peaks: dict[str, Any] = {}
    batches = []
    for label, settings in OURS.items():
        release(device)
        options = NewtonSection(damping="paper", subsample=0.1, cg_tolerance=0.1, **settings)
        ours = Ours(comm, shape, layers, 10 * s, loss_of(name), device=device)
        how = planned(ours, options, rates)
        batches.append(how.batch)
        solver = our_newton(ours, options, how)
        exact_phases(ours.comm, device)
        solver.start(first_state(ours, options))
        rows = []
        for _ in range(rounds + 2):
            before = {p: ours.comm.ledger[p].elapsed for p in PHASES}
            solver.step()
            rows.append({p: ours.comm.ledger[p].elapsed - before[p] for p in PHASES})
        solver.close()
        phases[label] = {p: 1e3 * statistics.median(row[p] for row in rows[2:]) for p in PHASES}
        peaks[label] = device.peak_bytes()
        del solver
    theirs, options = Theirs(ours, torch_device), NewtonSection(damping="paper", subsample=0.1, cg_tolerance=0.1)
    state = first_state(ours, options)
    for label, kept in (("torch jvp+vjp", False), ("torch linearize", True)):
        release(device)
        side = TheirNewton(theirs, options, batches[0], kept)
        side.start(state)
        side.step()
        peaks[label] = torch_peak()
        del side
    release(device)
    return {"phase_ms": phases, "peak_bytes": peaks}


def net_report(
    name: str, net: Net, args: argparse.Namespace, comm: Comm, places: tuple[Device, str], rates: Rates
) -> dict[str, Any]:
    """All figures of a net."""
    device, torch_device = places
    rows = equality(name, (*net[:2], min(net[2], args.equality_samples)), comm, device, rates)
    speed = gn_product.compare(name, net, comm, args.threads, args.rounds, DAMPING, device, torch_device, rates)
    release(device)
    ours = Ours(comm, net[0], net[1], 1, loss_of(name))
    counted = operations(ours, speed["used"]["representations"], net[2])
    speed["of_gemm"] = counted / (speed["product_ms"]["ours"] / 1e3) / rates.flops
    speed["product_operations"] = counted
    whole = iterations(name, net, comm, device, torch_device, rates, args.rounds)
    release(device)
    by_itself = alone(name, net, comm, device, torch_device, rates, args.rounds)
    return {"net": name, "samples": net[2], "equality": rows, **speed, **whole, **by_itself}


def mib(peak: Any) -> str:
    if peak is None:
        return "-"
    return " / ".join(f"{v / 2**20:.0f}" for v in (peak if isinstance(peak, tuple) else (peak,)))


def show(report: dict[str, Any]) -> None:
    """The table of a net."""
    product, direction, iteration = report["product_ms"], report["direction_ms"], report["iteration_ms"]
    others = ("torch jvp+vjp", "torch linearize")
    print(f"\n| {report['net']}, \\|S\\| = {report['samples']} | ours | jvp + vjp | linearize | ratios |")
    print("|---|---|---|---|---|")
    for what, ms in (("product, ms", product), ("direction, ms", direction), ("iteration, ms", iteration)):
        ratios = " / ".join(f"{ms[o] / ms['ours']:.2f}" for o in others)
        goal = ""
        if what.startswith("iteration"):
            reached = ["reached" if ms[o] >= GOAL * ms["ours"] else "missed" for o in others]
            goal = f" (goal {GOAL:g}: {' / '.join(reached)})"
        print(f"| {what} | {ms['ours']:.3f} | {ms[others[0]]:.3f} | {ms[others[1]]:.3f} | {ratios}{goal} |")
    for label in [key for key in iteration if key not in ("ours", *others)]:
        print(f"| iteration, {label}, ms | {iteration[label]:.3f} | | | |")
    for what in ("cg", "trials"):
        print(f"| {what} of an iteration | " + " | ".join(f"{report[what][s]:g}" for s in ("ours", *others)) + " | |")
    print("| f after the last | " + " | ".join(f"{report['f'][s]:.6g}" for s in ("ours", *others)) + " | |")
    print(
        "| peak MiB (PyTorch: tensors / taken) | "
        + " | ".join(mib(report["peak_bytes"][s]) for s in ("ours", *others))
        + " | |"
    )
    print(f"| product: {report['product_operations'] / 1e9:.3g} Gflop, of GEMM | {report['of_gemm']:.1%} | | | |")
    for label, phases in report["phase_ms"].items():
        print(f"\nphases of an iteration, {label}, ms: " + ", ".join(f"{p} {ms:.2f}" for p, ms in phases.items()))
    failed = [f"{row['net']}: {row['what']}" for row in report["equality"] if not row["passed"]]
    print("equality: " + (f"FAILED ({'; '.join(failed)})" if failed else "all passed"), flush=True)


def versions(device: Device, torch_device: str) -> dict[str, str]:
    """What the figures were measured with."""
    found = {"device": device.name, "torch": torch.__version__, "torch CUDA": str(torch.version.cuda)}
    found["torch device"] = torch.cuda.get_device_name() if torch_device == "cuda" else "cpu"
    if not device.is_host:
        cupy = namespace.cuda()
        runtime = cupy.cuda.runtime
        found |= {
            "CuPy": cupy.__version__,
            "CuPy's CUDA": str(runtime.runtimeGetVersion()),
            "driver's CUDA": str(runtime.driverGetVersion()),
        }
    return {**found, "NumPy": np.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(MEASURED), help="parts of names")
    parser.add_argument("--samples", type=int, help="|S| instead of 1,000")
    parser.add_argument("--equality-samples", type=int, default=100, help="|S| where the host computes the same")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of the host")
    add_devices(parser)
    parser.set_defaults(device="cuda")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    comm = Comm.world()
    device, torch_device = places = opened(args, comm)
    with threads(args.threads):
        rates = calibration.measure("float32", device)
    release(device)
    about = {
        **versions(device, torch_device),
        "GEMM": f"{rates.flops / 1e12:.3g} Tflop/s",
        "memory": f"{rates.bandwidth / 1e9:.3g} GB/s",
    }
    print("; ".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    reports = []
    for name, (shape, layers, s) in GPU_NETS.items():
        if any(part in name for part in args.nets):
            reports.append(net_report(name, (shape, layers, args.samples or s), args, comm, places, rates))
            show(reports[-1])
            write(args.json, [about, *reports])
    sys.exit(not all(row["passed"] for report in reports for row in report["equality"]))


if __name__ == "__main__":
    main()
