"""The equations that physics.py solves, each written once: dnewton and PyTorch call the same functions.

Poisson's and the heat equation are of the kind of Dangel, Müller, Zeinhofer (NeurIPS 2024): u = Π sin πxᵢ or
Σ cos πxᵢ on the unit cube; κ = 1/4, u = exp(-π²t/4) sin πx or exp(-t) Σ sin 2xᵢ. Burgers: ν = 0.01/π, u(x, 0) = -sin πx
on [-1, 1], its solution by Cole and Hopf, edges weigh 30. Helmholtz: Δu + u = f on [-1, 1]², u = sin πx sin 4πy (Wang,
Teng, Perdikaris 2021). Lorenz: σ, ρ and β are unknown, 60 values of the trajectory from (-8, 7, 27) over three units of
time are given; numbers are divided by 20, and the equation weighs 0.01.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

KAPPA = 0.25
NU = 0.01 / math.pi
LORENZ = {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}
SCALE = 20.0  # of the numbers of Lorenz's equations
Array = Any  # of NumPy, or of PyTorch


@dataclass(frozen=True)
class Term:
    """`weight` times the mean over the points of the sum of squares of `equation(u, source, *parameters)`, (n,
    equations)."""

    equation: Callable[..., Array]
    points: Array  # (n, inputs)
    source: Callable[[Array], Array]  # of points, (n, equations)
    weight: float = 1.0


@dataclass(frozen=True)
class Problem:
    """A net, the term of its equation, the term of its known values, and its solution."""

    name: str
    words: str  # in a table
    hidden: tuple[int, ...]
    terms: tuple[Term, Term]
    solution: Callable[[Array], Array]  # (n, inputs) to (n, outputs)
    others: Array  # points for the error
    unknown: dict[str, float] = field(default_factory=dict)  # where the parameters begin

    @property
    def test(self) -> tuple[Array, Array]:
        """The points for the error with the solution."""
        return self.others, self.solution(self.others)

    @property
    def inputs(self) -> int:
        """Of the net."""
        return int(self.others.shape[1])

    @property
    def outputs(self) -> int:
        """Of the net."""
        return int(self.solution(self.others[:1]).shape[1])


def fixed(u: Any, source: Array, *_: Any) -> Array:
    """A value that is known: on an edge, at the beginning, measured."""
    return u.value - source


def poisson(name: str, inputs: int, hidden: tuple[int, ...], inside: int, edges: int) -> Problem:
    """-Δu = f."""
    sine = inputs == 2

    def solution(x: Array) -> Array:
        u = np.sin(np.pi * x).prod(1) if sine else np.cos(np.pi * x).sum(1)
        return u[:, None]

    def source(x: Array) -> Array:
        return np.pi**2 * (inputs if sine else 1) * solution(x)

    def equation(u: Any, f: Array) -> Array:
        return u.laplacian() + f

    within, edge, test = cube(inputs, inside, edges, beginning=False)
    terms = (Term(equation, within, source), Term(fixed, edge, solution))
    return Problem(name, _sized(f"Poisson, {inputs} dimensions", inputs, hidden), hidden, terms, solution, test)


def heat(name: str, inputs: int, inside: int, edges: int) -> Problem:
    """u_t = κ Δu; the last input is time."""
    time = inputs - 1

    def solution(x: Array) -> Array:
        if time == 1:
            return np.sin(np.pi * x[:, :1]) * np.exp(-KAPPA * np.pi**2 * x[:, 1:])
        return np.sin(2 * x[:, :time]).sum(1, keepdims=True) * np.exp(-4 * KAPPA * x[:, time:])

    def equation(u: Any, _: Array) -> Array:
        return u.d(time) - KAPPA * u.laplacian(*range(time))

    within, edge, test = cube(inputs, inside, edges, beginning=True)
    terms = (Term(equation, within, nothing), Term(fixed, edge, solution))
    words = _sized(f"heat, {time} + 1 dimensions", inputs, (64,))
    return Problem(name, words, (64,), terms, solution, test)


def burgers() -> Problem:
    """u_t + u u_x = ν u_xx."""

    def equation(u: Any, _: Array) -> Array:
        return u.d(1) + u.value * u.d(0) - NU * u.dd(0, 0)

    rng = np.random.default_rng(0)
    low, wide = np.array([-1.0, 0.0]), np.array([2.0, 1.0])
    within = low + wide * rng.uniform(size=(2000, 2))
    within[:500, 0] = 0.1 * rng.normal(size=500).clip(-3, 3)  # where the shock will be
    within[500:700, 0] = 0.03 * rng.normal(size=200)
    edge = low + wide * rng.uniform(size=(300, 2))
    edge[:150, 1] = 0.0
    edge[150:, 0] = np.sign(edge[150:, 0])
    test = low + wide * rng.uniform(size=(1000, 2))
    hidden = (20, 20, 20, 20)
    terms = (Term(equation, within, nothing), Term(fixed, edge, cole_hopf, weight=30.0))
    return Problem("burgers", _sized("Burgers", 2, hidden), hidden, terms, cole_hopf, test)


def cole_hopf(x: Array) -> Array:
    """The solution of Burgers' equation at (x, t), (n, 1): quotients of integrals over a heat kernel, by the
    trapezoidal rule, which for these converges faster than any power of the step."""
    s = np.linspace(-12.5, 12.5, 1001)
    at = x[:, :1] - 2 * np.sqrt(NU * x[:, 1:]) * s
    exponent = -np.cos(np.pi * at) / (2 * np.pi * NU) - s**2
    weight = np.exp(exponent - exponent.max(1, keepdims=True))
    return -(weight * np.sin(np.pi * at)).sum(1, keepdims=True) / weight.sum(1, keepdims=True)


def helmholtz() -> Problem:
    """Δu + u = f."""

    def solution(x: Array) -> Array:
        return (np.sin(np.pi * x[:, 0]) * np.sin(4 * np.pi * x[:, 1]))[:, None]

    def source(x: Array) -> Array:
        return (1 - 17 * np.pi**2) * solution(x)

    def equation(u: Any, f: Array) -> Array:
        return u.laplacian() + u.value - f

    within, edge, test = (2 * x - 1 for x in cube(2, 1500, 200, beginning=False))
    hidden = (100,)
    terms = (Term(equation, within, source), Term(fixed, edge, solution))
    return Problem("helmholtz", _sized("Helmholtz", 2, hidden), hidden, terms, solution, test)


def lorenz() -> Problem:
    """x' = σ (y - x), y' = x (ρ - z) - y, z' = xy - βz, of numbers that are divided by SCALE."""

    def right(u: tuple[Any, Any, Any], sigma: Any, rho: Any, beta: Any) -> list[Any]:
        x, y, z = u
        return [sigma * (y - x), x * (rho - SCALE * z) - y, SCALE * x * y - beta * z]

    def equation(u: Any, _: Array, sigma: Any, rho: Any, beta: Any) -> Array:
        x, y, z = (u.value[..., k : k + 1] for k in range(3))
        speed = right((x, y, z), sigma, rho, beta)
        return u.d(0) - joined(speed)

    start = np.array([-8.0, 7.0, 27.0]) / SCALE
    options = {"rtol": 1e-12, "atol": 1e-13, "dense_output": True, "method": "DOP853"}
    path = solve_ivp(lambda _, u: right(tuple(u), *LORENZ.values()), (0.0, 3.0), start, **options).sol

    def solution(x: Array) -> Array:
        return path(x[:, 0]).T

    times = np.linspace(0.0, 3.0, 180)[:, None]
    seen = np.linspace(0.0, 3.0, 60)[:, None]
    test = np.random.default_rng(0).uniform(0.0, 3.0, size=(1000, 1))
    terms = (Term(equation, times, nothing, weight=0.01), Term(fixed, seen, solution))
    hidden = (20, 20)
    words = _sized("Lorenz, 3 unknown parameters", 1, hidden, 3)
    return Problem("lorenz", words, hidden, terms, solution, test, dict.fromkeys(LORENZ, 1.0))


def joined(columns: list[Array]) -> Array:
    """Columns side by side."""
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns, -1)
    import torch

    return torch.cat(columns, -1)


def nothing(x: Array) -> Array:
    """No source."""
    return np.zeros((len(x), 1))


def cube(inputs: int, inside: int, edges: int, beginning: bool) -> tuple[Array, Array, Array]:
    """Points of the unit cube: inside, on its faces, and others for the error. With `beginning` the last input is time,
    of which 0 is a face."""
    rng = np.random.default_rng(0)
    within, test = rng.uniform(size=(inside, inputs)), rng.uniform(size=(1000, inputs))
    edge = rng.uniform(size=(edges, inputs))
    space = inputs - beginning
    for row in edge:
        side = rng.integers(2 * space + beginning)
        row[-1 if side == 2 * space else side // 2] = 0.0 if side == 2 * space else float(side % 2)
    return within, edge, test


def _sized(words: str, inputs: int, hidden: tuple[int, ...], outputs: int = 1) -> str:
    return f"{words} ({'-'.join(str(n) for n in (inputs, *hidden, outputs))})"


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "poisson2": lambda: poisson("poisson2", 2, (64,), 900, 120),
    "poisson5": lambda: poisson("poisson5", 5, (64,), 3000, 500),
    "heat1": lambda: heat("heat1", 2, 900, 120),
    "heat4": lambda: heat("heat4", 5, 3000, 500),
    "burgers": burgers,
    "helmholtz": helmholtz,
    "lorenz": lorenz,
    "poisson2-deep": lambda: poisson("poisson2-deep", 2, (64, 64, 48, 48), 900, 120),
}
