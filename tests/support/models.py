"""Model files with random weights, written as docs/model_format.md says and not by the code that it describes."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import oracle
from safetensors.numpy import save_file

from dnewton.config.schema import Config


def packed(values: np.ndarray) -> str:
    """Float64 numbers as the header has them."""
    return base64.b64encode(zlib.compress(np.asarray(values, dtype="<f8").tobytes())).decode()


def header(net: dict[str, Any], **about: Any) -> dict[str, Any]:
    """What the header says of a net without scaling, whose targets are the outputs themselves."""
    last = oracle.shapes(tuple(net["input"]), oracle.parse(net["layers"]))[-1][0]
    classes = list(range(max(2, last))) if net["loss"] in ("cross_entropy", "logistic") else None
    targets = {"outputs": last, "classes": classes, "shift": [0.0] * last, "spread": [1.0] * last}
    given = about.pop("targets", {})
    return {
        "version": "0.1.0",
        "net": Config.model_validate({"net": net}).resolved()["net"],
        "scale": "none",
        "targets": targets | given,
        "zero_based": None,
        "target": None,
        "columns": None,
        **about,
    }


def write_model(
    path: Path,
    net: dict[str, Any],
    seed: int = 0,
    scaling: tuple[np.ndarray, ...] | None = None,
    dtype: str = "float32",
    **about: Any,
) -> dict[str, np.ndarray]:
    """A model file; returns its tensors. `scaling` is a shift and a factor per feature, in the order of the columns,
    and perhaps what fills gaps."""
    rng = np.random.default_rng(seed)
    shapes = oracle.parameter_shapes(tuple(net["input"]), oracle.parse(net["layers"]))
    params = {}
    for name, shape in shapes.items():
        fan_in = max(1, int(np.prod(shape[1:])))
        spread = 0.3 if name.endswith("bias") else 1.5 / np.sqrt(fan_in)
        params[name] = rng.normal(0, spread, shape).astype(dtype)
    numbers = {}
    if scaling is not None:
        about = {"scale": "standardize", **about}
        names = ("scaling.shift", "scaling.factor", "scaling.fill")
        numbers = {name: packed(values) for name, values in zip(names, scaling, strict=False)}
    save_file(params, path, {"dnewton": json.dumps(header(net, **about)), **numbers})
    return params
