"""The methods that time_to_target.py compares, as generators of points; they take turns on a problem.

A point is what a step has cost since the start (seconds of the processor, seconds by the wall clock) and what it has
reached: of a regression the mean square error on the training and on the held-out part, of a classification the two
accuracies. What is worked out for the record is beside the clocks.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import least_squares
from sides import wait
from target_problems import Problem

from dnewton.arrays.namespace import to_host
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.data.sampling import run
from dnewton.errors import UserError
from dnewton.hardware.device import Device
from dnewton.model import init_weights
from dnewton.solvers.interface import StartPoint
from dnewton.training.job import Job, assemble

LARGEST_JACOBIAN = 3e7  # numbers, for SciPy
FACTORISATIONS = 2e9  # operations per second, roughly, that a singular value decomposition gets
TURNS = 4  # in which the seconds of each method are divided


class Point(NamedTuple):
    """What a step has cost, and reached."""

    cpu: float
    wall: float
    train: float
    held_out: float


Curve = list[Point]
Method = Generator[Point, None, None]


class Clock:
    """Seconds of the processor and by the wall clock spent inside ``with clock.running():``."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.cpu = self.wall = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count until the end of the block, and until the device has done all that was begun there."""
        wait(self._device)
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        wait(self._device)
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall

    def point(self, train: float, held_out: float) -> Point:
        """What has been spent by now."""
        return Point(self.cpu, self.wall, train, held_out)


class Task:
    """A problem, where it is computed, and the starting weights of all methods."""

    def __init__(self, problem: Problem, comm: Comm, device: Device, torch_device: str, folder: Path) -> None:
        """`folder` takes the data's files."""
        self.problem, self.comm, self.device, self.torch_device = problem, comm, device, torch_device
        self._data = problem.save(folder)
        job = self.job({})
        self.network = job.network
        self.theta = init_weights.weights(job.network, problem.seed, "float32")
        job.solver.close()
        self.squared = problem.loss == "squared"

    @property
    def weights(self) -> int:
        """How many numbers are fitted."""
        return int(self.theta.size)

    def job(self, solver: dict[str, Any]) -> Job:
        """The whole job of a run with these settings, made as `dnewton.train` makes it."""
        config = {
            "net": self.problem.net,
            "data": self._data,
            "solver": {"seed": self.problem.seed, "max_iterations": 10**6, **solver},
            "parallel": {"device": "cpu" if self.device.is_host else "cuda"},
        }
        job = assemble(Config.model_validate(config), self.comm, "benchmark")
        assert isinstance(job, Job)
        return job

    def score(self, z: Any, y: Any) -> float:
        """Mean square error, or accuracy."""
        if self.squared:
            return float(np.mean((z.astype(np.float64) - y) ** 2))
        return float(np.mean(z.argmax(1) == y.argmax(1)))

    # --- dnewton ----------------------------------------------------------------------------------------------------

    def newton(self, solver: dict[str, Any]) -> Method:
        """dnewton's Newton on one rank; ends where the solver sees that nothing is left to do."""
        job, clock = self.job(solver), Clock(self.device)
        start, numbers = StartPoint(job.device.put(self.theta.copy())), job.network.plan.outputs if self.squared else 1
        (others,) = job.others.values()
        try:
            with clock.running():
                step = job.solver.begin(start)
            while True:
                total = job.objective.accumulate(job.solver.theta, run(0, others.count), None, others)[1]
                yield clock.point(step.metric / (step.samples * numbers), total / (others.count * numbers))
                if job.solver.ending:
                    return
                with clock.running():
                    step = job.solver.step()
        finally:
            job.solver.close()

    # --- PyTorch ----------------------------------------------------------------------------------------------------

    def torch_net(self) -> Any:
        """The same net with the same weights."""
        modules: list[Any] = []
        for block in self.network.blocks:
            spec = block.layer.spec
            linear = torch.nn.Linear(spec.in_shape[0], spec.out_shape[0])
            linear.weight.data = torch.from_numpy(to_host(block.weight(self.theta)).copy())
            linear.bias.data = torch.from_numpy(to_host(block.bias(self.theta)).copy())
            modules.append(linear)
            if spec.activation != "linear":
                modules.append({"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[spec.activation]())
        return torch.nn.Sequential(*modules).to(self.torch_device)

    def torch_data(self) -> tuple[Any, Any]:
        """The training part."""
        x, y = (torch.from_numpy(a).to(self.torch_device) for a in self.problem.train)
        return x, y

    def torch_loss(self, z: Any, y: Any) -> Any:
        """dnewton's f without its regulariser."""
        if self.squared:
            return ((z - y) ** 2).sum(1).mean()
        return torch.nn.functional.cross_entropy(z, y)

    def measured(self, net: Any, clock: Clock) -> Point:
        """Where PyTorch's net is now."""
        scores = []
        with torch.no_grad():
            for x, y in (self.problem.train, self.problem.held_out):
                scores.append(self.score(net(torch.from_numpy(x).to(self.torch_device)).cpu().numpy(), y))
        return clock.point(*scores)

    def minibatches(self, make: Callable[[Any, float], Any], rate: float, batch: int, share: Share) -> Method:
        """Epochs of a first-order method `make(parameters, rate)`; the rate falls by a cosine over the `share` of the
        time that is over."""
        net, (x, y), clock = self.torch_net(), self.torch_data(), Clock(self.device)
        optimiser = make(net.parameters(), rate)
        generator = torch.Generator().manual_seed(self.problem.seed)
        yield self.measured(net, clock)
        while True:
            with clock.running():
                for group in optimiser.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share(clock))))
                for part in torch.randperm(len(x), generator=generator).to(self.torch_device).split(batch):
                    optimiser.zero_grad()
                    self.torch_loss(net(x[part]), y[part]).backward()
                    optimiser.step()
            yield self.measured(net, clock)

    def lbfgs(self) -> Method:
        """Full batch, strong Wolfe line search, history of 50; a point after every 20 iterations."""
        net, (x, y), clock = self.torch_net(), self.torch_data(), Clock(self.device)
        optimiser = torch.optim.LBFGS(
            net.parameters(),
            max_iter=20,
            history_size=50,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )

        def closure() -> Any:
            optimiser.zero_grad()
            loss = self.torch_loss(net(x), y)
            loss.backward()
            return loss

        yield self.measured(net, clock)
        while True:
            with clock.running():
                optimiser.step(closure)
            yield self.measured(net, clock)

    # --- SciPy ------------------------------------------------------------------------------------------------------

    def least_squares(self, seconds: float) -> Method:
        """SciPy's least_squares in float64 with an analytic Jacobian, in one go: lm (MINPACK) where there are at least
        as many residuals as weights, otherwise trf; trf by LSMR where a decomposition alone would take too long."""
        x, y = (a.astype(np.float64) for a in self.problem.train)
        rows, weights, curve, clock = y.size, self.weights, [], Clock(self.device)
        held = self.problem.held_out
        if rows * weights > LARGEST_JACOBIAN:
            return
        too_slow = 10.0 * rows * weights * min(rows, weights) > 0.5 * seconds * FACTORISATIONS
        options: dict[str, Any] = {"method": "lm" if rows >= weights and not too_slow else "trf"}
        if options["method"] == "trf" and too_slow:
            options |= {"tr_solver": "lsmr", "tr_options": {"maxiter": 30}}  # better than 100, 400 on two nets
        layers = [(b.weight, b.bias, b.layer.spec.activation) for b in self.network.blocks]
        begun = (time.process_time(), time.perf_counter())
        beside = [0.0, 0.0]

        def residuals(theta: Any) -> Any:
            if time.process_time() - begun[0] - beside[0] > seconds:
                raise _Over
            return ((forward(layers, theta, x)[-1] - y) / math.sqrt(rows)).ravel()

        def slopes(theta: Any) -> Any:
            before = (time.process_time(), time.perf_counter())
            z = (forward(layers, theta, a.astype(np.float64))[-1] for a in (x, held[0]))
            clock.cpu, clock.wall = before[0] - begun[0] - beside[0], before[1] - begun[1] - beside[1]
            curve.append(clock.point(self.score(next(z), y), self.score(next(z), held[1])))
            beside[0] += time.process_time() - before[0]
            beside[1] += time.perf_counter() - before[1]
            return jacobian(layers, theta, x) / math.sqrt(rows)

        with suppress(_Over):
            least_squares(
                residuals,
                self.theta.astype(np.float64),
                slopes,
                ftol=1e-15,
                xtol=1e-15,
                gtol=1e-15,
                max_nfev=10**6,
                **options,
            )
        yield from curve


Share = Callable[[Clock], float]


class _Over(Exception):
    """The time of a method that cannot be interrupted otherwise is over."""


def forward(layers: list[Any], theta: Any, x: Any) -> list[Any]:
    """x and the outputs of all layers; a layer is the functions from θ to its weights and to its biases, and σ."""
    outputs = [x]
    for weight, bias, activation in layers:
        s = outputs[-1] @ weight(theta).T + bias(theta)
        outputs.append({"tanh": np.tanh, "relu": lambda s: np.maximum(s, 0), "linear": lambda s: s}[activation](s))
    return outputs


def jacobian(layers: list[Any], theta: Any, x: Any) -> Any:
    """∂z/∂θ, (n K, weights), its columns as θ."""
    outputs = forward(layers, theta, x)
    n, k = outputs[-1].shape
    out = np.empty((n, k, theta.size))
    places = np.arange(theta.size)
    d = np.broadcast_to(np.eye(k), (n, k, k))
    for (weight, bias, activation), inputs, z in reversed(list(zip(layers, outputs[:-1], outputs[1:], strict=True))):
        slope = {"tanh": lambda z: 1 - z**2, "relu": lambda z: z > 0, "linear": np.ones_like}[activation](z)
        d = d * slope[:, None, :]
        out[:, :, weight(places).ravel()] = (d[:, :, :, None] * inputs[:, None, None, :]).reshape(n, k, -1)
        out[:, :, bias(places)] = d
        d = d @ weight(theta)
    return out.reshape(n * k, -1)


def race(
    methods: dict[str, Method],
    seconds: float,
    main: str,
    enough: Callable[[str, Point], bool],
) -> tuple[dict[str, Curve], dict[str, str]]:
    """The curves of all methods, which take turns so that a slow minute of the machine meets all of them alike, and
    why some have none. `main` names the clock that counts; a method is stopped where a point is `enough`."""
    curves: dict[str, Curve] = {name: [] for name in methods}
    failed: dict[str, str] = {}
    alive = dict(methods)
    for turn in range(1, TURNS + 1):
        for name in list(alive):
            curve = curves[name]
            while not curve or getattr(curve[-1], main) < seconds * turn / TURNS:
                try:
                    point = next(alive[name], None)
                except UserError as error:  # a setting that this net does not take
                    failed[name] = str(error)
                    point = None
                if point is not None:
                    curve.append(point)
                if point is None or enough(name, point):
                    alive.pop(name).close()
                    break
    for method in alive.values():
        method.close()
    return {name: curve for name, curve in curves.items() if curve}, failed


@contextmanager
def task_of(problem: Problem, comm: Comm, device: Device, torch_device: str) -> Iterator[Task]:
    """A task whose files are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Task(problem, comm, device, torch_device, Path(folder))
