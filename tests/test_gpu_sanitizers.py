"""The kernels under ThreadSanitizer, AddressSanitizer and UBSan, and which of their lines the emulated tests run.

Each is a process of its own, with kernels built for the sanitizer (`EMULATOR_FLAVOUR`).
"""

from __future__ import annotations

import numpy as np
import pytest
import test_backends as parity
import test_gpu_kernels as kernels
import test_gpu_small as small
from emulator import build, coverage, sanitize
from emulator.standin import Standin

from fpgwot._backends import numpy_ref
from fpgwot._backends.cupy_gpu import Gpu

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))]
FILES = ["tests/test_gpu_kernels.py", "tests/test_gpu_small.py", "tests/test_gpu_graph.py"]
ONE, WIDE = np.array([[33, 40]]), np.array([[33, 130]])  # two blocks of rows; with 64 threads two warps share the columns
# `spread` sets entries that small problems lack, it has a call of its own; `anderson` calls its kernel a dozen times
STEPS = (
    "sweep kernel damped_kernel logsums newton trial plan marginal_sums gradient-True-True-False gradient-None-None-True".split()
)


def tiny(dtype: type) -> None:
    """Every kernel once or twice, on the smallest problems that have two blocks and two warps."""
    be = kernels.OnDevice(Gpu(Standin(), threads=64))
    for name in STEPS:
        kernels.check(parity.STEPS[name], "partial", dtype, be, ONE)
    for name in ("sweep", "cg"):
        kernels.check(parity.STEPS[name], "kl", dtype, be, WIDE)
    x, none = parity.State("partial", dtype, size=ONE), np.zeros(1, bool)
    for _ in range(2):
        be.anderson(x.s, none, x.on)
    np.testing.assert_allclose(be.spread(x.G, x.s), numpy_ref.spread(x.G, x.s), rtol=1e-5)
    be.roughness(x.T, x.G, np.ones(1), x.s.size, x.on)
    # one Newton step of the whole inner solve: with 64 threads both are shared by two warps, and 40 columns are not 64
    small.ascend(be, parity.State("partial", dtype, size=ONE), -1.0, 1)
    gaps = np.append(0.0, np.full(69, 0.5))
    for axis in (0, 1):
        X = np.ones((1, 70, 5) if axis == 0 else (1, 5, 70), dtype)
        for power in (1, 2):
            be.power_matmul(X, gaps, power, 0.5, axis)
        be.decay_matmul(X, np.append(0.0, np.full(69, 0.9)), -1.0, 1.0, axis)
        be.toeplitz_matmul(X, np.array([0.5, 0.2, 0.1]), axis)
        be.toeplitz_matmul(X, np.append(0.5, np.full(40, 0.2)), axis)


@pytest.mark.parametrize(("flavour", "dtype"), [("thread", "float64"), ("address", "float64"), ("address", "float32")])
def test_no_races_no_overruns_no_undefined_behaviour(flavour, dtype):
    done = sanitize.run(flavour, ["-c", f"import numpy, test_gpu_sanitizers as t; t.tiny(numpy.{dtype})"], timeout=900)
    assert done.returncode == 0, done.stderr[-6000:]


def test_the_emulated_tests_run_the_kernels(tmp_path):
    """At least 95 % of the lines, of the primitives in one type and of the structure products."""
    chosen = (
        "(primitives or warps or roughness or spread or power or laplace or toeplitz or inner or hard_problems or mixed_points)"
    )
    chosen += " and not float32 and not backward and not random"
    command = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *FILES, "-k", chosen]
    done = sanitize.run("coverage", command, timeout=900, FPGWOT_EMULATOR_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stdout[-4000:]
    lines = coverage.line_coverage(tmp_path)
    assert len(lines) == 9, sorted(lines)
    assert coverage.share(lines) >= 0.95, coverage.report(lines)
