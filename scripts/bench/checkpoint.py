#!/usr/bin/env python3
"""What a checkpoint of a net of 50 million weights costs, against the disk's own speed and two other ways to write it.

    OMP_NUM_THREADS=1 mpirun -np 4 python scripts/bench/checkpoint.py [--folder DIR] [--rounds 3]

The state of the Newton solver: θ and the previous step, float32. Interleaved, medians of the slowest rank:

    disk        rank 0 writes as many bytes in pieces of 4 MiB and syncs, as dd conv=fsync does
    rows        as shipped: every rank writes its rows into one file, with checksums, synced
    MPI-IO      the same file by one collective write of subarrays
    shards      every rank writes its blocks one after another into a file of its own, synced
    read back   as --resume does: every rank its blocks, checksums compared
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dnewton.comm import library
from dnewton.comm.communicator import Comm
from dnewton.config.schema import Config
from dnewton.model.network import Network
from dnewton.planning import grid_search
from dnewton.planning.grid_search import Workload
from dnewton.planning.net_plan import infer_shapes
from dnewton.storage import tensors
from dnewton.storage.tensors import Contents

MPI = library.mpi()
WIDTHS = (6000, 4000, 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="checkpoint-bench", help="on the disk to be measured")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    comm = Comm.world()
    layers = [{"dense": {"units": n}} for n in WIDTHS]
    config = Config.model_validate({"net": {"input": [4000], "loss": "squared", "layers": layers}})
    shapes = infer_shapes(config.net, "net")
    plan = grid_search.choose(shapes, comm.size, Workload(1000, 100, WIDTHS[-1]))
    network = Network(plan, comm.on_grid(plan.grid))
    draw = np.random.default_rng(comm.rank)
    vectors = {name: draw.standard_normal(network.size, dtype=np.float32) for name in ("", "previous.")}
    contents, folder = Contents(vectors, {}), Path(args.folder)
    if comm.rank == 0:
        folder.mkdir()
    comm.barrier()
    whole = str(folder / "state.safetensors")
    total = tensors.size(network, contents, 1)
    known: dict[str, int] = {}

    def disk() -> None:
        if comm.rank == 0:
            piece = np.ones(1 << 22, dtype=np.uint8)
            with open(folder / "plain", "wb") as file:
                for _ in range(-(-total // len(piece))):
                    file.write(piece.data)
                file.flush()
                os.fsync(file.fileno())

    def rows() -> None:
        known.update(tensors.save(whole, network, contents, comm).checksums)

    def collective() -> None:
        places, blocks = [], []
        offset = 0
        for vector in vectors.values():
            for block in network.blocks:
                shape = block.weight_shape
                if block.weights:
                    flat = np.ascontiguousarray(block.to_file_order(block.weight(vector)))
                    place = MPI.FLOAT.Create_subarray(shape, flat.shape, (block.out[0], block.inputs[0]))
                    places.append((offset, place))
                    blocks.append(flat.reshape(flat.size))
                offset += 4 * int(np.prod(shape))
        view = MPI.Datatype.Create_struct([1] * len(places), [o for o, _ in places], [t for _, t in places]).Commit()
        data = np.concatenate(blocks)
        file = MPI.File.Open(MPI.COMM_WORLD, str(folder / "collective"), MPI.MODE_CREATE | MPI.MODE_WRONLY)
        file.Set_view(0, MPI.FLOAT, view)
        file.Write_all([data, MPI.FLOAT])
        file.Sync()
        file.Close()

    def shards() -> None:
        with open(folder / f"shard-{comm.rank}", "wb") as file:
            for vector in vectors.values():
                for block in network.blocks:
                    file.write(np.ascontiguousarray(block.to_file_order(block.weight(vector))).data)
            file.flush()
            os.fsync(file.fileno())

    def read() -> None:
        sums: dict[str, int] = {}
        for name in vectors:
            tensors.load(whole, network, "float32", name, sums)
        found = comm.allreduce(np.array([sums.get(name, 0) for name in sorted(known)], dtype=np.uint64))
        assert [int(n) for n in found] == [known[name] for name in sorted(known)]

    sides: dict[str, Callable[[], None]] = {
        "disk": disk,
        "rows": rows,
        "MPI-IO": collective,
        "shards": shards,
        "read back": read,
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            comm.barrier()
            began = time.perf_counter()
            side()
            times[name].append(comm.minmax(time.perf_counter() - began)[1])
            comm.barrier()
            if comm.rank == 0 and name not in ("rows",):
                for path in folder.iterdir():
                    if path.name != "state.safetensors":
                        path.unlink()
    if comm.rank == 0:
        print(f"{comm.size} rank(s), {total / 2**20:.0f} MiB")
        for name, found in times.items():
            median = statistics.median(found)
            print(f"{name:10s} {median:7.3f} s  {total / 2**20 / median:7.0f} MiB/s")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
