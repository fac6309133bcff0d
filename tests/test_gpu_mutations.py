"""Bugs planted in the real kernels, in the text that the compiler gets: the emulated tests must notice each of them."""

from __future__ import annotations

import numpy as np
import pytest
import test_backends as parity
import test_gpu_small as small
from emulator import build
from emulator.build import EmulationError
from emulator.standin import Standin
from test_gpu_kernels import OnDevice, check, products

from fpgwot._backends.cupy_gpu import Gpu, _source

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))]

WIDE = np.array([[34, 250]], np.int64)  # with 64 threads: two warps, four columns a thread
BARRIER_OF_FACTORS = "factor[t] = i + t < i1 ? rule(i + t, product) : (real)0;\n    }\n    __syncthreads();"
# what is done, the file, text before and after, the step that must fail
MUTATIONS = {
    "an index": ("scaling.cu", "sum += part[(b * blocks + k) * m + j]", "sum += part[b * blocks * m + j]", "sweep"),
    "an end": ("kernel.cu", "i1 = min(i0 + ix::ROWS, nb)", "i1 = min(i0 + ix::ROWS - 1, nb)", "logsums"),
    "a barrier": ("scaling.cu", BARRIER_OF_FACTORS, BARRIER_OF_FACTORS.replace("__syncthreads();", ""), "sweep"),
    "operands": ("kernel.cu", "ell = madd(step, ell - l0, l0)", "ell = madd(step, l0 - ell, l0)", "damped_kernel"),
}


def planted(monkeypatch, file: str, before: str, after: str) -> OnDevice:
    """The backend on kernels with a bug; the text is there, so the bug is as well."""
    code = _source.code
    assert before in code(file)
    monkeypatch.setattr(_source, "code", lambda name: code(name).replace(before, after) if name == file else code(name))
    return OnDevice(Gpu(Standin(), threads=64))


@pytest.mark.parametrize("what", MUTATIONS)
def test_the_suite_notices_a_change_of(what, monkeypatch):
    file, before, after, step = MUTATIONS[what]
    be = planted(monkeypatch, file, before, after)
    with pytest.raises((AssertionError, EmulationError)):
        check(parity.STEPS[step], "partial", np.float64, be, WIDE)
    monkeypatch.undo()
    check(parity.STEPS[step], "partial", np.float64, OnDevice(Gpu(Standin(), threads=64)), WIDE)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("2.0 * v[1] + gap * v[0]", "2.0 * v[0] + gap * v[1]"),
        (
            "      __syncthreads();\n    }\n  }\n  __device__ __forceinline__ real operator",
            "    }\n  }\n  __device__ real operator",
        ),
    ],
    ids=["operands", "a barrier"],
)
def test_the_suite_notices_a_change_of_a_running_sum(before, after, monkeypatch):
    be = planted(monkeypatch, "structured.cu", before, after)
    gaps = np.append(0.0, np.random.default_rng(0).random(39) + 0.1)
    with pytest.raises((AssertionError, EmulationError)):
        products("power_matmul", (1, 40, 70), np.float64, be, gaps, 2, 0.25)
    monkeypatch.undo()
    products("power_matmul", (1, 40, 70), np.float64, OnDevice(Gpu(Standin(), threads=64)), gaps, 2, 0.25)


# in the kernel of a whole problem
SMALL = {
    "an index": ("K[i * pitch + j], x[j], sum", "K[i * pitch + j], x[i % mb], sum"),
    "a barrier": (
        "      if (lane == 0) product[i] = all;\n    }\n    __syncthreads();",
        "      if (lane == 0) product[i] = all;\n    }",
    ),
    "operands": (
        "problem.trial(a);\n      out = problem.sweep(), passes++;",
        "problem.trial(a * a);\n      out = problem.sweep(), passes++;",
    ),
    "a decision": ("phi >= before - slack", "before >= phi - slack"),
    "the end of the rows": ("i < min(nb, i0 + groups * ix::ROWS)", "i < min(nb - 1, i0 + groups * ix::ROWS)"),
}


def inner_solves() -> None:
    for order in ("forward", "backward"):
        small.check("partial", np.float64, small.device(order, threads=64))
    small.test_hard_problems_take_the_same_decisions("balanced", 43, 8)


@pytest.mark.parametrize("what", SMALL)
def test_the_suite_notices_a_change_of_the_inner_solve(what, monkeypatch):
    planted(monkeypatch, "small.cu", *SMALL[what])
    with pytest.raises((AssertionError, EmulationError)):
        inner_solves()
    monkeypatch.undo()
    small.check("partial", np.float64, small.device(threads=64))
