"""The one wrapper over mpi4py: groups of the grid, counted collectives, agreement, abort on error.

Every collective is counted under the current phase: calls, payload bytes that this rank passes in, and seconds.
The communicator is duplicated once at start; COMM_WORLD is named here and nowhere else. MPI is loaded by the first
communicator that needs it: :meth:`Comm.alone` needs none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np

from dnewton.arrays.namespace import Array, contiguous, empty, itemsize, namespace, nbytes, on_host
from dnewton.comm import library, place, riders, texts, waiting
from dnewton.comm.alone import Alone, Names
from dnewton.comm.device_buffers import DeviceBuffers
from dnewton.comm.stop_hooks import StopHooks
from dnewton.comm.traffic import Ledger
from dnewton.errors import UserError, one_line
from dnewton.grid import Grid, Group, runs

MESSAGE_BYTES = 4 << 20  # longer messages are cut: faster (scripts/bench/overlap.py), and counts stay under 2³¹


class Comm:
    """One rank's view of the job: its place on the grid and the collectives it may call."""

    def __init__(self, mpi: Any, grid: Grid | None = None, yield_when_idle: bool = False) -> None:
        """Collective over `mpi`, an mpi4py intracommunicator that from now on belongs to this object, or an Alone.

        `yield_when_idle`: there are more ranks than cores, so waiting yields the core instead of spinning on it.
        """
        self._mpi = mpi
        self.uses_mpi = not isinstance(mpi, Alone)
        self._lib: Any = library.mpi() if self.uses_mpi else Names  # for its constants
        self._made: list[Any] = []  # communicators to be freed, of this object and all derived from it
        self.yield_when_idle = yield_when_idle
        self.place_on_node = 0
        self.ranks_on_node = 1
        self.cores = 1.0
        self.least_cores = 1.0
        self.rank: int = mpi.Get_rank()
        self.size: int = mpi.Get_size()
        self.ledger = Ledger()
        self.buffers = DeviceBuffers()
        self.stops = StopHooks()
        self.grid = grid or Grid(1, self.size)
        if self.grid.size != self.size:
            raise ValueError(f"grid {self.grid} does not have {self.size} ranks")
        r, c = divmod(self.rank, self.grid.cols)
        self._groups: dict[Group, Any] = {
            "world": mpi,
            "row": self._group("row", r, c),
            "column": self._group("column", c, r),
        }

    def _group(self, name: Group, color: int, key: int) -> Any:
        if self.grid.ranks_in(name) in (1, self.size):
            return self._mpi
        self._made.append(self._mpi.Split(color, key))
        self._made[-1].Set_name(f"{self._mpi.Get_name()} {name} {color}")
        return self._made[-1]

    @classmethod
    def world(cls) -> Comm:
        """The whole job. Collective over all processes. Raises UserError where there is no MPI library."""
        return cls.of(library.mpi().COMM_WORLD)

    @classmethod
    def alone(cls) -> Comm:
        """This process by itself, without an MPI library."""
        return cls.of(Alone())

    @classmethod
    def of(cls, mpi: Any) -> Comm:
        """The ranks of any mpi4py intracommunicator, which is duplicated and stays its owner's. Collective over it."""
        comm = cls(mpi.Dup())
        comm._made.append(comm._mpi)
        comm._mpi.Set_name("world")
        comm.place_on_node, comm.ranks_on_node, comm.cores = place.on_node(comm._mpi, comm._lib.COMM_TYPE_SHARED)
        comm.least_cores = comm.minmax(comm.cores)[0]
        comm.yield_when_idle = comm.least_cores < 1.0
        comm.ledger = Ledger()
        return comm

    def on_grid(self, grid: Grid) -> Comm:
        """The same ranks arranged on a grid, with a ledger shared with this object. Collective over the ranks."""
        return self._shared(Comm(self._mpi, grid, self.yield_when_idle))

    def split(self, color: int) -> Comm:
        """The ranks that pass the same `color`, in rank order, with this object's ledger. Collective over the ranks."""
        part = Comm(self._mpi.Split(color, self.rank), yield_when_idle=self.yield_when_idle)
        part._made.append(part._mpi)
        part._mpi.Set_name(f"{self._mpi.Get_name()} part {color}")
        return self._shared(part)

    def _shared(self, other: Comm) -> Comm:
        self._adopt(other)
        other.ledger = self.ledger
        other.stops = self.stops
        other.buffers = self.buffers
        other.place_on_node = self.place_on_node
        other.ranks_on_node = self.ranks_on_node
        other.cores = self.cores
        other.least_cores = self.least_cores
        return other

    def dup(self) -> Comm:
        """The same ranks with a communicator and a ledger of their own. Collective over the ranks."""
        other = Comm(self._mpi.Dup(), yield_when_idle=self.yield_when_idle)
        other._made.append(other._mpi)
        return self._adopt(other)

    def _adopt(self, other: Comm) -> Comm:
        self._made.extend(other._made)
        other._made = self._made
        return other

    def free(self) -> None:
        """Give back the communicators of :meth:`world` or :meth:`of` and of all objects that were made of it, which
        cannot be used any more: MPI libraries have about 2,000 communicators. Collective over the ranks."""
        while self._made:
            self._made.pop().Free()

    def _collective(self, mpi: Any, name: str, *args: Any, **options: Any) -> None:
        """A collective of `mpi` by its blocking name, begun and then waited for: see :meth:`wait`."""
        size = waiting.size_of(args)
        if self.ledger.trace is None:
            self.wait(getattr(mpi, "I" + name.lower())(*args, **options), size)
            return
        with self.ledger.trace.collective(mpi, name):
            self.wait(getattr(mpi, "I" + name.lower())(*args, **options), size)

    def wait(self, request: Any, size: int = 0) -> None:
        """Complete a request about a message of `size` bytes, see :func:`dnewton.comm.waiting.complete`."""
        waiting.complete(request, self.stops, self.yield_when_idle, size)

    # --- phases and counting ------------------------------------------------------------------------------------

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Count and time everything inside under `name`; phases may nest, the innermost counts."""
        return self.ledger.timed(name)

    @contextmanager
    def _counted(self, nbytes: int, name: str | None = None) -> Iterator[None]:
        entry = self.ledger[name or self.ledger.phase]
        start = time.perf_counter()
        yield
        entry.calls += 1
        entry.bytes += nbytes
        entry.seconds += time.perf_counter() - start

    # --- arrays -------------------------------------------------------------------------------------------------

    def allreduce(self, array: Array, group: Group = "world") -> Array:
        """Sum over the ranks of `group`, in place where the array is contiguous. Collective over `group`."""
        if self.grid.ranks_in(group) == 1:
            return array
        with self._counted(nbytes(array)):
            buffer = self.buffers.out(array)
            flat = buffer.reshape(buffer.size)
            step = max(1, MESSAGE_BYTES // buffer.itemsize)
            for part in runs(flat.size, step) or [slice(0, 0)]:  # nobody stays away from a sum of nothing
                self._collective(self._groups[group], "Allreduce", self._lib.IN_PLACE, flat[part])
            return self.buffers.back(buffer, array, in_place=True)

    def reduce(self, array: Array, root: int) -> Array:
        """Sum over the ranks, in place where the array is contiguous, on rank `root`; the others' arrays stay as they
        are. Collective over the world."""
        if self.size == 1:
            return array
        with self._counted(nbytes(array)):
            buffer = self.buffers.out(array)
            flat = buffer.reshape(buffer.size)
            for part in runs(flat.size, max(1, MESSAGE_BYTES // buffer.itemsize)) or [slice(0, 0)]:
                here = flat[part]
                ends = (self._lib.IN_PLACE, here) if self.rank == root else (here, None)
                self._collective(self._mpi, "Reduce", *ends, root=root)
            return self.buffers.back(buffer, array, in_place=True) if self.rank == root else array

    def gather_features(self, array: Array, group: Group, widths: Sequence[int]) -> Array:
        """Concatenate slices along the last axis, rank j of `group` holding `widths[j]`. Collective over `group`."""
        if self.grid.ranks_in(group) == 1:
            return array
        lead = tuple(array.shape[:-1])
        total = sum(widths)
        xp = namespace(array)
        rows = math.prod(lead)
        step = max(1, MESSAGE_BYTES // max(1, total * itemsize(array)))
        with self._counted(nbytes(array)):
            flat = xp.reshape(array, (rows, array.shape[-1]))
            out = empty((rows, total), array)
            parts = runs(rows, step) or [slice(0, 0)]
            # Features first: slices then lie one after another. On a host one message at a time stays in cache; on a
            # device all are prepared first, so that it is waited for once.
            for some in [[part] for part in parts] if on_host(array) else [parts]:
                transposed = [xp.reshape(flat[part, :].T, (-1,)) for part in some]
                numbers = sum(part.stop - part.start for part in some)
                whole, start = self.buffers.room(numbers * total, array), 0
                sent = self.buffers.out(transposed[0] if len(transposed) == 1 else xp.concat(transposed))
                for part in some:
                    n = part.stop - part.start
                    local_rows = sent[start * flat.shape[1] : (start + n) * flat.shape[1]]
                    every = whole[start * total : (start + n) * total]
                    self._collective(self._groups[group], "Allgatherv", local_rows, [every, [w * n for w in widths]])
                    start += n
                whole, start = self.buffers.back(whole, array), 0
                for part in some:
                    n = part.stop - part.start
                    out[part, :] = xp.reshape(whole[start * total : (start + n) * total], (total, n)).T
                    start += n
        return xp.reshape(out, (*lead, total))

    def concatenate(self, array: Array) -> Array:
        """The rows of every rank in rank order, on every rank. Collective over the world."""
        if self.size == 1:
            return contiguous(array)
        with self._counted(nbytes(array)):
            counts = np.empty(self.size, dtype=np.int64)
            self._collective(self._mpi, "Allgather", np.array([array.shape[0]], dtype=np.int64), counts)
            out = self.buffers.room((int(counts.sum()), *array.shape[1:]), array)
            local_rows = self.buffers.out(array)
            row = self._lib.BYTE.Create_contiguous(math.prod(out.shape[1:]) * out.itemsize).Commit()
            self._collective(
                self._mpi, "Allgatherv", [_bytes(local_rows), len(local_rows), row], [_bytes(out), counts, row]
            )
            row.Free()
            return self.buffers.back(out, array)

    def alltoall(self, parts: Sequence[Array]) -> list[Array]:
        """Give `parts[r]` to rank r; returns, flat, what each rank gave to this one. All parts of all ranks have one
        dtype. Collective over the world."""
        flat = [namespace(p).reshape(p, (-1,)) for p in parts]
        if self.size == 1:
            return [contiguous(flat[0])]
        given = np.array([nbytes(p) for p in parts], dtype=np.int64)
        received = np.empty_like(given)
        with self._counted(int(given.sum())):
            self._collective(self._mpi, "Alltoall", given, received)
            out = self.buffers.room(int(received.sum()) // itemsize(flat[0]), flat[0])
            sent = self.buffers.out(namespace(flat[0]).concat(flat))
            self._collective(
                self._mpi, "Alltoallv", [_bytes(sent), given, self._lib.BYTE], [_bytes(out), received, self._lib.BYTE]
            )
            out = self.buffers.back(out, flat[0])
        ends = [int(n) for n in np.cumsum(received) // sent.itemsize]
        return [out[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def bcast(self, array: Array, root: int = 0) -> Array:
        """One rank's array on every rank, in place where it is contiguous. Collective over the world."""
        if self.size == 1:
            return contiguous(array)
        with self._counted(nbytes(array) if self.rank == root else 0):
            buffer = self.buffers.out(array)
            self._collective(self._mpi, "Bcast", _bytes(buffer), root=root)
            return self.buffers.back(buffer, array, in_place=True)

    # --- point to point ---------------------------------------------------------------------------------------------

    def send(self, array: Array, to: int, tag: int) -> Any:
        """Begin to send a contiguous array, which must stay as it is until the request has been waited for."""
        with self._counted(array.nbytes):
            return self._mpi.Isend(array, to, tag)

    def receive(self, array: Array, source: int, tag: int) -> None:
        """Receive into a contiguous array from one rank."""
        with self._counted(0):
            self.wait(self._mpi.Irecv(array, source, tag), array.nbytes)

    def arrived(self, source: int | None = None, tag: int | None = None) -> tuple[int, int] | None:
        """Sender and tag of a message that can be received now, of any rank and tag by default; never waits."""
        status = self._lib.Status()
        sender = self._lib.ANY_SOURCE if source is None else source
        kind = self._lib.ANY_TAG if tag is None else tag
        waiting = self._mpi.Iprobe(sender, kind, status)
        return (int(status.Get_source()), int(status.Get_tag())) if waiting else None

    # --- scalars: every rank gets the same bits ---------------------------------------------------------------------

    def sum_scalars(self, values: Sequence[float]) -> list[float]:
        """Element-wise float64 sums in rank order, so bit-identical on all ranks. Collective over the world."""
        buffer = np.array(values, dtype=np.float64)
        if self.size > 1:
            with self._counted(buffer.nbytes):
                every = np.empty((self.size, buffer.size))
                self._collective(self._mpi, "Allgather", buffer, every)
                buffer = every.sum(axis=0)
        return [float(v) for v in buffer]

    def reduce_with(self, array: Array, values: Sequence[float]) -> tuple[Array, list[float]]:
        """What :meth:`reduce` and :meth:`sum_scalars` give, in one message; right on rank 0 only. Collective over the
        world."""
        return riders.reduce(self, array, values)

    def bcast_scalars(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values on every rank. Collective over the world."""
        return [float(v) for v in self.bcast(np.array(values, dtype=np.float64))]

    def gather_to_root(self, values: Sequence[float]) -> np.ndarray[Any, Any]:
        """Every rank's values as (ranks, values) on rank 0; other ranks get their own. Collective over the world."""
        buffer = np.array(values, dtype=np.float64)
        if self.size == 1:
            return buffer[None]
        every = np.empty((self.size, buffer.size)) if self.rank == 0 else buffer[None]
        with self._counted(buffer.nbytes):
            self._collective(self._mpi, "Gather", buffer, every if self.rank == 0 else None, root=0)
        return every

    def minmax(self, value: float) -> tuple[float, float]:
        """Smallest and largest of a number over the ranks, the same on all. Collective over the world."""
        buffer = np.array([-value, value], dtype=np.float64)
        if self.size > 1:
            with self._counted(buffer.nbytes):
                self._collective(self._mpi, "Allreduce", self._lib.IN_PLACE, buffer, op=self._lib.MAX)
        return -float(buffer[0]), float(buffer[1])

    def text_from_root(self, text: str | None) -> str:
        """Rank 0's text on every rank. Collective over the world."""
        return self._text_from(text or "", 0)

    def _text_from(self, text: str, root: int) -> str:
        bcast = partial(self._collective, self._mpi, "Bcast", root=root)
        return texts.broadcast(text if self.rank == root else None, bcast)

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """A UserError of one rank inside becomes the same UserError on all ranks. Collective over the world.

        The body must not communicate: a rank that fails leaves it early.
        """
        message: str | None = None
        try:
            yield
        except UserError as error:
            message = str(error)
        except BrokenPipeError:
            if self.size == 1:  # who read the output has gone, and needs no more
                raise
            message = "standard output is closed"
        except (OSError, MemoryError) as error:
            message = one_line(error) or type(error).__name__
        failed = np.array([self.rank if message is not None else self.size], dtype=np.int64)
        self._collective(self._mpi, "Allreduce", self._lib.IN_PLACE, failed, op=self._lib.MIN)
        if failed[0] < self.size:
            raise UserError(self._text_from(message or "", int(failed[0])))

    def abort(self, code: int = 1) -> None:
        """End the whole job at once; any rank may call it."""
        self._mpi.Abort(code)

    def begin_max(self, values: Array, largest: Array) -> Any:
        """Begin to find the element-wise maximum over the ranks, in `largest`; returns the request. Collective."""
        return self._mpi.Iallreduce(values, largest, op=self._lib.MAX)

    def barrier(self) -> None:
        """Wait for all. Collective over the world."""
        self._collective(self._mpi, "Barrier")

    # --- machine ----------------------------------------------------------------------------------------------------

    def array_from_root(self, array: Array | None) -> Array:
        """Rank 0's array of numbers of the host on every rank. Collective over the world."""
        about = "" if array is None else f"{array.dtype.str} {' '.join(map(str, array.shape))}"
        dtype, *shape = self.text_from_root(about).split()
        return self.bcast(np.empty([int(n) for n in shape], dtype=dtype) if self.rank else array)

    def node_sharing(self, number: int) -> int:
        """How many ranks of this node pass the same number. Collective over the world."""
        return place.sharing(self._mpi, self._lib.COMM_TYPE_SHARED, number)


def _bytes(array: Array) -> Array:
    return array.reshape(array.size).view(np.uint8)
