"""Nets written in Python: one function per kind of layer, and the net that they make up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dnewton.config import parse, strict_yaml
from dnewton.config.loss_entry import LossSection
from dnewton.config.schema import NetSection

Layer = dict[str, Any] | str  # an entry of `net.layers` as the YAML file has it
Size = int | Sequence[int]


def net(input: Sequence[int] | int, layers: Sequence[Layer], loss: Any = "squared") -> NetSection:
    """A net from its input to its outputs.

    `input`: [features], [channels, length] or [channels, height, width], or a number of features; `layers`: see
    :func:`dense` and its neighbours; `loss`: a name, `{name: {option: value}}`, or a :class:`dnewton.Loss`.
    Raises UserError.
    """
    shape = [input] if isinstance(input, int) else plain(input)
    own = loss if isinstance(loss, LossSection) else None
    values = {"input": shape, "loss": "squared" if own else plain(loss), "layers": plain(layers)}
    section = parse.load(strict_yaml.dump({"net": values}), "net").net
    return section if own is None else section.model_copy(update={"loss": own})


def dense(units: int, activation: str = "linear", **options: Any) -> Layer:
    """A layer of `units` outputs, each connected to all inputs."""
    return {"dense": {"units": units, "activation": activation, **options}}


def conv(channels: int, kernel: Size, activation: str = "linear", **options: Any) -> Layer:
    """A convolution over images or sequences; `options`: stride, padding."""
    return {"conv": {"channels": channels, "kernel": kernel, "activation": activation, **options}}


def maxpool(size: Size, **options: Any) -> Layer:
    """The maximum of every window; `options`: stride (the size by default), padding."""
    return {"maxpool": {"size": size, **options}}


def avgpool(size: Size, **options: Any) -> Layer:
    """The mean of every window; `options`: stride (the size by default), padding."""
    return {"avgpool": {"size": size, **options}}


def global_avgpool() -> Layer:
    """The mean of every channel: images or sequences to features."""
    return "global_avgpool"


def flatten() -> Layer:
    """Images or sequences to features, channel by channel."""
    return "flatten"


def residual(*layers: Layer, projection: bool = False) -> Layer:
    """The layers' output plus their input, which goes through a linear layer where `projection` is set."""
    return {"residual": {"layers": list(layers), "projection": projection}}


def fourier(features: int, scale: float = 1.0, seed: int = 0) -> Layer:
    """Sines and cosines, `features` in all, of random combinations of the inputs, of deviation `scale`: the first layer
    of nets that have to learn high frequencies."""
    return {"fourier": {"features": features, "scale": float(scale), "seed": seed}}


def plain(value: Any) -> Any:
    """A value as YAML would give it: lists for tuples and arrays, Python's numbers for NumPy's."""
    if isinstance(value, dict):
        return {str(k) if not isinstance(k, (int, float, bool)) else k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "__fspath__"):
        return value.__fspath__()
    return value
