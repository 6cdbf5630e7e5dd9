"""Pooling codes and patches, each against something simpler."""

from __future__ import annotations

import numpy as np
import pytest

from dnewton.arrays import image_windows
from dnewton.arrays.image_windows import max_gather, max_pool, max_unpool, patches
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


def test_pooling_some_samples_at_a_time_is_pooling_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, geometry = rng.normal(size=(7, 6, 5, 3)), ((3, 2), (2, 2), (1, 1))
    scale = rng.normal(size=max_pool(x, *geometry)[0].shape)

    def everything() -> list[np.ndarray]:
        best, code = max_pool(x, *geometry)
        cot = best[:, None] * np.arange(1.0, 4.0)[:, None, None, None]
        back = [max_unpool(c, code, (6, 5), *geometry, s) for c in (cot, cot[:1]) for s in (None, scale)]
        return [best, code, max_gather(x, code, *geometry), *back]

    whole = everything()
    monkeypatch.setattr(image_windows, "POOLED_BYTES", 2 * x[0].nbytes)
    assert all(np.array_equal(a, b) for a, b in zip(whole, everything(), strict=True))


def test_patches_of_one_channel_are_those_of_more() -> None:
    x = np.random.default_rng(1).normal(size=(3, 7, 6, 2))
    both = patches(x, (3, 2), (2, 1), (1, 0))
    first = patches(x[..., :1], (3, 2), (2, 1), (1, 0))
    assert np.array_equal(first, both.reshape(*both.shape[:2], 6, 2)[..., 0])
    assert np.shares_memory(first, first.reshape(-1, 6))  # products take it as it is
