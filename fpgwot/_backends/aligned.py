"""Arrays that begin where a cache line does: a vector of 64 bytes that lies across two lines takes two loads.

NumPy's large arrays all begin 16 bytes after the start of a page. That is across lines, and entries of one row and column lie
in the same set of the fastest cache for every array: those here begin at different lines of a page.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

LINE, PAGE = 64, 4096  # bytes
SMALLEST, LARGE = 2048, 32768  # bytes of an array from which this outlasts the call, and from which it begins anywhere in a page
_turns = itertools.count(step=9)  # lines


def aligned(shape: tuple[int, ...], dtype: Any = float, make: Callable[..., np.ndarray] = np.empty) -> np.ndarray:
    """`make(shape, dtype)` from the start of a line on; `make` is np.empty or np.zeros."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return make(shape, dtype)
    step = PAGE if size >= LARGE else LINE
    room = make(size + step, np.uint8)
    start = (LINE * next(_turns) - room.__array_interface__["data"][0]) % step
    return room[start : start + size].view(dtype).reshape(shape)
