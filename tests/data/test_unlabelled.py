"""Tables and LIBSVM text whose labels must not be looked at: empty, unknown or missing ones change nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dnewton.comm.communicator import Comm
from dnewton.data.format_register import Features, Opening
from dnewton.data.readers import open_part
from dnewton.data.sources import Values
from dnewton.errors import UserError

X = np.random.default_rng(5).normal(size=(7, 3)).round(3)
LABELS = ["a", "", "?", "a", "b c", "NA", ""]
PLAIN = [",".join(map(repr, map(float, row))) for row in X]
NAMES = ("u", "v", "w")


def read(comm: Comm, folder: Path, name: str, text: str, names: tuple[str, ...] | None = NAMES) -> Values:
    """All columns of the file, each rank's own part of them given back to all. Collective."""
    path = folder / name
    if comm.rank == 0:
        path.write_text(text)
    opening = Opening("--data", 3, comm, unlabelled=Features(names))
    source = open_part(comm.text_from_root(str(path)), opening)
    assert source.targets is None
    assert source.fetch is not None
    source.fetch(0, 3)
    return np.concatenate(list(source.blocks(0, 3)))


LAST = "\n".join(f"{row},{label}" for row, label in zip(PLAIN, LABELS, strict=True)) + "\n"
SHORT = "\n".join(row if k % 2 else f"{row},{k}" for k, row in enumerate(PLAIN)) + "\n"
FIRST = "\n".join(f"{label},{row}" for row, label in zip(PLAIN, LABELS, strict=True)) + "\n"
MIDDLE = "\n".join(f'{a},"x, {a}",{b},{c},7' for a, b, c in (row.split(",") for row in PLAIN)) + "\n"
BLANKS = "\n".join(
    f"{row.replace(',', '  ')} {label.replace(' ', '')}" for row, label in zip(PLAIN, LABELS, strict=True)
)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "text",
    [
        f"u,v,w,kind\n{LAST}",
        f"u,v,w,kind\n{SHORT}",
        f"kind,u,v,w\n{FIRST}",
        f"u,who,v,w,id\n# a comment\n\n{MIDDLE}",
        "u,v,w\n" + "\n".join(PLAIN),
        LAST,
        SHORT,
        "\n".join(SHORT.splitlines()[1:]),  # the first line is without
        f"u v w kind\n{BLANKS}\n",
    ],
    ids=[
        "last",
        "short",
        "first",
        "middle",
        "none",
        "no header",
        "no header, short",
        "no header, short first",
        "blanks",
    ],
)
def test_tables(comm: Comm, tmp_path: Path, text: str) -> None:
    wanted = X[1:] if text.startswith(PLAIN[1]) else X
    assert np.array_equal(read(comm, tmp_path, "d.csv", text), wanted)


@pytest.mark.mpi
def test_features_are_still_checked(comm: Comm, tmp_path: Path) -> None:
    broken = LAST.replace(PLAIN[4], PLAIN[4].replace(",", ",x", 1))
    with pytest.raises(UserError, match=r"line 6: column 2: 'x.*' is not a number"):
        read(comm, tmp_path, "d.csv", f"u,v,w,kind\n{broken}")
    with pytest.raises(UserError, match="line 3: has 2 columns, the first line 4"):
        read(comm, tmp_path, "e.csv", f"u,v,w,kind\n{PLAIN[0]},a\n1,2\n")


@pytest.mark.mpi
@pytest.mark.parametrize("label", ["1 ", "? ", "", "1,2 ", "-1 qid:3 ", "qid:3 "])
def test_libsvm(comm: Comm, tmp_path: Path, label: str) -> None:
    lines = [f"{label}1:{a!r} 2:{b!r} 3:{c!r}  # 4" for a, b, c in X.tolist()]
    assert np.array_equal(read(comm, tmp_path, "d.svm", "\n".join(lines) + "\n"), X)
