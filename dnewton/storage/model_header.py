"""What a model file holds besides its weights, so that it can be used alone: the net, the scaling, the labels.

It is text in the safetensors header, which other programs ignore: the tensors keep PyTorch's names and shapes.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from dnewton import __version__
from dnewton.config.loss_entry import LOSSES, loss_name
from dnewton.config.schema import Config, NetSection
from dnewton.data.format_register import NO_ARRAYS, Arrays
from dnewton.data.readers import arrays_of
from dnewton.data.samples import Window
from dnewton.data.scaling import Scaling
from dnewton.data.sources import Source
from dnewton.data.table_keys import NOTHING_SAID, TableKeys
from dnewton.data.targets import Targets
from dnewton.data.weights import is_file
from dnewton.errors import UserError
from dnewton.model.network import Network
from dnewton.planning.net_plan import infer_shapes

_KEY = "dnewton"
MAX_NAMES = 100_000  # of features
MAX_FEATURES = 4_000_000  # a header may have 100 MB


@dataclass(frozen=True)
class Described:
    """A model's net, how its inputs are scaled (all features) and what its outputs mean."""

    net: NetSection
    scaling: Scaling
    targets: Targets
    zero_based: bool | None
    target: list[str | int] | None
    columns: tuple[str, ...] | None
    weights: str | int | None = None  # a column of tables that is neither feature nor target
    table: TableKeys = NOTHING_SAID  # how tables of text are written
    arrays: Arrays = NO_ARRAYS  # which arrays of a file are meant, and how samples lie in them

    @property
    def words(self) -> bool | None:
        """Whether labels in tables are words; None where there are none."""
        classes = self.targets.classes
        return None if classes is None else classes.dtype.kind == "U"


def describe(
    config: Config, network: Network, window: Window, scaling: Scaling, targets: Targets, train: Source
) -> dict[str, str]:
    """The header entries for a model. Collective over the world: every rank has its own columns' scaling."""
    own = {}
    if config.data.scale != "none":
        own = {"scaling.shift": scaling.shift, "scaling.factor": scaling.factor}
    if scaling.fill is not None:
        own["scaling.fill"] = scaling.fill
    numbers = {}
    if own:
        whole = network.whole_input(np.ascontiguousarray(window.arranged(np.stack(list(own.values())))))
        if window.image:
            whole = whole.transpose(0, 3, 1, 2)
        numbers = {name: _packed(values.ravel()) for name, values in zip(own, whole, strict=True)}
    about = {
        "version": __version__,
        "net": config.resolved()["net"],
        "scale": config.data.scale,
        "targets": targets.as_json(),
        "zero_based": train.zero_based,
        "target": config.data.target,
        **({"table": keys} if (keys := replace(TableKeys.of(config.data), drop=False).as_json()) else {}),
        "columns": train.columns if len(train.columns or ()) <= MAX_NAMES else None,
    }
    turned = "columns" if train.samples_in == "columns" else config.data.samples
    if lie := _stated(replace(arrays_of(config.data), samples=turned)):
        about["arrays"] = lie
    if config.data.weights is not None and not is_file(config.data.weights):
        about["weights"] = config.data.weights
    return {_KEY: json.dumps(about), **numbers}


def naming_unknowns(header: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The header with the names of the unknown parameters of the equations that the net is trained on."""
    about = {**json.loads(header[_KEY]), "unknowns": list(names)}
    return {**header, _KEY: json.dumps(about)} if names else dict(header)


def with_unknowns(header: Mapping[str, str], values: Any) -> dict[str, str]:
    """The header with the values of the unknowns that it names."""
    about = json.loads(header[_KEY])
    about["parameters"] = dict(zip(about["unknowns"], values.tolist(), strict=True))
    return {**header, _KEY: json.dumps(about)}


def unknowns(header: Mapping[str, str]) -> tuple[list[str], dict[str, float]]:
    """The names of the unknowns, and their values where the header has them."""
    about = json.loads(header[_KEY])
    return list(about.get("unknowns", [])), dict(about.get("parameters", {}))


def plain_description(net: NetSection) -> dict[str, str]:
    """The header entries for weights that were trained elsewhere: nothing is scaled, classes are counted from 0."""
    outputs = infer_shapes(net, "net")[-1].out_shape[0]
    classes = np.arange(max(outputs, 2)) if net.loss.targets == "classes" else None
    targets = Targets(outputs, classes, np.zeros(outputs), np.ones(outputs), counts=net.loss.targets == "counts")
    about = {
        "version": __version__,
        "net": Config(net=net).resolved()["net"],
        "scale": "none",
        "targets": targets.as_json(),
        "zero_based": None,
        "target": None,
        "columns": None,
    }
    return {_KEY: json.dumps(about)}


def check_width(config: Config, features: int) -> None:
    """Raise UserError when the scaling of so many features would not fit into a model file."""
    fills = config.data.missing == "mean"
    if (config.data.scale != "none" or fills) and features > MAX_FEATURES:
        key = "missing: mean" if fills else f"scale: {config.data.scale}"
        raise UserError(
            f"data.{key} for {features} features does not fit into a model file (at most {MAX_FEATURES}); use "
            f"{'missing: error' if fills else 'scale: none'}"
        )


def described(path: str, metadata: Mapping[str, str]) -> Described:
    """What a model file's header describes. Raises UserError when it is missing or invalid."""
    if _KEY not in metadata:
        raise UserError(f"{path}: was not written by dnewton.train; predictions need a model with its net and labels")
    try:
        about: dict[str, Any] = json.loads(metadata[_KEY])
        if (loss := loss_name(about["net"]["loss"])) not in LOSSES:
            raise UserError(
                f"{path}: its loss {loss!r} is none of the package; import the module that gives it by dnewton.loss"
            )
        net = Config.model_validate({"net": about["net"]}).net
        features = int(np.prod(net.input))
        targets = Targets.from_json(about["targets"])
        shift, factor = np.zeros(features), np.ones(features)
        if about["scale"] != "none":
            shift = _unpacked(metadata["scaling.shift"])
            factor = _unpacked(metadata["scaling.factor"])
        fill = _unpacked(metadata["scaling.fill"]) if "scaling.fill" in metadata else None
        if any(v is not None and v.shape != (features,) for v in (shift, factor, fill)):
            raise ValueError("scaling")
        columns = tuple(about["columns"]) if about["columns"] else None
        if columns is not None and len(columns) != features:
            raise ValueError("columns")
        scaling, weights = Scaling(shift, factor, fill), about.get("weights")
        table = TableKeys.from_json(about.get("table", {}))
        arrays = _arrays(about.get("arrays", {}))
        return Described(net, scaling, targets, about["zero_based"], about["target"], columns, weights, table, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError, zlib.error):
        raise UserError(f"{path}: the description of the model in its header is damaged") from None


def as_trained(model: Described) -> dict[str, Any]:
    """The fields of an opening (dnewton.data.format_register) that read new data as those of the training were."""
    return {
        "table": model.table,
        "words": model.words,
        "columns": model.columns,
        "arrays": model.arrays,
        "input": tuple(model.net.input),
    }


_PLACES = {"channels": ("first", "last"), "samples": ("rows", "columns")}


def _stated(arrays: Arrays) -> dict[str, str]:
    values = {name: getattr(arrays, name) for name in ("x", "y", *_PLACES)}
    return {name: value for name, value in values.items() if value is not None}


def _arrays(values: Mapping[str, str]) -> Arrays:
    for name, value in values.items():
        if not isinstance(value, str) or value not in _PLACES.get(name, (value,)):
            raise ValueError("arrays")
    return Arrays(**values)  # type: ignore[arg-type]


def _packed(values: Any) -> str:
    return base64.b64encode(zlib.compress(np.asarray(values, dtype="<f8").tobytes())).decode()


def _unpacked(text: str) -> Any:
    return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype="<f8")
