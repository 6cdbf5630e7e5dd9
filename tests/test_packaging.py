"""The recipes in scripts/packaging/: the version, and every dependency of pyproject.toml."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from dnewton import __version__

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "scripts" / "packaging"
SPACK = PACKAGING / "spack" / "package.py"
EASYBUILD = PACKAGING / "easybuild" / f"dnewton-{__version__}-foss-2025a.eb"
IMAGE = PACKAGING / "dnewton.def"
BUNDLED = {"numpy": "SciPy-bundle", "scipy": "SciPy-bundle", "threadpoolctl": "Python-bundle-PyPI"}  # EasyBuild


def dependencies() -> dict[str, str]:
    """Name and least version of what pyproject.toml needs."""
    table = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert table is not None
    found = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', table[1]))
    assert len(found) > 8
    return found


class _Names(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant({"name": "dnewton", "version": __version__}[node.id])


def values(path: Path) -> dict[str, object]:
    """What a file of plain assignments sets."""
    statements = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Assign)]
    return {ast.unparse(n.targets[0]): ast.literal_eval(_Names().visit(n.value)) for n in statements}


def test_the_spack_recipe() -> None:
    text = SPACK.read_text()
    compile(text, SPACK.name, "exec")
    assert f'version("{__version__}")' in text
    needed = {f'"py-{name.lower()}@{least.removesuffix(".0")}:"' for name, least in dependencies().items()}
    assert needed <= set(re.findall(r'depends_on\(("[^"]+")', text))


def test_the_easyconfig() -> None:
    found = values(EASYBUILD)
    assert (found["name"], found["version"]) == ("dnewton", __version__)
    given = [*found["dependencies"], *(e[:2] for e in found["exts_list"])]  # type: ignore[misc, attr-defined]
    have = {name.lower(): tuple(map(int, version.split("."))) for name, version in given}
    for name, least in dependencies().items():
        if name in BUNDLED:
            assert BUNDLED[name].lower() in have
        else:
            assert have[name] >= tuple(map(int, least.split("."))), name


def test_the_image() -> None:
    text = IMAGE.read_text()
    assert f"image.version {__version__}\n" in text
    sections = dict(re.findall(r"^%(\w+)\n((?: {4}.*\n|\n)*)", text, re.M))
    assert {"files", "post", "environment", "runscript", "test"} <= set(sections)
    for line in sections["files"].split("\n"):
        if line.strip():
            assert (ROOT / line.split()[0]).exists(), line
    for name in ("post", "environment", "runscript", "test"):
        assert subprocess.run(["bash", "-n"], input=sections[name], text=True, check=False).returncode == 0, name


@pytest.mark.parametrize("path", [SPACK, EASYBUILD, IMAGE], ids=lambda p: p.name)
def test_recipes_are_of_the_repository_alone(path: Path) -> None:
    """setuptools packages what lies in dnewton/."""
    assert path.exists()
    assert not path.is_relative_to(ROOT / "dnewton")
