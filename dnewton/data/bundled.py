"""The data sets that scikit-learn ships, read from its files: importing it takes longer than reading them.

A set's test part is a fixed fifth of its samples, stratified by class, as scikit-learn's `train_test_split` with
`random_state=0` drew it; the values are those of its `load_NAME`, bit for bit (a test compares them).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from dnewton.data.sources import Values
from dnewton.errors import UserError

TEST_ROWS = {  # by set, a bit per sample, as hexadecimal digits
    "breast_cancer": (
        "0040048890900002000044a0462981200905228401c20109210000100c200042000862803582800c05002010038024401860"
        "828220036d80201a001ae48924a124000b0002850000"
    ),
    "diabetes": (
        "4229040004004a98410a00208a1042280a0680178830102822068400004200400409083940a200018220119000a005060805"
        "d01000103240"
    ),
    "digits": (
        "000004883524104000064100934205001a00080100240028062c12001000940a009019120420f8a0028110a000080a882044"
        "1524494240a00a0000004004d80000818020004805c400104008a0100005404800301000020ec409000224840083a8013c20"
        "a6980a0000000b08400804a0184802024041c1008004404684376a810216004480004042a0a4180a5000840b8561c6081080"
        "08004c80c02004068e00010882008100380803c008190000100e01008410a0210033282904c044c080680e01028300820088"
        "22a6402c24042108a860809081a00c02820242120138a41500"
    ),
    "iris": ("90401400090b2300500042a019004040429210"),
    "wine": ("9040150009090609800800216c00950004009a048c0080"),
}
NAMES = tuple(TEST_ROWS)
FILES = {"iris": "iris.csv", "wine": "wine_data.csv", "breast_cancer": "breast_cancer.csv"}


def read_bundled(name: str, part: str) -> tuple[Values, Values]:
    """x and y of a bundled set's fixed train or test part. Raises UserError where scikit-learn is not installed."""
    x, y = _whole(name)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(TEST_ROWS[name]), dtype=np.uint8))[: len(y)].astype(bool)
    rows = np.flatnonzero(bits if part == "test" else ~bits)
    return x[rows], y[rows]


def _whole(name: str) -> tuple[Values, Values]:
    folder = _folder(name)
    if name == "diabetes":
        x = np.loadtxt(folder / "diabetes_data_raw.csv.gz")
        x = (x - x.mean(axis=0)) / x.std(axis=0) / len(x) ** 0.5
        return x, np.loadtxt(folder / "diabetes_target.csv.gz")
    if name == "digits":
        table = np.loadtxt(folder / "digits.csv.gz", delimiter=",")
    else:
        table = np.loadtxt(folder / FILES[name], delimiter=",", skiprows=1)
    return np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(np.int64)


def _folder(name: str) -> Path:
    """Where scikit-learn has its data; nothing of it is imported."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{name}: this set is scikit-learn's, which is not installed; pip install scikit-learn")
    return Path(next(iter(spec.submodule_search_locations))) / "datasets" / "data"
