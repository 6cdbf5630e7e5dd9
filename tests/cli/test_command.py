"""`dnewton VERB`: the verbs, what every help says, and that a script of its own does what python -m does."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import start
from jobs import environment

from dnewton import __main__, __version__
from dnewton.cli import interrupt, verbs
from dnewton.errors import UserError

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def command(*words: str, cwd: Path, **variables: str) -> Any:
    """The installed script, by what pip would write: an executable called dnewton that calls the entry point."""
    script = cwd / "dnewton"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom dnewton.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    root = os.pathsep.join([str(PROJECT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {**environment(), "PYTHONPATH": root, **variables}
    return subprocess.run([script, *words], cwd=cwd, env=variables, capture_output=True, text=True, check=False)


def test_the_script_that_is_installed() -> None:
    assert 'dnewton = "dnewton.__main__:main"' in PROJECT.read_text()


@pytest.mark.parametrize("verb", verbs.SUMMARIES)
def test_examples_are_command_lines(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every example of a help, less what starts it and where its output goes, is taken by the verb's own parser."""
    parser = verbs.module_of(verb).make_parser()
    assert parser.prog == f"dnewton {verb}" and parser.examples
    for example in parser.examples:
        words = shlex.split(example)
        ours = words[words.index("dnewton") :]
        assert ours[1] == verb
        ends = [k for k, word in enumerate(ours) if word in ("|", ">")]
        parser.parse_args(ours[2 : min([len(ours), *ends])])
        with pytest.raises(UserError, match="--help"):
            parser.parse_args([*ours[2 : min([len(ours), *ends])], "--no-such-option"])
    parser.print_help()
    assert f"examples:\n  {parser.examples[0]}\n" in capsys.readouterr().out


def words_of_main(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        __main__.main(words)
    assert isinstance(stop.value.code, int)
    return (stop.value.code, *capsys.readouterr())


def test_words_that_are_no_verbs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    code, out, err = words_of_main(["trian"], capsys)
    assert (code, out) == (2, "") and err == "dnewton: error: 'trian' is no verb; did you mean train?\n"
    code, out, err = words_of_main([], capsys)
    assert code == 2 and err.count("\n") == 1 and all(verb in err for verb in verbs.SUMMARIES)
    assert words_of_main(["--version"], capsys) == (0, f"dnewton {__version__}\n", "")
    code, out, _ = words_of_main(["--help"], capsys)
    assert code == 0
    for verb, summary in verbs.SUMMARIES.items():
        assert any(line.split() == [verb, *summary.split()] for line in out.splitlines())
    monkeypatch.setenv("PMI_RANK", "1")  # beside a rank that says it
    assert words_of_main(["--version"], capsys) == (0, "", "")
    assert words_of_main(["trian"], capsys) == (2, "", "")


@pytest.mark.serial
def test_a_verb_of_the_script(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.savez(tmp_path / "d.npz", x=x, y=x[:, :1])
    converted = command("convert", "d.npz", "d.npy", cwd=tmp_path)
    assert converted.returncode == 0 and np.array_equal(np.load(tmp_path / "d.npy"), x), converted.stderr
    refused = command("convert", "d.npz", "d.npy", cwd=tmp_path)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr
    assert command("train", "--version", cwd=tmp_path).stdout == f"dnewton {__version__}\n"
    silent = command("train", "--version", cwd=tmp_path, PMI_RANK="2", PMI_SIZE="3")
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "trains"),
    [
        (["python", "-m", "dnewton.train", "--net", "a"], True),
        (["python", "-X", "dev", "-m", "dnewton", "train"], True),
        (["/env/bin/python3", "/env/bin/dnewton", "train"], True),
        (["/env/bin/python3", "/env/bin/dnewton", "predict", "train"], False),
        (["python", "train"], False),
        (["python", "-m", "pytest"], False),
    ],
)
def test_what_is_a_training(words: list[str], trains: bool) -> None:
    assert interrupt.trains(words) is trains


INTERRUPTED = """
import os, signal, sys
sys.orig_argv = {words!r}
from dnewton.cli import train
assert "mpi4py.MPI" not in sys.modules
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.serial
@pytest.mark.parametrize("words", [["python", "/env/bin/dnewton", "train"], ["python", "program.py"]])
def test_sigint_before_mpi(words: list[str]) -> None:
    code = INTERRUPTED.format(words=words)
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=False)
    at_once = ended.returncode == -signal.SIGINT and b"KeyboardInterrupt" not in ended.stderr
    assert at_once == ("dnewton" in words[1])


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    from dnewton.cli import completion

    with pytest.raises(SystemExit) as stop:
        completion.main([shell])
    script = capsys.readouterr().out
    assert stop.value.code == 0
    for word in ("predict", "--probabilities", "--max-seconds", "convert", "completion"):
        assert word.lstrip("-") in script
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        asked = (
            "source ./script; COMP_WORDS=(dnewton predict --prob); COMP_CWORD=2; _shtab_dnewton; echo ${COMPREPLY[@]}"
        )
        found = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert found.stdout.split() == ["--probabilities"], found.stderr


@pytest.mark.jobs(3)
def test_info(tmp_path: Path) -> None:
    """One line per node, and the self-test, on three ranks and on one."""
    for ranks in (1, 3):
        result = start(ranks, "--json", "--check", cwd=tmp_path, module="dnewton.info")
        assert result.returncode == 0, result.stdout + result.stderr
        about = json.loads(result.stdout)
        assert about["ranks"] == ranks and about["versions"]["numpy"] == np.__version__
        assert about["mpi"]["thread_level"] in ("serialized", "multiple") and about["mpi"]["launcher_fits"]
        (node,) = about["nodes"]
        assert node["ranks"] == ranks and node["memory"] > 0
        assert np.isclose(node["cores_per_rank"], len(os.sched_getaffinity(0)) / ranks)
        assert len(about["check"]) == 4 and all(item["ok"] for item in about["check"])
    said = start(3, cwd=tmp_path, module="dnewton.info").stdout.splitlines()
    assert [line.split()[0] for line in said] == ["versions", "mpi", "launcher", "node"]
    assert "3 rank(s) on 1 node(s); fits" in said[2]
