"""The caller's array kind picks the backend; arrays go in and out as what they came in as, on the device that they are on."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

BACKENDS = ("auto", "numba", "numpy", "cupy")
_loaded: dict[str, Any] = {}
_MODULES = {"numba": "numba_cpu", "numpy": "numpy_ref", "cupy": "cupy_gpu"}
Route = tuple[Any, str, Callable[[Any], Any], Callable[[Any], Any]]
Function = TypeVar("Function", bound=Callable[..., Any])


def array_kind(a: Any) -> str:
    """ "numpy", "torch" or "cupy", answered without importing anything."""
    root = type(a).__module__.partition(".")[0]
    return root if root in ("torch", "cupy") and root in sys.modules else "numpy"


def resolve(arrays: list[Any], backend: Any) -> Route:
    """Backend, device, a function that takes arrays in and one that hands arrays back.

    `backend` is a name, or an object with the primitives of `_backends/_protocol.py`.
    """
    name = backend if isinstance(backend, str) else backend.name
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; choose one of {BACKENDS}")
    own = () if isinstance(backend, str) or backend.xp is np else backend.xp.ndarray
    given = [a for a in arrays if type(a) is not np.ndarray and hasattr(a, "dtype") and not isinstance(a, np.generic)]
    kinds = {"cupy" if isinstance(a, own) else array_kind(a) for a in given}
    if kinds and any(type(a) is np.ndarray for a in arrays):
        kinds.add("numpy")
    if len(kinds) > 1:
        raise TypeError(f"arrays of different kinds in one call: {sorted(kinds)}; convert them to one")
    kind = kinds.pop() if kinds else "numpy"
    places = {_place(a) for a in given} if kind == "torch" else set()
    if len(places) > 1:
        raise TypeError(f"tensors on different devices in one call: {sorted(places)}; move them to one")
    on_gpu = kind == "cupy" or any(x != "cpu" for x in places)
    if any(not x.startswith(("cpu", "cuda")) for x in places):
        raise TypeError(f"tensors on {places.pop()}: the backends compute on the CPU and on CUDA devices")
    if on_gpu and name in ("numba", "numpy"):
        raise TypeError(f"arrays on a GPU and backend={name!r}: copy them to the host first, or leave the backend to 'auto'")
    if not isinstance(backend, str):
        module = backend
    else:
        module = load_backend("cupy" if on_gpu else "numba" if name == "auto" else name)
    device = "cpu" if module.xp is np else f"cuda:{module.xp.cuda.Device().id}"
    if kind == "torch":
        torch = sys.modules["torch"]
        if on_gpu:
            return module, device, lambda x: _to_cupy(module, x), lambda x: torch.from_dlpack(module.xp.ascontiguousarray(x))
        return module, device, _from_torch, lambda x: torch.from_numpy(np.ascontiguousarray(module.host(x)))
    if kind == "numpy" and module.xp is not np:  # the caller asked for the GPU by name
        return module, device, unchanged, module.host
    return module, device, unchanged, unchanged


def unchanged(x: Any) -> Any:
    """Arrays that are what they should be already."""
    return x


def on_host(route: Route) -> Route:
    """The same call on the CPU: for the exact solver, whose linear programs are not on the GPU."""
    be, _, take, give = route

    def fetch(x: Any) -> Any:
        x = take(x)
        return be.host(x) if isinstance(x, be.xp.ndarray) else x

    return load_backend("numba"), "cpu", fetch, unchanged if give == be.host else lambda x: give(be.xp.asarray(x))


def load_backend(name: str) -> Any:
    """The backend of that name, imported when it is first needed; an error says what a GPU lacks."""
    if name not in _loaded:  # looking a module up by its relative name takes as long as a small program
        _loaded[name] = importlib.import_module(f"._backends.{_MODULES[name]}", __package__)
    module = _loaded[name]
    return module.backend(load_backend("numba").compiled) if name == "cupy" else module


_OF_THE_HOST = {np.ndarray, type(None), float, int, bool, str}


def on_callers_stream(function: Function) -> Function:
    """Run a public function on the device of its CUDA arrays, and on torch's current stream where they are tensors."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        no_cuda = "torch" not in sys.modules and "cupy" not in sys.modules
        if no_cuda or all(type(x) in _OF_THE_HOST for x in (*args, *options.values())):
            return function(*args, **options)
        with contextlib.ExitStack() as stack:
            for x in _arrays((args, options)):
                kind = array_kind(x)
                if kind == "cupy":
                    stack.enter_context(x.device)
                    break
                if kind == "torch" and _place(x).startswith("cuda"):
                    cp, stream = load_backend("cupy").xp, sys.modules["torch"].cuda.current_stream(x.device)
                    stack.enter_context(cp.cuda.Device(x.device.index))
                    stack.enter_context(cp.cuda.ExternalStream(stream.cuda_stream))
                    break
            return function(*args, **options)

    return call  # type: ignore[return-value]


def _arrays(x: Any) -> Iterator[Any]:
    """Arrays other than NumPy's in tuples, lists and dicts of arguments."""
    if isinstance(x, (tuple, list, dict)):
        for item in x.values() if isinstance(x, dict) else x:
            yield from _arrays(item)
    elif type(x) is not np.ndarray and hasattr(x, "dtype"):
        yield x


def _place(x: Any) -> str:
    return str(x.device) if hasattr(x, "device") else "cpu"


def _from_torch(x: Any) -> Any:
    return x.detach().numpy() if hasattr(x, "detach") else x


def _to_cupy(module: Any, x: Any) -> Any:
    return module.xp.from_dlpack(x.detach().contiguous()) if hasattr(x, "detach") else x
