"""What the array standard lacks, in whatever form the arrays' place has it, against plain loops; and half precision."""

from __future__ import annotations

import math
import struct
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from places import ARRAYS, host, put, same
from problems import CNN, MLP, Problem, lay_out, relative
from systems import gram

from dnewton.arrays import cuda_kernels, image_windows, namespace
from dnewton.arrays.linear_algebra import (
    Cholesky,
    column_sums,
    subtract_product,
    symmetric_eigenvalues,
    transposed_product,
)
from dnewton.comm.communicator import Comm
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.sample_store import SampleStore
from dnewton.errors import UserError
from dnewton.model.cotangent import Cotangent
from dnewton.model.layers.conv import Conv
from dnewton.solvers.interface import StartPoint
from dnewton.solvers.newton import cg, early_termination, local_solver

pytestmark = pytest.mark.mpi

Pair = tuple[int, int]
POOLS: list[tuple[Pair, Pair, Pair, Pair]] = [  # image, size, stride, padding
    ((4, 6), (2, 2), (2, 2), (0, 0)),
    ((5, 7), (2, 3), (2, 3), (0, 0)),
    ((5, 5), (3, 3), (2, 2), (1, 1)),
    ((4, 4), (3, 2), (1, 1), (1, 0)),
    ((3, 5), (1, 2), (2, 3), (0, 1)),
    ((2, 2), (2, 2), (1, 1), (0, 0)),
]
KINDS = [np.float32, np.float64]


def cells(image: Pair, size: Pair, stride: Pair, padding: Pair) -> list[tuple[int, int, int, int, int]]:
    """For every cell of the pooled image and every offset in its window: (oh, ow, code, y, x) inside the image."""
    ho, wo = ((image[a] + 2 * padding[a] - size[a]) // stride[a] + 1 for a in (0, 1))
    every = [
        (oh, ow, i * size[1] + j, oh * stride[0] + i - padding[0], ow * stride[1] + j - padding[1])
        for oh in range(ho)
        for ow in range(wo)
        for i in range(size[0])
        for j in range(size[1])
    ]
    return [c for c in every if 0 <= c[3] < image[0] and 0 <= c[4] < image[1]]


@pytest.mark.parametrize("dtype", KINDS)
def test_error_function(dtype: Any) -> None:
    x = np.linspace(-6, 6, 49).astype(dtype).reshape(7, 7)
    found = host(namespace.erf(put(x)))
    assert found.dtype == dtype
    assert found == pytest.approx(np.vectorize(math.erf)(x), abs=1e-6 if dtype is np.float32 else 1e-14)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooling(pool: tuple[Pair, Pair, Pair, Pair], dtype: Any) -> None:
    image, size, stride, padding = pool
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, size=(3, *image, 2)).astype(dtype)  # many ties: the first maximum wins
    best, code = image_windows.max_pool(put(x), size, stride, padding)
    mean = host(image_windows.avg_pool(put(x), size, stride, padding))
    n, ho, wo, c = code.shape
    top, winner = np.full((n, ho, wo, c), -np.inf), np.zeros((n, ho, wo, c), int)
    total = np.zeros((n, ho, wo, c))
    for oh, ow, k, y, z in cells(*pool):
        better = x[:, y, z] > top[:, oh, ow]
        winner[:, oh, ow][better] = k
        top[:, oh, ow] = np.maximum(top[:, oh, ow], x[:, y, z])
        total[:, oh, ow] += x[:, y, z]
    assert same(best, top) and same(code, winner) and host(best).dtype == dtype
    assert relative(mean, total / (size[0] * size[1])) < 1e-6
    e = rng.normal(size=(n, ho, wo, c)).astype(dtype)
    scale = rng.normal(size=(n, ho, wo, c)).astype(dtype)
    assert same(image_windows.max_gather(put(x), code, size, stride, padding), top)
    for rights, shared in ((1, False), (4, False), (3, True)):
        cot = rng.normal(size=(1 if shared else n, rights, ho, wo, c)).astype(dtype)
        wanted, scaled, spread = (np.zeros((n, rights, *image, c)) for _ in range(3))
        for oh, ow, k, y, z in cells(*pool):
            won = (winner[:, oh, ow] == k)[:, None]
            wanted[:, :, y, z] += won * cot[:, :, oh, ow]
            scaled[:, :, y, z] += won * cot[:, :, oh, ow] * scale[:, None, oh, ow]
            spread[:, :, y, z] += cot[:, :, oh, ow] / (size[0] * size[1])
        found = image_windows.max_unpool(put(cot), code, image, size, stride, padding)
        assert relative(found, wanted) < 1e-6
        assert (
            relative(image_windows.max_unpool(put(cot), code, image, size, stride, padding, put(scale)), scaled) < 1e-6
        )
        if not shared:
            assert relative(image_windows.avg_unpool(put(cot), image, size, stride, padding), spread) < 1e-6
    assert np.isclose(
        (host(image_windows.max_gather(put(x), code, size, stride, padding)) * e).sum(dtype=np.float64),
        (x * host(image_windows.max_unpool(put(e[:, None]), code, image, size, stride, padding))[:, 0]).sum(
            dtype=np.float64
        ),
        rtol=1e-4,
    )  # adjoints of each other


def test_a_maximum_over_nan_is_nan() -> None:
    x = np.zeros((1, 2, 4, 1))
    for place in range(4):
        x[...] = 1.0
        x[0, place // 2, place % 2, 0] = np.nan
        best = host(image_windows.max_pool(put(x), (2, 2), (2, 2), (0, 0))[0])
        assert np.isnan(best[0, 0, 0, 0]) and best[0, 0, 1, 0] == 1.0


@pytest.mark.parametrize("shape", [(0, 4, 4, 2), (2, 4, 4, 0)])
def test_nothing_to_pool(shape: tuple[int, ...]) -> None:
    best, code = image_windows.max_pool(put(np.zeros(shape)), (2, 2), (2, 2), (0, 0))
    assert best.shape == code.shape == (shape[0], 2, 2, shape[3])
    cot = put(np.zeros((shape[0], 3, 2, 2, shape[3])))
    assert image_windows.max_unpool(cot, code, (4, 4), (2, 2), (2, 2), (0, 0)).shape == (shape[0], 3, 4, 4, shape[3])


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_patches(pool: tuple[Pair, Pair, Pair, Pair]) -> None:
    image, size, stride, padding = pool
    x = np.random.default_rng(1).normal(size=(2, *image, 3))
    found = host(image_windows.patches(put(x), size, stride, padding))
    ho, wo = image_windows.output_size(image, size, stride, padding)
    wanted = np.zeros((2, ho, wo, size[0] * size[1], 3))
    cot = np.random.default_rng(2).normal(size=wanted.shape)
    back = np.zeros_like(x)
    for oh, ow, k, y, z in cells(*pool):
        wanted[:, oh, ow, k] = x[:, y, z]
        back[:, y, z] += cot[:, oh, ow, k]
    assert same(found, wanted.reshape(2, ho * wo, -1))
    adjoint = image_windows.unpatch(put(cot.reshape(2, ho * wo, -1)), image, size, stride, padding)
    assert relative(adjoint, back) < 1e-14


@pytest.mark.skipif(ARRAYS != "cuda", reason="kernels of a GPU")
def test_kernels_with_places_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for arrays of more numbers than 32 bits can count."""
    indexed = cuda_kernels.indexed
    monkeypatch.setattr(cuda_kernels, "indexed", lambda source, numbers: indexed(source, 1 << 31))
    test_pooling(POOLS[2], np.float32)
    test_patches(POOLS[3])


@given(st.integers(0, 3000), st.integers(0, 70), st.integers(0, 70), st.booleans())
@example(2600, 3, 5, False)
def test_tall_matrices(rows: int, a: int, b: int, sliced: bool) -> None:
    """Sums of outer products and of columns, which a GPU takes in groups."""
    rng = np.random.default_rng(rows + a)
    x, y = rng.normal(size=(rows, a + 1)), rng.normal(size=(rows, b))
    here, used = (put(x)[:, :a], x[:, :a]) if sliced else (put(x), x)
    bound = 1e-13 * max(1, rows)
    assert np.allclose(host(transposed_product(here, put(y))), used.T @ y, rtol=0, atol=bound)
    assert np.allclose(host(column_sums(here)), used.sum(axis=0), rtol=0, atol=bound)


@pytest.mark.skipif(ARRAYS != "cuda", reason="a GPU's memory, of which a plan knows no more than these bytes")
def test_temporaries_stay_within_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CuPy copies for a batched product, and the patches of one sample with many outputs."""
    rng = np.random.default_rng(0)
    block = 1 << 20
    monkeypatch.setattr(namespace, "DEVICE_BLOCK", block)
    x, y = rng.normal(size=(1 << 16, 16)), rng.normal(size=(1 << 16, 3))  # 8 blocks
    conv = Conv((12, 12), (3, 3), (1, 1), (1, 1))
    weight, cot = rng.normal(size=(2, 9 * 4)), rng.normal(size=(2, 60, 144, 2))  # patches of 2.4 blocks a sample
    there = [put(a) for a in (x, y, weight, cot)]

    def grown(call: Callable[[], Any]) -> tuple[Any, float]:
        namespace.release_cuda()
        before = namespace.cuda_memory()[1]
        return call(), namespace.cuda_memory()[1] - before

    found, taken = grown(lambda: transposed_product(there[0], there[1]))
    assert relative(found, x.T @ y) < 1e-12
    assert taken < 2 * block
    found, taken = grown(lambda: conv.input_cotangent(there[2], Cotangent(there[3], None), 2))
    assert relative(found, conv.input_cotangent(weight, Cotangent(cot, None), 2)) < 1e-12
    assert taken < found.nbytes + 2 * block


@pytest.mark.parametrize("dtype", KINDS)
def test_arithmetic(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=200_001).astype(dtype), rng.normal(size=200_001).astype(dtype)
    exact = math.fsum(float(a) * float(b) for a, b in zip(x, y, strict=True))
    assert namespace.dot(put(x), put(y)) == pytest.approx(exact, rel=1e-10)
    assert namespace.dot(put(x[:0]), put(y[:0])) == 0.0
    z = put(y.copy())
    namespace.add_scaled(z, 0.3, put(x))
    assert relative(z, y + dtype(0.3) * x) < 1e-6
    out = put(np.zeros((3, 2), dtype))
    assert namespace.multiply(put(np.full((3, 2), 2, dtype)), put(np.array([[1, 3]], dtype)), out) is out
    assert same(out, np.array([[2, 6]] * 3))
    rows = rng.normal(size=(7, 2, 3)).astype(dtype)
    for some in ([2, 3, 4], [4, 0, 6], [], [5]):
        assert same(namespace.take(put(rows), np.array(some, dtype=np.int64)), rows[some])
    moved = namespace.copy(put(rows)[..., ::2])
    assert same(moved, rows[..., ::2]) and namespace.nbytes(moved) == 7 * 2 * 2 * np.dtype(dtype).itemsize
    eye = namespace.identity(3, put(x))
    namespace.diagonal(eye)[...] *= 4.0
    assert same(eye, 4 * np.eye(3))


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_linear_algebra(n: int) -> None:
    rng = np.random.default_rng(3)
    root, right = rng.normal(size=(n, n + 2)), rng.normal(size=n)
    matrix = root @ root.T
    above = np.where(np.tri(n) > 0, matrix, 99.0)  # of a symmetric matrix the lower triangle is read
    found = Cholesky.factor(put(above.copy()))
    assert found is not None and relative(matrix @ host(found.solve(put(right))), right) < 1e-8
    columns = rng.normal(size=(n, 3))
    assert relative(matrix @ host(found.solve(put(columns))), columns) < 1e-8
    lower = np.linalg.cholesky(matrix)
    assert relative(lower @ host(found.forward(put(right))), right) < 1e-8
    assert relative(lower.T @ host(found.backward(put(right))), right) < 1e-8
    assert relative(host(found.solve_rows(put(columns.T.copy()))) @ lower.T, columns.T) < 1e-8
    out = put(root.copy())
    subtract_product(out, put(matrix), put(root.T.copy()))
    assert relative(out, root - matrix @ root) < 1e-12
    assert relative(symmetric_eigenvalues(put(above)), np.linalg.eigvalsh(matrix)) < 1e-12
    inverted = namespace.inverse(put(matrix), 0.5)
    assert relative(host(inverted) @ (matrix + 0.5 * np.eye(n)), np.eye(n)) < 1e-9
    values, vectors = (host(a) for a in namespace.eigh(put(matrix)))
    assert relative(vectors * values @ vectors.T, matrix) < 1e-12 and (np.diff(values) >= 0).all()
    assert Cholesky.factor(put(np.zeros((n, n)))) is None
    assert namespace.inverse(put(np.zeros((n, n))), 0.0) is None


# --- half precision -------------------------------------------------------------------------------------------------

HALVES = [pytest.param("float16", id="float16"), pytest.param("bfloat16", id="bfloat16")]
standard = pytest.mark.skipif(ARRAYS == "strict", reason="the array standard knows no half precision")


def rounded(value: float, dtype: str) -> float:
    """One number to the nearest in half precision, by Python's own arithmetic."""
    if dtype == "float16":
        return float(struct.unpack("<e", struct.pack("<e", value))[0])
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    lower, upper = bits & 0xFFFF, bits >> 16
    upper += lower > 0x8000 or (lower == 0x8000 and upper & 1)
    return float(struct.unpack("<f", struct.pack("<I", upper << 16))[0])


@standard
@pytest.mark.parametrize("dtype", HALVES)
@given(st.lists(st.floats(-6e4, 6e4, width=32), min_size=1, max_size=20))
@example([1 + k / 256 for k in range(8)] + [1 + k / 2048 for k in range(8)])  # halves go to even
def test_rounding(dtype: str, values: list[float]) -> None:
    x = np.array(values, dtype=np.float32)
    found = namespace.widened(namespace.narrowed(put(x), dtype), dtype, put(x))
    assert host(found).tolist() == [rounded(v, dtype) for v in x.tolist()] and host(found).dtype == np.float32


@standard
def test_what_is_not_finite_stays_so() -> None:
    quiet = np.array([0x7F800001], dtype=np.uint32).view(np.float32)[0]  # its upper half alone would be infinity
    x = np.array([np.inf, -np.inf, np.nan, quiet, 3.4e38], dtype=np.float32)
    found = host(namespace.widened(namespace.narrowed(put(x), "bfloat16"), "bfloat16", put(x)))
    assert found[0] == np.inf and found[1] == -np.inf and np.isnan(found[2:4]).all() and found[4] >= 3.38e38


@standard
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("representation", ["factored", "dense"])
@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_a_jacobian_in_half_precision(comm: Comm, net: str, representation: str, dtype: str) -> None:
    """All products are with one rounded J, its rows; nothing else is rounded; and it takes less memory."""
    problem = Problem((5,) if net == "mlp" else (2, 7, 6), MLP if net == "mlp" else CNN)
    on = lay_out(problem, comm)
    everything = np.arange(problem.samples)
    loss, damping = on.objective.loss, 0.3
    (unit,) = jacobian.local_systems(on.network.blocks, per_layer=False)
    full = on.model(representation=representation)
    for parts, chunk in ((1, 100), (2, 2)):
        tapes = on.tapes(everything, parts)
        held = jacobian.build(on.network, on.theta, tapes, representation, chunk, dtype)  # type: ignore[arg-type]
        z = namespace.namespace(on.theta).concat([t.z for t in tapes])
        model = GaussNewton(held, loss, z, on.targets(), on.objective.regulariser)
        rows = host(held.rows(unit, slice(None)))
        v = np.random.default_rng(comm.rank).normal(size=on.network.size)
        w = np.random.default_rng(9).normal(size=(problem.samples, problem.outputs))
        assert relative(held.times(put(v), unit), (rows @ v).reshape(w.shape)) < 1e-12
        back = put(np.zeros_like(v))
        held.add_transposed(put(w), unit, back)
        assert relative(back, w.reshape(-1) @ rows) < 1e-12
        assert relative(held.gram_times(put(w), unit), (rows @ (rows.T @ w.reshape(-1))).reshape(w.shape)) < 1e-11
        assert relative(gram(held, unit), rows @ rows.T) < 1e-12
        bent = host(model.hessian_times(put((rows @ v).reshape(w.shape)), slice(0, problem.samples)))
        wanted = bent.reshape(-1) @ rows + (model.regulariser + damping) * v
        assert relative(model.block_product(put(v), unit, damping), wanted) < 1e-12
        close = 2e-3 if dtype == "float16" else 2e-2
        assert relative(host(rows), host(full.jacobian.rows(unit, slice(None)))) < close
        g = put(np.random.default_rng(comm.rank).normal(size=on.network.size))
        solutions = []
        for way in ("plain", "gram", "kronecker", "diagonal", "primal", "dual"):
            system = local_solver.make([(way, 0)], model, g, unit, damping, 1e-9)
            solutions.append(host(cg.solve([system], g, 500, early_termination.NeverTerminate()).d))
        assert all(relative(d, solutions[0]) < 1e-5 for d in solutions)
    if net == "cnn" and representation == "dense" and unit.size:
        assert held.nbytes == full.jacobian.nbytes // 4  # of float64


@standard
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_float16_overflows_in_one_line(comm: Comm, scale: float) -> None:
    """Inputs that the half precision cannot hold end the run on all ranks; a Jacobian of zeros would stand still."""
    solver = {"jacobian": "factored", "jacobian_dtype": "float16", "early_termination": {"mode": "off"}}
    problem = Problem((2, 7, 6), CNN, "squared", solver=solver)
    problem.x *= scale
    newton = lay_out(problem, comm).newton()
    newton.begin(StartPoint(lay_out(problem, comm).theta))
    if scale == 1.0:
        assert newton.step().loss > 0
    else:
        with pytest.raises(UserError, match="float16 ends at 65504"):
            newton.step()
    newton.close()


@standard
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_pieces_are_the_whole(dtype: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnewton.curvature.sample_store.block_bytes", lambda array: 64)
    x = np.arange(60.0).reshape(10, 3, 2)
    found = SampleStore(put(x), dtype)
    pieces = list(found.pieces())
    assert len(pieces) == (1 if dtype is None else 10)
    assert same(np.concatenate([host(part) for _, part in pieces]), x) and same(found.part(slice(2, 5)), x[2:5])
    assert found.nbytes == x.nbytes // (1 if dtype is None else 4) and same(found.like, x[:0])


@pytest.mark.parametrize(
    "dtype", [None, pytest.param("float16", marks=standard), pytest.param("bfloat16", marks=standard)]
)
def test_what_was_taken_in_is_let_go(dtype: str | None) -> None:
    """Nothing that is held is a view of the array that it was copied from, or made like."""
    x = put(np.ones((4, 3)))
    taken = weakref.ref(x)
    room = SampleStore.room(8, x, dtype)
    room.put(slice(0, 4), x)
    rounded = SampleStore(x, dtype) if dtype is not None else None
    del x
    assert taken() is None and room.like.shape == (0, 3)
    assert rounded is None or rounded.shape == (4, 3)
