"""The YAML schema: every key, default, unit and bound of a run is stated here, once."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from dnewton.config import strict_yaml
from dnewton.config.layer_entry import LayerEntry
from dnewton.config.logger_register import known as known_loggers
from dnewton.config.loss_entry import LOSSES, LossEntry
from dnewton.config.newton import NewtonSection
from dnewton.config.solver_register import choose
from dnewton.config.types import Count, NotNegative, Positive, Section, SolverSection, omitted

START_C = 1.0  # of `C: auto`
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


Name = Annotated[str, Field(min_length=1)]


def _input(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) in (1, 2, 3):
        return tuple(value)
    raise ValueError("[features], [channels, length] or [channels, height, width] is needed")


class NetSection(Section):
    """The network."""

    input: Annotated[tuple[Count, ...], BeforeValidator(_input)]  # the shape of a sample
    loss: LossEntry  # the loss; with options `{name: {option: value}}`
    layers: Annotated[list[LayerEntry], Field(min_length=1)]  # the layers, first to last

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape that samples have inside, where a sequence [channels, length] is an image of height 1."""
        return (self.input[0], 1, self.input[1]) if len(self.input) == 2 else self.input


class FilePair(Section):
    """Samples and their targets in two files (.npy, idx) or arrays (FILE:NAME), and weights of the samples likewise."""

    x: Name  # the samples
    y: Name  # their targets
    w: Name | None = None  # their weights


class ArrayNames(Section):
    """The arrays of .npz, HDF5 and .mat files that are samples, targets and weights of samples."""

    x: Name | None = None  # the samples
    y: Name | None = None  # the targets
    w: Name | None = None  # the weights of the samples


def _part(value: Any) -> Any:
    names = value if isinstance(value, list) else [value]
    if names and all(isinstance(v, str) and v for v in names):
        return value
    if isinstance(value, (dict, FilePair)):
        return FilePair.model_validate(value)
    raise ValueError("a bundled set, a file, FILE:NAME, a list of files or {x: FILE, y: FILE} is needed")


def _weights(value: Any) -> Any:
    if type(value) in (int, str) and value != "":
        return value
    raise ValueError("a column's name or number, an array's name or a file (.npy, .csv, .tsv, .txt) is needed")


def _class_weights(value: Any) -> Any:
    """A mapping's labels as text: JSON, YAML and --set write numbers in different ways."""
    if value == "balanced":
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError("balanced or {label: weight} is needed")
    found = {}
    for label, weight in value.items():
        if type(label) not in (int, float, str) or type(weight) not in (int, float):
            raise ValueError("every entry is label: weight, labels as in the data, weights as numbers")
        if not (0 <= weight < math.inf):
            raise ValueError(f"the weight of {label} is {weight}; weights are finite and not negative")
        found[label_text(label)] = float(weight)
    if len(found) < len(value):
        raise ValueError("a label is given twice")
    return found


def label_text(label: Any) -> str:
    """A label as `data.class_weights` names it; whole numbers without a point."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _delimiter(value: Any) -> Any:
    named = {"tab": "\t", "space": " ", "blank": " ", "\\t": "\t"}
    value = named.get(value, value) if isinstance(value, str) else value
    if value == "auto" or (isinstance(value, str) and len(value) == 1 and value not in '\n\r"' and value.isascii()):
        return value
    raise ValueError("auto, tab, space or one character is needed")


def _columns(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if items and all(type(v) in (int, str) for v in items):
        return items
    raise ValueError("a column's name or number (from 0; -1 is the last), or a list of them, is needed")


DataPart = Annotated[Name | list[str] | FilePair, BeforeValidator(_part)]


class DataSection(Section):
    """Where the samples come from and how features and targets are scaled; scaling is fitted on the training part."""

    train: DataPart = "digits"  # the training samples
    test: DataPart | None = None  # samples that are only scored
    validation: DataPart | None = None  # samples that choose the best model (docs/checkpoints.md)
    split: Annotated[float, Field(gt=0, lt=1)] | None = None  # this share of train becomes test, or validation
    # how features are scaled (docs/data.md)
    scale: Literal["none", "standardize", "minmax", "unit", "mean_image"] = "none"
    scale_targets: Literal["none", "standardize"] = "none"  # regression only; errors are reported unscaled
    target: Annotated[list[str | int], BeforeValidator(_columns)] | None = None  # of tables of text: default the last
    weights: Annotated[str | int, BeforeValidator(_weights)] | None = None  # a column, an array, or a file
    # by how much the samples of a label count more; balanced: all labels alike
    class_weights: Annotated[Literal["balanced"] | dict[str, NotNegative], BeforeValidator(_class_weights)] | None = (
        None
    )
    arrays: ArrayNames | None = None  # of files of arrays: which are samples, targets and weights
    channels: Literal["first", "last"] | None = None  # of images and sequences in arrays; default first
    samples: Literal["rows", "columns"] | None = None  # of arrays; default what fits net.input and the targets
    timeout: Annotated[float, Field(gt=0, le=1e7)] = 60.0  # seconds for opening an HDF5 file, which may be damaged
    # of tables of text, where the file itself does not tell:
    header: Literal["auto"] | bool = "auto"  # whether the first line names the columns
    delimiter: Annotated[str, BeforeValidator(_delimiter)] = "auto"  # one character; a blank is any run of blanks
    decimal: Literal["auto", ".", ","] = "auto"  # the sign between the digits of numbers
    skip_rows: Annotated[int, Field(ge=0, le=10_000)] = 0  # lines above the table
    features: Annotated[list[str | int], BeforeValidator(_columns)] | None = None  # default: what is nothing else
    ignore: Annotated[list[str | int], BeforeValidator(_columns)] | None = None  # neither features nor targets
    missing: Literal["error", "mean", "drop"] = "error"  # what becomes of a feature without a value, and its sample
    max_resident: Annotated[int | Literal["auto"], BeforeValidator(_bytes)] = "auto"  # per rank; beyond it, stream

    @model_validator(mode="after")
    def _one_use_of_split(self) -> DataSection:
        if self.split is not None and self.test is not None and self.validation is not None:
            raise ValueError("split makes a test or a validation part, and both are given")
        return self

    @model_validator(mode="after")
    def _weights_are_given_once(self) -> DataSection:
        if self.weights is not None and isinstance(self.train, FilePair) and self.train.w is not None:
            raise ValueError("weights and train's w are two ways to give the same; leave one out")
        if self.weights is not None and self.arrays is not None and self.arrays.w is not None:
            raise ValueError("weights and arrays.w are two ways to give the same; leave one out")
        return self


class RatesSection(Section):
    """What one rank does per second: operations of matrix products and bytes of memory traffic."""

    flops: Positive  # operations per second
    bandwidth: Positive  # bytes per second


class ParallelSection(Section):
    """The ranks: grid of model ranks, replicas, device and precision."""

    # [rows, columns] of the ranks of a replica; auto: what the planner finds cheapest
    grid: Annotated[Literal["auto"] | tuple[int, int], BeforeValidator(_grid)] = "auto"
    # auto: 1 for newton, as many as there are ranks for other solvers; best: newton's with the quickest iterations
    replicas: Count | Literal["auto", "best"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"  # where arrays are and computations run
    device_buffers: Annotated[Literal["auto", "yes", "no"], BeforeValidator(_yes_no)] = "auto"  # MPI on GPU memory
    dtype: Literal["float32", "float64"] = "float32"  # of weights and everything computed with them
    timeout: Annotated[float, Field(ge=1, le=1e7)] = 600.0  # seconds in which a rank that others wait for must answer
    memory: Annotated[int | Literal["auto"], BeforeValidator(_bytes)] = "auto"  # resident bytes per rank, all in all
    rates: RatesSection | Literal["auto"] = "auto"  # auto: measured once per machine and kept


class OutputSection(Section):
    """What is written while training."""

    checkpoint_every: Annotated[int, Field(ge=0, le=2**31 - 1)] = 10  # iterations; 0 means never
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None  # and after so much time since the last
    keep: Count = 3  # the newest checkpoints that are kept
    trace: bool = False  # write trace.json: when each rank did what (docs/trace.md)
    # keep the uncertainty of the weights in the model (docs/method.md); full: of all weights together; blocks: of each
    # rank's own; true: blocks with curvature: diagonal, else full
    error_bars: Literal["full", "blocks"] | bool = False
    loggers: Annotated[list[str], BeforeValidator(known_loggers)] = Field(default_factory=list)  # docs/loggers.md


class Config(Section):
    """A whole run."""

    net: NetSection
    data: DataSection = omitted()
    solver: Annotated[SerializeAsAny[SolverSection], BeforeValidator(choose)] = Field(default_factory=NewtonSection)
    parallel: ParallelSection = omitted()
    output: OutputSection = omitted()

    @model_validator(mode="after")
    def _patience_has_a_measure(self) -> Config:
        data = self.data
        if self.solver.patience is not None and data.validation is None and (data.test is None or data.split is None):
            raise ValueError(
                "solver.patience: needs a validation part: data.validation, or data.split beside data.test"
            )
        return self

    @model_validator(mode="after")
    def _evidence_has_its_loss(self) -> Config:
        if self.solver.C == "auto" and LOSSES.name_of(type(self.net.loss)) != "squared":
            raise ValueError("solver.C: auto needs net.loss: squared; give a number")
        return self

    @model_validator(mode="after")
    def _acceleration_has_residuals(self) -> Config:
        if getattr(self.solver, "acceleration", "none") == "none":
            return self
        if LOSSES.name_of(type(self.net.loss)) != "squared":
            raise ValueError("solver.acceleration: geodesic needs net.loss: squared")
        if self.parallel.replicas not in ("auto", 1):
            raise ValueError("solver.acceleration: geodesic needs parallel.replicas: 1")
        return self

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default filled in, in the form that the YAML file has."""
        return self.model_dump(by_alias=True)

    def with_rates(self, flops: float, bandwidth: float) -> Config:
        """The same run by the rates that were found."""
        rates = RatesSection(flops=flops, bandwidth=bandwidth)
        return self.model_copy(update={"parallel": self.parallel.model_copy(update={"rates": rates})})

    def dump(self) -> str:
        """The resolved configuration as YAML."""
        return strict_yaml.dump(self.resolved())


def regulariser(config: Config, samples: float) -> float:
    """1/C of the objective's ‖θ‖²/(2C): C is given in units of the `samples` training samples, or of the sum of their
    weights; where `auto` begins."""
    c = START_C if config.solver.C == "auto" else config.solver.C
    return 0.0 if math.isinf(c) else 1.0 / (c * samples)
