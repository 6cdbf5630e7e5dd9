#!/usr/bin/env python3
"""Which kernels take the time of Newton's pieces on a GPU: gradient, Jacobian, products, direction, a whole iteration.

    pip install '.[cuda12]' torch; python scripts/bench/gpu_profile.py [--nets CNN MLP] [--top 12]

The nets of gpu.py. PyTorch's profiler sees every kernel of the process, CuPy's too. Milliseconds of the GPU per call,
beside the wall time of one: what is left of it is the host, which launches the kernels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu import DAMPING, GPU_NETS, MEASURED, loss_of
from newton_sides import first_state, our_newton, planned, release
from sides import Ours, add_devices, opened, wait
from torch.profiler import ProfilerActivity, profile

from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.hardware import calibration
from dnewton.hardware.device import Device

REPEATS = 3


def shown(name: str, call: Callable[[], Any], device: Device, top: int) -> None:
    """Profile some calls after one to warm up, and print where the GPU's time went."""
    call()
    wait(device)
    begin = time.perf_counter()
    for _ in range(REPEATS):
        call()
    wait(device)
    wall = 1e3 * (time.perf_counter() - begin) / REPEATS
    with profile(activities=[ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU]) as found:
        for _ in range(REPEATS):
            call()
        wait(device)
    rows = [(e.self_device_time_total / 1e3 / REPEATS, e.count // REPEATS, e.key) for e in found.key_averages()]
    rows = sorted((row for row in rows if row[0] > 0), reverse=True)
    busy, launches = sum(row[0] for row in rows), sum(row[1] for row in rows)
    print(f"\n{name}: {wall:.2f} ms, GPU busy {busy:.2f} ms, {launches} kernels and copies")
    for ms, count, key in rows[:top]:
        print(f"  {ms:9.3f} ms {count:6d} x  {key[:110]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(MEASURED), help="parts of names")
    parser.add_argument("--samples", type=int, help="|S| instead of 1,000")
    parser.add_argument("--top", type=int, default=12)
    add_devices(parser)
    parser.set_defaults(device="cuda")
    args = parser.parse_args()
    comm = Comm.world()
    device, _ = opened(args, comm)
    rates = calibration.measure("float32", device)
    if not device.is_host:
        torch.zeros(1, device=args.torch_device or "cuda")
    for name, (shape, layers, s) in GPU_NETS.items():
        if not any(part in name for part in args.nets):
            continue
        some = args.samples or s
        ours = Ours(comm, shape, layers, some, loss_of(name), device=device)
        how, tape = ours.strategy(rates), ours.forward()
        model, g = ours.model(tape, how), ours.gradient(tape)
        print(f"\n{name}, |S| = {some}: {dict(how.held)}, {how.ways[0]}", flush=True)
        shown("forward pass", ours.forward, device, args.top)
        shown("gradient", lambda ours=ours, tape=tape: ours.gradient(tape), device, args.top)
        shown("Jacobian", lambda ours=ours, tape=tape, how=how: ours.model(tape, how), device, args.top)
        shown("product", lambda m=model, o=ours, g=g: m.block_product(g, o.unit, DAMPING), device, args.top)
        shown(
            "direction",
            lambda ours=ours, tape=tape, how=how, g=g: ours.direction(tape, how, g, DAMPING, 0.1),
            device,
            args.top,
        )
        del model, tape
        release(device)
        options = NewtonSection(damping="paper", subsample=0.1, cg_tolerance=0.1)
        ours = Ours(comm, shape, layers, 10 * some, loss_of(name), device=device)
        solver = our_newton(ours, options, planned(ours, options, rates))
        solver.start(first_state(ours, options))
        shown("iteration", solver.step, device, args.top)
        solver.close()
        release(device)


if __name__ == "__main__":
    main()
