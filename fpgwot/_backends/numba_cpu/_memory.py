"""Matrices that one solve leaves to the next: the pages of fresh memory cost as much as two or three reads of it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..aligned import aligned

SMALLEST = 2**20  # bytes of a matrix whose memory the allocator would give back to the system
MOST = 2**27  # bytes kept in all

_free: list[np.ndarray] = []  # the oldest first
_lock = threading.Lock()  # never waited for: a fork may leave it locked


def borrow(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with anything in it."""
    if _lock.acquire(blocking=False):
        try:
            for k, a in enumerate(_free):
                if a.shape == shape and a.dtype == dtype:
                    return _free.pop(k)
        finally:
            _lock.release()
    return aligned(shape, dtype)


def give_back(arrays: Iterable[np.ndarray]) -> None:
    """Keep arrays that nobody will read again."""
    if _lock.acquire(blocking=False):
        try:
            _free.extend(a for a in arrays if SMALLEST <= a.nbytes <= MOST)
            while sum(a.nbytes for a in _free) > MOST:
                del _free[0]
        finally:
            _lock.release()
