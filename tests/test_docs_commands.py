"""What the documentation tells its readers to type. Every command on a page, and in README.md, is one of:

- executed here, in the order of its page and with small settings (`EXECUTED`); README's first net is in test_readme.py;
- checked: the verb, its options, the keys and values of `--set`, scripts, extras and shipped nets exist;
- marked on the page, `<!-- not run: why -->`.

Blocks of YAML must be valid by the schema, blocks of Python run.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from check_command import BASE, check
from inside import needs, start
from pages import PAGES, ROOT, Block, blocks, commands, spans

from dnewton.config import parse

SECTIONS = ("net", "data", "solver", "parallel", "output")
QUICK = {  # what is added, so that a page takes seconds
    "train": ["--set", "solver.max_iterations=2", "--quiet"],
    "compare": ["--budget", "0.05s", "--set", "solver.max_iterations=1"],
    "watch": ["--once"],
}
EXECUTED = {  # pages whose commands all run: the ranks, at most; 1 where blocks of Python train, in this process alone
    "start.md": 1,
    "last_digits.md": 1,
    "choose_solver.md": 3,
    "report.md": 1,
    "trace.md": 3,
    "export.md": 1,
    "model_format.md": 1,
    "python.md": 1,
}
LEFT_TO_CHECKS = (
    "info",
    "cnn.yaml --solvers",
    "cluster",
    "python script.py",
    "RUN",
)  # slow, or elsewhere; cc., letters
LETTERS = {"report.md", "export.md", "model_format.md"}  # pages about a run that their reader has


def of_language(language: str) -> list[Any]:
    return [pytest.param(b, id=str(b)) for page in PAGES for b in blocks(page) if b.language == language]


def known(page: Path) -> dict[str, str]:
    """The YAML files that a page has its reader write."""
    return {b.file: b.text for b in blocks(page) if b.file}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    assert {b.language for b in blocks(page)} <= {"sh", "yaml", "python", "text"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_could_be_typed(page: Path) -> None:
    for block in blocks(page):
        if block.language == "sh" and not block.not_run:
            for words in commands(block.text):
                try:
                    check(words, known(page))
                except AssertionError as error:
                    raise AssertionError(f"{block}: {' '.join(words)}: {error}") from None
    for words in spans(page):
        check(words, known(page), whole=False)


@pytest.mark.parametrize(
    "words",
    [
        "dnewton trian --net mlp.yaml",
        "dnewton train --net mlp.yaml --owt x",
        "dnewton train --net mlp.yaml --set solver.itera=3",
        "python scripts/bench/nothing.py",
        "python scripts/bench/kfac.py --hop",
        "pip install '.[mpi]'",
        "dnewton train --net mlpp.yaml",
        "frobnicate",
    ],
)
def test_wrong_commands_are_found(words: str) -> None:
    with pytest.raises(AssertionError):
        check(commands(words)[0], {})


@pytest.mark.parametrize("block", of_language("yaml"))
def test_yaml_fits_the_schema(block: Block) -> None:
    if block.not_run:
        return
    lines = block.text.split("\n")
    separate = all(re.match(rf"({'|'.join(SECTIONS)}):", line) for line in lines)
    for text in lines if separate and len(lines) > 1 else [block.text]:
        values = yaml.safe_load(text)
        if isinstance(values, list):  # of layers
            values = {"net": {"input": [64], "loss": "squared", "layers": values}}
            if "conv" in text:
                for layer in values["net"]["layers"]:
                    single = {**values["net"], "layers": [layer], "input": [64, 8, 8] if "conv" in str(layer) else [64]}
                    parse.load(yaml.safe_dump({"net": single}), str(block))
                continue
        if "net" not in values:
            values = {**yaml.safe_load(BASE), **values}
        parse.load(yaml.safe_dump(values), str(block))


def test_every_python_block_is_executed_or_marked() -> None:
    given = [p.values[0] for p in of_language("python")]
    left = [b for b in given if not b.not_run and b.page.name not in EXECUTED]
    assert [b.page.name for b in left] == ["README.md"], "see EXECUTED and the next test"


def test_the_readme_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = (b for b in blocks(ROOT / "README.md") if b.language == "python")
    x = np.random.default_rng(0).uniform(-1, 1, (40, 2))
    exec(compile(block.text, str(block), "exec"), {"x": x, "y": np.sin(x[:, :1])})
    assert (tmp_path / "surface.safetensors").exists()


def run_letters(folder: Path) -> None:
    """The runs that some pages speak of."""
    result = start(1, "--net", "mlp.yaml", "--out", "runs/letters", *QUICK["train"], cwd=folder)
    assert result.returncode == 0, result.stderr
    for name in ("seed-1", "seed-2", "seed-3", "adam"):
        shutil.copytree(folder / "runs/letters", folder / "runs" / name)
    for name in ("model.safetensors", "config.yaml"):
        shutil.copy(folder / "runs/letters" / name, folder)


def run_command(words: list[str], ranks: int, folder: Path) -> None:
    """A command of a page on the session's ranks, with small settings."""
    asked = 1
    if words[0] == "mpirun":
        asked, words = int(words[2]), words[3:]
    words = words[2:] if words[:2] == ["python", "-m"] else words
    verb, rest = (words[1], words[2:]) if words[0] == "dnewton" else (words[0].removeprefix("dnewton."), words[1:])
    result = start(min(asked, ranks), *rest, *QUICK.get(verb, []), cwd=folder, module=f"dnewton.{verb}")
    assert result.returncode == 0, f"{' '.join(words)}: {result.stderr}"


@pytest.mark.parametrize("name", [needs(ranks, name) for name, ranks in EXECUTED.items()])
def test_pages_in_their_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in LETTERS:
        run_letters(tmp_path)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (40, 64 if name == "export.md" else 2)).astype(np.float32)
    scope: dict[str, Any] = {"x": x, "y": x[:, :1], "xt": x, "yt": x[:, :1]}
    if name == "export.md":
        scope["onnxruntime"] = pytest.importorskip("onnxruntime")
    for block in blocks(ROOT / "docs" / name):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
        elif block.language == "python" and not block.not_run:
            exec(compile(block.text.replace("20}", "2}"), str(block), "exec"), scope)
        elif block.language == "sh" and not block.not_run:
            for words in commands(block.text):
                line = " ".join(words).replace("python -m dnewton.export RUN", "python -m dnewton.export runs/letters")
                if not any(part in line for part in LEFT_TO_CHECKS):
                    run_command(line.split(), EXECUTED[name], Path(os.getcwd()))


def test_the_page_of_keys_is_what_the_schema_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import keys_page

    assert keys_page.page() == keys_page.PAGE.read_text(), "run: python scripts/keys_page.py"
