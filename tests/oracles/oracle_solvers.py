"""A slow, plain reference of the comparison solvers: one process, whole vectors, all workers in one loop.

Written from the methods' equations (docs/solvers.md) on top of oracle.py. A method is given its options as a
plain mapping. With the package it shares one convention only: which samples are a worker's part of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import oracle
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Options = Mapping[str, Any]
ORDER, OVERLAP = 4, 5


# --- samples --------------------------------------------------------------------------------------------------------


def draw(seed: int, purpose: int, counter: int, samples: int) -> Indices:
    """A permutation of all samples."""
    bits = np.random.Philox(key=[seed, purpose], counter=[0, 0, counter, 0])
    return np.random.Generator(bits).permutation(samples)


def batches(samples: int, workers: int, batch: int, seed: int, epoch: int) -> Iterator[list[Indices]]:
    """Every batch of a pass, as the samples of each worker."""
    order, size = draw(seed, ORDER, epoch, samples), workers * batch
    for start in range(0, samples, size):
        run = order[start : start + size]
        n = len(run)
        yield [np.sort(run[r * n // workers : (r + 1) * n // workers]) for r in range(workers)]


def common(samples: int, seed: int, counter: int, size: int) -> Indices:
    """Samples that all workers take."""
    return np.sort(draw(seed, OVERLAP, counter, samples)[:size])


# --- the objective ----------------------------------------------------------------------------------------------------


class Task:
    """A problem of tests/support/problems.py as functions of one flat vector."""

    def __init__(self, problem: Any) -> None:
        self.problem, self.samples = problem, problem.samples
        self.shapes = {k: v.shape for k, v in problem.params.items()}
        self.start = oracle.flatten_params(problem.params)

    def params(self, theta: Array) -> dict[str, Array]:
        return oracle.unflatten(theta, self.shapes)

    def _given(self, theta: Array, rows: Indices | None) -> tuple[Any, ...]:
        p = self.problem
        rows = np.arange(p.samples) if rows is None else rows
        c = p.C * p.samples / len(rows)  # the regulariser belongs to all samples
        return self.params(theta), p.parsed, p.x[rows], p.y[rows], p.loss, c

    def gradient(self, theta: Array, rows: Indices | None = None) -> Array:
        """The mean over some samples, the regulariser's part included."""
        return oracle.flatten_params(oracle.gradient(*self._given(theta, rows)))

    def value(self, theta: Array, rows: Indices | None = None) -> float:
        return oracle.objective(*self._given(theta, rows))

    def gauss_newton(self, theta: Array, rows: Indices) -> Array:
        p = self.problem
        return oracle.gauss_newton_matrix(self.params(theta), p.parsed, p.x[rows], p.y[rows], p.loss, p.C, p.samples)

    def hessian(self, theta: Array, rows: Indices, h: float = 2e-3) -> Array:
        """By differences of gradients over five points."""
        columns = []
        for e in np.eye(len(theta)):
            g = [self.gradient(theta + k * h * e, rows) for k in (-2, -1, 1, 2)]
            columns.append((g[0] - 8 * g[1] + 8 * g[2] - g[3]) / (12 * h))
        found = np.array(columns)
        return 0.5 * (found + found.T)


def rate_at(o: Options, at: float) -> float:
    """The learning rate after `at` passes."""
    s, base = o["schedule"], o["learning_rate"]
    if s["name"] == "step":
        for milestone in s["milestones"]:
            if milestone <= at:
                base = base * s["factor"]
    elif s["name"] == "cosine":
        base = base * math.cos(0.5 * math.pi * min(at / o["max_iterations"], 1.0)) ** 2
    elif s["name"] == "inverse":
        base = base * (1.0 + s["decay"] * at) ** -s["power"]
    if at < s["warmup"]:
        base = base * (at + 1e-3) / s["warmup"]
    return base


# --- methods ----------------------------------------------------------------------------------------------------------


class Method:
    """Workers 0 ... D - 1, one step of all of them at a time."""

    def __init__(self, task: Task, workers: int, o: Options) -> None:
        self.task, self.D, self.o = task, workers, o
        self.theta = task.start.copy()
        self.count = 0  # steps done
        self.begin()

    def begin(self) -> None:
        """State of the method."""

    def step(self, shares: list[Indices], rate: float) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """After a pass."""

    def joint_gradient(self, shares: list[Indices], at: Array) -> Array:
        return self.task.gradient(at, np.concatenate(shares))


def run(problem: Any, workers: int, o: Options, passes: int) -> list[Array]:
    """The evaluated points: the first one, and one after every pass."""
    return [theta for theta, _ in history(problem, workers, o, passes)]


def history(problem: Any, workers: int, o: Options, passes: int) -> Iterator[tuple[Array, Method]]:
    """The same with the method's whole state."""
    task = Task(problem)
    method = METHODS[o["name"] + ("" if o.get("mode", "sync") == "sync" else "/served")](task, workers, o)
    yield method.theta.copy(), method
    for epoch in range(passes):
        every = list(batches(task.samples, workers, o["batch"], o["seed"], epoch))
        for k, shares in enumerate(every):
            method.step(shares, rate_at(o, epoch + k / len(every)))
            method.count += 1
        method.end()
        yield method.theta.copy(), method


class SGD(Method):
    def begin(self) -> None:
        self.v = np.zeros_like(self.theta)

    def step(self, shares: list[Indices], rate: float) -> None:
        mu = self.o["momentum"]
        g = self.joint_gradient(shares, self.theta) + self.o["weight_decay"] * self.theta
        self.v = mu * self.v + g
        self.theta = self.theta - rate * (g + mu * self.v if self.o["nesterov"] else self.v)


class Adam(Method):
    def begin(self) -> None:
        self.m, self.s, self.t = np.zeros_like(self.theta), np.zeros_like(self.theta), 0

    def step(self, shares: list[Indices], rate: float) -> None:
        o, decay = self.o, self.o["weight_decay"]
        g = self.joint_gradient(shares, self.theta)
        if o["name"] == "adam":
            g = g + decay * self.theta
        self.t += 1
        self.m = o["beta1"] * self.m + (1 - o["beta1"]) * g
        self.s = o["beta2"] * self.s + (1 - o["beta2"]) * g**2
        m, s = self.m / (1 - o["beta1"] ** self.t), self.s / (1 - o["beta2"] ** self.t)
        decayed = self.theta * (1 - rate * decay) if o["name"] == "adamw" else self.theta
        self.theta = decayed - rate * m / (np.sqrt(s) + o["epsilon"])


class Local(Method):
    """Workers with points x and momenta v of their own; Nesterov's momentum."""

    delta = 0.0

    def begin(self) -> None:
        self.x = [self.theta.copy() for _ in range(self.D)]
        self.v = [np.zeros_like(self.theta) for _ in range(self.D)]

    def local(self, r: int, rows: Indices, rate: float) -> None:
        """v ← δ v - η g(x + δ v); x ← x + v."""
        if len(rows):
            g = self.task.gradient(self.x[r] + self.delta * self.v[r], rows)
            self.v[r] = self.delta * self.v[r] - rate * g
            self.x[r] = self.x[r] + self.v[r]


class Elastic(Local):
    """x ← x + step - α (x_t - x̃_t), x̃ ← (1 - β) x̃_t + β mean(x_t): all right-hand sides from time t."""

    def begin(self) -> None:
        super().begin()
        self.delta = self.o["momentum"] if self.o["name"] == "eamsgd" else 0.0

    def step(self, shares: list[Indices], rate: float) -> None:
        old, centre, beta = [x.copy() for x in self.x], self.theta, self.o["beta"]
        for r, rows in enumerate(shares):
            self.local(r, rows, rate)
        if self.count % self.o["tau"] == 0:
            for r in range(self.D):
                self.x[r] = self.x[r] - beta / self.D * (old[r] - centre)
            self.theta = (1 - beta) * centre + beta * np.mean(old, axis=0)


class ElasticInTurn(Elastic):
    """Workers exchange one after another: each sees the centre that the one before has moved."""

    def step(self, shares: list[Indices], rate: float) -> None:
        for r, rows in enumerate(shares):
            pull = self.o["beta"] / self.D * (self.x[r] - self.theta)
            self.local(r, rows, rate)
            if self.count % self.o["tau"] == 0:
                self.theta = self.theta + pull
                self.x[r] = self.x[r] - pull


class Downpour(Local):
    """Steps that have added up are pushed, then the centre is pulled; z is the mean of all centres or a moving one."""

    def begin(self) -> None:
        super().begin()
        self.centre, self.velocity = self.theta.copy(), np.zeros_like(self.theta)
        self.centres = [self.centre.copy()]
        self.added = [np.zeros_like(self.theta) for _ in range(self.D)]
        self.any = [False] * self.D

    def step(self, shares: list[Indices], rate: float) -> None:
        momentum = self.o["momentum"] if self.o["name"] == "mdownpour" else 0.0
        for r, rows in enumerate(shares):
            before = self.x[r]
            self.local(r, rows, rate)
            self.added[r] = self.added[r] + (self.x[r] - before)
            self.any[r] |= len(rows) > 0
            if (self.count + 1) % self.o["tau"]:
                continue
            if self.any[r]:
                self.velocity = momentum * self.velocity + self.added[r]
                self.centre = self.centre + self.velocity
                self.centres.append(self.centre)
            self.x[r] = self.centre + momentum * self.velocity
            self.added[r], self.any[r] = np.zeros_like(self.theta), False

    def end(self) -> None:
        name, a = self.o["name"], self.o["average"]
        self.theta = self.centre
        if name == "adownpour":
            self.theta = np.mean(self.centres, axis=0)
        elif name == "mvadownpour":
            self.theta = self.centres[0]
            for c in self.centres[1:]:
                self.theta = (1 - a) * self.theta + a * c


class DelayCompensated(Method):
    """w ← w - η (g + λ g² (w - what the worker was given)); one running mean square, which begins with the first g²."""

    def begin(self) -> None:
        self.given = [self.theta.copy() for _ in range(self.D)]
        self.square: Array | None = None

    def step(self, shares: list[Indices], rate: float) -> None:
        m = self.o["mean_square"]
        for r, rows in enumerate(shares):
            if len(rows):
                g = self.task.gradient(self.given[r], rows)
                strength: Any = self.o["compensation"]
                if self.o["variant"] == "adaptive":
                    self.square = g**2 if self.square is None else m * self.square + (1 - m) * g**2
                    strength = strength / np.sqrt(self.square + 1e-7)
                self.theta = self.theta - rate * (g + strength * g**2 * (self.theta - self.given[r]))
            self.given[r] = self.theta.copy()


class Averaging(Local):
    """The mean of the workers every τ steps and after every pass; BMUF filters its displacement."""

    def begin(self) -> None:
        super().begin()
        self.delta, self.block = self.o["momentum"], np.zeros_like(self.theta)

    def step(self, shares: list[Indices], rate: float) -> None:
        for r, rows in enumerate(shares):
            self.local(r, rows, rate)
        if (self.count + 1) % self.o["tau"] == 0:
            self.average()

    def end(self) -> None:
        if self.count % self.o["tau"]:
            self.average()

    def average(self) -> None:
        o, mean = self.o, np.mean(self.x, axis=0)
        go_on = mean
        if o["block_momentum"]:
            self.block = o["block_momentum"] * self.block + o["block_rate"] * (mean - self.theta)
            go_on = self.theta = self.theta + self.block
            if o["nesterov_block"]:
                go_on = self.theta + o["block_momentum"] * self.block
        else:
            self.theta = mean
        if o["buffers"] == "reset":
            self.v = [np.zeros_like(mean)] * self.D
        elif o["buffers"] == "average":
            self.v = [np.mean(self.v, axis=0)] * self.D
        self.x = [go_on.copy() for _ in range(self.D)]


class Entropy(Method):
    """Entropy-SGD without noise (gradients over all workers' samples), and Parle (every worker its own, coupled)."""

    def begin(self) -> None:
        self.coupled = self.o["name"] == "parle"
        copies = self.D if self.coupled else 1
        self.x = [self.theta.copy() for _ in range(copies)]
        self.y, self.z = list(self.x), list(self.x)
        self.inner = [np.zeros_like(self.theta) for _ in range(copies)]
        self.outer = [np.zeros_like(self.theta) for _ in range(copies)]
        self.t = 0

    def step(self, shares: list[Indices], rate: float) -> None:
        o, mu, a = self.o, self.o["momentum"], self.o["average"]
        gamma = min(1.0, o["gamma"] * (1 + o["gamma_growth"]) ** self.t)
        for r, rows in enumerate(shares if self.coupled else [np.concatenate(shares)]):
            if len(rows):
                d = self.task.gradient(self.y[r], rows) - gamma * (self.x[r] - self.y[r])
                self.inner[r] = mu * self.inner[r] + d
                self.y[r] = self.y[r] - o["inner_rate"] * (d + mu * self.inner[r])
            self.z[r] = (1 - a) * self.z[r] + a * self.y[r]
        if (self.count + 1) % o["inner_steps"]:
            return
        rho = min(10.0, o["rho"] * (1 + o["rho_growth"]) ** self.t) if self.coupled else 0.0
        middle = np.mean(self.z, axis=0)
        for r, x in enumerate(self.x):
            d = (x - self.z[r]) + rho * (x - middle)
            self.outer[r] = mu * self.outer[r] + d
            self.x[r] = x - rate * (d + mu * self.outer[r])
            self.inner[r] = np.zeros_like(x)
        self.theta = np.mean(self.x, axis=0)
        self.y, self.z = list(self.x), list(self.x)
        self.t += 1


class RankM(Local):
    """A multi-secant step after every τ local ones and after a pass; a plain one from the mean where f would rise."""

    def begin(self) -> None:
        super().begin()
        self.delta, self.kept = self.o["momentum"], []

    def step(self, shares: list[Indices], rate: float) -> None:
        for r, rows in enumerate(shares):
            self.local(r, rows, rate)
        if (self.count + 1) % self.o["tau"] == 0:
            self.meeting(self.count + 1)

    def end(self) -> None:
        if self.count % self.o["tau"]:
            self.meeting(self.count)

    def meeting(self, counter: int) -> None:
        """`counter` steps have been taken."""
        o, task = self.o, self.task
        rows = common(task.samples, o["seed"], counter, o["overlap"])
        mean = np.mean(self.x, axis=0)
        g = [task.gradient(x, rows) for x in self.x]
        new = secant_step(np.array(self.x), np.array(g), o["type"], o["ridge"], o["secant_rate"])
        self.kept.append(task.value(new, rows) < task.value(mean, rows))
        if not self.kept[-1]:
            new = mean - o["secant_rate"] * np.mean(g, axis=0)
        self.x = [new + o["spread"] * (x - mean) for x in self.x]
        self.theta = new


def secant_step(x: Array, g: Array, kind: str, ridge: float, rate: float) -> Array:
    """x̄ - Sγ - η (ḡ - Yγ) from workers' points and gradients, a row each."""
    mean, slope = x.mean(axis=0), g.mean(axis=0)
    s, y, m = (x - mean).T, (g - slope).T, len(x)
    if not np.any(y):
        return mean - rate * slope
    matrix, right = (y.T @ y, y.T @ slope) if kind == "II" else (0.5 * (s.T @ y + y.T @ s), s.T @ slope)
    delta = ridge * np.abs(np.diag(matrix)).sum() / m
    gamma = np.linalg.lstsq(matrix + delta * np.eye(m), right, rcond=None)[0]
    return mean - s @ gamma - rate * (slope - y @ gamma)


# --- K-FAC ------------------------------------------------------------------------------------------------------------


def patches(layer: oracle.Layer, x: Array) -> Array:
    """The inputs of a layer's every output position for one sample, (T, a), the 1 of the bias last."""
    if layer.kind == "dense":
        return np.append(x, 1.0)[None]
    padded, rows = np.pad(x, ((0, 0), *((p, p) for p in layer.padding))), []
    (kh, kw), (sh, sw) = layer.kernel, layer.stride
    for i in range(0, padded.shape[1] - kh + 1, sh):
        for j in range(0, padded.shape[2] - kw + 1, sw):
            window = [padded[c, i + u, j + v] for c in range(len(padded)) for u in range(kh) for v in range(kw)]
            rows.append(np.array([*window, 1.0]))
    return np.array(rows)


def layer_gradients(problem: Any, params: Mapping[str, Array], n: int) -> dict[int, tuple[Array, Array]]:
    """For sample n and every layer with weights: its patches (T, a) and dξ/d(outputs before activation) (T, g)."""
    layers, found = problem.parsed, {}
    trace = oracle._trace(params, layers, problem.x[n])
    values, sums = trace.values, trace.sums
    cot = oracle.loss_gradient(values[-1][None], problem.y[n : n + 1], problem.loss)[0]
    for i in reversed(range(len(layers))):
        layer, x = layers[i], values[i]
        cot = cot * oracle.ACTIVATIONS[layer.activation][1](sums[i])
        if layer.kind in ("conv", "dense"):
            found[i] = patches(layer, x), cot.reshape(len(cot), -1).T
        if layer.kind == "conv":
            cot = oracle._conv_back(cot, x, layer, params[f"layers.{i}.weight"])[2]
        elif layer.kind == "dense":
            cot = params[f"layers.{i}.weight"].T @ cot
        else:
            cot = cot.reshape(x.shape) if layer.kind == "flatten" else oracle._pool_back(cot, x, layer)
    return found


def factors(problem: Any, params: Mapping[str, Array], rows: Sequence[int] | Indices) -> dict[int, tuple[Array, Array]]:
    """A = (1/b) Σ_nt p pᵀ and G = (1/bT) Σ_nt g gᵀ of every layer with weights (KFC; T = 1 for dense layers)."""
    found: dict[int, tuple[Array, Array]] = {}
    for n in rows:
        for i, (p, g) in layer_gradients(problem, params, n).items():
            a0, g0 = found.get(i, (0.0, 0.0))
            found[i] = (
                a0 + sum(np.outer(t, t) for t in p) / len(rows),
                g0 + sum(np.outer(t, t) for t in g) / len(rows) / len(g),
            )
    return dict(sorted(found.items()))


def fisher_block(problem: Any, params: Mapping[str, Array], rows: Sequence[int], i: int) -> Array:
    """(1/b) Σ_n of the outer products of a layer's per-sample gradients, (g, a) matrices in C order."""
    total: Any = 0.0
    for n in rows:
        p, g = layer_gradients(problem, params, n)[i]
        w = sum(np.outer(out, given) for out, given in zip(g, p, strict=True)).reshape(-1)
        total = total + np.outer(w, w) / len(rows)
    return total


def precondition(a: Array, g: Array, matrix: Array, kind: str, damping: float) -> Array:
    """(G ⊗ A + λI)⁻¹ of a layer's gradient, dense; or with λ parted between the factors by π."""
    if kind == "eigen":
        dense = np.kron(g, a) + damping * np.eye(matrix.size)
        return np.linalg.solve(dense, matrix.reshape(-1)).reshape(matrix.shape)
    pi = math.sqrt((np.trace(a) / len(a)) / (np.trace(g) / len(g)))
    left = np.linalg.inv(g + math.sqrt(damping) / pi * np.eye(len(g)))
    return left @ matrix @ np.linalg.inv(a + pi * math.sqrt(damping) * np.eye(len(a)))


def spread(costs: Sequence[float], bins: int, how: str) -> list[int]:
    """The bin of every item."""
    if how == "round_robin":
        return [i % bins for i in range(len(costs))]
    load, found = np.zeros(bins), [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        found[i] = int(np.argmin(load))
        load[found[i]] += costs[i]
    return found


class KFAC(Method):
    """One set of factors from all samples of a batch; dp_kfac: of each layer from its owner's samples."""

    def begin(self) -> None:
        o, p = self.o, self.task.problem
        self.v = np.zeros_like(self.theta)
        self.kind = o["inverse"] if o["inverse"] != "auto" else "pi" if o["name"] == "mpd_kfac" else "eigen"
        self.layers = [i for i, layer in enumerate(p.parsed) if layer.kind in ("conv", "dense")]
        shape = [self.task.shapes[f"layers.{i}.weight"] for i in self.layers]
        costs = [float(np.prod(s[1:]) + 1) ** 3 + float(s[0]) ** 3 for s in shape]
        alone = o["name"] == "dp_kfac"
        owners = spread(costs, self.D, o["assignment"]) if alone else [0] * len(costs)
        self.groups = {r: [i for i, w in zip(self.layers, owners, strict=True) if w == r] for r in set(owners)}
        self.alone = alone
        self.running: dict[int, tuple[Array, Array]] = {}
        self.used: dict[int, tuple[Array, Array]] = {}
        self.updates = dict.fromkeys(self.groups, 0)
        self.clip = 1.0

    def step(self, shares: list[Indices], rate: float) -> None:
        o, task, params = self.o, self.task, self.task.params(self.theta)
        g = self.joint_gradient(shares, self.theta)
        for r, layers in self.groups.items():
            rows = shares[r] if self.alone else np.concatenate(shares)
            if len(rows) and (self.count % o["factor_every"] == 0 or not self.updates[r]):
                self.updates[r] += 1
                old = min(1 - 1 / self.updates[r], o["decay"])
                fresh = factors(task.problem, params, rows)
                for i in layers:
                    before = self.running.get(i, (0.0, 0.0))
                    self.running[i] = tuple(old * b + (1 - old) * f for b, f in zip(before, fresh[i], strict=True))
            if self.count % o["inverse_every"] == 0 or not any(i in self.used for i in layers):
                self.used |= {i: self.running[i] for i in layers if i in self.running}
        p = self.preconditioned(g)
        if o["kl_clip"] is not None:
            change = abs(rate**2 * (p @ g))
            self.clip = min(1.0, math.sqrt(o["kl_clip"] / change)) if change else 1.0
            p = self.clip * p
        self.v = o["momentum"] * self.v + p + o["weight_decay"] * self.theta
        self.theta = self.theta - rate * self.v

    def preconditioned(self, g: Array) -> Array:
        found = self.task.params(g)
        for i, (a, b) in self.used.items():
            weight, bias = found[f"layers.{i}.weight"], found[f"layers.{i}.bias"]
            matrix = np.concatenate([weight.reshape(len(weight), -1), bias[:, None]], axis=1)
            matrix = precondition(a, b, matrix, self.kind, self.o["damping"])
            found[f"layers.{i}.weight"] = matrix[:, :-1].reshape(weight.shape)
            found[f"layers.{i}.bias"] = matrix[:, -1]
        return oracle.flatten_params(found)


METHODS: dict[str, type[Method]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": Adam,
    "easgd": Elastic,
    "eamsgd": Elastic,
    "easgd/served": ElasticInTurn,
    "eamsgd/served": ElasticInTurn,
    "averaging": Averaging,
    "entropy_sgd": Entropy,
    "parle": Entropy,
    "rank_m": RankM,
    "dc_asgd/served": DelayCompensated,
    "dp_kfac": KFAC,
    "d_kfac": KFAC,
    "mpd_kfac": KFAC,
    **{f"{name}/served": Downpour for name in ("downpour", "mdownpour", "adownpour", "mvadownpour")},
}


# --- Hessian-free -----------------------------------------------------------------------------------------------------


def cg(A: Array, b: Array, tolerance: float, limit: int, x: Array) -> Array:
    """A x = b from x by conjugate gradients until |r| ≤ tolerance |b|."""
    x, r = x.copy(), b - A @ x
    p = r.copy()
    for _ in range(limit):
        if np.linalg.norm(r) <= tolerance * np.linalg.norm(b):
            break
        alpha = (r @ r) / (p @ A @ p)
        x, new = x + alpha * p, r - alpha * (A @ p)
        p, r = new + (new @ new) / (r @ r) * p, new
    return x


def bicgstab(A: Array, b: Array, tolerance: float, limit: int, x: Array) -> tuple[Array, list[Array]]:
    """The iterate with the smallest residual (van der Vorst 1992), and all directions that A was applied to."""
    r = b - A @ x
    shadow, p, seen = r.copy(), r.copy(), []
    best, least = x.copy(), np.linalg.norm(r)
    for _ in range(limit):
        if np.linalg.norm(r) <= tolerance * np.linalg.norm(b):
            break
        ap = A @ p
        alpha = (shadow @ r) / (shadow @ ap)
        s = r - alpha * ap
        t = A @ s
        omega = (t @ s) / (t @ t)
        seen += [p, s]
        x = x + alpha * p + omega * s
        new = s - omega * t
        p, r = new + (shadow @ new) / (shadow @ r) * (alpha / omega) * (p - omega * ap), new
        if np.linalg.norm(r) < least:
            best, least = x.copy(), np.linalg.norm(r)
    return best, seen


def hessian_free(problem: Any, o: Options, iterations: int, subsets: Sequence[Indices]) -> list[tuple[Array, float]]:
    """θ and λ at the beginning and after every iteration."""
    task, damping = Task(problem), o["damping"]
    theta, previous = task.start.copy(), np.zeros_like(task.start)
    found = [(theta, damping)]
    for k in range(iterations):
        g, f = task.gradient(theta), task.value(theta)
        curvature = task.gauss_newton if o["method"] == "gn_cg" else task.hessian
        B = curvature(theta, subsets[k])
        A = B + damping * np.eye(len(theta))
        start, seen = o["carry_over"] * previous, []
        if o["method"] == "gn_cg":
            previous = cg(A, -g, o["cg_tolerance"], o["max_cg"], start)
        else:
            previous, seen = bicgstab(A, -g, o["cg_tolerance"], o["max_cg"], start)
        d = -np.sign(g @ previous) * previous
        if seen:
            q = min(seen, key=lambda q: (q @ A @ q) / (q @ q))
            other = -np.sign(g @ q) * q * np.linalg.norm(d) / np.linalg.norm(q)
            steep = abs(g @ q) > 1e-6 * np.linalg.norm(g) * np.linalg.norm(q)
            if steep and q @ B @ q < 0 and g @ other + 0.5 * other @ A @ other < g @ d + 0.5 * d @ A @ d:
                d = other
        alpha, trials = 1.0, 1
        while task.value(theta + alpha * d) > f + o["armijo"] * alpha * (g @ d) and trials < o["max_trials"]:
            alpha, trials = alpha * o["backtrack"], trials + 1
        step = alpha * d
        predicted = g @ step + 0.5 * step @ B @ step
        ratio = (task.value(theta + step) - f) / predicted if predicted < 0 else -1.0
        theta = theta + step
        damping *= 1.5 if ratio < 0.25 else 2 / 3 if ratio > 0.75 else 1.0
        found.append((theta, damping))
    return found
