"""The device on which a rank's arrays live: the host, or one GPU of its node."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field

from dnewton.arrays import namespace
from dnewton.arrays.namespace import Array, host, to_device
from dnewton.comm import library
from dnewton.comm.communicator import Comm
from dnewton.comm.device_buffers import straight
from dnewton.errors import UserError, one_line

ELSEWHERE = "or use the cpu"


@dataclass(frozen=True)
class Device:
    """Where a rank computes, and what is known of the place."""

    like: Array = field(default_factory=lambda: host([]))  # an empty array there
    name: str = "cpu"
    sharing: int = 1  # ranks of this job that use the same GPU

    @property
    def is_host(self) -> bool:
        """Whether arrays are NumPy's."""
        return namespace.on_host(self.like)

    def put(self, values: Array) -> Array:
        """An array of the host on the device."""
        return to_device(values, self.like)

    def free_bytes(self) -> float:
        """What this rank may still take of the GPU's memory, with what it holds already."""
        free, held = namespace.cuda_memory() if namespace.on_cuda(self.like) else (1 << 33, 0)
        return free / self.sharing + held

    def peak_bytes(self) -> int:
        """The most that this rank has held of the GPU's memory."""
        return namespace.cuda_memory()[1] if namespace.on_cuda(self.like) else 0

    def release(self) -> None:
        """Give back what no array uses; the peak is counted from here on."""
        if namespace.on_cuda(self.like):
            namespace.release_cuda()

    def synchronize(self) -> None:
        """Wait for what has been begun there."""
        namespace.synchronize(self.like)


HOST = Device()


def open_device(kind: str, buffers: str, comm: Comm, asked: str, computes: bool = True) -> tuple[Device, list[str]]:
    """The device of this rank, cpu or cuda, and lines for the log; arrays then reach MPI as `buffers` says. `asked` is
    the user's word for it in messages. A rank that does not compute, as a server, takes no GPU.

    Raises UserError alike on all ranks. Collective over the world.
    """
    if kind == "cpu":
        return HOST, []
    with comm.raise_together():
        like, name, number, identity = _open(comm.place_on_node, asked) if computes else (HOST.like, "", 0, "")
    sharing = comm.node_sharing(zlib.crc32(identity.encode()) if computes else -1)
    device = Device(like, name, sharing) if computes else HOST
    most = int(comm.minmax(float(device.sharing))[1])
    where = f"device: {name} (GPU {number} on this node)"
    if not comm.uses_mpi:
        return device, [where]
    passed, why = straight(buffers, os.environ, library.version(), library.takes_device_memory)
    comm.buffers.straight = passed = comm.minmax(float(passed))[0] == 1.0
    way = "from its memory" if passed else "through the host's memory"
    notes = [f"{where}; messages {way} ({why})"]
    if most > 1:
        notes.append(
            f"warning: {most} ranks share a GPU and wait for each other there; start as many ranks on a node as it has "
            "GPUs"
        )
    return device, notes


def _open(place: int, asked: str) -> tuple[Array, str, int, str]:
    try:
        return namespace.open_cuda(place)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        why = "CuPy is not installed" if missing else f"CuPy does not work ({one_line(error)})"
        raise UserError(
            f"{asked}: {why}; pip install 'cupy-cuda12x[ctk]' (or 'cupy-cuda13x[ctk]', by the CUDA version that "
            f"nvidia-smi shows), {ELSEWHERE}"
        ) from None
    except MemoryError as error:
        raise UserError(f"{asked}: its GPU is full ({one_line(error)}); see nvidia-smi, {ELSEWHERE}") from None
    except RuntimeError as error:
        raise UserError(
            f"{asked}: CuPy finds no GPU ({one_line(error)}); start on a node where nvidia-smi "
            f"lists one (Slurm: --gpus-per-node), see to CUDA_VISIBLE_DEVICES, {ELSEWHERE}"
        ) from None
