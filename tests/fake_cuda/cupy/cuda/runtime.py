"""The part of the CUDA runtime API that programs ask: how many devices, which, and how much memory."""

from __future__ import annotations

import os
import threading
from typing import Any

_ERRORS = {
    2: "cudaErrorMemoryAllocation: out of memory",
    100: "cudaErrorNoDevice: no CUDA-capable device is detected",
    101: "cudaErrorInvalidDevice: invalid device ordinal",
}
_MEMORY = 16 << 30
is_hip = False


class CUDARuntimeError(RuntimeError):
    """As CuPy's: the text names the CUDA error, `status` is its number."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(_ERRORS.get(status, f"cudaErrorUnknown: {status}"))


class _Current(threading.local):
    device = 0


_current = _Current()


def getDeviceCount() -> int:
    """FAKE_CUDA_DEVICES (2 unless told); none is an error, as in CUDA."""
    count = int(os.environ.get("FAKE_CUDA_DEVICES", "2"))
    if count < 1:
        raise CUDARuntimeError(100)
    return count


def getDevice() -> int:
    getDeviceCount()
    return _current.device


def setDevice(device: int) -> None:
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError(101)
    _current.device = device


def getDeviceProperties(device: int) -> dict[str, Any]:
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError(101)
    return {
        "name": b"Fake GPU",
        "totalGlobalMem": _total(),
        "major": 8,
        "minor": 0,
        "multiProcessorCount": 1,
        "warpSize": 32,
        "pciBusID": device,
        "uuid": bytes([device]) * 16,
    }


def deviceGetPCIBusId(device: int) -> str:
    if not 0 <= device < getDeviceCount():
        raise CUDARuntimeError(101)
    return f"0000:{device:02x}:00.0"


def deviceSynchronize() -> None:
    from cupy.cuda.device import Device

    Device().synchronize()


def memGetInfo() -> tuple[int, int]:
    """Free and total bytes of the current device; this process's pool is all that is taken."""
    from cupy.cuda.memory import pool

    getDeviceCount()
    return max(0, _total() - pool.total_bytes()), _total()


def runtimeGetVersion() -> int:
    return 12090


def driverGetVersion() -> int:
    return 12090


def _total() -> int:
    return int(os.environ.get("FAKE_CUDA_MEMORY", str(_MEMORY)))
