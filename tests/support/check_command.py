"""Whether a command that the documentation shows could be typed: its program, options, keys and files exist."""

from __future__ import annotations

import argparse
import ast
import functools
import re
from pathlib import Path

from pages import ROOT

from dnewton.cli import get, verbs
from dnewton.config import parse
from dnewton.config.shipped_nets import read_net, shipped_nets
from dnewton.errors import UserError

LAUNCHERS = ("mpirun", "mpiexec", "srun", "sbatch", "ssh")
ELSEWHERE = ("source", "export", "cd", "pre-commit")  # programs of which there is nothing to check
PLACEHOLDER = re.compile(r"[A-Z]|\.\.\.|…|/path/|…$")  # RUN, FILE, N: what the reader fills in
THE_READERS = ("my-net.yaml", "mine.yaml", "net.yaml", "surface.yaml")  # nets that are not on the page
BASE = "net: {input: [2], loss: squared, layers: [{dense: {units: 1}}]}"


def check(words: list[str], known: dict[str, str], whole: bool = True) -> None:
    """Raise AssertionError where a command is wrong. `known`: YAML files of the page by name. A command that is not
    `whole` names some options only, as in a sentence."""
    words = [w for w in words if not re.fullmatch(r"[A-Z_0-9]+=.*", w)] or ["source"]
    if "&&" in words:
        at = words.index("&&")
        check(words[:at], known, whole)
        check(words[at + 1 :], known, whole)
        return
    for mark in ("|", ">", "<", ">>"):
        words = words[: words.index(mark)] if mark in words else words
    if words[0] in LAUNCHERS:
        at = next((i for i, w in enumerate(words) if i and _is_program(w)), None)
        if at is None:
            return  # a launcher with its own options, or another site's program
        words = words[at:]
    program, rest = words[0], words[1:]
    if program == "python" and rest[:1] == ["-m"] and len(rest) > 1:
        program, rest = rest[1], rest[2:]
        if program.startswith("dnewton.") and program != "dnewton.data":
            program, rest = "dnewton", [program.removeprefix("dnewton."), *rest]
    elif program in ("python", "bash") and rest:
        program, rest = rest[0], rest[1:]
    if program in ("dnewton", "dnewton.data"):
        _check_verb(rest, known, whole)
    elif program.startswith(("scripts/", ".ci/")):
        _check_script(program, rest, known)
    elif program == "pip":
        _check_pip(rest)
    elif program == "pytest":
        _check_paths(rest)
    elif whole:
        assert program in ELSEWHERE or program.endswith(".py") or program in ("-c", "-X", "venv", "mpi4py"), program


def _is_program(word: str) -> bool:
    return word in ("dnewton", "python", "pytest", "bash") or word.startswith("scripts/")


def _check_verb(words: list[str], known: dict[str, str], whole: bool) -> None:
    if not words or words[0] in ("--help", "--version") or PLACEHOLDER.match(words[0]):
        return
    if words[0] == "get":
        parser = get.make_parser()
    else:
        assert words[0] in verbs.SUMMARIES, f"{words[0]} is no verb"
        make = getattr(verbs.module_of(words[0]), "make_parser", None)
        if make is None:
            return
        parser = make()
    given = ["1" if re.fullmatch("[A-Z]|[.]{3}", w) else w for w in words[1:]]
    if whole:
        try:
            args = parser.parse_args(given)
        except UserError as error:
            raise AssertionError(f"{' '.join(words)}: {error}") from None
        _check_keys(args, known)
        return
    options = {w.split("=")[0] for w in given if w.startswith("--")}
    assert options <= set(parser._option_string_actions), f"{words}: {options - set(parser._option_string_actions)}"


def _check_keys(args: argparse.Namespace, known: dict[str, str]) -> None:
    """The keys and values of --set, on the net that is named, for one at least of the solvers that are."""
    settings = [s for s in getattr(args, "set", []) if not PLACEHOLDER.match(s.partition("=")[2])]
    net, text = getattr(args, "net", None), BASE
    if net in known:
        text = known[net]
    elif net and not PLACEHOLDER.match(net):
        assert net in shipped_nets() or net in THE_READERS, net
        text = read_net(net)[0] if net in shipped_nets() else BASE
    solvers = getattr(args, "solvers", "newton").split(",")
    sweeps = [f"solver.{key}={value.split(',')[0]}" for key, _, value in (s.partition("=") for s in _swept(args))]
    problems = []
    for solver in solvers:
        chosen = [f"solver.name={solver}"] if len(solvers) > 1 or solver != "newton" else []
        try:
            parse.load(text, "the page", [*chosen, *settings, *sweeps])
        except UserError as error:
            problems.append(str(error))
    assert len(problems) < len(solvers), problems


def _swept(args: argparse.Namespace) -> list[str]:
    swept = getattr(args, "sweep", None) or []
    return [swept] if isinstance(swept, str) else swept


@functools.cache
def options_of(script: Path) -> frozenset[str]:
    """What a script says of options, in its code and comments."""
    text = script.read_text()
    if script.suffix == ".py":
        beside = [script.with_name(f"{name}.py") for name in re.findall(r"^(?:from|import) (\w+)", text, re.M)]
        texts = [text, *(path.read_text() for path in beside if path.exists())]
        nodes = [node for source in texts for node in ast.walk(ast.parse(source))]
        return frozenset(n.value for n in nodes if isinstance(n, ast.Constant) and str(n.value).startswith("-"))
    return frozenset(re.findall(r"--[\w-]+", text))


def _check_script(program: str, words: list[str], known: dict[str, str]) -> None:
    script = ROOT / program
    assert script.exists(), f"{program} does not exist"
    if script.suffix == ".sbatch":
        _check_verb(["train", *words], known, True)
        return
    if script.name in ("two_hosts.sh", "local_slurm.sh") and words[:1] not in (["up"], ["down"], ["--check"]):
        check(words[1:] if words[:1] == ["run"] else words, known, False)
        return
    asked = {w.split("=")[0] for w in words if w.startswith("--")}
    if script.name == "quickstart.sh":
        asked -= {"--install-only"}
    assert asked <= options_of(script), f"{program}: {sorted(asked - options_of(script))}"


def _check_pip(words: list[str]) -> None:
    extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    for word in words:
        if found := re.fullmatch(r"(?:\.|dnewton)\[(.*)\]", word):
            assert set(found[1].split(",")) <= set(extras), word


def _check_paths(words: list[str]) -> None:
    for word in words:
        if word.startswith("tests/"):
            assert (ROOT / word.split("::")[0]).exists(), word
