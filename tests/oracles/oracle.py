"""A slow, plain reference of the network, its derivatives and the Newton method; tests compare `dnewton` with it.

NumPy float64 only. Every layer works on ONE sample with loops over positions; PyTorch's conventions hold
throughout. docs/method.md states the mathematics, the README the layer syntax.
"""

from __future__ import annotations

import copy
import functools
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Params = Mapping[str, Array]
Shape = tuple[int, ...]
Pair = tuple[int, int]
Kind = Literal["conv", "dense", "maxpool", "avgpool", "global_avgpool", "flatten", "residual"]


@dataclass(frozen=True)
class Layer:
    """One layer; the fields that its kind does not use keep their defaults."""

    kind: Kind
    units: int = 0  # dense
    channels: int = 0  # conv
    kernel: Pair = (1, 1)  # conv
    stride: Pair = (1, 1)  # conv and pools
    padding: Pair = (0, 0)  # conv and pools
    size: Pair = (1, 1)  # pools
    activation: str = "linear"  # conv and dense
    inner: tuple[Layer, ...] = ()  # residual
    projection: bool = False  # residual: the input goes through a layer of its own before it is added


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _remembered(function: _Function) -> _Function:
    """The function, with what it gave for the last arguments: tests of one problem ask for the same again."""
    found: dict[bytes, Any] = {}

    @functools.wraps(function)
    def remembered(*args: Any, **options: Any) -> Any:
        key = pickle.dumps((args, options))
        found[key] = result = found.pop(key) if key in found else function(*args, **options)
        if len(found) > 32:
            del found[next(iter(found))]
        return copy.deepcopy(result)  # for the caller to change

    return cast(_Function, remembered)


def parse(layers: Sequence[str | Mapping[str, Any]]) -> list[Layer]:
    """The layers of a YAML-style list such as [{'conv': {'channels': 3, 'kernel': 3}}, 'flatten', ...]."""
    return [_parse_one({entry: None} if isinstance(entry, str) else entry) for entry in layers]


def _parse_one(entry: Mapping[str, Any]) -> Layer:
    (kind,) = (name for name in entry if name != "split")
    if kind not in get_args(Kind):
        raise ValueError(f"unknown layer {kind!r}")
    if kind == "residual":
        options = entry[kind] if isinstance(entry[kind], Mapping) else {"layers": entry[kind]}
        return Layer("residual", inner=tuple(parse(options["layers"])), projection=options.get("projection", False))
    given = {key: value for key, value in (entry[kind] or {}).items() if key != "split"}
    if kind in ("maxpool", "avgpool"):
        given = {"stride": given["size"], **given}
    pairs = {key: _pair(given[key]) for key in ("kernel", "stride", "padding", "size") if key in given}
    return Layer(cast(Kind, kind), **{**given, **pairs})


def _pair(value: int | Sequence[int]) -> Pair:
    height, width = (value, value) if isinstance(value, int) else value
    return (height, width)


def shapes(input_shape: Sequence[int], layers: Sequence[Layer]) -> list[Shape]:
    """The output shape of each layer, for one sample."""
    result = [tuple(input_shape)]
    for layer in layers:
        result.append(_output_shape(result[-1], layer))
    return result[1:]


def _output_shape(shape: Shape, layer: Layer) -> Shape:
    if layer.kind == "flatten":
        return (int(np.prod(shape)),)
    if layer.kind == "residual":
        return shapes(shape, layer.inner)[-1]
    if layer.kind == "global_avgpool":
        return (shape[0],)
    if len(shape) == 2 and layer.kind != "dense":
        channels, _, length = _output_shape((shape[0], 1, shape[1]), _across(layer))
        return (channels, length)
    if len(shape) != (1 if layer.kind == "dense" else 3):
        raise ValueError(f"{layer.kind} cannot take an input of shape {shape}")
    if layer.kind == "dense":
        return (layer.units,)
    window = layer.kernel if layer.kind == "conv" else layer.size
    height, width = ((shape[1 + a] + 2 * layer.padding[a] - window[a]) // layer.stride[a] + 1 for a in (0, 1))
    if min(height, width) < 1 or (layer.kind != "conv" and any(2 * layer.padding[a] > window[a] for a in (0, 1))):
        raise ValueError(f"{layer.kind}: {window} with padding {layer.padding} does not suit {shape}")
    return (layer.channels if layer.kind == "conv" else shape[0], height, width)


def _across(layer: Layer) -> Layer:
    """The same layer on a sequence that is seen as an image of height 1."""
    one = {"kernel": (1, layer.kernel[1]), "size": (1, layer.size[1]), "stride": (1, layer.stride[1])}
    return replace(layer, padding=(0, layer.padding[1]), **one)


def _projection(shape: Shape, layer: Layer) -> Layer:
    """The layer that brings a residual's input to the shape of its output: dense, or a 1 x 1 convolution whose stride
    is the ratio of the sizes."""
    out = _output_shape(shape, layer)
    if len(shape) == 1:
        return Layer("dense", units=out[0])
    stride = [-(-a // b) for a, b in zip(shape[1:], out[1:], strict=True)]
    return Layer("conv", channels=out[0], stride=(stride[0], stride[-1]))


def parameter_shapes(input_shape: Sequence[int], layers: Sequence[Layer], prefix: str = "layers") -> dict[str, Shape]:
    """PyTorch's names and shapes, in the order of the flat parameter vector."""
    result: dict[str, Shape] = {}
    for i, (layer, shape) in enumerate(zip(layers, [tuple(input_shape), *shapes(input_shape, layers)], strict=False)):
        if layer.kind in ("conv", "dense"):
            result.update(_own_shapes(f"{prefix}.{i}", shape, layer))
        if layer.kind == "residual":
            result.update(parameter_shapes(shape, layer.inner, f"{prefix}.{i}.layers"))
            if layer.projection:
                result.update(_own_shapes(f"{prefix}.{i}.projection", shape, _projection(shape, layer)))
    return result


def _own_shapes(name: str, shape: Shape, layer: Layer) -> dict[str, Shape]:
    outputs, window = (layer.channels, layer.kernel) if layer.kind == "conv" else (layer.units, ())
    window = window[1:] if len(shape) == 2 else window
    return {f"{name}.weight": (outputs, shape[0], *window), f"{name}.bias": (outputs,)}


def _names(params: Mapping[str, Any]) -> list[str]:
    """layers.0.weight, layers.0.bias, layers.2.weight, ... whatever the mapping's order."""
    words = {"layers": -1, "projection": 1 << 30, "parameters": 1 << 30, "weight": 0, "bias": 1}
    return sorted(params, key=lambda name: [words[w] if w in words else int(w) for w in name.split(".")])


def flatten_params(params: Params) -> Array:
    """One vector of all the parameters, each in C order."""
    return np.concatenate([np.ravel(params[name]) for name in _names(params)]).astype(np.float64)


def unflatten(vector: Array, shapes: Mapping[str, Shape]) -> dict[str, Array]:
    """The inverse of `flatten_params`; shapes as from `parameter_shapes`."""
    ends = np.cumsum([int(np.prod(shapes[name])) for name in _names(shapes)])
    if ends[-1] != len(vector):
        raise ValueError(f"{len(vector)} numbers for {ends[-1]} parameters")
    parts = np.split(vector, ends[:-1])
    return {name: part.reshape(shapes[name]).copy() for name, part in zip(_names(shapes), parts, strict=True)}


def _sigmoid(s: Array) -> Array:
    return cast(Array, np.exp(-np.logaddexp(0.0, -s)))


def _normal(s: Array) -> Array:
    """The distribution function of the standard normal distribution."""
    return 0.5 * (1.0 + np.vectorize(math.erf, otypes=[float])(s / math.sqrt(2.0)))


Function = Callable[[Array], Array]
ACTIVATIONS: dict[str, tuple[Function, Function]] = {  # the function and its derivative; relu'(0) = 0
    "relu": (lambda s: np.maximum(s, 0.0), lambda s: np.where(s > 0.0, 1.0, 0.0)),
    "tanh": (np.tanh, lambda s: 1.0 - np.tanh(s) ** 2),
    "sigmoid": (_sigmoid, lambda s: _sigmoid(s) * _sigmoid(-s)),
    "softplus": (lambda s: np.logaddexp(0.0, s), _sigmoid),
    "silu": (lambda s: s * _sigmoid(s), lambda s: _sigmoid(s) * (1.0 + s * _sigmoid(-s))),
    "gelu": (lambda s: s * _normal(s), lambda s: _normal(s) + s * np.exp(-0.5 * s * s) / np.sqrt(2.0 * np.pi)),
    "sin": (np.sin, np.cos),
    "elu": (lambda s: np.where(s > 0.0, s, np.expm1(np.minimum(s, 0.0))), lambda s: np.exp(np.minimum(s, 0.0))),
    "linear": (lambda s: s, np.ones_like),
}


def _pad(x: Array, layer: Layer) -> Array:
    """x [channel, height, width] with a border of zeros, or of -inf for maxpool."""
    (h, w), (channels, height, width) = layer.padding, x.shape
    padded = np.full((channels, height + 2 * h, width + 2 * w), -np.inf if layer.kind == "maxpool" else 0.0)
    padded[:, h : h + height, w : w + width] = x
    return padded


def _crop(padded: Array, layer: Layer) -> Array:
    (h, w), (_, height, width) = layer.padding, padded.shape
    return padded[:, h : height - h, w : width - w]


def _windows(shape: Shape, window: Pair, stride: Pair) -> Iterator[tuple[int, int, slice, slice]]:
    """Every position (i, j) of the output, with the rows and columns of its window in the padded input."""
    for i in range(shape[1]):
        for j in range(shape[2]):
            top, left = i * stride[0], j * stride[1]
            yield i, j, slice(top, top + window[0]), slice(left, left + window[1])


def _conv(x: Array, layer: Layer, weight: Array, bias: Array) -> Array:
    padded = _pad(x, layer)
    s = np.zeros(_output_shape(x.shape, layer))
    matrix = weight.reshape(len(weight), -1)
    for i, j, rows, cols in _windows(s.shape, layer.kernel, layer.stride):
        s[:, i, j] = matrix @ padded[:, rows, cols].reshape(-1) + bias
    return s


def _conv_back(cotangent: Array, x: Array, layer: Layer, weight: Array) -> tuple[Array, Array, Array]:
    """Cotangents of weight, bias and x."""
    padded = _pad(x, layer)
    matrix = weight.reshape(len(weight), -1)
    d_matrix, d_bias, d_padded = np.zeros(matrix.shape), np.zeros(len(weight)), np.zeros(padded.shape)
    for i, j, rows, cols in _windows(cotangent.shape, layer.kernel, layer.stride):
        here = cotangent[:, i, j]
        d_matrix += here[:, None] * padded[:, rows, cols].reshape(-1)
        d_bias += here
        d_padded[:, rows, cols] += (here @ matrix).reshape(weight.shape[1:])
    return d_matrix.reshape(weight.shape), d_bias, _crop(d_padded, layer)


def _pool(x: Array, layer: Layer) -> Array:
    padded = _pad(x, layer)
    s = np.zeros(_output_shape(x.shape, layer))
    for i, j, rows, cols in _windows(s.shape, layer.size, layer.stride):
        windows = padded[:, rows, cols].reshape(len(s), -1)
        s[:, i, j] = windows.max(axis=1) if layer.kind == "maxpool" else windows.sum(axis=1) / windows.shape[1]
    return s


def _pool_back(cotangent: Array, x: Array, layer: Layer) -> Array:
    padded = _pad(x, layer)
    d_padded = np.zeros(padded.shape)
    for i, j, rows, cols in _windows(cotangent.shape, layer.size, layer.stride):
        if layer.kind == "avgpool":
            d_padded[:, rows, cols] += cotangent[:, i, j, None, None] / (layer.size[0] * layer.size[1])
            continue
        for c, window in enumerate(padded[:, rows, cols]):  # argmax: the first maximum in row-major order
            a, b = divmod(int(np.argmax(window)), layer.size[1])
            d_padded[c, rows.start + a, cols.start + b] += cotangent[c, i, j]
    return _crop(d_padded, layer)


@dataclass
class Trace:
    """One sample's way through a chain: [input, output of layer 0, ...], the pre-activation of every layer, and the
    ways through the inner chains and the projections of residual layers."""

    values: list[Array]
    sums: list[Array]
    inner: dict[int, Trace]
    projection: dict[int, Trace]


def _trace(params: Params, layers: Sequence[Layer], x: Array) -> Trace:
    """One sample through the whole net."""
    if parameter_shapes(x.shape, layers) != {name: np.shape(value) for name, value in params.items()}:
        raise ValueError(f"the parameters' shapes must be {parameter_shapes(x.shape, layers)}")
    return _through(params, [(f"layers.{i}", layer) for i, layer in enumerate(layers)], x)


def _through(params: Params, layers: Sequence[tuple[str, Layer]], x: Array) -> Trace:
    found = Trace([x], [], {}, {})
    for i, (name, layer) in enumerate(layers):
        z = found.values[-1]
        if layer.kind == "residual":
            found.inner[i] = _through(params, [(f"{name}.layers.{j}", n) for j, n in enumerate(layer.inner)], z)
            skip = z
            if layer.projection:
                found.projection[i] = _through(params, [(f"{name}.projection", _projection(z.shape, layer))], z)
                skip = found.projection[i].values[-1]
            s = found.inner[i].values[-1] + skip
        elif layer.kind == "dense":
            s = params[f"{name}.weight"] @ z + params[f"{name}.bias"]
        elif layer.kind == "flatten":
            s = z.reshape(-1)
        elif layer.kind == "global_avgpool":
            s = np.array([np.mean(channel) for channel in z])
        elif z.ndim == 2:
            s = _image_layer(params, name, _across(layer), z[:, None, :])[:, 0, :]
        else:
            s = _image_layer(params, name, layer, z)
        found.sums.append(s)
        found.values.append(ACTIVATIONS[layer.activation][0](s))
    return found


def _image_layer(params: Params, name: str, layer: Layer, z: Array) -> Array:
    if layer.kind == "conv":
        weight = params[f"{name}.weight"]
        return _conv(z, layer, weight.reshape(*weight.shape[:2], *layer.kernel), params[f"{name}.bias"])
    return _pool(z, layer)


def _pull_back(params: Params, layers: Sequence[Layer], trace: Trace, cotangent: Array) -> dict[str, Array]:
    """One sample: cotangent^T dz^L/dparameter for every parameter, by one backward pass."""
    result: dict[str, Array] = {}
    _back(params, [(f"layers.{i}", layer) for i, layer in enumerate(layers)], trace, cotangent, result)
    return result


def _back(
    params: Params, layers: Sequence[tuple[str, Layer]], trace: Trace, cotangent: Array, result: dict[str, Array]
) -> Array:
    """Adds to `result`, and gives the cotangent of the chain's input."""
    for i in reversed(range(len(layers))):
        (name, layer), x = layers[i], trace.values[i]
        cotangent = cotangent * ACTIVATIONS[layer.activation][1](trace.sums[i])
        if layer.kind == "residual":
            inner = [(f"{name}.layers.{j}", n) for j, n in enumerate(layer.inner)]
            below = _back(params, inner, trace.inner[i], cotangent, result)
            if layer.projection:
                skip = [(f"{name}.projection", _projection(x.shape, layer))]
                cotangent = _back(params, skip, trace.projection[i], cotangent, result)
            cotangent = below + cotangent
        elif layer.kind == "dense":
            result[f"{name}.weight"], result[f"{name}.bias"] = np.outer(cotangent, x), cotangent
            cotangent = params[f"{name}.weight"].T @ cotangent
        elif layer.kind == "flatten":
            cotangent = cotangent.reshape(x.shape)
        elif layer.kind == "global_avgpool":
            cotangent = np.stack([np.full(x.shape[1:], c / x[0].size) for c in cotangent])
        elif x.ndim == 2:
            layer = _across(layer)
            cotangent = _image_back(params, name, layer, x[:, None, :], cotangent[:, None, :], result)[:, 0, :]
        else:
            cotangent = _image_back(params, name, layer, x, cotangent, result)
    return cotangent


def _image_back(params: Params, name: str, layer: Layer, x: Array, cotangent: Array, result: dict[str, Array]) -> Array:
    if layer.kind != "conv":
        return _pool_back(cotangent, x, layer)
    weight = params[f"{name}.weight"]
    shaped = weight.reshape(*weight.shape[:2], *layer.kernel)
    d_weight, result[f"{name}.bias"], below = _conv_back(cotangent, x, layer, shaped)
    result[f"{name}.weight"] = d_weight.reshape(weight.shape)
    return below


def forward(params: Params, layers: Sequence[Layer], x: ArrayLike) -> list[Array]:
    """The output [samples, ...] of every layer, z^L [samples, K] last."""
    per_sample = [_trace(params, layers, sample).values[1:] for sample in np.asarray(x, dtype=np.float64)]
    return [np.stack(outputs) for outputs in zip(*per_sample, strict=True)]


def jacobian(params: Params, layers: Sequence[Layer], x: ArrayLike) -> dict[str, Array]:
    """dz^L_k / dparameter as [samples, K, *parameter shape], one backward pass per sample and output."""
    rows: list[list[dict[str, Array]]] = []
    for sample in np.asarray(x, dtype=np.float64):
        trace = _trace(params, layers, sample)
        rows.append([_pull_back(params, layers, trace, unit) for unit in np.eye(len(trace.values[-1]))])
    return {name: np.array([[row[name] for row in group] for group in rows]) for name in _names(params)}


def _targets(z: Array, y: ArrayLike, loss: str) -> Array:
    """y as [samples, K]: as it is, or one-hot from labels, or one column for a single output."""
    given = np.asarray(y)
    if given.shape == z.shape:
        return given.astype(np.float64)
    if z.shape[1] == 1 and loss != "cross_entropy":
        return given.reshape(len(z), 1).astype(np.float64)
    labels = given.reshape(len(z))
    if not np.all(np.isin(labels, np.arange(z.shape[1]))):
        raise ValueError(f"labels must be integers below {z.shape[1]}")
    return np.eye(z.shape[1])[labels.astype(np.intp)]


def _softmax(z: Array) -> Array:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return cast(Array, e / e.sum(axis=1, keepdims=True))


HUBER = 1.0  # the threshold of the plain name


def _check(z: Array, loss: str) -> None:
    known = ("squared", "cross_entropy", "logistic", "huber", "poisson")
    if loss not in known:
        raise ValueError(f"loss {loss!r} with {z.shape[1]} outputs")


def loss_value(z: Array, y: ArrayLike, loss: str) -> float:
    """The sum over samples."""
    _check(z, loss)
    t = _targets(z, y, loss)
    if loss == "squared":
        return float(np.sum((z - t) ** 2))
    if loss == "huber":
        r = np.abs(z - t)
        return float(np.sum(np.where(r <= HUBER, 0.5 * r**2, HUBER * (r - 0.5 * HUBER))))
    if loss == "poisson":
        return float(np.sum(np.exp(z) - t * z))
    if loss == "logistic":
        return float(np.sum(np.logaddexp(0.0, z) - t * z))
    shifted = z - z.max(axis=1, keepdims=True)
    return float(np.sum(np.log(np.sum(np.exp(shifted), axis=1)) - np.sum(t * shifted, axis=1)))


def loss_gradient(z: Array, y: ArrayLike, loss: str) -> Array:
    """d(loss of sample i)/dz_i, [samples, K]."""
    _check(z, loss)
    t = _targets(z, y, loss)
    if loss == "squared":
        return 2.0 * (z - t)
    if loss == "huber":
        return np.clip(z - t, -HUBER, HUBER)
    if loss == "poisson":
        return np.exp(z) - t
    return _sigmoid(z) - t if loss == "logistic" else _softmax(z) - t


def loss_hessian(z: Array, y: ArrayLike, loss: str) -> Array:
    """B_i = d2(loss of sample i)/dz_i2, [samples, K, K]."""
    _check(z, loss)
    if loss == "squared":
        return np.stack([2.0 * np.eye(z.shape[1])] * len(z))
    if loss == "huber":
        return np.stack([np.diag(np.where(np.abs(r) <= HUBER, 1.0, 0.0)) for r in z - _targets(z, y, loss)])
    if loss == "poisson":
        return np.stack([np.diag(np.exp(row)) for row in z])
    if loss == "logistic":
        return np.stack([np.diag(row) for row in _sigmoid(z) * _sigmoid(-z)])
    return np.stack([np.diag(p) - np.outer(p, p) for p in _softmax(z)])


def objective(params: Params, layers: Sequence[Layer], x: ArrayLike, y: ArrayLike, loss: str, C: float) -> float:
    """f = |theta|^2 / (2 C l) + mean loss, l = len(x); C may be inf."""
    z = forward(params, layers, x)[-1]
    return float(np.sum(flatten_params(params) ** 2)) / (2.0 * C * len(z)) + loss_value(z, y, loss) / len(z)


@_remembered
def gradient(
    params: Params, layers: Sequence[Layer], x: ArrayLike, y: ArrayLike, loss: str, C: float
) -> dict[str, Array]:
    """The gradient of `objective`, by one backward pass per sample."""
    x = np.asarray(x, dtype=np.float64)
    seeds = loss_gradient(forward(params, layers, x)[-1], y, loss)
    result = {name: params[name] / (C * len(x)) for name in _names(params)}
    for sample, seed in zip(x, seeds, strict=True):
        for name, part in _pull_back(params, layers, _trace(params, layers, sample), seed).items():
            result[name] = result[name] + part / len(x)
    return result


@_remembered
def gauss_newton_matrix(
    params: Params,
    layers: Sequence[Layer],
    x: ArrayLike,
    y: ArrayLike,
    loss: str,
    C: float,
    l: int,  # noqa: E741
) -> Array:
    """G = I / (C l) + (1/|S|) sum_i J_i^T B_i J_i, dense; x is the subsample S, l the number of training samples."""
    x = np.asarray(x, dtype=np.float64)
    blocks = jacobian(params, layers, x)
    hessians = loss_hessian(forward(params, layers, x)[-1], y, loss)
    rows = np.concatenate([b.reshape(len(x), hessians.shape[1], -1) for b in blocks.values()], axis=2)
    result = np.eye(rows.shape[2]) / (C * l)
    for j, b in zip(rows, hessians, strict=True):
        result += j.T @ b @ j / len(x)
    return result


def cg(A: Array, g: Array, tol: float, max_cg: int) -> tuple[Array, int]:
    """A d = -g from zero until |r| <= tol |g|, tested before the first product and after each; d and the iterations."""
    d, r, p, count = np.zeros_like(g), -g, -g, 0
    while np.linalg.norm(r) > tol * np.linalg.norm(g) and count < max_cg:
        product = A @ p
        if p @ product <= 0.0:  # only by underflow, when tol is 0
            break
        alpha = (r @ r) / (p @ product)
        d, r_old, r = d + alpha * p, r, r - alpha * product
        p = r + (r @ r) / (r_old @ r_old) * p
        count += 1
    return d, count


def _combine(G: Array, lam: float, g: Array, d: Array, previous: Array | None) -> Array:
    """The minimiser of the damped model on span{d, previous} (d alone at first), or d if that is no descent."""
    Z = np.stack([d] if previous is None else [d, previous], axis=1)
    c = np.linalg.lstsq(Z.T @ (G @ Z + lam * Z), -Z.T @ g, rcond=1e-10)[0]
    return Z @ c if g @ (Z @ c) < 0.0 else d


def _line_search(value: Callable[[Array], float], theta: Array, g: Array, d: Array, eta: float) -> float:
    """The first alpha of 1, 1/2, ... (12 of them) with sufficient decrease, else 0."""
    start = value(theta)
    for alpha in 0.5 ** np.arange(12):
        with np.errstate(all="ignore"):  # a trial point may overflow
            trial = value(theta + alpha * d)
        if np.isfinite(trial) and trial <= start + eta * alpha * (g @ d):
            return float(alpha)
    return 0.0


def _solve_blocks(
    G: Array, lam: float, g: Array, blocks: Sequence[Indices], xi: float, max_cg: int
) -> tuple[Array, list[int]]:
    """Each block of (G + lam I) d = -g by its own CG; d and the CG iterations of every block."""
    d, counts = np.zeros_like(g), []
    for block in blocks:
        A = G[np.ix_(block, block)] + lam * np.eye(len(block))
        d[block], count = cg(A, g[block], xi, max_cg)
        counts.append(count)
    return d, counts


def newton_trajectory(
    params: Params,
    layers: Sequence[Layer],
    x: ArrayLike,
    y: ArrayLike,
    loss: str,
    C: float,
    iterations: int,
    lam: float = 1.0,
    xi: float = 0.1,
    max_cg: int = 250,
    drop: float = 2 / 3,
    boost: float = 1.5,
    eta: float = 1e-4,
    combine: Literal["none", "previous"] = "none",
    subsets: Sequence[Indices] | None = None,
    mask_blocks: Sequence[Indices] | None = None,
) -> list[dict[str, Any]]:
    """One record per point, the initial one first (step 0, ratio nan, no CG iterations).

    `cg_iterations` has one number per block. The blocks restrict only the systems solved: the combination and the ratio
    use the whole G on the subset. A rejected step has step 0 and ratio -1 and leaves theta and the previous step alone.
    """
    x = np.asarray(x, dtype=np.float64)
    everyone, sizes = np.arange(len(x)), {name: np.shape(value) for name, value in params.items()}
    theta, previous = flatten_params(params), None
    blocks = [np.arange(len(theta))] if mask_blocks is None else mask_blocks

    def value(point: Array) -> float:
        return objective(unflatten(point, sizes), layers, x, y, loss, C)

    def record(step: float, ratio: float, counts: list[int]) -> dict[str, Any]:
        result = {"loss": value(theta), "grad_norm": float(np.linalg.norm(g)), "lambda": lam, "step": step}
        return {**result, "ratio": ratio, "cg_iterations": counts, "theta": theta.copy()}

    g = flatten_params(gradient(unflatten(theta, sizes), layers, x, y, loss, C))
    records = [record(0.0, float("nan"), [])]
    for k in range(iterations):
        subset = everyone if subsets is None else subsets[k]
        G = gauss_newton_matrix(unflatten(theta, sizes), layers, x[subset], y[subset], loss, C, len(x))
        d, counts = _solve_blocks(G, lam, g, blocks, xi, max_cg)
        if combine == "previous":
            d = _combine(G, lam, g, d, previous)
        step, ratio = _line_search(value, theta, g, d, eta), -1.0
        s = step * d
        prediction = g @ s + 0.5 * s @ (G @ s)
        if prediction < 0.0:
            ratio = float((value(theta + s) - value(theta)) / prediction)
            theta, previous = theta + s, s
            g = flatten_params(gradient(unflatten(theta, sizes), layers, x, y, loss, C))
        lam = lam * (boost if ratio < 0.25 else drop if ratio >= 0.75 else 1.0)
        lam = min(max(lam, 1e-10), 1e10)
        records.append(record(step if prediction < 0.0 else 0.0, ratio, counts))
    return records
