"""What is compiled only once it has been earned gives the same bits in the interpreter; compiling leaves no trace behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba import float64

import fpgwot
from fpgwot import solve
from fpgwot._backends import numba_cpu
from fpgwot._backends.numba_cpu import _jit, descent, nothing_deferred
from fpgwot._solvers import control


def problem(n, m, kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "temporal":  # full of ties
        C = [np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / k for k in (n, m)]
    elif kind == "asymmetric":
        C = [rng.random((k, k)) for k in (n, m)]
    else:
        C = [np.linalg.norm(x[:, None] - x, axis=2) for x in (rng.random((n, 3)), rng.random((m, 3)))]
    return rng.random((n, m)), *C


def both(loop, arrays, **options):
    """The results of `solve` with this loop interpreted and compiled."""
    found, before = [], (loop._spent, loop._is_earned)
    for is_compiled in (False, True):
        loop._spent, loop._is_earned = 1e-9, is_compiled
        found.append(solve(*arrays, **options, on_fail="ignore"))
        assert is_compiled or loop._spent > 1e-9, "not used"
    loop._spent, loop._is_earned = before
    return found


def assert_same(one, two):
    for name in ("plan", "value", "n_iter", "n_passes", "n_gradients", "history"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    assert one.residuals.stationarity == two.residuals.stationarity and one.status == two.status


@pytest.mark.parametrize("kind", ["points", "temporal", "asymmetric"])
@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"m": 0.7}, {"sink": 0.3}, {"loss": "product"}, {"tau": (np.inf, 0.0)}, {"max_iter": 2}], ids=str
)
def test_small_exact_problems_are_the_same_interpreted_and_compiled(kind, options, is_fused):
    for n, m in ((1, 1), (3, 4), (16, 16), (40, 31), (64, 64)):
        M, C1, C2 = problem(n, m, kind, n)
        arrays, alpha = ((M, C1, C2), 0.6) if is_fused else ((None, C1, C2), None)
        loop = descent.FUSED if is_fused or "sink" in options else descent.PURE  # a price is a linear cost
        assert_same(*both(loop, arrays, alpha=alpha, **options))


@pytest.mark.parametrize("kind", ["points", "temporal", "asymmetric"])
@pytest.mark.parametrize(
    "options",
    [{}, {"m": 0.7}, {"tau": 0.2}, {"tau": (np.inf, 0.0), "smoothness": 0.1}, {"loss": "product", "m": 0.4}, {"max_iter": 3}],
    ids=str,
)
def test_rules_of_the_outer_loop_are_the_same_interpreted_and_compiled(kind, options):
    """At a small reg: damping, long steps and stages are all used."""
    for n, m, reg in ((1, 1, 0.1), (12, 15, 0.004), (30, 30, 0.02)):
        assert_same(*both(control.rules(numba_cpu).observe, problem(n, m, kind, n), alpha=0.8, reg=reg, **options))


@pytest.mark.slow
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two cores")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_batches_are_the_same_in_lockstep_and_in_the_loop_that_warmup_compiles(dtype, monkeypatch):
    monkeypatch.setattr(_jit, "_is_on_disk", lambda dispatcher: False)
    loop, used = numba_cpu._loop._by_dtype[np.dtype(dtype)], []
    call = loop.parallel
    monkeypatch.setattr(loop, "parallel", lambda *args: used.append(1) or call(*args))
    rng = np.random.default_rng(0)
    for B, n, m in ((2, 1, 1), (5, 8, 9), (6, 32, 20)):
        M, C1, C2 = (rng.random(shape).astype(dtype) for shape in ((B, n, m), (n, n), (m, m)))
        for options in ({}, {"m": 0.7}, {"tau": 0.2}, {"m": 0.4, "smoothness": 0.05}, {"tau": (np.inf, 0.0)}):
            for reg in (0.05, 0.003):
                found = []
                for is_there in (False, True):
                    monkeypatch.setattr(loop, "_is_there", is_there)
                    used.clear()
                    found.append(solve(M, C1, C2, alpha=0.5, reg=reg, on_fail="ignore", **options))
                    assert bool(used) == is_there
                for name in ("plan", "value", "n_iter", "n_passes", "n_gradients"):
                    np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name), err_msg=name)


def test_a_form_has_to_be_earned_unless_it_is_on_disk_or_wanted_now(monkeypatch):
    calls = []

    def make(is_on_disk=False):
        monkeypatch.setattr(_jit, "_is_on_disk", lambda dispatcher: is_on_disk)
        calls.clear()
        return _jit.Deferred(lambda: calls.append("compiled"), lambda: calls.append("interpreted"), 3.0)

    clock = iter(range(1000))
    monkeypatch.setattr(_jit.time, "perf_counter", lambda: next(clock))  # each call takes a second
    f = make()
    for _ in range(5):
        f()
    assert calls == ["interpreted"] * 3 + ["compiled"] * 2
    f = make(is_on_disk=True)
    f()
    assert calls == ["compiled"]
    f = make()
    with nothing_deferred():
        f()
    assert calls == ["compiled"]
    f = make()
    f()
    assert calls == ["interpreted"]


def test_the_loop_of_batches_is_earned_by_minutes_of_lockstep(monkeypatch):
    calls, seconds = [], iter(range(1000))
    monkeypatch.setattr(_jit, "_is_on_disk", lambda dispatcher: False)
    monkeypatch.setattr(_jit.time, "perf_counter", lambda: 50.0 * next(seconds))  # each call takes that long
    monkeypatch.setattr(_jit, "get_num_threads", lambda: 2)
    rare = _jit.Rare(lambda x: None)
    monkeypatch.setattr(rare, "parallel", calls.append)
    for _ in range(4):
        rare(lambda: calls.append("lockstep"), "loop")
    assert calls == ["lockstep"] * 3 + ["loop"]
    calls.clear()
    monkeypatch.setattr(_jit, "get_num_threads", lambda: 1)
    rare(lambda: calls.append("lockstep"), "loop")
    assert calls == ["lockstep"]


def test_plain_functions_are_earned_by_about_what_compiling_them_takes():
    def inner(x):
        return x + 1

    def outer(x):
        return inner(x)

    assert _jit.compiled(inner)._price == _jit.PRICE
    assert _jit.compiled(outer, inner)._price == 2 * _jit.PRICE


def test_what_is_on_disk_for_another_processor_or_installation_does_not_count(monkeypatch, tmp_path):
    function = _jit.bound(lambda x: x + 1, "_on_disk")
    function.__module__ = "fpgwot.somewhere"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    one = _jit._compile(function)
    assert not _jit._is_on_disk(one)
    one(1.0)
    assert _jit._is_on_disk(one)
    with monkeypatch.context() as patch:
        patch.setattr(type(one.targetctx.codegen()), "magic_tuple", lambda self: ("another", "processor"))
        assert not _jit._is_on_disk(one)
    with monkeypatch.context() as patch:
        patch.setattr(one._cache._cache_file, "_source_stamp", "another")
        assert not _jit._is_on_disk(one)
    assert _jit._is_on_disk(one) and not _jit._is_on_disk(function)


def ours(function):
    function.__module__ = "fpgwot.somewhere"
    return _jit.helper(function)


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_collection_pauses_while_kernels_are_compiled_and_is_as_before_afterwards(was_on):
    seen, before = [], _jit._compiling.seconds

    class Spy(_jit.event.Listener):
        def on_start(self, event):
            seen.append(gc.isenabled())

        def on_end(self, event):
            pass

    inner = ours(lambda x: x + 1)
    good, bad = ours(lambda x: inner(x)), ours(lambda x: x.nothing())
    (gc.enable if was_on else gc.disable)()
    try:
        with _jit.event.install_listener("numba:compile", Spy()):
            good.compile((float64,))
            assert gc.isenabled() == was_on and seen == [False, False]
            with pytest.raises(Exception, match="nothing"):
                bad.compile((float64,))
            assert gc.isenabled() == was_on
    finally:
        gc.enable()
    assert _jit._compiling.seconds > before


def test_others_are_compiled_with_garbage_collection():
    seen = []

    class Spy(_jit.event.Listener):
        def on_start(self, event):
            seen.append(gc.isenabled())

        def on_end(self, event):
            pass

    with _jit.event.install_listener("numba:compile", Spy()):
        numba.njit(lambda x: x + 1)(1.0)
    assert seen == [True] and gc.isenabled()


def test_functions_of_others_that_belong_to_no_module_are_compiled():
    """Generated code often has None there."""
    made = {}
    exec("def twice(x):\n    return 2 * x", made)
    made["twice"].__module__ = None
    assert numba.njit(made["twice"])(2.0) == 4.0


@pytest.mark.slow
def test_a_first_call_compiles_kernels_and_no_loop_around_them(tmp_path):
    """And the time of the compiler earns nothing."""
    code = """if True:
    import numpy as np
    from fpgwot import solve
    from fpgwot._backends import numba_cpu
    from fpgwot._backends.numba_cpu.descent import FUSED, PURE
    from fpgwot._solvers import control

    rng = np.random.default_rng(0)
    M, C1, C2 = rng.random((20, 20)), rng.random((20, 20)), rng.random((20, 20))
    for reg in (0.0, 0.05):
        for _ in range(2):
            solve(M, C1, C2, reg=reg)
    solve(np.stack([M, M]), C1, C2, reg=0.05)
    rules = control.rules(numba_cpu)
    loops = FUSED, PURE, rules.target, rules.begin, rules.unsure, rules.observe
    names = [f.__name__ for f in loops if f.compiled.signatures]
    names += [f.__name__ for f in numba_cpu._loop._by_dtype.values() if f.parallel.signatures]
    print(names, max(f._spent for f in loops) < 1.0)
    """
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    where = Path(fpgwot.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=where, env=environment)
    assert done.stdout.strip() == "[] True"
