"""Who owns what of each layer's weights, as the run laid them out: a table and a picture for each layer."""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.config import parse
from dnewton.errors import UserError
from dnewton.grid import KINDS, Grid
from dnewton.model.block import blocks_of
from dnewton.planning.grid_search import Workload, fixed
from dnewton.planning.net_plan import NetPlan, infer_shapes
from dnewton.reporting import marks
from dnewton.reporting.line_chart import picture
from dnewton.reporting.runs import Run

SIDE = 138.0  # of a layer's square
GAP = 24.0
LABELLED = 144  # blocks with their ranks written into them, at most
DRAWN = 1024  # blocks with a tooltip, at most


@dataclass(frozen=True)
class Block:
    """W[outputs, inputs] of one rank, in channels or features."""

    rank: int
    outputs: tuple[int, int]
    inputs: tuple[int, int]
    weights: int  # numbers, without biases


@dataclass(frozen=True)
class LayerBlocks:
    """A layer's weights, cut into blocks."""

    name: str
    kind: str
    split: str
    outputs: int
    inputs: int
    blocks: tuple[Block, ...]

    @property
    def weights(self) -> int:
        """Numbers of the whole layer, without biases."""
        return sum(block.weights for block in self.blocks)


def layout_of(run: Run) -> tuple[Grid, list[LayerBlocks]] | None:
    """The grid of a replica and its layers' blocks, from config.yaml and what log.txt says of grid and splits; None
    where they do not say it."""
    if run.facts.grid is None or not run.facts.layers:
        return None
    try:
        specs = infer_shapes(parse.load(run.config_text, "config.yaml").net)
    except UserError:
        return None
    named = [run.facts.layers.get(spec.name) for spec in specs if spec.parametric]
    kinds = [KINDS[name] for name in named if name in KINDS]
    if len(kinds) != len(named):
        return None
    grid = Grid(*run.facts.grid)
    return grid, layers_of(fixed(specs, grid, kinds, Workload(1, 1, 1)))


def layers_of(plan: NetPlan) -> list[LayerBlocks]:
    """Who owns what of each layer of a plan."""
    grid, layers = plan.grid, []
    owned = [blocks_of(plan, rank) for rank in range(grid.size)]
    for k, layer in enumerate(plan.parametric()):
        pieces = [Block(rank, blocks[k].out, blocks[k].inputs, blocks[k].weights) for rank, blocks in enumerate(owned)]
        spec, split = layer.spec, layer.split_kind.name if layer.split_kind else ""
        inputs = layer.in_units.features
        layers.append(LayerBlocks(spec.name, spec.kind, split, layer.out_units.count, inputs, tuple(pieces)))
    return layers


def render_layout(grid: Grid, layers: list[LayerBlocks], width: float = 480.0) -> str:
    """A square for each layer, cut as its weights are: outputs from top to bottom, inputs from left to right."""
    across = int((width - GAP) // (SIDE + GAP / 2)) or 1
    title = f"Who owns which block of the weights, {grid.rows} × {grid.cols} ranks"
    content = [marks.text(14, 20, title, "title")]
    height = 34.0
    for k, layer in enumerate(layers):
        left = 14 + (k % across) * (SIDE + GAP / 2)
        top = 52 + (k // across) * (SIDE + 56)
        height = top + SIDE + 26
        content.append(marks.text(left, top - 6, marks.shortened(f"{layer.name} {layer.split}", 22)))
        content += _blocks(layer, left, top)
        content.append(marks.text(left, top + SIDE + 15, f"{layer.outputs} out × {layer.inputs} in", "label"))
    said = "; ".join(f"{layer.name}: {layer.split}, {len(layer.blocks)} ranks" for layer in layers)
    return picture("layout", title, said, height, "".join(content))


def _blocks(layer: LayerBlocks, left: float, top: float) -> list[str]:
    """The blocks of a layer; numbers are ranks."""
    parts = []
    for block in layer.blocks[:DRAWN]:
        if not block.weights:
            continue
        y, bottom = (top + SIDE * edge / layer.outputs for edge in block.outputs)
        x, right = (left + SIDE * edge / layer.inputs for edge in block.inputs)
        (o, o_end), (i, i_end) = block.outputs, block.inputs
        words = marks.tip(f"rank {block.rank}: W[{o}:{o_end}, {i}:{i_end}], {block.weights:,} weights")
        parts.append(
            f'<rect class="cell {marks.colour(block.rank)}" x="{x:.1f}" y="{y:.1f}" width="{right - x:.1f}" '
            f'height="{bottom - y:.1f}">{words}</rect>'
        )
        if len(layer.blocks) <= LABELLED and right - x > 12 and bottom - y > 9:
            parts.append(marks.text((x + right) / 2, (y + bottom) / 2 + 4, str(block.rank), "", "middle"))
    return parts
