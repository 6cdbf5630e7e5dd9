"""What time_to_target.py solves: regressions and classifications, each from several seeds of data and weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sides import dense
from smooth_functions import arm, cone, disc, field, friedman, mixed_6, smooth_2, smooth_10, step, waves

from dnewton.arrays.namespace import to_host
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.data.bundled import read_bundled
from dnewton.training.job import assemble

MNIST_SAMPLES = 10_000


@dataclass(frozen=True)
class Problem:
    """A net and its data: x (n, d) and targets y (n, K), of classes one-hot, all float32."""

    name: str
    seed: int
    loss: str
    layers: list[Any]
    train: tuple[Any, Any]
    held_out: tuple[Any, Any]
    noisy: bool = False  # the held-out part is for validation: the training loss alone says little

    @property
    def net(self) -> dict[str, Any]:
        """The `net` section of a configuration."""
        return {"input": [self.train[0].shape[1]], "loss": self.loss, "layers": self.layers}

    def save(self, folder: Path) -> dict[str, Any]:
        """Both parts as .npz, and the `data` section of a configuration that names them."""
        section = {}
        for part, (x, y) in {"train": self.train, "validation" if self.noisy else "test": self.held_out}.items():
            labels = y.argmax(1) if self.loss == "cross_entropy" else y
            path = folder / f"{part}.npz"
            np.savez(path, x=x, y=labels)
            section[part] = str(path)
        return section


class Regression(NamedTuple):
    """How a regression is made."""

    make: Callable[[Any, int], tuple[Any, Any]]
    layers: list[Any]
    samples: int
    held_out: int
    seconds: float  # for each method, by default
    noise: float = 0.0  # standard deviation that is added to targets of unit variance
    noisy: bool = False


def diabetes(rng: Any, n: int) -> tuple[Any, Any]:
    """The bundled set of 442 patients, in random order."""
    parts = [read_bundled("diabetes", part) for part in ("train", "test")]
    x, y = (np.concatenate([np.asarray(p[i], dtype=np.float64) for p in parts]) for i in (0, 1))
    order = rng.permutation(len(x))[:n]
    return x[order] / x.std(0), y.reshape(len(y))[order]


def tanh(*widths: int) -> list[Any]:
    """Dense layers, all but the last with tanh."""
    return dense(*widths, activation="tanh")


REGRESSIONS: dict[str, Regression] = {
    "1-20-1 step": Regression(step, tanh(20, 1), 200, 200, 1.5),
    "1-32-32-1 waves": Regression(waves, tanh(32, 32, 1), 400, 400, 2),
    "2-64-64-1 smooth": Regression(smooth_2, tanh(64, 64, 1), 2000, 1000, 3),
    "2-50-50-1 disc": Regression(disc, tanh(50, 50, 1), 1500, 1000, 3),
    "2-48-48-1 cone, relu": Regression(cone, dense(48, 48, 1), 1500, 1000, 2),
    "2-40-40-3 field": Regression(field, tanh(40, 40, 3), 1000, 1000, 3),
    "3-64-64-2 arm": Regression(arm, tanh(64, 64, 2), 2000, 1000, 3),
    "6-216-216-2 mixed": Regression(mixed_6, tanh(216, 216, 2), 3000, 1000, 6),
    "10-128-128-128-1 smooth": Regression(smooth_10, tanh(128, 128, 128, 1), 4000, 1000, 6),
    "1-30-30-1 waves, noisy": Regression(waves, tanh(30, 30, 1), 150, 150, 1.2, 0.2, True),
    "10-32-32-1 Friedman, noisy": Regression(friedman, tanh(32, 32, 1), 1000, 500, 2, 0.2, True),
    "10-16-1 diabetes": Regression(diabetes, tanh(16, 1), 353, 89, 1, 0.0, True),
}


def regression(name: str, seed: int) -> Problem:
    """Data and weights by the seed; targets have mean 0 and variance 1 over the training part, then the noise."""
    how = REGRESSIONS[name]
    rng = np.random.default_rng(seed)
    x, y = how.make(rng, how.samples + how.held_out)
    y = y.reshape(len(x), -1)
    y = (y - y[: how.samples].mean(0)) / y[: how.samples].std(0)
    y = y + how.noise * rng.normal(size=y.shape)
    x, y = x.astype(np.float32), y.astype(np.float32)
    parts = (x[: how.samples], y[: how.samples]), (x[how.samples :], y[how.samples :])
    return Problem(name, seed, "squared", how.layers, *parts, how.noisy)


class Classes(NamedTuple):
    """Where a set of labelled samples is, and the net for it."""

    train: str  # a bundled set, or with a slash at the front a file of the folder `--data`
    test: str
    layers: list[Any]
    inputs: int
    seconds: float


CLASSIFICATIONS: dict[str, Classes] = {
    "digits 64-64-10": Classes("digits", "digits", dense(64, 10), 64, 3),
    "dna 180-64-3": Classes("/dna.scale.txt.xz", "/dna.scale.t.txt", dense(64, 3), 180, 3),
    "pendigits 16-100-100-10": Classes("/pendigits.txt", "/pendigits.t.txt", dense(100, 100, 10), 16, 6),
    "satimage 36-100-100-6": Classes("/satimage.scale.txt.xz", "/satimage.scale.t.txt", dense(100, 100, 6), 36, 6),
    "usps 256-100-10": Classes("/usps.bz2", "/usps.t.bz2", dense(100, 10), 256, 8),
    "letter 16-300-300-26": Classes("/letter.scale.txt.xz", "/letter.scale.t.txt", dense(300, 300, 26), 16, 15),
    "MNIST 784-300-100-10": Classes(
        "/train-images-idx3-ubyte.gz", "/t10k-images-idx3-ubyte.gz", dense(300, 100, 10), 784, 15
    ),
}


def classification(name: str, seed: int, folder: Path | None, comm: Comm) -> Problem | None:
    """Features standardised as a run would; of MNIST 10,000 samples by the seed. None where the files are not given."""
    how = CLASSIFICATIONS[name]
    named = {"train": how.train, "test": how.test}
    if how.train.startswith("/"):
        if folder is None:
            return None
        named = {part: str(folder / file[1:]) for part, file in named.items()}
    net = {"input": [how.inputs], "loss": "cross_entropy", "layers": how.layers}
    config = Config.model_validate({"net": net, "data": {**named, "scale": "standardize"}})
    job = assemble(config, comm, "benchmark")
    parts = [(to_host(d.x), to_host(d.y)) for d in (job.objective.data, job.others["test"])]
    job.solver.close()
    if name.startswith("MNIST"):
        chosen = np.random.default_rng(seed).permutation(len(parts[0][0]))[:MNIST_SAMPLES]
        parts[0] = (parts[0][0][chosen], parts[0][1][chosen])
    return Problem(name, seed, "cross_entropy", how.layers, *parts)
