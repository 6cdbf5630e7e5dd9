"""From the command line's --net and --set to a checked configuration, the same on all ranks."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from dnewton.comm.communicator import Comm
from dnewton.config import parse
from dnewton.config.schema import Config
from dnewton.config.shipped_nets import read_net
from dnewton.data.readers import find_part, find_weights
from dnewton.errors import UserError

PARTS = ("train", "test", "validation")
LONGEST = 2 << 20  # bytes of a YAML file; nets have a few hundred, and the parser takes seconds for each million


def read(source: str, comm: Comm) -> tuple[str, str]:
    """The text of a YAML file or a shipped net, read on rank 0, and the folder of its data.

    Raises UserError alike on all ranks. Collective over the world.
    """
    text = folder = ""
    with comm.raise_together():
        if comm.rank == 0:
            _check_file(source)
            text, folder = read_net(source)
    return comm.text_from_root(text), comm.text_from_root(folder)


def _check_file(source: str) -> None:
    """Raise UserError where reading could block indefinitely, or where the file is too long to be a net."""
    try:
        status = os.stat(source)
    except (OSError, ValueError):
        return  # a shipped net, or nothing: read_net knows
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise UserError(f"--net {source}: is not a regular file; write the net into a YAML file")
    if status.st_size > LONGEST:
        raise UserError(
            f"--net {source}: has {status.st_size / 2**20:.1f} MiB, a YAML file with a net has at most "
            f"{LONGEST >> 20}; data files are named in its data section"
        )


def configure(text: str, folder: str, source: str, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """The checked configuration with paths of the data made absolute, and notes for the log. Raises UserError."""
    loaded = parse.load(text, source, list(overrides))
    notes = parse.notes_on(text, source, list(overrides))
    named = {k: v for k in PARTS if (v := getattr(loaded.data, k)) is not None}
    parts = {k: find_part(v, folder) for k, v in named.items()}
    found = {**parts, "weights": find_weights(loaded.data.weights, folder)}
    return loaded.model_copy(update={"data": loaded.data.model_copy(update=found)}), notes
