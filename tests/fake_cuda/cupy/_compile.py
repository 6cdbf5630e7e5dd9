"""C++ text to a callable: compiled once per text into a folder that processes share, loaded by ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from cupy import _fake
from cupy.cuda.compiler import CompileException

_FLAGS = ["-O1", "-shared", "-fPIC", "-std=c++17", "-fno-builtin", "-w"]
_loaded: dict[str, Any] = {}


def load(source: str, options: tuple[str, ...] = ()) -> Any:
    """The function `run` of a C++ text. NVRTC's `options` are not the host compiler's and only tell texts apart."""
    key = source + repr(options)
    if key not in _loaded:
        _loaded[key] = _build(source)
    return _loaded[key]


def _build(source: str) -> Any:
    compiler = _fake.compiler()
    if compiler is None:
        raise CompileException("the fake CuPy runs kernels through a C++ compiler; none of c++, g++, clang++ was found")
    text = "\0".join([compiler, *_FLAGS, source])
    folder = Path(tempfile.gettempdir()) / f"fake-cuda-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{hashlib.sha256(text.encode()).hexdigest()}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            code, made = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
            code.write_text(source)
            done = subprocess.run(
                [compiler, *_FLAGS, str(code), "-o", str(made), "-lm"], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise CompileException(f"the kernel does not compile:\n{done.stderr}\n{source}")
            os.replace(made, library)
    function = ctypes.CDLL(str(library)).run
    function.restype = ctypes.c_int
    function.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_longlong, ctypes.c_longlong]
    return function
