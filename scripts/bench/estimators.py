"""DNewtonRegressor and DNewtonClassifier against scikit-learn's MLPRegressor and MLPClassifier: seconds and errors.

    OMP_NUM_THREADS=1 python scripts/bench/estimators.py [--seeds 5] [--sets diabetes digits] [--json FILE]

The same hidden layers for both; scikit-learn's behind a StandardScaler, targets standardised alike, everything else at
its default but MLPRegressor's `solver="lbfgs"` (MLPClassifier has its own Adam, and lbfgs too). 30 % are held out, by
the seed; both sides of a seed in turn, seconds of the processor, medians over seeds. Errors: rmse over the deviation of
the targets, or the share of wrong labels, means over seeds.

The defaults of our C were chosen on the sets marked `chosen on`, and are reported on the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnewton import DNewtonClassifier, DNewtonRegressor

HIDDEN = {"regression": (32, 32), "classes": (32,)}


def _smooth(seed: int) -> tuple[Any, Any]:
    x = np.random.default_rng(seed).uniform(-1, 1, (1000, 3))
    return x, np.sin(3 * x[:, 0]) * np.cos(2 * x[:, 1]) + x[:, 2] ** 2


Make = Callable[[int], tuple[Any, Any]]
SETS: dict[str, tuple[str, Make, bool]] = {  # kind, data by seed, whether defaults were chosen on it
    "friedman3": ("regression", lambda s: datasets.make_friedman3(400, noise=0.1, random_state=s), True),
    "diabetes": ("regression", lambda s: datasets.load_diabetes(return_X_y=True), False),
    "linnerud": ("regression", lambda s: datasets.load_linnerud(return_X_y=True), False),
    "friedman1": ("regression", lambda s: datasets.make_friedman1(1000, noise=1.0, random_state=s), False),
    "smooth": ("regression", _smooth, False),
    "circles": (
        "classes",
        lambda s: datasets.make_circles(600, noise=0.15, factor=0.5, random_state=s),
        True,
    ),
    "iris": ("classes", lambda s: datasets.load_iris(return_X_y=True), False),
    "wine": ("classes", lambda s: datasets.load_wine(return_X_y=True), False),
    "breast_cancer": ("classes", lambda s: datasets.load_breast_cancer(return_X_y=True), False),
    "digits": ("classes", lambda s: datasets.load_digits(return_X_y=True), False),
    "moons": ("classes", lambda s: datasets.make_moons(1000, noise=0.3, random_state=s), False),
}


def methods(kind: str, seed: int, also: list[dict[str, Any]]) -> dict[str, Any]:
    """Estimators by name."""
    hidden = HIDDEN[kind]
    if kind == "regression":
        scaled = make_pipeline(
            StandardScaler(),
            MLPRegressor(hidden_layer_sizes=hidden, activation="tanh", solver="lbfgs", random_state=seed),
        )
        ours = {str(o): DNewtonRegressor(hidden, random_state=seed, **o) for o in also}
        return {
            "ours": DNewtonRegressor(hidden, random_state=seed),
            "sklearn lbfgs": TransformedTargetRegressor(scaled, transformer=StandardScaler()),
            **ours,
        }
    return {
        "ours": DNewtonClassifier(hidden, random_state=seed),
        "sklearn adam": make_pipeline(
            StandardScaler(), MLPClassifier(hidden_layer_sizes=hidden, activation="tanh", random_state=seed)
        ),
        "sklearn lbfgs": make_pipeline(
            StandardScaler(),
            MLPClassifier(hidden_layer_sizes=hidden, activation="tanh", solver="lbfgs", random_state=seed),
        ),
        **{str(o): DNewtonClassifier(hidden, random_state=seed, **o) for o in also},
    }


def error_of(kind: str, model: Any, x: Any, y: Any) -> float:
    """The rmse over the deviation, or the share of wrong labels."""
    found = model.predict(x)
    if kind == "classes":
        return float(np.mean(found != y))
    return float(np.sqrt(np.mean((found - y) ** 2 / np.var(y, axis=0))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--also", nargs="+", default=[], help="further settings of ours as JSON, such as '{\"C\": 10}'")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of scikit-learn's iterations
    also = [json.loads(text) for text in args.also]
    report = {}
    DNewtonRegressor((2,), max_iter=1).fit(np.eye(3), np.arange(3.0))  # loads libraries
    print(f"{'set':14} {'method':24} {'seconds':>8} {'error':>8} {'times':>6}")
    for name in args.sets:
        kind, make, chosen = SETS[name]
        seconds: dict[str, list[float]] = {}
        errors: dict[str, list[float]] = {}
        for seed in range(args.seeds):
            x, y = make(seed)
            parts = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y if kind == "classes" else None)
            for method, model in methods(kind, seed, also).items():
                start = time.process_time()
                model.fit(parts[0], parts[2])
                seconds.setdefault(method, []).append(time.process_time() - start)
                errors.setdefault(method, []).append(error_of(kind, model, parts[1], parts[3]))
        report[name] = {m: [statistics.median(seconds[m]), statistics.mean(errors[m])] for m in seconds}
        for method, (took, error) in report[name].items():
            faster = took / report[name]["ours"][0]
            mark = " (chosen on)" if chosen and method == "ours" else ""
            print(f"{name:14} {method:24} {took:>8.3f} {error:>8.4f} {faster:>5.1f}x{mark}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
