"""What log.txt says of a run before its first iteration: version, ranks, grid, layout, planned memory, warnings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_TITLE = re.compile(r"dnewton (\S+): (.*) on (\d+) rank\(s\), run directory ")
_RANKS = re.compile(r"ranks: (\d+) replica\(s\) of (\d+) model rank\(s\)(?:, (\d+) server)?")
_GRID = re.compile(r"grid: (\d+) x (\d+) ranks")
_LAYER = re.compile(r"(\S+)\s+(\w+)\s+(\[[\d, ]*\] -> \[[\d, ]*\])\s+([^,\s]+)")
_MEMORY = re.compile(r"planned memory of the largest rank: ([\d.]+) MiB(?: \(MiB: (.*)\))?")
_VERSIONS = "versions: "
_PART = re.compile(r"(.+) ([\d.]+)")
_CURVATURE = re.compile(r"\w+: curvature of (\d+) of (\d+) samples")
_ABOUT = ("BLAS threads", "jacobian:", "rates:", "newton:", "data:", "device", "gpu")
_SCORES = re.compile(r"(train|validation|test): (accuracy|rmse) .*\bby ")
MIB = 2**20


@dataclass
class Facts:
    """What the last start of a run said; what is not known is empty or 0."""

    version: str = ""
    source: str = ""  # the configuration's name
    ranks: int = 0
    replicas: int = 1
    model_ranks: int = 0
    grid: tuple[int, int] | None = None
    layers: dict[str, str] = field(default_factory=dict)  # by name, the kind of split
    planned: float = 0.0  # bytes of the largest rank
    plan_parts: dict[str, float] = field(default_factory=dict)  # bytes
    subsample: int = 0  # |S|
    samples: int = 0  # l
    starts: int = 0  # how often the run was started or resumed
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    scores: list[str] = field(default_factory=list)  # of the model, beside no model at all
    stopped: str = ""  # the line of a run that a signal or a limit of time stopped
    versions: dict[str, str] = field(default_factory=dict)  # of Python, NumPy, the MPI library


def facts_of(lines: Sequence[str]) -> Facts:
    """The facts in the lines of a log; those of the last start. Lines of another form say nothing."""
    facts = Facts()
    for line in lines:
        if title := _TITLE.match(line):
            facts = Facts(title[1], title[2], int(title[3]), model_ranks=int(title[3]), starts=facts.starts + 1)
        else:
            _take(facts, line)
    return facts


def _take(facts: Facts, line: str) -> None:
    if found := _RANKS.match(line):
        facts.replicas, facts.model_ranks = int(found[1]), int(found[2])
    elif found := _GRID.match(line):
        facts.grid = int(found[1]), int(found[2])
        facts.notes.append(line)
    elif found := _MEMORY.match(line):
        facts.planned = float(found[1]) * MIB
        parts = (_PART.fullmatch(part) for part in (found[2] or "").split(", "))
        facts.plan_parts = {part[1]: float(part[2]) * MIB for part in parts if part}
    elif line.startswith(_VERSIONS):
        named = (part.partition(" ") for part in line.removeprefix(_VERSIONS).split(", "))
        facts.versions = {name: version for name, _, version in named if version}
    elif line.startswith("warning:"):
        facts.warnings.append(line.removeprefix("warning:").strip())
    elif line.startswith("stopped by "):
        facts.stopped = line
    elif _SCORES.match(line):
        facts.scores.append(line)
    elif line.startswith(_ABOUT):
        facts.notes.append(line)
        if found := _CURVATURE.match(line):
            facts.subsample, facts.samples = int(found[1]), int(found[2])
    elif found := _LAYER.match(line):
        facts.layers[found[1]] = found[4]
