"""The kernels under ThreadSanitizer, AddressSanitizer and UBSan, and which of their lines the emulated tests run.

Each is a run of some of `test_gpu_kernels.py` in a process of its own, with kernels built for the sanitizer (`EMULATOR_FLAVOUR`).
ThreadSanitizer runs one system thread for each CUDA thread of every block, so the cases are tiny.
"""

from __future__ import annotations

import re

import pytest
import test_backends as parity
from emulator import build, coverage, sanitize

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))]
FILE = "tests/test_gpu_kernels.py"
TINY = "[[31, 32], [32, 31], [1, 33]]"
NAMES = [
    x for x in parity.STEPS if x not in ("spread", "shared_layer", "damped_kernel", "drift") and not x.startswith("gradient")
]
NAMES += ["gradient-True-True-False"]
# (problems, points, lines) of structure products: one segment of a line, and several
LINES = ("(2, 31, 3)", "(2, 101, 7)")
PRODUCTS = [f"{x}-{y}" for y in LINES for x in ("laplace_kernel[forward", "power_distance[forward-1")]
PRODUCTS += [f"{x}-{LINES[1]}" for x in ("power_distance[forward-2", "toeplitz_bands[forward")]


def cases(dtype: str) -> list[str]:
    """Tests of every primitive, of several warps that share columns, and of structure products."""
    found = [f"{FILE}::test_sizes[{name}-{TINY}-{dtype}]" for name in NAMES]
    found += [f"{FILE}::test_several_warps_share_the_columns[{name}-forward]" for name in ("sweep", "cg")]
    found += [f"{FILE}::test_roughness[{dtype}]", f"{FILE}::test_spread_of_all_sizes[{TINY}]"]
    return found + [f"{FILE}::test_{x}-{dtype}]" for x in PRODUCTS]


def run(flavour: str, tests: list[str], **environment: str) -> None:
    done = sanitize.run(flavour, ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests], timeout=900, **environment)
    assert done.returncode == 0, (done.stderr or done.stdout)[-6000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= len(tests), done.stdout[-2000:]
    assert "skipped" not in done.stdout


def test_no_races():
    run("thread", cases("float64"))


def test_no_overruns_and_no_undefined_behaviour():
    run("address", [*cases("float64"), *cases("float32")])


def test_the_emulated_tests_run_the_kernels(tmp_path):
    """At least 95 % of the lines, of the primitives in one type and of the structure products."""
    run(
        "coverage",
        [
            FILE,
            "-k",
            "(test_primitives or test_sizes or several_warps and forward or roughness or spread or forward) and not float32",
        ],
        FPGWOT_EMULATOR_CACHE=str(tmp_path),
    )
    lines = coverage.line_coverage(tmp_path)
    assert len(lines) == 6, sorted(lines)
    assert coverage.share(lines) >= 0.95, coverage.report(lines)
