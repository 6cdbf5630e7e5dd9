"""The YAML schema: what is read, what is refused, and in which words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnewton.config import parse, schema, strict_yaml
from dnewton.config.newton import NewtonSection
from dnewton.errors import UserError
from dnewton.planning.net_plan import infer_shapes

NET = """
net:
  input: [1, 8, 8]
  loss: cross_entropy
  layers:
    - conv: {channels: 4, kernel: 3, padding: 1, activation: relu}
    - maxpool: {size: 2}
    - flatten
    - dense: {units: 10}
"""


def load(text: str, *overrides: str) -> schema.Config:
    loaded = parse.load(text, "net.yaml", list(overrides))
    infer_shapes(loaded.net, "net.yaml")
    return loaded


def test_the_contract() -> None:
    """Every key of the documented file is known, and its value survives the resolved configuration."""
    text = (
        NET
        + """
data:  {train: digits, test: digits, scale: standardize}
solver: {name: newton, max_iterations: 50, C: 1.0, subsample: auto, curvature: diagonal, diagonal_unit: rank,
         subproblem: auto, cg_tolerance: auto, max_cg: 250, early_termination: {mode: off, fraction: 0.5},
         combine: previous, damping: auto,
         lambda: auto, drop: auto, boost: auto, eta: 1.0e-4, batch_size: auto, gradient_batch: all, seed: 0}
parallel: {grid: auto, replicas: 1, device: cpu, dtype: float32}
output: {checkpoint_every: 10, keep: 3}
"""
    )
    loaded = load(text)
    assert loaded.solver == NewtonSection()
    assert load(loaded.dump()) == loaded
    assert load(NET).dump() == parse.load(load(NET).dump(), "again").dump()


def test_values() -> None:
    loaded = load(
        NET,
        "solver.lambda=1e-3",
        "solver.C=inf",
        "solver.early_termination.mode=off",
        "parallel.memory=2GiB",
        "net.layers.0.conv.kernel=[3, 1]",
        "parallel.grid=[2, 2]",
        "solver.gradient_batch=7",
    )
    assert (
        loaded.solver.lambda_ == 1e-3 and math.isinf(loaded.solver.C) and loaded.solver.early_termination.mode == "off"
    )
    assert loaded.parallel.memory == 2**31 and loaded.parallel.grid == (2, 2) and loaded.solver.gradient_batch == 7
    assert loaded.net.layers[0].options.kernel == (3, 1)
    assert schema.regulariser(loaded, 10) == 0.0 and schema.regulariser(load(NET), 10) == 0.1
    assert load(loaded.dump()) == loaded


@pytest.mark.parametrize("key", ["subsample", "cg_tolerance", "lambda", "drop"])
def test_numbers_of_numpy_are_numbers(key: str) -> None:
    for number in (np.float64(0.5), np.float32(0.5)):
        value = NewtonSection.model_validate({key: number}).model_dump(by_alias=True)[key]
        assert type(value) is float and value == 0.5


def test_full_curvature_turns_early_termination_off() -> None:
    loaded = load(NET, "solver.curvature=full")
    assert loaded.solver.early_termination.mode == "off" and load(loaded.dump()) == loaded
    with pytest.raises(UserError, match="async"):
        load(NET, "solver.curvature=full", "solver.early_termination.mode=async")


WRONG = [
    (NET.replace("kernel", "kernl"), [], r"net.yaml: net.layers\[0\].conv.kernl: unknown key; did you mean 'kernel'\?"),
    (NET.replace("net:", "nett:"), [], "nett: unknown key; did you mean 'net'"),
    (NET.replace("- flatten", "- flaten"), [], r"net.layers\[2\].flaten: unknown key; did you mean 'flatten'"),
    (NET.replace("{units: 10}", "{units: ten}"), [], r"net.layers\[3\].dense.units: .*integer"),
    (NET.replace("{units: 10}", "{units: 0}"), [], r"net.layers\[3\].dense.units: .*greater than or equal to 1"),
    (NET.replace("kernel: 3", "kernel: [3, 3, 3]"), [], r"net.layers\[0\].conv.kernel"),
    (NET.replace("kernel: 3, ", ""), [], r"net.layers\[0\].conv.kernel: is required"),
    (NET.replace("kernel: 3", "kernel: 11"), [], r"net.layers\[0\] \(conv\): kernel \[11, 11\] does not fit"),
    (NET.replace("    - flatten\n", ""), [], r"net.layers\[2\] \(dense\): needs \[features\] but gets .*\[4, 4, 4\]"),
    (NET.replace("[1, 8, 8]", "[64]"), [], r"net.layers\[0\] \(conv\): needs an image .*\[64\]"),
    (
        NET.replace("[1, 8, 8]", "[8, 8, 8, 8]"),
        [],
        r"net.input: \[features\], \[channels, length\] or \[channels, height, width\]",
    ),
    (NET.replace("- dense: {units: 10}", "- flatten"), [], r"net.layers\[3\] \(flatten\): needs an image"),
    (
        NET.replace("cross_entropy", "mse"),
        [],
        "net.loss: should be 'squared', 'cross_entropy', 'logistic', 'huber' or 'poisson'",
    ),
    (NET.replace("size: 2", "size: 2, padding: 2"), [], r"net.layers\[1\].maxpool: padding"),
    (NET + "solver: {C: 0}", [], "solver.C: .*greater than 0"),
    (NET + "solver: {C: 1}\nsolver: {C: 2}", [], "net.yaml:11: not valid YAML: key 'solver' is given twice"),
    (NET + "solver: {lambda: -1}", [], "solver.lambda"),
    (NET + "solver: {cg_tolerance: 1.5}", [], "solver.cg_tolerance"),
    (NET + "solver: {subsample: 2.5}", [], "solver.subsample: a fraction"),
    (NET + "solver: {gradient_batch: 0}", [], "solver.gradient_batch: all or a number"),
    (NET + "solver: {max_iterations: 1.5}", [], "solver.max_iterations"),
    (NET + "solver: {name: adamm}", [], "solver.name"),
    (NET + "parallel: {grid: [0, 2]}", [], "parallel.grid: auto or"),
    (NET + "parallel: {memory: lots}", [], "parallel.memory: a size such as 4GiB"),
    (NET + "data: &a {train: digits}\nx: *a", [], "aliases"),
    (NET + "data: [", [], "net.yaml:.*not valid YAML"),
    ("just words", [], "a mapping with the section 'net' is needed"),
    ("", [], "a mapping with the section 'net' is needed"),
    ("net: !!python/object/apply:os.system [ls]", [], "not valid YAML"),
    (NET, ["solver.C"], "--set solver.C: write section.key=value"),
    (NET, ["solver.c=1"], "--set: solver.c: unknown key; did you mean 'C'"),
    (NET, ["net.layers.9.conv.kernel=1"], "--set net.layers.9.conv.kernel: net.layers has entries 0 to 3"),
    (NET, ["net.loss.x=1"], "--set net.loss.x: net.loss is a single value"),
    (NET, ["solver.C=[1"], "--set solver.C"),
]


@pytest.mark.parametrize(("text", "overrides", "message"), WRONG)
def test_mistakes(text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(text, *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("3", 3),
        ("inf", math.inf),
        (".inf", math.inf),
        ("off", "off"),
        ("no", "no"),
        ("true", True),
        ("1_000.5", 1000.5),
        ("0x10", "0x10"),
        ("~", None),
        ("e5", "e5"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = strict_yaml.parse(text, "x")
    assert found == value and type(found) is type(value)


@given(st.text(max_size=60))
def test_no_text_breaks_the_loader(text: str) -> None:
    for candidate in (text, NET + text, NET.replace("relu", text)):
        try:
            load(candidate)
        except UserError as error:
            assert "\n" not in str(error)
