"""Arrays of the CPU kernels begin at a cache line, the large ones each at another line of a page."""

from __future__ import annotations

import numpy as np
import pytest

from fpgwot import solve
from fpgwot._backends.aligned import LARGE, LINE, PAGE, SMALLEST, aligned
from fpgwot._backends.numba_cpu import borrow


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [np.empty, np.zeros])
def test_arrays_begin_at_a_line(make, dtype):
    for shape in ((3, 5), (1, 100, 101), (2, 64, 65), (7, 200, 200), (0, 4)):
        arrays = [aligned(shape, dtype, make) for _ in range(8)]
        starts = [a.ctypes.data for a in arrays]
        for a in arrays:
            assert a.shape == shape
            assert a.dtype == dtype
            assert a.flags.c_contiguous
            assert a.flags.writeable
            assert make is np.empty or not a.any()
            a[:] = 1.0  # to the last entry
        if arrays[0].nbytes >= SMALLEST:
            assert not any(start % LINE for start in starts)
        if arrays[0].nbytes >= LARGE:
            assert len({start % PAGE for start in starts}) > 6
    assert borrow((1, 300, 301), np.dtype(np.float64)).ctypes.data % LINE == 0


def test_a_plan_is_an_array_like_any_other():
    x = np.random.default_rng(0).random((90, 80))
    plan = solve(x, reg=0.1).plan
    assert type(plan) is np.ndarray
    assert plan.flags.writeable
    assert plan.flags.c_contiguous
    plan[:] = np.nan
    assert np.isfinite(solve(x, reg=0.1).plan).all()
