"""Where the arrays of the tests live, by the environment variable DNEWTON_TEST_ARRAYS.

`numpy` (the default); `cuda`: CuPy arrays, of the fake CuPy of tests/fake_cuda unless a real one is asked for by
DNEWTON_TEST_CUPY=real; `strict`: array-api-strict's second device, which has nothing but the standard and refuses
silent transfers. Tests make arrays of the host and look at arrays of the host; `put` and `host` stand between them and
the engine.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = os.environ.get("DNEWTON_TEST_ARRAYS", "numpy")
STRAIGHT = os.environ.get("DNEWTON_TEST_BUFFERS") == "straight"  # MPI on device memory; else through the host's
FAKE = Path(__file__).parents[1] / "fake_cuda"
if ARRAYS not in ("numpy", "cuda", "strict"):
    raise ValueError(f"DNEWTON_TEST_ARRAYS={ARRAYS}: numpy, cuda or strict is needed")
if ARRAYS == "cuda" and os.environ.get("DNEWTON_TEST_CUPY") != "real":
    sys.path.insert(0, str(FAKE))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FAKE), os.environ.get("PYTHONPATH")]))

from dnewton.arrays import namespace  # noqa: E402
from dnewton.arrays.namespace import Array, to_device, to_host  # noqa: E402


def _strict(place: int = 0) -> tuple[Array, str, int, str]:
    import array_api_strict as strict

    return strict.zeros(0, dtype=strict.float64, device=strict.Device("device1")), "array-api-strict", 0, "device1"


if ARRAYS == "strict":
    namespace.open_cuda = _strict  # what `parallel.device: cuda` opens in this process


COMPILER = next((c for c in (os.environ.get("CXX", "c++"), "g++", "clang++") if shutil.which(c)), None)  # of the fake
LIKE: Array = np.zeros(0) if ARRAYS == "numpy" else namespace.open_cuda(0)[0]
DEVICE = "cpu" if ARRAYS == "numpy" else "cuda"


def put(values: Any) -> Array:
    """An array of the host where the engine computes in these tests."""
    return to_device(np.asarray(values), LIKE)


def host(array: Any) -> np.ndarray:
    """An array of the engine as NumPy's."""
    return to_host(array) if hasattr(array, "shape") and not isinstance(array, np.generic) else np.asarray(array)


def same(a: Any, b: Any) -> bool:
    """The same numbers, wherever they are."""
    return bool(np.array_equal(host(a), host(b)))


def cast(array: Any, dtype: str) -> Array:
    """An array of the engine with another dtype."""
    return put(host(array).astype(dtype))
