#!/usr/bin/env python3
"""Relative L2 error over seconds for nets trained on differential equations, against PyTorch on the same points.

    python scripts/bench/physics.py [--problems poisson2 heat1 poisson5 heat4 poisson2-deep] [--seconds 60]
    mpirun -np 2 python scripts/bench/physics.py                     dnewton on two ranks
    python scripts/bench/physics.py --torch adam lbfgs gauss-newton  with PyTorch beside it, from the same start

The problems of Dangel, Müller, Zeinhofer (NeurIPS 2024): u = Π sin πxᵢ or Σ cos πxᵢ on the unit cube, the heat
equation with κ = 1/4; float64, tanh, terms of weight 1; 1,000 other points for the error. Seconds are those of
training, the test points' evaluations left out. `adam`: all points in every step, the rate falling from 1e-2 by a
cosine over the seconds; `lbfgs`: strong Wolfe, 50 pairs; `gauss-newton`: the Jacobian by torch.func and Cholesky,
damped by the gain.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import dnewton as dn

LEVELS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
KAPPA = 0.25


@dataclass(frozen=True)
class Problem:
    """An equation with its solution; the last input of `heat` is time."""

    inputs: int
    hidden: tuple[int, ...]
    inside: int
    edges: int
    kind: str  # sine, cosine, heat

    def solution(self, x: Any, xp: Any = np) -> Any:
        """u, (n,)."""
        if self.kind == "cosine":
            return xp.cos(math.pi * x).sum(-1)
        space = x if self.kind == "sine" else x[..., :-1]
        u = xp.sin(math.pi * space).prod(-1)
        if self.kind == "sine":
            return u
        return u * xp.exp(-KAPPA * math.pi**2 * (self.inputs - 1) * x[..., -1])

    def source(self, x: Any, xp: Any = np) -> Any:
        """f = -Δu of the Poisson problems, (n,)."""
        return math.pi**2 * (self.inputs if self.kind == "sine" else 1) * self.solution(x, xp)

    def points(self, seed: int = 0) -> tuple[Any, Any, Any]:
        """Inside, on the edges, and others for the error."""
        rng = np.random.default_rng(seed)
        inside, test = rng.uniform(size=(self.inside, self.inputs)), rng.uniform(size=(1000, self.inputs))
        edge = rng.uniform(size=(self.edges, self.inputs))
        space = self.inputs - (self.kind == "heat")
        for row in edge:  # a face each; of heat also the beginning
            side = rng.integers(2 * space + (self.kind == "heat"))
            row[-1 if side == 2 * space else side // 2] = 0.0 if side == 2 * space else float(side % 2)
        return inside, edge, test

    def equation(self, x: Any, u: Any) -> Any:
        """The residual inside, for dnewton."""
        if self.kind == "heat":
            space = range(self.inputs - 1)
            return u.d(self.inputs - 1) - KAPPA * u.laplacian(*space)
        return u.laplacian() + self.source(x)[:, None]


PROBLEMS = {
    "poisson2": Problem(2, (64,), 900, 120, "sine"),
    "heat1": Problem(2, (64,), 900, 120, "heat"),
    "poisson5": Problem(5, (64,), 3000, 500, "cosine"),
    "heat4": Problem(5, (64,), 3000, 500, "heat"),
    "poisson2-deep": Problem(2, (64, 64, 48, 48), 900, 120, "sine"),
}
Curve = list[tuple[float, float]]  # seconds, relative L2 error


def by_dnewton(problem: Problem, seconds: float, seed: int) -> tuple[Curve, dict[str, Any], int]:
    """The curve, the weights at the start, and the iterations."""
    inside, edge, test = problem.points()
    layers = [*(dn.dense(n, "tanh") for n in problem.hidden), dn.dense(1)]
    given = {
        "terms": [dn.Residual(problem.equation, inside), dn.Data(edge, problem.solution(edge))],
        "parallel": {"dtype": "float64"},
    }
    net = dn.net([problem.inputs], layers)
    start = dn.fit(net, **given, solver={"max_iterations": 0, "seed": seed}).weights()
    solver = {"max_iterations": 100_000, "seed": seed}
    model = dn.fit(net, **given, test=(test, problem.solution(test)), solver=solver, max_seconds=seconds)
    size = math.sqrt(np.mean(problem.solution(test) ** 2))
    history = model.history
    curve = list(zip(history["train_seconds"].tolist(), (history["test_rmse"] / size).tolist(), strict=True))
    return curve, start, len(curve) - 1


def by_torch(problem: Problem, method: str, seconds: float, start: dict[str, Any]) -> Curve:
    """The same loss, points and start."""
    import torch

    torch.set_default_dtype(torch.float64)
    inside, edge, test = (torch.from_numpy(p) for p in problem.points())
    names = list(start)
    shapes = [start[name].shape for name in names]
    theta = torch.cat([torch.from_numpy(np.array(start[name])).reshape(-1) for name in names])
    wanted_edge = torch.from_numpy(problem.solution(edge.numpy()))
    exact = torch.from_numpy(problem.solution(test.numpy()))
    source = torch.from_numpy(problem.source(inside.numpy())) if problem.kind != "heat" else None

    def net(theta: Any, x: Any) -> Any:
        at, h = 0, x
        pieces = []
        for shape in shapes:
            n = math.prod(shape)
            pieces.append(theta[at : at + n].reshape(shape))
            at += n
        for k in range(0, len(pieces), 2):
            h = h @ pieces[k].T + pieces[k + 1]
            h = torch.tanh(h) if k + 2 < len(pieces) else h
        return h[..., 0]

    def inside_residual(theta: Any, x: Any) -> Any:
        def one(point: Any) -> Any:
            return net(theta, point)

        second = torch.func.hessian(one)(x)
        if problem.kind == "heat":
            first = torch.func.grad(one)(x)
            return first[-1] - KAPPA * torch.diagonal(second)[:-1].sum()
        return torch.trace(second)

    rows = torch.func.vmap(inside_residual, in_dims=(None, 0), chunk_size=500)

    def residuals(theta: Any) -> Any:
        r = rows(theta, inside)
        r = r if source is None else r + source
        return torch.cat([r / math.sqrt(len(inside)), (net(theta, edge) - wanted_edge) / math.sqrt(len(edge))])

    def error(theta: Any) -> float:
        with torch.no_grad():
            return float(torch.linalg.norm(net(theta, test) - exact) / torch.linalg.norm(exact))

    steps = {"adam": _adam, "lbfgs": _lbfgs, "gauss-newton": _gauss_newton}[method](residuals, theta, seconds)
    curve, spent, begun = [(0.0, error(theta))], 0.0, time.perf_counter()
    for now in steps:
        spent += time.perf_counter() - begun
        curve.append((spent, error(now)))
        if spent > seconds:
            break
        begun = time.perf_counter()
    return curve


def _adam(residuals: Callable[[Any], Any], theta: Any, seconds: float) -> Iterator[Any]:
    import torch

    theta = theta.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=1e-2)
    begun = time.perf_counter()
    while True:
        share = min(1.0, (time.perf_counter() - begun) / seconds)
        optimiser.param_groups[0]["lr"] = 0.5e-2 * (1 + math.cos(math.pi * share)) + 1e-6
        optimiser.zero_grad()
        (residuals(theta) ** 2).sum().backward()
        optimiser.step()
        yield theta.detach()


def _lbfgs(residuals: Callable[[Any], Any], theta: Any, seconds: float) -> Iterator[Any]:
    import torch

    theta = theta.clone().requires_grad_()
    options = {"history_size": 50, "line_search_fn": "strong_wolfe", "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimiser = torch.optim.LBFGS([theta], max_iter=10, **options)

    def closure() -> Any:
        optimiser.zero_grad()
        loss = (residuals(theta) ** 2).sum()
        loss.backward()
        return loss

    while True:
        optimiser.step(closure)
        yield theta.detach()


def _gauss_newton(residuals: Callable[[Any], Any], theta: Any, seconds: float) -> Iterator[Any]:
    import torch

    jacobian = torch.func.jacrev(residuals, chunk_size=256)
    damping, factor = 1.0, 2.0
    r = residuals(theta)
    while True:
        j = jacobian(theta)
        g, gram = j.T @ r, j.T @ j
        while True:
            step = -torch.cholesky_solve(g[:, None], torch.linalg.cholesky(gram + damping * torch.eye(len(g))))[:, 0]
            new = residuals(theta + step)
            expected = -(2 * g @ step + step @ gram @ step)
            ratio = float((r @ r - new @ new) / expected)
            if ratio > 1e-4:
                break
            damping, factor = damping * factor, factor * 2
            if damping > 1e12:
                return
        theta, r = theta + step, new
        damping, factor = damping * max(0.1, 1 - (2 * ratio - 1) ** 3), 2.0
        yield theta


def told(curve: Curve) -> str:
    """Seconds to each level, and the least error."""
    firsts = [next((f"{s:.1f}" for s, e in curve if e <= level), "-") for level in LEVELS]
    least = min(e for _, e in curve)
    return " ".join(f"{first:>7}" for first in firsts) + f"  {least:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--torch", nargs="*", default=[], choices=["adam", "lbfgs", "gauss-newton"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    shown = False
    for name in args.problems:
        problem = PROBLEMS[name]
        curve, start, iterations = by_dnewton(problem, args.seconds, args.seed)
        from dnewton.api import ranks

        comm = ranks.opened(None)
        first = comm.rank == 0
        count = comm.size
        comm.free()
        if not first:
            continue
        if not shown:
            print(f"{'':33}", *(f"{level:7.0e}" for level in LEVELS), " least")
            shown = True
        print(f"{name:14} {f'dnewton, {count} rank(s)':18} {told(curve)}  {iterations} iterations", flush=True)
        results[name] = {"dnewton": curve}
        for method in args.torch:
            results[name][method] = by_torch(problem, method, args.seconds, start)
            print(f"{name:14} {method:18} {told(results[name][method])}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
