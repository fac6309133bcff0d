"""NVIDIA's run-time compiler without a driver: the wheel `nvidia-cuda-nvrtc` through ctypes, down to machine code."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# what CuPy adds to the options of a RawModule; ptxas tells about registers and spills
OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v", "-lineinfo")
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")


class CompileError(RuntimeError):
    """The compiler's own lines."""


@dataclass(frozen=True)
class Usage:
    """What a kernel takes: registers per thread, bytes spilled, bytes of stack and of static shared memory."""

    registers: int
    spilled: int
    stack: int
    shared: int


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiler, None where the wheel is not installed."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("**/libnvrtc.so.1?")):
            for other in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(other), mode=ctypes.RTLD_GLOBAL)
            lib = ctypes.CDLL(str(path))
            lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            return lib
    return None


def version() -> tuple[int, int]:
    """Of CUDA, as the compiler tells it."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_lib().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def compile(code: str, expressions: Sequence[str] = (), arch: str = "90", options: Sequence[str] = OPTIONS) -> dict[str, Usage]:
    """Compile to machine code of sm_`arch`; the usage of each expression (of each extern "C" kernel where there are none)."""
    lib, program = _lib(), ctypes.c_void_p()
    _check(lib.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None))
    try:
        for name in expressions:
            _check(lib.nvrtcAddNameExpression(program, name.encode()))
        flags = [f"-arch=sm_{arch}".encode(), *(x.encode() for x in options)]
        status = lib.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        size = ctypes.c_size_t()
        _check(lib.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
        log = ctypes.create_string_buffer(size.value)
        _check(lib.nvrtcGetProgramLog(program, log))
        text = log.value.decode()
        if status:
            raise CompileError(f"sm_{arch}: {lib.nvrtcGetErrorString(status).decode()}\n{text[:6000]}")
        usage = _usage(text)
        if not expressions:
            return usage
        return {name: usage[_lowered(program, name)] for name in expressions}
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


def _lib() -> ctypes.CDLL:
    lib = library()
    if lib is None:
        raise CompileError("the wheel nvidia-cuda-nvrtc is not installed")
    return lib


def _check(status: int) -> None:
    if status:
        raise CompileError(_lib().nvrtcGetErrorString(status).decode())


def _lowered(program: ctypes.c_void_p, name: str) -> str:
    out = ctypes.c_char_p()
    _check(_lib().nvrtcGetLoweredName(program, name.encode(), ctypes.byref(out)))
    assert out.value is not None
    return out.value.decode()


def _usage(log: str) -> dict[str, Usage]:
    """From ptxas's lines 'Compiling entry function', 'bytes stack frame' and 'Used N registers'."""
    out = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.partition("'")[0]
        # its own line, then those of the functions that it calls
        lines = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        stack, stores, loads = (sum(map(int, column)) for column in zip(*lines, strict=True))
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        assert registers is not None, part
        out[name] = Usage(int(registers[1]), stores + loads, stack, int(shared[1]) if shared else 0)
    return out
