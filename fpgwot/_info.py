"""What `fpgwot info` reports: versions, threads, and for each backend whether it runs here and, if not, why."""

from __future__ import annotations

import importlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ._dispatch import load_backend
from ._version import __version__

CUPY_WHEELS = ("cupy", "cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x")


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name) + (f" ({name})" if name != names[0] else "")
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def _imports(name: str) -> str | None:
    """None if the module can be imported, else why not."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library of the module is missing
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _cupy() -> str:
    try:
        runtime = load_backend("cupy").xp.cuda.runtime
    except (ImportError, RuntimeError) as error:
        return f"missing: {error}"
    names = [runtime.getDeviceProperties(k)["name"].decode() for k in range(runtime.getDeviceCount())]
    return f"found: {', '.join(names)}; driver {runtime.driverGetVersion()}, runtime {runtime.runtimeGetVersion()}"


def _torch() -> str:
    problem = _imports("torch")
    if problem:
        return f"tensors not accepted here ({problem})"
    import torch

    return f"CPU tensors accepted; CUDA {torch.version.cuda if torch.cuda.is_available() else 'not available to it'}"


def _threads() -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    settings = [f"{name}={os.environ[name]}" for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS") if name in os.environ]
    rows = {"cores": f"{cores} of {os.cpu_count()} available to this process"}
    if _imports("numba") is None:
        import numba

        config: Any = numba.config  # filled at run time, unknown to type checkers
        pools = {"tbb": "tbbpool", "omp": "omppool", "workqueue": "workqueue"}
        usable = [name for name in config.THREADING_LAYER_PRIORITY if not _imports(f"numba.np.ufunc.{pools[name]}")]
        rows["threads"] = f"{numba.get_num_threads()} (Numba)" + "".join(f", {s}" for s in settings)
        asked = config.THREADING_LAYER
        rows["threading layer"] = (
            f"{usable[0] if asked == 'default' and usable else asked}; usable: {', '.join(usable) or 'none'}"
        )
    return rows


def _cache() -> str:
    """Where compiled kernels are kept: Numba tries the folder of the module first, then the user's."""
    import numba

    config: Any = numba.config
    here = Path(__file__).parent / "_backends" / "numba_cpu"
    if config.CACHE_DIR:
        return f"{config.CACHE_DIR} (NUMBA_CACHE_DIR)"
    if os.access(here, os.W_OK):
        return str(here / "__pycache__")
    return f"{here} is not writable; the user's cache folder is used, or set NUMBA_CACHE_DIR"


def report() -> str:
    """Text to paste into a bug report; nothing in it is private but the cache folder's path."""
    rows = {
        "fpgwot": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}), {platform.system()} {platform.machine()}",
    }
    rows |= {name: _version(name) for name in ("numpy", "scipy", "numba", "pot", "torch", "matplotlib")}
    rows |= {"cupy": _version(*CUPY_WHEELS)}
    rows |= _threads()
    numba_problem = _imports("numba") or _imports("ot")
    rows["backend numpy"] = "found (reference, slow)"
    rows["backend numba"] = f"missing: {numba_problem}" if numba_problem else "found"
    rows["backend cupy"] = _cupy()
    rows["torch"] = rows["torch"] if rows["torch"] == "not installed" else f"{rows['torch']}; {_torch()}"
    rows["cache"] = _cache() if _imports("numba") is None else "none"
    width = max(map(len, rows)) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in rows.items())
