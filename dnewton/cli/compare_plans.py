"""Which runs a comparison has: every solver with every value that is swept and every seed. Pure."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dnewton.config.schema import Config
from dnewton.config.solver_register import SOLVERS, keys
from dnewton.errors import UserError
from dnewton.reporting.comparison import Target
from dnewton.training import load_config

FOREVER = 2**31 - 1
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
PARTS = ("train", "validation", "test")
METRICS = ("loss", "grad_norm", *(f"{part}_{name}" for name in ("accuracy", "rmse") for part in PARTS))
MOST_SEEDS = 1000
SEED = "solver.seed"


@dataclass(frozen=True)
class Plan:
    """One run of the comparison."""

    name: str  # of its directory
    method: str  # the name without the seed
    seed: int | None  # None where there is one seed, the configuration's
    config: Config
    notes: list[str]


def seconds(text: str) -> float:
    """`90`, `60s`, `2m` or `1h` in seconds. Raises UserError."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*(s|m|min|h|)\s*", text)
    if not match or not 0 < float(match[1]) < math.inf:
        raise UserError(f"--budget {text}: a time such as 60s, 2m or 1h is needed")
    return float(match[1]) * UNITS[match[2]]


def seeds(text: str) -> list[int]:
    """`5` as 0, 1, 2, 3, 4; `1,7` as it stands. Raises UserError."""
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words if word) or not any(words):
        raise UserError(f"--seeds {text}: a number of seeds such as 5, or a list such as 1,2,3 is needed")
    if len(words) == 1 and not 1 <= int(words[0]) <= MOST_SEEDS:
        raise UserError(f"--seeds {text}: a number from 1 to {MOST_SEEDS}, or a list such as {text},8 is needed")
    return list(range(int(words[0]))) if len(words) == 1 else list(dict.fromkeys(int(word) for word in words if word))


def target(text: str) -> Target:
    """`test_accuracy=0.95` or `loss=1e-3`. Raises UserError."""
    metric, _, value = text.partition("=")
    if metric.strip() not in METRICS:
        raise UserError(f"--target {text}: write METRIC=VALUE, the metric one of {', '.join(METRICS)}")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"--target {text}: a number is needed, for example {metric.strip()}=0.1")
    return Target(metric.strip(), number)


def figures(config: Config, metric: str = "") -> list[str]:
    """What a target can be of: the figures of a run's lines of metrics. Where the data, not the loss, tell whether
    targets are real, `metric` is accuracy or rmse, or either counts."""
    data, kind = config.data, config.net.loss.targets
    split = data.split is not None
    there = {"train": True, "test": data.test is not None or split}
    there["validation"] = data.validation is not None or (split and data.test is not None)
    known = [metric] if metric else {"classes": ["accuracy"], "counts": ["rmse"]}.get(kind, ["accuracy", "rmse"])
    return [name for name in METRICS if "_" not in name or _is_there(name, there, known)]


def _is_there(name: str, there: Mapping[str, bool], known: Sequence[str]) -> bool:
    part, _, metric = name.partition("_")
    return name == "grad_norm" or (there[part] and metric in known)


def target_problem(target: Target, names: Collection[str]) -> str:
    """Why runs with these figures cannot have a target; empty where they can."""
    if target.metric in names:
        return ""
    part = target.metric.partition("_")[0]
    missing = part in PARTS and not any(name.startswith(part) for name in names)
    cure = f"; name a {part} part as data.{part} for others" if missing else ""
    return f"--target {target.metric}: these runs have {', '.join(names)}{cure}"


def swept(items: Sequence[str]) -> dict[str, list[str]]:
    """`key=v1,v2` as values by key; a key without a section is the solver's. Raises UserError."""
    values_by_key: dict[str, list[str]] = {}
    for item in items:
        key, equals, values = item.partition("=")
        if not equals or not key.strip() or not values.strip(", "):
            raise UserError(f"--sweep {item}: write key=v1,v2,... for example learning_rate=0.1,0.01")
        key = key.strip() if "." in key else f"solver.{key.strip()}"
        if key == "solver.name":
            raise UserError("--sweep solver.name: name the solvers to compare with --solvers")
        if key == SEED:
            raise UserError(f"--sweep {item}: give seeds with --seeds, which makes one curve of them")
        if key in values_by_key:
            raise UserError(f"--sweep {item}: {key} is swept already; write all its values in one list")
        values_by_key[key] = list(dict.fromkeys(v.strip() for v in values.split(",")))
    return values_by_key


def plans(
    text: str,
    folder: str,
    source: str,
    solvers: Sequence[str],
    sweep: dict[str, list[str]],
    overrides: Sequence[str],
    endless: bool,
    chosen_seeds: Sequence[int | None] = (None,),
) -> list[Plan]:
    """Every run, checked before the first one begins: for one seed after the other all solvers. A solver that lacks a
    swept key runs once. Raises UserError."""
    wanted = [name.strip() for name in solvers if name.strip()]
    unknown = [name for name in wanted if name not in SOLVERS]
    if unknown or not wanted:
        raise UserError(f"--solvers {','.join(solvers)}: choose from {', '.join(SOLVERS.names())}")
    if tuple(chosen_seeds) != (None,) and any(item.startswith(f"{SEED}=") for item in overrides):
        raise UserError(f"--set {SEED}: --seeds gives the seeds; leave one of them out")
    if any(item.split("=")[0].strip() == "solver.name" for item in overrides):
        raise UserError("--set solver.name: name the solvers to compare with --solvers")
    runs, used = [], set()
    for seed in chosen_seeds:
        for name in dict.fromkeys(wanted):
            fitting = {k: v for k, v in sweep.items() if not k.startswith("solver.") or _knows(name, k)}
            used |= set(fitting)
            for values in itertools.product(*fitting.values()):
                given = [f"{k}={v}" for k, v in zip(fitting, values, strict=True)]
                words = [f"{k.split('.')[-1]}={v}" for k, v in zip(fitting, values, strict=True)]
                sets = [f"solver.name={name}", *overrides, *given]
                sets += [] if seed is None else [f"{SEED}={seed}"]
                if endless and not any(s.startswith("solver.max_iterations=") for s in sets):
                    sets.append(f"solver.max_iterations={FOREVER}")
                config, notes = load_config.configure(text, folder, source, sets)
                method = "-".join([name, *words]).replace(os.sep, "_")
                runs.append(Plan(method if seed is None else f"{method}-seed={seed}", method, seed, config, notes))
    if unused := set(sweep) - used:
        raise UserError(f"--sweep {sorted(unused)[0]}: none of the solvers {', '.join(wanted)} has this key")
    return runs


def _knows(solver: str, key: str) -> bool:
    return key.split(".")[1] in keys(SOLVERS[solver].section)
