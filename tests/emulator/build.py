"""Compile CUDA C++ with g++ behind `shim.h`, and launch its kernels on the CPU.

The source that goes to the GPU's compiler comes here letter by letter. Only what C++ cannot express is written anew, on the same
line: declarations of shared memory and the bounds of a launch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SHIM = HERE / "shim.h"
COMPILER = shutil.which("g++")
MISSING = None if COMPILER and platform.machine() == "x86_64" else "kernels are emulated by g++ on x86-64 only"
COMMON = ("-std=gnu++17", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique", "-ffp-contract=off", "-w")
FLAVOURS = {
    "plain": ("-O1",),
    "address": ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-O1", "-g1", "-fsanitize=thread", "-DEMU_RACES"),
    "coverage": ("-O0", "--coverage"),
}
ORDERS = ("forward", "backward", "random")

_SHARED = re.compile(
    r"(?<!\w)__shared__\s+(?:__align__\s*\(\s*\w+\s*\)\s+)?([\w:<>,\s*]+?)\s*\b(\w+)\s*((?:\[[^\]]*\])*)\s*(;|,|=)"
)
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\s*\(\s*\w+\s*\)\s+)?([\w:<>,\s*]+?)\s*\b(\w+)\s*\[\s*\]\s*;")
_BOUNDS = re.compile(r"__launch_bounds__\s*\(((?:[^()]|\([^()]*\))*)\)([^{;]*)\{")
_KERNEL = re.compile(r'extern\s+"C"\s+EMU_GLOBAL[^;{}()]*?\b(\w+)\s*\(')


class EmulationError(RuntimeError):
    """A fault of the kernel that a GPU would punish, or hide."""


def translate(code: str) -> str:
    """The few constructs that no macro can express, each rewritten on its own line."""
    code = _DYNAMIC.sub(r"\1* \2 = reinterpret_cast<\1*>(emu::block->dynamic);", code)

    def shared(match: re.Match[str]) -> str:
        kind, name, extent, end = match.groups()
        if end != ";":
            raise EmulationError(f"one shared variable without initialiser to a declaration, please: {match.group(0)!r}")
        slot = f"emu_slot_{name}"
        return f"static const int {slot} = emu::next_slot++; auto& {name} = emu::shared<{kind}{extent}>({slot});"

    code = _SHARED.sub(shared, code)
    return _BOUNDS.sub(r"\2{ emu::bound(\1);", code)


@functools.cache
def _compiler() -> str:
    if COMPILER is None:
        raise EmulationError(MISSING)
    return subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _run(command: list[str]) -> str:
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # a sanitizer's runtime is not for the compiler
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise EmulationError(f"g++ refuses the kernels:\n{done.stderr[:6000]}")
    return done.stdout


def cache_folder() -> Path:
    """Where built libraries are kept from one run to the next."""
    default = Path(tempfile.gettempdir()) / f"fpgwot-emulator-{os.getuid()}"
    return Path(os.environ.get("FPGWOT_EMULATOR_CACHE", default))


def _hash(*what: Any) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:24]


@functools.cache
def _header(flags: tuple[str, ...]) -> Path:
    """The shim, parsed once for each set of flags: half of the time of a small build."""
    texts = [(HERE / name).read_text() for name in ("shim.h", "fibers.h", "language.h", "build.py")]
    folder = cache_folder() / _hash(texts, flags, _compiler())
    header = folder / "shim.h"
    if not header.exists():
        folder.mkdir(parents=True, exist_ok=True)
        parsed = folder / f"{os.getpid()}.gch"
        _run([str(COMPILER), *flags, "-x", "c++-header", str(SHIM), "-o", str(parsed)])
        os.replace(parsed, folder / "shim.h.gch")
        header.write_text(f'#include "{SHIM}"\n')
    return header


def build(code: str, expressions: Sequence[str] = (), defines: Sequence[str] = (), flavour: str = "plain") -> Library:
    """The library of a source; kernels are named by expressions like "sweep<float>", or are extern "C"."""
    flags = (*COMMON, *FLAVOURS[flavour], *defines)
    header = _header(flags)
    folder = cache_folder() / _hash(header, code, tuple(expressions), flags)
    library, index = folder / "kernels.so", folder / "names"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        body = f'#line 1 "kernels.cu"\n{translate(code)}\n#line 1 "entries"\n'
        names = list(expressions)
        if 'extern "C"' in code:
            scan = folder / f"scan-{os.getpid()}.cpp"
            scan.write_text(body)
            names += _KERNEL.findall(_run([str(COMPILER), "-D__global__=EMU_GLOBAL", *defines, "-E", "-P", str(scan)]))
            scan.unlink()
        for i, name in enumerate(names):
            body += f"EMU_EXPORT void emu_call_{i}(void** a) {{ emu::call(&{name}, a); }}\n"
            body += f"EMU_EXPORT const char* emu_signature_{i}() {{ return emu::signature(&{name}); }}\n"
        source = folder / f"kernels-{os.getpid()}.cpp"
        source.write_text(body)
        fresh = folder / f"fresh-{os.getpid()}.so"
        _run([str(COMPILER), *flags, "-include", str(header), str(source), "-o", str(fresh)])
        os.replace(fresh, library)
        fresh_index = folder / f"names-{os.getpid()}"
        fresh_index.write_text("\n".join(names))
        os.replace(fresh_index, index)
    return _load(str(library), tuple(index.read_text().split("\n")))


@functools.cache
def _load(path: str, names: tuple[str, ...]) -> Library:
    return Library(path, names)


class Library:
    """Compiled kernels by name."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.path, self._lib = Path(path), ctypes.CDLL(path)
        self._lib.emu_launch.restype, self._lib.emu_message.restype = ctypes.c_long, ctypes.c_char_p
        self.kernels: dict[str, tuple[Any, tuple[str, ...]]] = {}
        for i, name in enumerate(names):
            signature = getattr(self._lib, f"emu_signature_{i}")
            signature.restype = ctypes.c_char_p
            call = ctypes.cast(getattr(self._lib, f"emu_call_{i}"), ctypes.c_void_p)
            self.kernels[name] = call, tuple(signature().decode().split())

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        threads: Sequence[int],
        raw: Sequence[Any],
        shared: int = 0,
        order: str = "forward",
        seed: int = 0,
        flush: bool = False,
    ) -> int:
        """Run a kernel with arguments given as ctypes objects; returns the most shared memory that a block took."""
        call, _ = self.kernels[name]
        pointers = (ctypes.c_void_p * max(1, len(raw)))(*(ctypes.addressof(x) for x in raw))
        grid3, threads3 = ((ctypes.c_uint * 3)(*x, *[1] * (3 - len(x))) for x in (grid, threads))
        how = ctypes.c_int(ORDERS.index(order)), ctypes.c_uint(seed), ctypes.c_int(flush)
        used = self._lib.emu_launch(call, pointers, grid3, threads3, ctypes.c_size_t(shared), *how)
        if used < 0:
            raise EmulationError(f"{name}: {self._lib.emu_message().decode()}")
        return int(used)


def as_argument(value: np.generic) -> Any:
    """A NumPy scalar as memory that a kernel argument is read from."""
    return np.ctypeslib.as_ctypes_type(value.dtype)(value.item())
