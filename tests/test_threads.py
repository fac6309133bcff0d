"""Results do not depend on the number of threads: the same problems in processes with one and with two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fpgwot._backends.numba_cpu._jit import _Choice

CODE = """
import sys
import numpy as np
from numba import get_num_threads
from fpgwot import solve
from fpgwot._backends.numba_cpu import _jit

size, out = 250, {"threads": get_num_threads()}
rng = np.random.default_rng(0)
x, y = np.sort(rng.random(size)), np.sort(rng.random(size + 30))
M, C1, C2 = abs(x[:, None] - y) + .1 * rng.random((size, size + 30)), abs(x[:, None] - x) ** .5, abs(y[:, None] - y) ** .5
lag = lambda n: abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
if out["threads"] > 1:  # the faster form is chosen by measurement: here the parallel one always is
    _jit._Choice.form = lambda self: 1
    _jit.Kernel.EARNED = 0.0
for name, options in {
    "partial": dict(m=.8, reg=.02), "balanced": dict(reg=.02), "kl": dict(tau=.3, reg=.02),
    "smooth": dict(reg=.05, smoothness=.1), "exact": dict(), "exact partial": dict(m=.6),
}.items():
    for kind, (A, B) in {"dense": (C1, C2), "temporal": (lag(size), lag(size + 30))}.items():
        for dtype in (np.float64, np.float32):
            if dtype is np.float32 and name != "partial":  # compiling takes longer than all of this
                continue
            r = solve(*(a.astype(dtype) for a in (M, A, B)), alpha=.4, **options, on_fail="ignore", backend="numba")
            out[f"{name} {kind} {np.dtype(dtype).name}"] = r.plan
            out[f"{name} {kind} {np.dtype(dtype).name} work"] = [r.n_passes, r.n_gradients]
np.savez(sys.argv[1], **out)
"""


def run(threads: int, path: Path) -> dict[str, np.ndarray]:
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CODE, str(path)]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(path) as data:
        return dict(data)


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_one_and_two_threads_agree_to_the_last_digits(tmp_path):
    one, two = run(1, tmp_path / "one.npz"), run(2, tmp_path / "two.npz")
    assert (one.pop("threads"), two.pop("threads")) == (1, 2)
    assert one.keys() == two.keys()
    for name, T in one.items():
        if name.endswith("work"):
            np.testing.assert_array_equal(T, two[name], err_msg=name)  # the same decisions on the way
        else:
            eps = np.finfo(T.dtype).eps
            np.testing.assert_allclose(two[name], T, rtol=100 * eps, atol=10 * eps * T.max(), err_msg=name)


BATCH = """
import sys
import numpy as np
from fpgwot import solve, solve_batch
from fpgwot._backends.numba_cpu import both_forms

rng = np.random.default_rng(3)
problems = [{"M": rng.random((n, 14)), "C1": rng.random((n, n)), "C2": rng.random((14, 14))} for n in (9, 12, 15)]
with both_forms():
    found = [r for o in ({}, {"m": 0.7}, {"tau": 0.2}) for r in solve_batch(problems, alpha=0.4, reg=0.02, **o, on_fail="ignore")]
M, C = rng.random((280, 300)), [abs(np.subtract.outer(np.arange(n), np.arange(n))) / n for n in (280, 300)]  # two threads
with both_forms():
    found += [solve(M, *C, alpha=0.4, reg=0.01, **o) for o in ({}, {"m": 0.7, "smoothness": 0.2})]
np.savez(sys.argv[1], *(r.plan for r in found))
"""


@pytest.mark.slow
def test_kernels_compiled_here_and_kernels_out_of_the_cache_agree_bit_for_bit(tmp_path):
    """They did not where helpers were not inlined, nor where all that is added could be reordered: see `elementary.add`."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_NUM_THREADS": "2"}
    plans = []
    for name in ("compiled", "cached"):
        path = tmp_path / f"{name}.npz"
        subprocess.run([sys.executable, "-c", BATCH, str(path)], env=environment, cwd=Path(__file__).parent.parent, check=True)
        with np.load(path) as data:
            plans.append([data[key] for key in data.files])
    for one, two in zip(*plans, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_faster_form_is_found_whatever_the_first_calls_took():
    """Simulated calls: noise, pauses, and a change of what is faster. One slow first call kept the slow form for a thousand."""
    rng = np.random.default_rng(0)

    def calls(choice, cost, count):
        forms = []
        for _ in range(count):
            form = choice.form()
            pause = 30.0 if rng.random() < 0.02 else 1.0
            choice.record(form, cost[form] * rng.uniform(0.8, 1.25) * pause)
            forms.append(form)
        return np.array(forms)

    for fast in (0, 1):
        choice = _Choice()
        choice.record(fast, 1.0)  # what is faster began with a pause of a second
        cost = np.array([1e-3, 1e-3])
        cost[fast] = 5e-4
        assert np.mean(calls(choice, cost, 200)[20:] == fast) > 0.9
        assert np.mean(calls(choice, cost[::-1], 400)[100:] == 1 - fast) > 0.8  # the machine has changed
        assert np.mean(calls(choice, cost[::-1], 2000) == fast) < 0.1  # the slow form is tried ever more rarely

    for slow in (0, 1):  # the first call of a form wakes its threads, or writes to fresh memory
        choice, first = _Choice(), np.array([1.0, 1.0])
        first[slow] = 50.0
        forms = []
        for _ in range(8):
            forms.append(form := choice.form())
            choice.record(form, first[form] if forms.count(form) == 1 else (1.0, 0.6)[form])
        assert forms[-3:] == [1, 1, 1] and forms.count(0) <= 2

    choice = _Choice()  # a busy machine at first: the parallel form takes four times as long, then .6 of the other
    assert not calls(choice, np.array([1.0, 2.4]), 10)[8:].all()
    calls(choice, np.array([1.0, 0.6]), 600)
    assert np.mean(calls(choice, np.array([1.0, 0.6]), 100) == 1) > 0.9

    choice, total, slow = _Choice(), 0.0, False  # half as long or, by turns, twenty times
    for k in range(600):
        slow = rng.random() < 0.4 if k % 20 == 0 else slow
        form = choice.form()
        cost = (1.0, 20.0 if slow else 0.5)[form]
        choice.record(form, cost)
        total += cost
    assert total < 1.5 * 600
