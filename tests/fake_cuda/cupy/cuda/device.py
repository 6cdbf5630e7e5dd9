"""Devices: a number each, current per thread."""

from __future__ import annotations

from cupy.cuda import runtime


class Device:
    """A CUDA device; as a context manager the current one inside."""

    def __init__(self, device: int | Device | None = None) -> None:
        self.id: int = runtime.getDevice() if device is None else int(getattr(device, "id", device))  # type: ignore[arg-type]
        self._before: list[int] = []

    def use(self) -> None:
        runtime.setDevice(self.id)

    def synchronize(self) -> None:
        """Wait for everything on this device."""
        from cupy.cuda.stream import synchronise_device

        synchronise_device(self.id)

    @property
    def mem_info(self) -> tuple[int, int]:
        with self:
            return runtime.memGetInfo()

    @property
    def compute_capability(self) -> str:
        return "80"

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02X}:00.0"

    def __enter__(self) -> Device:
        self._before.append(runtime.getDevice())
        self.use()
        return self

    def __exit__(self, *exc: object) -> None:
        runtime.setDevice(self._before.pop())

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


def get_device_id() -> int:
    return runtime.getDevice()
