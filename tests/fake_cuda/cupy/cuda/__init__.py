"""`cupy.cuda` of the fake."""

from cupy.cuda import compiler, device, memory, pinned_memory, runtime, stream
from cupy.cuda.device import Device, get_device_id
from cupy.cuda.memory import MemoryPool
from cupy.cuda.pinned_memory import PinnedMemoryPool
from cupy.cuda.stream import Event, Stream, get_current_stream

__all__ = [
    "Device",
    "Event",
    "MemoryPool",
    "PinnedMemoryPool",
    "Stream",
    "compiler",
    "device",
    "get_current_stream",
    "get_device_id",
    "is_available",
    "memory",
    "pinned_memory",
    "runtime",
    "stream",
]


def is_available() -> bool:
    try:
        return runtime.getDeviceCount() > 0
    except runtime.CUDARuntimeError:
        return False
