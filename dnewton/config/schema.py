"""The YAML schema: every key, default, unit and bound of a run is stated here, once."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from dnewton.config import strict_yaml
from dnewton.config.newton import NewtonSection
from dnewton.config.solver_register import choose
from dnewton.config.types import Count, Positive, Section, SolverSection, omitted
from dnewton.grid import KindName

ActivationName = Literal["relu", "tanh", "sigmoid", "softplus", "linear"]
LossName = Literal["squared", "cross_entropy", "logistic"]


def _pair(value: Any) -> Any:
    """`3` means [3, 3]; a list of two is kept."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return tuple(value)
    raise ValueError("a whole number or [height, width] is needed")


_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _bytes(value: Any) -> Any:
    """`4GiB` as a number of bytes."""
    if value == "auto":
        return value
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([KMG]?I?B?)\s*", str(value).upper())
    if not match or match[2] not in _SIZES:
        raise ValueError("a size such as 4GiB, 500MB or auto is needed")
    size = int(float(match[1]) * _SIZES[match[2]])
    if size < 2**20:
        raise ValueError("at least 1MiB is needed")
    return size


def _yes_no(value: Any) -> Any:
    """YAML reads an unquoted yes or no as true or false."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _grid(value: Any) -> Any:
    if value == "auto":
        return value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int and n > 0 for n in value):
        return tuple(value)
    raise ValueError("auto or [rows, columns] is needed")


Pixels = Annotated[int, Field(ge=1, le=65535)]
Margin = Annotated[int, Field(ge=0, le=65535)]
Size2 = Annotated[tuple[Pixels, Pixels], BeforeValidator(_pair)]
Pad2 = Annotated[tuple[Margin, Margin], BeforeValidator(_pair)]
Name = Annotated[str, Field(min_length=1)]


class ConvSpec(Section):
    """A convolution; kernel, stride and padding are one number or [height, width]."""

    channels: Count
    kernel: Size2
    stride: Size2 = (1, 1)
    padding: Pad2 = (0, 0)
    activation: ActivationName = "linear"
    split: KindName | None = None  # fixes the layer's kind of split; the planner chooses otherwise


class DenseSpec(Section):
    """A fully connected layer."""

    units: Count
    activation: ActivationName = "linear"
    split: KindName | None = None


class PoolSpec(Section):
    """Maximum or average pooling; the stride is the size unless given."""

    size: Size2
    stride: Size2 | None = None
    padding: Pad2 = (0, 0)

    @model_validator(mode="after")
    def _padding_fits(self) -> PoolSpec:
        if any(2 * p > s for p, s in zip(self.padding, self.size, strict=True)):
            raise ValueError(f"padding {list(self.padding)} must be at most half of size {list(self.size)}")
        return self


class FlattenSpec(Section):
    """Images to features, channel-major."""


class LayerSpec(Section):
    """One entry of net.layers: exactly one kind with its options, or the bare word `flatten`."""

    conv: ConvSpec | None = None
    dense: DenseSpec | None = None
    maxpool: PoolSpec | None = None
    avgpool: PoolSpec | None = None
    flatten: FlattenSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict) and "flatten" in value and value["flatten"] is None:
            return {**value, "flatten": {}}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> LayerSpec:
        given = [k for k in type(self).model_fields if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError("one of conv, dense, maxpool, avgpool, flatten with its options is needed per entry")
        return self

    @property
    def kind(self) -> str:
        """Which of the fields is set."""
        return next(k for k in type(self).model_fields if getattr(self, k) is not None)

    @property
    def options(self) -> Any:
        """The set field's value."""
        return getattr(self, self.kind)


def _input(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) in (1, 3):
        return tuple(value)
    raise ValueError("[features] or [channels, height, width] is needed")


class NetSection(Section):
    """The network."""

    input: Annotated[tuple[Count, ...], BeforeValidator(_input)]
    loss: LossName
    layers: Annotated[list[LayerSpec], Field(min_length=1)]


class FilePair(Section):
    """Samples and their targets in two files (.npy, idx)."""

    x: Name
    y: Name


def _part(value: Any) -> Any:
    names = value if isinstance(value, list) else [value]
    if names and all(isinstance(v, str) and v for v in names):
        return value
    if isinstance(value, (dict, FilePair)):
        return FilePair.model_validate(value)
    raise ValueError("a bundled set, a file, a list of files or {x: FILE, y: FILE} is needed")


def _columns(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if items and all(type(v) in (int, str) for v in items):
        return items
    raise ValueError("a column's name or number (from 0; -1 is the last), or a list of them, is needed")


DataPart = Annotated[Name | list[str] | FilePair, BeforeValidator(_part)]


class DataSection(Section):
    """Where the samples come from and how features and targets are scaled; scaling is fitted on the training part."""

    train: DataPart = "digits"
    test: DataPart | None = None
    validation: DataPart | None = None
    split: Annotated[float, Field(gt=0, lt=1)] | None = None  # this share of train becomes test, or validation
    scale: Literal["none", "standardize", "minmax", "unit", "mean_image"] = "none"
    scale_targets: Literal["none", "standardize"] = "none"  # regression only; errors are reported unscaled
    target: Annotated[list[str | int], BeforeValidator(_columns)] | None = None  # of tables of text: default the last
    max_resident: Annotated[int | Literal["auto"], BeforeValidator(_bytes)] = "auto"  # per rank; beyond it, stream

    @model_validator(mode="after")
    def _one_use_of_split(self) -> DataSection:
        if self.split is not None and self.test is not None and self.validation is not None:
            raise ValueError("split makes a test or a validation part, and both are given")
        return self


class RatesSection(Section):
    """What one rank does per second: operations of matrix products and bytes of memory traffic."""

    flops: Positive
    bandwidth: Positive


class ParallelSection(Section):
    """The ranks: grid of model ranks, replicas, device and precision."""

    grid: Annotated[Literal["auto"] | tuple[int, int], BeforeValidator(_grid)] = "auto"
    replicas: Count | Literal["auto"] = "auto"  # auto: 1 for newton, as many as there are ranks for other solvers
    device: Literal["cpu", "cuda"] = "cpu"
    device_buffers: Annotated[Literal["auto", "yes", "no"], BeforeValidator(_yes_no)] = "auto"  # MPI on GPU memory
    dtype: Literal["float32", "float64"] = "float32"
    timeout: Annotated[float, Field(ge=1, le=1e7)] = 600.0  # seconds in which a rank that others wait for must answer
    memory: Annotated[int | Literal["auto"], BeforeValidator(_bytes)] = "auto"  # resident bytes per rank, all in all
    rates: RatesSection | Literal["auto"] = "auto"  # auto: measured once per machine and kept


class OutputSection(Section):
    """What is written while training."""

    checkpoint_every: Annotated[int, Field(ge=0, le=2**31 - 1)] = 10  # iterations; 0 means never
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None  # and after so much time since the last
    keep: Count = 3


class Config(Section):
    """A whole run."""

    net: NetSection
    data: DataSection = omitted()
    solver: Annotated[SerializeAsAny[SolverSection], BeforeValidator(choose)] = Field(default_factory=NewtonSection)
    parallel: ParallelSection = omitted()
    output: OutputSection = omitted()

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default filled in, in the form that the YAML file has."""
        values = self.model_dump(by_alias=True)
        for layer in values["net"]["layers"]:
            for kind in [k for k, v in layer.items() if v is None]:
                del layer[kind]
            for options in layer.values():
                for key in [k for k, v in options.items() if v is None]:
                    del options[key]
        return values

    def with_rates(self, flops: float, bandwidth: float) -> Config:
        """The same run by the rates that were found."""
        rates = RatesSection(flops=flops, bandwidth=bandwidth)
        return self.model_copy(update={"parallel": self.parallel.model_copy(update={"rates": rates})})

    def dump(self) -> str:
        """The resolved configuration as YAML."""
        return strict_yaml.dump(self.resolved())


def regulariser(config: Config, samples: int) -> float:
    """1/C of the objective's ‖θ‖²/(2C): C is given in units of the `samples` training samples."""
    return 0.0 if math.isinf(config.solver.C) else 1.0 / (config.solver.C * samples)
