"""Several threads at once, forked children, interrupted runs: the answer is the same, and the next call works."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fpgwot import solve

SIZE = 220  # large enough that the kernels may take their parallel form
OPTIONS = {"alpha": 0.3, "m": 0.8, "reg": 0.03}


def _problem(seed):
    rng = np.random.default_rng(seed)
    C = np.abs(np.subtract.outer(np.arange(SIZE), np.arange(SIZE))) / SIZE
    return rng.random((SIZE, SIZE)), C, C


def _value(seed):
    return solve(*_problem(seed), **OPTIONS).value


def test_threads_do_not_disturb_one_another():
    expected = [_value(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(_value, [0, 1, 2] * 2))
    np.testing.assert_allclose(got, expected * 2, rtol=1e-9)


@pytest.mark.skipif(sys.platform != "linux", reason="fork with threads running is a matter of Linux")
def test_a_forked_child_solves_after_its_parent_did():
    expected = [_value(seed) for seed in range(2)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        got = pool.map_async(_value, [0, 1]).get(timeout=60)  # a child that died would hang
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_an_interrupted_run_leaves_nothing_behind():
    expected = _value(0)

    def interrupt(info):
        if info.iteration == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(*_problem(0), **OPTIONS, callback=interrupt)
    assert _value(0) == pytest.approx(expected, rel=1e-9)
