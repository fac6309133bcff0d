"""Gradients of values and plans against finite differences, in float64 by torch's gradcheck and of the NumPy solve."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

import fpgwot
from fpgwot import ConvergenceError, ConvergenceWarning

torch = pytest.importorskip("torch")
from fpgwot import nn  # noqa: E402
from fpgwot._dispatch import load_backend  # noqa: E402
from fpgwot._sensitivity import Optimum, _Linear, conditions, energy_gradient, plan_adjoint  # noqa: E402

INF = float("inf")
MARGINALS = {
    "balanced": {},
    "partial": {"m": 0.6},
    "soft": {"tau": 0.3},
    "half soft": {"tau": (INF, 0.3)},
    "semi-relaxed": {"tau": (INF, 0.0)},
    "priced": {"tv": 0.12},
    "sink": {"sink": 0.2},
}
PRECISE = {"tol": 1e-11, "max_iter": 2000}


def problem(n=4, m=3, B=None, symmetric=True, seed=0, dtype=torch.float64):
    gen = torch.Generator().manual_seed(seed)

    def make(*shape):
        return torch.rand(*shape if B is None else (B, *shape), generator=gen, dtype=torch.float64)

    M, C1, C2 = make(n, m), make(n, n), make(m, m)
    if symmetric:
        C1, C2 = (C1 + C1.mT) / 2, (C2 + C2.mT) / 2
    p, q = make(n) + 0.5, make(m) + 0.5
    weights = (p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True))
    return [x.to(dtype).requires_grad_() for x in (M, C1, C2, *weights)]


def number(x):
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


def check(function, inputs, **options):
    """Directional derivatives in random directions of every input, forward differences against backward."""
    torch.manual_seed(1)
    return torch.autograd.gradcheck(function, inputs, **{"fast_mode": True, "eps": 1e-5, "atol": 1e-7, "rtol": 1e-4, **options})


def outputs(what, plan_weights, kind="relaxed", **options):
    """Function of M, C1, C2, p, q, alpha, reg for gradcheck; equal totals where the marginals ask for them."""

    def function(M, C1, C2, p, q, alpha, reg):
        if kind == "balanced":
            p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
        out = nn.solve(M, C1, C2, p, q, alpha=alpha, reg=reg, **PRECISE, **options)
        if "tv" in options or "sink" in options:
            assert (out.plan.sum((-2, -1)) < 0.95).all()  # at the whole mass of equal totals the value has a kink
        both = (out.plan * plan_weights).sum((-2, -1))
        return {"value": out.value, "plan": both, "both": out.value + both}[what]

    return function


# --------------------------------------------------------------------------------------------------------------- gradcheck


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("kind", MARGINALS)
@pytest.mark.parametrize("what", ["value", "plan"])
def test_gradcheck_of_every_kind_of_marginal(what, kind, symmetric):
    inputs = problem(symmetric=symmetric, seed=3)
    function = outputs(what, torch.rand(4, 3, dtype=torch.float64), kind, **MARGINALS[kind])
    assert check(function, (*inputs, number(0.4), number(0.2)))


@pytest.mark.parametrize("what", ["value", "plan"])
def test_gradcheck_of_the_product_loss(what):
    function = outputs(what, torch.rand(4, 3, dtype=torch.float64), m=0.5, loss="product")
    assert check(function, (*problem(symmetric=False), number(0.5), number(0.2)))


@pytest.mark.parametrize("kind", MARGINALS)
@pytest.mark.parametrize("what", ["value", "plan"])
def test_gradcheck_of_the_kl_loss(what, kind):
    """Both structures: they play different parts in a log(a/b) - a + b."""
    M, C1, C2, p, q = (x.detach().clone() for x in problem(symmetric=False, seed=4))
    inputs = [x.requires_grad_() for x in (M, C1.abs() + 0.2, C2.abs() + 0.2, p, q)]
    function = outputs(what, torch.rand(4, 3, dtype=torch.float64), kind, loss="kl", **MARGINALS[kind])
    assert check(function, (*inputs, number(0.5), number(0.2)))


@pytest.mark.parametrize("marginals", [{}, {"m": 0.6}, {"tau": (np.inf, 0.0)}])
def test_exact_values_of_the_kl_loss_are_differentiable(marginals):
    M, C1, C2, p, q = (x.detach().clone() for x in problem(symmetric=False, seed=5))
    inputs = [x.requires_grad_() for x in (M, C1.abs() + 0.2, C2.abs() + 0.2)]

    def value(*x):
        return nn.solve(*x, p / p.sum(), q / q.sum(), alpha=0.6, loss="kl", **marginals).value

    assert torch.autograd.gradcheck(value, inputs)
    kernel = nn.laplace_kernel(len(p), number(0.1), 1.0, 0.5)
    out = nn.solve(inputs[0], kernel, inputs[2], loss="kl", reg=0.1)
    with pytest.raises(NotImplementedError, match="pass arrays"):
        out.value.backward()


def test_gradcheck_entry_by_entry():
    """All entries of all inputs one by one, value and plan together: 5 x 3 points, more rows than columns and back."""
    inputs = problem(3, 2)
    weights = torch.rand(3, 2, dtype=torch.float64)
    assert check(outputs("both", weights, m=0.6), (*inputs, number(0.4), number(0.3)), fast_mode=False)
    M, C1, C2, p, q = inputs
    flipped = [x.detach().clone().requires_grad_() for x in (M.mT, C2, C1, q, p)]
    assert check(outputs("both", weights.T, m=0.6), (*flipped, number(0.4), number(0.3)), fast_mode=False)


@pytest.mark.parametrize("kind", ["balanced", "partial", "soft", "priced"])
def test_gradcheck_of_a_batch_with_shared_inputs(kind):
    """Every problem of a batch has its own derivative; inputs without a batch axis collect from all."""
    M, C1, C2, p, q = problem(4, 3, B=3)
    shared = C1[0].detach().clone().requires_grad_(), p[0].detach().clone().requires_grad_()
    weights = torch.rand(3, 4, 3, dtype=torch.float64)
    alpha = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
    function = outputs("both", weights, kind, **MARGINALS[kind])
    assert check(function, (M, shared[0], C2, shared[1], q, alpha, number(0.2)))


@pytest.mark.parametrize("what", ["value", "plan"])
@pytest.mark.parametrize("name", ["m", "tau", "pair", "tv", "sink", "smoothness", "reference", "constant reference"])
def test_gradcheck_of_scalars(name, what):
    M, C1, C2, p, q = (x.detach() for x in problem(seed=5))
    weights = torch.rand(4, 3, dtype=torch.float64)

    def function(x):
        option = {
            "m": {"m": x},
            "tau": {"tau": x},
            "pair": {"tau": (x, INF)},
            "tv": {"tv": x},
            "sink": {"sink": x},
            "smoothness": {"smoothness": x, "m": 0.6},
            "reference": {"reference": x * (1 + weights), "m": 0.6},
            "constant reference": {"reference": x, "tau": 0.2},
        }[name]
        out = nn.solve(M, C1, C2, p, q, alpha=0.4, reg=0.2, **PRECISE, **option)
        return out.value if what == "value" else (out.plan * weights).sum()

    assert check(function, (number(0.4),))


def test_gradcheck_without_structures_and_without_costs():
    M, C1, C2, p, q = problem()
    weights = torch.rand(4, 3, dtype=torch.float64)

    def linear(M, p, reg):
        out = nn.solve(M, p=p, q=q.detach(), m=0.7, reg=reg, **PRECISE)
        return out.value + (out.plan * weights).sum()

    def structures(C1, C2):
        out = nn.solve(None, C1, C2, m=0.7, reg=0.1, **PRECISE)
        return out.value + (out.plan * weights).sum()

    assert check(linear, (M, p, number(0.1)))
    assert check(structures, (C1, C2))


def test_small_reg_where_the_marginal_system_is_all_but_singular():
    """reg of 1/200 of the costs: rows and columns hang together by tiny entries of the plan."""
    M, C1, C2, p, q = problem(6, 5, seed=2)
    weights = torch.rand(6, 5, dtype=torch.float64)
    for kind in ("balanced", "partial", "soft"):
        function = outputs("both", weights, kind, **MARGINALS[kind])
        assert check(function, (M, C1, C2, p, q, number(0.1), number(0.005)), eps=1e-6, rtol=1e-3)


# ------------------------------------------------------------------------------------------------------- temporal structures


@pytest.mark.parametrize("n", [5, 140], ids=["as an array", "as an operator"])
@pytest.mark.parametrize("loss", ["square", "product"])
def test_temporal_parameters(n, loss):
    """Scale, weight, offset and power by lags, against the same matrices built in torch; 140 points are past the dense size."""
    m, scale = n - 1, 0.3 * n
    M = torch.rand(n, m, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lag1, lag2 = ((torch.arange(k, dtype=torch.float64)[:, None] - torch.arange(k)).abs() for k in (n, m))
    inputs = [number(x) for x in (scale, -0.9, 1.1, n**-1.5, 1.5)]
    weights = torch.linspace(0, 1, n * m, dtype=torch.float64).reshape(n, m) ** 2

    def run(C1, C2):
        out = nn.solve(M, C1, C2, alpha=0.5, m=0.8, reg=0.1, loss=loss, tol=1e-9)
        (out.value + (out.plan * weights).sum()).backward()
        found = [x.grad.clone() for x in inputs]
        for x in inputs:
            x.grad = None
        return torch.stack(found)

    b, weight, offset, steepness, power = inputs
    fast = run(nn.laplace_kernel(n, b, weight, offset), nn.power_distance(m, power, steepness))
    dense = run(offset + weight * torch.exp(-lag1 / b), steepness * lag2**power)
    assert torch.allclose(fast, dense, rtol=1e-5, atol=1e-7)
    assert (dense != 0).all()


def test_temporal_structures_with_time_stamps_and_free_weights():
    times = torch.tensor([0.0, 1.0, 2.5, 3.0, 5.0], dtype=torch.float64)
    M = torch.rand(5, 4, dtype=torch.float64)
    lags = torch.tensor([0.0, 1.0, 1.5, 0.3], dtype=torch.float64, requires_grad=True)

    def function(scale, lags):
        return nn.solve(M, nn.laplace_kernel(None, scale, times=times), nn.toeplitz(lags), m=0.6, reg=0.1, **PRECISE).value

    assert check(function, (number(1.5), lags))
    with pytest.raises(ValueError, match="power must be 1 or 2"):
        nn.power_distance(None, 1.5, times=times)


def test_operators_of_the_package_are_constant():
    M = torch.rand(6, 5, dtype=torch.float64, requires_grad=True)
    dense = [fpgwot.LaplaceKernel(k, 2.0).to_dense()[0] for k in (6, 5)]
    a = nn.solve(M, fpgwot.LaplaceKernel(6, 2.0), fpgwot.LaplaceKernel(5, 2.0), m=0.5, reg=0.1)
    b = nn.solve(M, *(torch.from_numpy(C) for C in dense), m=0.5, reg=0.1)
    assert torch.equal(a.plan, b.plan)
    (gradient,) = torch.autograd.grad(a.plan[0, 0], M)
    assert torch.allclose(gradient, torch.autograd.grad(b.plan[0, 0], M)[0], atol=1e-12)


# ------------------------------------------------------------------------------------------------------------ exact, weights


@pytest.mark.parametrize("options", [{}, {"m": 0.55}, {"tv": 0.2}, {"tau": (INF, 0.0)}], ids=str)
def test_exact_values_have_gradients(options):
    """Danskin at a vertex: away from ties the value is smooth, and finite differences of the NumPy solve agree."""
    arrays = [x.detach().numpy() for x in problem(5, 4, seed=7)]
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    nn.solve(*tensors, alpha=0.2, **options).value.backward()
    rng = np.random.default_rng(0)
    for k, a in enumerate(arrays):
        d = rng.normal(size=a.shape)
        if k > 2:
            d -= d.mean()  # totals stay
        values = []
        for sign in (1, -1):
            moved = [x + sign * 1e-6 * d if i == k else x for i, x in enumerate(arrays)]
            values.append(fpgwot.solve(*moved, alpha=0.2, **options).value)
        assert np.sum(tensors[k].grad.numpy() * d) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("tau", [0.3, (INF, 0.3), (0.2, 0.0)], ids=str)
def test_values_with_soft_marginals_and_no_entropy_have_gradients(tau):
    arrays = [x.detach().numpy() for x in problem(5, 4, seed=7)]
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    options = {"alpha": 0.2, "tau": tau, "tol": 1e-9, "max_iter": 300}
    nn.solve(*tensors, **options).value.backward()
    rng = np.random.default_rng(0)
    for k, a in enumerate(arrays):
        d = rng.normal(size=a.shape)
        values = []
        for sign in (1, -1):
            moved = [x + sign * 3e-4 * d if i == k else x for i, x in enumerate(arrays)]
            values.append(fpgwot.solve(*moved, **options).value)
        assert np.sum(tensors[k].grad.numpy() * d) == pytest.approx((values[0] - values[1]) / 6e-4, rel=1e-4, abs=2e-6)


def test_exact_plans_refuse():
    M = torch.rand(4, 4, requires_grad=True)
    out = nn.solve(M, m=0.5)
    with pytest.raises(ValueError, match="piecewise constant"):
        (out.plan * M.detach()).sum().backward()
    (out.plan.detach() * M).sum().backward()
    assert torch.equal(M.grad, out.plan)


@pytest.mark.parametrize("reg", [0.0, 0.1])
def test_the_constant_of_balanced_potentials(reg):
    """Means under p and q are equal, and every change that keeps the totals equal is priced right, a common scaling too."""
    M, *_, p, q = problem(5, 4, seed=1)
    out = nn.solve(M, p=p, q=q, reg=reg, tol=1e-12)
    dp, dq = torch.autograd.grad(out.value, (p, q))
    explicit = reg * (1 - out.plan.detach().sum(1) / p), reg * (1 - out.plan.detach().sum(0) / q)
    assert torch.isclose(((dp - explicit[0]) * p).sum(), ((dq - explicit[1]) * q).sum(), atol=1e-9)
    h = 1e-5

    def value(s):
        a, b = (s * x.detach().numpy() for x in (p, q))
        return fpgwot.solve(M.detach().numpy(), p=a, q=b, reg=reg, tol=1e-12).value

    assert float(((dp * p).sum() + (dq * q).sum()).detach()) == pytest.approx((value(1 + h) - value(1 - h)) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("reg", [0.0, 0.1])
def test_the_whole_mass_of_a_side(reg):
    """m = sum p: its derivative is that towards smaller masses, and together with p that of the semi-balanced problem."""
    M, C1, C2, p, q = problem(4, 3, seed=4)
    q2 = (1.5 * q).detach()
    m = number(1.0)
    out = nn.solve(M, C1, C2, p, q2, alpha=0.2, m=m, reg=reg, tol=1e-11)
    dm, dp = torch.autograd.grad(out.value, (m, p))
    args = [x.detach().numpy() for x in (M, C1, C2, p)] + [q2.numpy()]

    def value(mass, scale=1.0):
        a = [*args[:3], scale * args[3], args[4]]
        return fpgwot.solve(*a, alpha=0.2, m=mass, reg=reg, tol=1e-11).value

    h = 1e-5
    assert float(dm) == pytest.approx((value(1.0) - value(1 - h)) / h, rel=1e-3, abs=1e-4)
    assert float((dm + (dp * p).sum()).detach()) == pytest.approx(
        (value(1 + h, 1 + h) - value(1 - h, 1 - h)) / (2 * h), rel=1e-5, abs=1e-6
    )


def test_partial_gradients_use_the_marginals_of_the_plan():
    """Below full mass the structure gradient is 2 alpha (C1 mu mu' - T C2 T'), not with p p'."""
    M, C1, C2, *_ = problem(6, 5)
    out = nn.solve(M, C1, C2, alpha=0.5, m=0.4, reg=0.05, tol=1e-10)
    (found,) = torch.autograd.grad(out.value, C1)
    T = out.plan.detach()
    mu = T.sum(1)
    right = C1 * mu[:, None] * mu - T @ C2 @ T.T
    assert torch.allclose(found, right, atol=1e-12)
    wrong = C1 / 36 - T @ C2 @ T.T
    assert not torch.allclose(found, wrong, atol=1e-3)


def test_points_without_weight_get_no_gradient():
    M, C1, C2, p, q = problem(5, 4, seed=2)
    with torch.no_grad():
        p[1], q[-1] = 0.0, 0.0
    out = nn.solve(M, C1, C2, p, q, alpha=0.3, m=0.5, reg=0.1, tol=1e-11)
    (out.value + out.plan[0, 0]).backward()
    for x in (M.grad[1], M.grad[:, -1], C1.grad[1], C1.grad[:, 1], C2.grad[-1], p.grad[1], q.grad[-1]):
        assert not x.any()
    keep = torch.tensor([0, 2, 3, 4])
    small = [x.detach().clone().requires_grad_() for x in (M[keep, :-1], C1[keep][:, keep], C2[:-1, :-1], p[keep], q[:-1])]
    out = nn.solve(*small, alpha=0.3, m=0.5, reg=0.1, tol=1e-11)
    (out.value + out.plan[0, 0]).backward()
    assert torch.allclose(small[0].grad, M.grad[keep, :-1], atol=1e-8)
    assert torch.allclose(small[3].grad, p.grad[keep], atol=1e-8)


# --------------------------------------------------------------------------------------------------- the adjoint, on its own


def dense_adjoint(o, R):
    """The KKT system of the first problem as one matrix, from the definitions."""
    n, m = o.T.shape[1:]
    c = conditions(o)
    T = o.T[0].ravel()
    H = np.diag(o.reg[0] / T)
    for k in range(n * m):
        unit = np.zeros((1, n, m))
        unit.flat[k] = 1
        H[:, k] += energy_gradient(o, unit)[0].ravel()
    rows, cols = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    for A, x, tau in ((rows, o.T[0].sum(1), c.soft[0]), (cols, o.T[0].sum(0), c.soft[1])):
        H += tau * A.T @ np.diag(1 / x) @ A
    A = np.concatenate([rows[c.hard[0][0]], cols[c.hard[1][0]], np.ones((int(c.total[0]), n * m))])
    K = np.block([[H, A.T], [A, np.zeros((len(A), len(A)))]])
    return np.linalg.lstsq(K, np.append(R[0].ravel(), np.zeros(len(A))), rcond=1e-12)[0][: n * m].reshape(n, m)


def optimum(kind, n=6, m=5, reg=0.1):
    M, C1, C2, p, q = (x.detach().numpy() for x in problem(n, m, seed=8))
    options = MARGINALS[kind]
    r = fpgwot.solve(M, C1, C2, p, q, alpha=0.4, reg=reg, tol=1e-11, on_fail="ignore", **options)
    f, g, h = r.potentials
    price = options.get("tv", options.get("sink", np.nan) / 2)
    tau = options.get("tau", INF)
    return Optimum(
        load_backend("numba"), r.plan[None], (f[None], g[None], np.array([h])), p[None], q[None], M[None],
        fpgwot.Dense(C1), fpgwot.Dense(C2), "square", np.array([0.4]), np.array([reg]), tuple(np.broadcast_to(tau, 2)),
        None if np.isnan(price) else np.array([price]), np.array([options["m"]]) if "m" in options else None, np.zeros(1), None,
    )  # fmt: skip


@pytest.mark.parametrize("kind", MARGINALS)
def test_adjoint_against_one_dense_matrix(kind, rng):
    o, R = optimum(kind), rng.normal(size=(1, 6, 5))
    found = plan_adjoint(o, R)
    assert found.residual[0] < 1e-8
    np.testing.assert_allclose(found.U[0], dense_adjoint(o, R), atol=1e-8)


@pytest.mark.parametrize("reg", [0.1, 1e-3])
def test_preconditioner_keeps_the_conditions(reg, rng):
    """A U = 0 to rounding, whatever reg: of hard rows, capped points below their cap, and the mass."""
    for kind in ("balanced", "partial", "priced"):
        o = optimum(kind, reg=reg)
        c = conditions(o)
        R = rng.normal(size=(1, 6, 5))
        U, *_ = _Linear(o, c)(R)
        size = 0.1 * np.abs(o.T / reg * R).sum()  # U is what is left of this once the conditions are taken out
        assert np.abs(np.where(c.hard[0], U.sum(2), 0)).max() < 1e-10 * size
        assert np.abs(np.where(c.hard[1], U.sum(1), 0)).max() < 1e-10 * size
        assert abs(U.sum()) < 1e-10 * size or not c.total[0]


def test_a_singular_system_is_flagged():
    """A plan that is no isolated minimum: one value along a whole line of plans, reg too small to choose."""
    C = torch.zeros(2, 2, dtype=torch.float64)
    C[0, 1] = C[1, 0] = 1
    C.requires_grad_()
    # at the product plan of this problem the curvature of the entropy and of the energy cancel for reg = 1
    for on_fail, expected in (("warn", ConvergenceWarning), ("raise", ConvergenceError)):
        out = nn.solve(None, C, C, reg=1.0, tol=1e-10, on_fail=on_fail)
        assert torch.allclose(out.plan, torch.full((2, 2), 0.25, dtype=torch.float64))
        with (pytest.warns if on_fail == "warn" else pytest.raises)(expected, match="linearised"):
            out.plan[0, 0].backward()


# --------------------------------------------------------------------------------------------------- dtypes, batches, lists


def test_float32():
    """Values to the solver's float32 residual, and gradients of the inputs' dtype."""
    wide = problem(8, 7, B=2)
    narrow = [x.detach().float().requires_grad_() for x in wide]
    for inputs, tol in ((wide, 1e-9), (narrow, 5e-6)):  # the residual of float32 ends at 1e-6 to 3e-6
        out = nn.solve(*inputs, alpha=0.3, m=0.6, reg=0.1, tol=tol)
        (out.value.sum() + (out.plan**2).sum()).backward()
    assert out.value.dtype == out.plan.dtype == torch.float32
    for a, b in zip(wide, narrow, strict=True):
        assert b.grad.dtype == torch.float32
        assert (a.grad - b.grad).abs().max() < 1e-4 * a.grad.abs().max()


def test_no_copies_of_the_inputs():
    M = torch.rand(4, 9, 8, dtype=torch.float32, requires_grad=True)
    out = nn.solve(M, m=0.5, reg=0.1)
    assert out.result.plan.ctypes.data == out.plan.data_ptr()
    assert out.plan.grad_fn.call.inputs["M"].ctypes.data == M.data_ptr()


def test_unequal_sizes_equal_single_solves():
    sizes = [(5, 4), (3, 6), (7, 7)]
    lists = [problem(n, m, seed=n) for n, m in sizes]
    names = ("M", "C1", "C2", "p", "q")
    together = nn.solve_batch([dict(zip(names, x, strict=True)) for x in lists], alpha=0.3, m=0.6, reg=0.1, tol=1e-10)
    sum(t.value + t.plan[1, 2] for t in together).backward()
    found = [[x.grad.clone() for x in one] for one in lists]
    for one, grads, t in zip(lists, found, together, strict=True):
        for x in one:
            x.grad = None
        alone = nn.solve(*one, alpha=0.3, m=0.6, reg=0.1, tol=1e-10)
        assert t.plan.shape == alone.plan.shape == t.result.plan.shape
        (alone.value + alone.plan[1, 2]).backward()
        for x, g in zip(one, grads, strict=True):
            assert torch.allclose(x.grad, g, atol=1e-7)


def test_bad_arguments_say_so():
    M = torch.rand(3, 3)
    with pytest.raises(TypeError, match="no input is a torch tensor"):
        nn.solve(M.numpy(), reg=0.1)
    with pytest.raises(NotImplementedError, match="auto"):
        nn.solve(M, m="auto", reg=0.1)
    with pytest.raises(ValueError, match="same price"):
        nn.solve(M, tv=0.1, sink=0.2, reg=0.1)
    with pytest.raises(TypeError, match="unknown keys"):
        nn.solve_batch([{"M": M, "N": M}])
    with pytest.raises(ValueError, match="all or none"):
        nn.solve_batch([{"M": M}, {"M": M, "p": torch.ones(3) / 3}])
    with pytest.raises(ValueError, match="unknown metric"):
        nn.FPGWLoss(metric="manhattan")
    with pytest.raises(ValueError, match="features X and Y, or"):
        nn.FPGWLoss()(M)


def test_second_derivatives_are_refused():
    M = torch.rand(3, 3, requires_grad=True, dtype=torch.float64)
    (g,) = torch.autograd.grad(nn.solve(M, reg=0.1).value ** 2, M, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_inputs_changed_before_backward_are_noticed():
    C1, C2 = torch.rand(3, 3, requires_grad=True), torch.rand(3, 3)
    out = nn.solve(None, C1, C2, reg=0.1)
    C2.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.value.backward()


# ------------------------------------------------------------------------------------------------------------------ losses


@pytest.mark.parametrize(
    "options", [{}, {"metric": "euclidean", "rho": 0.4}, {"structure": "linear", "mass": 1.0}, {"structure": None}]
)
def test_loss_is_align(options, rng):
    X, Y = rng.normal(size=(12, 5)), rng.normal(size=(9, 5))
    loss, plan = nn.FPGWLoss(**options)(torch.from_numpy(X), torch.from_numpy(Y), return_plan=True)
    ours = {"mass": 0.8, "alpha": 0.3} | options
    theirs = fpgwot.align(X, Y, **ours)
    assert loss.item() == pytest.approx(theirs.value, rel=1e-6)
    np.testing.assert_allclose(plan.numpy(), theirs.plan, atol=1e-6)
    assert not plan.requires_grad


def test_gradcheck_of_the_loss_on_unequal_lengths():
    gen = torch.Generator().manual_seed(0)
    X, Y = (torch.randn(2, k, 3, dtype=torch.float64, generator=gen).requires_grad_() for k in (6, 5))
    loss = nn.FPGWLoss(mass=0.6, reg_rel=0.05, rho=0.2, tol=1e-11, max_iter=2000)
    lengths = {"lengths_x": torch.tensor([6, 4]), "lengths_y": torch.tensor([3, 5])}
    assert check(lambda X, Y: loss(X, Y, **lengths), (X, Y), eps=1e-6)
    values, plan = nn.FPGWLoss(mass=0.6, reg_rel=0.05, rho=0.2, tol=1e-11, reduction="none")(X, Y, **lengths, return_plan=True)
    for b, (n, m) in enumerate(((6, 3), (4, 5))):
        alone = fpgwot.align(X[b, :n].detach().numpy(), Y[b, :m].detach().numpy(), 0.6, reg_rel=0.05, rho=0.2, tol=1e-11)
        assert values[b].item() == pytest.approx(alone.value, rel=1e-8)
        np.testing.assert_allclose(plan[b, :n, :m].numpy(), alone.plan, atol=1e-8)
    given = torch.rand(2, 6, 5, dtype=torch.float64, generator=gen)
    assert torch.isfinite(loss(M=given, **lengths))


def test_cross_entropy_against_its_definition(rng):
    S, T = torch.from_numpy(rng.normal(size=(2, 5, 4))).requires_grad_(), torch.from_numpy(rng.random((2, 5, 4)))
    T[1, 3:] = 0
    lengths = torch.tensor([5, 3])
    found = nn.plan_cross_entropy(S, T.requires_grad_(), temperature=0.5, lengths_x=lengths, reduction="none")
    for b, n in enumerate((5, 3)):
        s, t = S[b, :n].detach().numpy() / 0.5, T[b, :n].detach().numpy()
        logs = 2 * s - np.log(np.exp(s).sum(1, keepdims=True)) - np.log(np.exp(s).sum(0, keepdims=True))
        assert found[b].item() == pytest.approx(-0.5 * np.sum(t * logs) / t.sum(), rel=1e-12)
    found.sum().backward()
    assert T.grad is None
    assert not S.grad[1, 3:].any()


def test_cross_entropy_of_a_pair_without_matched_mass_is_zero():
    S, T = torch.randn(2, 3, 4, requires_grad=True), torch.rand(2, 3, 4)
    T[0] = 0
    found = nn.plan_cross_entropy(S, T, reduction="none")
    found.sum().backward()
    assert found[0].item() == 0
    assert found[1].item() > 0
    assert torch.isfinite(S.grad).all()


def test_training_recovers_a_structure():
    """A loss on the plan teaches the reach of the kernel: 15 steps bring it near the one the target was made with."""
    gen = torch.Generator().manual_seed(1)
    M = torch.rand(10, 10, dtype=torch.float64, generator=gen)
    C2 = fpgwot.LaplaceKernel(10, 3.0)
    with torch.no_grad():
        target = nn.solve(M, fpgwot.LaplaceKernel(10, 3.0), C2, alpha=0.8, reg=0.05).plan
    log_scale = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_scale], max_iter=15, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        plan = nn.solve(M, nn.laplace_kernel(10, log_scale.exp()), C2, alpha=0.8, reg=0.05).plan
        loss = 1e4 * ((plan - target) ** 2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert float(log_scale.detach().exp()) == pytest.approx(3.0, rel=1e-3)


def test_the_package_does_not_load_torch():
    code = "import sys, fpgwot; fpgwot.solve([[1., 2.], [2., 1.]], reg=.1); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_random_problems_do_not_break(rng):
    """One point, ties, zero weights, tiny and huge costs, indefinite structures: finite gradients or a word."""
    for n, m, scale, seed in ((1, 1, 1.0, 0), (1, 4, 1.0, 1), (6, 1, 1e6, 2), (5, 5, 1e-8, 3), (7, 4, 1e5, 4)):
        M, C1, C2, p, q = problem(n, m, symmetric=False, seed=seed)
        with torch.no_grad():
            M *= scale
            C1 -= 0.5
            C1 *= scale**0.5
            C2 *= scale**0.5
            if n > 1:
                M[1] = M[0]
        for options in ({}, {"m": 0.5}, {"tau": 0.1 * scale}, {"tv": 0.2 * scale}):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                out = nn.solve(M, C1, C2, p, q, alpha=0.3, reg=0.1 * scale, **options)
                loss = out.value / scale + (out.plan**2).sum()
                grads = torch.autograd.grad(loss, (M, C1, C2, p, q))
            assert all(torch.isfinite(g).all() for g in grads)
