"""All pairs of a collection: the same numbers as single solves, whoever does the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fpgwot
from fpgwot import ConvergenceError, ConvergenceWarning, pairwise

OPTIONS = {"structure": "laplace", "alpha": 0.3, "m": 0.7, "reg_rel": 0.05, "normalize": "mean"}


@pytest.fixture
def items(rng):
    """Nine sequences of eight lengths: 36 pairs, more than one batch."""
    return [rng.standard_normal((n, 4)) for n in (12, 9, 10, 6, 15, 7, 8, 11, 9)]


def assert_same(a, b):
    for name in ("pairs", "value", "mass", "converged"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for i, j in a.pairs:
        np.testing.assert_array_equal(a.plan(i, j), b.plan(i, j))


def test_features_are_align(items):
    found = pairwise(items[:4], **OPTIONS, plans=True)
    assert found.pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    for k, (i, j) in enumerate(found.pairs):
        alone = fpgwot.align(items[i], items[j], 0.7, alpha=0.3, reg_rel=0.05)
        assert found.value[k] == pytest.approx(alone.value, rel=1e-6)
        np.testing.assert_allclose(found.plan(i, j), alone.plan, atol=1e-6)
        np.testing.assert_array_equal(found.plan(j, i), found.plan(i, j).T)
        assert found.matrix[j, i] == found.matrix[i, j] == found.value[k]
    assert np.isnan(np.diag(found.matrix)).all()


def test_structures_weights_and_both(rng):
    sizes = (5, 7, 6)
    C = [rng.random((n, n)) for n in sizes]
    C = [c + c.T for c in C]
    p = [rng.random(n) + 0.1 for n in sizes]
    p = [w / w.sum() for w in p]
    X = [rng.random((n, 3)) for n in sizes]
    found = pairwise(C, kind="structures", reg=0.2)
    assert found.value[1] == pytest.approx(fpgwot.solve(None, C[0], C[2], reg=0.2).value, rel=1e-6)
    dicts = [{"X": x, "C": c, "p": w} for x, c, w in zip(X, C, p, strict=True)]
    found = pairwise(dicts, metric="sqeuclidean", alpha=0.4, m=0.8, reg=0.1)
    M = ((X[1][:, None] - X[2]) ** 2).sum(2)
    alone = fpgwot.solve(M, C[1], C[2], p[1], p[2], alpha=0.4, m=0.8, reg=0.1)
    assert found.value[2] == pytest.approx(alone.value, rel=1e-6)
    exact = pairwise(X, metric="euclidean", pairs=[(2, 0), (1, 1)])
    assert exact.value[1] == pytest.approx(0, abs=1e-12)
    assert exact.n_items == 3
    assert len(exact) == 2


def test_two_workers_and_one(items):
    one = pairwise(items, **OPTIONS, plans=True)
    two = pairwise(items, **OPTIONS, plans=True, n_jobs=2)
    assert_same(one, two)
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert_same(one, pairwise(items, **OPTIONS, plans=True))


def test_random_starts_do_not_depend_on_the_workers(items):
    options = OPTIONS | {"n_init": 6, "random_state": 3}
    one = pairwise(items[:5], **options)
    two = pairwise(items[:5], **options, n_jobs=2)
    np.testing.assert_array_equal(one.value, two.value)


def test_a_dask_cluster_of_two_processes(items):
    distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
    joblib = pytest.importorskip("joblib")
    one = pairwise(items, **OPTIONS, plans=True)
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster), joblib.parallel_config(backend="dask"):
        assert_same(one, pairwise(items, **OPTIONS, plans=True))


def test_batches_hold_pairs_of_like_size_and_every_pair_once():
    from fpgwot._pairwise import ENTRIES, PAIRS, _batches, _pairs

    lengths = np.random.default_rng(0).integers(3, 700, 60)
    index = _pairs(None, 60)
    batches = _batches(index, list(lengths))
    assert sorted(np.concatenate(batches)) == list(range(len(index)))
    for batch in batches:
        size = lengths[index[batch]]
        assert len(batch) <= PAIRS
        assert len(batch) == 1 or len(batch) * size.max(0).prod() <= ENTRIES
    assert _batches(_pairs([], 3), [3, 3, 3]) == []
    assert len(pairwise([np.ones((3, 2))], reg=0.1)) == 0


def test_long_sequences_stay_operators(rng):
    long = [rng.standard_normal((1100, 3)), rng.standard_normal((1000, 3))]
    found = pairwise(long, **(OPTIONS | {"reg_rel": 0.3, "tol": 1e-4}))
    assert found.converged.all()


def test_what_does_not_converge_is_said(items):
    options = OPTIONS | {"max_iter": 1, "reg_rel": 0.01}
    with pytest.warns(ConvergenceWarning, match="3 of 3 pairs"):
        pairwise(items[:3], **options)
    with pytest.raises(ConvergenceError, match=r"the first is \(0, 1\)"):
        pairwise(items[:3], **options, on_fail="raise")
    assert not pairwise(items[:3], **options, on_fail="ignore").converged.any()


def test_bad_items_say_so(rng):
    X = rng.random((4, 3))
    for args, options, error, text in (
        (([X, {"C": X @ X.T}],), {}, ValueError, "all items need the same"),
        (([X, {"Z": X}],), {}, TypeError, "item 1 must be an array"),
        (([X, X[:, 0]],), {}, ValueError, "X of item 1"),
        (([{"X": X, "p": np.ones(3)}],), {}, ValueError, "sizes of item 0 differ"),
        (([X, X],), {"pairs": [(0, 2)]}, ValueError, "pairs must lie in"),
        (([X, X],), {"pairs": [0, 1]}, ValueError, "pairs must be pairs"),
        (([X, X[:, :2]],), {}, ValueError, "same features"),
        (([X, X],), {"kind": "graphs"}, ValueError, "unknown kind"),
    ):
        with pytest.raises(error, match=text):
            pairwise(*args, **options)
    with pytest.raises(LookupError, match="plans=True"):
        pairwise([X, X], reg=0.1).plan(0, 1)


def test_table_and_progress(items, capfd):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("tqdm")
    found = pairwise(items[:3], **OPTIONS, progress=True)
    table = found.to_pandas()
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == ["i", "j", "value", "mass", "converged"]
    assert "3/3" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_ends_the_workers():
    pytest.importorskip("joblib")
    code = """if True:
        import numpy as np, fpgwot, signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start jobs in the background with the signal ignored
        rng = np.random.default_rng(0)
        items = [rng.standard_normal((60, 4)) for _ in range(60)]
        print("start", flush=True)
        try:
            fpgwot.pairwise(items, structure="laplace", m=.7, reg_rel=1e-4, normalize="mean", n_jobs=2, on_fail="ignore")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        cwd=Path(fpgwot.__file__).parent.parent,
    )  # fmt: skip
    assert process.stdout.readline().strip() == "start"
    time.sleep(4)  # the workers are up and busy; the whole would take 20 s and more
    os.kill(process.pid, signal.SIGINT)
    try:
        out, err = process.communicate(timeout=180)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert out.strip() == "interrupted", err
    for _ in range(100):
        alive = subprocess.run(["ps", "-o", "pid=", "-g", str(process.pid)], capture_output=True, text=True).stdout.split()
        if not alive:
            break
        time.sleep(0.1)
    assert not alive
