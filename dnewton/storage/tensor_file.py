"""Reading safetensors in one process: what a file holds, and which of its tensors are a net's weights.

Names are PyTorch's with our numbering (`layers.0.weight`), or those of any module whose layers with weights come in the
net's order, as an `nn.Sequential` numbers them.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import stat as file_status
from typing import Any

import numpy as np

from dnewton.config.layer_entry import LayerSpec
from dnewton.errors import UserError, one_line

FURTHER = "state."  # name prefix of tensors that are not like θ
UNKNOWNS = "parameters.bias"  # the values of unknown parameters of equations
# What is beside the weights, of an exported PyTorch module and of a net trained on equations.
SCALING = ("scaling_shift", "scaling_factor", "scaling_fill", "target_shift", "target_spread")
BUFFERS = (*SCALING, "parameters.weight", UNKNOWNS)
READ = ("F16", "F32", "F64")
HEADER = "dnewton"  # the entry of the metadata that files of ours have
Shapes = Mapping[str, tuple[int, ...]]


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A safetensors file. Raises UserError when it is none."""
    from safetensors import SafetensorError, safe_open  # files are written without it

    try:
        if not stat.S_ISREG(file_status(path).st_mode):
            raise UserError(f"{path}: is not a file; a safetensors file is needed")
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError) as error:
        why = one_line(error.strerror if isinstance(error, OSError) and error.strerror else error)
        raise UserError(f"{path}: not a readable safetensors file: {why}; give one that dnewton wrote") from None


def read_metadata(path: str) -> dict[str, str]:
    """The metadata of a safetensors file. Raises UserError when it is not one."""
    with opened(path) as file:
        return dict(file.metadata() or {})


def dtype_of(path: str) -> str:
    """float32 or float64: that of a file's first weight, half precision counting as float32. Raises UserError."""
    with opened(path) as file:
        first = next((name for name in list(file.keys()) if name not in BUFFERS and not name.startswith(FURTHER)), None)
        return "float64" if first is not None and file.get_slice(first).get_dtype() == "F64" else "float32"


def read_unknowns(path: str) -> np.ndarray:
    """The unknown parameters of the equations that a run's model was trained on. Raises UserError."""
    with opened(path) as file:
        if UNKNOWNS not in list(file.keys()):
            raise UserError(f"{path}: has no tensor {UNKNOWNS}, which its header speaks of")
        return np.asarray(file.get_tensor(UNKNOWNS))


def shapes_of(specs: Sequence[LayerSpec]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights and biases of a net's layers, in the order of model files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in specs:
        if spec.parametric:
            shapes[f"{spec.name}.weight"] = tuple(spec.weight_shape)
            shapes[f"{spec.name}.bias"] = tuple(spec.weight_shape[:1])
    return shapes


def read_weights(path: str, specs: Sequence[LayerSpec]) -> dict[str, np.ndarray]:
    """All weights and biases of a net by our names, whole, in the file's dtype (float16 as float32).

    Raises UserError naming the first tensor that is missing, left over, of another shape or not finite.
    """
    weights: dict[str, np.ndarray] = {}
    with opened(path) as file:
        names = names_in(path, file, specs)
        for own, shape in shapes_of(specs).items():
            name = names[own]
            if name is None:
                weights[own] = np.zeros(shape, dtype=np.float32)
                continue
            check_dtype(path, name, file.get_slice(name))
            tensor = file.get_tensor(name)
            if not np.isfinite(tensor).all():
                raise UserError(f"{path}: {name} holds NaN or infinity; start from finite weights")
            weights[own] = tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
    return weights


def check_dtype(path: str, name: str, entry: Any) -> None:
    """Raise UserError unless the numbers of a tensor (a slice of safetensors) can be read."""
    if entry.get_dtype() not in READ:
        raise UserError(f"{path}: {name} has dtype {entry.get_dtype()}; F32 or F64 is needed")


# --- names ------------------------------------------------------------------------------------------------------------


def names_in(path: str, file: Any, specs: Sequence[LayerSpec], prefix: str = "") -> dict[str, str | None]:
    """Where a file (as :func:`opened` gives it) has a net's tensors: by our names, its own; None for a bias of zero.

    `prefix` begins the names of a vector like θ in our checkpoints. Raises UserError naming the first tensor that is
    missing, left over or of another shape.
    """
    found = {name: tuple(file.get_slice(name).get_shape()) for name in list(file.keys())}
    wanted = {prefix + name: shape for name, shape in shapes_of(specs).items()}
    ours = HEADER in (file.metadata() or {}) or any(name in found for name in wanted)
    if prefix == "" and not wanted.keys() <= found.keys():
        foreign = _foreign(path, found, specs, ours)
        if foreign is not None:
            return foreign
    _check_ours(path, found, wanted, prefix)
    return {name.removeprefix(prefix): name for name in wanted}


def _check_ours(path: str, found: Shapes, wanted: Shapes, prefix: str) -> None:
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise UserError(f"{path}: has no tensor {missing[0]}; the net needs {', '.join(sorted(wanted))}")
    if prefix == "":
        left = found.keys() - wanted.keys() - set(BUFFERS)
        extra = sorted(n for n in left if not _of_a_vector(n, wanted) and not n.startswith(FURTHER))
        if extra:
            raise UserError(f"{path}: tensor {extra[0]} belongs to no layer of the net")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(f"{path}: {name} has shape {list(found[name])}, the net needs {list(shape)}")


def _of_a_vector(name: str, wanted: Shapes) -> bool:
    """Whether a tensor belongs to a vector like θ, under a prefix; what has a layer's number before it does not."""
    return any(name.endswith("." + w) and "layers" not in name.removesuffix(w).split(".") for w in wanted)


def _foreign(path: str, found: Shapes, specs: Sequence[LayerSpec], ours: bool) -> dict[str, str | None] | None:
    """The tensors of another program's module. None where the file is more likely one of ours with a mistake in it.

    Modules are taken in the natural order of their names (2 before 10), or where that does not fit and only one order
    can, in that one.
    """
    modules = sorted({name.removesuffix(".weight") for name in found if name.endswith(".weight")}, key=_natural)
    layers = [spec for spec in specs if spec.parametric]
    if ours and (len(modules) != len(layers) or not all(f"{m}.bias" in found for m in modules)):
        return None
    if not modules:
        return None
    of_modules = {f"{m}.{kind}" for m in modules for kind in ("weight", "bias")}
    further = {name for name in found if ours and name.startswith(FURTHER)}
    strange = sorted(found.keys() - of_modules - further - set(BUFFERS), key=_natural)
    if strange:
        raise UserError(f"{path}: tensor {strange[0]} is neither weight nor bias of a dense or convolutional layer")
    if len(modules) != len(layers):
        raise UserError(
            f"{path}: has {len(modules)} layer(s) with weights ({_some(modules)}), the net has {len(layers)} "
            f"({_some([spec.name for spec in layers])})"
        )
    with_bias = [m for m in modules if f"{m}.bias" in found]
    if with_bias and len(with_bias) < len(modules):
        bare = next(m for m in modules if m not in with_bias)
        raise UserError(f"{path}: has no tensor {bare}.bias; all of its layers need one, or none for biases of zero")
    modules = _only_order(modules, layers, found) or modules
    names: dict[str, str | None] = {}
    for spec, module in zip(layers, modules, strict=True):
        for kind, shape in (("weight", tuple(spec.weight_shape)), ("bias", tuple(spec.weight_shape[:1]))):
            name = f"{module}.{kind}"
            names[f"{spec.name}.{kind}"] = name if name in found else None
            if name in found and found[name] != shape:
                raise UserError(
                    f"{path}: {name} has shape {list(found[name])}, the net needs {list(shape)} for {spec.name}"
                )
    return names


def _only_order(modules: Sequence[str], layers: Sequence[LayerSpec], found: Shapes) -> list[str] | None:
    """The one order in which modules fit the layers, where every shape occurs once."""
    by_shape = {found[f"{m}.weight"]: m for m in modules}
    wanted = [tuple(spec.weight_shape) for spec in layers]
    if len(by_shape) != len(modules) or set(wanted) != set(by_shape):
        return None
    return [by_shape[shape] for shape in wanted]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers inside names by their value."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
