"""`dnewton.export` as a user runs it, and what comes back in by --init."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import start
from jobs import environment
from models import write_model
from runs import train
from safetensors.numpy import load_file

from dnewton import __main__ as verbs
from dnewton.cli import export
from dnewton.errors import UserError

NET: dict[str, Any] = {
    "input": [3],
    "loss": "squared",
    "layers": [{"dense": {"units": 4, "activation": "tanh"}}, {"dense": {"units": 2}}],
}
SCALING = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.25, 2.0])


def exit_code(*words: str) -> Any:
    """Of a command line."""
    with np.errstate(), pytest.raises(SystemExit) as stop:
        export.main(words)
    return stop.value.code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m.safetensors", NET, scaling=SCALING, columns=["a", "b", "c"])
    return tmp_path


def test_the_suffix_decides_and_a_run_gives_its_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "runs" / "surface"
    run.mkdir(parents=True)
    (folder / "m.safetensors").rename(run / "model.safetensors")
    assert exit_code("runs/surface", "--to", "numpy") == 0
    said = capsys.readouterr().out
    assert "2 layers with 26 weights to surface.npz" in said and "surface.py" in said
    assert exit_code("runs/surface", "-o", "net.c") == 0
    assert "int net_predict(const float *x, float *out);" in Path("net.c").read_text()
    assert not list(folder.glob("*.tmp"))


def test_a_verb_of_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dnewton", "export", "m.safetensors", "-o", "2nd net.c"])
    with np.errstate(), pytest.raises(SystemExit) as stop:
        verbs.main()
    assert stop.value.code == 0
    assert "int model_2nd_net_predict(" in Path("2nd net.c").read_text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("m.safetensors", "--to or -o is needed"),
        ("m.safetensors -o m.pt", "the suffix says no format; use one of .onnx (onnx)"),
        ("m.safetensors -o m.onnx --to torch", "--to torch writes .safetensors"),
        ("m.safetensors -o m.npz --double", "--double: --to numpy takes float32 and float64"),
        ("m.safetensors -o m.safetensors --overwrite", "m.safetensors: is the model itself"),
        ("m.safetensors -o old.npz", "old.py: exists; use --overwrite"),
        ("m.safetensors -o none/m.c", "none/m.c: cannot be written: No such file"),
        ("m.safetensors --to tflite", "invalid choice: 'tflite'"),
        ("nothing --to c", "nothing: no such run directory or model file"),
        (". --to c", ".: has no model.safetensors"),
        ("old.py --to c", "old.py: not a readable safetensors file"),
        ("bare.safetensors --to c", "bare.safetensors: was not written by dnewton.train"),
    ],
)
def test_mistakes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    from safetensors.numpy import save_file

    Path("old.py").write_text("mine\n")
    save_file(load_file("m.safetensors"), "bare.safetensors")
    before = Path("m.safetensors").read_bytes()
    assert exit_code(*line.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("dnewton: error: ") and said.count("\n") == 1 and words in said, said
    assert Path("old.py").read_text() == "mine\n" and Path("m.safetensors").read_bytes() == before
    assert not Path("old.npz").exists()


def test_a_missing_library_is_named_with_its_cure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "onnx":
            raise ImportError("No module named 'onnx'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'dnewton\[onnx\]'"):
        export.export(export.arguments(["m.safetensors", "--to", "onnx"], rank=0))


@pytest.mark.parametrize("form", ["onnx", "torch", "numpy", "c"])
def test_a_layer_that_a_format_does_not_know(folder: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    if form == "onnx":
        pytest.importorskip("onnx")
    monkeypatch.delitem(import_module(f"dnewton.export_formats.{form}_format")._LAYERS, "dense")
    with pytest.raises(UserError, match=r"m.safetensors: layer dense \(layers.0\) cannot be exported to this format"):
        export.export(export.arguments(["m.safetensors", "--to", form, "-o", "n" + export.SUFFIXES[form]], rank=0))


@pytest.mark.jobs(1)
def test_what_went_to_pytorch_is_a_start(folder: Path) -> None:
    """The exported file, whose scaling is not taken, and the same layers in an `nn.Sequential`."""
    rng = np.random.default_rng(3)
    np.savez(folder / "d.npz", x=rng.normal(size=(20, 3)), y=rng.normal(size=(20, 2)))
    assert exit_code("m.safetensors", "--to", "torch", "-o", "t.safetensors") == 0
    config = {"net": NET, "data": {"train": "d.npz"}}
    result = train(1, folder, config, "run", "--init", "t.safetensors", "--init-only")
    assert result.returncode == 0, result.stderr
    params, found = load_file("m.safetensors"), load_file("run/model.safetensors")
    assert all(np.array_equal(found[name], params[name]) for name in params)
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    save_file(net.state_dict(), "s.safetensors")
    result = train(1, folder, config, "again", "--init", "s.safetensors", "--init-only")
    assert result.returncode == 0, result.stderr
    x = np.load("d.npz")["x"].astype(np.float32)
    np.save("x.npy", x)
    said = start(1, "--model", "again", "--data", "x.npy", "--out", "p.npz", cwd=folder, module="dnewton.predict")
    assert said.returncode == 0, said.stderr
    assert np.allclose(np.load("p.npz")["output"], net(torch.from_numpy(x)).detach().numpy(), atol=1e-6)


@pytest.mark.serial
def test_no_mpi_library_is_loaded(folder: Path) -> None:
    code = (
        "import sys; sys.modules['mpi4py'] = None\nfrom dnewton.cli.export import main\n"
        "try: main(['m.safetensors', '--to', 'c'])\nfinally: assert 'libmpi' not in open('/proc/self/maps').read()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("m.c").exists()
