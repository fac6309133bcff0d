"""The drop-in for ot.gromov: signatures, values and plans against POT, arrays in and out, keywords, gradients.

`test_drop_in_differences.py` holds what is meant to differ.
"""

from __future__ import annotations

import inspect
import warnings

import numpy as np
import ot
import pytest

from fpgwot import audit, gromov
from fpgwot.gromov import _call

SOLVERS = [x for x in gromov.__all__ if "gromov_wasserstein" in x]
HELPERS = [x for x in gromov.__all__ if x not in SOLVERS and not x.startswith("solve_gromov")] + ["solve_gromov_linesearch"]
COVERED = [x for x in SOLVERS if "unbalanced" not in x]


def theirs(name):
    return getattr(ot.batch if name == "solve_gromov_batch" else ot if name == "solve_gromov" else ot.gromov, name)


def problem(kind: str, n: int = 12, k: int = 15, seed: int = 0):
    """Feature cost, two structures, weights; n x k points."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(k, 3))
    C1, C2 = ot.dist(x, x), ot.dist(y, y)
    C1, C2, M = C1 / C1.max(), C2 / C2.max(), rng.random((n, k))
    p, q = np.full(n, 1 / n), np.full(k, 1 / k)
    if kind == "asymmetric":
        C1, C2 = rng.random((n, n)), rng.random((k, k))
    if kind == "weights":
        p, q = rng.random(n), rng.random(k)
        p, q = p / p.sum(), q / q.sum()
    if kind == "graphs":  # hop distances: ties
        C1, C2 = np.floor(4 * C1), np.floor(4 * C2)
    return M, C1, C2, p, q


def arguments(name: str, M, C1, C2, p, q) -> tuple[tuple, dict]:
    """Positional arguments and keywords of a call that all of POT's functions solve well."""
    first = (M, C1, C2) if "fused" in name else (C1, C2)
    weights = (p,) if "semirelaxed" in name else (p, q)
    kwargs = {"m": 0.6} if "partial" in name else {}
    if "entropic" in name:
        kwargs["reg" if "partial" in name else "epsilon"] = 0.1
    return (*first, *weights), kwargs


# -------------------------------------------------------------------------------------------------------------- signatures


@pytest.mark.parametrize("name", [*SOLVERS, "solve_gromov", "solve_gromov_batch", *HELPERS])
def test_signature_is_that_of_pot(name):
    ours, pots = (inspect.signature(f).parameters for f in (getattr(gromov, name), theirs(name)))
    expected = [(x.name, x.kind, x.default) for x in pots.values() if x.kind is not x.VAR_KEYWORD]
    found = [(x.name, x.kind, x.default) for x in ours.values() if x.kind is not x.KEYWORD_ONLY]
    assert found == expected
    extra = [x for x in ours.values() if x.kind is x.KEYWORD_ONLY]
    assert [x.name for x in extra] in ([], ["verbose"])  # POT takes it in its **kwargs
    assert not extra or any(x.kind is x.VAR_KEYWORD for x in pots.values())


# -------------------------------------------------------------------------------------------------------- values and plans


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "weights", "graphs"])
@pytest.mark.parametrize("name", [x for x in COVERED if not x.endswith("2")])
def test_plans_and_logs_agree_with_pot(name, kind):
    M, C1, C2, p, q = problem(kind)
    args, kwargs = arguments(name, M, C1, C2, p, q)
    T, log = getattr(gromov, name)(*args, **kwargs, log=True)
    if name == "entropic_partial_fused_gromov_wasserstein":  # POT ignores M: compared where M does not matter
        args = (np.zeros_like(M), *args[1:])
        T, log = getattr(gromov, name)(*args, **kwargs, log=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        T_pot, log_pot = getattr(ot.gromov, name)(*args, **kwargs, log=True)
    assert set(log_pot) <= set(log)
    key = next(x for x in log_pot if x.endswith("_dist"))
    if "entropic" in name and "semirelaxed" not in name:
        if kind == "graphs":  # ties: another stationary point, but no worse one
            fused = "fused" in name
            task = {
                "M": args[0] if fused else None,
                "C1": C1,
                "C2": C2,
                "p": p,
                "q": q,
                "alpha": 0.5 if fused else 1.0,
                "reg": 0.1,
            }
            task |= {"m": kwargs.get("m"), "reference": 1.0}
            assert audit(T, **task).value <= audit(T_pot, **task).value + 1e-6
        else:
            np.testing.assert_allclose(T, T_pot, atol=2e-6)
            np.testing.assert_allclose(log[key], log_pot[key], rtol=1e-4, atol=1e-9)
    elif kind != "graphs":  # not convex: the same minimum or a near one; with ties (graphs) only the certificate below holds
        assert log[key] <= log_pot[key] * 1.03 + 1e-12
    alpha = 0.5 if "fused" in name else 1.0
    report = audit(T, M if alpha < 1 and args[0] is M else None, C1, C2, p, None if "semirelaxed" in name else q,
                   alpha=alpha if alpha == 1 or args[0] is M else None, m=kwargs.get("m"),
                   tau=(np.inf, 0) if "semirelaxed" in name else None) if "entropic" not in name else None  # fmt: skip
    if report is not None:
        assert report.marginal_violation < 1e-9
        assert report.mass_error < 1e-9
        assert report.stationarity < 1e-6
        np.testing.assert_allclose(report.value_linear + report.value_quad, log[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [x for x in COVERED if x.endswith("2")])
def test_values_are_those_of_the_plans(name):
    args, kwargs = arguments(name, *problem("weights"))
    value, log = getattr(gromov, name)(*args, **kwargs, log=True)
    assert value == getattr(gromov, name)(*args, **kwargs)
    T, short = getattr(gromov, name[:-1])(*args, **{"tol": 1e-7, **kwargs} if "partial" in name else kwargs, log=True)
    np.testing.assert_allclose(log["T"], T, atol=1e-12)
    key = next(x for x in short if x.endswith("_dist"))
    np.testing.assert_allclose(value, short[key], rtol=1e-12)
    if "fused" in name:
        np.testing.assert_allclose(log["lin_loss"] + log["quad_loss"], value, rtol=1e-12)
        np.testing.assert_allclose(log["lin_loss"], 0.5 * np.sum(args[0] * T), rtol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pot = getattr(ot.gromov, name)(*args, **kwargs, log=True)[1]
    assert set(pot) <= set(log)


@pytest.mark.parametrize("loss", ["square_loss", "kl_loss"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_helpers_have_the_values_of_pot(loss, symmetric):
    M, C1, C2, p, q = problem("weights" if symmetric else "asymmetric", 6, 5)
    T = ot.emd(p, q, M)
    D = np.outer(p, q) - T
    for a, b in zip(gromov.init_matrix(C1, C2, p, q, loss), ot.gromov.init_matrix(C1, C2, p, q, loss), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    semi = gromov.init_matrix_semirelaxed(C1, C2, p, loss)
    for a, b in zip(semi, ot.gromov.init_matrix_semirelaxed(C1, C2, p, loss), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    constC, h1, h2 = ot.gromov.init_matrix(C1, C2, p, q, loss)
    for name in ("tensor_product", "gwloss", "gwggrad"):
        ours, pot = (getattr(x, name)(constC, h1, h2, T) for x in (gromov, ot.gromov))
        np.testing.assert_allclose(ours, pot, rtol=1e-12, atol=1e-14)
    for low, high in ((None, None), (0.2, 0.6)):
        for options in ({"symmetric": symmetric}, {}):
            args = (T, D, 0.3, h1, h2, 0.5 * M, 0.5, low, high)
            np.testing.assert_allclose(
                gromov.solve_gromov_linesearch(*args, **options), ot.gromov.solve_gromov_linesearch(*args, **options), rtol=1e-12
            )
        args = (T, D, 0.3, h1, h2, np.ones(6), 0.5 * M, 0.5, semi[3], low, high)
        ours, pot = (x.solve_semirelaxed_gromov_linesearch(*args) for x in (gromov, ot.gromov))
        np.testing.assert_allclose(ours, pot, rtol=1e-12)
        g0, g1 = (ot.gromov.gwggrad(constC, h1, h2, X) for X in (T, T + D))
        args = (T, D, 0.3, g0, g1, 0.5 * M, 0.5, low, high)
        ours, pot = (x.solve_partial_gromov_linesearch(*args) for x in (gromov, ot.gromov))
        np.testing.assert_allclose(ours[0], pot[0])
        np.testing.assert_allclose(ours[2], pot[2], rtol=1e-12)
        np.testing.assert_allclose(ours[3], pot[3], rtol=1e-12)
    with pytest.raises(ValueError, match="square_loss"):
        gromov.init_matrix(C1, C2, p, q, "cube_loss")


@pytest.mark.parametrize("solver", ["PGD", "PPA"])
@pytest.mark.parametrize("max_iter", [1, 3, 25])
def test_few_iterations_keep_the_marginals(solver, max_iter):
    M, C1, C2, p, q = problem("weights")
    T = gromov.entropic_fused_gromov_wasserstein(M, C1, C2, p, q, epsilon=0.02, max_iter=max_iter, solver=solver)
    np.testing.assert_allclose(T.sum(1), p, rtol=1e-6)
    np.testing.assert_allclose(T.sum(0), q, rtol=1e-6)
    if solver == "PPA":  # the same iterates
        with np.errstate(divide="ignore"):  # POT's log of entries that are 0
            pot = ot.gromov.entropic_fused_gromov_wasserstein(
                M, C1, C2, p, q, epsilon=0.02, max_iter=max_iter, solver="PPA", numItermax=100_000, stopThr=1e-13
            )
        np.testing.assert_allclose(T, pot, atol=1e-6)


@pytest.mark.parametrize("loss", ["square_loss", "kl_loss"])
@pytest.mark.parametrize("max_iter", [1, 30])
def test_semirelaxed_steps_are_those_of_pot(loss, max_iter):
    M, C1, C2, p, _ = problem("weights", 10, 4)
    args = (M, C1, C2, p, loss)
    T = gromov.entropic_semirelaxed_fused_gromov_wasserstein(*args, epsilon=0.05, max_iter=max_iter)
    pot = ot.gromov.entropic_semirelaxed_fused_gromov_wasserstein(*args, epsilon=0.05, max_iter=max_iter)
    np.testing.assert_allclose(T, pot, atol=1e-12)


def test_batch_agrees_with_pot():
    rng = np.random.default_rng(0)
    X, Y, M = rng.random((3, 8, 2)), rng.random((3, 7, 2)), rng.random((3, 8, 7))
    Ca, Cb = (np.stack([ot.dist(z) for z in Z]) for Z in (X, Y))
    kwargs = {"reg": 0.1, "M": M, "alpha": 0.5, "max_iter": 30, "tol": 1e-9}
    ours = gromov.solve_gromov_batch(Ca, Cb, **kwargs)
    pot = ot.batch.solve_gromov_batch(Ca, Cb, **kwargs, max_iter_inner=10_000, tol_inner=1e-12)
    np.testing.assert_allclose(ours.plan, pot.plan, atol=1e-6)
    for name in ("value", "value_linear", "value_quad"):
        np.testing.assert_allclose(getattr(ours, name), getattr(pot, name), rtol=1e-5)
    with pytest.raises(NotImplementedError, match=r"ot\.batch"):
        gromov.solve_gromov_batch(Ca, Cb, loss="kl")
    with pytest.raises(ValueError, match="together"):
        gromov.solve_gromov_batch(Ca, Cb, M=M)


@pytest.mark.parametrize("reg", [None, 0.1])
@pytest.mark.parametrize(("kind", "mass"), [("KL", None), ("semirelaxed", None), ("partial", 0.7)])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_solve_gromov_agrees_with_pot(reg, kind, mass, alpha):
    M, C1, C2, p, q = problem("weights", 5, 6)
    kwargs = {"M": M, "a": p, "b": q, "alpha": alpha, "reg": reg, "unbalanced_type": kind, "unbalanced": mass}
    ours = gromov.solve_gromov(C1, C2, **kwargs)
    assert isinstance(ours, ot.utils.OTResult)
    np.testing.assert_allclose(ours.marginal_a.sum(), mass or 1.0, rtol=1e-6)
    if reg and kind == "partial" and alpha < 1:
        return  # POT ignores M
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # divisions by alpha = 0
        pot = ot.solve_gromov(C1, C2, **kwargs)
    assert ours.value <= pot.value + 0.03 * abs(pot.value) + 1e-9
    for name in ("value_linear", "value_quad", "potentials"):
        assert (getattr(ours, name) is None) == (getattr(pot, name) is None), name
    for error, change in (
        (NotImplementedError, {"loss": "cube"}),
        (NotImplementedError, {"unbalanced": 1.0, "unbalanced_type": "KL"}),
    ):
        with pytest.raises(error):
            gromov.solve_gromov(C1, C2, **{**kwargs, **change})


# ------------------------------------------------------------------------------------------------------ arrays in and out


@pytest.mark.parametrize("name", COVERED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_tensors_of_both_precisions(name, dtype):
    torch = pytest.importorskip("torch")
    args, kwargs = arguments(name, *problem("symmetric"))
    tensors = [torch.tensor(x, dtype=getattr(torch, dtype)) for x in args]
    out = getattr(gromov, name)(*tensors, **kwargs)
    expected = getattr(gromov, name)(*args, **kwargs)
    assert isinstance(out, torch.Tensor)
    assert out.dtype == getattr(torch, dtype)
    rough = dtype == "float32" and "entropic" not in name  # another vertex may win by a rounding
    if not rough:
        np.testing.assert_allclose(np.asarray(out), expected, atol=3e-4 if dtype == "float32" else 1e-10)
    low = getattr(gromov, name)(*(x.astype(dtype) for x in args), **kwargs)
    assert low.dtype == np.dtype(dtype)


def test_integers_lists_defaults_and_zero_weights():
    C = np.array([[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]])
    T = gromov.gromov_wasserstein(C, C[:3, :3], [0.3, 0.3, 0.4, 0.0])
    assert T.dtype == float
    np.testing.assert_allclose(T.sum(1), [0.3, 0.3, 0.4, 0])
    value, log = gromov.gromov_wasserstein2(C, C[:3, :3], [0.3, 0.3, 0.4, 0.0], log=True)
    assert np.isfinite(log["u"]).all()
    np.testing.assert_allclose(gromov.entropic_gromov_wasserstein(C.tolist(), C.tolist(), epsilon=1.0).sum(), 1.0)
    np.testing.assert_allclose(gromov.partial_gromov_wasserstein(C[:1, :1], C, m=0.25).sum(), 0.25)  # one point
    assert value >= 0


def test_no_mass_is_an_empty_plan():
    M, C1, C2, _, _ = problem("symmetric", 4, 5)
    T, log = gromov.partial_fused_gromov_wasserstein(M, C1, C2, m=0, log=True)
    assert T.shape == (4, 5)
    assert not T.any()
    assert log["partial_fgw_dist"] == 0
    assert gromov.entropic_partial_gromov_wasserstein2(C1, C2, m=0) == 0


# --------------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("loss", ["square_loss", "kl_loss"])
@pytest.mark.parametrize("name", [x for x in COVERED if x.endswith("2")])
def test_gradients_are_those_of_the_objective_at_its_minimum(name, loss):
    """Finite differences of the minimum itself where the plan is a vertex, of the energy at fixed plan where it is entropic."""
    torch = pytest.importorskip("torch")
    M, C1, C2, p, q = problem("asymmetric", 5, 6, seed=3)
    args, kwargs = arguments(name, M, C1, C2, p, q)
    args, kwargs = [x + 0.1 if x.ndim == 2 else x for x in args], {**kwargs, "loss_fun": loss}
    tensors = [torch.tensor(x, requires_grad=x.ndim == 2) for x in args]
    if "fused" in name:
        kwargs["alpha"] = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    value, log = getattr(gromov, name)(*tensors, **kwargs, log=True)
    value.backward()
    T = np.asarray(log["T"])
    rng = np.random.default_rng(1)
    plain = {k: float(v.detach()) if hasattr(v, "requires_grad") else v for k, v in kwargs.items()}
    for position, (x, t) in enumerate(zip(args, tensors, strict=True)):
        if x.ndim == 1:
            continue
        D = rng.normal(size=x.shape) * 1e-5
        ends = []
        for sign in (1, -1):
            moved = [y + sign * D if i == position else y for i, y in enumerate(args)]
            if "entropic" in name:
                fused = len(args) - (1 if "semirelaxed" in name else 2) == 3
                structures = moved[1:3] if fused else moved[:2]
                alpha = 0.4 if fused else 1.0
                quad = gromov.gwloss(*gromov.init_matrix(*structures, T.sum(1), T.sum(0), loss), T)
                ends.append(alpha * quad + ((1 - alpha) * np.sum(moved[0] * T) if fused else 0))
            else:
                ends.append(float(getattr(gromov, name)(*moved, **plain, G0=None)))
        slope = (ends[0] - ends[1]) / 2
        np.testing.assert_allclose(float((t.grad * torch.tensor(D)).sum()), slope, rtol=2e-3, atol=1e-9)
    if "fused" in name:
        linear, quad = float(log["lin_loss"]) / 0.6, float(log["quad_loss"]) / 0.4
        np.testing.assert_allclose(float(kwargs["alpha"].grad), quad - linear, rtol=1e-6)


def test_gradients_in_the_weights():
    torch = pytest.importorskip("torch")
    M, C1, C2, p, q = problem("weights", 5, 6)
    P, Q = (torch.tensor(x, requires_grad=True) for x in (p, q))
    value = gromov.fused_gromov_wasserstein2(*map(torch.tensor, (M, C1, C2)), P, Q, alpha=0.3)
    value.backward()
    D = np.array([1.0, -1.0, 0, 0, 0]) * 1e-6
    ends = [float(gromov.fused_gromov_wasserstein2(M, C1, C2, p + s * D, q, alpha=0.3)) for s in (1, -1)]
    np.testing.assert_allclose(float(P.grad @ torch.tensor(D)), (ends[0] - ends[1]) / 2, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------------- keywords


@pytest.mark.parametrize(
    ("name", "keyword", "meant"),
    [
        ("partial_gromov_wasserstein", "max_iter", "'numItermax'"),
        ("partial_gromov_wasserstein", "reg_m", "'m'"),
        ("partial_gromov_wasserstein", "n_dummies", "'nb_dummies'"),
        ("partial_gromov_wasserstein", "reg", "entropic_partial_gromov_wasserstein"),
        ("partial_gromov_wasserstein", "alpha", "it takes"),
        ("gromov_wasserstein", "epsilon", "entropic_gromov_wasserstein"),
        ("gromov_wasserstein", "numItermax", "'max_iter'"),
        ("gromov_wasserstein", "simmetric", "'symmetric'"),
        ("gromov_wasserstein2", "tol", "'tol_rel'"),
        ("fused_gromov_wasserstein", "features_metric", "it takes"),
        ("fused_gromov_wasserstein", "plan_init", "'G0'"),
        ("entropic_gromov_wasserstein", "reg", "'epsilon'"),
        ("entropic_partial_gromov_wasserstein", "epsilon", "'reg'"),
        ("semirelaxed_gromov_wasserstein", "q", "it takes"),
        ("solve_gromov", "epsilon", "'reg'"),
    ],
)
def test_unknown_keywords_name_the_right_one(name, keyword, meant):
    M, C1, C2, _, _ = problem("symmetric", 4, 5)
    args = (M, C1, C2) if "fused" in name else (C1, C2)
    with pytest.raises(TypeError, match=meant):
        getattr(gromov, name)(*args, **{keyword: 0.5})


def test_keywords_that_pot_hands_on_are_accepted():
    M, C1, C2, _, _ = problem("symmetric", 5, 6)
    plain = gromov.partial_gromov_wasserstein(C1, C2, m=0.5)
    same = gromov.partial_gromov_wasserstein(C1, C2, m=0.5, numThreads=2, thres=7, nb_dummies=9, symmetric=True)
    np.testing.assert_array_equal(plain, same)
    plain = gromov.entropic_gromov_wasserstein(C1, C2, epsilon=0.1)
    same = gromov.entropic_gromov_wasserstein(C1, C2, epsilon=0.1, numItermax=5, stopThr=1, warmstart=True, symmetric=True)
    np.testing.assert_array_equal(plain, same)
    gromov.gromov_wasserstein(C1, C2, alpha_min=0.0, alpha_max=1.0, armijo=True, numItermaxEmd=5)
    with pytest.raises(NotImplementedError, match="alpha_max"):
        gromov.gromov_wasserstein(C1, C2, alpha_max=0.5)


def test_a_plan_that_is_not_stationary_gets_one_warning(monkeypatch):
    """Nothing where the caller asked for few iterations; one warning where the solver gave up."""
    M, C1, C2, _, _ = problem("symmetric")
    gromov.entropic_gromov_wasserstein(C1, C2, epsilon=0.01, max_iter=2)
    from fpgwot import ConvergenceWarning, Status

    real = _call.solve

    def stalled(*args, **kwargs):
        from dataclasses import replace

        done = real(*args, **kwargs)
        return replace(done, converged=False, status=Status.STALLED, residuals=replace(done.residuals, stationarity=0.1))

    monkeypatch.setattr(_call, "solve", stalled)
    with pytest.warns(ConvergenceWarning, match="raise reg") as seen:
        gromov.entropic_gromov_wasserstein(C1, C2, epsilon=0.1)
    assert len(seen) == 1
    gromov.partial_gromov_wasserstein2(C1, C2, m=0.5)  # warn=False there, as in POT


def test_what_is_not_covered_names_pot():
    _, C1, C2, _, _ = problem("symmetric", 4, 5)
    for name in ("fused_unbalanced_gromov_wasserstein", "fused_unbalanced_gromov_wasserstein2"):
        with pytest.raises(NotImplementedError, match=rf"ot\.gromov\.{name}"):
            getattr(gromov, name)(C1, C2)
    with pytest.raises(ValueError, match="square_loss"):
        gromov.gromov_wasserstein(C1, C2, loss_fun="cube_loss")
    for call in (gromov.entropic_gromov_wasserstein, gromov.entropic_semirelaxed_gromov_wasserstein):
        with pytest.raises(ValueError, match="positive"):
            call(C1, C2, epsilon=0)
    with pytest.raises(ValueError, match="PGD"):
        gromov.entropic_gromov_wasserstein(C1, C2, solver="ADMM")


def test_every_name_of_pot_is_here_or_says_where_it_is():
    from fpgwot.gromov import elsewhere

    assert set(ot.gromov.__all__) == (set(gromov.__all__) | set(elsewhere.ELSEWHERE)) & set(ot.gromov.__all__)
    assert not set(gromov.__all__) & set(elsewhere.ELSEWHERE)
    for name in elsewhere.ELSEWHERE:
        assert hasattr(ot.gromov, name)
        function = getattr(gromov, name)
        assert function.__name__ == name
        with pytest.raises(NotImplementedError, match=rf"ot\.gromov\.{name}:"):
            function(1, x=2)
    with pytest.raises(NotImplementedError, match="solver='PPA' to entropic_gromov_wasserstein"):
        gromov.BAPG_gromov_wasserstein(np.eye(3), np.eye(3))
    with pytest.raises(AttributeError, match="no attribute 'gromov'"):
        gromov.gromov  # noqa: B018
