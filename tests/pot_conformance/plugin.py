"""pytest plugin: POT's own tests with POT's Gromov-Wasserstein functions replaced by ours.

What we do not cover is handed to POT and listed in the summary; a difference of docs/drop_in.md that a test of POT's pins is an
expected failure, and only if it fails at the line that is named here. A listed test that passes is an error: the list is stale.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pytest

import fpgwot
from fpgwot import gromov

SKIPPED_NAMES = {"fused_unbalanced_gromov_wasserstein", "fused_unbalanced_gromov_wasserstein2"}  # not covered at all

INTEGERS = "integer structures give a plan of floats (POT: cut to integers, here zeros)"
# file and name of a test: (why, text in the line that fails)
EXPECTED = {
    "gromov/test_gw.py::test_gromov_integer_warnings": (INTEGERS, "np.testing.assert_allclose(G, 0.0, atol=1e-09)"),
    "gromov/test_gw.py::test_fgw_integer_warnings": (INTEGERS, "np.testing.assert_allclose(G, 0.0, atol=1e-06)"),
    "gromov/test_partial.py::test_partial_gromov_wasserstein": (INTEGERS, "assert nx.to_numpy(res0b).dtype == C1_int.dtype"),
    "gromov/test_partial.py::test_partial_fused_gromov_wasserstein": (
        INTEGERS,
        "assert nx.to_numpy(res0b).dtype == C1_int.dtype",
    ),
}


# keywords that POT's own tests and solvers pass where nobody reads them; ours refuse unknown keywords
SWALLOWED = {
    "partial_gromov_wasserstein": ("n_dummies",),  # a typing error for nb_dummies
    "partial_fused_gromov_wasserstein": ("n_dummies",),
    "entropic_gromov_wasserstein": ("init_Cb",),  # one for init_C, of the barycentre
    "solve_partial_gromov_linesearch": ("n_dummies",),
    "solve_semirelaxed_gromov_linesearch": ("armijo",),
}


def without(function, names):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **{k: v for k, v in kwargs.items() if k not in names})

    return call


def pytest_configure(config):
    for name, keywords in SWALLOWED.items():
        setattr(gromov, name, without(getattr(gromov, name), keywords))
    config.swapped = fpgwot.accelerate(sorted({*gromov.__all__, *fpgwot.accelerate.NAMES} - SKIPPED_NAMES))
    config.seen = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with item.config.swapped:  # also finds the names that the test module has bound
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    expected = EXPECTED.get(f"{item.nodeid.split('::')[0]}::{item.originalname}")
    if report.when != "call" or expected is None:
        return report
    why, line = expected
    if report.passed:
        report.outcome, report.longrepr = "failed", f"listed as a difference ({why}), but it passes: take it off the list"
    elif report.failed and any(line in str(entry.statement) for entry in call.excinfo.traceback):
        report.outcome, report.wasxfail = "skipped", why
    return report


def pytest_terminal_summary(terminalreporter, config):
    terminalreporter.section("fpgwot: calls of POT's names")
    terminalreporter.write_line(config.swapped.text)
    target = os.environ.get("FPGWOT_POT_REPORT")
    if target:
        counts = {k: len(v) for k, v in terminalreporter.stats.items() if k}
        calls = {k: {"ours": v.ours, "pot": v.pot, "reasons": v.reasons} for k, v in sorted(config.swapped.calls.items())}
        Path(target).write_text(json.dumps({"outcomes": counts, "calls": calls}, indent=1) + "\n", encoding="utf-8")
