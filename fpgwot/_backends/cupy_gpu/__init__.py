"""CuPy on the GPU: the primitives of `_protocol` as launches of the kernels in `cuda/`.

`Gpu` gets CuPy as an argument, so that the same host code runs on a stand-in where there is no GPU. Matrices stay on the device;
flags and numbers per problem come from the host and are kept there by value, since a loop sends the same ones again and again.
The linear programs of the exact solver are not here: that solver copies its problem to the host.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from .. import inner, numpy_whole
from .._protocol import MARGINAL_SUMS, ROWS, SUMS, Scaling
from . import _source, graph
from .structured import StructureProducts

KEPT = 256  # small arrays of the host that are kept on the device
SMALL = (
    2**15
)  # most entries of a kernel matrix whose inner solve is one thread block and one launch; a side has at most SMALL / 32
HEAD, STATIC = 128, 8192  # bytes of shared memory in small.cu: of its problem, and at most of what it declares itself
DEFAULT_SHARED = 48 * 1024 - STATIC  # bytes that a launch may ask for without raising the kernel's limit
_COLUMNS = re.compile(r"_rows<\w+, (\d+), \d+>")
Compiler = Callable[..., Callable[..., Any]]  # of a function and the plain functions that it calls
_DTYPES = {"double": np.float64, "float": np.float32, "i64": np.int64, "bool": np.bool_}


@cache
def _signature(file: str, kernel: str) -> tuple[str, ...]:
    """Types of the parameters of a kernel, in the words of its source: "real*", "i64", ..."""
    found = re.search(rf"\n(?:__global__ void __launch_bounds__\([\w, ]+\)\s+)?{kernel}\(([^)]*)\)\s*{{", _source.code(file))
    assert found is not None
    return tuple(re.sub(r"const |\s*\w+$", "", x.strip()) for x in found[1].replace("\n", " ").split(","))


class Gpu(StructureProducts):
    """The primitives on arrays of `cp`, which is CuPy or stands for it.

    `compiled` makes plain code over the numbers of each problem fast, without it that is left to the interpreter; `threads` is
    the most of a block and `small` takes the place of SMALL, for tests and measurements.
    """

    name = "cupy"
    factors = False  # the diagonal preconditions Newton systems here
    foresees = False  # captured graphs are bound to two matrices, the next kernel would be a third
    scans = False  # products of structures are launches of their own
    divergences = None  # `gradient` has them: logarithms cost nothing beside the reads
    threads_per_line = 2  # of a small problem's block, for each row or column; not yet tuned on a card

    def __init__(self, cp: Any, compiled: Compiler | None = None, threads: int = _source.THREADS, small: int = SMALL) -> None:
        self.cp, self.xp, self.threads, self.small = cp, cp, threads, small
        self.compiled = compiled or (lambda function, *helpers: function)
        graphs: dict[str, Any] = {"sweep": self._next_sweep, "cg": self._cg_graph, "AT_ONCE": graph.AT_ONCE, "SWEEPS": 0}
        self._ascend_from_newton = inner.interpreted(self, self.compiled, **graphs)
        self._graphs: weakref.WeakKeyDictionary[Scaling, list[graph.Captured]] = (
            weakref.WeakKeyDictionary()
        )  # while a solve lives
        self._swept: weakref.WeakSet[Scaling] = weakref.WeakSet()
        self._kernels: dict[str, Any] = {}
        self._kept: dict[Any, Any] = {}
        self._limits: dict[int, int] = {}

    # ------------------------------------------------------------------------------------------------------- arrays and launches

    def host(self, x: Any) -> np.ndarray:
        """A copy on the host; NumPy arrays as they are."""
        return np.asarray(self.cp.asnumpy(x) if isinstance(x, self.cp.ndarray) else x)

    def device(self, x: Any, dtype: Any = None) -> Any:
        """An array of the host on the device, kept by value for the device and stream in use; device arrays as they are."""
        if isinstance(x, self.cp.ndarray):
            return x
        x = np.ascontiguousarray(x, dtype)
        cuda = self.cp.cuda
        key = x.dtype.str, x.shape, x.tobytes(), cuda.Device().id, cuda.get_current_stream().ptr
        if key not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[key] = self.cp.asarray(x)
        return self._kept[key]

    def borrow(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An array with anything in it."""
        return self.cp.empty(shape, dtype)

    def give_back(self, arrays: Iterable[Any]) -> None:
        """CuPy's own pool keeps what is freed."""

    def is_finite(self, a: Any) -> bool:
        """Whether every entry is a number; of an array of the host as well, which CuPy's functions refuse."""
        return bool((self.cp if isinstance(a, self.cp.ndarray) else np).isfinite(a).all())

    def is_toeplitz(self, C: Any, weights: np.ndarray, tolerance: float) -> bool:
        """Whether |C_ij - weights[|i-j|]| is at most `tolerance` everywhere."""
        points = self.cp.arange(len(C))
        return bool((abs(C - self.cp.asarray(weights)[abs(points[:, None] - points)]) <= tolerance).all())

    def is_distance(self, C: Any, times: np.ndarray, power: int, tolerance: float) -> bool:
        """Whether |C_ij - |t_i - t_j|^power| is at most `tolerance` everywhere."""
        t = self.cp.asarray(times)
        return bool((abs(C - abs(t[:, None] - t) ** power) <= tolerance).all())

    def outer(self, x: Any, y: Any, out: Any) -> Any:
        """out_ij = x_i y_j, of each problem."""
        return self.cp.multiply(x[:, :, None], y[:, None, :], out=out)

    def rounded_change(self, T: Any, T0: Any, share: float, weight: Any, out: Any) -> Any:
        """out <- weight (T - share T0), what would be denormal to 0; the sums of |T - share T0|."""
        return numpy_whole.rounded_change(T, T0, share, weight, out)

    def plan_marginals(self, T: Any) -> tuple[Any, Any]:
        """Row and column sums in float64."""
        return T.sum(2, dtype=np.float64), T.sum(1, dtype=np.float64)

    def matmul(self, A: Any, B: Any, out: Any = None) -> Any:
        """Stacked matrix products by cuBLAS."""
        return self.cp.matmul(self.device(A), self.device(B), out=out)

    def _kernel(self, file: str, expression: str, real: str | None) -> Any:
        """Compiled when first used, with the other kernels of its file, type and number of columns."""
        if expression not in self._kernels:
            cols = _COLUMNS.findall(expression)
            together = [x for x in _source.expressions(file, real, self.threads) if _COLUMNS.findall(x) == cols]
            module = self.cp.RawModule(code=_source.code(file), options=("-std=c++17",), name_expressions=together)
            for name in together:
                self._kernels.setdefault(name, module.get_function(name))
        return self._kernels[expression]

    def _launch(
        self, file: str, pattern: str, like: Any, grid: tuple[int, ...], threads: int, *args: Any, shared: int = 0, **choice: Any
    ) -> None:
        """Run a kernel for the type of `like`: scalars are cast, arrays checked against the source's signature."""
        real = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}[np.dtype(like.dtype)]
        expression = pattern.format(real=real, **choice)
        kinds = _signature(file, pattern.partition("<")[0])
        if len(kinds) != len(args):
            raise TypeError(f"{expression} takes {len(kinds)} arguments {kinds}, got {len(args)}")
        ready = []
        for kind, x in zip(kinds, args, strict=True):
            base = kind.rstrip("*")
            dtype = _DTYPES[real if base == "real" else base]
            if not kind.endswith("*"):
                ready.append(dtype(x))
                continue
            x = self.device(x, dtype)
            if x.dtype != dtype or not x.flags.c_contiguous:
                raise TypeError(f"{expression}: {kind} needs a contiguous array of {np.dtype(dtype)}, got {x.dtype}")
            ready.append(x)
        if max(grid[1:], default=0) > 65535:
            raise ValueError(f"{grid[1]} problems in one batch: the GPU takes 65,535 at once; split the batch")
        kernel = self._kernel(file, expression, real)
        if (
            shared > DEFAULT_SHARED
        ):  # always to the same value: another thread may launch with its own between this and the launch
            kernel.max_dynamic_shared_size_bytes = self._most_shared()
        kernel(grid, (threads,), tuple(ready), shared_mem=shared)

    def _most_shared(self) -> int:
        """Bytes of shared memory that a block of this device may ask for, beside what its kernel declares."""
        device = self.cp.cuda.Device()
        if device.id not in self._limits:  # asking takes as long as a launch
            self._limits[device.id] = int(device.attributes["MaxSharedMemoryPerBlockOptin"]) - STATIC
        return self._limits[device.id]

    # ------------------------------------------------------------------------------------------------------ gradient and its sums

    def gradient(self, A, M, bias, T, T0, L, s: Scaling, r, c, wl, wq, first, on) -> Any:  # type: ignore[no-untyped-def]
        B, n, m = A.shape
        blocks, out = s.sums.shape[1], self.cp.empty((B, SUMS))
        layers = [(A, 0) if x is None else (x, len(x)) for x in (M, bias)]
        self._launch(
            "gradient.cu", "gradient<{real}>", A, (B * blocks,), 256,
            A, *layers[0], *layers[1], T, T0, L, s.rows, s.cols, s.vals, r, c, wl, wq, first, s.size, on, s.sums, blocks, n, m,
        )  # fmt: skip
        self._launch("gradient.cu", "gradient_sums", A, (B,), 256, s.sums, blocks, out)
        return out

    def marginal_sums(self, mu, nu, mu0, nu0, s1, s2, r, c, s: Scaling) -> Any:  # type: ignore[no-untyped-def]
        (B, n), m = mu.shape, nu.shape[1]
        out = self.cp.empty((B, MARGINAL_SUMS))
        squares = (mu, nu, 0) if s1 is None else (s1, s2, 1)
        args = mu, nu, mu0, nu0, *squares, r, c, s.rows, s.cols, s.vals, s.size, out, n, m
        self._launch("columns.cu", "marginal_sums", s.v, (B,), self._round(max(n, m), 256), *args)
        return out

    def roughness(self, T: Any, G: Any, weight: Any, size: Any, on: np.ndarray) -> Any:
        B, n, m = T.shape
        blocks = -(-n // ROWS)
        part, out = self.cp.empty((B, blocks)), self.cp.empty(B)
        args = T, G, weight, size, on, part, blocks, n, m
        self._launch("gradient.cu", "roughness<{real}>", T, (B * blocks,), 256, *args)
        self._launch("gradient.cu", "block_sums", T, (B,), 256, part, blocks, out)
        return out

    def spread(self, G: Any, s: Scaling) -> Any:
        B, n, m = G.shape
        blocks = s.part.shape[1]
        part, out = self.cp.empty((B, blocks)), self.cp.empty(B)
        self._launch("gradient.cu", "spread<{real}>", G, (B * blocks,), 256, G, s.size, part, blocks, n, m)
        self._launch("gradient.cu", "block_sums", G, (B,), 256, part, blocks, out)
        return out

    # --------------------------------------------------------------------------------------------------------- kernel and plan

    def column_logsums(self, L: Any, s: Scaling, on: np.ndarray) -> Any:
        B, n, m = L.shape
        blocks, threads = s.part.shape[1], self._round(m, 256)
        chunks = -(-m // threads)
        high, out = self.cp.empty_like(s.part), self.cp.empty((B, m))
        state = s.rows, s.cols, s.vals, s.size, on
        file = "kernel.cu"
        self._launch(file, "column_logsums<{real}>", L, (B * blocks, chunks), threads, L, *state, high, s.part, blocks, n, m)
        self._launch(file, "column_logsums_join<{real}>", L, (B, chunks), threads, high, s.part, *state, out, blocks, n, m)
        return out

    def kernel(self, L, G, T, T0, s: Scaling, beta, fresh, on, moved=False) -> None:  # type: ignore[no-untyped-def]
        B, n, m = T.shape
        if moved:  # onto themselves
            G, T0 = L, T
        blocks = s.part.shape[1]
        args = L, G, T, T0, s.rows, s.cols, s.vals, s.size, beta, fresh, on, blocks, n, m
        self._launch("kernel.cu", "kernel_matrix<{real}>", T, (B * blocks,), 256, *args)

    def plan(self, K: Any, s: Scaling, on: np.ndarray) -> None:
        B, n, m = K.shape
        blocks = s.part.shape[1]
        args = K, s.rows, s.cols, s.vals, s.size, s.v, on, blocks, n, m
        self._launch("kernel.cu", "plan<{real}>", K, (B * blocks,), 256, *args)

    # ------------------------------------------------------------------------------------------------------- one fused read of K

    def _round(self, count: int, most: int) -> int:
        """Threads for `count` items: whole warps."""
        return min(most, self.threads, -(-count // 32) * 32)

    def _shape(self, m: int, dtype: Any) -> tuple[int, dict[str, int]]:
        """Threads of a block and the kernel for the fused read; 0 columns a thread where they do not fit into registers."""
        threads = self._round(-(-m // 4), self.threads)
        need = -(-m // threads)
        kept = _source.COLUMNS["float" if dtype == np.float32 else "double"]
        cols = min((x for x in kept if x >= need), default=0)
        return threads, {"cols": cols, "fixed": _source.fixed(cols, threads)}

    def _columns(self, name: str, like: Any, s: Scaling, *args: Any) -> None:
        """A kernel with a thread for each column."""
        B, m = s.v.shape
        threads = self._round(m, 256)
        self._launch("scaling.cu", name, like, (-(-m // threads), B), threads, *args)

    def sweep(self, K: Any, s: Scaling, on: np.ndarray) -> None:
        self._sweep(K, s, on, self._sweep_room(K))

    def _sweep_room(self, K: Any) -> Any:
        """What the chunks of columns of a sweep add up."""
        B, _, m = K.shape
        return self.cp.empty((B, -(-m // self._round(m, 512 if m <= self.threads else 256)), 4))

    def _sweep(self, K: Any, s: Scaling, on: Any, part_c: Any) -> None:
        B, n, m = K.shape
        blocks, state = s.part.shape[1], (s.rows, s.cols, s.vals, s.size)
        self._columns("column_factors<{real}>", K, s, *state, s.v, on, n, m)
        threads, choice = self._shape(m, K.dtype)
        rows = K, *state, s.v, s.part, s.sums, on, blocks, n, m
        self._launch("scaling.cu", "sweep_rows<{real}, {cols}, {fixed}>", K, (B * blocks,), threads, *rows, **choice)
        threads, chunks = self._round(m, 512 if m <= self.threads else 256), part_c.shape[1]
        columns = s.v, s.part, s.sums, part_c, on, blocks, n, m
        self._launch("scaling.cu", "sweep_columns<{real}>", K, (chunks, B), threads, *state, *columns)
        if chunks > 1:
            numbers = s.sums, part_c, chunks, on, blocks, n, m
            self._launch("scaling.cu", "sweep_numbers", K, (B,), self._round(256, 256), *state, *numbers)

    def _fold(self, K: Any, s: Scaling, on: Any, of_cg: int, folded: Any) -> tuple[Any, int]:
        """The sums over blocks of rows in `folded` where those are many; and whether they are."""
        m = K.shape[2]
        many = int(m > self.threads)
        if many:
            self._columns("fold<{real}>", K, s, s.part, s.vals, s.size, on, of_cg, folded, s.part.shape[1], m)
        return folded, many

    def newton(self, K: Any, s: Scaling, on: np.ndarray) -> None:
        B, n, m = K.shape
        blocks, state, threads = s.part.shape[1], (s.rows, s.cols, s.vals, s.size), self._round(m, 256)
        rows = K, *state, s.v, s.part, s.sums, on, blocks, n, m
        self._launch("scaling.cu", "newton_rows<{real}>", K, (B * blocks, -(-m // threads)), threads, *rows)
        rest = s.part, s.sums, *self._fold(K, s, on, 0, self.cp.empty((B, m + 1))), on, blocks, n, m
        self._launch("scaling.cu", "newton_columns<{real}>", K, (B,), self._round(m + 1, 256), *state, *rest)

    def factor(self, K: Any, s: Scaling, on: np.ndarray) -> np.ndarray:
        return np.zeros(len(on), int)

    def cg(self, K: Any, s: Scaling, stop: float, on: np.ndarray) -> None:
        self._cg(K, s, stop, on, self.cp.empty_like(s.v), self.cp.empty((len(K), K.shape[2] + 1)))

    def _cg(self, K: Any, s: Scaling, stop: float, on: Any, vd: Any, folded: Any) -> None:
        B, n, m = K.shape
        blocks, state = s.part.shape[1], (s.rows, s.cols, s.vals, s.size)
        self._columns("direction_factors<{real}>", K, s, *state, s.v, vd, on, n, m)
        threads, choice = self._shape(m, K.dtype)
        rest = vd, s.part, s.sums, on, blocks, n, m
        self._launch("scaling.cu", "cg_rows<{real}, {cols}, {fixed}>", K, (B * blocks,), threads, K, *state, *rest, **choice)
        args = *state, s.v, s.part, s.sums, *self._fold(K, s, on, 1, folded), stop, on, blocks, n, m
        self._launch("scaling.cu", "cg_columns<{real}>", K, (B,), self._round(m + 1, 512), *args)

    def _captured(self, kind: type[graph.Captured], K: Any, s: Scaling, *baked: float) -> Any:
        """A graph of this state, made when first asked for; `baked` are the numbers that it was captured with."""
        known = self._graphs.setdefault(s, [])
        found = next((c for c in known if isinstance(c, kind) and c.fits(K, baked)), None)
        if found is None:
            found = kind(self, K, s, *baked)
            same = [c for c in known if isinstance(c, kind)]
            known[:] = [c for c in known if c not in same] + [found, *same[:1]]  # kernel and plan change places: two matrices
        return found

    def _play(self, captured: Any) -> None:
        """Launch a graph on the current stream."""
        captured.launch()

    def _cg_graph(self, K: Any, s: Scaling, stop: float, on: np.ndarray) -> None:
        """`graph.AT_ONCE` conjugate gradient steps in one launch; those beyond a problem's last return at once."""
        self._captured(graph.Steps, K, s, stop).launch(self.device(on, bool))

    # ---------------------------------------------------------------------------------------------------------- the inner solve

    def ascend(  # type: ignore[no-untyped-def]
        self, K: Any, s: Scaling, target, feasible, steps: int, slack: float, spent: np.ndarray, on: np.ndarray
    ) -> np.ndarray:
        """The loop of `inner.py`: in one launch where problems are small, else pass by pass with the host's decisions."""
        B, n, m = K.shape
        if n * m > self.small or max(n, m) > SMALL // 32:
            return self._ascend_by_passes(K, s, target, feasible, steps, slack, spent, on)
        threads, size = self._round(self.threads_per_line * max(n, m), 256), K.dtype.itemsize
        shared = HEAD + 8 * (n + max(threads, m)) + size * (2 * m + n)
        in_shared = shared + size * n * m <= self._most_shared()
        shared += size * n * m * in_shared
        given, out = self.cp.asarray(np.stack(np.broadcast_arrays(target, feasible, spent), axis=1)), self.cp.empty((B, 2))
        args = K, s.rows, s.cols, s.vals, s.size, s.v, s.hist, given, steps, slack, on, out, in_shared, n, m
        self._launch("small.cu", "small<{real}>", K, (B,), threads, *args, shared=shared)
        passes, spent[:] = self.host(out).T
        return passes.astype(int)

    def _ascend_by_passes(self, K: Any, s: Scaling, target, feasible, steps, slack, spent, on) -> np.ndarray:  # type: ignore[no-untyped-def]
        """The loop of a large problem: mixed sweeps by graphs that decide on the device, then the Newton steps of `inner.py`."""
        mixed = self._captured(graph.Mixed, K, s, slack)
        left, passes = mixed.run(K, s, np.stack(np.broadcast_arrays(target, feasible), axis=1), on)
        if left.any():
            self._swept.add(s)
            passes += self._ascend_from_newton(K, s, target, feasible, steps, slack, spent, left) - left
        return np.asarray(passes)

    def _next_sweep(self, K: Any, s: Scaling, on: np.ndarray) -> None:
        """A sweep; the first one of `inner.py` is the last of the mixed sweeps."""
        if s in self._swept:
            self._swept.remove(s)
        else:
            self.sweep(K, s, on)

    # ------------------------------------------------------------------------------------------------------------- vectors only

    def anderson(self, s: Scaling, restart: np.ndarray, on: np.ndarray) -> None:
        (B, m), n = s.v.shape, s.rows.shape[2]
        args = s.rows, s.cols, s.vals, s.size, s.hist, restart, on, n, m
        self._launch("columns.cu", "anderson", s.v, (B,), self._round(m + 1, 256), *args)

    def trial(self, s: Scaling, a: np.ndarray, on: np.ndarray) -> None:
        (B, m), n = s.v.shape, s.rows.shape[2]
        args = s.rows, s.cols, s.vals, s.size, a, on, n, m
        self._launch("columns.cu", "trial", s.v, (B,), self._round(m + 1, 256), *args)

    def shorten(self, s: Scaling, a: np.ndarray, on: np.ndarray) -> None:
        (B, m), n = s.v.shape, s.rows.shape[2]
        lengths = self.cp.asarray(a)  # a new one: what `device` gives is kept
        args = s.rows, s.cols, s.vals, s.size, lengths, on, n, m
        self._launch("columns.cu", "shorten", s.v, (B,), self._round(n, 256), *args)
        a[:] = self.host(lengths)


@cache
def backend(compiled: Compiler | None = None) -> Gpu:
    """The backend on CuPy itself; an ImportError or RuntimeError says what is missing: the wheel, the driver or the device."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise ImportError(f"CuPy is installed but cannot be imported ({error})") from error
        raise ImportError(
            "backend 'cupy' needs CuPy: pip install 'fpgwot[cuda12]' or 'fpgwot[cuda13]', whichever the driver supports"
        ) from None
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        raise ImportError(f"CuPy is installed but cannot be imported ({error})") from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        text = str(error).splitlines()[0]
        what = "no CUDA driver, or one too old for this CuPy" if "Driver" in text else "no CUDA device"
        raise RuntimeError(f"backend 'cupy' finds {what} ({text})") from error
    if count == 0:
        raise RuntimeError("backend 'cupy' finds no CUDA device")
    return Gpu(cupy, compiled)
