"""C++ that stands in for what NVRTC and CuPy give a kernel: CUDA's functions, raw arguments with bounds.

No header is included: a snippet that uses `std::` or `int64_t` fails here as it may on a device.
"""

from __future__ import annotations

_UNARY = """
    exp expm1 exp2 log log1p log2 log10 sqrt cbrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
    floor ceil trunc round rint fabs erf erfc lgamma tgamma
"""
_BINARY = "pow fmod atan2 hypot copysign fmin fmax"

_HEAD = """
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
template<typename T> struct _integer { enum { yes = 0 }; };
template<> struct _integer<bool> { enum { yes = 1 }; };
template<> struct _integer<signed char> { enum { yes = 1 }; };
template<> struct _integer<unsigned char> { enum { yes = 1 }; };
template<> struct _integer<short> { enum { yes = 1 }; };
template<> struct _integer<unsigned short> { enum { yes = 1 }; };
template<> struct _integer<int> { enum { yes = 1 }; };
template<> struct _integer<unsigned int> { enum { yes = 1 }; };
template<> struct _integer<long> { enum { yes = 1 }; };
template<> struct _integer<unsigned long> { enum { yes = 1 }; };
template<> struct _integer<long long> { enum { yes = 1 }; };
template<> struct _integer<unsigned long long> { enum { yes = 1 }; };
template<bool, typename T> struct _if {};
template<typename T> struct _if<true, T> { typedef T type; };
"""

_TAIL = """
inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / __builtin_sqrt(x); }
inline float __expf(float x) { return __builtin_expf(x); }
inline float __logf(float x) { return __builtin_logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
template<typename T> inline bool isnan(T x) { return __builtin_isnan((double)x); }
template<typename T> inline bool isinf(T x) { return __builtin_isinf((double)x); }
template<typename T> inline bool isfinite(T x) { return __builtin_isfinite((double)x); }
template<typename T> inline bool signbit(T x) { return __builtin_signbit((double)x); }
template<typename T> inline T abs(T x) { return x < T(0) ? T(-x) : x; }
inline float abs(float x) { return __builtin_fabsf(x); }
inline double abs(double x) { return __builtin_fabs(x); }
inline float max(float x, float y) { return __builtin_fmaxf(x, y); }
inline float min(float x, float y) { return __builtin_fminf(x, y); }
inline double max(double x, double y) { return __builtin_fmax(x, y); }
inline double min(double x, double y) { return __builtin_fmin(x, y); }
inline double max(float x, double y) { return __builtin_fmax(x, y); }
inline double max(double x, float y) { return __builtin_fmax(x, y); }
inline double min(float x, double y) { return __builtin_fmin(x, y); }
inline double min(double x, float y) { return __builtin_fmin(x, y); }
#define _ORDER(T) \\
    inline T max(T x, T y) { return x < y ? y : x; } \\
    inline T min(T x, T y) { return y < x ? y : x; }
_ORDER(int) _ORDER(unsigned int) _ORDER(long) _ORDER(unsigned long) _ORDER(long long) _ORDER(unsigned long long)
template<typename To, typename From> inline To _bits(From x) { To y; __builtin_memcpy(&y, &x, sizeof y); return y; }
inline unsigned int __float_as_uint(float x) { return _bits<unsigned int>(x); }
inline int __float_as_int(float x) { return _bits<int>(x); }
inline float __uint_as_float(unsigned int x) { return _bits<float>(x); }
inline float __int_as_float(int x) { return _bits<float>(x); }
inline long long __double_as_longlong(double x) { return _bits<long long>(x); }
inline double __longlong_as_double(long long x) { return _bits<double>(x); }
template<typename T> inline T __ldg(const T* p) { return *p; }
template<typename T> inline T atomicAdd(T* p, T v) { T old = *p; *p = T(old + v); return old; }
template<typename T> inline T atomicMax(T* p, T v) { T old = *p; if (old < v) *p = v; return old; }
template<typename T> inline T atomicMin(T* p, T v) { T old = *p; if (v < old) *p = v; return old; }
static int _outside = 0;
template<typename T> struct _Raw {
    T* p; ptrdiff_t n;
    T& operator[](ptrdiff_t i) const {
        static unsigned char nowhere[16];
        if (i < 0 || i >= n) { _outside = 1; return *(T*)nowhere; }
        return p[i];
    }
    ptrdiff_t size() const { return n; }
};
struct _Indexer { ptrdiff_t n; ptrdiff_t size() const { return n; } };
"""


def prelude(half: bool) -> str:
    """The text before a kernel; `half` where the compiler is to have `float16`."""
    lines = [_HEAD]
    if half:
        lines.append("typedef _Float16 float16;")
    for name in _UNARY.split():
        lines.append(f"inline float {name}(float x) {{ return __builtin_{name}f(x); }}")
        lines.append(f"inline double {name}(double x) {{ return __builtin_{name}(x); }}")
        lines.append(
            f"template<typename I> inline typename _if<_integer<I>::yes, double>::type {name}(I x) "
            f"{{ return __builtin_{name}((double)x); }}"
        )
        if half:
            lines.append(f"inline float {name}(float16 x) {{ return __builtin_{name}f((float)x); }}")
    for name in _BINARY.split():
        lines.append(f"inline float {name}(float x, float y) {{ return __builtin_{name}f(x, y); }}")
        lines.extend(
            f"inline double {name}({mixed}) {{ return __builtin_{name}(x, y); }}"
            for mixed in ("double x, double y", "float x, double y", "double x, float y")
        )
    return "\n".join([*lines, _TAIL])
