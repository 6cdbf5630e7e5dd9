"""What is exported says the same as the oracle and as `predict`: every layer, activation, loss and kind of target."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import oracle
import pytest
from inside import start
from models import write_model

from dnewton.cli import export
from dnewton.config import parse
from dnewton.config.loss_entry import LOSSES
from dnewton.config.shipped_nets import read_net, shipped_nets
from dnewton.model.layers.activation import ACTIVATIONS

RNG = np.random.default_rng(7)
WORDS = ["ja", "nein", 'a "word" \\ ü??/']
NETS: dict[str, dict[str, Any]] = {
    "image": {
        "input": [2, 9, 8],
        "loss": "cross_entropy",
        "layers": [
            {"conv": {"channels": 4, "kernel": [3, 2], "stride": [2, 1], "padding": [1, 0], "activation": "tanh"}},
            {"maxpool": {"size": 3, "stride": 2, "padding": 1}},
            {"residual": [{"conv": {"channels": 4, "kernel": 3, "padding": 1, "activation": "relu"}}]},
            {"avgpool": {"size": [2, 1], "stride": [1, 2], "padding": [1, 0]}},
            "flatten",
            {"dense": {"units": 3}},
        ],
    },
    "sequence": {
        "input": [2, 11],
        "loss": "squared",
        "layers": [
            {"conv": {"channels": 3, "kernel": 3, "stride": 2, "padding": 1, "activation": "silu"}},
            {"avgpool": {"size": 2, "stride": 1, "padding": 1}},
            {"maxpool": {"size": 2, "stride": 1}},
            "global_avgpool",
            {"dense": {"units": 2}},
        ],
    },
    "nested": {
        "input": [1, 8, 8],
        "loss": "cross_entropy",
        "layers": [
            {
                "residual": {
                    "projection": True,
                    "layers": [
                        {"conv": {"channels": 3, "kernel": 3, "stride": 2, "padding": 1, "activation": "elu"}},
                        {"residual": [{"conv": {"channels": 3, "kernel": 1, "activation": "gelu"}}]},
                    ],
                }
            },
            "global_avgpool",
            {"residual": {"projection": True, "layers": [{"dense": {"units": 4, "activation": "sin"}}]}},
            {"dense": {"units": 5}},
        ],
    },
    "flat sequence": {"input": [3, 4], "loss": "squared", "layers": ["flatten", {"dense": {"units": 1}}]},
}
for name in [*ACTIVATIONS, "linear"]:
    layers = [{"dense": {"units": 6, "activation": name}}, {"dense": {"units": 2}}]
    NETS[name] = {"input": [3], "loss": "squared", "layers": layers}


def module_of(path: Path) -> ModuleType:
    """The module of a file."""
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Result = dict[str, Any]  # probabilities or scores and label, or values


def by_onnx(folder: Path, x: np.ndarray, head: str) -> Result:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(folder / "e.onnx"), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    assert given.name == "x" and given.shape == ["N", *x.shape[1:]]
    values = session.run(None, {"x": x.astype(np.float64 if "double" in given.type else np.float32)})
    return {out.name: value for out, value in zip(session.get_outputs(), values, strict=True)}


def by_numpy(folder: Path, x: np.ndarray, head: str) -> Result:
    module = module_of(folder / "e.py")
    if head == "values":
        return {"values": module.predict(x)}
    scores = module.probabilities(x) if head == "probabilities" else module.outputs(x)
    return {head: scores, "label": module.predict(x)}


def by_torch(folder: Path, x: np.ndarray, head: str) -> Result:
    """In float64 input: what is read from files comes as it is."""
    torch = pytest.importorskip("torch")
    net = module_of(folder / "e.py").load()
    given = torch.from_numpy(x.astype(np.float64))
    with torch.no_grad():
        if head == "values":
            return {"values": net.predict(given).numpy()}
        scores = net.probabilities(given) if head == "probabilities" else net(given)
        return {head: scores.numpy(), "label": net.predict(given)}


def by_c(folder: Path, x: np.ndarray, head: str) -> Result:
    """As a program that reads numbers."""
    cc = shutil.which("cc") or pytest.skip("no C compiler")
    options = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-O1", "-DDNEWTON_MAIN"]
    subprocess.run([cc, *options, "-o", "e", "e.c", "-lm"], cwd=folder, check=True)
    text = "\n".join(" ".join(f"{v:.17g}" for v in row) for row in x.reshape(len(x), -1).tolist())
    said = subprocess.run([folder / "e"], input=text, capture_output=True, text=True, check=True).stdout
    lines = said.splitlines()
    declared = re.search(r"e_OUTPUTS = (\d+)", (folder / "e.c").read_text())
    assert declared is not None
    columns = int(declared[1])
    if head == "values":
        return {"values": np.array([line.split() for line in lines], dtype=float)}
    rows = [line.rsplit(" ", columns) for line in lines]
    return {head: np.array([row[1:] for row in rows], dtype=float), "label": [row[0] for row in rows]}


RUN: dict[str, tuple[str, Callable[[Path, np.ndarray, str], Result]]] = {
    "onnx": ("e.onnx", by_onnx),
    "torch": ("e.safetensors", by_torch),
    "numpy": ("e.npz", by_numpy),
    "c": ("e.c", by_c),
}


def exported(folder: Path, form: str, x: np.ndarray, head: str, *options: str) -> Result:
    """Export m.safetensors and run what came out."""
    if form == "onnx":
        pytest.importorskip("onnx")
    file, run = RUN[form]
    export.export(export.arguments([str(folder / "m.safetensors"), "-o", str(folder / file), *options], rank=0))
    return run(folder, x, head)


def inputs(net: dict[str, Any], samples: int = 7) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Unscaled float32 samples, and their scaling."""
    features = int(np.prod(net["input"]))
    shift, factor = RNG.normal(0, 30, features), 1 / RNG.uniform(0.5, 4, features)
    x = shift + RNG.normal(size=(samples, features)) / factor
    return x.reshape(samples, *net["input"]).astype(np.float32), (shift, factor)


def net_outputs(net: dict[str, Any], params: dict[str, np.ndarray], x: np.ndarray, scaling: Any) -> np.ndarray:
    """The oracle's, in float64."""
    shift, factor = (a.reshape(net["input"]) for a in scaling)
    wide = {name: p.astype(np.float64) for name, p in params.items()}
    return oracle.forward(wide, oracle.parse(net["layers"]), (x.astype(np.float64) - shift) * factor)[-1]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def close(a: Any, b: Any) -> None:
    assert np.shape(a) == np.shape(b)
    assert np.allclose(a, b, rtol=1e-5, atol=1e-5), np.abs(a - b).max()


@pytest.mark.parametrize("form", RUN)
@pytest.mark.parametrize("net", NETS)
def test_every_layer_and_activation(tmp_path: Path, net: str, form: str) -> None:
    what = NETS[net]
    x, scaling = inputs(what)
    params = write_model(tmp_path / "m.safetensors", what, scaling=scaling)
    z = net_outputs(what, params, x, scaling)
    head = "values" if what["loss"] == "squared" else "probabilities"
    result = exported(tmp_path, form, x, head)
    close(result[head], z if head == "values" else softmax(z))


@pytest.mark.parametrize("form", RUN)
@pytest.mark.parametrize("scaled", [True, False])
def test_features_without_a_value(tmp_path: Path, form: str, scaled: bool) -> None:
    what = NETS["tanh"]
    x, scaling = inputs(what)
    if not scaled:
        x, scaling = RNG.normal(size=x.shape).astype(np.float32), (np.zeros(3), np.ones(3))
    fill = RNG.normal(size=3)
    params = write_model(tmp_path / "m.safetensors", what, scaling=(*scaling, fill))
    full = np.where(gaps := RNG.random(x.shape) < 0.3, fill, x)
    x[gaps] = np.nan
    assert gaps.any()
    close(exported(tmp_path, form, x, "values")["values"], net_outputs(what, params, full, scaling))


def test_the_nets_here_have_all_activations_and_losses() -> None:
    assert set(ACTIVATIONS) <= set(NETS)
    assert set(LOSSES.names()) == {loss for loss, _, _, _ in HEADS.values()}


def logistic(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


HEADS: dict[str, tuple[Any, int, dict[str, Any], Any]] = {
    "words": ("cross_entropy", 3, {"classes": WORDS}, lambda z: softmax(z)),
    "far labels": ("cross_entropy", 3, {"classes": [-5, 3, 2**40]}, lambda z: softmax(z)),
    "fewer labels than outputs": ("cross_entropy", 4, {"classes": WORDS}, lambda z: softmax(z[:, :3])),
    "two": (
        "logistic",
        1,
        {"classes": ["no", "yes"]},
        lambda z: np.hstack([logistic(-z), logistic(z)]),
    ),
    "scores": ("squared", 3, {"classes": [1, 2, 4]}, lambda z: z),
    "units": ("huber", 2, {"shift": [1e3, -4.0], "spread": [2.0, 0.1]}, lambda z: z * [2.0, 0.1] + [1e3, -4.0]),
    "counts": ("poisson", 2, {"counts": True}, np.exp),
}


@pytest.mark.parametrize("form", RUN)
@pytest.mark.parametrize("head", HEADS)
def test_every_loss_and_kind_of_target(tmp_path: Path, head: str, form: str) -> None:
    loss, outputs, targets, link = HEADS[head]
    layers = [{"dense": {"units": 5, "activation": "tanh"}}, {"dense": {"units": outputs}}]
    net = {"input": [4], "loss": loss, "layers": layers}
    x, scaling = inputs(net, samples=40)
    params = write_model(tmp_path / "m.safetensors", net, scaling=scaling, targets=targets)
    z = net_outputs(net, params, x, scaling)
    classes = targets.get("classes")
    name = "values" if classes is None else "scores" if loss == "squared" else "probabilities"
    result = exported(tmp_path, form, x, name)
    close(result[name], link(z))
    if classes is not None:
        place = (z[:, 0] > 0).astype(int) if outputs == 1 else np.argmax(z[:, : len(classes)], axis=1)
        assert len(set(place)) > 1
        wanted = [classes[p] for p in place]
        assert list(result["label"]) == ([str(label) for label in wanted] if form == "c" else wanted)


@pytest.mark.parametrize("form", ["onnx", "c"])
def test_double_keeps_small_differences_of_large_numbers(tmp_path: Path, form: str) -> None:
    """Features and targets around 10⁹ that differ by about one: float32 has steps of 64 there."""
    net = {"input": [3], "loss": "squared", "layers": [{"dense": {"units": 2, "activation": "tanh"}}]}
    scaling = np.full(3, 1e9), np.ones(3)
    targets = {"shift": [1e9, -1e9], "spread": [1.0, 2.0]}
    params = write_model(tmp_path / "m.safetensors", net, scaling=scaling, targets=targets)
    x = 1e9 + RNG.normal(size=(5, 3))
    z = net_outputs(net, params, x, scaling)
    result = exported(tmp_path, form, x, "values", "--double")["values"]
    assert np.allclose(result - [1e9, -1e9], z * [1.0, 2.0], rtol=0, atol=1e-5)


def test_float64_models_stay_so_where_the_format_can(tmp_path: Path) -> None:
    net = NETS["nested"]
    x, scaling = inputs(net)
    params = write_model(tmp_path / "m.safetensors", net, scaling=scaling, dtype="float64")
    wanted = softmax(net_outputs(net, params, x, scaling))
    for form in ("torch", "numpy"):
        assert np.allclose(exported(tmp_path, form, x, "probabilities", "--overwrite")["probabilities"], wanted, 1e-12)


def test_c_with_static_buffers_and_a_short_sample(tmp_path: Path) -> None:
    """Static buffers say the same; a sample that is cut off ends the program."""
    x, scaling = inputs(NETS["nested"])
    write_model(tmp_path / "m.safetensors", NETS["nested"], scaling=scaling)
    first = exported(tmp_path, "c", x, "probabilities")
    text = (tmp_path / "e.c").read_text()
    (tmp_path / "e.c").write_text("#define DNEWTON_STATIC\n" + text)
    again = by_c(tmp_path, x, "probabilities")
    assert np.array_equal(first["probabilities"], again["probabilities"])
    short = subprocess.run([tmp_path / "e"], input="1 2 3", capture_output=True, text=True, check=False)
    assert short.returncode == 1 and "not 64 numbers" in short.stderr


SHIPPED = [("onnx", name) for name in shipped_nets()]
SHIPPED += [(form, name) for form in ("torch", "numpy", "c") for name in ("cnn.yaml", "mlp_regression.yaml")]


@pytest.mark.jobs(1)
@pytest.mark.parametrize(("form", "name"), SHIPPED)
def test_shipped_nets_say_what_predict_says(tmp_path: Path, form: str, name: str) -> None:
    text, _ = read_net(name)
    net = parse.load(text, name, []).resolved()["net"]
    x, scaling = inputs(net)
    x = x.astype(np.float32)
    targets = {"shift": [150.0], "spread": [70.0]} if net["loss"] == "squared" else {}
    write_model(tmp_path / "m.safetensors", net, scaling=scaling, targets=targets)
    np.save(tmp_path / "x.npy", x)
    args = ["--model", "m.safetensors", "--data", "x.npy", "--out", "p.npz", "--dtype", "float32"]
    said = start(1, *args, cwd=tmp_path, module="dnewton.predict")
    assert said.returncode == 0, said.stderr
    predicted = np.load(tmp_path / "p.npz")
    head = "values" if net["loss"] == "squared" else "probabilities"
    result = exported(tmp_path, form, x, head)
    if head == "values":
        assert np.allclose(result["values"], predicted["prediction"], rtol=1e-5)
    else:
        close(result[head], softmax(predicted["output"]))
        assert np.array_equal(np.array(result["label"], dtype=np.int64), predicted["prediction"])
