"""How many samples newton evaluates at a time where `solver.batch_size` is `auto`.

Larger batches need fewer messages: an evaluation sends a few for every batch. What a layer makes of a batch should
still lie near the caches while the next layer reads it, so that the bytes of all layers' outputs, and of the patches
that convolutions copy, are bounded; twice as many where several ranks share them and every batch is messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnewton.config.layer_entry import LayerSpec
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config

BYTES = 32 << 20  # for a batch, of the whole net
SHARED = 2  # times that, where ranks share the net
LEAST, MOST = 1024, 65536


def samples_at_a_time(specs: Sequence[LayerSpec], itemsize: int, ranks: int = 1) -> int:
    """A power of two between LEAST and MOST; on the `ranks` ranks of a replica a multiple of LEAST."""
    numbers = math.prod(specs[0].in_shape) + sum(math.prod(spec.out_shape) for spec in specs)
    for spec in specs:
        if spec.parametric and spec.options.copies_patches:
            numbers += math.prod(spec.out_shape[1:]) * spec.in_shape[0] * spec.kernel_size
    if ranks > 1:
        return min(MOST, max(LEAST, SHARED * BYTES // max(1, numbers * itemsize) // LEAST * LEAST))
    most = BYTES // max(1, numbers * itemsize)
    return min(MOST, max(LEAST, 1 << max(0, most.bit_length() - 1)))


def settled(options: NewtonSection, specs: Sequence[LayerSpec], itemsize: int, ranks: int = 1) -> NewtonSection:
    """The options with a number in the place of `auto`, for the `ranks` ranks of a replica."""
    if options.batch_size != "auto":
        return options
    return options.model_copy(update={"batch_size": samples_at_a_time(specs, itemsize, ranks)})


def with_batch_size(config: Config, specs: Sequence[LayerSpec], ranks: int) -> Config:
    """The configuration of a run, likewise; other methods have a number."""
    if not isinstance(config.solver, NewtonSection):
        return config
    itemsize = 8 if config.parallel.dtype == "float64" else 4
    return config.model_copy(update={"solver": settled(config.solver, specs, itemsize, ranks)})
