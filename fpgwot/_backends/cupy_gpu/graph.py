"""Parts of the inner solve of a large problem as CUDA graphs: the mixed sweeps, and the conjugate gradients of a Newton step.

What comes next is decided on the device: a kernel whose problem is done returns at once, and the host reads the numbers once for
several passes. The line search and the choice between the two are decisions of the host, pass by pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import inner
from .._protocol import Scaling

AT_ONCE = 10  # conjugate gradient steps of a graph; they divide CG_STEPS of `inner`
MIXES = 5  # mixed sweeps of a graph; they divide SWEEPS


class Captured:
    """Launches on one matrix and one state, captured once.

    A graph keeps addresses: of the arrays here, of the matrix, and of the state, which has to outlive it and is not kept here.
    """

    def __init__(self, gpu: Any, K: Any, s: Scaling, *baked: float) -> None:
        self._gpu, self._K, self._baked = gpu, K, baked
        self.allocate(K, s)
        self.record(K, s, 1)  # with every problem off: it loads the kernels, which a capture must not do
        stream = gpu.cp.cuda.Stream(non_blocking=True)  # the default stream cannot be captured; a graph runs on any
        with stream:
            stream.begin_capture()
            try:
                self.record(K, s, self.repeats)
            finally:
                self._graph = stream.end_capture()

    repeats = 1

    def allocate(self, K: Any, s: Scaling) -> None:
        """Make all arrays that the launches use beside the state's, with every problem off."""
        raise NotImplementedError

    def record(self, K: Any, s: Scaling, repeats: int) -> None:
        """The launches."""
        raise NotImplementedError

    def fits(self, K: Any, baked: tuple[float, ...]) -> bool:
        """Whether it was captured for this matrix and these numbers."""
        mine = self._K
        return K.data.ptr == mine.data.ptr and K.shape == mine.shape and K.dtype == mine.dtype and baked == self._baked


class Steps(Captured):
    """Calls of `cg`."""

    repeats = AT_ONCE

    def allocate(self, K: Any, s: Scaling) -> None:
        cp = self._gpu.cp
        self._on = cp.zeros(len(K), bool)
        self._room = cp.empty_like(s.v), cp.empty((len(K), K.shape[2] + 1))

    def record(self, K: Any, s: Scaling, repeats: int) -> None:
        for _ in range(repeats):
            self._gpu._cg(K, s, *self._baked, self._on, *self._room)

    def launch(self, on: Any) -> None:
        """Queue the steps of the problems that are on (flags on the device), on the current stream."""
        self._on[...] = on
        self._gpu._play(self._graph)


class Mixed(Captured):
    """The first part of `ascend`: sweeps under Anderson mixing, each with the step back where the dual fell."""

    repeats = MIXES

    def allocate(self, K: Any, s: Scaling) -> None:
        cp, B = self._gpu.cp, len(K)
        self._none, self._work, self._worse = (cp.zeros(B, bool) for _ in range(3))
        self._given, self._old, self._counts = cp.zeros((B, 2)), cp.zeros(B), cp.zeros((B, 2), np.int64)
        self._room, self._size = self._gpu._sweep_room(K), B

    def record(self, K: Any, s: Scaling, repeats: int) -> None:
        gpu, B, launch = self._gpu, self._size, self._gpu._launch
        for _ in range(repeats):
            begin = s.vals, self._given, self._work, self._old, self._counts, B
            launch("scaling.cu", "mix_begin", K, (-(-B // 256),), 256, *begin)
            gpu.anderson(s, self._none, self._work)
            gpu._sweep(K, s, self._work, self._room)
            check = s.vals, self._work, self._old, *self._baked, self._worse, self._counts, B
            launch("scaling.cu", "mix_check", K, (-(-B // 256),), 256, *check)
            gpu.anderson(s, self._worse, self._worse)
            gpu._sweep(K, s, self._worse, self._room)

    def run(self, K: Any, s: Scaling, given: np.ndarray, on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Who has not met its target and largest violation (B, 2), and the passes of each problem."""
        gpu = self._gpu
        self._work[...] = flags = gpu.device(on, bool)
        self._given[...] = gpu.cp.asarray(given)
        self._counts[...] = 0
        gpu._sweep(K, s, flags, self._room)
        left = on
        for _ in range(inner.SWEEPS // MIXES):
            self._gpu._play(self._graph)
            left = on.copy()
            if not inner.unfinished(gpu.host(s.vals), given[:, 0], given[:, 1], left):
                break
        return left, on + gpu.host(self._counts)[:, 1]
