"""Pooling codes and patches, each against something simpler."""

from __future__ import annotations

import numpy as np

from dnewton.arrays.image_windows import max_pool, max_unpool, patches
from dnewton.arrays.namespace import sample_blocks


def test_first_maximum_wins_and_nan_is_seen() -> None:
    x = np.array([[3.0, 3.0, 1.0, 5.0], [3.0, 3.0, 5.0, 5.0]])[None, :, :, None]
    best, code = max_pool(x, (2, 2), (2, 2), (0, 0))
    assert best.ravel().tolist() == [3.0, 5.0] and code.ravel().tolist() == [0, 1]
    back = max_unpool(np.ones((1, 1, 1, 2, 1)), code, (2, 4), (2, 2), (2, 2), (0, 0))
    assert back[0, 0, :, :, 0].tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    x[0, 0, 1, 0] = np.nan
    assert np.isnan(max_pool(x, (2, 2), (2, 2), (0, 0))[0][0, 0, 0, 0])


def test_large_windows_have_wide_codes() -> None:
    x = np.zeros((1, 17, 17, 1))
    x[0, 16, 16, 0] = 1.0
    assert max_pool(x, (17, 17), (17, 17), (0, 0))[1].ravel().tolist() == [288]


def test_patches_of_no_channels_and_no_samples() -> None:
    assert patches(np.zeros((2, 5, 5, 0)), (3, 3), (1, 1), (1, 1)).shape == (2, 25, 0)
    assert patches(np.zeros((0, 5, 5, 2)), (3, 3), (2, 1), (0, 1)).shape == (0, 10, 18)
    assert sample_blocks(0, 10) == [] and sample_blocks(3, 10**9) == [slice(0, 1), slice(1, 2), slice(2, 3)]
