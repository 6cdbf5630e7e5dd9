#!/usr/bin/env python3
"""Loss over time, and how much sooner Newton reaches what others reach, against PyTorch on the same net and start.

    pip install torch; python scripts/bench/time_to_target.py [--seconds 20] [--threads 1] [--json FILE]
    python scripts/bench/time_to_target.py --alone --also '{"warm_start": true}' --seconds 6
    python scripts/bench/time_to_target.py --classify [--data DIR] [--problems digits letter MNIST]
    python scripts/bench/time_to_target.py --device cuda                       (both sides on the GPU, TF32 off)

Regression: 2-64-64-1 and 10-128-128-128-1 (tanh) on smooth functions stated below, and the bundled diabetes set.
Newton by its defaults and by a precise setting (OPTIONS) against Adam (5 learning rates, cosine decay over the given
seconds, batches of 256) and L-BFGS (strong Wolfe, full batch), `--seconds` each, all from the same weights: the mean
square error of the training set, no regulariser. Classification: seconds to 98 % of the best test accuracy that any
method reaches, against Adam (5 learning rates, batches of 128) on digits, and on letter and 10,000 MNIST images where
`--data` has them; Newton by its defaults.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sides import add_devices, dense, opened, threads, wait, write
from smooth_functions import smooth_2, smooth_10

from dnewton.arrays.namespace import to_host
from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import loss_of
from dnewton.config.schema import Config
from dnewton.data.bundled import read_bundled
from dnewton.data.samples import Samples
from dnewton.data.sampling import subsample_size
from dnewton.hardware import calibration
from dnewton.hardware.device import Device
from dnewton.model import init_weights
from dnewton.model.network import Network
from dnewton.model.objective import Objective
from dnewton.planning import curvature_plan, grid_search
from dnewton.planning.net_plan import infer_shapes
from dnewton.solvers.newton.newton import Newton, State
from dnewton.training.job import assemble

RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
OPTIONS: dict[str, dict[str, Any]] = {  # of the regression; the first changes nothing but the missing regulariser
    "newton": {"C": math.inf, "max_iterations": 10**6},
    "newton, precise": {"C": math.inf, "max_iterations": 10**6, "subsample": 1.0, "drop": 0.1, "boost": 3.0},
}
Curve = list[tuple[float, float, float]]  # seconds, training value, test value


def diabetes(rng: Any, n: int) -> tuple[Any, Any]:
    """The bundled set, everything standardised; 353 samples to train on and 89 to test."""
    parts = [read_bundled("diabetes", part) for part in ("train", "test")]
    x, y = (np.concatenate([np.asarray(p[i], dtype=np.float64) for p in parts]) for i in (0, 1))
    y = y.reshape(len(y))
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


PROBLEMS: dict[str, tuple[Any, list[int], list[Any], int, int]] = {  # data, input, layers, train, test
    "2-64-64-1 tanh": (smooth_2, [2], dense(64, 64, 1, activation="tanh"), 2000, 1000),
    "10-128-128-128-1 tanh": (smooth_10, [10], dense(128, 128, 128, 1, activation="tanh"), 4000, 1000),
    "diabetes 10-16-1 tanh": (diabetes, [10], dense(16, 1, activation="tanh"), 353, 89),
}


SETS: dict[str, tuple[dict[str, str], list[int], list[Any], int]] = {  # parts, input, layers, samples at most
    "digits 64-64-10": ({"train": "digits", "test": "digits"}, [64], dense(64, 10), 10**9),
    "letter 16-300-300-26": (
        {"train": "/letter.scale.txt.xz", "test": "/letter.scale.t.txt"},
        [16],
        dense(300, 300, 26),
        10**9,
    ),
    "MNIST 784-300-100-10": (
        {"train": "/train-images-idx3-ubyte.gz", "test": "/t10k-images-idx3-ubyte.gz"},
        [784],
        dense(300, 100, 10),
        10000,
    ),
}


class Task:
    """A net, data and starting weights for all methods."""

    def __init__(
        self,
        shape: list[int],
        layers: list[Any],
        loss: str,
        train: Any,
        test: Any,
        dtype: str,
        places: tuple[Device, str],
    ) -> None:
        """`places` are dnewton's device and PyTorch's."""
        self.device, self.torch_device = places
        self.shape, self.layers, self.loss, self.dtype = shape, layers, loss, dtype
        self.train, self.test = train, test
        config = Config.model_validate({"net": {"input": shape, "loss": loss, "layers": layers}})
        self.shapes = infer_shapes(config.net)
        outputs = self.shapes[-1].out_shape[0]
        plan = grid_search.choose(self.shapes, 1, grid_search.Workload(len(train[0]), len(train[0]), outputs))
        self.comm = Comm.world().on_grid(plan.grid)
        self.network = Network(plan, self.comm)
        self.theta = init_weights.weights(self.network, 0, dtype)  # on the host
        self.outputs = outputs

    def targets(self, y: Any) -> Any:
        if self.loss == "squared":
            return y.reshape(len(y), 1).astype(self.dtype)
        return np.eye(self.outputs, dtype=self.dtype)[y]

    def score(self, z: Any, y: Any) -> float:
        """Sum of squared errors, or of right answers."""
        if self.loss == "squared":
            return float(((z - y) ** 2).sum())
        return float((z.argmax(1) == y.argmax(1)).sum())

    def newton(self, seconds: float, options: dict[str, Any]) -> Curve:
        """One rank; the seconds are those of the solver, the scores are worked out beside the clock."""
        solver_options = Config.model_validate(
            {"net": {"input": self.shape, "loss": self.loss, "layers": self.layers}, "solver": options}
        ).solver
        put = self.device.put
        (x, y), (tx, ty) = ((put(p[0].astype(self.dtype)), put(self.targets(p[1]))) for p in (self.train, self.test))
        c = 0.0 if math.isinf(solver_options.C) else 1 / (solver_options.C * x.shape[0])
        size = subsample_size(solver_options.subsample, x.shape[0])
        item = np.dtype(self.dtype).itemsize
        work = grid_search.Workload(x.shape[0], size, self.outputs, solver_options.batch_size, item)
        rates = calibration.measure(self.dtype, self.device)
        how = curvature_plan.decide(self.network.plan, work, solver_options, rates=rates)
        objective = Objective(
            self.network,
            self.comm,
            Samples(x, y),
            loss_of(self.loss),
            self.score,
            c,
            how.batch,
            how.activation_cache_bytes,
        )
        solver = Newton(objective, solver_options, self.comm, how)
        wait(self.device)
        begin, spent, curve = time.perf_counter(), 0.0, []
        step = solver.start(State(put(self.theta.copy()), solver_options.lambda_))
        while True:
            wait(self.device)
            spent += time.perf_counter() - begin
            test = self.score(self.network.forward(solver.state.theta, tx, keep=False).z, ty) / tx.shape[0]
            curve.append((spent, step.metric / step.samples, test))
            if spent > seconds or solver.ending:
                return curve
            wait(self.device)
            begin = time.perf_counter()
            step = solver.step()

    def torch_net(self) -> Any:
        modules: list[Any] = []
        for block in self.network.blocks:
            s = block.layer.spec
            linear = torch.nn.Linear(s.in_shape[0], s.out_shape[0])
            linear.weight.data = torch.from_numpy(block.weight(self.theta).copy())
            linear.bias.data = torch.from_numpy(block.bias(self.theta).copy())
            modules.append(linear)
            if s.activation != "linear":
                modules.append({"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[s.activation]())
        return torch.nn.Sequential(*modules).to(self.torch_device)

    def torch_data(self) -> Any:
        parts = [(p[0].astype(self.dtype), self.targets(p[1])) for p in (self.train, self.test)]
        return [tuple(torch.from_numpy(a).to(self.torch_device) for a in part) for part in parts]

    def _measure(self, net: Any, data: Any) -> tuple[float, float]:
        with torch.no_grad():
            return tuple(self.score(net(x).cpu().numpy(), y.cpu().numpy()) / len(x) for x, y in data)  # type: ignore[return-value]

    def _torch_loss(self, z: Any, y: Any) -> Any:
        if self.loss == "squared":
            return ((z - y) ** 2).mean()
        return torch.nn.functional.cross_entropy(z, y)

    def adam(self, seconds: float, rate: float, batch: int) -> Curve:
        """Minibatches, the rate decaying by a cosine over the given seconds."""
        net, data = self.torch_net(), self.torch_data()
        (x, y), curve = data[0], []
        optimiser = torch.optim.Adam(net.parameters(), lr=rate)
        generator = torch.Generator().manual_seed(0)
        spent = 0.0
        while spent < seconds:
            wait(self.device)
            begin = time.perf_counter()
            for group in optimiser.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * min(1.0, spent / seconds)))
            for part in torch.randperm(len(x), generator=generator).to(self.torch_device).split(batch):
                optimiser.zero_grad()
                self._torch_loss(net(x[part]), y[part]).backward()
                optimiser.step()
            wait(self.device)
            spent += time.perf_counter() - begin
            curve.append((spent, *self._measure(net, data)))
        return curve

    def lbfgs(self, seconds: float) -> Curve:
        """Full batch, strong Wolfe line search, history of 50."""
        net, data = self.torch_net(), self.torch_data()
        (x, y), curve, spent = data[0], [], 0.0
        optimiser = torch.optim.LBFGS(
            net.parameters(),
            lr=1.0,
            max_iter=20,
            history_size=50,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )

        def closure() -> Any:
            optimiser.zero_grad()
            loss = self._torch_loss(net(x), y)
            loss.backward()
            return loss

        while spent < seconds:
            wait(self.device)
            begin = time.perf_counter()
            optimiser.step(closure)
            wait(self.device)
            spent += time.perf_counter() - begin
            curve.append((spent, *self._measure(net, data)))
        return curve


def reached(curve: Curve, target: float, column: int, upward: bool = False) -> float:
    """Seconds until a value is at least as good as the target; inf if never."""
    for row in curve:
        if (row[column] >= target) if upward else (row[column] <= target):
            return row[0]
    return math.inf


def thinned(curve: Curve) -> Curve:
    """About 60 points of a curve."""
    return curve[:: max(1, len(curve) // 60)] + curve[-1:]


def regression(
    name: str, seconds: float, options: dict[str, dict[str, Any]], alone: bool, places: tuple[Device, str]
) -> dict[str, Any]:
    make, shape, layers, n, m = PROBLEMS[name]
    x, y = make(np.random.default_rng(0), n + m)
    task = Task(shape, layers, "squared", (x[:n], y[:n]), (x[n:], y[n:]), "float32", places)
    curves = {how: task.newton(seconds, chosen) for how, chosen in options.items()}
    if alone:
        print(f"\n{name}: training MSE after {seconds:g} s, and seconds to 1e-3, 1e-5 and 1e-7")
        for how, curve in curves.items():
            times = "  ".join(f"{reached(curve, target, 1):6.2f}" for target in (1e-3, 1e-5, 1e-7))
            print(f"  {how:60} {min(row[1] for row in curve):>10.2e}  {times}", flush=True)
        return {"problem": name, "curves": {k: thinned(c) for k, c in curves.items()}}
    curves["L-BFGS"] = task.lbfgs(seconds)
    for rate in RATES:
        curves[f"Adam {rate:g}"] = task.adam(seconds, rate, 256)
    print(f"\n{name}: {n} samples, {make.__doc__}")
    print(
        f"  {'method':16} {'steps':>7} {'train MSE':>10} {'test MSE':>10} {'reached after':>14}"
        + "".join(f" {'by ' + how + ' after':>27} {'sooner':>7}" for how in options)
    )
    rows = {}
    for method, curve in curves.items():
        best = min(row[1] for row in curve)
        took = reached(curve, best, 1)
        there = {how: reached(curves[how], best, 1) for how in options}
        rows[method] = {"train": best, "test": curve[-1][2], "seconds": took, "by": there}
        print(
            f"  {method:16} {len(curve):>7} {best:>10.2e} {curve[-1][2]:>10.2e} {took:>12.2f} s"
            + "".join(f" {t:>25.2f} s {took / t:>6.1f}x" for t in there.values()),
            flush=True,
        )
    return {"problem": name, "rows": rows, "curves": {k: thinned(c) for k, c in curves.items()}}


def read_set(part: dict[str, str], shape: list[int], layers: list[Any], comm: Comm) -> list[tuple[Any, Any]]:
    """Samples and labels of the training and the test part, scaled as a run would scale them."""
    config = Config.model_validate(
        {"net": {"input": shape, "loss": "cross_entropy", "layers": layers}, "data": {**part, "scale": "standardize"}}
    )
    job = assemble(config, comm, "benchmark")
    found = [(d.x, to_host(d.y).argmax(1)) for d in (job.objective.data, job.others["test"])]
    job.solver.close()
    return found


def classification(
    name: str, seconds: float, folder: Path | None, comm: Comm, places: tuple[Device, str]
) -> dict[str, Any] | None:
    """Seconds to 98 % of the best test accuracy that any method reaches."""
    part, shape, layers, cut = SETS[name]
    if "/" in str(part["train"]):
        if folder is None:
            return None
        part = {k: str(folder / Path(v).name) for k, v in part.items()}
    (x, y), (tx, ty) = read_set(part, shape, layers, comm)
    task = Task(shape, layers, "cross_entropy", (x[:cut], y[:cut]), (tx, ty), "float32", places)
    curves = {"newton": task.newton(seconds, {"max_iterations": 10**6})}
    for rate in RATES:
        curves[f"Adam {rate:g}"] = task.adam(seconds, rate, 128)
    best = max(row[2] for curve in curves.values() for row in curve)
    print(f"\n{name}: {len(y[:cut])} samples; best test accuracy of all {best:.4f}")
    print(f"  {'method':12} {'steps':>7} {'best test':>10} {'98 % of the best after':>24}")
    rows = {}
    for method, curve in curves.items():
        highest, took = max(row[2] for row in curve), reached(curve, 0.98 * best, 2, upward=True)
        rows[method] = {"best": highest, "seconds": took}
        print(f"  {method:12} {len(curve):>7} {highest:>10.4f} {took:>22.2f} s", flush=True)
    return {"problem": name, "rows": rows, "curves": {k: thinned(c) for k, c in curves.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--problems", nargs="+", default=[""], help="parts of names")
    parser.add_argument("--also", nargs="+", default=[], help="further settings of Newton, as JSON")
    parser.add_argument("--alone", action="store_true", help="regression by Newton's settings only")
    parser.add_argument("--classify", action="store_true")
    parser.add_argument("--data", help="folder with the public sets")
    add_devices(parser)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    comm = Comm.world()
    places = opened(args, comm)
    options = {**OPTIONS, **{f"newton {text}": {**OPTIONS["newton"], **json.loads(text)} for text in args.also}}
    with threads(args.threads):
        found = [
            regression(n, args.seconds, options, args.alone, places)
            for n in PROBLEMS
            if any(part in n for part in args.problems)
        ]
        folder = Path(args.data) if args.data else None
        for name in SETS:
            if args.classify and any(part in name for part in args.problems):
                found += [row] if (row := classification(name, args.seconds, folder, comm, places)) else []
    write(args.json, found)


if __name__ == "__main__":
    main()
