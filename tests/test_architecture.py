"""Who imports whom, and rules that no type checker knows."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dnewton"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a module's syntax tree, read once for all tests."""
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found.update(a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{a.name}" for a in node.names)
    return found


def test_imports_go_down() -> None:
    """The contracts of import-linter in pyproject.toml: the order of the packages, who may import mpi4py and CuPy."""
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    result = subprocess.run([linter], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("library", "owner"), [("mpi4py", "comm"), ("cupy", "arrays")])
def test_single_importer(library: str, owner: str) -> None:
    importers = {name(p) for p in MODULES if any(m.split(".")[0] == library for m in imports(p))}
    assert {i.split(".")[0] for i in importers} <= {owner}


NUMERICAL = ["model.", "arrays.image_windows", "curvature.", "solvers."]
HOSTS = {
    "solvers.baselines.async_workers",
    "solvers.baselines.parameter_server",
    "model.init_weights",
}  # messages to and from processes without a GPU


@pytest.mark.parametrize("path", [p for p in MODULES if name(p).startswith(tuple(NUMERICAL))], ids=name)
def test_numerical_code_asks_its_arrays(path: Path) -> None:
    """It names neither NumPy nor CuPy, and of a namespace it uses what the array standard has."""
    if name(path) not in HOSTS:
        assert not {m.split(".")[0] for m in imports(path)} & {"numpy", "scipy", "cupy", "cupyx"}
    strict = pytest.importorskip("array_api_strict")
    for node in nodes(path):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if owner in ("xp", "xp.linalg") or owner.startswith("namespace("):
                assert hasattr(strict.linalg if owner == "xp.linalg" else strict, node.attr), f"{path}: {node.attr}"


def test_no_pickle_no_shell_no_stray_print() -> None:
    for path in MODULES:
        text = path.read_text()
        assert not re.search(r"\b(pickle(?!tools)|allow_pickle=True|os\.system|shell=True|eval\(|exec\()", text), path
        if not name(path).startswith(("cli.", "__main__")):
            assert not re.search(r"^\s*print\(", text, re.M), f"{path} prints"
        assert "except: pass" not in text and not re.search(r"except[^\n]*:\s*\n\s*pass\b", text), path


RUN_WHAT_THEY_READ = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "torch",
    "runpy",
    "subprocess",
    "pty",
    "code",
    "multiprocessing",
}
PICKLING = {
    "send",
    "isend",
    "ssend",
    "bsend",
    "recv",
    "irecv",
    "sendrecv",
    "bcast",
    "ibcast",
    "gather",
    "scatter",
    "allgather",
    "alltoall",
    "reduce",
    "allreduce",
    "scan",
    "exscan",
    "mprobe",
    "improbe",
}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "system",
    "popen",
    "execv",
    "execve",
    "execvp",
    "spawnv",
    "startfile",
    "unsafe_load",
    "full_load",
    "load_all",
    "import_module",
    "loads",
}
ALLOWED = {"re.compile", "json.loads"}
# of constants in their own tables: no file and no user names a module
REGISTER = {("config.register", "import_module"), ("", "import_module")}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_runs_what_it_reads(path: Path) -> None:
    """No library that unpickles, no evaluation, no other program; NumPy and YAML only in their safe forms, and MPI only
    with buffers: mpi4py's methods in small letters pickle."""
    assert not {m.split(".")[0] for m in imports(path)} & RUN_WHAT_THEY_READ
    for node in nodes(path):
        if not isinstance(node, ast.Call):
            continue
        whole = ast.unparse(node.func)
        owner, _, called = whole.rpartition(".")
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        fine = whole in ALLOWED or (name(path), whole) in REGISTER
        assert called not in CALLS or fine, f"{path}:{node.lineno}: {whole}"
        assert given.get("shell", "False") == "False", f"{path}:{node.lineno}: {whole}"
        if whole in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", f"{path}:{node.lineno}: {whole}"
        if whole == "yaml.load":
            assert given.get("Loader") == "_Loader", f"{path}:{node.lineno}: {whole}"
        if owner.endswith("mpi") or owner.startswith("MPI"):
            assert called not in PICKLING, f"{path}:{node.lineno}: {whole} pickles"


def test_modules_are_short() -> None:
    lengths = {name(p): len(p.read_text().splitlines()) for p in MODULES}
    assert max(lengths.values()) <= 400, lengths


def test_importing_the_package_is_light() -> None:
    code = "import sys, dnewton; sys.exit(any(m in sys.modules for m in ('mpi4py', 'cupy', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_everything_public_says_what_it_is() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in ast.walk(tree):
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if public and node in tree.body:
                assert ast.get_docstring(node), f"{path}: {node.name}"  # type: ignore[arg-type]


def test_tests_lie_where_their_package_does() -> None:
    """tests/planning/test_memory.py for dnewton/planning; in tests/ itself what is about the whole tree."""
    tests = PACKAGE.parent / "tests"
    for path in tests.rglob("test_*.py"):
        folder = path.relative_to(tests).parent
        assert (PACKAGE / folder).is_dir() or folder.name == "slurm", path
