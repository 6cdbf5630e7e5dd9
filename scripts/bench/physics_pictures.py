#!/usr/bin/env python3
"""The pictures of docs/physics.md, as SVG: solutions of nets with their errors, and errors over seconds.

    python scripts/bench/physics_pictures.py [--problems poisson2 burgers helmholtz lorenz] [--seconds 20]
    python scripts/bench/physics_pictures.py --problems --json all.json    errors over seconds, as physics.py measured

Files docs/pictures/physics-NAME.svg; `--folder` names another folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from physics import METHODS, NAMES, setting
from physics_problems import PROBLEMS, Problem

import dnewton as dn
from dnewton.reporting.style import LIGHT

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
SIDE = 140  # cells of a map
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "dnewton", "font.size": 9, "font.family": "sans-serif"}
DASHES = {"dnewton 1": "-", "dnewton 2": "--", "gauss-newton": "-.", "lbfgs": ":", "adam": ":"}


def solved(problem: Problem, seconds: float) -> Any:
    """The net after some seconds of training."""
    net, given = setting(problem)
    return dn.fit(net, **given, solver={"max_iterations": 100_000}, max_seconds=seconds)


def maps(problem: Problem, model: Any) -> Figure:
    """u of the net over the plane, and its distance from the solution."""
    low, high = problem.test[0].min(0).round(), problem.test[0].max(0).round()
    axes = [np.linspace(a, b, SIDE + 1) for a, b in zip(low, high, strict=True)]
    middles = [(a[:-1] + a[1:]) / 2 for a in axes]
    x = np.stack(np.meshgrid(*middles), -1).reshape(-1, 2)
    u = model.predict(x)
    error = np.abs(u - problem.solution(x)[:, 0])
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    second = "t" if problem.name in ("burgers", "heat1") else "y"
    for k, (title, values, colours) in enumerate((("u of the net", u, "viridis"), ("distance from u", error, "magma"))):
        ax = figure.add_subplot(1, 2, k + 1)
        picture = ax.imshow(
            values.reshape(SIDE, SIDE),
            extent=(low[0], high[0], low[1], high[1]),
            origin="lower",
            cmap=colours,
            aspect="auto",
            interpolation="nearest",
        )
        ax.set_title(title)
        ax.set_xlabel("x")
        ax.set_ylabel(second)
        figure.colorbar(picture, ax=ax, format="%.1f" if k == 0 else "%.1e")
    return figure


def paths(problem: Problem, model: Any) -> Figure:
    """The outputs over time with what was measured, and their distances from the solution."""
    data = problem.terms[1]
    t = np.linspace(data.points.min(), data.points.max(), 300)[:, None]
    found, exact, seen = model.predict(t), problem.solution(t), data.source(data.points)
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for k, name in enumerate("xyz"):
        left.plot(t[:, 0], found[:, k], color=LIGHT[k], linewidth=1.3, label=name)
        left.plot(data.points[:, 0], seen[:, k], ".", color=LIGHT[k], markersize=4)
        right.semilogy(t[:, 0], np.abs(found - exact)[:, k] + 1e-16, color=LIGHT[k], linewidth=1)
    left.set_title("x, y, z of the net, and the values given")
    right.set_title("distance from the solution")
    left.legend(frameon=False, ncols=3, loc="upper center")
    left.set_ylim(top=1.2 * float(exact.max()))
    for ax in (left, right):
        ax.set_xlabel("t")
    return figure


def curves(results: dict[str, dict[str, Any]]) -> Figure:
    """Errors over seconds, both axes logarithmic, a panel for each problem."""
    shown = [name for name in PROBLEMS if name in results]
    rows = (len(shown) + 3) // 4
    figure = Figure(figsize=(10.5, 2.6 * rows + 0.4), layout="constrained")
    known: dict[str, Any] = {}
    for k, name in enumerate(shown):
        ax = figure.add_subplot(rows, 4, k + 1)
        for j, method in enumerate(("dnewton 1", "dnewton 2", *reversed(METHODS))):
            if method in results[name]:
                run = results[name][method]
                points = [(s, e) for s, e in run["curve"] if s > 0]
                seconds, errors = (list(column) for column in zip(*points, strict=True))
                ends = [*seconds, run["seconds"]], [*errors, errors[-1]]
                known[method] = ax.loglog(*ends, DASHES[method], color=LIGHT[j], linewidth=1.5)[0]
        ax.set_title(PROBLEMS[name]().words.replace(" (", "\n("), fontsize=9)
        ax.grid(alpha=0.3)
        if k % 4 == 0:
            ax.set_ylabel("relative L2 error")
        if k // 4 == rows - 1:
            ax.set_xlabel("seconds")
    labels = [NAMES.get(method, f"dnewton, {method[-1]} rank" + "s" * (method[-1] != "1")) for method in known]
    figure.legend(list(known.values()), labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    planes = ["poisson2", "burgers", "helmholtz", "lorenz"]
    parser.add_argument("--problems", nargs="*", default=planes, choices=[*planes, "heat1"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    mpl.rcParams.update(STYLE)
    args.folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    for name in args.problems:
        problem = PROBLEMS[name]()
        model = solved(problem, args.seconds)
        pictures[name] = (paths if name == "lorenz" else maps)(problem, model)
    if args.json:
        pictures["seconds"] = curves(json.loads(args.json.read_text()))
    for name, figure in pictures.items():
        path = args.folder / f"physics-{name}.svg"
        figure.savefig(path, format="svg", metadata={"Date": None})
        path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
