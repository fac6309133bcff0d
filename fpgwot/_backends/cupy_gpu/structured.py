"""Products with temporal structures on the GPU: running sums in segments, and windows."""

from __future__ import annotations

from typing import Any

import numpy as np

SEGMENT, TILE, WINDOW_FROM = 32, 64, 33  # of structured.cu: points of a segment, lines of a block; widest band entry by entry + 1


class StructureProducts:
    """The structure products of `Gpu`."""

    cp: Any
    _launch: Any
    _round: Any

    def _scan(self, X: Any, kind: str, gaps: np.ndarray, a: float, b: float, axis: int, out: Any) -> Any:
        """A product by running sums: the ends of all segments, the way along them, the points inside."""
        X, Y, n, lines, segments, grid = self._lines(X, axis, out)
        numbers = 3 if kind == "Square" else 2
        carry = self.cp.empty((len(X), 2, numbers, segments, lines))
        reach, rest = self.cp.empty(segments), (n, lines, segments)
        choice: dict[str, Any] = {"kind": kind, "axis": axis}
        file, size = "structured.cu", len(X) * lines
        self._launch(file, "scan_segments<{real}, {kind}, {axis}>", X, grid, TILE, X, gaps, carry, reach, *rest, **choice)
        self._launch(file, "scan_carries<{kind}>", X, (-(-size // TILE),), TILE, carry, reach, len(X), lines, segments, kind=kind)
        self._launch(file, "scan_lines<{real}, {kind}, {axis}>", X, grid, TILE, X, gaps, carry, a, b, Y, *rest, **choice)
        return self._done(Y, out)

    def _lines(self, X: Any, axis: int, out: Any) -> tuple[Any, Any, int, int, int, tuple[int]]:
        """X and its product's buffer, contiguous; points and number of its lines, segments of a line, grid of blocks."""
        X = self.cp.ascontiguousarray(X)
        Y = self.cp.empty_like(X) if out is None or not out.flags.c_contiguous else out
        n, lines = (X.shape[2], X.shape[1]) if axis else (X.shape[1], X.shape[2])
        segments = -(-n // SEGMENT)
        return X, Y, n, lines, segments, (len(X) * segments * -(-lines // TILE),)

    @staticmethod
    def _done(Y: Any, out: Any) -> Any:
        if out is not None and out is not Y:
            out[...] = Y
            return out
        return Y

    def power_matmul(self, X: Any, gaps: np.ndarray, power: int, scale: float, axis: int, out: Any = None) -> Any:
        """scale |t_i - t_k|^power times X for power 1 or 2; gaps[i] = t_i - t_(i-1), gaps[0] = 0."""
        return self._scan(X, ("Distance", "Square")[power - 1], gaps, scale, 0.0, axis, out)

    def decay_matmul(self, X: Any, ratios: np.ndarray, weight: float, offset: float, axis: int, out: Any = None) -> Any:
        """offset + weight exp(-|t_i - t_k|) times X; ratios[i] = exp(-(t_i - t_(i-1))), ratios[0] = 0."""
        return self._scan(X, "Decay", ratios, weight, offset, axis, out)

    def toeplitz_matmul(self, X: Any, weights: np.ndarray, axis: int, out: Any = None) -> Any:
        """Symmetric Toeplitz band times X; weights[lag] for lag = 0 ... width, zero beyond."""
        weights = np.ascontiguousarray(weights, dtype=float)
        width, file = len(weights) - 1, "structured.cu"
        X, Y, n, lines, segments, grid = self._lines(X, axis, out)
        if width >= WINDOW_FROM and (weights[1:] == weights[1]).all():
            carry, rest = self.cp.empty((len(X), 2, 1, segments, lines)), (n, lines, segments)
            reach, gaps = self.cp.empty(segments), np.zeros(n)
            self._launch(file, "scan_segments<{real}, Total, {axis}>", X, grid, TILE, X, gaps, carry, reach, *rest, axis=axis)
            on, off = weights[0] - weights[1], weights[1]
            self._launch(file, "toeplitz_window<{real}, {axis}>", X, grid, TILE, X, carry, on, off, width, Y, *rest, axis=axis)
        else:
            B, rows, cols = X.shape
            threads = self._round(cols, 256)
            grid = (B * rows * -(-cols // threads),)
            self._launch(file, "toeplitz_band<{real}, {axis}>", X, grid, threads, X, weights, width, Y, rows, cols, axis=axis)
        return self._done(Y, out)
