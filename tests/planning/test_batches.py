"""How many samples are evaluated at a time where nobody says it."""

from __future__ import annotations

from typing import Any

import pytest

from dnewton.config import parse, strict_yaml
from dnewton.config.newton import NewtonSection
from dnewton.planning import batches
from dnewton.planning.net_plan import infer_shapes

CONV = {"conv": {"channels": 16, "kernel": 3, "padding": 1}}
NETS: list[tuple[list[int], list[Any], int, int]] = [
    ([2], [{"dense": {"units": 1}}], 8, 65536),
    ([784], [{"dense": {"units": 300}}, {"dense": {"units": 100}}, {"dense": {"units": 10}}], 4, 4096),
    ([1, 4, 4], [CONV, "flatten", {"dense": {"units": 10}}], 4, 8192),
    ([3, 32, 32], [CONV, "global_avgpool"], 4, 1024),
]


@pytest.mark.parametrize(("shape", "layers", "itemsize", "wanted"), NETS)
def test_by_the_size_of_the_layers(shape: list[int], layers: list[Any], itemsize: int, wanted: int) -> None:
    """Outputs and patches of a batch take at most 32 MiB, unless those of 1,024 samples take more."""
    net = parse.load(strict_yaml.dump({"net": {"input": shape, "loss": "squared", "layers": layers}}), "net").net
    specs = infer_shapes(net, "net")
    assert batches.samples_at_a_time(specs, itemsize) == wanted
    shared = batches.samples_at_a_time(specs, itemsize, 2)
    assert 2 * wanted <= shared <= 4 * wanted or shared in (batches.LEAST, batches.MOST)
    assert batches.settled(NewtonSection(), specs, itemsize).batch_size == wanted
    assert batches.settled(NewtonSection(batch_size=7), specs, itemsize).batch_size == 7
