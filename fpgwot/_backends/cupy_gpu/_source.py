"""The CUDA source as the compiler gets it: the names of `_protocol` and the constants of `inner` in front, then `common.cuh`, the
other headers of the file (`SHARED`), and the file of kernels itself.

CuPy's cache does not look into included files, so everything is one string; `#line` makes errors name the file.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from .. import _protocol as ix
from .. import inner

FOLDER = Path(__file__).parent / "cuda"
REALS = ("float", "double")
THREADS = 512  # most threads of a block
COLUMNS = {"float": (1, 2, 4, 8, 16, 0), "double": (1, 2, 4, 8, 0)}  # columns of a thread; 0: more than registers hold
# Kernels of each file, with the most registers a thread may take on any architecture. {real}, {cols}, {kind}, {axis}: one
# kernel for each type, number of columns, kind of scan and direction
KERNELS = {
    "gradient.cu": {
        "gradient<{real}>": 128,
        "gradient_sums": 64,
        "roughness<{real}>": 96,
        "spread<{real}>": 64,
        "block_sums": 40,
    },
    "kernel.cu": {
        "column_logsums<{real}>": 64,
        "column_logsums_join<{real}>": 64,
        "kernel_matrix<{real}>": 128,
        "plan<{real}>": 64,
    },
    "scaling.cu": {
        "column_factors<{real}>": 64,
        "sweep_rows<{real}, {cols}, {fixed}>": 128,
        "sweep_columns<{real}>": 128,
        "sweep_numbers": 64,
        "mix_begin": 40,
        "mix_check": 40,
        "fold<{real}>": 40,
        "newton_rows<{real}>": 64,
        "newton_columns<{real}>": 96,
        "direction_factors<{real}>": 40,
        "cg_rows<{real}, {cols}, {fixed}>": 128,
        "cg_columns<{real}>": 128,
    },
    "small.cu": {"small<{real}>": 128},
    "columns.cu": {"anderson": 200, "trial": 64, "shorten": 96, "marginal_sums": 96},
    "structured.cu": {
        "scan_segments<{real}, {kind}, {axis}>": 96,
        "scan_segments<{real}, Total, {axis}>": 96,
        "scan_carries<{kind}>": 64,
        "scan_lines<{real}, {kind}, {axis}>": 128,
        "toeplitz_window<{real}, {axis}>": 128,
        "toeplitz_band<{real}, {axis}>": 64,
    },
}
SHARED = {"scaling.cu": ("scaling.cuh",), "columns.cu": ("columns.cuh",), "small.cu": ("scaling.cuh", "columns.cuh")}
KINDS, AXES = ("Distance", "Square", "Decay"), ("0", "1")


def _constants() -> str:
    """The names of `_protocol` (ix::) and of `inner` (loop::) as C++ constants."""
    parts = ["#pragma nv_diag_suppress 177"]
    for space, module in (("ix", ix), ("loop", inner)):
        numbers = {k: x for k, x in vars(module).items() if k.isupper() and isinstance(x, (int, float))}
        lines = [f"constexpr {'int' if isinstance(x, int) else 'double'} {k} = {x!r};" for k, x in numbers.items()]
        parts.append(f"namespace {space} {{\n" + "\n".join(lines) + "\n}\n")
    return "\n".join(parts)


@cache
def code(file: str) -> str:
    """The source of one file of kernels, with all that it needs."""
    parts = [_constants()]
    for name in ("common.cuh", *SHARED.get(file, ()), file):
        parts.append(f'#line 1 "{name}"\n{(FOLDER / name).read_text(encoding="utf-8")}')
    return "\n".join(parts)


def fixed(cols: int, threads: int) -> int:
    """Threads of the fused read where its kernel is made for their number; many columns a thread come with all threads only."""
    return threads if cols >= 8 else 0


def expressions(file: str, real: str | None = None, threads: int = THREADS) -> dict[str, int]:
    """Every kernel of a file as a C++ expression, with its register ceiling; those of one type, or all."""
    found = {}
    for pattern, registers in KERNELS[file].items():
        for one in REALS if real is None else (real,):
            for cols in COLUMNS[one] if "{cols}" in pattern else ("",):
                size = fixed(cols, threads) if isinstance(cols, int) else 0
                for kind in KINDS if "{kind}" in pattern else ("",):
                    for axis in AXES if "{axis}" in pattern else ("",):
                        found[pattern.format(real=one, cols=cols, fixed=size, kind=kind, axis=axis)] = registers
    return found


def fingerprint() -> str:
    """Hash of everything that is compiled: what a measurement on a device refers to."""
    return hashlib.sha256("".join(code(file) for file in KERNELS).encode()).hexdigest()[:16]
