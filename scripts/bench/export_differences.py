"""How far exported models are from `predict`, for every shipped net: the table of docs/export.md.

    python scripts/bench/export_differences.py [--nets cnn.yaml …] [--samples 50]

Data are not shipped, so the weights are random (as large as those a net starts from), and so are the inputs; scaling
and labels are not trivial. A column is the largest difference from `predict --dtype float32` of probabilities, or of
values over the targets' spread. A label that differs is counted, too. Needs onnx, onnxruntime, torch and a C compiler;
what is missing is left out.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from dnewton.cli import export
from dnewton.config import parse
from dnewton.config.shipped_nets import read_net, shipped_nets
from dnewton.planning.net_plan import infer_shapes
from dnewton.storage.tensor_file import shapes_of

Result = tuple[np.ndarray, list[str] | None]


def write_model(path: Path, name: str, rng: np.random.Generator) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """A model file of a shipped net; returns its header, and the shift and factor of its scaling."""
    settings = parse.load(read_net(name)[0], name, [])
    specs = infer_shapes(settings.net, name)
    tensors = {}
    for tensor, shape in shapes_of(specs).items():
        spread = 0.1 if tensor.endswith("bias") else np.sqrt(2 / np.prod(shape[1:]))
        tensors[tensor] = rng.normal(0, spread, shape).astype(np.float32)
    features, outputs = int(np.prod(settings.net.input)), specs[-1].out_shape[0]
    shift, factor = rng.normal(0, 100, features), 1 / rng.uniform(0.5, 50, features)
    real = settings.net.loss.targets == "real"
    about = {
        "version": "0.1.0",
        "net": settings.resolved()["net"],
        "scale": "standardize",
        "targets": {
            "outputs": outputs,
            "classes": None if real else [f"label {k}" for k in range(max(2, outputs))],
            "shift": [150.0 if real else 0.0] * outputs,
            "spread": [70.0 if real else 1.0] * outputs,
        },
        "zero_based": None,
        "target": None,
        "columns": None,
    }
    packed = {"scaling.shift": shift, "scaling.factor": factor}
    texts = {k: base64.b64encode(zlib.compress(v.astype("<f8").tobytes())).decode() for k, v in packed.items()}
    save_file(tensors, path, {"dnewton": json.dumps(about), **texts})
    return about, shift, factor


def softmax(z: np.ndarray) -> np.ndarray:
    """Rows that sum to 1."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def module_of(path: Path) -> Any:
    """The module of a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_onnx(folder: Path, x: np.ndarray, real: bool) -> Result:
    """In onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "e.onnx"), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": x})
    return found[0], None if real else list(found[1])


def by_torch(folder: Path, x: np.ndarray, real: bool) -> Result:
    """The module, loaded with strict=True."""
    import torch

    net = module_of(folder / "e.py").load()
    with torch.no_grad():
        given = torch.from_numpy(x)
        return (net.predict(given).numpy(), None) if real else (net.probabilities(given).numpy(), net.predict(given))


def by_numpy(folder: Path, x: np.ndarray, real: bool) -> Result:
    """The module beside the .npz."""
    module = module_of(folder / "e.py")
    return (module.predict(x), None) if real else (module.probabilities(x), module.predict(x).tolist())


def by_c(folder: Path, x: np.ndarray, real: bool) -> Result:
    """Compiled as a program."""
    options = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-DDNEWTON_MAIN"]
    subprocess.run(["cc", *options, "-o", "e", "e.c", "-lm"], cwd=folder, check=True)
    text = "\n".join(" ".join(f"{v:.9g}" for v in row) for row in x.reshape(len(x), -1).tolist())
    lines = subprocess.run([folder / "e"], input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    if real:
        return np.array([line.split() for line in lines], dtype=float), None
    rows = [line.removeprefix("label ").split() for line in lines]
    return np.array([row[1:] for row in rows], dtype=float), [f"label {row[0]}" for row in rows]


FORMATS: dict[str, tuple[str, Callable[[Path, np.ndarray, bool], Result]]] = {
    "onnx": ("e.onnx", by_onnx),
    "torch": ("e.safetensors", by_torch),
    "numpy": ("e.npz", by_numpy),
    "c": ("e.c", by_c),
}


def differences(name: str, folder: Path, samples: int) -> tuple[list[str], int]:
    """A row of the table, and how many labels differ."""
    rng = np.random.default_rng(1)
    about, shift, factor = write_model(folder / "m.safetensors", name, rng)
    x = (shift + rng.normal(size=(samples, len(shift))) / factor).astype(np.float32)
    x = x.reshape(samples, *about["net"]["input"])
    np.save(folder / "x.npy", x)
    words = ["--model", "m.safetensors", "--data", "x.npy", "--out", "p.npz", "--dtype", "float32"]
    subprocess.run([sys.executable, "-m", "dnewton.predict", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    said = np.load(folder / "p.npz")
    real = about["targets"]["classes"] is None
    wanted = said["prediction"] if real else softmax(said["output"])
    row, wrong = [name.removesuffix(".yaml")], 0
    for form, (file, run) in FORMATS.items():
        try:
            words = [str(folder / "m.safetensors"), "--to", form, "-o", str(folder / file), "--overwrite"]
            export.export(export.arguments(words, rank=0))
            found, labels = run(folder, x, real)
        except (ImportError, FileNotFoundError) as error:
            row.append(f"- ({error})")
            continue
        row.append(f"{np.abs(found - wanted).max() / (about['targets']['spread'][0] if real else 1):.1e}")
        wrong += 0 if labels is None else int((np.array(labels) != said["prediction"]).sum())
    return row, wrong


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=shipped_nets(), metavar="NET")
    parser.add_argument("--samples", type=int, default=50)
    args = parser.parse_args()
    print(f"| net | {' | '.join(FORMATS)} | other labels |\n|---|{'---|' * (len(FORMATS) + 1)}")
    for name in args.nets:
        with tempfile.TemporaryDirectory() as folder:
            row, wrong = differences(name, Path(folder), args.samples)
        print(f"| {' | '.join(row)} | {wrong} |", flush=True)


if __name__ == "__main__":
    main()
