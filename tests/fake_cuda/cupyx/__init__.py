"""`cupyx` of the fake: error state, pinned memory, atomics."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cupy import _fake
from cupy.cuda import pinned_memory
from cupy.cuda.pinned_memory import PinnedArray


class _State(threading.local):
    linalg = "ignore"


_state = _State()


def seterr(
    *, divide: Any = None, over: Any = None, under: Any = None, invalid: Any = None, linalg: str | None = None
) -> dict[str, Any]:
    """Only `linalg` can be set, as in CuPy."""
    before = geterr()
    if any(x is not None for x in (divide, over, under, invalid)) or linalg not in (None, "ignore", "raise"):
        raise NotImplementedError
    if linalg is not None:
        _state.linalg = linalg
    return before


def geterr() -> dict[str, Any]:
    return {"divide": None, "over": None, "under": None, "invalid": None, "linalg": _state.linalg}


@contextmanager
def errstate(
    *, divide: Any = None, over: Any = None, under: Any = None, invalid: Any = None, linalg: str | None = None
) -> Iterator[None]:
    """With linalg="raise" a singular matrix is a LinAlgError, and every linalg call synchronises."""
    before = seterr(divide=divide, over=over, under=under, invalid=invalid, linalg=linalg)
    try:
        yield
    finally:
        seterr(**before)


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> PinnedArray:
    made = pinned_memory.empty(shape, dtype, order)
    _fake.garbage(made)
    return made


def zeros_pinned(shape: Any, dtype: Any = float, order: str = "C") -> PinnedArray:
    made = pinned_memory.empty(shape, dtype, order)
    made.fill(0)
    return made


def empty_like_pinned(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> PinnedArray:
    return empty_pinned(a.shape if shape is None else shape, dtype or a.dtype)


def scatter_add(a: Any, slices: Any, value: Any) -> None:
    """`np.add.at`."""
    a.scatter_add(slices, value)
