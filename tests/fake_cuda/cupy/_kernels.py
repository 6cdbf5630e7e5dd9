"""`ElementwiseKernel` and `ReductionKernel`: the CUDA snippet runs on the host, one element after the other.

Strict where CuPy is (types of arrays must match those declared) and where the device is silent (a raw argument
indexed out of its bounds raises IndexError). A `return` in a snippet would end all elements; use `continue`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupy import _compile, _fake
from cupy._array import ndarray
from cupy._core import check_device, is_device, wrap
from cupy._prelude import prelude
from cupy.cuda import stream as _streams

_C = {
    "bool": "bool",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
    "float16": "float16",
    "float32": "float",
    "float64": "double",
}


@dataclass(frozen=True)
class _Param:
    name: str
    ctype: str  # as written: a placeholder of one letter or a dtype
    raw: bool

    @property
    def dtype(self) -> np.dtype | None:
        return None if len(self.ctype) == 1 else np.dtype(self.ctype)


def _params(text: str) -> list[_Param]:
    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        *qualifiers, ctype, name = part.split()
        if not set(qualifiers) <= {"raw"}:
            raise ValueError(f"Syntax error in parameter {part!r}")
        found.append(_Param(name, ctype, "raw" in qualifiers))
    return found


def _check_args(args: list[Any]) -> None:
    for arg in args:
        if not is_device(arg) and not isinstance(arg, bool | int | float | np.generic):
            raise TypeError(f"Unsupported type {type(arg)}")
    check_device([a for a in args if is_device(a)])


def _bind(params: list[_Param], args: list[Any], types: dict[str, np.dtype]) -> None:
    """Placeholders by the arrays' dtypes; an array whose dtype is not the declared one is refused."""
    for param, arg in zip(params, args, strict=True):
        if is_device(arg):
            known = param.dtype if param.dtype is not None else types.setdefault(param.ctype, arg.dtype)
            if known != arg.dtype:
                raise TypeError(f"Type is mismatched. {param.name} {arg.dtype} {known}")


def _type(param: _Param, types: dict[str, np.dtype]) -> np.dtype:
    if param.dtype is not None:
        return param.dtype
    if param.ctype not in types:
        raise TypeError(f"the type {param.ctype} of {param.name} is bound by no array")
    return types[param.ctype]


def _c(dtype: np.dtype) -> str:
    if dtype.name not in _C:
        raise TypeError(f"the fake's kernels have no type {dtype}")
    return _C[dtype.name]


def _head(types: dict[str, np.dtype], every: list[np.dtype], preamble: str) -> list[str]:
    half = any(t == np.float16 for t in every)
    return [prelude(half), *(f"typedef {_c(t)} {n};" for n, t in sorted(types.items())), preamble]


def _run(name: str, source: str, options: Any, values: list[np.ndarray], size: int, inner: int = 1) -> None:
    function = _compile.load(source, tuple(options))
    pointers = (ctypes.c_void_p * max(1, len(values)))(*(v.ctypes.data for v in values))
    if function(pointers, size, inner):
        raise IndexError(f"kernel {name}: a raw argument was indexed outside its bounds")
    _streams.launch(name)


def _declare(param: _Param, dtype: np.dtype, slot: int, value: Any, const: bool) -> str:
    """The C++ line that takes an argument out of the list of addresses."""
    c = f"const {_c(dtype)}" if const else _c(dtype)
    if not is_device(value):
        return f"{c} {param.name} = *({c}*)_args[{slot}];"
    if param.raw:
        return f"const _Raw<{c}> {param.name} = {{({c}*)_args[{slot}], _sizes[{slot}]}};"
    return f"{c}* const _raw_{param.name} = ({c}*)_args[{slot}];"


class ElementwiseKernel:
    """A snippet per element; see CuPy's documentation of the class of this name."""

    def __init__(
        self,
        in_params: str,
        out_params: str,
        operation: str,
        name: str = "kernel",
        reduce_dims: bool = True,
        preamble: str = "",
        no_return: bool = False,
        return_tuple: bool = False,
        **kwargs: Any,
    ) -> None:
        if not name.isidentifier():
            raise ValueError(f'Invalid kernel name: "{name}"')
        if unknown := set(kwargs) - {"options", "loop_prep", "after_loop"}:
            raise TypeError(f"Wrong arguments {unknown}")
        self._ins, self._outs = _params(in_params), _params(out_params)
        if "i" in [p.name for p in self._ins + self._outs]:
            raise ValueError("Can not use 'i' as a parameter name")
        self.name = self.__name__ = name
        self.nin, self.nout, self.nargs = len(self._ins), len(self._outs), len(self._ins) + len(self._outs)
        self.operation, self.preamble, self.kwargs = operation, preamble, kwargs
        self.no_return, self.return_tuple = no_return, return_tuple
        self._sources: dict[Any, str] = {}

    def __call__(self, *args: Any, size: int = -1, stream: Any = None, block_size: int = 128) -> Any:
        if len(args) not in (self.nin, self.nargs):
            raise TypeError(
                f"Wrong number of arguments for {self.name!r}. It must be either {self.nin} or {self.nargs} "
                f"(with outputs), but given {len(args)}."
            )
        given = list(args)
        _check_args(given)
        ins, outs = given[: self.nin], given[self.nin :]
        if any(not is_device(a) for a in outs):
            raise TypeError("Output arguments type must be cupy.ndarray")
        types: dict[str, np.dtype] = {}
        if outs:
            _bind(self._outs, outs, types)
        _bind(self._ins, ins, types)
        shape = self._shape(given, size)
        if not outs:
            if any(p.raw for p in self._outs) and size == -1:
                raise ValueError("Output array size is Undecided")
            outs = [ndarray(shape, _type(p, types)) for p in self._outs]
        if any(not p.raw and o.shape != shape for p, o in zip(self._outs, outs, strict=True)):
            raise ValueError("Out shape is mismatched")
        if int(np.prod(shape, dtype=np.int64)):
            with stream or _streams.get_current_stream():
                self._launch(ins, outs, types, shape)
        if self.no_return:
            return None
        return outs[0] if self.nout == 1 and not self.return_tuple else tuple(outs)

    def _shape(self, args: list[Any], size: int) -> tuple[int, ...]:
        params = self._ins + self._outs
        shapes = [a.shape for p, a in zip(params, args, strict=False) if is_device(a) and not p.raw]
        if size != -1:
            if shapes:
                raise ValueError("Specified 'size' can be used only if all of the ndarray are 'raw'.")
            return (size,)
        if not shapes:
            raise ValueError("Loop size is undecided.")
        return np.broadcast_shapes(*shapes)

    def _launch(self, ins: list[Any], outs: list[ndarray], types: dict[str, np.dtype], shape: tuple[int, ...]) -> None:
        params, values = self._ins + self._outs, ins + outs
        dtypes = [_type(p, types) for p in params]
        hosts, back = [], []
        for k, (param, value, dtype) in enumerate(zip(params, values, dtypes, strict=True)):
            if not is_device(value):
                hosts.append(np.array(value).astype(dtype))
            elif k < self.nin:
                host = value._a if param.raw else np.broadcast_to(value._a, shape)
                hosts.append(np.ascontiguousarray(host))
            elif value._a.flags.c_contiguous:
                hosts.append(value._a)
            elif param.raw:
                raise ValueError(f"kernel {self.name}: the raw output {param.name} is not contiguous")
            else:
                hosts.append(np.ascontiguousarray(value._a))
                back.append((value._a, hosts[-1]))
        key = (tuple(dtypes), tuple(is_device(v) for v in values))
        if (source := self._sources.get(key)) is None:
            source = self._sources[key] = self._source(params, values, dtypes, types)
        sizes = np.array([h.size for h in hosts], dtype=np.int64)
        _run(self.name, source, self.kwargs.get("options", ()), [*hosts, sizes], int(np.prod(shape, dtype=np.int64)))
        for target, made in back:
            target[...] = made

    def _source(
        self, params: list[_Param], values: list[Any], dtypes: list[np.dtype], types: dict[str, np.dtype]
    ) -> str:
        declared, bound = [], []
        for k, (param, value, dtype) in enumerate(zip(params, values, dtypes, strict=True)):
            declared.append(_declare(param, dtype, k, value, k < self.nin))
            if is_device(value) and not param.raw:
                const = "const " if k < self.nin else ""
                bound.append(f"{const}{_c(dtype)} &{param.name} = _raw_{param.name}[i];")
        return "\n".join(
            [
                *_head(types, dtypes, self.preamble),
                'extern "C" int run(void** _args, long long _n, long long) {',
                f"const long long* _sizes = (const long long*)_args[{len(params)}];",
                *declared,
                "const _Indexer _ind = {_n};",
                "_outside = 0;",
                self.kwargs.get("loop_prep", ""),
                ";",
                "for (ptrdiff_t i = 0; i < _n; ++i) {",
                *bound,
                self.operation,
                ";}",
                self.kwargs.get("after_loop", ""),
                ";",
                "return _outside; }",
                "",
            ]
        )


class ReductionKernel:
    """Map, reduce, map; see CuPy's documentation of the class of this name. One output; elements in C order."""

    def __init__(
        self,
        in_params: str,
        out_params: str,
        map_expr: str,
        reduce_expr: str,
        post_map_expr: str,
        identity: Any,
        name: str = "reduce_kernel",
        reduce_type: str | None = None,
        reduce_dims: bool = True,
        preamble: str = "",
        options: tuple[str, ...] = (),
    ) -> None:
        if not name.isidentifier():
            raise ValueError(f'Invalid kernel name: "{name}"')
        self._ins, self._outs = _params(in_params), _params(out_params)
        if len(self._outs) != 1 or any(p.raw for p in self._outs):
            raise NotImplementedError("the fake reduces to one output that is not raw")
        self.name = self.__name__ = name
        self.nin, self.nout, self.nargs = len(self._ins), 1, len(self._ins) + 1
        self.map_expr, self.reduce_expr, self.post_map_expr = map_expr, reduce_expr, post_map_expr
        self.identity, self.reduce_type, self.preamble, self.options = identity, reduce_type, preamble, options
        self._sources: dict[Any, str] = {}

    def __call__(
        self, *args: Any, out: Any = None, axis: Any = None, keepdims: bool = False, stream: Any = None
    ) -> ndarray:
        if len(args) not in (self.nin, self.nargs) or (out is not None and len(args) != self.nin):
            raise TypeError(f"Wrong number of arguments for {self.name!r}: {len(args)}")
        ins = list(args[: self.nin])
        out = args[self.nin] if len(args) == self.nargs else out
        _check_args([*ins, *([] if out is None else [out])])
        types: dict[str, np.dtype] = {}
        if out is not None:
            _bind(self._outs, [out], types)
        _bind(self._ins, ins, types)
        shapes = [a.shape for p, a in zip(self._ins, ins, strict=True) if is_device(a) and not p.raw]
        if not shapes:
            raise ValueError("Loop size is undecided.")
        shape = np.broadcast_shapes(*shapes)
        axes = tuple(range(len(shape))) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, len(shape))
        kept = [a for a in range(len(shape)) if a not in axes]
        inner = int(np.prod([shape[a] for a in axes], dtype=np.int64))
        if inner == 0 and self.identity is None:
            raise ValueError(f"zero-size array to reduction operation {self.name} which has no identity")
        result = np.empty([shape[a] for a in kept], _type(self._outs[0], types))
        with stream or _streams.get_current_stream():
            self._launch(ins, result, types, shape, (*kept, *axes), inner)
        if keepdims:
            result = result.reshape([1 if a in axes else n for a, n in enumerate(shape)])
        if out is None:
            return wrap(result)
        if out.shape != result.shape:
            raise ValueError("Out shape is mismatched")
        out._a[...] = result
        return out  # type: ignore[no-any-return]

    def _launch(
        self,
        ins: list[Any],
        result: np.ndarray,
        types: dict[str, np.dtype],
        shape: tuple[int, ...],
        order: tuple[int, ...],
        inner: int,
    ) -> None:
        _fake.garbage(result)
        dtypes = [_type(p, types) for p in (*self._ins, *self._outs)]
        hosts = []
        for param, value, dtype in zip(self._ins, ins, dtypes, strict=False):
            if not is_device(value):
                hosts.append(np.array(value).astype(dtype))
            elif param.raw:
                hosts.append(np.ascontiguousarray(value._a))
            else:
                hosts.append(np.ascontiguousarray(np.broadcast_to(value._a, shape).transpose(order)))
        sizes = np.array([h.size for h in (*hosts, result)], dtype=np.int64)
        if result.size:
            key = (tuple(dtypes), tuple(is_device(v) for v in ins))
            if (source := self._sources.get(key)) is None:
                source = self._sources[key] = self._source(ins, dtypes, types)
            _run(self.name, source, self.options, [*hosts, result, sizes], result.size, inner)

    def _source(self, ins: list[Any], dtypes: list[np.dtype], types: dict[str, np.dtype]) -> str:
        declared, bound = [], []
        for k, (param, value, dtype) in enumerate(zip(self._ins, ins, dtypes, strict=False)):
            declared.append(_declare(param, dtype, k, value, True))
            if is_device(value) and not param.raw:
                bound.append(f"const {_c(dtype)} &{param.name} = _raw_{param.name}[_o * _m + _J];")
        out, made = self._outs[0], _c(dtypes[-1])
        middle = made if self.reduce_type is None else self._middle(types)
        identity = "" if self.identity is None else self.identity
        return "\n".join(
            [
                *_head(types, dtypes, self.preamble),
                f"typedef {middle} _type_reduce;",
                f"#define REDUCE(a, b) ({self.reduce_expr})",
                f"#define POST_MAP(a) ({self.post_map_expr})",
                'extern "C" int run(void** _args, long long _n, long long _m) {',
                f"const long long* _sizes = (const long long*)_args[{len(self._ins) + 1}];",
                *declared,
                f"{made}* const _raw_{out.name} = ({made}*)_args[{len(self._ins)}];",
                "const _Indexer _in_ind = {_n * _m}, _out_ind = {_n};",
                "_outside = 0;",
                "for (ptrdiff_t _o = 0; _o < _n; ++_o) {",
                f"_type_reduce _s = _type_reduce({identity});",
                "for (ptrdiff_t _J = 0; _J < _m; ++_J) {",
                *bound,
                f"_type_reduce _a = static_cast<_type_reduce>({self.map_expr});",
                "_s = REDUCE(_s, _a); }",
                f"{made} &{out.name} = _raw_{out.name}[_o];",
                "POST_MAP(_s); }",
                "return _outside; }",
                "",
            ]
        )

    def _middle(self, types: dict[str, np.dtype]) -> str:
        """The C++ type to accumulate in: a placeholder, a dtype or what the preamble defines."""
        assert self.reduce_type is not None
        return self.reduce_type if self.reduce_type in types else _C.get(self.reduce_type, self.reduce_type)
