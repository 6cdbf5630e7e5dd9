"""Nets that cover what the layers can do: their options, awkward shapes, and random ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from problems import MLP, Problem

LOSSES = ["squared", "cross_entropy", "logistic"]
CONVS = [
    {"kernel": 1},
    {"kernel": 3, "padding": 2},
    {"kernel": [3, 2], "stride": [2, 1], "padding": [1, 0]},
    {"kernel": [1, 4], "stride": [1, 3], "padding": [0, 2]},
    {"kernel": 5, "stride": 4, "padding": 1},
]
POOLS: list[Any] = [
    {"maxpool": {"size": 2}},
    {"maxpool": {"size": 3, "stride": 2, "padding": 1}},
    {"maxpool": {"size": [2, 1], "stride": [1, 2]}},
    {"avgpool": {"size": 2}},
    {"avgpool": {"size": [3, 2], "stride": [2, 1], "padding": [1, 1]}},
]
AWKWARD = {
    "one sample": Problem((3,), MLP, samples=1),
    "one of everything": Problem((1,), [{"dense": {"units": 1, "activation": "tanh"}}], "squared", samples=1),
    "one layer": Problem((6,), [{"dense": {"units": 2}}], samples=5),
    "output activation": Problem((4,), [MLP[0], {"dense": {"units": 2, "activation": "sigmoid"}}], "squared"),
    "wide outputs": Problem((2,), [{"dense": {"units": 3, "activation": "relu"}}, {"dense": {"units": 11}}]),
    "outputs of an image": Problem(
        (2, 3, 3), [{"conv": {"channels": 2, "kernel": 2, "activation": "tanh"}}, {"avgpool": {"size": 2}}, "flatten"]
    ),
    "outputs of a maximum": Problem(
        (1, 4, 4), [{"conv": {"channels": 2, "kernel": 3}}, {"maxpool": {"size": 2}}, "flatten"], "squared"
    ),
    "linear convolution at the end": Problem((1, 4, 3), [{"conv": {"channels": 3, "kernel": 2}}, "flatten"], "squared"),
}

dense = st.builds(
    lambda u, a: {"dense": {"units": u, "activation": a}},
    st.integers(1, 6),
    st.sampled_from(["relu", "tanh", "sigmoid", "softplus", "linear"]),
)
conv = st.builds(
    lambda c, k, s, p, a: {
        "conv": {"channels": c, "kernel": list(k), "stride": list(s), "padding": list(p), "activation": a}
    },
    st.integers(1, 4),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 1)),
    st.sampled_from(["relu", "tanh", "softplus"]),
)
pool = st.builds(lambda kind, s: {kind: {"size": s}}, st.sampled_from(["maxpool", "avgpool"]), st.integers(1, 2))
