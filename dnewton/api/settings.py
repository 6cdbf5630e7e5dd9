"""From what a call says to the configuration that a YAML file would hold."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from dnewton.api.nets import plain
from dnewton.comm.communicator import Comm
from dnewton.config import strict_yaml
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config, DataSection, NetSection
from dnewton.errors import UserError
from dnewton.planning.curvature_plan import LARGEST_EXACT
from dnewton.planning.net_plan import infer_shapes
from dnewton.training import load_config
from dnewton.training.equations import EquationSet

IN_MEMORY = "arrays in memory"  # the name of data that are no file
ITERATIONS = 1000  # of terms, unless the call says
PARTS = ("train", "test", "validation")
OF_FILES = {  # keys, and what replaces them
    "target": "give the targets as y",
    "weights": "give them as sample_weight",
    "arrays": "give the arrays themselves",
    "channels": "give images as [samples, channels, height, width]",
    "samples": "give samples in rows",
}
SECTIONS = ("data", "solver", "parallel", "output")


def configuration(
    net: Any, sections: Mapping[str, Mapping[str, Any] | None], parts: Mapping[str, Any], keeps: bool, comm: Comm
) -> tuple[Config, list[str], str]:
    """The checked configuration, notes for the log, and its name in messages.

    `net`: a net, a mapping (of a net, or of a whole configuration), or the name of a YAML file; `sections` change its
    entries; `parts`: the samples that the call gives, files by their names; `keeps`: whether there is a run directory.
    Raises UserError alike on all ranks. Collective over `comm`.
    """
    source, folder = "fit", comm.text_from_root(os.getcwd())
    values: Any
    if isinstance(net, (str, os.PathLike)):
        source = os.fspath(net)
        text, folder = load_config.read(source, comm)
        values = strict_yaml.parse(text, source)
        if not isinstance(values, dict):
            raise UserError(f"{source}: a mapping with the section 'net' is needed")
    elif isinstance(net, NetSection):
        values = {"net": Config(net=net).resolved()["net"]}
    elif isinstance(net, Mapping):
        values = plain(dict(net))
        values = values if "net" in values else {"net": values}
    else:
        raise UserError(f"fit: net must be dnewton.net(...), a mapping or the name of a YAML file, not {type(net)}")
    for name in SECTIONS:
        _change(values, name, sections.get(name))
    data = values.setdefault("data", {}) if parts else {}
    if "train" in parts:  # the file's other parts belong to its own training part
        for name in PARTS:
            data.pop(name, None)
    data.update({name: _named(part) for name, part in parts.items()})
    for key, instead in OF_FILES.items():
        if data.get("train") == IN_MEMORY and data.get(key) is not None:
            raise UserError(f"fit: data.{key} is for files, and x is in memory; {instead}")
    if "train" not in parts and not (isinstance(values.get("data"), dict) and "train" in values["data"]):
        raise UserError("fit: x is needed: arrays, the name of a file, or a YAML file with data.train")
    if not keeps:
        if sections.get("output"):
            raise UserError("fit: output says what is written to a run directory; name one with out=")
        values["output"] = {"checkpoint_every": 0}
    config, notes = load_config.configure(strict_yaml.dump(values), folder, source, [])
    return config, notes, source


def with_error_bars(config: Config, wanted: bool | str) -> Config:
    """The configuration with `output.error_bars`, where the call asks for it. Raises UserError."""
    if wanted not in (False, True, "full", "blocks"):
        raise UserError(f"fit: error_bars must be True, 'full', 'blocks' or False, not {wanted!r}")
    output = config.output.model_copy(update={"error_bars": wanted})
    return config.model_copy(update={"output": output}) if wanted else config


def config_of_terms(config: Config, equations: EquationSet, ranks: int) -> Config:
    """The configuration for terms: points are not scaled, and what nobody has said of the solver is chosen for
    many digits: no regulariser, many iterations, exact solves where the systems are small."""
    solver = config.solver
    if isinstance(solver, NewtonSection):
        given = solver.model_fields_set
        chosen: dict[str, Any] = {"C": math.inf, "max_iterations": ITERATIONS}
        if not {"curvature", "subproblem", "jacobian", "preconditioner", "replica_solve"} & given:
            specs = infer_shapes(config.net)
            shapes = [spec.weight_shape for spec in specs if spec.parametric]
            variables = sum(math.prod(shape) + shape[0] for shape in shapes)
            if min(variables, equations.samples * specs[-1].out_shape[0]) <= LARGEST_EXACT:
                chosen |= {"curvature": "diagonal" if ranks == 1 else "full", "subproblem": "exact"}
        solver = solver.model_copy(update={k: v for k, v in chosen.items() if k not in given})
        if "acceleration" not in given and solver.subproblem == "exact" and not solver.by_paper:
            solver = solver.model_copy(update={"acceleration": "geodesic"})
    data = DataSection(train=IN_MEMORY, scale="none")
    return config.model_copy(update={"solver": solver, "data": data})


def _change(values: dict[str, Any], name: str, entries: Mapping[str, Any] | None) -> None:
    if entries is None:
        return
    if not isinstance(entries, Mapping):
        raise UserError(f"fit: {name} must be a mapping such as {name}={{...}}, not {type(entries).__name__}")
    section = values.get(name) or {}
    if not isinstance(section, dict):
        return  # the file's mistake, which is found later
    if name == "solver" and section.get("name", "newton") != entries.get("name", section.get("name", "newton")):
        section = {}  # another method's keys
    values[name] = {**section, **plain(dict(entries))}


def _named(part: Any) -> Any:
    """Files by their names, and one name for all that is no file."""
    if isinstance(part, (str, os.PathLike)):
        return os.fspath(part)
    if isinstance(part, Mapping) or (isinstance(part, list) and part and all(isinstance(p, str) for p in part)):
        return plain(part)
    return IN_MEMORY
