"""Device arrays of the stand-in: NumPy memory behind a class that no NumPy function takes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

METHODS = """copy ravel flatten swapaxes squeeze sum max min mean any all argmin argmax prod cumsum take repeat dot
nonzero""".split()
_BINARY = "add sub mul truediv floordiv pow mod and or xor matmul lshift rshift".split()
OPERATORS = [*_BINARY, *(f"r{x}" for x in _BINARY), *(f"i{x}" for x in _BINARY)]
OPERATORS += "lt le gt ge eq ne neg abs invert".split()
VIEWS = (np.ndarray.__getitem__, np.ndarray.reshape, np.ndarray.swapaxes, np.ndarray.ravel, np.ndarray.squeeze)


def root(a: np.ndarray) -> np.ndarray:
    """The array that owns the memory."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


class ndarray:
    """An array on the device."""

    def __init__(self, cp: Any, a: np.ndarray) -> None:
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
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one explicitly.")

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


for _name in METHODS:
    setattr(ndarray, _name, _method(_name))
for _name in OPERATORS:
    setattr(ndarray, f"__{_name}__", _method(f"__{_name}__"))
