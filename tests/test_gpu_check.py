"""The script that a GPU is given ten minutes for must not fail for a reason of its own: here it runs on the emulator."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from emulator import build
from emulator.standin import Standin

from fpgwot._backends.cupy_gpu import Gpu

PATH = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"
pytestmark = [pytest.mark.emulated, pytest.mark.skipif(build.MISSING is not None, reason=str(build.MISSING))]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_runs(script, tmp_path, capsys):
    parts = [x for x in script.PARTS if x not in ("tests", "compile")]  # those are what the tests beside this one do
    assert script.main(["--standin", "--out", str(tmp_path), "--parts", ",".join(parts)]) == 0
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert set(found) == {*parts, "seconds"}
    assert len(found["where"]["kernels"]) == 16
    assert {x["pass"] for x in found["passes"]} >= {"sweep", "newton", "cg", "kernel", "plan", "gradient"}
    assert all(np.isfinite(x["us"]) for x in found["passes"] + found["structures"])
    for row in found["solves"]:
        assert row["gpu"]["converged"]
        np.testing.assert_allclose(row["gpu"]["value"], row["numba"]["value"], rtol=1e-4)
    assert "failed parts: none" in capsys.readouterr().out


def test_a_part_that_fails_is_recorded_and_an_empty_budget_skips(script, tmp_path):
    check = script.Check(Gpu(Standin()), script.TINY, 1e3, tmp_path)
    check.part("broken", lambda: 1 / 0, 0)
    check.end = 0.0
    check.part("late", lambda: 1, 5)
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert "ZeroDivisionError" in found["broken"]["failed"]
    assert found["late"].startswith("skipped")
