"""exp, log and the terms of a sum, so that loops over them become vector instructions.

Numba's own calls are scalar where no vector math library is installed: 2 to 4 times slower here. Relative error 3e-16
(float64) and 1e-7 (float32, log 2e-7); exp of less than -708.7 (-87.7) is 0 and arguments above 709 (88) are cut, so neither
inf nor NaN comes out. Rounding to an integer by adding a large constant needs additions in the order written: the functions
here are compiled without reassociation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

_njit: Any = njit  # its stub does not know all of its options
_strict = _njit(
    fastmath={"nsz", "contract"}, error_model="numpy", forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True
)
f4, i4 = np.float32, np.int32

_ROUND64, _ROUND32 = 6755399441055744.0, f4(12582912.0)  # 1.5 * 2^52, 1.5 * 2^23
_BIASED64, _BIASED32 = 6755399441056767.0, f4(12583039.0)  # ... + 1023, + 127: the last bits are those of an exponent
_LOG2E = 1.4426950408889634
_LN2_HI, _LN2_LO = 6.93145751953125e-1, 1.42860682030941723212e-6


# exp(r) on [-ln(2)/2, ln(2)/2] by the polynomials of least largest relative error (Remez): 2e-16 in degree 10, 2e-9 in degree 6.
# Below -708.7 (-87.7) k is -1023 (-127), whose power of two is written as the bits of 0.


@_strict
def _exp64(x):  # type: ignore[no-untyped-def]
    z = min(max(x, -709.0), 709.0)
    t = z * _LOG2E + _BIASED64
    k = t - _BIASED64
    r = (z - k * _LN2_HI) - k * _LN2_LO
    c = 2.74884461942240109e-7
    c = c * r + 2.76397681833815148e-6
    c = c * r + 2.48019176801579195e-5
    c = c * r + 1.98411713844227103e-4
    c = c * r + 1.38888884991462965e-3
    c = c * r + 8.33333338466561289e-3
    c = c * r + 4.16666666684259811e-2
    c = c * r + 1.66666666665577418e-1
    c = c * r + 4.99999999999972871e-1
    c = c * r + 1.00000000000000644
    c = c * r + 1.0
    power = np.float64(t).view(np.int64) << 52
    return c * np.int64(power).view(np.float64)


@_strict
def _exp32(x):  # type: ignore[no-untyped-def]
    z = min(max(x, f4(-88.0)), f4(88.0))
    t = z * f4(_LOG2E) + _BIASED32
    k = t - _BIASED32
    r = (z - k * f4(0.693359375)) + k * f4(2.12194440e-4)
    c = f4(1.38368461e-3)
    c = c * r + f4(8.37481578e-3)
    c = c * r + f4(4.16682255e-2)
    c = c * r + f4(1.66664202e-1)
    c = c * r + f4(0.49999992)
    c = c * r + f4(1.00000004)
    c = c * r + f4(1.0)
    power = f4(t).view(i4) << i4(23)
    return c * i4(power).view(f4)


@_strict
def _log64(x):  # type: ignore[no-untyped-def]
    i = np.float64(max(x, 1e-300)).view(np.int64)
    k = (i - np.int64(0x3FE6A09E667F3BCD)) >> 52  # mantissa in [sqrt(1/2), sqrt(2))
    m = np.int64(i - (k << 52)).view(np.float64)
    e = np.int64(k + np.int64(0x4338000000000000)).view(np.float64) - _ROUND64
    s = (m - 1.0) / (m + 1.0)
    u = s * s
    c = 1.0 / 21
    c = c * u + 1.0 / 19
    c = c * u + 1.0 / 17
    c = c * u + 1.0 / 15
    c = c * u + 1.0 / 13
    c = c * u + 1.0 / 11
    c = c * u + 1.0 / 9
    c = c * u + 1.0 / 7
    c = c * u + 1.0 / 5
    c = c * u + 1.0 / 3
    return e * _LN2_HI + (2 * s * (1 + u * c) + e * _LN2_LO)


@_strict
def _log32(x):  # type: ignore[no-untyped-def]
    i = f4(max(x, f4(1e-37))).view(i4)
    k = (i - i4(0x3F3504F3)) >> i4(23)
    m = i4(i - (k << i4(23))).view(f4)
    e = i4(k + i4(0x4B400000)).view(f4) - _ROUND32
    s = (m - f4(1)) / (m + f4(1))
    u = s * s
    c = f4(1.0 / 9)
    c = c * u + f4(1.0 / 7)
    c = c * u + f4(1.0 / 5)
    c = c * u + f4(1.0 / 3)
    return e * f4(0.6931471805599453) + f4(2) * s * (f4(1) + u * c)


def exp(x: Any) -> Any:
    """exp(x) of a float32 or float64 scalar, inside a kernel."""
    raise NotImplementedError("for use inside compiled kernels only")


def log(x: Any) -> Any:
    """log(max(x, tiny)) of a float32 or float64 scalar, inside a kernel."""
    raise NotImplementedError("for use inside compiled kernels only")


@overload(exp, jit_options={"forceinline": True})
def _overload_exp(x):  # type: ignore[no-untyped-def]
    if x == types.float32:
        return lambda x: _exp32(x)
    return lambda x: _exp64(np.float64(x))


@overload(log, jit_options={"forceinline": True})
def _overload_log(x):  # type: ignore[no-untyped-def]
    if x == types.float32:
        return lambda x: _log32(x)
    return lambda x: _log64(np.float64(x))


@intrinsic
def _add(typingctx, total, x):  # type: ignore[no-untyped-def]
    """total + x, in the type of total, where the order of the terms is free: the loop becomes vector additions.

    The only additions that may be reordered, and those by the vectoriser alone, which takes what is not "nsz". Numba optimises
    the loop body of a parallel kernel by itself and again inside the kernel; the first runs where it was compiled, the second
    out of the cache, and whatever else may reorder makes the two round differently.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        terms = [context.cast(builder, a, t, signature.return_type) for a, t in zip(args, signature.args, strict=True)]
        return builder.fadd(*terms, flags=("contract", "reassoc"))

    return total(total, x), codegen


add: Any = _add  # with its two arguments, as kernels call it


# LLVM does not turn the minimum of a loop into vector instructions, and each waits for the last: eight of them side by side, or
# as many as make the loop over them one of vectors.
WINDOW = 256


@_strict
def smallest(x, n):  # type: ignore[no-untyped-def]
    """The minimum of x[:n], n > 0."""
    a = b = c = d = e = f = g = h = x[0]
    for j in range(0, n - 7, 8):
        a, b, c, d = min(a, x[j]), min(b, x[j + 1]), min(c, x[j + 2]), min(d, x[j + 3])
        e, f, g, h = min(e, x[j + 4]), min(f, x[j + 5]), min(g, x[j + 6]), min(h, x[j + 7])
    for j in range(n // 8 * 8, n):
        a = min(a, x[j])
    return min(min(min(a, b), min(c, d)), min(min(e, f), min(g, h)))


@_strict
def largest(x, n, w):  # type: ignore[no-untyped-def]
    """The maximum of x[:n], n > 0; w takes WINDOW entries, those of x are kept."""
    if n >= 2 * WINDOW:
        for k in range(WINDOW):
            w[k] = x[n - WINDOW + k]
        for start in range(0, n - WINDOW, WINDOW):
            first = np.uint64(start)
            for k in range(np.uint64(0), np.uint64(WINDOW)):
                w[k] = max(w[k], x[first + k])
        x, n = w, WINDOW
    a = b = c = d = e = f = g = h = x[0]
    for j in range(0, n - 7, 8):
        a, b, c, d = max(a, x[j]), max(b, x[j + 1]), max(c, x[j + 2]), max(d, x[j + 3])
        e, f, g, h = max(e, x[j + 4]), max(f, x[j + 5]), max(g, x[j + 6]), max(h, x[j + 7])
    for j in range(n // 8 * 8, n):
        a = max(a, x[j])
    return max(max(max(a, b), max(c, d)), max(max(e, f), max(g, h)))
