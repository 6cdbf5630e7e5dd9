"""Which of NumPy's names CuPy 14.2 has, by those that it lacks, and how the fake treats the rest."""

from __future__ import annotations


def _words(text: str) -> set[str]:
    return set(text.split())


LACKING = _words("""
    False_ ScalarType True_ asmatrix block bmat busday_count busday_offset busdaycalendar bytes_ char character
    clongdouble complex256 core ctypeslib datetime64 datetime_as_string datetime_data dtypes einsum_path emath errstate
    f2py flexible float128 frompyfunc fromregex geomspace get_include getbufsize geterr geterrcall
    histogram_bin_edges info insert is_busday isnat little_endian longdouble ma matrix matvec memmap nanpercentile
    nanquantile ndenumerate nditer nested_iters object_ polyder polydiv polyint rec recarray record sctypeDict
    setbufsize seterr seterrcall show_runtime spacing str_ strings test timedelta64 typecodes unstack vecdot vecmat void
""")

# In CuPy, left out here: nothing on the device, or files, or strings, or classes.
OMITTED = _words("""
    DataSource array2string array_repr array_str array_str base_repr binary_repr broadcast c_ exceptions format_parser
    from_dlpack frombuffer fromfile fromfunction fromiter fromstring fft genfromtxt index_exp lib linalg load loadtxt
    mgrid nditer ndindex ogrid piecewise poly1d polynomial r_ random s_ save savetxt savez savez_compressed
    set_printoptions testing typing ufunc vectorize apply_along_axis apply_over_axes
""")

# Answered on the host from shapes and dtypes: arrays in, no arrays out, no kernel.
HOST = _words("""
    broadcast_shapes can_cast common_type get_printoptions iscomplexobj isfortran isrealobj isscalar issubdtype isdtype
    iterable may_share_memory min_scalar_type mintypecode ndim printoptions promote_types result_type shape
    shares_memory size typename
""")

# Make arrays from numbers.
CREATING = _words("bartlett blackman hamming hanning indices kaiser ix_ logspace tri tril_indices triu_indices")

# The size of the result, or the answer itself, comes to the host first.
SYNCHRONISING = _words("""
    argwhere bincount delete extract flatnonzero histogram nonzero trim_zeros unique unique_all unique_counts
    unique_inverse unique_values
""")

# Keywords that NumPy's function has and CuPy's of that name has not.
_WITHOUT = {
    "where": "all any mean nanmean",
    "initial where": "amax amin max min nanmax nanmin nanprod nansum prod sum",
    "where mean correction": "nanstd nanvar std var",
    "kind order": "argpartition partition",
    "order stable": "argsort sort",
    "subok": "broadcast_arrays broadcast_to",
    "min max": "clip",
    "keepdims": "count_nonzero",
    "sparse": "indices",
    "kind": "isin",
    "axis": "lexsort trim_zeros",
    "weights": "percentile quantile",
    "mode": "take",
    "sorted": "unique",
    "count": "unpackbits",
}
WITHOUT = {name: _words(keywords) for keywords, names in _WITHOUT.items() for name in names.split()}
UFUNC_WITHOUT = _words("where order subok signature")
