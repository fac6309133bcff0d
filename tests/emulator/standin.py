"""A stand-in for CuPy that runs on a machine without a GPU: kernels by `build`, everything else by NumPy.

It is injected (`Gpu(cp)`), never put into `sys.modules`, and stricter than CuPy: what passes here is meant to pass there. Memory
from `empty` is poisoned; a kernel takes contiguous arrays and NumPy scalars of exactly the declared types; NumPy arrays never mix
with device arrays; nothing is copied to the host but by `get`, `asnumpy` and the conversions to a number, and those are counted.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from .arrays import VIEWS, ndarray, root
from .build import EmulationError
from .runtime import CUDADriverError, CUDARuntimeError, Device, RawModule, Stream

# NumPy's and CuPy's functions agree for these
SAME = """abs absolute add subtract multiply divide negative maximum minimum exp exp2 expm1 log log2 log1p sqrt square isnan isinf
isfinite floor ceil sign logaddexp logical_and logical_or logical_not where clip sum max min amax amin mean any all argmin argmax
prod count_nonzero cumsum nonzero flatnonzero argsort sort diff ptp reshape ravel concatenate stack swapaxes transpose moveaxis
broadcast_to expand_dims squeeze repeat tile take take_along_axis flip outer dot einsum ones full zeros_like ones_like full_like
arange eye linspace copy array_equal allclose nan_to_num""".split()
CONSTANTS = "float32 float64 int8 int32 int64 uint8 uint32 uint64 bool_ intp nan inf pi newaxis dtype result_type".split()
GUARD = 256  # bytes on both sides of an array


@dataclass
class Traffic:
    """What has crossed the bus and what has been launched since the last `clear`."""

    to_host: list[tuple[int, ...]] = field(default_factory=list)  # shapes
    to_device: list[tuple[int, ...]] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)  # names of kernels that ran, those of graphs included
    graphs: int = 0  # launches of captured graphs

    def clear(self) -> None:
        """Forget all."""
        self.graphs = 0
        for x in (self.to_host, self.to_device, self.launches):
            x.clear()


class Standin:
    """What stands for the module `cupy`.

    order ("forward", "backward", "random") and seed: in which order blocks and threads run. flavour: how kernels are built, see
    `build.FLAVOURS`. flush: subnormal numbers are zero in kernels, as CuPy compiles float32 (here float64 as well).
    """

    def __init__(self, order: str = "forward", seed: int = 0, flavour: str | None = None, flush: bool = False) -> None:
        self._order, self._seed, self._flush, self._traffic = order, seed, flush, Traffic()
        self._flavour = flavour or os.environ.get("EMULATOR_FLAVOUR", "plain")
        self._null = Stream(self, null=True)
        self._stream: Stream = self._null
        self._capture: Stream | None = None
        self._guards: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
        self.ndarray = ndarray
        for name in SAME:
            setattr(self, name, self._function(getattr(np, name)))
        for name in CONSTANTS:
            setattr(self, name, getattr(np, name))
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            Device=lambda device=0: Device(self, device),
            Stream=lambda null=False, non_blocking=False: Stream(self, null),
            get_current_stream=lambda: self._stream,
            ExternalStream=lambda ptr: Stream(self, null=ptr == 0),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDeviceCount=lambda: 1,
                runtimeGetVersion=lambda: 13000,
                driverGetVersion=lambda: 13000,
                getDeviceProperties=lambda device: {"name": b"emulated on the CPU", "major": 9, "minor": 0},
            ),
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
        )
        self.RawModule = lambda **options: RawModule(self, **options)

    # ----------------------------------------------------------------------------------------------------------------- calls
    def _no_capture(self, what: str) -> None:
        if self._capture is not None:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while a graph is captured")

    def _take(self, x: Any) -> Any:
        if isinstance(x, ndarray):
            return x._a
        if isinstance(x, np.ndarray):
            raise TypeError(f"Unsupported type {type(x)}")
        if isinstance(x, (list, tuple)):
            return type(x)(self._take(v) for v in x)
        return x

    def _give(self, x: Any) -> Any:
        if isinstance(x, (tuple, list)):
            return type(x)(self._give(v) for v in x)
        return ndarray(self, np.asarray(x)) if isinstance(x, (np.ndarray, np.generic, bool)) else x

    def _call(self, f: Callable, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """f on the memory of device arrays; only views may be taken while a graph is captured."""
        if (isinstance(f, np.ufunc) and options.keys() - {"out", "dtype", "casting"}) or options.keys() & {"initial", "where"}:
            raise TypeError(f"CuPy's {f.__name__} does not take {sorted(options)}")
        taken, out = [self._take(x) for x in args], options.get("out")
        taken_options = {k: self._take(v) for k, v in options.items()}
        if self._capture is not None:
            result = f(*taken, **taken_options) if f in VIEWS else None
            if result is None or not any(root(result) is root(x) for x in taken if isinstance(x, np.ndarray)):
                self._no_capture(f"{getattr(f, '__name__', f)} on arrays")
            return self._give(result)
        with np.errstate(all="ignore"):
            result = f(*taken, **taken_options)
        if isinstance(out, tuple):
            out = out[0]
        if result is None or result is NotImplemented:
            return result
        if taken and result is taken[0] and isinstance(args[0], ndarray):
            return args[0]  # in-place operators
        return out if out is not None else self._give(result)

    def _function(self, f: Callable) -> Callable:
        def function(*args: Any, **options: Any) -> Any:
            return self._call(f, args, options)

        function.__name__ = f.__name__
        return function

    # --------------------------------------------------------------------------------------------------- creation and copies
    def empty(self, shape: Any, dtype: Any = float) -> ndarray:
        """Poisoned memory: NaN, -1, True."""
        self._no_capture("an allocation")
        return ndarray(self, self._guarded(np.empty(shape, dtype), poison=True))

    def zeros(self, shape: Any, dtype: Any = float) -> ndarray:
        """Zeros."""
        self._no_capture("an allocation")
        return ndarray(self, self._guarded(np.zeros(shape, dtype)))

    def _guarded(self, a: np.ndarray, poison: bool = False) -> np.ndarray:
        """The array between two zones that every launch checks; ASan has its own and must not find these."""
        room = 0 if self._flavour == "address" else GUARD
        raw = np.full(a.nbytes + 2 * room, 0xFF, np.uint8)
        out = raw[room : room + a.nbytes].view(a.dtype).reshape(a.shape)
        if not poison:
            out[...] = a
        if room:
            self._guards[id(raw)] = raw
        return out

    def _check_guards(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        for a in arrays:
            raw = root(a)
            if self._guards.get(id(raw)) is raw and not ((raw[:GUARD] == 0xFF).all() and (raw[-GUARD:] == 0xFF).all()):
                raise EmulationError(f"{name} has written outside of an array of {raw.nbytes - 2 * GUARD} bytes")

    def empty_like(self, prototype: ndarray, dtype: Any = None, shape: Any = None) -> ndarray:
        """Poisoned memory of the same shape and dtype."""
        if not isinstance(prototype, ndarray):
            raise TypeError(f"Unsupported type {type(prototype)}")
        return self.empty(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)

    def asarray(self, a: Any, dtype: Any = None) -> ndarray:
        """A device array, copied from the host where it comes from there."""
        if isinstance(a, ndarray):
            return a if dtype is None or a.dtype == dtype else a.astype(dtype)
        return self.array(a, dtype)

    def ascontiguousarray(self, a: Any, dtype: Any = None) -> ndarray:
        """The same in C order."""
        a = self.asarray(a, dtype)
        return a if a._a.flags.c_contiguous else a.copy()

    def array(self, obj: Any, dtype: Any = None, copy: bool = True) -> ndarray:
        """A new device array."""
        self._no_capture("an allocation")
        if isinstance(obj, ndarray):
            return obj.astype(obj.dtype if dtype is None else dtype, copy=copy)
        if isinstance(obj, (list, tuple)) and any(isinstance(x, ndarray) for x in obj):
            return self._give(np.array(self._take(obj), dtype))
        a = np.array(obj, dtype)
        if a.dtype.kind not in "fiub":
            raise ValueError(f"Unsupported dtype {a.dtype}")
        self._traffic.to_device.append(a.shape)
        return ndarray(self, self._guarded(a))

    def asnumpy(self, a: Any) -> np.ndarray:
        """A copy on the host."""
        return a.get() if isinstance(a, ndarray) else np.asarray(a)

    def matmul(self, x1: ndarray, x2: ndarray, out: ndarray | None = None) -> ndarray:
        """Stacked matrix products, which may be captured when out is given."""
        if out is None:
            return self._call(np.matmul, (x1, x2), {})
        a, b, c = self._take(x1), self._take(x2), self._take(out)
        if c.dtype != np.result_type(a, b):
            raise TypeError(f"matmul of {a.dtype} and {b.dtype} into {c.dtype}")
        self._submit([a, b, c], lambda: np.matmul(a, b, out=c))
        return out

    def _submit(self, arrays: Sequence[np.ndarray], work: Callable[[], Any]) -> None:
        """Run work on the current stream, or record it."""
        if self._capture is None:
            work()
        elif self._stream is not self._capture:
            raise CUDARuntimeError("cudaErrorStreamCaptureImplicit: work on another stream while a graph is captured")
        else:
            self._capture._recorded.append(([weakref.ref(root(a)) for a in arrays], work))
