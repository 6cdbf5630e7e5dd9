"""What can be checked with the real CuPy and without a GPU: `python tests/arrays/check_real_cupy.py [ARCHITECTURE]`.

Needs cupy-cuda12x, array-api-compat and the wheels nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12. CuPy writes the
source around each kernel of dnewton/arrays/cuda_kernels.py, as it would for arrays, and NVRTC compiles it with CuPy's
headers, for sm_90 unless told; and every function of an array namespace that the package names must be there. Fails
with what is not.
"""

from __future__ import annotations

import ast
import glob
import importlib.util
import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import array_api_compat.cupy as namespace
import cupy
import numpy as np
from cupy._core import _carray, _kernel
from cupy_backends.cuda.libs import nvrtc

HEADERS = ("cuda_workaround.h", "complex.cuh", "carray.cuh", "atomics.cuh", "math_constants.h")  # before every kernel
NUMBERS = {"long long": np.int64, "int": np.int32, "double": np.float64}
PACKAGE = Path(__file__).parents[2] / "dnewton"
NDARRAY, INDEXER, SCALAR = 1, 2, 3  # CuPy's kinds of arguments


def written(source: tuple[str, ...], types: dict[str, np.dtype]) -> str:
    """CuPy's text for an elementwise kernel on contiguous arrays of four dimensions."""
    params = cupy.ElementwiseKernel(*source).params
    infos: list[Any] = []
    for p in params:
        if p.name == "_ind":
            infos.append(_kernel._ArgInfo(INDEXER, _carray.Indexer, None, 4, True, True))
        elif p.ctype in types:
            infos.append(_kernel._ArgInfo(NDARRAY, cupy.ndarray, types[p.ctype], 4, True, True))
        else:
            dtype = np.dtype(NUMBERS[p.ctype])
            infos.append(_kernel._ArgInfo(SCALAR, dtype.type, dtype, 0, True, True))
    used = tuple((name, dtype) for name, dtype in types.items() if any(p.ctype == name for p in params))
    found: str = _kernel._get_elementwise_kernel_code(
        tuple(infos), _kernel._TypeMap(used), params, source[2], source[3], ""
    )
    return found


def compiled(text: str, name: str, architecture: str) -> str:
    """The compiler's complaints, or nothing."""
    own = os.path.join(os.path.dirname(cupy.__file__), "_core", "include")
    wheels = glob.glob(sys.prefix + "/lib/python3*/site-packages/nvidia/*/include")
    folders = [own, *glob.glob(own + "/cupy/_cccl/*"), *wheels]
    before = "".join(f"#include <cupy/{header}>\n" for header in HEADERS)
    program = nvrtc.createProgram(before + text, name + ".cu", (), ())
    try:
        nvrtc.compileProgram(program, ("--std=c++17", f"-arch=sm_{architecture}", *("-I" + f for f in folders)))
    except nvrtc.NVRTCError:
        return str(nvrtc.getProgramLog(program))
    return "" if len(nvrtc.getPTX(program)) else "no code"


def missing() -> list[str]:
    """What the package asks a namespace for and CuPy's has not."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if owner in ("xp", "xp.linalg") or owner.startswith("namespace("):
                    home = namespace.linalg if owner.endswith(".linalg") else namespace
                    if not hasattr(home, node.attr) and node.attr != "Device":  # how array-api-strict's arrays move
                        found.add(f"{path}:{node.lineno}: {owner}.{node.attr}")
    return sorted(found)


def main() -> int:
    spec = importlib.util.spec_from_file_location("kernels", PACKAGE / "arrays" / "cuda_kernels.py")
    assert spec is not None and spec.loader is not None
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    complaints = missing()
    count, architecture = 0, sys.argv[1] if len(sys.argv) > 1 else "90"
    for name, source in vars(kernels).items():
        if name.startswith("_") or not isinstance(source, tuple):
            continue
        codes = ("uint8", "int32") if "U code" in source[0] + source[1] else ("uint8",)
        places = (0, 1 << 31) if "INT" in source[2] else (0,)  # of 32 and of 64 bits
        for numbers, code, most in product(("float32", "float64"), codes, places):
            text = written(kernels.indexed(source, most), {"T": np.dtype(numbers), "U": np.dtype(code)})
            count += 1
            if complaint := compiled(text, name, architecture):
                complaints.append(f"{name}, {numbers}, {code}, {most}: {complaint}")
    end = f"{count} kernels for sm_{architecture}, CuPy {cupy.__version__}: {len(complaints)} complaint(s)"
    print(*complaints, end, sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
