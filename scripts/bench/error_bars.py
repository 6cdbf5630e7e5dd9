"""How often error bars hold: the shares of noisy test values, and of the surface itself, within 68 and 95 % bands.

    python scripts/bench/error_bars.py
    mpirun -np 2 python scripts/bench/error_bars.py --kind blocks
    python scripts/bench/error_bars.py --surfaces heat

For each surface, over the seeds: 300 points of a square with normal noise, a net 2-16-16-1 in float64 with `C: auto`,
1,000 other points. `values` are new noisy values within std=True, `surface` is the surface without noise within
std="mean", `outside` the same on a margin around the square, where there were no data. The first surface was used to
choose the sizes, the others were not. `heat` is no surface but an equation with an unknown, k = 0.3, by 100 points and
40 values with noise 0.02: `solution` within std, and how k and its std compare over the seeds.
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import Any

import numpy as np

import dnewton as dn

BANDS = {"68 %": 0.994457883209753, "95 %": 1.959963984540054}  # standard deviations
SURFACES = {
    "waves": lambda x: np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1]) + 0.5 * x[:, 0] * x[:, 1],
    "hill": lambda x: np.exp(-3 * ((x[:, 0] - 0.2) ** 2 + (x[:, 1] + 0.3) ** 2)),
    "ridge": lambda x: np.tanh(3 * (x[:, 0] + x[:, 1] ** 2 - 0.3)),
}
POINTS, TESTED, MARGIN = 300, 1000, 0.5


def shares(name: str, seed: int, noise: float, kind: str, iterations: int) -> dict[str, list[float]]:
    """The shares within the bands, by what is counted."""
    surface, rng = SURFACES[name], np.random.default_rng([seed, 7])
    x = rng.uniform(-1, 1, (POINTS, 2))
    y = surface(x) + noise * rng.normal(size=POINTS)
    net = dn.net([2], [dn.dense(16, "tanh"), dn.dense(16, "tanh"), dn.dense(1)], loss="squared")
    model = dn.fit(
        net,
        x,
        y,
        error_bars=kind if kind != "auto" else True,
        data={"scale_targets": "standardize"},
        solver={"C": "auto", "max_iterations": iterations, "seed": seed},
        parallel={"dtype": "float64"},
    )
    new = rng.uniform(-1, 1, (TESTED, 2))
    far = rng.uniform(-1 - MARGIN, 1 + MARGIN, (4 * TESTED, 2))
    far = far[np.abs(far).max(axis=1) > 1][:TESTED]
    told, std = model.predict(new, std=True)
    values = np.abs(surface(new) + noise * rng.normal(size=TESTED) - told) / std
    found = {"values": values, "surface": np.abs(surface(new) - told) / model.predict(new, std="mean")[1]}
    told, std = model.predict(far, std="mean")
    found["outside"] = np.abs(surface(far) - told) / std
    return {what: [float(np.mean(ratio <= width)) for width in BANDS.values()] for what, ratio in found.items()}


def heat(seed: int, kind: str) -> tuple[dict[str, list[float]], tuple[float, float]]:
    """The shares of the solution of u_t = k u_xx within the bands, and k with its standard deviation."""

    def equation(x: Any, u: Any, k: Any) -> Any:
        return u.d(1) - k * u.dd(0, 0)

    def solution(x: Any) -> Any:
        return np.exp(-0.3 * np.pi**2 * x[:, 1]) * np.sin(np.pi * x[:, 0])

    rng = np.random.default_rng([seed, 8])
    inside, seen, new = (rng.uniform(size=(n, 2)) for n in (100, 40, TESTED))
    y = solution(seen) + 0.02 * rng.normal(size=len(seen))
    net = dn.net([2], [dn.dense(12, "tanh"), dn.dense(1)])
    terms = [dn.Residual(equation, inside, parameters=[dn.Parameter("k", 0.1)]), dn.Data(seen, y, weight=10.0)]
    model = dn.fit(
        net,
        terms=terms,
        error_bars=kind if kind != "auto" else True,
        solver={"max_iterations": 200, "seed": seed},
        parallel={"dtype": "float64"},
    )
    told, std = model.predict(new, std=True)
    ratio = np.abs(solution(new) - told) / std
    found = {"solution": [float(np.mean(ratio <= width)) for width in BANDS.values()]}
    return found, (model.parameters["k"], model.parameters_std["k"])


def main() -> None:
    """Print a table, on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--kind", choices=("auto", "full", "blocks"), default="auto")
    parser.add_argument("--surfaces", nargs="+", choices=[*SURFACES, "heat"], default=list(SURFACES))
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    began = time.perf_counter()
    rows, lines = [], []
    for name in args.surfaces:
        if name == "heat":
            both = [heat(seed, args.kind) for seed in range(args.seeds)]
            every = [found for found, _ in both]
            k, std = np.array([unknown for _, unknown in both]).T
            errors = np.median(np.abs(k - 0.3))
            within = [100 * np.mean(np.abs(k - 0.3) <= width * std) for width in BANDS.values()]
            lines.append(
                f"k: median {np.median(k):.4f}, of its errors {errors:.4f}, of its std {np.median(std):.4f}; within "
                f"the bands {within[0]:.0f} % and {within[1]:.0f} % of the seeds"
            )
        else:
            every = [shares(name, seed, args.noise, args.kind, args.iterations) for seed in range(args.seeds)]
        for what in every[0]:
            mean = np.mean([found[what] for found in every], axis=0)
            spread = np.std([found[what] for found in every], axis=0)
            cells = [f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(mean, spread, strict=True)]
            rows.append(f"| {name} | {what} | {' | '.join(cells)} |")
    from dnewton.comm.communicator import Comm

    comm = Comm.world()
    if comm.rank == 0:
        print(f"{args.seeds} seeds, {comm.size} rank(s), {args.kind}, {time.perf_counter() - began:.0f} s")
        print(f"| surface | counted | {' | '.join(BANDS)} |")
        print("|---|---|---|---|")
        print("\n".join([*rows, *lines]))


if __name__ == "__main__":
    main()
