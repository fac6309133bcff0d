"""A stand-in for CuPy that runs on a machine without a GPU: kernels by `build`, everything else by NumPy.

It is injected (`Gpu(cp)`), never put into `sys.modules`, and stricter than CuPy: what passes here is meant to pass there. Memory
from `empty` is poisoned; a kernel takes contiguous arrays and NumPy scalars of exactly the declared types; NumPy arrays never mix
with device arrays; nothing is copied to the host but by `get`, `asnumpy` and the conversions to a number, and those are counted.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import build as _build

# NumPy's and CuPy's functions agree for these
SAME = (
    "abs absolute add subtract multiply divide negative maximum minimum exp exp2 expm1 log log2 log1p sqrt square isnan isinf isfinite "
    "floor ceil sign logaddexp logical_and logical_or logical_not where clip sum max min amax amin mean any all argmin argmax prod "
    "count_nonzero cumsum nonzero flatnonzero argsort sort diff ptp reshape ravel concatenate stack swapaxes transpose moveaxis "
    "broadcast_to expand_dims squeeze repeat tile take take_along_axis flip outer dot einsum ones full zeros_like ones_like "
    "full_like arange eye linspace copy array_equal allclose nan_to_num"
).split()
CONSTANTS = "float32 float64 int8 int32 int64 uint8 uint32 uint64 bool_ intp nan inf pi newaxis dtype result_type".split()
DEFAULT_SHARED, MOST_SHARED, GUARD = 48 * 1024, 227 * 1024, 256
OPERATORS = "add sub mul truediv floordiv pow mod and or xor matmul lshift rshift".split()
_VIEWS = (np.ndarray.__getitem__, np.ndarray.reshape, np.ndarray.swapaxes, np.ndarray.ravel, np.ndarray.squeeze)
COMPARISONS = "lt le gt ge eq ne".split()


class CUDARuntimeError(RuntimeError):
    """Stands for `cupy.cuda.runtime.CUDARuntimeError`."""


class CUDADriverError(RuntimeError):
    """Stands for `cupy.cuda.driver.CUDADriverError`."""


@dataclass
class Traffic:
    """What has crossed the bus and what has been launched since the last `clear`."""

    to_host: list[tuple[int, ...]] = field(default_factory=list)  # shapes
    to_device: list[tuple[int, ...]] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)  # names of kernels

    def clear(self) -> None:
        """Forget all."""
        for x in (self.to_host, self.to_device, self.launches):
            x.clear()


def _root(a: np.ndarray) -> np.ndarray:
    """The array that owns the memory."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


class ndarray:  # noqa: N801 (the name that users of CuPy know)
    """An array on the device."""

    def __init__(self, cp: Standin, a: np.ndarray) -> None:
        self._cp, self._a = cp, a

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    strides = property(lambda self: self._a.strides)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    flags = property(lambda self: self._a.flags)
    T = property(lambda self: ndarray(self._cp, self._a.T))
    data = property(lambda self: SimpleNamespace(ptr=self._a.ctypes.data))
    __hash__ = None  # type: ignore[assignment]

    # ------------------------------------------------------------------------------------------------------ to and from the host
    def get(self) -> np.ndarray:
        """A copy on the host."""
        self._cp._no_capture("a copy to the host")
        self._cp._traffic.to_host.append(self.shape)
        return self._a.copy()

    def set(self, arr: np.ndarray) -> None:
        """Overwrite with an array of the host of the same shape and dtype."""
        if type(arr) is not np.ndarray or arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError(f"set needs a NumPy array {self.shape} of {self.dtype}")
        self._cp._no_capture("a copy from the host")
        self._cp._traffic.to_device.append(self.shape)
        self._a[...] = arr

    def item(self) -> Any:
        """The one entry, on the host."""
        return self.get().item()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __index__(self) -> int:
        return self.get().__index__()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly.")

    def __array_function__(self, func: Callable, *_: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} of a device array: call the function of cp")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            raise NotImplementedError(f"{ufunc.__name__}.{method} of a device array")
        return self._cp._call(ufunc, inputs, options)

    def __repr__(self) -> str:
        return f"device {self._a!r}"

    def __len__(self) -> int:
        return len(self._a)

    # ------------------------------------------------------------------------------------------------------------------- indexing
    def __getitem__(self, key: Any) -> ndarray:
        return self._cp._call(np.ndarray.__getitem__, (self, self._key(key)), {})

    def __setitem__(self, key: Any, value: Any) -> None:
        self._cp._call(np.ndarray.__setitem__, (self, self._key(key), value), {})

    @staticmethod
    def _key(key: Any) -> Any:
        for x in key if isinstance(key, tuple) else (key,):
            if isinstance(x, (np.ndarray, list)):
                raise IndexError(f"Unsupported type {type(x)}")
        return key

    # -------------------------------------------------------------------------------------------------------------------- methods
    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        """A copy with another dtype."""
        return self._cp._call(lambda a: a.astype(dtype, copy=copy), (self,), {})

    def view(self, dtype: Any = None) -> ndarray:
        """The same memory with another dtype."""
        return ndarray(self._cp, self._a.view() if dtype is None else self._a.view(dtype))

    def fill(self, value: Any) -> None:
        """Set all entries."""
        self[...] = value

    def reshape(self, *shape: Any) -> ndarray:
        """The same entries with another shape."""
        return self._cp._call(np.ndarray.reshape, (self, *shape), {})

    def transpose(self, *axes: Any) -> ndarray:
        """A view with permuted axes."""
        return ndarray(self._cp, self._a.transpose(*axes))


def _method(name: str) -> Callable:
    def method(self: ndarray, *args: Any, **options: Any) -> Any:
        return self._cp._call(getattr(np.ndarray, name), (self, *args), options)

    method.__name__ = name
    return method


for _name in ("copy ravel flatten swapaxes squeeze sum max min mean any all argmin argmax prod cumsum take repeat dot nonzero").split():
    setattr(ndarray, _name, _method(_name))
for _name in [*OPERATORS, *(f"r{x}" for x in OPERATORS), *(f"i{x}" for x in OPERATORS), *COMPARISONS, "neg", "abs", "invert"]:
    setattr(ndarray, f"__{_name}__", _method(f"__{_name}__"))


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
                getDeviceProperties=lambda device: {"name": b"emulated on the CPU", "major": 9, "minor": 0, "multiProcessorCount": 132},
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
        if isinstance(f, np.ufunc) and options.keys() - {"out", "dtype", "casting"} or options.keys() & {"initial", "where"}:
            raise TypeError(f"CuPy's {f.__name__} does not take {sorted(options)}")
        taken, out = [self._take(x) for x in args], options.get("out")
        taken_options = {k: self._take(v) for k, v in options.items()}
        if self._capture is not None:
            result = f(*taken, **taken_options) if f in _VIEWS else None
            if result is None or not any(_root(result) is _root(x) for x in taken if isinstance(x, np.ndarray)):
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
            raw = _root(a)
            if self._guards.get(id(raw)) is raw and not ((raw[:GUARD] == 0xFF).all() and (raw[-GUARD:] == 0xFF).all()):
                raise _build.EmulationError(f"{name} has written outside of an array of {raw.nbytes - 2 * GUARD} bytes")

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
            self._capture._recorded.append(([weakref.ref(_root(a)) for a in arrays], work))


class Device:
    """Stands for `cupy.cuda.Device`, with the limits of an H100."""

    def __init__(self, cp: Standin, device: int) -> None:
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

    def __init__(self, cp: Standin, null: bool = False) -> None:
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
    """Stands for `cupy.cuda.graph.Graph`: it keeps addresses, not arrays, so arrays that are gone are a fault."""

    def __init__(self, cp: Standin, nodes: list[tuple[list[Any], Callable[[], Any]]]) -> None:
        self._cp, self._nodes = cp, nodes

    def launch(self, stream: Stream | None = None) -> None:
        """Run the recorded work."""
        if (stream or self._cp._stream)._is_null and stream is None:
            raise CUDARuntimeError("launch a graph on a stream of its own")
        for arrays, work in self._nodes:
            if any(x() is None for x in arrays):
                raise CUDARuntimeError("cudaErrorIllegalAddress: a captured array has been freed")
            work()


class RawModule:
    """Stands for `cupy.RawModule`: the same code, by g++."""

    def __init__(
        self,
        cp: Standin,
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
        library = self._build()
        if name not in library.kernels:
            raise CUDADriverError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel(self._cp, library, name)


class RawKernel:
    """Stands for what `cupy.RawModule.get_function` returns."""

    def __init__(self, cp: Standin, library: _build.Library, name: str) -> None:
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

        arrays = [weakref.ref(_root(x._a)) for x in args if isinstance(x, ndarray)]  # a captured launch owns nothing

        def work() -> None:
            used = self._library.launch(name, grid3, block3, raw, shared_mem, cp._order, cp._seed, cp._flush)
            cp._check_guards(name, [a for a in (x() for x in arrays) if a is not None])
            static = used - shared_mem
            if static > DEFAULT_SHARED or used > (DEFAULT_SHARED if self._limit is None else MOST_SHARED):
                raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: {name}: {static} static + {shared_mem} dynamic bytes of shared memory")

        cp._traffic.launches.append(name)
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
