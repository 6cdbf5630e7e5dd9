"""PyTorch on the problems of physics.py: the same loss, points, net and start as dnewton's.

Derivatives by the inputs in three ways: `jets`, the chain rule by hand from layer to layer; `jvp`, torch.func.jvp
twice; `autograd`, torch.autograd.grad twice with create_graph, as most programs do. Each problem is solved by the way
that is the fastest for it, which a few calls before the clock starts tell. The methods are generators of weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from physics_problems import Problem, Term

WAYS = ("jets", "jvp", "autograd")
Key = Any  # of a derivative: None (the value), an axis, a tuple of pairs of axes
Curve = list[tuple[float, float]]  # seconds, relative L2 error


class Field:
    """What an equation asks for, as dnewton's."""

    def __init__(self, get: Callable[[Key], Any], inputs: int) -> None:
        self._get, self._inputs = get, inputs

    @property
    def value(self) -> Any:
        return self._get(None)

    def d(self, a: int) -> Any:
        return self._get(a)

    def dd(self, a: int, b: int) -> Any:
        return self._get(((a, b),))

    def laplacian(self, *axes: int) -> Any:
        return self._get(tuple((a, a) for a in axes or range(self._inputs)))


class Equations:
    """The weighted residuals of a problem as a function of one vector: all weights, and the unknown parameters."""

    def __init__(self, problem: Problem, start: dict[str, Any], way: str) -> None:
        torch.set_default_dtype(torch.float64)
        self.problem = problem
        self.jets = {"jets": _jets, "jvp": _jvp, "autograd": _autograd}[way]
        weights = [np.array(start[f"layers.{k}.{part}"]) for k in range(len(problem.hidden) + 1) for part in PARTS]
        self.shapes = [w.shape for w in weights]
        flat = [torch.from_numpy(w).double().reshape(-1) for w in weights]
        self.start = torch.cat([*flat, torch.tensor(list(problem.unknown.values()))])
        self.points = [torch.from_numpy(term.points) for term in problem.terms]
        self.sources = [torch.from_numpy(term.source(term.points)) for term in problem.terms]
        self.keys = [self._asked(term) for term in problem.terms]
        self.test = [torch.from_numpy(a) for a in problem.test]

    def _asked(self, term: Term) -> list[Key]:
        """The derivatives that an equation asks for."""
        found: dict[Key, None] = {}

        def get(key: Key) -> Any:
            found[key] = None
            return torch.zeros(1, self.problem.outputs)

        term.equation(Field(get, self.problem.inputs), torch.zeros(1, 1), *self.problem.unknown.values())
        return list(found)

    def layers(self, theta: Any) -> tuple[list[Any], Any]:
        """Weights and biases, and the unknown parameters."""
        sizes = [math.prod(shape) for shape in self.shapes]
        *pieces, unknown = torch.split(theta, [*sizes, len(self.problem.unknown)])
        return [p.reshape(shape) for p, shape in zip(pieces, self.shapes, strict=True)], unknown

    def of_term(self, theta: Any, k: int, points: Any, source: Any) -> Any:
        """The residuals of a term, (n, equations), times √(weight / points)."""
        layers, unknown = self.layers(theta)
        values = self.jets(layers, points, self.keys[k])
        term = self.problem.terms[k]
        r = term.equation(Field(values.__getitem__, self.problem.inputs), source, *unknown)
        return r * math.sqrt(term.weight / len(self.points[k]))

    def residuals(self, theta: Any) -> Any:
        """All of them, one vector."""
        rows = zip(self.points, self.sources, strict=True)
        return torch.cat([self.of_term(theta, k, x, f).reshape(-1) for k, (x, f) in enumerate(rows)])

    def gradient(self, theta: Any) -> Any:
        """Of the loss."""
        theta = theta.clone().requires_grad_()
        (self.residuals(theta) ** 2).sum().backward()
        return theta.grad

    def jacobian(self, theta: Any) -> Any:
        """By reverse mode for each point alone, batched by vmap."""
        found = []
        for k, (x, f) in enumerate(zip(self.points, self.sources, strict=True)):

            def one(theta: Any, x: Any, f: Any, k: int = k) -> Any:
                return self.of_term(theta, k, x[None], f[None])[0]

            rows = torch.func.vmap(torch.func.jacrev(one), in_dims=(None, 0, 0), chunk_size=512)(theta, x, f)
            found.append(rows.reshape(-1, len(theta)))
        return torch.cat(found)

    def error(self, theta: Any) -> float:
        """Relative, on other points."""
        with torch.no_grad():
            u = _net(self.layers(theta)[0], self.test[0])
            return float(torch.linalg.norm(u - self.test[1]) / torch.linalg.norm(self.test[1]))


PARTS = ("weight", "bias")


def _net(layers: list[Any], x: Any) -> Any:
    for k in range(0, len(layers), 2):
        x = x @ layers[k].T + layers[k + 1]
        x = torch.tanh(x) if k + 2 < len(layers) else x
    return x


def _jets(layers: list[Any], x: Any, keys: list[Key]) -> dict[Key, Any]:
    """The value, first derivatives, and sums of second ones. Those of the first layer do not depend on x."""
    sums = [key for key in keys if isinstance(key, tuple)]
    inner = {a for pairs in sums for pair in pairs for a in pair}
    axes = sorted(inner | {key for key in keys if isinstance(key, int)})
    value = x @ layers[0].T + layers[1]
    first = {a: layers[0][:, a] for a in axes}  # (width,), of hidden layers (n, width)
    second: dict[Key, Any] = dict.fromkeys(sums, 0.0)
    for k in range(2, len(layers), 2):
        y = torch.tanh(value)
        slope = 1 - y * y
        bend = -2 * y * slope
        for key in sums:
            bent = bend * sum(first[a] * first[b] for a, b in key)
            second[key] = (bent if k == 2 else torch.addcmul(bent, slope, second[key])) @ layers[k].T
        first = {a: (slope * s) @ layers[k].T for a, s in first.items()}
        value = torch.addmm(layers[k + 1], y, layers[k].T)
    return {None: value, **first, **second}


def _jvp(layers: list[Any], x: Any, keys: list[Key]) -> dict[Key, Any]:
    def along(f: Callable[[Any], Any], a: int) -> Callable[[Any], Any]:
        unit = torch.zeros_like(x) + torch.eye(x.shape[1])[a]
        return lambda x: torch.func.jvp(f, (x,), (unit,))[1]

    def net(x: Any) -> Any:
        return _net(layers, x)

    def of(key: Key) -> Any:
        if isinstance(key, tuple):
            return sum(along(along(net, a), b)(x) for a, b in key)
        return net(x) if key is None else along(net, key)(x)

    return {key: of(key) for key in keys}


def _autograd(layers: list[Any], x: Any, keys: list[Key]) -> dict[Key, Any]:
    x = x.clone().requires_grad_()
    u = _net(layers, x)
    if keys == [None]:
        return {None: u}
    gradients = [torch.autograd.grad(column.sum(), x, create_graph=True)[0] for column in u.T]
    needs = {pair[0] for key in keys if isinstance(key, tuple) for pair in key}
    firsts = needs | {key for key in keys if isinstance(key, int)}
    first = {a: torch.stack([g[:, a] for g in gradients], 1) for a in firsts}
    second = {a: [torch.autograd.grad(column.sum(), x, create_graph=True)[0] for column in first[a].T] for a in needs}

    def of(key: Key) -> Any:
        if isinstance(key, tuple):
            return sum(torch.stack([g[:, b] for g in second[a]], 1) for a, b in key)
        return u if key is None else first[key]

    return {key: of(key) for key in keys}


def run(equations: Equations, method: str, seconds: float, rate: float = 1e-2) -> tuple[Curve, int]:
    """The curve, and the steps. What is worked out for the curve is beside the clock."""
    steps = {
        "adam": lambda: _adam(equations, seconds, rate),
        "lbfgs": lambda: _lbfgs(equations),
        "gauss-newton": lambda: _gauss_newton(equations),
    }[method]()
    curve, spent, begun = [(0.0, equations.error(equations.start))], 0.0, time.perf_counter()
    count, looked = 0, 0.0
    for theta in steps:
        count += 1
        spent += time.perf_counter() - begun
        if method != "adam" or spent - looked > seconds / 500 or spent > seconds:
            looked = spent
            curve.append((spent, equations.error(theta)))
        if spent > seconds:
            break
        begun = time.perf_counter()
    return curve, count


def _adam(equations: Equations, seconds: float, rate: float) -> Iterator[Any]:
    theta = equations.start.clone().requires_grad_()
    optimiser = torch.optim.Adam([theta], lr=rate)
    begun = time.perf_counter()
    while True:
        share = min(1.0, (time.perf_counter() - begun) / seconds)
        optimiser.param_groups[0]["lr"] = rate * (0.5 * (1 + math.cos(math.pi * share)) + 1e-4)
        optimiser.zero_grad()
        (equations.residuals(theta) ** 2).sum().backward()
        optimiser.step()
        yield theta.detach()


def _lbfgs(equations: Equations) -> Iterator[Any]:
    """Begins afresh where its line search finds nothing, and ends where that does not help either."""
    options = {"history_size": 50, "line_search_fn": "strong_wolfe", "tolerance_grad": 0.0, "tolerance_change": 0.0}
    theta = equations.start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([theta], max_iter=10, **options)

    def closure() -> Any:
        optimiser.zero_grad()
        loss = (equations.residuals(theta) ** 2).sum()
        loss.backward()
        return loss

    stuck = 0
    while stuck < 2:
        before = theta.detach().clone()
        optimiser.step(closure)
        stuck = stuck + 1 if torch.equal(before, theta.detach()) else 0
        if stuck:
            optimiser = torch.optim.LBFGS([theta], max_iter=10, **options)
        yield theta.detach()


def _gauss_newton(equations: Equations) -> Iterator[Any]:
    """Levenberg-Marquardt by the smaller of JᵀJ and JJᵀ, damped by the gain."""
    theta, damping, factor = equations.start.clone(), 1.0, 2.0
    with torch.no_grad():
        r = equations.residuals(theta)
        while True:
            j = equations.jacobian(theta)
            g = j.T @ r
            dual = len(r) < len(g)
            gram = j @ j.T if dual else j.T @ j
            while True:
                factors = torch.linalg.cholesky(gram + damping * torch.eye(len(gram)))
                solved = torch.cholesky_solve((r if dual else g)[:, None], factors)[:, 0]
                step = -(j.T @ solved) if dual else -solved
                new = equations.residuals(theta + step)
                along = j @ step
                ratio = float((r @ r - new @ new) / -(2 * g @ step + along @ along))
                if ratio > 1e-4:
                    break
                damping, factor = damping * factor, factor * 2
                if damping > 1e12:
                    return
            theta, r = theta + step, new
            damping, factor = damping * max(0.1, 1 - (2 * ratio - 1) ** 3), 2.0
            yield theta


def fastest(problem: Problem, start: dict[str, Any], jacobian: bool) -> tuple[str, dict[str, float]]:
    """The way to differentiate that takes the fewest seconds for the loss with its gradient or for the Jacobian, and
    the milliseconds of all."""
    found = {}
    for way in WAYS[:2] if jacobian else WAYS:  # torch.func does not take torch.autograd.grad
        equations = Equations(problem, start, way)
        call = equations.jacobian if jacobian else equations.gradient
        found[way] = _least(lambda call=call, equations=equations: call(equations.start))  # type: ignore[misc]
    return min(found, key=found.__getitem__), found


def _least(call: Callable[[], Any]) -> float:
    found = []
    for _ in range(6):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return 1e3 * min(found)
