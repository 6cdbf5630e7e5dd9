"""Where public sets come from, and whether their files are whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from inside import start
from runs import fails

from dnewton.config.shipped_nets import shipped_nets
from dnewton.data import public_sets
from dnewton.data.public_sets import SETS, PublicSet, about

BUNDLED = {"cnn.yaml", "mlp.yaml", "mlp_regression.yaml"}


def test_every_shipped_net_has_its_set() -> None:
    named = [net for known in SETS.values() for net in known.nets]
    assert sorted(named) == sorted(set(shipped_nets()) - BUNDLED)


def test_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"samples" * 999
    right = hashlib.md5(content).hexdigest()
    known = PublicSet("T", "P", {"a": right, "b": "", "c": "0" * 32, "d": ""}, "S", ("n.yaml",))
    monkeypatch.setitem(public_sets.SETS, "t", known)
    for name in "abc":
        (tmp_path / name).write_bytes(content)
    lines, fine = about("t", tmp_path)
    assert not fine
    assert [line.split(": ")[1][:3] for line in lines[3:]] == ["MD5", "MD5", "MD5", "not"]
    assert "as published" in lines[3] and "no checksum" in lines[4] and "differs" in lines[5]
    (tmp_path / "c").unlink()
    assert about("t", tmp_path)[1]


@pytest.mark.jobs(1)
def test_the_command(tmp_path: Path) -> None:
    done = start(1, "get", "mnist", cwd=tmp_path, module="dnewton.data")
    assert done.returncode == 0 and "download it from the page" in done.stdout, done.stderr
    (tmp_path / "usps.bz2").write_bytes(b"x")
    assert start(1, "get", "usps", cwd=tmp_path, module="dnewton.data").returncode == 1
    fails(start(1, "get", "nist", cwd=tmp_path, module="dnewton.data"), "nist", "mnist")
