"""The sources of the fused CUDA kernels, as :class:`cupy.ElementwiseKernel` takes them.

Data, not code: :mod:`dnewton.arrays.namespace` compiles them, and has the plain form of each beside it. Images are
(N, H, W, C).
"""

from __future__ import annotations

# Where output cell `i` of a pooled image (..., Ho, Wo, C) lies, and what its window sees of the image (H, W).
_WINDOW = "int64 H, int64 W, int64 C, int64 Ho, int64 Wo, int32 kh, int32 kw, int32 sh, int32 sw, int32 ph, int32 pw"
_CELL = """
    const long long c = i % C, ow = i / C % Wo, oh = i / (C * Wo) % Ho, n = i / (C * Wo * Ho);
"""

MAX_POOL = (
    f"raw T x, {_WINDOW}",
    "T best, U code",
    _CELL
    + """
    T top = 0;
    int winner = -1;
    for (int k = 0; k < kh * kw; ++k) {
        const long long y = oh * sh + k / kw - ph, z = ow * sw + k % kw - pw;
        if (y < 0 || y >= H || z < 0 || z >= W) continue;
        const T v = x[((n * H + y) * W + z) * C + c];
        if (winner < 0 || v > top || v != v) {  // NaN stays: nothing is larger
            winner = winner < 0 || v > top ? k : winner;
            top = v;
        }
    }
    best = top;
    code = winner < 0 ? 0 : winner;
""",
    "dnewton_max_pool",
)

AVG_POOL = (
    f"raw T x, {_WINDOW}",
    "T mean",
    _CELL
    + """
    T total = 0;
    for (int k = 0; k < kh * kw; ++k) {
        const long long y = oh * sh + k / kw - ph, z = ow * sw + k % kw - pw;
        if (y >= 0 && y < H && z >= 0 && z < W) total += x[((n * H + y) * W + z) * C + c];
    }
    mean = total / (kh * kw);
""",
    "dnewton_avg_pool",
)

MAX_GATHER = (
    f"raw T x, U code, {_WINDOW}",
    "T found",
    _CELL
    + """
    const long long y = oh * sh + code / kw - ph, z = ow * sw + code % kw - pw;
    found = y >= 0 && y < H && z >= 0 && z < W ? x[((n * H + y) * W + z) * C + c] : T(0);
""",
    "dnewton_max_gather",
)

# Cell `i` of (N, K, H, W, C) sums what the windows over it have for it: no atomic additions, the same bits every time.
# `cot` may have one sample for all: `cot_samples` is 0 then, else 1.
_UNPOOL = """
    const long long c = i % C, w = i / C % W, h = i / (C * W) % H, nk = i / (C * W * H), n = nk / K, k = nk % K;
    T total = 0;
    for (int a = 0; a < kh; ++a) {
        const long long y = h + ph - a;
        if (y < 0 || y % sh || y / sh >= Ho) continue;
        for (int b = 0; b < kw; ++b) {
            const long long z = w + pw - b;
            if (z < 0 || z % sw || z / sw >= Wo) continue;
            const long long cell = ((y / sh) * Wo + z / sw) * C + c, size = Ho * Wo * C;
            ADD
        }
    }
    out = total;
"""
_COT = "cot[(n * cot_samples * K + k) * size + cell]"

MAX_UNPOOL = (
    f"raw T cot, raw U code, int64 K, int64 cot_samples, {_WINDOW}",
    "T out",
    _UNPOOL.replace("ADD", f"if (code[n * size + cell] == a * kw + b) total += {_COT};"),
    "dnewton_max_unpool",
)

MAX_UNPOOL_SCALED = (  # the activation's slope at the maxima, times the mask of the maxima
    f"raw T cot, raw U code, raw T scale, int64 K, int64 cot_samples, {_WINDOW}",
    "T out",
    _UNPOOL.replace("ADD", f"if (code[n * size + cell] == a * kw + b) total += scale[n * size + cell] * {_COT};"),
    "dnewton_max_unpool_scaled",
)

AVG_UNPOOL = (
    f"raw T cot, int64 K, int64 cot_samples, {_WINDOW}",
    "T out",
    _UNPOOL.replace("ADD", f"total += {_COT} / T(kh * kw);"),
    "dnewton_avg_unpool",
)

ERF = ("T x", "T y", "y = erf(x)", "dnewton_erf")

ADD_SCALED = ("float64 a, T x", "T y", "y += T(a) * x", "dnewton_add_scaled")

DOT = (  # partial sums, which neighbouring threads read side by side
    "raw T x, raw T y, int64 size, int64 lanes",
    "float64 part",
    """
    double total = 0;
    for (long long j = i; j < size; j += lanes) total += double(x[j]) * double(y[j]);
    part = total;
""",
    "dnewton_dot",
)
