"""Products in float32 of what has changed in the plan: what they may be off by, and that no plan or certificate shows it."""

from __future__ import annotations

import numpy as np
import pytest

import fpgwot
from fpgwot import solve
from fpgwot._backends import _protocol as ix
from fpgwot._backends import numba_cpu as numba_be
from fpgwot._backends import numpy_ref as numpy_be
from fpgwot._dispatch import load_backend
from fpgwot._solvers import changes
from fpgwot._solvers.changes import Changes
from fpgwot._validate import make_problem

N, M = 70, 64


@pytest.fixture
def at_any_size(monkeypatch):
    monkeypatch.setattr(changes, "SMALLEST", 1)


def arrays(kind: str, n: int, m: int, layers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Structures of a kind: what rounding does depends on it."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(layers, n, 3)), rng.normal(size=(layers, m, 3))
    D1, D2 = (np.sqrt(((z[:, :, None] - z[:, None]) ** 2).sum(-1)) for z in (x, y))
    C1, C2 = {
        "points": (D1, D2),
        "asymmetric": (rng.random((layers, n, n)), rng.random((layers, m, m))),
        "graphs": tuple((D < 1.5) * 1.0 for D in (D1, D2)),
        "offset": (100 + D1, 100 + D2),
        "signed": tuple((z + z.swapaxes(1, 2)) for z in (rng.normal(size=(layers, n, n)), rng.normal(size=(layers, m, m)))),
        "kernels": (np.exp(-9 * D1**2), np.exp(-9 * D2**2)),
        "huge": (1e9 * D1, 1e9 * D2),
        "tiny": (1e-9 * D1, 1e-9 * D2),
    }[kind]
    return (C1, C2) if layers > 1 else (C1[0], C2[0])


KINDS = ("points", "asymmetric", "graphs", "offset", "signed", "kernels", "huge", "tiny")


@pytest.mark.parametrize("be", [numpy_be, numba_be], ids=lambda be: be.name)
@pytest.mark.parametrize("size", [(2, 40, 45), (2, 211, 257)])  # below and above the size from which Numba has a kernel
def test_a_change_is_rounded_and_summed(size, be):
    rng = np.random.default_rng(0)
    T, T0 = rng.random((2, *size))
    T[0, 0, :3] = T0[0, 0, :3] + np.array([0.0, 1e-33, 1e-29]) * (T0[0, 0, :3] > 2)  # equal entries stay 0
    T0[1, :5] = T[1, :5] = 0.0
    T[1, 0, :4] = 1e-50, 9e-31, 2e-30, 1e-12
    weight = np.array([3.0, 1.0])
    for share in (1.0, 0.0):
        out = np.full(size, np.nan, np.float32)
        total = be.rounded_change(T, T0, share, weight, out)
        D = T - share * T0
        want = (D * weight[:, None, None]).astype(np.float32)
        want[abs(want) < ix.TINY] = 0
        np.testing.assert_array_equal(out, want)
        np.testing.assert_allclose(total, abs(D).sum((1, 2)), rtol=1e-13)


def problem_of(C1, C2, be, eps=0.02, mass=None, M=None):
    unused = dict.fromkeys(("tau", "reg_rel", "reference", "normalize", "mask"))
    return make_problem(
        be, M, C1, C2, None, None, alpha=0.0 if C1 is None else 1.0, loss="square", m=mass, reg=eps, **unused
    ).problem


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-9])
def test_products_are_off_by_no_more_than_is_said(kind, size, backend, at_any_size):
    """In the mean over the plan, which is what the certificate is; and entry by entry by a few times as much."""
    be, rng = load_backend(backend), np.random.default_rng(1)
    problem = problem_of(*arrays(kind, N, M), be)
    change = Changes(problem, True, 1e-7)
    assert change.pays
    T0 = problem.product_plan()
    D = rng.normal(size=T0.shape) * T0
    D -= D.mean(1, keepdims=True)
    T = T0 + size * (D - D.mean(2, keepdims=True)) / abs(D).sum()
    found, exact, work, on = np.empty_like(T), np.empty_like(T), np.empty_like(T), np.ones(1, bool)
    change.allowed = np.full(1, np.inf)
    change.cross(T, found, work, on)
    problem.cross(T.astype(np.float64), exact, work, on)
    off = abs(problem.weight_of_cross / problem.eps)[0] * abs(found - exact)[0]
    double = abs(problem.weight_of_cross / problem.eps)[0] * 1e-14 * abs(exact).max()  # what float64 itself is off by
    assert change.error[0] > 0
    assert (off * T[0]).sum() <= change.error[0] + double
    assert off.max() <= 4 * change.error[0] + double
    change.allowed[:] = 0.5 * change.error
    change.cross(T, found, work, on)  # not sure enough: in float64, and the new base
    assert change.error[0] == 0.0
    np.testing.assert_array_equal(found, exact)
    change.cross(T, found, work, on)
    assert change.error[0] == 0.0
    np.testing.assert_array_equal(found, exact)


def test_what_is_said_is_reached(backend, at_any_size):
    """Entries half-way between two float32 numbers, and a change (powers of two) that adds up: half of it would be a lie."""
    be, rng = load_backend(backend), np.random.default_rng(2)
    one, two = rng.choice([-1.0, 1.0], (2, 64))
    problem = problem_of((1 + changes.ROUNDING) * np.outer(one, one), np.outer(two, two), be)
    change = Changes(problem, True, 1e-7)
    T = problem.product_plan() * (1 + 0.5 * np.outer(one, two))
    found, exact, work = np.empty_like(T), np.empty_like(T), np.empty_like(T)
    change.allowed = np.full(1, np.inf)
    change.cross(T, found, work, np.ones(1, bool))
    problem.cross(T, exact, work, np.ones(1, bool))
    off = abs(problem.weight_of_cross / problem.eps)[0] * abs(found - exact)[0]
    assert 0.9 * change.error[0] <= (off * T[0]).sum() <= 1.1 * change.error[0]


def counted(monkeypatch):
    """A list that takes, for each product, whether it was made in float64."""
    made, cross = [], Changes.cross

    def watched(self, *args):
        cross(self, *args)
        made.append(bool((self.error == 0).all()))

    monkeypatch.setattr(Changes, "cross", watched)
    return made


@pytest.mark.parametrize(
    "options", [{}, {"m": 0.7}, {"tau": 0.3}, {"tv": 0.4}, {"loss": "product"}, {"smoothness": 1e-3}], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_solves_show_nothing_of_it(kind, options, backend, monkeypatch):
    C1, C2 = arrays(kind, N, M)
    scale = abs(C1).max() * abs(C2).max()
    cost = np.random.default_rng(0).random((N, M)) * scale
    options = {k: v * (scale if k in ("tau", "tv", "smoothness") else 1.0) if k != "loss" else v for k, v in options.items()}

    def call():
        return solve(cost, C1, C2, alpha=0.5, reg=0.03 * scale, backend=backend, max_iter=200, on_fail="ignore", **options)

    want = call()
    monkeypatch.setattr(changes, "SMALLEST", 1)
    made = counted(monkeypatch)
    found = call()
    assert len(made) >= found.n_gradients - 1 > 0
    assert sum(made) <= 0.5 * len(made) + 1
    assert found.status is want.status
    assert abs(found.value - want.value) <= 1e-7 * 0.03 * scale * max(1.0, want.mass)  # both are this near to stationary
    assert abs(found.plan - want.plan).sum() <= 1e-6
    if found.converged and "loss" not in options and "smoothness" not in options:
        given = {k: v for k, v in options.items() if k in ("m", "tau", "tv")}
        referee = fpgwot.audit(found.plan, cost, C1, C2, alpha=0.5, reg=0.03 * scale, **given)
        assert referee.stationarity <= 1.3e-7
        np.testing.assert_allclose(found.value, referee.value, rtol=1e-10)  # the plan's own


def test_a_batch_of_several_starts_and_of_several_sizes(at_any_size, monkeypatch):
    made = counted(monkeypatch)
    C1, C2 = arrays("points", N, M, layers=3)
    cost = np.random.default_rng(0).random((3, N, M))
    together = solve(cost, C1, C2, alpha=0.5, reg=0.3, m=0.8)
    assert not all(made)
    for b in range(3):
        alone = solve(cost[b], C1[b], C2[b], alpha=0.5, reg=0.3, m=0.8)
        assert abs(together.plan[b] - alone.plan).sum() <= 1e-6
    cuts = [(b, slice(N - 9 * b), slice(M - 7 * b)) for b in range(3)]
    items = [{"M": cost[b, i, j], "C1": C1[b, i, i], "C2": C2[b, j, j]} for b, i, j in cuts]
    for one, item in zip(fpgwot.solve_batch(items, alpha=0.5, reg=0.3), items, strict=True):
        assert abs(one.plan - solve(**item, alpha=0.5, reg=0.3).plan).sum() <= 1e-6
    several = solve(None, C1[0], C2[0], reg=0.05, n_init=3, random_state=0)
    assert several.converged


def test_a_step_whose_rounding_could_matter_is_looked_at_in_float64(at_any_size, monkeypatch):
    """The certificate falls by more than expected: the first step of an almost linear problem is also its last."""
    C1, C2 = arrays("points", N, M)
    cost = np.random.default_rng(0).random((N, M))
    made = counted(monkeypatch)
    monkeypatch.setattr(changes, "ROUNDING", 1e-3)
    found = solve(cost, C1, C2, alpha=1e-6, reg=0.3)
    assert made[:2] == [False, True]
    assert found.n_gradients == 1 + len(made)
    monkeypatch.setattr(changes, "SMALLEST", 10**9)
    want = solve(cost, C1, C2, alpha=1e-6, reg=0.3)
    assert abs(found.plan - want.plan).sum() <= 1e-12


@pytest.mark.parametrize("kind", ["points", "kernels", "asymmetric"])
def test_the_kl_loss_has_products_of_its_own(kind, monkeypatch):
    C1, C2 = (x + 1e-3 for x in arrays(kind, N, M))
    want = solve(None, C1, C2, loss="kl", reg=0.1)
    monkeypatch.setattr(changes, "SMALLEST", 1)
    made = counted(monkeypatch)
    found = solve(None, C1, C2, loss="kl", reg=0.1)
    assert want.converged
    assert found.converged
    assert not all(made)
    assert abs(found.plan - want.plan).sum() <= 1e-6


def test_who_has_nothing_to_gain(at_any_size):
    C1, C2 = arrays("points", N, M)
    be = numba_be
    assert Changes(problem_of(C1, C2, be), True, 1e-7).pays
    assert not Changes(problem_of(C1.astype(np.float32), C2.astype(np.float32), be), True, 1e-7).pays
    assert not Changes(problem_of(fpgwot.PowerDistance(400), fpgwot.PowerDistance(400), be), True, 1e-7).pays
    assert not Changes(problem_of(None, None, be, M=np.ones((N, M))), True, 1e-7).pays
    assert not Changes(problem_of(np.zeros((N, N)), C2, be), True, 1e-7).pays
    assert not Changes(problem_of(1e21 * C1, C2, be), True, 1e-7).pays


def test_small_problems_and_the_size_that_pays():
    C1, C2 = arrays("points", 255, 256)
    assert not Changes(problem_of(C1, C2, numba_be), True, 1e-7).pays
    C1, C2 = arrays("points", 256, 256)
    assert Changes(problem_of(C1, C2, numba_be), True, 1e-7).pays


@pytest.mark.parametrize("kind", ["points", "asymmetric"])
def test_a_large_solve_at_the_size_that_users_have(kind):
    n = 300
    C1, C2 = arrays(kind, n, n)
    cost = np.random.default_rng(0).random((n, n))
    found = solve(cost, C1, C2, alpha=0.5, reg=0.05, m=0.8)
    assert found.converged
    referee = fpgwot.audit(found.plan, cost, C1, C2, alpha=0.5, reg=0.05, m=0.8)
    assert referee.stationarity <= 1.3e-7
    np.testing.assert_allclose(referee.value, found.value, rtol=1e-10)


def test_memory_is_two_matrices(at_any_size):
    """What is rounded lies in the matrices that the step is about to overwrite."""
    be = numba_be
    problem = problem_of(*arrays("points", N, M), be)
    change = Changes(problem, True, 1e-7)
    T, out, work = problem.product_plan(), np.empty(problem.shape), np.empty(problem.shape)
    change.allowed = np.full(1, np.inf)
    change.cross(T, out, work, np.ones(1, bool))
    assert [x.shape for x in change.arrays] == 2 * [problem.shape]
