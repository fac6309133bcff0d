"""The conjugate gradient loop of a large problem as a CUDA graph.

A step is three launches (four where columns are many), and whether it was the last one is known on the device only. So several
steps are captured once and launched as one: the kernels of a problem whose DONE is set return at once, and the host reads the
numbers once for all of them. The rest of the inner solve takes a decision of the host after each pass, and is not captured.
"""

from __future__ import annotations

from typing import Any

from .._protocol import Scaling

AT_ONCE = 10  # steps of a graph; they divide CG_STEPS of `inner`


class Captured:
    """AT_ONCE calls of `cg` on one matrix and one state, with the arrays that the graph writes to.

    A graph keeps addresses, so this keeps the arrays alive; it is kept as long as the state is, which is not among them.
    """

    def __init__(self, gpu: Any, K: Any, s: Scaling, stop: float) -> None:
        cp = gpu.cp
        self._K, self._stop = K, stop
        self._on = cp.zeros(len(K), bool)
        self._room = cp.empty_like(s.v), cp.empty((len(K), K.shape[2] + 1))
        gpu._cg(K, s, stop, self._on, *self._room)  # with every problem off: it loads the kernels, which a capture must not do
        stream = cp.cuda.Stream(non_blocking=True)  # the default stream cannot be captured; a graph runs on any
        with stream:
            stream.begin_capture()
            try:
                for _ in range(AT_ONCE):
                    gpu._cg(K, s, stop, self._on, *self._room)
            finally:
                self._graph = stream.end_capture()

    def fits(self, K: Any, stop: float) -> bool:
        """Whether it was captured for this matrix."""
        return K.data.ptr == self._K.data.ptr and K.shape == self._K.shape and K.dtype == self._K.dtype and stop == self._stop

    def launch(self, on: Any) -> None:
        """Queue the steps of the problems that are on (flags on the device), on the current stream."""
        self._on[...] = on
        self._graph.launch()
