"""What makes a checkpoint belong to a run, and in which settings two runs differ."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from dnewton.arrays.namespace import Array, to_host
from dnewton.config.schema import DataSection
from dnewton.data.file_names import without_folders
from dnewton.storage import checksum
from dnewton.storage.manifest import Manifest
from dnewton.training.job import Job
from dnewton.training.load_config import PARTS

CHANGED = "the features are not those of the checkpoint: a checksum of up to 64 samples differs"
FEATURES = "features"  # of some samples, a checksum
NAMING = (*PARTS, "weights")  # keys of the data section that may name files


def identity(job: Job) -> dict[str, Any]:
    """What must not change between a checkpoint and its resumption."""
    config = job.config.resolved()
    samples = job.objective.data
    weights = {}  # a run without them has the identity that it had in earlier versions
    if samples.weights is not None:
        weights = {"weights": _checksum(samples.weights), "sum of weights": samples.total}
    if job.equations is not None:
        weights |= job.equations.identity()
    return {
        "net": {**config["net"], "layers": _without_splits(config["net"]["layers"])},
        "data": {
            k: _names_only(v) if k in NAMING else v
            for k, v in config["data"].items()
            if k not in ("max_resident", "timeout")
        },
        "solver": config["solver"]["name"],
        "seed": config["solver"]["seed"],
        "samples": samples.count,
        "targets": _checksum(samples.targets),
        FEATURES: job.features,
        **weights,
    }


def _checksum(values: Array) -> str:
    """Of one number or several a sample, in float32."""
    y = np.asarray(to_host(values), dtype=np.float32)
    return f"{checksum.partial(np.ascontiguousarray(y.reshape(len(y), -1)), 0, 0):016x}"


def _without_splits(layers: Any) -> Any:
    """Layers without what only fixes how they are laid out, those of residuals too."""
    if isinstance(layers, dict):
        return {k: _without_splits(v) for k, v in layers.items() if k != "split"}
    return [_without_splits(v) for v in layers] if isinstance(layers, list) else layers


def _names_only(part: Any) -> Any:
    """A data part, or a file of weights, without its folders, which may differ from machine to machine."""
    if isinstance(part, dict):
        return {k: _names_only(v) for k, v in part.items()}
    if isinstance(part, list):
        return [_names_only(v) for v in part]
    return without_folders(part) if isinstance(part, str) else part


def difference(checkpoint: Manifest, job: Job) -> str:
    """What makes a checkpoint another run's, or nothing."""
    before, now = dict(checkpoint.identity), json.loads(json.dumps(identity(job)))
    keys = DataSection.model_validate({}).model_dump(mode="json")  # an earlier version may lack some
    before["data"] = {**{k: v for k, v in keys.items() if k in now["data"]}, **before["data"]}
    before.setdefault(FEATURES, now[FEATURES])
    if checkpoint.config.get("parallel", {}).get("dtype") != job.config.parallel.dtype:
        scaled = ("targets", "weights", FEATURES)
        before |= {k: now[k] for k in scaled if k in now and k in before}  # of another precision
    if before[FEATURES] != now[FEATURES]:
        now[FEATURES] = before[FEATURES]
        return _first_difference(before, now) or CHANGED
    return _first_difference(before, now) or ""


def changes(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    """Which settings differ, as `key: before -> now`."""
    texts = []
    for key in sorted(set(before) | set(now)):
        a = before.get(key)
        b = now.get(key)
        name = f"{path}.{key}" if path else key
        if isinstance(a, dict) and isinstance(b, dict):
            texts.extend(changes(a, b, name))
        elif a != b:
            texts.append(f"{name}: {a} -> {b}")
    return texts


def _first_difference(a: Any, b: Any, path: str = "") -> str | None:
    """The first place in which two runs' identities differ, in words."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            text = _first_difference(a.get(key), b.get(key), f"{path}.{key}" if path else key)
            if text:
                return text
        return None
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        entries = (_first_difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return next((entry for entry in entries if entry), None)
    return None if a == b else f"{path} was {_short(a)} and is {_short(b)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
