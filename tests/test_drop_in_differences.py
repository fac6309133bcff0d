"""Where fpgwot.gromov differs from POT 0.9.7 on purpose: each test bears the name of its entry in docs/drop_in.md.

The fault itself is asserted as well, on the version of POT that has it: an entry that POT makes obsolete shows.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import ot
import pytest
from scipy.sparse import coo_matrix

from fpgwot import audit, gromov, solve
from fpgwot.gromov import old_names

HAS_FAULTS = ot.__version__.startswith("0.9.7")


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 2)), rng.normal(size=(9, 2))
    C1, C2, M = ot.dist(x, x), ot.dist(y, y), ot.dist(x, y)
    return M / M.max(), C1 / C1.max(), C2 / C2.max(), ot.unif(8), ot.unif(9)


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def test_every_entry_has_its_test():
    text = (Path(__file__).parents[1] / "docs" / "drop_in.md").read_text(encoding="utf-8")
    entries = set(re.findall(r"^\*\*`(\w+)`\*\*", text, flags=re.M))
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")} - {"every_entry_has_its_test"}
    assert entries == tests


def test_entropic_partial_fused_uses_the_features(task):
    M, C1, C2, p, q = task
    plans = [gromov.entropic_partial_fused_gromov_wasserstein(X, C1, C2, p, q, reg=0.1, m=0.5) for X in (M, M[::-1])]
    assert np.abs(plans[0] - plans[1]).max() > 1e-3
    report = audit(plans[0], M, C1, C2, p, q, alpha=0.5, reg=0.1, m=0.5, reference=1.0)
    assert report.stationarity < 1e-5
    if HAS_FAULTS:
        pot = [ot.gromov.entropic_partial_fused_gromov_wasserstein(X, C1, C2, p, q, reg=0.1, m=0.5) for X in (M, M[::-1])]
        np.testing.assert_allclose(pot[0], pot[1], atol=1e-12)


def test_the_mass_is_m_whatever_the_sign_of_the_cost(task):
    M, C1, C2, p, q = task
    for X in (M - 2, -M, 0 * M):
        np.testing.assert_allclose(gromov.partial_fused_gromov_wasserstein(X, C1, C2, p, q, m=0.5).sum(), 0.5, rtol=1e-12)
    if HAS_FAULTS:
        assert ot.gromov.partial_fused_gromov_wasserstein(M - 2, C1, C2, p, q, m=0.5).sum() > 0.6


def test_gradients_below_full_mass(task):
    torch = pytest.importorskip("torch")
    _, C1, C2, _, _ = task
    A = torch.tensor(C1, requires_grad=True)
    gromov.partial_gromov_wasserstein2(A, torch.tensor(C2), m=0.5).backward()
    D = np.random.default_rng(1).normal(size=C1.shape) * 1e-6
    ends = [gromov.partial_gromov_wasserstein2(C1 + s * D, C2, m=0.5) for s in (1, -1)]
    np.testing.assert_allclose(float((A.grad * torch.tensor(D)).sum()), (ends[0] - ends[1]) / 2, rtol=1e-4)
    if HAS_FAULTS:
        B = torch.tensor(C1, requires_grad=True)
        ot.gromov.partial_gromov_wasserstein2(B, torch.tensor(C2), m=0.5).backward()
        assert (A.grad - B.grad).abs().max() > 1e-3


def test_entropic_values_of_tensors_that_require_gradients(task):
    torch = pytest.importorskip("torch")
    _, C1, C2, _, _ = task
    A = torch.tensor(C1, requires_grad=True)
    gromov.entropic_partial_gromov_wasserstein2(A, torch.tensor(C2), reg=0.1, m=0.5).backward()
    assert torch.isfinite(A.grad).all()
    if HAS_FAULTS:
        with pytest.raises((RuntimeError, TypeError)):
            ot.gromov.entropic_partial_gromov_wasserstein2(A, torch.tensor(C2), reg=0.1, m=0.5)


def test_integers_do_not_cut_the_plan():
    C = np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]])
    np.testing.assert_allclose(gromov.gromov_wasserstein(C, C), np.eye(3) / 3, atol=1e-12)
    if HAS_FAULTS:
        assert not quietly(ot.gromov.gromov_wasserstein, C, C).any()


def test_a_mass_of_one_up_to_rounding(task):
    D, w = task[1][:4, :4], np.array([0.7, 0.1, 0.1, 0.1])
    assert w.sum() < 1
    np.testing.assert_allclose(gromov.partial_gromov_wasserstein(D, D, w, w, m=1.0).sum(), 1.0)
    np.testing.assert_allclose(gromov.partial_gromov_wasserstein(D, D, w, w, m=w.sum() + 1e-16).sum(), 1.0)
    if HAS_FAULTS:
        with pytest.raises(ValueError, match="infeasible"):
            ot.gromov.partial_gromov_wasserstein(D, D, w, w, m=1.0)


def test_unknown_keywords_raise(task):
    _, C1, C2, _, _ = task
    for keyword in ("max_iter", "reg_m", "anything"):
        with pytest.raises(TypeError, match=f"no keyword '{keyword}'"):
            gromov.partial_gromov_wasserstein(C1, C2, m=0.5, **{keyword: 1})
    if HAS_FAULTS:
        ot.gromov.partial_gromov_wasserstein(C1, C2, m=0.5, max_iter=1, reg_m=3, anything=7)


def test_verbose_reports(task, capsys):
    _, C1, C2, _, _ = task
    gromov.partial_gromov_wasserstein(C1, C2, m=0.5, verbose=True)
    printed = capsys.readouterr()
    assert "objective" in printed.err
    assert printed.out == ""
    if HAS_FAULTS:
        ot.gromov.partial_gromov_wasserstein(C1, C2, m=0.5, verbose=True)
        assert capsys.readouterr().out == ""


def test_a_start_is_checked_everywhere(task):
    M, C1, C2, p, q = task
    G0 = np.zeros((8, 9))
    G0[0, 0] = 1.0
    for name in ("partial", "entropic_partial"):
        with pytest.raises(ValueError, match="G0 breaks the marginal of its rows"):
            getattr(gromov, f"{name}_gromov_wasserstein")(C1, C2, p, q, m=0.5, G0=G0)
    for name in ("gromov", "entropic_gromov"):
        with pytest.raises(ValueError, match="G0 breaks"):
            getattr(gromov, f"{name}_wasserstein")(C1, C2, p, q, G0=G0)
    with pytest.raises(ValueError, match="G0 breaks the marginal of its rows"):
        gromov.semirelaxed_gromov_wasserstein(C1, C2, p, G0=G0)
    if HAS_FAULTS:
        ot.gromov.entropic_partial_gromov_wasserstein(C1, C2, p, q, reg=1.0, m=0.5, G0=G0)


def test_small_entropy(task, capsys):
    _, C1, C2, p, q = task
    T = quietly(gromov.entropic_partial_gromov_wasserstein, C1, C2, p, q, reg=1e-4, m=0.5)
    assert np.isfinite(T).all()
    np.testing.assert_allclose(T.sum(), 0.5, rtol=1e-6)
    assert (T.sum(1) <= p * (1 + 1e-6)).all()
    if HAS_FAULTS:
        pot = quietly(ot.gromov.entropic_partial_gromov_wasserstein, C1, C2, p, q, reg=1e-4, m=0.5)
        assert np.isnan(pot).any() or abs(pot.sum() - 0.5) > 1e-3
        capsys.readouterr()


def test_a_small_numItermax_ends_early():
    D = ot.dist(np.random.default_rng(0).random((40, 3)))
    few, many = (gromov.partial_fused_gromov_wasserstein(D, D, D, m=0.5, numItermax=k, log=True)[1] for k in (1, 100))
    assert len(few["loss"]) <= len(many["loss"])
    if HAS_FAULTS:
        with pytest.raises(ValueError, match="dummy"):
            quietly(ot.gromov.partial_fused_gromov_wasserstein, D, D, D, m=0.5, numItermax=10)


def test_values_are_not_negative():
    rng = np.random.default_rng(4)
    D, _, w = ot.dist(rng.normal(size=(6, 2))), rng.normal(size=(5, 2)), rng.random(6) ** 3
    D, w = D / D.max(), w / w.sum()
    kwargs = {"epsilon": 0.01, "max_iter": 2}
    value, log = gromov.entropic_gromov_wasserstein2(D, D, w, w, **kwargs, log=True)
    assert value >= 0
    np.testing.assert_allclose(value, audit(log["T"], None, D, D, w, w).value, rtol=1e-9, atol=1e-15)
    if HAS_FAULTS:
        assert quietly(ot.gromov.entropic_gromov_wasserstein2, D, D, w, w, **kwargs, numItermax=1) < -1e-3


@pytest.mark.slow
def test_defaults_solve_larger_problems():
    i = np.arange(700) / 700
    D, N = abs(i[:, None] - i), np.random.default_rng(0).random((700, 700))
    np.testing.assert_allclose(gromov.partial_fused_gromov_wasserstein(N, D, D, m=0.8).sum(), 0.8, rtol=1e-9)
    if HAS_FAULTS:
        with pytest.raises(ValueError, match="dummy"):
            quietly(ot.gromov.partial_fused_gromov_wasserstein, N, D, D, m=0.8)


def test_zero_is_reached_and_left():
    C1, p = np.abs(np.subtract.outer(np.arange(8.0), np.arange(8.0))), ot.unif(8)
    kwargs = {"m": 0.5, "numItermax": 300, "G0": np.eye(8) / 16, "log": True}
    T, log = gromov.partial_gromov_wasserstein(C1, C1, p, p, **kwargs)
    assert log["partial_gw_dist"] == 0
    assert len(log["loss"]) <= 3
    if HAS_FAULTS:
        assert len(quietly(ot.gromov.partial_gromov_wasserstein, C1, C1, p, p, **kwargs)[1]["loss"]) == 301


def test_a_start_of_less_mass_is_filled_up(task):
    _, C1, C2, p, q = task
    G0 = np.outer(p, q) * (np.random.default_rng(1).random((8, 9)) < 0.4)
    for name, extra in (("partial", {}), ("entropic_partial", {"reg": 0.1})):
        T = getattr(gromov, f"{name}_gromov_wasserstein")(C1, C2, p, q, m=0.7, G0=G0, **extra)
        np.testing.assert_allclose(T.sum(), 0.7, rtol=1e-7)
    if HAS_FAULTS:
        assert ot.gromov.partial_gromov_wasserstein(C1, C2, p, q, m=0.7, G0=G0, numItermax=10**5).sum() < 0.699


def test_an_unfinished_program_is_not_used():
    D = ot.dist(np.random.default_rng(0).random((40, 3)))
    args, kwargs = (D, D[::-1, ::-1]), {"m": 0.5, "numItermax": 10, "log": True}
    np.testing.assert_allclose(gromov.partial_gromov_wasserstein2(*args, **kwargs)[1]["T"].sum(), 0.5, rtol=1e-9)
    if HAS_FAULTS:
        log = quietly(ot.gromov.partial_gromov_wasserstein2, *args, **kwargs)[1]
        assert log["warning"] is not None


def test_the_gap_decides(task):
    M, C1, C2, p, q = task
    T = gromov.fused_gromov_wasserstein(M, -C1, C2, p, q, alpha=0.9)
    report = audit(T, M, -C1, C2, p, q, alpha=0.9)
    assert report.stationarity < 1e-8
    if HAS_FAULTS:
        pot = audit(ot.gromov.fused_gromov_wasserstein(M, -C1, C2, p, q, alpha=0.9), M, -C1, C2, p, q, alpha=0.9)
        assert report.value <= pot.value * (1 + 1e-9)
        assert pot.stationarity > report.stationarity


def test_infeasible_sparse_programs_do_not_pass(task):
    M, _, _, p, q = task
    allowed = np.ones((8, 9), bool)
    allowed[0] = False
    with pytest.raises(ValueError, match="infeasible"):
        solve(M, p=p, q=q, mask=allowed)
    if HAS_FAULTS:
        assert quietly(ot.emd, p, q, coo_matrix(M * allowed)).sum() == 0


def test_old_names_are_right_for_asymmetric_structures():
    rng = np.random.default_rng(2)
    C1, C2, p, q = rng.random((8, 8)), rng.random((9, 9)), np.full(8, 1 / 8), np.full(9, 1 / 9)
    T, log = old_names.partial_gromov_wasserstein(C1, C2, p, q, m=0.5, log=True)
    report = audit(T, None, C1, C2, p, q, alpha=1.0, m=0.5)
    assert report.stationarity < 1e-9
    assert report.value / 2 == pytest.approx(log["partial_gw_dist"], rel=1e-12)
    if HAS_FAULTS:
        pot = audit(quietly(ot.partial.partial_gromov_wasserstein, C1, C2, p, q, m=0.5), None, C1, C2, p, q, alpha=1.0, m=0.5)
        assert pot.stationarity > 1e-2
        assert report.value < pot.value
