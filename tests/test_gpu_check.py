"""The script that a GPU is given ten minutes for must not fail for a reason of its own: here it runs on the emulator."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import test_gpu_device as device
from emulator import build
from emulator.standin import Standin

from fpgwot import solve, solve_batch
from fpgwot._backends import cupy_gpu
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
    inner, whole = ([x for x in found["small"] if ("whole" in x) == which] for which in (False, True))
    assert [x["one_launch"]["launches"] for x in inner] == [1] * 4
    assert all(x["passes"]["launches"] > x["passes"]["passes"] > 15 and x["passes"]["graphs"] == 6 for x in inner)
    assert all(x["one_launch"]["passes"] == x["passes"]["passes"] for x in inner if x["dtype"] == "float64")
    assert all(x[y]["converged"] == x["problems"] for x in whole for y in ("one_launch", "passes"))
    assert all(1.2 * x["one_launch"]["launches_per_step"] < x["passes"]["launches_per_step"] for x in whole)
    assert all(np.isfinite(x["us_1_threads_a_line"]) for x in inner)
    assert all(
        np.isfinite([x[y] for y in ("graph_us", "launches_us", "all_done_us", "mixed_graphs_us", "mixed_launches_us")]).all()
        for x in found["graph"]
    )
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


def test_what_the_memory_checker_runs(script, monkeypatch):
    monkeypatch.setattr(cupy_gpu, "backend", lambda: Gpu(Standin()))
    exec(script.CRASH, {})


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_tests_for_a_device(dtype, sequences, monkeypatch):
    """One case of each of `test_gpu_device`; on a card they have hundreds, and the arrays say where to solve."""
    gpu = Gpu(Standin())
    on_device = {True: gpu, False: "auto"}
    monkeypatch.setattr(device, "solve", lambda M, *a, **o: solve(M, *a, **o, backend=on_device[isinstance(M, gpu.cp.ndarray)]))
    there = lambda x: on_device[isinstance(x[0]["M"], gpu.cp.ndarray)]  # noqa: E731
    monkeypatch.setattr(device, "solve_batch", lambda x, **o: solve_batch(x, **o, backend=there(x)))
    device.test_primitives("cg", "partial", dtype, gpu)
    device.test_inner_solves_in_one_launch("partial", dtype, gpu)
    device.test_inner_solves_with_graphs("partial", dtype, gpu)
    device.test_structures((1, 33, 7), dtype, gpu)
    if dtype == np.float32:
        device.test_results_repeat_bit_for_bit("sweep", gpu)
        device.test_a_solve_repeats_bit_for_bit(gpu, lambda n: sequences(40))
    else:
        device.test_whole_solves("partial", 40, gpu, sequences)
        device.test_a_batch(gpu)
