"""Calls as other packages make them, on generated data of the same shape: nothing raises, and nothing is worse than POT.

Numbered as the twelve checks they are; 11, the keywords that callers guess, is `test_unknown_keywords_name_the_right_one` and
`test_keywords_that_pot_hands_on_are_accepted` in `test_gromov.py`, and all of `test_options.py`.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import ot
import pytest
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import squareform

import fpgwot
from fpgwot import audit, gromov


def ultrametric(rng, n: int) -> np.ndarray:
    """Single-linkage distances: masses of ties."""
    return squareform(cophenet(linkage(rng.normal(size=(n, 8)), "single")))


@pytest.mark.parametrize("numItermax", [1, 5, 10_000])
@pytest.mark.parametrize(("n", "k"), [(60, 100), pytest.param(448, 768, marks=pytest.mark.slow)])  # the caller's is the larger
def test_1_ultrametrics_with_ties(numItermax, n, k):
    rng = np.random.default_rng(0)
    C1, C2 = ultrametric(rng, n), ultrametric(rng, k)
    M = rng.random((n, k))
    args = (M / M.max(), C1 / C2.max(), C2 / C2.max())
    T, log = gromov.partial_fused_gromov_wasserstein(*args, m=0.8, alpha=0.5, numItermax=numItermax, nb_dummies=20, log=True)
    np.testing.assert_allclose(T.sum(), 0.8, rtol=1e-9)
    if numItermax == 10_000:
        pot = ot.gromov.partial_fused_gromov_wasserstein(*args, m=0.8, alpha=0.5, numItermax=10**6, log=True)[1]
        assert set(pot) <= set(log)
        assert log["partial_fgw_dist"] <= pot["partial_fgw_dist"] * (1 + 1e-3)


@pytest.mark.parametrize("m", [0.5, 0.7, 0.9, 0.99])
def test_2_slices_of_tissue(m):
    rng = np.random.default_rng(1)
    x = rng.random((254, 2))
    y = x[x[:, 0] < 0.8] @ np.array([[0.8, -0.6], [0.6, 0.8]])  # rotated, cropped
    genes = np.maximum(np.sin(6 * x @ rng.normal(size=(2, 12))) + 1.1, 0.01)
    A, B = (g / g.sum(1, keepdims=True) for g in (genes, genes[x[:, 0] < 0.8] * rng.uniform(0.9, 1.1, (len(y), 12))))
    M = (A * np.log(A)).sum(1)[:, None] - A @ np.log(B).T  # KL, not symmetric
    D1, D2 = ot.dist(x, x, "euclidean"), ot.dist(y, y, "euclidean")
    for scale in (1.0, M.max() / D1.max()):
        args = (M, scale * D1, scale * D2)
        T, log = gromov.partial_fused_gromov_wasserstein(*args, m=m, alpha=0.1, log=True)
        pot = ot.gromov.partial_fused_gromov_wasserstein(*args, m=m, alpha=0.1, numItermax=10**6, log=True)[1]
        np.testing.assert_allclose(T.sum(), m, rtol=1e-9)
        assert log["partial_fgw_dist"] <= pot["partial_fgw_dist"] * (1 + 1e-3)
    if m <= 0.7:
        kept = np.flatnonzero(x[:, 0] < 0.8)
        assert T[kept, np.arange(len(y))].sum() > 0.9 * m  # found again


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["square_loss", "kl_loss"])
def test_3_helpers_on_tensors(dtype, loss):
    """The loops that packages build on POT's helpers run on torch tensors, and differentiate through them."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    C1, C2, M = rng.random((8, 8)) + 0.1, rng.random((9, 9)) + 0.1, rng.random((8, 9))
    p, q = np.full(8, 1 / 8), np.full(9, 1 / 9)
    T = ot.emd(p, q, M)
    arrays = [torch.tensor(x, dtype=getattr(torch, dtype)) for x in (C1, C2, M, p, q, T, np.outer(p, q) - T)]
    tol = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-14}

    C1, C2, M, p, q, T, D = arrays
    ours, pot = (x.init_matrix(C1, C2, p, q, loss) for x in (gromov, ot.gromov))
    for a, b in zip(ours, pot, strict=True):
        assert a.dtype == C1.dtype
        np.testing.assert_allclose(a, b, **tol)
    for name in ("tensor_product", "gwloss", "gwggrad"):
        a, b = (getattr(x, name)(*pot, T) for x in (gromov, ot.gromov))
        assert a.dtype == C1.dtype
        np.testing.assert_allclose(a, b, **tol)
    a, b = (x.solve_gromov_linesearch(T, D, 0.3, pot[1], pot[2], 0.5 * M, 0.5) for x in (gromov, ot.gromov))
    np.testing.assert_allclose([float(x) for x in a], [float(x) for x in b], **tol)
    C1.requires_grad_()
    gromov.gwloss(*gromov.init_matrix(C1, C2, T.sum(1), T.sum(0), loss), T).backward()
    assert torch.isfinite(C1.grad).all()


def shapes(seed: int) -> tuple[float, float, int, float]:
    """One pair of cell shapes in a worker: two values, kernels compiled in this call, processor time over wall time."""
    import gc
    import time

    from numba.core.dispatcher import Dispatcher

    rng = np.random.default_rng(seed)
    C1, C2 = (ot.dist(rng.normal(size=(50, 3)), metric="euclidean") for _ in range(2))
    wall, busy = time.perf_counter(), time.process_time()
    log = gromov.gromov_wasserstein(C1, C2, log=True)[1]
    fused = gromov.fused_gromov_wasserstein(M=abs(C1[:1].T - C2[:1]), C1=C1, C2=C2, alpha=0.5, log=True)[1]
    share = (time.process_time() - busy) / (time.perf_counter() - wall)
    if seed % 100:
        return float(log["gw_dist"]), float(fused["fgw_dist"]), 0, share
    ours = [x for x in gc.get_objects() if issubclass(type(x), Dispatcher) and x.py_func.__module__.startswith("fpgwot")]
    return float(log["gw_dist"]), float(fused["fgw_dist"]), sum(sum(x.stats.cache_misses.values()) for x in ours), share


@pytest.mark.slow
def test_4_many_pairs_in_a_process_pool():
    """2,000 pairs: the values of a loop, no kernel compiled again, one thread a worker."""
    import multiprocessing

    here = [shapes(seed) for seed in range(20)]  # compiles where nothing is cached
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(shapes, range(2000), chunksize=50))
    np.testing.assert_allclose([x[:2] for x in found[:20]], [x[:2] for x in here], rtol=1e-9)
    assert all(np.isfinite(x[:2]).all() for x in found)
    assert not any(x[2] for x in found)
    assert np.median([x[3] for x in found]) < 1.2


def foscttm(T: np.ndarray, Y: np.ndarray) -> float:
    """Share of points that are nearer to the image of a point than its true match."""
    D = ot.dist(T @ Y / T.sum(1, keepdims=True), Y, "euclidean")
    return float((np.diag(D)[:, None] > D).mean())


@pytest.mark.parametrize(
    ("n", "epsilon"),
    [(50, 5e-4), (50, 5e-3), (50, 1e-1), pytest.param(1047, 1e-1, marks=pytest.mark.slow)],
)
def test_5_hop_distances_of_neighbour_graphs(n, epsilon):
    rng = np.random.default_rng(2)
    t = np.sort(rng.random(n))
    spaces = [np.c_[np.cos(3 * t), np.sin(3 * t)], np.c_[t, t**2, np.sin(5 * t)]]
    C = []
    for X in spaces:
        D = ot.dist(X, X, "euclidean")
        near = np.sort(D, axis=1)[:, [max(5, n // 100)]] >= D
        hops = shortest_path(np.where(near | near.T, 1.0, 0.0), unweighted=True, directed=False)
        hops[np.isinf(hops)] = hops[np.isfinite(hops)].max()
        C.append(hops / hops.max())
    T = gromov.entropic_gromov_wasserstein(*C, epsilon=epsilon, loss_fun="square_loss", log=True)[0]
    assert np.isfinite(T).all()
    np.testing.assert_allclose(T.sum(1), 1 / n, rtol=1e-5)
    np.testing.assert_allclose(T.sum(), 1, rtol=1e-6)
    if n > 100:
        return  # POT takes minutes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pot = ot.gromov.entropic_gromov_wasserstein(*C, epsilon=epsilon, max_iter=200)
    if abs(pot.sum() - 1) < 1e-5 and np.isfinite(pot).all():
        task = {"C1": C[0], "C2": C[1], "alpha": 1.0, "reg": epsilon}
        assert audit(T, **task).value <= audit(np.maximum(pot, 0), **task).value + 1e-6
        best = [min(foscttm(x, spaces[1]), foscttm(x, spaces[1][::-1])) for x in (T, pot)]  # the sense of the curve is open
        assert best[0] <= best[1] + 0.01


@pytest.mark.parametrize(
    ("epsilon", "count"), [(1e-1, 20), *(pytest.param(*x, marks=pytest.mark.slow) for x in ((1e-2, 8), (1e-3, 4)))]
)
def test_6_many_starts_as_one_batch(epsilon, count):
    rng = np.random.default_rng(3)
    C1, C2 = ot.dist(rng.normal(size=(93, 3))), ot.dist(rng.normal(size=(93, 3)))
    C1, C2 = C1 / C1.max(), C2 / C2.max()
    starts = rng.random((count, 93, 93))
    for _ in range(200):
        starts /= 93 * starts.sum(1, keepdims=True)
        starts /= 93 * starts.sum(2, keepdims=True)
    together = fpgwot.solve(None, np.stack([C1] * count), C2, reg=epsilon, init=starts, tol=1e-8)
    loop = [gromov.entropic_gromov_wasserstein(C1, C2, epsilon=epsilon, G0=s) for s in starts[:3]]
    np.testing.assert_allclose(together.plan[:3], loop, atol=1e-5)
    values = [fpgwot.solve(None, C1, C2, reg=epsilon, init=s, tol=1e-8).value for s in starts]
    assert together.value.min() == pytest.approx(min(values), rel=1e-9)


def test_7_soft_labels_of_a_contrastive_loss():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    x, y = (torch.tensor(rng.normal(size=(32, 16)), dtype=torch.float32) for _ in range(2))
    x, y = x / x.norm(dim=1, keepdim=True), (x + 0.5 * y) / (x + 0.5 * y).norm(dim=1, keepdim=True)
    args = {"M": 1 - x @ y.T, "C1": 1 - x @ x.T, "C2": 1 - y @ y.T, "epsilon": 0.01, "alpha": 0.5, "numItermax": 200}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = torch.full((32,), 1 / 32)
        T = gromov.entropic_fused_gromov_wasserstein(**args, p=p, q=p)
        pot = ot.gromov.entropic_fused_gromov_wasserstein(**args, p=p, q=p)
    assert (T.dtype, T.device, T.shape) == (torch.float32, x.device, (32, 32))
    np.testing.assert_allclose(32 * T, 32 * pot, atol=5e-3)  # POT's inner loop stops at 200 steps


def test_8_molecules():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    for n, k in ((10, 14), (25, 20), (60, 43)):
        args = [torch.tensor(x) for x in (rng.random((n, k)), ot.dist(rng.random((n, 3))), ot.dist(rng.random((k, 3))))]
        T = gromov.entropic_partial_fused_gromov_wasserstein(*args, reg=0.05, m=0.8, alpha=0.5, numItermax=100, symmetric=True)
        assert T.dtype == torch.float64
        M, C1, C2 = (x.numpy() for x in args)
        report = audit(T.numpy(), M, C1, C2, alpha=0.5, m=0.8, reg=0.05, reference=1.0)
        assert report.stationarity < 1e-5
        assert report.mass_error < 1e-6
    several = [
        {"M": rng.random((n, k)), "C1": ot.dist(rng.random((n, 3))), "C2": ot.dist(rng.random((k, 3)))}
        for n, k in rng.integers(10, 61, (8, 2))
    ]
    for one, x in zip(fpgwot.solve_batch(several, reg=0.05, m=0.8, alpha=0.5), several, strict=True):
        T = fpgwot.solve(**x, reg=0.05, m=0.8, alpha=0.5)
        assert one.converged
        assert one.value == pytest.approx(T.value, rel=1e-6)


def test_9_weights_as_they_come():
    rng = np.random.default_rng(6)
    C1, C2, p, q = ot.dist(rng.random((15, 2))), ot.dist(rng.random((12, 2))), 30 * rng.random(15), 20 * rng.random(12)
    m = min(p.sum(), q.sum()) / 2
    mask = rng.random((15, 12)) < 0.6
    start = np.outer(p, q) * mask
    start *= 0.3 * m / start.sum()
    value, log = gromov.partial_gromov_wasserstein2(
        C1, C2, p, q, m=m, nb_dummies=3, G0=start, numItermax=1000, tol=1e-7, log=True, numThreads=1
    )
    assert {"partial_gw_dist", "T"} <= set(log)
    np.testing.assert_allclose(log["T"].sum(), m, rtol=1e-9)
    assert (log["T"].sum(1) <= p * (1 + 1e-9)).all()
    with pytest.raises(ValueError, match="G0 breaks"):
        gromov.partial_gromov_wasserstein2(C1, C2, p, q, m=m, G0=np.outer(p, q) * mask)


def test_10_directed_graphs_and_negative_costs():
    rng = np.random.default_rng(7)
    C1, C2 = (rng.random((n, n)) < 0.2 for n in (18, 22))
    C1, C2, M = C1.astype(float), C2.astype(float), (rng.random((18, 22)) < 0.5).astype(float)
    p, q = np.full(18, 1 / 22), np.full(22, 1 / 22)
    for cost in (M, -M):
        for m in (0.5, p.sum() + 1e-16):
            T = gromov.partial_fused_gromov_wasserstein(cost, C1, C2, p, q, m=m, numItermax=1000)
            report = audit(T, cost, C1, C2, p, q, alpha=0.5, m=min(m, p.sum()))
            assert report.stationarity < 1e-6
            assert max(report.mass_error, report.marginal_violation) < 1e-9


def test_12_unmodified_callers():
    rng = np.random.default_rng(8)
    C1, C2 = ot.dist(rng.random((15, 2))), ot.dist(rng.random((15, 2)))
    p = np.full(15, 1 / 15)
    from ot.gromov import entropic_gromov_wasserstein  # bound at import, as the single-cell packages do

    def single_cell():
        return entropic_gromov_wasserstein(C1, C2, p, p, loss_fun="square_loss", epsilon=0.05, log=True, verbose=False)

    def cells(M):
        return ot.gromov.fused_gromov_wasserstein(M=M, C1=C1, C2=C2, p=p, q=p, alpha=0.5, log=True)

    scope = {"entropic_gromov_wasserstein": entropic_gromov_wasserstein}
    with fpgwot.accelerate() as fast:
        coupling, log = cells(C1)
        single_cell()  # a name of a function's own scope: not seen, and POT answers as ever
        ot.gromov.entropic_gromov_wasserstein(C1, C2, p, p, loss_fun="square_loss", epsilon=0.05, log=True, verbose=False)
    assert {"fgw_dist", "loss"} <= set(log)
    assert (fast.calls["fused_gromov_wasserstein"].ours, fast.calls["entropic_gromov_wasserstein"].ours) == (1, 1)
    assert ot.gromov.entropic_gromov_wasserstein is scope["entropic_gromov_wasserstein"]
