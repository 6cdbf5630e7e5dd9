"""The bundled sets are scikit-learn's, bit for bit, without importing it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from places import same
from sklearn import datasets
from sklearn.model_selection import train_test_split

from dnewton.data.bundled import NAMES, read_bundled


@pytest.mark.parametrize("name", NAMES)
def test_values_and_parts(name: str) -> None:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    stratify = None if name == "diabetes" else y
    parts = train_test_split(np.arange(len(y)), test_size=0.2, random_state=0, stratify=stratify)
    for part, rows in zip(("train", "test"), parts, strict=True):
        found = read_bundled(name, part)
        expected = x[np.sort(rows)], y[np.sort(rows)]
        assert all(same(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))


def test_scikit_learn_is_not_imported() -> None:
    read = "from dnewton.data.bundled import read_bundled; read_bundled('digits', 'test')"
    code = f"import sys; {read}; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
