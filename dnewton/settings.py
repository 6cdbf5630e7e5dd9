"""From the command line's --net and --set to a checked configuration, alike on all ranks."""

from __future__ import annotations

from collections.abc import Sequence

from dnewton import config_text
from dnewton.comm import Comm
from dnewton.config import Config
from dnewton.data.readers import find_part
from dnewton.nets import read_net

PARTS = ("train", "test", "validation")


def read(source: str, comm: Comm) -> tuple[str, str]:
    """The text of a YAML file or a shipped net, read on rank 0, and the folder of its data.

    Raises UserError alike on all ranks. Collective over the world.
    """
    text = folder = ""
    with comm.together():
        if comm.rank == 0:
            text, folder = read_net(source)
    return comm.text_from_root(text), comm.text_from_root(folder)


def configure(text: str, folder: str, source: str, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """The checked configuration with paths of the data made absolute, and notes for the log. Raises UserError."""
    loaded = config_text.load(text, source, list(overrides))
    unused = config_text.left_out(text, source, list(overrides))
    notes = [f"solver: {loaded.solver.name} does not use newton's {', '.join(unused)}"] if unused else []
    named = {k: v for k in PARTS if (v := getattr(loaded.data, k)) is not None}
    found = {k: find_part(v, folder) for k, v in named.items()}
    return loaded.model_copy(update={"data": loaded.data.model_copy(update=found)}), notes
