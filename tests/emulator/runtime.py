"""What the stand-in has of `cupy.cuda` and of `cupy.RawModule`: device, streams, graphs, kernels, with CUDA's limits."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import build as _build
from .arrays import ndarray, root

DEFAULT_SHARED, MOST_SHARED = 48 * 1024, 227 * 1024


class CUDARuntimeError(RuntimeError):
    """Stands for `cupy.cuda.runtime.CUDARuntimeError`."""


class CUDADriverError(RuntimeError):
    """Stands for `cupy.cuda.driver.CUDADriverError`."""


class Device:
    """Stands for `cupy.cuda.Device`, with the limits of an H100."""

    def __init__(self, cp: Any, device: int) -> None:
        if device != 0:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._cp, self.id, self.compute_capability = cp, device, "90"
        self.attributes = {
            "MultiProcessorCount": 132,
            "MaxSharedMemoryPerBlock": DEFAULT_SHARED,
            "MaxSharedMemoryPerBlockOptin": MOST_SHARED,
            "MaxSharedMemoryPerMultiprocessor": 228 * 1024,
            "MaxThreadsPerBlock": 1024,
            "MaxThreadsPerMultiProcessor": 2048,
            "WarpSize": 32,
        }

    def synchronize(self) -> None:
        """Everything runs at once here."""
        self._cp._no_capture("a synchronisation")

    def use(self) -> None:
        """There is one device."""

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


class Stream:
    """Stands for `cupy.cuda.Stream`: work runs at once, or is recorded between `begin_capture` and `end_capture`."""

    def __init__(self, cp: Any, null: bool = False) -> None:
        self._cp, self._is_null, self._recorded, self._before = cp, null, [], []
        self.ptr = 0 if null else id(self)

    def use(self) -> Stream:
        """Make it the current stream."""
        self._cp._stream = self
        return self

    def __enter__(self) -> Stream:
        self._before.append(self._cp._stream)
        return self.use()

    def __exit__(self, *_: Any) -> None:
        self._cp._stream = self._before.pop()

    def synchronize(self) -> None:
        """Everything runs at once here."""
        self._cp._no_capture("a synchronisation")

    def begin_capture(self) -> None:
        """Record what follows instead of running it."""
        if self._is_null:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the default stream cannot be captured")
        self._cp._no_capture("another capture")
        self._cp._capture, self._recorded = self, []

    def end_capture(self) -> Graph:
        """The recorded graph."""
        if self._cp._capture is not self:
            raise CUDARuntimeError("cudaErrorIllegalState: this stream is not captured")
        self._cp._capture = None
        return Graph(self._cp, self._recorded)

    def is_capturing(self) -> bool:
        """Whether it records."""
        return self._cp._capture is self


class Graph:
    """Stands for `cupy.cuda.graph.Graph`: it keeps addresses, not arrays, so arrays that are gone are a fault.

    It may be launched on any stream, the default one too, but not into another capture.
    """

    def __init__(self, cp: Any, nodes: list[tuple[list[Any], Callable[[], Any]]]) -> None:
        self._cp, self._nodes = cp, nodes

    def launch(self, stream: Stream | None = None) -> None:
        """Run the recorded work."""
        self._cp._no_capture("the launch of a graph")
        if not self._nodes:
            raise CUDARuntimeError("an empty graph: nothing was captured")
        self._cp._traffic.graphs += 1
        for arrays, work in self._nodes:
            if any(x() is None for x in arrays):
                raise CUDARuntimeError("cudaErrorIllegalAddress: a captured array has been freed")
            work()


class RawModule:
    """Stands for `cupy.RawModule`: the same code, by g++."""

    def __init__(
        self,
        cp: Any,
        *,
        code: str,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        name_expressions: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(options, tuple) or backend != "nvrtc":
            raise TypeError("options must be a tuple, backend 'nvrtc'")
        known = ("-std=c++17", "-lineinfo", "--fmad=", "-D")
        for option in options:
            if not option.startswith(known):
                raise ValueError(f"option {option} is not known to the emulator")
        if name_expressions is not None and "-std=c++17" not in options:
            raise ValueError("name_expressions need the option -std=c++17")
        self._cp, self._expressions = cp, tuple(name_expressions or ())
        self._build = lambda: _build.build(code, self._expressions, [x for x in options if x.startswith("-D")], cp._flavour)

    def compile(self) -> None:
        """Build now."""
        self._build()

    def get_function(self, name: str) -> RawKernel:
        """A kernel by its name expression, or by its extern "C" name."""
        self._cp._no_capture("loading a module")
        library = self._build()
        if name not in library.kernels:
            raise CUDADriverError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel(self._cp, library, name)


class RawKernel:
    """Stands for what `cupy.RawModule.get_function` returns."""

    def __init__(self, cp: Any, library: _build.Library, name: str) -> None:
        self._cp, self._library, self.name = cp, library, name
        self._limit: int | None = None

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Dynamic shared memory that a launch may ask for."""
        return DEFAULT_SHARED if self._limit is None else self._limit

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > MOST_SHARED:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {size} bytes of shared memory, the device has {MOST_SHARED}")
        self._limit = size

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        cp, name = self._cp, self.name
        grid3, block3 = ((*x, 1, 1)[:3] for x in (grid, block))
        if not all(isinstance(x, (int, np.integer)) for x in (*grid, *block, shared_mem)) or max(len(grid), len(block)) > 3:
            raise TypeError(f"{name}: grid and block must be tuples of up to 3 ints; got {grid}, {block}")
        if min(grid3) < 1 or grid3[0] > 2**31 - 1 or max(grid3[1:]) > 65535:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {name}: grid {grid}")
        if min(block3) < 1 or np.prod(block3) > 1024 or block3[2] > 64:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {name}: block {block}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDADriverError(
                f"CUDA_ERROR_INVALID_VALUE: {name}: {shared_mem} bytes of shared memory, "
                f"max_dynamic_shared_size_bytes is {self.max_dynamic_shared_size_bytes}"
            )
        signature = self._library.kernels[name][1]
        if len(args) != len(signature):
            raise TypeError(f"{name} takes {len(signature)} arguments {signature}, got {len(args)}")
        raw = [_argument(name, i, x, kind) for i, (x, kind) in enumerate(zip(args, signature, strict=True))]

        arrays = [weakref.ref(root(x._a)) for x in args if isinstance(x, ndarray)]  # a captured launch owns nothing

        def work() -> None:
            cp._traffic.launches.append(name)
            used = self._library.launch(name, grid3, block3, raw, shared_mem, cp._order, cp._seed, cp._flush)
            cp._check_guards(name, [a for a in (x() for x in arrays) if a is not None])
            static = used - shared_mem
            if static > DEFAULT_SHARED or used > (DEFAULT_SHARED if self._limit is None else MOST_SHARED):
                raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {name}: {static} static + {shared_mem} dynamic bytes shared")

        cp._submit([x._a for x in args if isinstance(x, ndarray)], work)


def _argument(name: str, i: int, x: Any, kind: str) -> Any:
    """The memory that the kernel reads an argument from; exact types only."""
    where = f"{name}, argument {i}"
    if isinstance(x, ndarray):
        if not kind.startswith("p:"):
            raise TypeError(f"{where}: {kind} expected, got an array")
        if not x._a.flags.c_contiguous:
            raise ValueError(f"{where}: the array {x.shape} is not contiguous")
        if kind[2] not in "Vp" and kind[2:] != x.dtype.str[1:] and kind != "p:u1":
            raise TypeError(f"{where}: {kind} expected, got an array of {x.dtype}")
        return ctypes.c_void_p(x._a.ctypes.data)
    if isinstance(x, np.generic):
        if kind.startswith("p:") and isinstance(x, (np.uint64, np.int64)) and x == 0:
            return ctypes.c_void_p(0)
        if x.dtype.str[1:] != kind:
            raise TypeError(f"{where}: {kind} expected, got a scalar of {x.dtype}")
        return _build.as_argument(x)
    raise TypeError(f"{where}: Unsupported type {type(x)}; pass device arrays and NumPy scalars")
