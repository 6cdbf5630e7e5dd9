"""Names that stand for modules: what is known without an import, and what is imported when a name is asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dnewton.config.register import Register


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Register[type]:
    """A register of two modules on disk, and of one that registers nothing."""
    register: Register[type] = Register(
        "shape",
        {"ring": "register_round", "disc": "register_round", "square": "register_flat", "lost": "register_bare"},
    )
    owner = type(sys)("register_owner")
    owner.SHAPES = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "register_owner", owner)
    for name, text in {
        "register_round": "@SHAPES.add('ring', 'disc')\nclass Round: ...\n",
        "register_flat": "@SHAPES.add('square')\nclass Square: ...\n",
        "register_bare": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(f"from register_owner import SHAPES\n{text}")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return register


def test_names_are_known_without_an_import(shapes: Register[type]) -> None:
    assert shapes.names() == ("ring", "disc", "square", "lost")
    assert "ring" in shapes
    assert "hexagon" not in shapes
    assert ["ring"] not in shapes  # a YAML may hold anything
    assert "register_round" not in sys.modules


def test_a_name_imports_its_module_and_no_other(shapes: Register[type]) -> None:
    assert shapes["disc"].__name__ == "Round"
    assert shapes["ring"] is shapes["disc"]
    assert "register_round" in sys.modules
    assert "register_flat" not in sys.modules


def test_an_unknown_name_is_answered_with_the_nearest(shapes: Register[type]) -> None:
    assert shapes.unknown("Rign") == "'Rign' is not a shape; did you mean 'ring'?"
    assert shapes.unknown(3) == "3 is not a shape; known: ring, disc, square, lost"
    assert Register("activation", {"relu": "x"}).unknown("rulu").startswith("'rulu' is not an activation; did you mean")
    with pytest.raises(ValueError, match="'sqr' is not a shape; did you mean 'square'"):
        shapes["sqr"]


def test_a_module_that_breaks_its_promise_is_an_error(shapes: Register[type]) -> None:
    with pytest.raises(LookupError, match="register_bare does not register the shape 'lost'"):
        shapes["lost"]
    with pytest.raises(LookupError, match="shape 'hexagon' is not in the table"):
        shapes.add("hexagon")(object)
    assert shapes["square"]
    with pytest.raises(LookupError, match="shape 'square' is registered already"):
        shapes.add("square")(object)
