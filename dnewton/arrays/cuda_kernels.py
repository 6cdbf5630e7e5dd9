"""The sources of the fused CUDA kernels, as :class:`cupy.ElementwiseKernel` takes them.

Data, not code: :mod:`dnewton.arrays.namespace` compiles them, and has the plain form of each beside it. Images are
(N, H, W, C). The kernels of windows compute places in the type INT, which :func:`indexed` fills in: dividing numbers of
64 bits is what takes most of their time.
"""

from __future__ import annotations

Source = tuple[str, str, str, str]


def indexed(source: Source, numbers: int) -> Source:
    """The source with places of 32 bits, where no array has more than `numbers` of so many, else of 64 bits."""
    ins, outs, body, name = source
    if numbers < 1 << 31:
        return ins.replace("INT", "int32"), outs, body.replace("INT", "int"), name
    return ins.replace("INT", "int64"), outs, body.replace("INT", "long long"), name + "_64"


# Where output cell `i` of a pooled image (..., Ho, Wo, C) lies, and what its window sees of the image (H, W).
_WINDOW = "INT H, INT W, INT C, INT Ho, INT Wo, int32 kh, int32 kw, int32 sh, int32 sw, int32 ph, int32 pw"
_CELL = """
    const INT row = (INT)i / C, c = (INT)i - row * C, line = row / Wo, ow = row - line * Wo, n = line / Ho;
    const INT oh = line - n * Ho;
"""

MAX_POOL = (
    f"raw T x, {_WINDOW}",
    "T best, U code",
    _CELL
    + """
    T top = 0;
    int winner = -1;
    for (int k = 0; k < kh * kw; ++k) {
        const INT y = oh * sh + k / kw - ph, z = ow * sw + k % kw - pw;
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
        const INT y = oh * sh + k / kw - ph, z = ow * sw + k % kw - pw;
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
    const INT y = oh * sh + code / kw - ph, z = ow * sw + code % kw - pw;
    found = y >= 0 && y < H && z >= 0 && z < W ? x[((n * H + y) * W + z) * C + c] : T(0);
""",
    "dnewton_max_gather",
)

# What the windows over a place (h, w) of an image have for it is summed: no atomic additions, the same bits every time.
_SUM_OVER_WINDOWS = """
    T total = 0;
    for (int a = 0; a < kh; ++a) {
        const INT y = h + ph - a, top = y / sh;
        if (y < 0 || top * sh != y || top >= Ho) continue;
        for (int b = 0; b < kw; ++b) {
            const INT z = w + pw - b, left = z / sw;
            if (z < 0 || left * sw != z || left >= Wo) continue;
            ADD
        }
    }
    out = total;
"""

# Cell `i` of (N, K, H, W, C). `cot` may have one sample for all: `cot_samples` is 0 then, else 1.
_UNPOOL = """
    const INT row = (INT)i / C, c = (INT)i - row * C, line = row / W, w = row - line * W, nk = line / H;
    const INT h = line - nk * H, n = nk / K, k = nk - n * K, size = Ho * Wo * C;
""" + _SUM_OVER_WINDOWS.replace("ADD", "const INT cell = (top * Wo + left) * C + c; ADD")
_COT = "cot[(n * cot_samples * K + k) * size + cell]"

MAX_UNPOOL = (
    f"raw T cot, raw U code, INT K, INT cot_samples, {_WINDOW}",
    "T out",
    _UNPOOL.replace("ADD", f"if (code[n * size + cell] == a * kw + b) total += {_COT};"),
    "dnewton_max_unpool",
)

MAX_UNPOOL_SCALED = (  # the activation's slope at the maxima, times the mask of the maxima
    f"raw T cot, raw U code, raw T scale, INT K, INT cot_samples, {_WINDOW}",
    "T out",
    _UNPOOL.replace("ADD", f"if (code[n * size + cell] == a * kw + b) total += scale[n * size + cell] * {_COT};"),
    "dnewton_max_unpool_scaled",
)

AVG_UNPOOL = (
    f"raw T cot, INT K, INT cot_samples, {_WINDOW}",
    "T out",
    _UNPOOL.replace("ADD", f"total += {_COT} / T(kh * kw);"),
    "dnewton_avg_unpool",
)

PATCHES = (  # (N, Ho*Wo, kh*kw*C): C runs fastest, so that neighbouring threads read side by side
    f"raw T x, {_WINDOW}",
    "T out",
    """
    const INT row = (INT)i / C, c = (INT)i - row * C, cell = row / (kh * kw), k = row - cell * (kh * kw);
    const INT line = cell / Wo, ow = cell - line * Wo, n = line / Ho, oh = line - n * Ho;
    const INT y = oh * sh + k / kw - ph, z = ow * sw + k % kw - pw;
    out = y >= 0 && y < H && z >= 0 && z < W ? x[((n * H + y) * W + z) * C + c] : T(0);
""",
    "dnewton_patches",
)

UNPATCH = (  # cell `i` of (N, H, W, C); of the patches (N, Ho*Wo, kh*kw*C)
    f"raw T cot, {_WINDOW}",
    "T out",
    """
    const INT row = (INT)i / C, c = (INT)i - row * C, line = row / W, w = row - line * W, n = line / H;
    const INT h = line - n * H;
"""
    + _SUM_OVER_WINDOWS.replace(
        "ADD", "total += cot[(((n * Ho + top) * Wo + left) * (kh * kw) + a * kw + b) * C + c];"
    ),
    "dnewton_unpatch",
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

COLUMN_SUMS = (  # partial sums of a matrix's columns, each lane every `lanes`-th row
    "raw T x, int64 rows, int64 columns, int64 lanes",
    "T part",
    """
    const long long lane = i / columns, column = i - lane * columns;
    T total = 0;
    for (long long row = lane; row < rows; row += lanes) total += x[row * columns + column];
    part = total;
""",
    "dnewton_column_sums",
)
