"""`dnewton.fit` on equations: the same on any ranks, unknown parameters, derivatives, run directories, and mistakes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dnewton as dn
from dnewton.comm import library
from dnewton.comm.communicator import Comm

RNG = np.random.default_rng(0)
INSIDE = RNG.uniform(size=(60, 2))
SIDE = np.linspace(0, 1, 9)
EDGE = np.concatenate([np.column_stack(c) for c in ((SIDE, 0 * SIDE), (SIDE, 0 * SIDE + 1), (0 * SIDE, SIDE))])
NET = dn.net([2], [dn.dense(9, "tanh"), dn.dense(7, "sin"), dn.dense(1)])
PARALLEL = {"dtype": "float64"}
WHOLE = {"curvature": "full", "subproblem": "exact", "max_iterations": 6}


def poisson(x: Any, u: Any) -> Any:
    return u.laplacian() + 2 * np.pi**2 * np.prod(np.sin(np.pi * x), axis=1, keepdims=True)


def edge(x: Any, u: Any) -> Any:
    return u.value


def heat(x: Any, u: Any, kappa: Any) -> Any:
    return u.d(1) - kappa * u.dd(0, 0)


def solution(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.3 * np.pi**2 * x[:, 1]) * np.sin(np.pi * x[:, 0])


def terms() -> list[Any]:
    return [dn.Residual(poisson, INSIDE), dn.Residual(edge, EDGE, weight=10.0)]


@pytest.mark.mpi
def test_the_same_on_any_ranks(comm: Comm) -> None:
    """The whole system solved exactly does not depend on the ranks; several batches, some samples of S."""
    for solver in ({}, {"batch_size": 16}, {"subsample": 0.4, "seed": 3}):
        models = [
            dn.fit(NET, terms=terms(), parallel=PARALLEL, solver={**WHOLE, **solver}, comm=c)
            for c in (None, library.mpi().COMM_SELF)
        ]
        a, b = (m.history["loss"] for m in models)
        assert a == pytest.approx(b, rel=1e-8)
        assert a[-1] < 0.5 * a[0]
        assert models[0].predict(INSIDE) == pytest.approx(models[1].predict(INSIDE), rel=1e-6, abs=1e-8)


@pytest.mark.mpi
def test_the_loss_is_the_sum_of_weighted_means(comm: Comm) -> None:
    """At the starting point, by the derivatives of the model, for terms of different sizes and a regulariser."""
    seen = INSIDE[:7]
    given = [*terms(), dn.Data(seen, solution(seen), weight=3.0)]
    model = dn.fit(NET, terms=given, parallel=PARALLEL, solver={"max_iterations": 0, "C": 2.0})
    inside = model.derivatives(INSIDE, ["laplacian"])["laplacian"]
    residual = inside + 2 * np.pi**2 * np.prod(np.sin(np.pi * INSIDE), axis=1)
    weights = sum(float((w**2).sum()) for w in model.weights().values())
    count = len(INSIDE) + len(EDGE) + len(seen)
    expected = np.mean(residual**2) + 10 * np.mean(model.predict(EDGE) ** 2)
    expected += 3 * np.mean((model.predict(seen) - solution(seen)) ** 2) + weights / (2 * 2.0 * count)
    assert model.history["loss"][0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "solver",
    [
        {"curvature": "diagonal"},
        {"curvature": "diagonal", "subproblem": "exact"},
        {"curvature": "diagonal", "jacobian": "implicit"},
        {"curvature": "diagonal", "diagonal_unit": "layer", "damping": "paper", "jacobian": "dense"},
        {"curvature": "diagonal", "preconditioner": "diagonal", "jacobian": "factored"},
        {"curvature": "diagonal", "preconditioner": "kronecker", "early_termination": "lockstep"},
        {"gradient_batch": 30, "subsample": 20, "curvature": "diagonal"},
    ],
    ids=str,
)
def test_every_way_to_solve(comm: Comm, solver: dict[str, Any]) -> None:
    model = dn.fit(NET, terms=terms(), parallel=PARALLEL, solver={"max_iterations": 8, **solver})
    assert model.history["loss"][-1] < 0.8 * model.history["loss"][0]


@pytest.mark.mpi
def test_an_unknown_parameter(comm: Comm, tmp_path: Path) -> None:
    """A coefficient of the heat equation from values of its solution; kept in the model, and by its file."""
    rng = np.random.default_rng(1)
    inside, seen = rng.uniform(size=(120, 2)), rng.uniform(size=(60, 2))
    kappa = dn.Parameter("kappa", 1.0)
    net = dn.net([2], [dn.dense(12, "tanh"), dn.dense(1)])
    given = [dn.Residual(heat, inside, parameters=[kappa]), dn.Data(seen, solution(seen), weight=3.0)]
    model = dn.fit(net, terms=given, test=(inside, solution(inside)), parallel=PARALLEL, solver={"max_iterations": 120})
    assert model.parameters["kappa"] == pytest.approx(0.3, abs=2e-3)
    assert model.history["test_rmse"][-1] < 2e-3
    rms = np.sqrt(np.mean((model.predict(inside) - solution(inside)) ** 2))
    assert rms == pytest.approx(model.history["test_rmse"][-1], rel=1e-6)
    folder = comm.text_from_root(str(tmp_path))
    model.save(f"{folder}/model.safetensors")
    again = dn.load(f"{folder}/model.safetensors")
    assert again.parameters == model.parameters
    assert again.predict(seen) == pytest.approx(model.predict(seen), rel=1e-12)
    further = dn.fit(net, terms=given, init=model, parallel=PARALLEL, solver={"max_iterations": 1})
    assert further.history["loss"][0] > 10 * model.history["loss"][-1]  # kappa begins where the call says


@pytest.mark.mpi
def test_a_run_directory(comm: Comm, tmp_path: Path) -> None:
    folder = comm.text_from_root(str(tmp_path))
    unknown = dn.Parameter("kappa", 1.0)
    given = [dn.Residual(heat, INSIDE, parameters=[unknown]), dn.Data(EDGE, solution(EDGE))]
    calls = {"terms": given, "parallel": PARALLEL}
    whole = dn.fit(NET, **calls, solver={**WHOLE, "max_iterations": 6})
    part = dn.fit(NET, **calls, solver={**WHOLE, "max_iterations": 3}, out=f"{folder}/run")
    assert f"fit(..., out='{folder}/run', resume=True, solver={{'max_iterations': 6}})" in part.message
    resumed = dn.fit(NET, **calls, solver={**WHOLE, "max_iterations": 6}, out=f"{folder}/run", resume=True)
    assert resumed.history["loss"][-1] == pytest.approx(whole.history["loss"][-1], rel=1e-8)
    assert resumed.parameters == pytest.approx(whole.parameters, rel=1e-8)
    loaded = dn.load(f"{folder}/run")
    assert loaded.parameters == pytest.approx(resumed.parameters)
    for changed, why in (
        (
            [dn.Residual(heat, INSIDE, 2.0, [unknown]), given[1]],
            r"terms\[0\].weight was 1.0 and is 2.0; use another out,",
        ),
        (
            [dn.Residual(heat, INSIDE, 1.0, [dn.Parameter("k", 1.0)]), given[1]],
            r"parameters\[0\] was .kappa. and is .k.",
        ),
    ):
        with pytest.raises(dn.UserError, match=why):
            dn.fit(NET, terms=changed, parallel=PARALLEL, solver=WHOLE, out=f"{folder}/run", resume=True)
    assert loaded.predict(EDGE) == pytest.approx(resumed.predict(EDGE), rel=1e-12)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "how", [WHOLE, {"curvature": "diagonal", "jacobian": "implicit", "max_iterations": 4}], ids=str
)
def test_shares_of_the_curvature(comm: Comm, how: dict[str, Any]) -> None:
    """Where all points of a term are the same, the curvature of any of them, well weighted, is that of all: whatever
    the shares, training goes the way that it goes with all points. The splits, by which the blocks are, are fixed: the
    planner chooses them by the number of points."""
    layers = [
        dn.dense(9, "tanh", split="row->col"),
        dn.dense(7, "sin", split="col->row"),
        dn.dense(1, split="row->col"),
    ]
    net = dn.net([2], layers)
    points = [np.tile(INSIDE[k], (n, 1)) for k, n in enumerate((30, 20, 7))]

    def losses(shares: tuple[float | None, ...], solver: dict[str, Any]) -> np.ndarray:
        inside, sides, seen = points
        given = [
            dn.Residual(poisson, inside, share=shares[0]),
            dn.Residual(edge, sides, weight=10.0, share=shares[1]),
            dn.Data(seen, solution(seen), share=shares[2]),
        ]
        return dn.fit(net, terms=given, parallel=PARALLEL, solver={**how, **solver}).history["loss"]

    whole = losses((None, None, None), {})
    for size in (3, 17):
        for shares in ((None, None, None), (0.2, None, 0.3), (0.1, 0.1, 0.8)):
            assert losses(shares, {"subsample": size}) == pytest.approx(whole, rel=1e-6)


@pytest.mark.mpi
def test_fresh_points(comm: Comm, tmp_path: Path) -> None:
    """Every second iteration, by the seed alone: the same on any ranks and after a resumption."""
    drawn = []

    def points(rng: np.random.Generator) -> np.ndarray:
        drawn.append(rng.uniform(size=(50, 2)))
        return drawn[-1]

    folder = comm.text_from_root(str(tmp_path))
    given = [dn.Residual(poisson, points, resample=2), dn.Residual(edge, EDGE)]
    calls = {"terms": given, "parallel": PARALLEL}
    dn.fit(NET, **calls, solver={**WHOLE, "max_iterations": 2})
    assert len(drawn) == 1
    drawn.clear()
    whole = dn.fit(NET, **calls, solver={**WHOLE, "max_iterations": 7})
    assert len(drawn) == 4
    assert len({d.tobytes() for d in drawn}) == 4
    alone = dn.fit(NET, **calls, solver={**WHOLE, "max_iterations": 7}, comm=library.mpi().COMM_SELF)
    assert whole.history["loss"] == pytest.approx(alone.history["loss"], rel=1e-7)
    dn.fit(NET, **calls, solver={**WHOLE, "max_iterations": 5}, out=f"{folder}/run")
    resumed = dn.fit(NET, **calls, solver={**WHOLE, "max_iterations": 7}, out=f"{folder}/run", resume=True)
    assert resumed.history["loss"][-1] == pytest.approx(whole.history["loss"][-1], rel=1e-7)
    other = dn.fit(NET, **calls, solver={**WHOLE, "seed": 8, "max_iterations": 0})
    assert other.history["loss"][0] != whole.history["loss"][0]


@pytest.mark.mpi
def test_derivatives_of_models(comm: Comm) -> None:
    """In the units of inputs and targets, for a net that was trained on scaled data."""
    x = RNG.normal(size=(40, 3)) * [2.0, 0.1, 5.0] + [1.0, 0.0, 30.0]
    y = np.stack([x[:, 0] * x[:, 1], 100 + x[:, 2]], axis=1)
    layers = [dn.dense(6, "tanh"), dn.residual(dn.dense(6, "silu")), dn.dense(2)]
    scaled = {"scale": "standardize", "scale_targets": "standardize"}
    model = dn.fit(dn.net([3], layers), x, y, data=scaled, parallel=PARALLEL, solver={"max_iterations": 4})
    points = x[:8]
    found = model.derivatives(points, ["value", "d0", "d2", "d11", "d20", "laplacian"])
    steps = 1e-3 * np.diag([2.0, 0.1, 5.0])

    def first(at: np.ndarray, a: int) -> np.ndarray:
        e = steps[a]
        return np.asarray((model.predict(at + e) - model.predict(at - e)) / (2 * e[a]))

    def second(a: int, b: int) -> np.ndarray:
        e = steps[b]
        return (first(points + e, a) - first(points - e, a)) / (2 * e[b])

    expected = {
        "value": model.predict(points),
        "d0": first(points, 0),
        "d2": first(points, 2),
        "d11": second(1, 1),
        "d20": second(0, 2),
        "laplacian": second(0, 0) + second(1, 1) + second(2, 2),
    }
    for name, wanted in expected.items():
        assert np.abs(found[name] - wanted).max() < 1e-4 * np.abs(wanted).max(), name


def slopes(x: Any, u: Any) -> Any:
    return np.column_stack([u.d(0), u.d(1)])


@pytest.mark.mpi
@pytest.mark.parametrize(
    "how", [{}, {"subsample": 0.5, "seed": 3}, {"curvature": "diagonal", "subproblem": "cg"}], ids=str
)
def test_measured_slopes(comm: Comm, how: dict[str, Any]) -> None:
    """Targets of what a function returns are the same as a function from which they are subtracted."""
    values = np.exp(INSIDE[:, 1:]) * np.column_stack([3 * np.cos(3 * INSIDE[:, 0]), np.sin(3 * INSIDE[:, 0])])

    def difference(x: Any, u: Any) -> Any:
        return slopes(x, u) - np.exp(x[:, 1:]) * np.column_stack([3 * np.cos(3 * x[:, 0]), np.sin(3 * x[:, 0])])

    a, b = (
        dn.fit(NET, terms=[dn.Residual(edge, EDGE), term], parallel=PARALLEL, solver={**WHOLE, **how}).history["loss"]
        for term in (dn.Residual(slopes, INSIDE, weight=3.0, targets=values), dn.Residual(difference, INSIDE, 3.0))
    )
    assert a == pytest.approx(b, rel=1e-8)


@pytest.mark.mpi
def test_stated_derivatives(comm: Comm) -> None:
    """The same run as by complex step, for a residual that has several equations and an unknown."""

    def pair(x: Any, u: Any, k: Any) -> Any:
        return np.concatenate([u.value**2 - k, u.d(0) * u.value], axis=1)

    def stated(x: Any, u: Any, k: Any) -> Any:
        zero = np.zeros((len(x), 1, 1))
        value = np.concatenate([2 * u.value[:, :, None], u.d(0)[:, :, None]], axis=1)
        return {"value": value, "d(0)": np.concatenate([zero, u.value[:, :, None]], axis=1)}

    losses = [
        dn.fit(
            NET,
            terms=[dn.Residual(pair, INSIDE, parameters=[dn.Parameter("k", 0.5)], derivative=derivative)],
            parallel=PARALLEL,
            solver=WHOLE,
        ).history["loss"]
        for derivative in (None, stated)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_settings_of_a_file_stay(tmp_path: Path) -> None:
    """What nobody has said is chosen for terms, what the YAML file or the call says is not."""
    layers = "[{dense: {units: 3, activation: tanh}}, {dense: {units: 1}}]"
    text = f"net: {{input: [2], loss: squared, layers: {layers}}}\nsolver: {{C: 5.0, subproblem: cg}}\n"
    (tmp_path / "net.yaml").write_text(text)
    fit = {"terms": terms(), "parallel": PARALLEL, "solver": {"max_iterations": 1}}
    dn.fit(str(tmp_path / "net.yaml"), **fit, out=tmp_path / "a")
    dn.fit(NET, **fit, out=tmp_path / "b")
    a, b = ((tmp_path / name / "config.yaml").read_text() for name in "ab")
    for line in ("C: 5.0", "subproblem: cg", "acceleration: none", "max_iterations: 1", "scale: none"):
        assert line in a
    for line in ("C: inf", "subproblem: exact", "acceleration: geodesic", "max_iterations: 1", "scale: none"):
        assert line in b.replace(".inf", "inf")


def test_notes_about_points(caplog: pytest.LogCaptureFixture) -> None:
    """A range far from 1, and fewer residuals than weights."""
    caplog.set_level("INFO", logger="dnewton")
    dn.fit(NET, terms=[dn.Residual(edge, INSIDE * [1, 1000])], solver={"max_iterations": 0})
    assert "warning: input 1 runs from" in caplog.text and "input 0" not in caplog.text
    assert "changed with the parameter" not in caplog.text
    dn.fit(NET, terms=[dn.Residual(unused, INSIDE, parameters=[KAPPA])], solver={"max_iterations": 1})
    assert "warning: no residual changed with the parameter 'kappa'" in caplog.text
    assert "60 residuals for 105 weights" in caplog.text
    caplog.clear()
    few = dn.net([2], [dn.dense(3, "tanh"), dn.dense(1)])
    dn.fit(few, terms=terms(), solver={"max_iterations": 0})
    assert "residuals for" not in caplog.text and "runs from" not in caplog.text


def unlike(x: Any, u: Any) -> Any:
    return u.value - x[:, 0]


def lost(x: Any, u: Any) -> Any:
    return np.abs(u.value) + np.abs(u.d(0))


def undefined(x: Any, u: Any) -> Any:
    return u.value - np.sqrt(x[:, :1] - 0.5)


def logarithm(x: Any, u: Any) -> Any:
    return np.log(u.value)


def narrow(x: Any, u: Any) -> Any:
    return u.value.astype(np.float32)


def constant(x: Any, u: Any) -> Any:
    return x[:, :1]


def shorter(x: Any, u: Any) -> Any:
    return u.value[:5]


def beyond(x: Any, u: Any) -> Any:
    return u.d(2)


def number(x: Any, u: Any) -> Any:
    return 3.0


def wrong(x: Any, u: Any) -> Any:
    return u.value**2


def coupled(x: Any, u: Any) -> Any:
    return u.value - u.value.mean()


def shifted(x: Any, u: Any) -> Any:
    return u.value - np.roll(u.value, 2, axis=0)


def in_place(x: Any, u: Any) -> Any:
    v = u.value
    v -= 1
    return v


def third(x: Any, u: Any) -> Any:
    return u.ddd(0, 0, 0)


def real_alone(x: Any, u: Any) -> Any:
    return np.hypot(u.d(0), u.d(1)) - 1


def divided(x: Any, u: Any) -> Any:
    return u.value / (1 // 0)


def unused(x: Any, u: Any, kappa: Any) -> Any:
    return u.value


def positive(x: Any, u: Any, kappa: Any) -> Any:
    return abs(kappa) * u.value - 1


def by_name(x: Any, u: Any) -> Any:
    return u.d("t")


KAPPA = dn.Parameter("kappa", 1.0)
MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"terms": [dn.Residual(unlike, INSIDE)]},
        r"terms\[0\] \(unlike\): returned shape \[13, 13\] on 13 points; .*same axes",
    ),
    (
        {"terms": [*terms(), dn.Residual(lost, INSIDE)]},
        r"terms\[2\] \(lost\): the complex step by u.value is .* not analytic",
    ),
    ({"terms": [dn.Residual(undefined, INSIDE)]}, r"terms\[0\] \(undefined\): is nan at point \d+, \(0\.\d+, 0\.\d+\)"),
    (
        {"terms": [dn.Residual(edge, EDGE), dn.Residual(logarithm, INSIDE)]},
        r"objective is nan at the starting point; terms\[1\] \(logarithm\) is not finite at \(0",
    ),
    ({"terms": [dn.Residual(narrow, INSIDE)]}, r"\(narrow\): returned dtype float32; float64 is needed"),
    ({"terms": [dn.Residual(constant, INSIDE)]}, r"\(constant\): does not depend on the net"),
    ({"terms": [dn.Residual(partial(shorter), INSIDE)]}, r"\(shorter\): returned shape \[5, 1\] on 13 points"),
    ({"terms": [dn.Residual(beyond, INSIDE)]}, r"\(beyond\): u.d of input 2; the net has inputs 0 to 1"),
    ({"terms": [dn.Residual(number, INSIDE)]}, r"\(number\): returned float; an array"),
    (
        {"terms": [dn.Residual(wrong, INSIDE, derivative=lambda x, u: {"value": u.value[:, None, :]})]},
        r"\(wrong\): derivative= by u.value differs from differences",
    ),
    (
        {"terms": [dn.Residual(wrong, INSIDE, derivative=lambda x, u: {"value": u.value[:3]})]},
        r"\(wrong\): derivative by value has shape \[3, 1\]; \[60, 1, 1\]",
    ),
    (
        {"terms": [dn.Residual(wrong, INSIDE, derivative=lambda x, u: {"d(0)": u.value})]},
        r"\(wrong\): derivative must give a dictionary .* of value",
    ),
    ({"terms": [dn.Residual(edge, np.full((4, 2), np.nan))]}, r"\(edge\): points hold NaN"),
    ({"terms": [dn.Residual(edge, INSIDE[:, :1])]}, r"\(edge\): points have 1 column\(s\), the net has 2 input"),
    ({"terms": [dn.Residual(edge, INSIDE, weight=-1.0)]}, r"\(edge\): weight is -1.0; a number above 0"),
    (
        {"terms": [dn.Residual(edge, INSIDE, parameters=[3.0])]},
        r"\(edge\): parameters must be a list of dnewton.Parameter",
    ),
    (
        {"terms": [dn.Data(INSIDE, np.zeros((60, 2)))]},
        r"terms\[0\] \(data\): y has 2 column\(s\), the net has 1 output",
    ),
    ({"terms": [dn.Data(INSIDE, np.full(60, np.inf))]}, r"\(data\): targets must be finite numbers"),
    ({"terms": [dn.Residual(edge, INSIDE, share=1.5)]}, r"\(edge\): share is 1.5; a number above 0"),
    ({"terms": [dn.Data(INSIDE, EDGE[:, 0], share=1.0), dn.Residual(edge, EDGE)]}, r"are 1 in sum; less than 1"),
    ({"terms": terms(), "solver": {"subsample": 1.0e-9}}, r"subsample: 1 point\(s\) for 2 terms"),
    ({"terms": [dn.Residual(edge, INSIDE, resample=3)]}, r"resample is 3; .* points= a function"),
    ({"terms": [dn.Residual(edge, lambda rng: rng.uniform(size=(3, 2)), resample=0)]}, r"resample is 0"),
    (
        {"terms": [dn.Residual(edge, lambda rng: rng.uniform(size=(3, 2, 1)))]},
        r"\(edge\): drew points of shape \[3, 2, 1\]",
    ),
    ({"terms": [dn.Residual(edge, lambda rng: [[np.nan, 1.0]])]}, r"\(edge\): drew points .* finite numbers"),
    ({"terms": [dn.Residual(coupled, INSIDE)]}, r"\(coupled\): the residual of a point depends on other points"),
    ({"terms": [dn.Residual(shifted, INSIDE)]}, r"\(shifted\): the residual of a point depends on other points"),
    (
        {"terms": [dn.Residual(in_place, INSIDE)]},
        r"\(in_place\): ValueError: .* read-only .*, line \d+\)$",
    ),
    ({"terms": [dn.Residual(third, INSIDE)]}, r"\(third\): u.ddd does not exist; .* further output"),
    ({"terms": [dn.Residual(real_alone, INSIDE)]}, r"\(real_alone\): TypeError: .* line \d+\); use .* complex numbers"),
    ({"terms": [dn.Residual(divided, INSIDE)]}, r"\(divided\): ZeroDivisionError: .* \(test_terms.py, line \d+\)$"),
    ({"terms": [dn.Residual(heat, INSIDE)]}, r"\(heat\): TypeError: .*; it is called with x, u and .* 0 parameter"),
    ({"terms": [dn.Residual(positive, INSIDE, parameters=[KAPPA])]}, r"complex step by parameter 'kappa' is"),
    ({"terms": [dn.Residual(by_name, INSIDE)]}, r"\(by_name\): u.d of input 't'; the net has inputs 0 to 1"),
    ({"terms": [dn.Residual(lambda x, u: u.laplacian(0, 0), INSIDE)]}, r"u.laplacian\(0, 0\): name each input once"),
    ({"terms": [dn.Residual(heat, INSIDE, parameters=KAPPA)]}, r"parameters must be a list .*, not Parameter"),
    ({"terms": [dn.Residual(heat, INSIDE, parameters=[KAPPA] * 2)]}, r"parameter 'kappa' is named twice"),
    ({"terms": [dn.Residual(heat, INSIDE, parameters=[dn.Parameter("", 1.0)])]}, r"parameter '': a name is needed"),
    ({"terms": [dn.Residual(heat, INSIDE, parameters=[dn.Parameter("k", "1")])]}, r"'k' begins at '1'; a finite"),
    ({"terms": [dn.Residual(edge, INSIDE, weight=np.ones(60))]}, r"weight has shape \[60\]; .* factor √w\(x\)"),
    ({"terms": [dn.Residual(edge, np.zeros((0, 2)))]}, r"points have shape \[0, 2\]; \[points, inputs\] is needed"),
    ({"terms": [dn.Residual(edge, [["a", "b"]])]}, r"points must be numbers"),
    ({"terms": [dn.Data(INSIDE, None)]}, r"\(data\): y is needed"),
    ({"terms": [dn.Residual(edge, lambda: INSIDE)]}, r"\(edge\): points: TypeError: .*; it is called with a random"),
    ({"terms": [dn.Residual(slopes, INSIDE, targets=INSIDE[:, 0])]}, r"targets have 1 column\(s\), .* has 2"),
    ({"terms": [dn.Residual(slopes, INSIDE, targets=INSIDE[:9])]}, r"\(slopes\): x has 60 sample\(s\), y has 9"),
    ({"terms": [dn.Residual(edge, lambda rng: INSIDE, targets=INSIDE)]}, r"\(edge\): targets are of points .* given"),
    ({"terms": []}, r"terms must be a list of"),
    ({"terms": [edge]}, r"terms\[0\] is function"),
    ({"terms": terms(), "x": INSIDE}, r"x is for samples"),
    ({"terms": terms(), "data": {"scale": "unit"}}, r"data is for samples"),
    ({"terms": terms(), "solver": {"name": "adam"}}, r"solver.name: adam .* terms need newton"),
    ({"terms": terms(), "net": dn.net([2], [dn.dense(3, "relu"), dn.dense(1)])}, r"net.layers.0: relu has a kink"),
    ({"terms": terms(), "net": dn.net([2], [dn.dense(3), dn.dense(1)], loss="huber")}, r"net.loss: terms are squared"),
    (
        {"terms": terms(), "net": dn.net([2, 4], [dn.conv(2, 3), dn.flatten(), dn.dense(1)])},
        r"net.input: terms are on points \[inputs\], not \[2, 4\]",
    ),
]


@pytest.mark.parametrize(("call", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_end_in_one_line(call: dict[str, Any], message: str) -> None:
    call = dict(call)
    with pytest.raises(dn.UserError, match=message) as error:
        dn.fit(call.pop("net", NET), **call)
    assert "\n" not in str(error.value)


def test_convolutions_refuse_jets() -> None:
    net = dn.net([2, 8], [dn.conv(2, 3), dn.flatten(), dn.dense(1)])
    model = dn.fit(net, np.zeros((9, 2, 8)) + RNG.normal(size=(9, 2, 8)), np.arange(9.0), solver={"max_iterations": 0})
    with pytest.raises(dn.UserError, match=r"inputs are \[features\], not \[2, 8\]"):
        model.derivatives(np.zeros((1, 2, 8)), ["d0"])
    with pytest.raises(dn.UserError, match=r"'d7' is no derivative by 2 input"):
        dn.fit(NET, INSIDE, INSIDE[:, 0], solver={"max_iterations": 0}).derivatives(INSIDE, ["d7"])


def test_points_of_a_single_input() -> None:
    """Numbers and lists are points, for terms and for the model."""
    net = dn.net([1], [dn.dense(4, "tanh"), dn.dense(1)])
    at = [0.0, 0.5, 1.0]
    models = [
        dn.fit(net, terms=[dn.Data(x, at), dn.Residual(lambda x, u: u.d(0) - 1, x)], solver={"max_iterations": 2})
        for x in (at, np.array(at), np.array(at)[:, None])
    ]
    column = models[2].predict(np.array(at)[:, None])
    for model in models:
        assert (model.predict(at) == column).all()
        assert (model.predict(np.array(at)) == column).all()


def test_names_of_derivatives() -> None:
    """No other derivative than the one that a name says: third ones are refused."""
    model = dn.fit(NET, INSIDE, INSIDE[:, 0], solver={"max_iterations": 0})
    found = model.derivatives(
        INSIDE, ["d1", "d(1)", "d01", "dd(1, 0)", "d00", "laplacian(0)", "laplacian(0, 1)", "laplacian"]
    )
    for short, long in (("d1", "d(1)"), ("d01", "dd(1, 0)"), ("d00", "laplacian(0)"), ("laplacian", "laplacian(0, 1)")):
        assert (found[short] == found[long]).all()
    for name in ("d000", "d001", "d012", "d(0", "dd(0)", "dd(0, 0, 0)", "u", 0):
        with pytest.raises(dn.UserError, match="is no derivative by 2 input"):
            model.derivatives(INSIDE, [name])  # type: ignore[list-item]
    with pytest.raises(dn.UserError, match=r"'laplacian\(0,0\)': name each input once"):
        model.derivatives(INSIDE, ["laplacian(0,0)"])
    with pytest.raises(dn.UserError, match=r"names must be a list such as \['d0'\]"):
        model.derivatives(INSIDE, "d0")


@pytest.mark.mpi
def test_points_that_differ_between_ranks(comm: Comm) -> None:
    if comm.size == 1:
        return
    with pytest.raises(dn.UserError, match="points differ from rank to rank"):
        dn.fit(NET, terms=[dn.Residual(edge, INSIDE + comm.rank)])
