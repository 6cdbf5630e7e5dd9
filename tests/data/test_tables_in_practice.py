"""Tables of text as people have them: what the beginning of a file tells, what keys tell, with the values written."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import needs, start
from runs import fails, train

from dnewton.comm.communicator import Comm
from dnewton.config.schema import DataSection
from dnewton.data.parts import open_parts
from dnewton.data.sources import Source
from dnewton.errors import UserError

RNG = np.random.default_rng(3)
X = np.round(RNG.normal(size=(40, 3)), 4)
K = RNG.integers(0, 3, 40)
WORDS = np.array(["ant", "bee", "cat"])[K]


def lines(sep: str, y: Any = K, end: str = "", comma: bool = False, number: bool = False) -> list[str]:
    rows = [[*map(repr, row.tolist()), str(label)] for row, label in zip(X, y, strict=True)]
    if comma:
        rows = [[field.replace(".", ",") for field in row] for row in rows]
    if number:
        rows = [[str(k), *row] for k, row in enumerate(rows)]
    return [sep.join(row) + end for row in rows]


def opened(path: Path, **keys: Any) -> Source:
    section = DataSection.model_validate({"train": str(path), **keys})
    return open_parts(section, (3,), 0, Comm.alone()).train


def check(source: Source, y: Any = K) -> None:
    assert source.samples == 40
    assert source.fetch is not None
    source.fetch(0, 3)
    assert np.array_equal(np.concatenate(list(source.blocks(0, 3))), X)
    found = source.all_targets()
    assert np.array_equal(found.ravel(), y) and found.dtype.kind == np.asarray(y).dtype.kind


TEXTS: dict[str, str] = {
    "plain": "\n".join(lines(",")),
    "header": "\n".join(["a,b,c,label", *lines(",")]),
    "numbered header": "\n".join(["0,1,2,label", *lines(",")]),
    "numbers as names": "\n".join(["0,1,2,3", *lines(",")]),
    "semicolons": "\n".join(lines(";")),
    "bars": "\n".join(["a|b|c|k", *lines("|")]),
    "bars with blanks": "\n".join(lines(" | ")),
    "tabs": "\n".join(lines("\t")),
    "doubled tabs": "\n".join(line.replace("\t", "\t\t", k % 3) for k, line in enumerate(lines("\t"))),
    "blanks": "\n".join(["  a b   c k", *("  " + line for line in lines("   "))]),
    "commas at line ends": "\n".join(lines(",", end=",")),
    "and in the header": "\n".join(["a,b,c,k,", *lines(",", end=",")]),
    "decimal commas": "\n".join(["a;b;c;k", *lines(";", comma=True)]),
    "decimal commas, tabs": "\n".join(lines("\t", comma=True)),
    "titles": "\n".join(["Measurements of 2019", "all in mm", "a,b,c,k", *lines(",")]),
    "comments": "\n".join(["# a,b", *lines(",")[:20], "", "# more", *lines(",")[20:]]),
    "CRLF": "\r\n".join(["a,b,c,k", *lines(",")]) + "\r\n",
    "CR": "\r".join(["a,b,c,k", *lines(",")]) + "\r",
    "quotes": "\n".join(['"a","b, in mm","c","k"', *('"' + line.replace(",", '","') + '"' for line in lines(","))]),
    "mark": "\ufeff" + "\n".join(["a,b,c,k", *lines(",")]),
}


@pytest.mark.serial
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("packed", ["", ".gz", ".zip"])
def test_what_the_beginning_tells(tmp_path: Path, name: str, packed: str) -> None:
    content = TEXTS[name].encode()
    path = tmp_path / f"t.csv{packed}"
    if packed == ".gz":
        path.write_bytes(gzip.compress(content))
    elif packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inner/t.csv", content)
    else:
        path.write_bytes(content)
    check(opened(path))


@pytest.mark.serial
@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("\n".join(["7,8,9,10", *lines(",")]), {"header": True}),
        ("\n".join(lines("^")), {"delimiter": "^"}),
        ("\n".join(["x,1,2", "y,3,4", *lines(",")]), {"skip_rows": 2}),
        ("\n".join(lines(",", number=True)), {"ignore": [0]}),
        ("\n".join(["id,a,b,c,k", *lines(",", number=True)]), {"ignore": ["id"]}),
        ("\n".join(["id,a,b,c,k", *lines(",", number=True)]), {"features": ["a", "b", "c"]}),
        (
            "\n".join(["when,a,b,c,k", *(f"2019-01-{k % 9}x,{line}" for k, line in enumerate(lines(",")))]),
            {"ignore": [0]},
        ),
        ("\n".join(lines(";", comma=True)), {"decimal": ",", "delimiter": ";"}),
    ],
)
def test_what_keys_tell(tmp_path: Path, text: str, keys: dict[str, Any]) -> None:
    (tmp_path / "t.csv").write_text(text)
    check(opened(tmp_path / "t.csv", **keys))


@pytest.mark.serial
def test_labels_are_of_one_kind(tmp_path: Path) -> None:
    """The whole column decides, also where it begins with numbers for longer than the beginning; later parts follow."""
    mixed = np.where(WORDS == "bee", "7", WORDS)
    order = np.argsort(mixed != "7", kind="stable")
    rows = np.array(lines(",", mixed))
    (tmp_path / "a.csv").write_text("\n".join(rows))
    check(opened(tmp_path / "a.csv"), mixed)
    (tmp_path / "b.csv").write_text("\n".join([*np.repeat(rows[order][0], 4000), *rows[order]]))
    assert set(opened(tmp_path / "b.csv").all_targets()) == {"7", "ant", "cat"}
    (tmp_path / "sevens.csv").write_text("\n".join(rows[mixed == "7"]))
    section = DataSection.model_validate({"train": str(tmp_path / "a.csv"), "test": str(tmp_path / "sevens.csv")})
    test = open_parts(section, (3,), 0, Comm.alone()).test
    assert test is not None and set(test.all_targets()) == {"7"}


@pytest.mark.parametrize("ranks", [needs(1, 1), needs(3, 3)])
def test_as_a_user_runs_it(tmp_path: Path, ranks: int) -> None:
    """One table written in four ways gives one run; the model knows how its tables are written."""
    net = {
        "net": {"input": [3], "loss": "cross_entropy", "layers": [{"dense": {"units": 3}}]},
        "solver": {"max_iterations": 3},
        "parallel": {"dtype": "float64"},
    }
    ends = set()
    ways: list[tuple[str, dict[str, Any]]] = [
        ("plain", {}),
        ("CR", {}),
        ("decimal commas", {}),
        ("numbered", {"ignore": ["id"]}),
    ]
    texts = {**TEXTS, "numbered": "\n".join(["id,a,b,c,k", *lines(",", number=True)])}
    for name, keys in ways:
        (tmp_path / "t.csv").write_bytes(texts[name].encode())
        data = {"train": "t.csv", **keys}
        result = train(ranks, tmp_path, {**net, "data": data}, "run", "--overwrite")
        assert result.returncode == 0, result.stderr
        ends.add(next(line for line in result.stdout.splitlines() if line.startswith("3/3"))[:40])
    assert len(ends) == 1 and "header, ',' between columns; 3 features a b c" in result.stdout
    (tmp_path / "new.csv").write_text(
        "\n".join(["id,a,b,c", *(row.rsplit(",", 1)[0] for row in lines(",", number=True))])
    )
    words = ["--model", "run", "--data", "new.csv", "--unlabelled", "--out", "p.txt"]
    done = start(ranks, *words, cwd=tmp_path, module="dnewton.predict")
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "p.txt").read_text().splitlines()) == 40


@pytest.mark.jobs(1)
def test_mistakes_and_warnings(tmp_path: Path) -> None:
    net = {"net": {"input": [3], "loss": "squared", "layers": [{"dense": {"units": 1}}]}}
    (tmp_path / "t.csv").write_text("\n".join([*lines(",")[:9], "1,2,3", *lines(",")[9:]]))
    fails(train(1, tmp_path, {**net, "data": {"train": "t.csv"}}, "run"), "line 10", "3 columns", "data.delimiter")
    (tmp_path / "t.csv").write_text("\n".join(lines(",", number=True)))
    fails(
        train(1, tmp_path, {**net, "data": {"train": "t.csv", "ignore": ["id"]}}, "run"), "data.ignore", "data.header"
    )
    fails(train(1, tmp_path, {**net, "data": {"train": "t.csv", "delimiter": "ab"}}, "run"), "data.delimiter")
    four = {"net": {**net["net"], "input": [4]}, "solver": {"max_iterations": 0}}
    result = train(1, tmp_path, {**four, "data": {"train": "t.csv"}}, "run")
    assert "warning: " in result.stdout and "data.ignore: [0]" in result.stdout, result.stdout + result.stderr
    np.savez(tmp_path / "a.npz", x=X, y=K)
    fails(train(1, tmp_path, {**net, "data": {"train": "a.npz", "header": True}}, "run", "--overwrite"), "data.header")


@pytest.mark.serial
@pytest.mark.parametrize("word", ["", "?", "NA", "nan", "null"])
@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_samples_with_missing_values_are_left_out(tmp_path: Path, word: str, sep: str) -> None:
    rows = lines(sep)
    gaps = [sep.join([word, "1.5", "2", "0"]), sep.join(["1", word, "2", "0"]), sep.join(["1", "2", word, "1"])]
    text = "\n".join([sep.join(["a", "b", "c", "k"]), gaps[0], *rows[:20], gaps[1], *rows[20:], gaps[2]]) + "\n"
    (tmp_path / "t.csv").write_text(text)
    check(opened(tmp_path / "t.csv", missing="drop"))
    with pytest.raises(UserError, match="line 2"):
        check(opened(tmp_path / "t.csv"))


INDEXED = {
    "R": ["a,b,c,k", *(f"{k + 1},{line}" for k, line in enumerate(lines(",")))],
    "R, words, blanks": ['"a" "b" "c" "k"', *(f'"Mazda {k}" {line}' for k, line in enumerate(lines(" ")))],
    "pandas": [",a,b,c,k", *lines(",", number=True)],
    "pandas, read and written": ["Unnamed: 0,a,b,c,k", *lines(",", number=True)],
}


@pytest.mark.serial
@pytest.mark.parametrize("name", INDEXED)
def test_a_first_column_without_a_name_is_left_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_text("\n".join(INDEXED[name]))
    source = opened(tmp_path / "t.csv")
    check(source)
    assert source.columns == ("a", "b", "c") and "1 column(s) without a name left out" in source.notes[0]
    section = DataSection.model_validate({"train": str(tmp_path / "t.csv"), "test": str(tmp_path / "t.csv")})
    test = open_parts(section, (3,), 0, Comm.alone()).test
    assert test is not None
    check(test)


@pytest.mark.serial
@pytest.mark.parametrize("keys", [{"features": [0, 1, 2, 3]}, {}])
def test_unless_it_is_asked_for(tmp_path: Path, keys: dict[str, Any]) -> None:
    """By data.features, or by a net that has an input for it."""
    (tmp_path / "t.csv").write_text("\n".join(INDEXED["pandas"]))
    section = DataSection.model_validate({"train": str(tmp_path / "t.csv"), "test": str(tmp_path / "t.csv"), **keys})
    parts = open_parts(section, (4,), 0, Comm.alone())
    for source in (parts.train, parts.test):
        assert source is not None and source.fetch is not None
        source.fetch(0, 4)
        assert np.array_equal(np.concatenate(list(source.blocks(0, 4)))[:, 0], np.arange(40))


@pytest.mark.serial
def test_decimal_commas_in_quotes(tmp_path: Path) -> None:
    rows = [",".join(f'"{field}"' for field in line.split(";")) for line in lines(";", comma=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,k", *rows]))
    check(opened(tmp_path / "t.csv"))


@pytest.mark.serial
@pytest.mark.parametrize("place", [3, 300])
def test_a_word_among_fractions_is_named(tmp_path: Path, place: int) -> None:
    """It makes no column of words: one that has the kind of label."""
    rows = [line.rsplit(",", 1)[0] + f",{0.25 + k}" for k, line in enumerate(lines(",") * 10)]
    rows[place] = rows[place].rsplit(",", 1)[0] + ",many"
    (tmp_path / "t.csv").write_text("\n".join(["a,b,c,y", *rows]))
    with pytest.raises(UserError, match=f"line {place + 2}: column 4: 'many' is not a number"):
        opened(tmp_path / "t.csv")


@pytest.mark.serial
def test_a_line_that_is_too_short_for_a_header_is_shown(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *lines(",")]))
    source = opened(tmp_path / "t.csv")
    check(source)
    assert "has 2 fields and the table 4 columns, so that it is no header: a,b" in source.notes[1]
