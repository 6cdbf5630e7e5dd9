"""What the README tells a new user to type is typed here."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from jobs import start
from runs import metrics

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(section: str) -> list[str]:
    """The indented blocks of a section."""
    text = README.split(f"## {section}\n")[1].split("\n## ")[0]
    return [textwrap.dedent(b).strip("\n") for b in re.findall(r"(?:^(?: {4}.*|)\n)+", text, re.M) if b.strip()]


def test_the_two_commands_at_the_top() -> None:
    scripts = re.findall(r"^    bash (\S+)", README, re.M)
    assert scripts == ["scripts/quickstart.sh", "scripts/test.sh"]
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)
        assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0
    assert "scripts/test.sh" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.serial
def test_your_first_own_net(tmp_path: Path) -> None:
    make_data, net, command = blocks("Your first own net")
    words = shlex.split(make_data)
    assert words[:2] == ["python", "-c"]
    subprocess.run([sys.executable, "-c", textwrap.dedent(words[2])], cwd=tmp_path, check=True)
    (tmp_path / "surface.yaml").write_text(net)
    (
        launcher,
        np_flag,
        ranks,
        *module,
    ) = shlex.split(command)[:6]
    assert (launcher, np_flag, module) == ("mpirun", "-np", ["python", "-m", "dnewton.train"])
    result = start(int(ranks), *shlex.split(command)[6:], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = metrics(tmp_path, "runs/surface")
    assert lines[-1]["train_rmse"] < 0.05 * lines[0]["train_rmse"]


def test_every_link_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
