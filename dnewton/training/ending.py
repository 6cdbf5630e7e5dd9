"""Why a run ended, and what a user would do next. Pure: words for the log and for metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.config.schema import Config, DataSection
from dnewton.solvers.interface import NO_GRADIENT, NO_PROGRESS, TOLERANCE

NEARLY = 0.99  # of the deviation of the targets: a model that leaves so much explains nothing
ITERATIONS, PATIENCE, TIME = "iterations", "patience", "time"  # beside the solver's own reasons
CALLBACK = "callback"  # somebody who watches the run asked for it


@dataclass(frozen=True)
class Ending:
    """A reason in one word (or two), and a line for the user."""

    reason: str
    text: str

    def as_json(self) -> dict[str, str]:
        """What the last line of metrics.jsonl has under `stopped`."""
        return {"reason": self.reason, "text": self.text}


def no_better(name: str, score: float, baseline: float, data: DataSection) -> str:
    """A warning where a training score is no better than that of a model that knows no features; else nothing."""
    useless = 0 < NEARLY * baseline <= score if name == "rmse" else score <= baseline < 1
    if not useless:
        return ""
    what = "the mean of the targets" if name == "rmse" else "the most frequent class"
    unused = ["data.scale: standardize"] if data.scale == "none" else []
    if name == "rmse" and data.scale_targets == "none":
        unused.append("data.scale_targets: standardize")
    cure = " and ".join(unused) or "other weights (solver.seed), a larger solver.C or more units"
    return f"warning: the model is no better than {what}: {name} {score:.4g}, by that alone {baseline:.4g}; try {cure}"


@dataclass(frozen=True)
class Standing:
    """What a reason is told with: where the run stands when it ends."""

    iteration: int
    metric: str  # accuracy or rmse
    best: int | None  # the iteration of the best weights
    folder: str  # the run directory; empty where there is none
    call: bool = False  # Python's `fit` opened it, not a command
    passes: int = 0  # of Adam, which `max_iterations` does not count


def reason(solver: str, at: Standing, max_iterations: int, patience: int | None, over: bool) -> str:
    """Why a run ends where it stands; empty while it goes on.

    `solver` is the solver's own ending, and `over` says that the time is. Passes of another method before it count
    neither for `max_iterations` nor for `patience`.
    """
    if solver:
        return solver
    if patience is not None and at.iteration - max(at.best or 0, at.passes) >= patience:
        return PATIENCE
    if not max_iterations or at.iteration >= max_iterations + at.passes:
        return ITERATIONS
    return TIME if over else ""


def ending(why: str, config: Config, at: Standing) -> Ending:
    """A reason with its line."""
    solver = config.solver

    def more(key: str, value: object) -> str:
        """How the run goes on with another setting."""
        kept = config.output.checkpoint_every
        if at.call:
            section, name = key.split(".")
            onward = f"out={at.folder!r}, resume=True" if at.folder and kept else "init=model"
            return f"fit(..., {onward}, {section}={{{name!r}: {value!r}}})"
        onward = f"--resume {at.folder}" if kept else f"--init {at.folder}/model.safetensors"
        return f"{onward} --set {key}={value}"

    passes = f", after {at.passes} pass(es) of Adam" if at.passes else ""
    again = "--set solver.seed=N" if not at.call else "solver={'seed': N}"
    texts = {
        ITERATIONS: (
            f"solver.max_iterations is {solver.max_iterations}{passes}; for more: "
            f"{more('solver.max_iterations', max(2 * solver.max_iterations, 1))}"
        ),
        TOLERANCE: (
            f"|g| is at most solver.tolerance ({solver.tolerance:g}) times the first one; for a smaller one: "
            f"{more('solver.tolerance', float(f'{solver.tolerance / 10:g}'))}"
        ),
        NO_GRADIENT: (
            "|g| is 0, no step can be taken from here; if f should be lower, start from other weights "
            f"({again}) or see whether the data are scaled"
        ),
        NO_PROGRESS: (
            f"f no longer falls by more than rounding of {config.parallel.dtype}; if it should be lower, "
            + (f"{more('parallel.dtype', 'float64')}, or " if config.parallel.dtype == "float32" else "")
            + f"start from other weights ({again})"
        ),
        PATIENCE: (
            f"no better validation {at.metric} for {solver.patience} iterations (solver.patience); for more: "
            f"{more('solver.patience', 2 * (solver.patience or 1))}"
        ),
        TIME: "the time that was given is over; give more of it for a longer run",
    }
    kept = ""
    if solver.patience is not None and at.best is not None:
        holds = "model.safetensors" if at.folder else "the model"
        kept = f"; {holds} holds the weights of iteration {at.best}, the best by validation"
    return Ending(why, f"ended after iteration {at.iteration} ({why}): {texts[why]}{kept}")
