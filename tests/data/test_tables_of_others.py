"""Tables as other programs write them: spreadsheets, R, pandas; read as they are meant, or refused with the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inside import start
from runs import fails, train

from dnewton.comm.communicator import Comm
from dnewton.config.loss_entry import loss_of
from dnewton.config.schema import DataSection
from dnewton.data.parts import Parts, load_parts, open_parts
from dnewton.data.samples import Window
from dnewton.data.sources import Source
from dnewton.errors import UserError

pytestmark = pytest.mark.serial
ROWS = [[0.5, 2.0, 3.25, 0], [1.5, -1.0, 4.0, 1], [2.25, 7.0, 1.5, 2], [-3.0, 0.25, 2.5, 1], [4.0, 1.0, 8.5, 0]]
PLAIN = [",".join(map(str, row)) for row in ROWS]


def parts(folder: Path, files: dict[str, str], inputs: int = 3, **keys: Any) -> Parts:
    for name, text in files.items():
        (folder / name).write_text(text)
    located = {
        k: [str(folder / n) for n in v] if isinstance(v, list) else str(folder / v)
        for k, v in keys.items()
        if k in ("train", "test")
    }
    section = DataSection.model_validate({**keys, **located})
    return open_parts(section, (inputs,), 0, Comm.alone())


def table(source: Source | None) -> tuple[list[list[float]], list[Any]]:
    assert source is not None and source.fetch is not None
    source.fetch(0, source.features)
    return np.concatenate(list(source.blocks(0, source.features))).tolist(), source.all_targets().tolist()


def read(folder: Path, lines: list[str], **keys: Any) -> tuple[list[list[float]], list[Any]]:
    return table(parts(folder, {"t.csv": "\n".join(lines) + "\n"}, train="t.csv", **keys).train)


WANTED = [row[:3] for row in ROWS], [row[3] for row in ROWS]
NUMBERS = ("7", "3", "12", "5", "9")  # of rows, drawn from a larger table
MEANT = {
    "R, rows of a larger table": [
        '"a" "b" "c" "y"',
        *(f'"{n}" ' + p.replace(",", " ") for n, p in zip(NUMBERS, PLAIN, strict=True)),
    ],
    "pandas, likewise": [",a,b,c,y", *(f"{n},{p}" for n, p in zip(NUMBERS, PLAIN, strict=True))],
    "pandas, dates": [",a,b,c,y", *(f"2019-01-0{k},{p}" for k, p in enumerate(PLAIN))],
    "pandas, twice": ["Unnamed: 0,Unnamed: 0.1,a,b,c,y", *(f"{k},{k},{p}" for k, p in enumerate(PLAIN))],
    "units": ["a,b,c,y", "cm,kg,,-", *PLAIN],
    "units, semicolons": ["a;b;c;y", "[s];[bar];[m];[]", *(p.replace(",", ";") for p in PLAIN)],
    "title in a cell": ["Table 1,,,", "a,b,c,y", *PLAIN],
    "empty columns": ["a,b,c,y,,", *(f"{p},," for p in PLAIN)],
    "a column called #": ["#,a,b,c,y", *(f"{k},{p}" for k, p in enumerate(PLAIN))],
}


@pytest.mark.parametrize("name", MEANT)
def test_what_is_meant(tmp_path: Path, name: str) -> None:
    keys = {"ignore": ["#"]} if "#" in name else {}
    assert read(tmp_path, MEANT[name], **keys) == WANTED


def test_row_names_below_a_stated_header(tmp_path: Path) -> None:
    lines = ["a b c y", *(f"{n} " + p.replace(",", " ") for n, p in zip(NUMBERS, PLAIN, strict=True))]
    assert read(tmp_path, lines, header=True) == WANTED


@pytest.mark.parametrize("error", ["#N/A", "#DIV/0!", "#REF!", "#NAME?", '""', '"NA"'])
def test_errors_of_spreadsheets_are_missing_values(tmp_path: Path, error: str) -> None:
    lines = ["a,b,c,y", *PLAIN, f"{error},2,3,1"]
    with pytest.raises(UserError, match=r"line 7: column 1: .* is no value; .*data\.missing: mean or drop"):
        read(tmp_path, lines)
    assert read(tmp_path, lines, missing="drop") == WANTED
    assert np.isnan(read(tmp_path, lines, missing="mean")[0][5][0])


def test_comments_stay_comments(tmp_path: Path) -> None:
    assert read(tmp_path, ["# a,b,c,y", *PLAIN[:2], "#1,2,3,0", *PLAIN[2:], "# the end"]) == WANTED


THOUSANDS = {
    "quoted": ['"1,200",3,"1,100",1', "950,2,800,0", "7,1,2,1"],
    "semicolons": ["1,234;2;3;0", "950;2;3;1", "17;1;2;1"],
}


@pytest.mark.parametrize("name", THOUSANDS)
def test_thousands_are_no_fractions(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"may be a fraction or thousands; set data\.decimal"):
        read(tmp_path, THOUSANDS[name])
    assert read(tmp_path, THOUSANDS["semicolons"], decimal=",")[0][0] == [1.234, 2, 3]


def test_a_point_among_decimal_commas_is_no_decimal(tmp_path: Path) -> None:
    lines = [f"{k},5;2;3;1" for k in range(9)] + ["31,5;1.200;3;1"]
    with pytest.raises(UserError, match=r"line 10: column 2: '1.200' has a point where decimals have commas"):
        read(tmp_path, lines, decimal=",")


def test_words_keep_their_commas(tmp_path: Path) -> None:
    lines = ["1,5;2;3,5;red , blue", "2,5;2;3;zone 1,5", "1;2;3;v1.5"]
    assert read(tmp_path, lines)[1] == ["red , blue", "zone 1,5", "v1.5"]


@pytest.mark.parametrize("place", [1, 400])
def test_a_missing_label_is_no_class(tmp_path: Path, place: int) -> None:
    lines = ["a,b,c,y", *(PLAIN * 100)]
    lines[place] = "1,2,3,NA"
    with pytest.raises(UserError, match=f"line {place + 1}: column 4: the label is missing"):
        read(tmp_path, lines)


def test_small_tables_without_a_header(tmp_path: Path) -> None:
    """0, 1, 2, 3 is no header above two lines, nor where the training table had none."""
    assert len(read(tmp_path, ["0,1,2,3", "4,5,6,7", "1,4,3,2"])[0]) == 3
    counted = "1,2,3,4\n" + "\n".join("5.5,6.5,6.25,1" for _ in range(9))
    found = parts(tmp_path, {"a.csv": "\n".join(PLAIN), "b.csv": counted}, train="a.csv", test="b.csv")
    assert len(table(found.test)[0]) == 10


LISTS = {
    "order": (["a,b,c,y", *PLAIN], ["c,b,a,y", *PLAIN], "feature 0 is 'c', in .* it is 'a'"),
    "names": (["a,b,c,y", *PLAIN], ["u,b,c,y", *PLAIN], "feature 0 is 'u'"),
}


@pytest.mark.parametrize("name", LISTS)
def test_files_of_a_list_agree(tmp_path: Path, name: str) -> None:
    first, second, words = LISTS[name]
    with pytest.raises(UserError, match=words):
        parts(tmp_path, {"a.csv": "\n".join(first), "b.csv": "\n".join(second)}, train=["a.csv", "b.csv"])


def test_labels_of_a_list_are_of_one_kind(tmp_path: Path) -> None:
    files = {"a.csv": "a,b,c,y\n1,2,3,A\n2,3,4,B", "b.csv": "a,b,c,y\n1,2,3,7\n2,3,4,7"}
    for order in (["a.csv", "b.csv"], ["b.csv", "a.csv"]):
        found = parts(tmp_path, files, train=order).train
        assert sorted(found.all_targets().tolist()) == ["7", "7", "A", "B"]


@pytest.mark.parametrize(
    ("lines", "keys", "words"),
    [
        (["a,b,c,y", *PLAIN], {"features": ["a", "b", "y"], "target": "y"}, "features names column 'y'"),
        (["id,a,id,b,c,y", *(f"1,{p},1" for p in PLAIN)], {"ignore": ["id"]}, "2 columns are called 'id'"),
        (
            ["a,b,c,y", *(f"s{k},{p.partition(',')[2]}" for k, p in enumerate(PLAIN))],
            {},
            r"'s0' is not a number; .*data\.ignore",
        ),
        (["1.5,2.5,3.5,0", "0.5,1,2,1", '"0,5",1,2,1'], {}, r"'0,5' is not a number; .*data\.decimal"),
    ],
)
def test_mistakes(tmp_path: Path, lines: list[str], keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, lines, **keys)


def test_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(PLAIN), encoding="utf-16")
    section = DataSection.model_validate({"train": str(tmp_path / "t.csv")})
    with pytest.raises(UserError, match="UTF-16 or UTF-32; save it as UTF-8"):
        open_parts(section, (3,), 0, Comm.alone())


def test_infinity_is_no_missing_value(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.array([[np.inf, 1, 2], [1, 2, 3]]), y=[0.5, 1.5])
    section = DataSection.model_validate({"train": str(tmp_path / "t.npz")})
    alone = Comm.alone()
    opened = open_parts(section, (3,), 0, alone)
    with pytest.raises(UserError, match=r"column 0 is inf; clean the data$"):
        load_parts(opened, section, Window(0, 3, 3, ()), 1, loss_of("squared"), "float64", np.inf, alone)


@pytest.mark.jobs(1)
def test_predict_says_what_it_read_and_needs_no_ignored_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["day,a,b,c,y", *(f"mon,{p}" for p in PLAIN)]))
    net = {
        "net": {"input": [3], "loss": "cross_entropy", "layers": [{"dense": {"units": 3}}]},
        "data": {"train": "t.csv", "ignore": ["day"]},
        "solver": {"max_iterations": 1},
    }
    assert train(1, tmp_path, net, "run").returncode == 0
    texts = []
    new = {
        "same.csv": ["day,a,b,c,y", *(f"mon,{p}" for p in PLAIN)],
        "without.csv": ["a,b,c,y", *PLAIN],
        "features.csv": ["a,b,c", *(p.rpartition(",")[0] for p in PLAIN)],
        "indexed.csv": [",a,b,c,y", *(f"{k},{p}" for k, p in enumerate(PLAIN))],
    }
    for name, lines in new.items():
        (tmp_path / name).write_text("\n".join(lines))
        said = start(1, "--model", "run", "--data", name, "--out", "p.txt", cwd=tmp_path, module="dnewton.predict")
        assert said.returncode == 0, said.stderr
        assert "3 features a b c" in said.stdout
        texts.append((tmp_path / "p.txt").read_text())
    assert len(set(texts)) == 1
    np.savez(tmp_path / "gap.npz", x=[[np.nan, 1, 2]])
    said = start(1, "--model", "run", "--data", "gap.npz", cwd=tmp_path, module="dnewton.predict")
    fails(said, "train with data.missing: mean")
