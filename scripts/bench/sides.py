"""The two sides of the comparisons: one net with the same weights and samples in dnewton (one rank) and in PyTorch.

Each side has its own device. Scripts take `--device {cpu,cuda}`, dnewton's, and `--torch-device`, PyTorch's (the same
unless told: with a stand-in for CuPy a script can be exercised where PyTorch has only a CPU).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from dnewton.arrays.namespace import to_host, zeros
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.hardware.device import HOST, Device, open_device
from dnewton.hardware.node import THREAD_VARIABLES
from dnewton.hardware.rates import Rates
from dnewton.model import init_weights
from dnewton.model.network import Network
from dnewton.planning import curvature_plan, grid_search
from dnewton.planning.net_plan import infer_shapes
from dnewton.solvers.newton import cg, early_termination, local_solver
from dnewton.training.job import SHARE

RELU = {"activation": "relu"}


def dense(*widths: int, activation: str = "relu") -> list[Any]:
    hidden = [{"dense": {"units": w, "activation": activation}} for w in widths[:-1]]
    return [*hidden, {"dense": {"units": widths[-1]}}]


NETS: dict[str, tuple[list[int], list[Any], int]] = {  # input, layers, |S|
    "large MLP 784-1000-500-10": ([784], dense(1000, 500, 10), 1000),
    "small MLP 16-300-300-300-26": ([16], dense(300, 300, 300, 26), 1000),
    "CNN 5x5-32, 3x3-64, 3x3-64": (
        [1, 28, 28],
        [
            {"conv": {"channels": 32, "kernel": 5, "padding": 2, **RELU}},
            {"maxpool": {"size": 2}},
            {"conv": {"channels": 64, "kernel": 3, "padding": 1, **RELU}},
            {"maxpool": {"size": 2}},
            {"conv": {"channels": 64, "kernel": 3, "padding": 1, **RELU}},
            {"maxpool": {"size": 2}},
            "flatten",
            {"dense": {"units": 10}},
        ],
        100,
    ),
    "regression 2-64-64-1": ([2], dense(64, 64, 1, activation="tanh"), 1000),
    "regression 10-128-128-128-1": ([10], dense(128, 128, 128, 1, activation="tanh"), 1000),
}


def add_devices(parser: argparse.ArgumentParser) -> None:
    """The options for the two sides' devices."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="dnewton's")
    parser.add_argument("--torch-device", choices=["cpu", "cuda"], help="PyTorch's; the same unless given")


def opened(args: argparse.Namespace, comm: Comm) -> tuple[Device, str]:
    """dnewton's device and PyTorch's, both without TF32; PyTorch's cuDNN chooses its algorithms by trying them."""
    torch_device = args.torch_device or args.device
    if "cuda" in (args.device, torch_device):
        os.environ.update(NVIDIA_TF32_OVERRIDE="0", CUPY_TF32="0")  # read when the libraries are first used
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
    return open_device(args.device, "auto", comm, f"--device {args.device}")[0], torch_device


class Ours:
    """dnewton on one rank: θ, x and y on its device, the images also on the host."""

    def __init__(
        self,
        comm: Comm,
        shape: list[int],
        layers: list[Any],
        samples: int,
        loss: str,
        seed: int = 0,
        device: Device = HOST,
    ) -> None:
        self.config = Config.model_validate({"net": {"input": shape, "loss": loss, "layers": layers}})
        shapes = infer_shapes(self.config.net)
        self.outputs = shapes[-1].out_shape[0]
        plan = grid_search.choose(shapes, 1, grid_search.Workload(samples, samples, self.outputs))
        self.comm, self.device = comm.on_grid(plan.grid), device
        self.network, self.loss = Network(plan, self.comm), self.config.net.loss
        self.theta = device.put(init_weights.weights(self.network, seed, "float32"))
        rng = np.random.default_rng(seed)
        self.images = rng.normal(size=(samples, *shape)).astype(np.float32)
        x = self.images if len(shape) == 1 else self.images.transpose(0, 2, 3, 1)
        self.x = device.put(np.ascontiguousarray(x))
        if loss == "squared":
            y = rng.normal(size=(samples, self.outputs)).astype(np.float32)
        else:
            y = np.eye(self.outputs, dtype=np.float32)[rng.integers(0, self.outputs, samples)]
        self.y = device.put(y)
        self.unit = jacobian.local_systems(self.network.blocks, per_layer=False)[0]
        self.regulariser = 1.0 / samples

    def forward(self) -> Any:
        return self.network.forward(self.theta, self.x)

    def strategy(self, rates: Rates, options: NewtonSection | None = None) -> curvature_plan.CurvaturePlan:
        """What a run with these options would decide."""
        samples = int(self.y.shape[0])
        work = grid_search.Workload(10 * samples, samples, self.outputs)
        on_device = not self.device.is_host
        options = options or NewtonSection()
        memory = SHARE * self.device.free_bytes() / 2 if on_device else math.inf  # PyTorch is on it, too
        return curvature_plan.decide(self.network.plan, work, options, memory=memory, rates=rates, on_device=on_device)

    def model(self, tape: Any, how: curvature_plan.CurvaturePlan) -> GaussNewton:
        jac = jacobian.build(self.network, self.theta, [tape], how.held, how.chunk)
        return GaussNewton(jac, self.loss, tape.z, self.y, self.regulariser)

    def direction(
        self, tape: Any, how: curvature_plan.CurvaturePlan, g: Any, damping: float, tolerance: float
    ) -> cg.Solution:
        """The Jacobian, and the solve to the tolerance."""
        system = local_solver.make(how.ways[0], self.model(tape, how), g, self.unit, damping, tolerance)
        return cg.solve([system], g, 250, early_termination.NeverTerminate())

    def gradient(self, tape: Any) -> Any:
        out = zeros(self.network.size, self.theta)
        self.network.gradient(self.theta, tape, self.loss.gradient(tape.z, self.y) / self.y.shape[0], out)
        return out + self.regulariser * self.theta

    def to_torch(self, vector: Any) -> dict[str, torch.Tensor]:
        """A vector laid out like θ, by PyTorch's names, on the host."""
        out, vector = {}, to_host(vector)
        for b in self.network.blocks:
            name = b.name
            out[name + ".weight"] = torch.from_numpy(np.ascontiguousarray(b.to_file_order(b.weight(vector))))
            out[name + ".bias"] = torch.from_numpy(np.asarray(b.bias(vector)))
        return out


class Theirs:
    """The same in PyTorch: J v by forward mode, Jᵀ w by reverse mode."""

    def __init__(self, ours: Ours, torch_device: str = "cpu") -> None:
        self.device, self._to_torch = torch_device, ours.to_torch
        modules: dict[str, torch.nn.Module] = {}
        act = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
        for index, shape in enumerate(infer_shapes(ours.config.net)):
            o = shape.options
            if shape.kind == "dense":
                modules[str(index)] = torch.nn.Linear(shape.in_shape[0], o.units)
            elif shape.kind == "conv":
                options = (o.channels, o.kernel, o.stride, o.padding)
                modules[str(index)] = torch.nn.Conv2d(shape.in_shape[0], *options)
            elif shape.kind == "maxpool":
                modules[str(index)] = torch.nn.MaxPool2d(o.size)
            else:
                modules[str(index)] = torch.nn.Flatten()
            if shape.activation != "linear":
                modules[f"{index}act"] = act[shape.activation]()
        self.net = torch.nn.Sequential()
        for name, module in modules.items():
            self.net.add_module(name, module)
        self.params = self.named(ours.theta)
        self.x = torch.from_numpy(ours.images).to(torch_device)
        self.y = torch.from_numpy(to_host(ours.y)).to(torch_device)
        self.samples, self.outputs, self.regulariser = len(self.y), ours.outputs, ours.regulariser
        self.squared = ours.config.net.loss.targets == "real"

    def named(self, vector: Any) -> dict[str, torch.Tensor]:
        """A vector laid out like our θ, by the names of the net's parameters."""
        return {k.removeprefix("layers."): v.to(self.device) for k, v in self._to_torch(vector).items()}

    def part(self, params: dict[str, torch.Tensor], indices: Any) -> Theirs:
        """The same net at other parameters and on some of the samples."""
        found, here = copy.copy(self), torch.from_numpy(indices).to(self.device)
        found.params, found.x, found.y, found.samples = params, self.x[here], self.y[here], len(indices)
        return found

    def f(self, params: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(self.net, params, (self.x,))

    def bend(self, z: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        if self.squared:
            return 2 * u / self.samples
        p = torch.softmax(z, dim=1)
        pu = p * u
        return (pu - p * pu.sum(1, keepdim=True)) / self.samples

    def fresh_product(self, v: dict[str, torch.Tensor], damping: float) -> dict[str, torch.Tensor]:
        """jvp and vjp anew for every product, as curvlinops does."""
        z, u = torch.func.jvp(self.f, (self.params,), (v,))
        _, back = torch.func.vjp(self.f, self.params)
        (out,) = back(self.bend(z, u))
        return {k: out[k] + (self.regulariser + damping) * v[k] for k in out}

    def linearised(self) -> Callable[[dict[str, torch.Tensor], float], dict[str, torch.Tensor]]:
        """A product that reuses the graphs of one linearisation."""
        z, push = torch.func.linearize(self.f, self.params)
        _, back = torch.func.vjp(self.f, self.params)

        def product(v: dict[str, torch.Tensor], damping: float) -> dict[str, torch.Tensor]:
            (out,) = back(self.bend(z, push(v)))
            return {k: out[k] + (self.regulariser + damping) * v[k] for k in out}

        return product


def inner(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return float(sum((a[k] * b[k]).sum() for k in a))


def torch_cg(
    product: Any, g: dict[str, torch.Tensor], damping: float, tolerance: float, most: int = 250
) -> tuple[dict[str, torch.Tensor], int]:
    """CG from zero until ‖r‖ ≤ tolerance ‖g‖; d and the iterations."""
    d = {k: torch.zeros_like(v) for k, v in g.items()}
    r = {k: -v for k, v in g.items()}
    v, rr = dict(r), inner(r, r)
    bound, n = tolerance**2 * rr, 0
    while rr > bound and n < most:
        gv = product(v, damping)
        step = rr / inner(v, gv)
        d = {k: d[k] + step * v[k] for k in d}
        r = {k: r[k] - step * gv[k] for k in r}
        new = inner(r, r)
        v = {k: r[k] + (new / rr) * v[k] for k in r}
        rr, n = new, n + 1
    return d, n


@contextmanager
def threads(n: int) -> Iterator[None]:
    """So many threads in PyTorch and in BLAS, also in libraries that are loaded and in jobs that are assembled inside:
    a job without these variables takes as many threads as its products are worth."""
    torch.set_num_threads(n)
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(n)))
    try:
        with threadpool_limits(limits=n):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait(device: Device) -> None:
    """Until everything that was begun is done: on CuPy's current stream, and on PyTorch's GPU where it has used one."""
    device.synchronize()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def interleaved(
    sides: dict[str, Callable[[], Any]],
    rounds: int,
    device: Device = HOST,
    before: Callable[[], None] | None = None,
    warm_up: int = 1,
) -> dict[str, float]:
    """Median milliseconds of each side, one after the other in every round, after some rounds to warm up.

    `before` is called before every round, beside the clock.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + warm_up):
        if before is not None:
            before()
        for name, run in sides.items():
            wait(device)
            begin = time.perf_counter()
            run()
            wait(device)
            if turn >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def write(path: Path | None, rows: list[dict[str, Any]]) -> None:
    if path:
        path.write_text(json.dumps(rows, indent=1) + "\n")
