"""CIFAR's python batches, which are serialised Python objects, read without running anything they name.

The opcodes are interpreted by a small machine that knows dictionaries, lists, tuples, strings, numbers and the one
pattern by which NumPy writes an array of bytes; anything else is refused.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnewton.data.file_kinds import guard, open_bytes
from dnewton.data.format_register import FORMATS, Format, opened_by_each
from dnewton.data.sources import Source, from_arrays
from dnewton.errors import UserError, one_line

_ARRAY = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
_BUFFER = {("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")}  # since protocol 5
_TYPE = ("numpy", "dtype")
_KNOWN = _ARRAY | _BUFFER | {_TYPE, ("numpy", "ndarray"), ("_codecs", "encode")}
_VALUES = {
    "BINSTRING",
    "SHORT_BINSTRING",
    "STRING",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "UNICODE",
    "BINBYTES",
    "BINBYTES8",
    "SHORT_BINBYTES",
    "BYTEARRAY8",
    "BININT",
    "BININT1",
    "BININT2",
    "INT",
    "LONG1",
    "LONG",
    "BINFLOAT",
    "BINUNICODE8",
}


@dataclass
class _Array:
    """An array that its state has not been given to yet."""

    values: Any = None


@dataclass(frozen=True)
class _Type:
    code: str


def read_batch(data: bytes, path: str) -> tuple[Any, Any]:
    """The images (N, 3072) and labels of a batch. Raises UserError when it is anything else."""
    try:
        batch = _run(data)
        if not isinstance(batch, dict):
            raise ValueError("it is no dictionary")
        batch = {_text(k): v for k, v in batch.items()}
        x = batch["data"]
        key, classes = ("labels", 10) if "labels" in batch else ("fine_labels", 100)
        labels = batch[key]
        if not isinstance(labels, list) or not all(type(v) is int and 0 <= v < classes for v in labels):
            raise ValueError(f"its {key} are not a list of numbers from 0 to {classes - 1}")
        y = np.array(labels, dtype=np.int64)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: not a CIFAR python batch: {one_line(error)}") from None
    if not isinstance(x, _Array) or x.values is None or x.values.ndim != 2 or x.values.shape[1] != 3072:
        raise UserError(f"{path}: not a CIFAR python batch: its data are not [samples, 3072] bytes")
    if y.shape != (len(x.values),) or not len(y):
        raise UserError(f"{path}: has {len(x.values)} images and {y.size} labels")
    return x.values, y


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def to_mark() -> list[Any]:
        at = marks.pop()
        items = stack[at:]
        del stack[at:]
        return items

    for opcode, argument, position in pickletools.genops(data):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name in ("PROTO", "FRAME"):
            continue
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(_known(tuple(str(argument).split(" ", 1))))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(_known((module, attribute)))
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name == "TUPLE":
            stack.append(tuple(to_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "APPENDS":
            items = to_mark()
            stack[-1].extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            items = to_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(str(argument))] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(str(argument))])
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_reduce(function, arguments))
        elif name == "BUILD":
            state = stack.pop()
            _build(stack[-1], state)
        elif name == "STOP":
            return stack.pop()
        else:
            raise ValueError(f"byte {position}: {name} is not expected in it")
    raise ValueError("it is cut short")


def _known(name: Any) -> Any:
    if name not in _KNOWN:
        raise ValueError(f"it names {'.'.join(map(str, name))}, which no such batch needs")
    return name


def _reduce(function: Any, arguments: Any) -> Any:
    if function in _ARRAY:
        return _Array()
    if function in _BUFFER:
        content, kind, shape, order = arguments
        array = _Array()
        _build(array, (1, shape, kind, order == "F", bytes(content)))
        return array
    if function == _TYPE:
        return _Type(_text(arguments[0]))
    if function == ("_codecs", "encode"):  # Python 3 writes Python 2's strings this way
        return str(arguments[0]).encode("latin-1")
    raise ValueError("it calls something that no such batch needs")


def _build(target: Any, state: Any) -> None:
    if isinstance(target, _Type):
        return  # byte order and alignment: of no concern for single bytes
    if not isinstance(target, _Array):
        raise ValueError("it gives a state to something that is no array")
    _, shape, kind, fortran, content = state
    if not isinstance(kind, _Type) or kind.code not in ("u1", "|u1"):
        raise ValueError("its data are not bytes")
    raw = content.encode("latin-1") if isinstance(content, str) else content
    values = np.frombuffer(raw, dtype=np.uint8)
    target.values = values.reshape(shape, order="F" if fortran else "C")


def open_batch(path: str) -> Source:
    """A CIFAR python batch."""
    with guard(path), open_bytes(path) as file:
        x, y = read_batch(file.read(), path)
    return from_arrays(path, x.reshape(len(x), 3, 32, 32), y)


def _is_batch(head: bytes, path: str) -> bool:
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


FORMATS.add("CIFAR batch")(
    Format("a CIFAR-10 python batch", _is_batch, opened_by_each(lambda path, _: open_batch(path)), packed=True)
)
