"""The public functions. One call takes six stops: api -> _dispatch -> _validate -> _solvers -> _backends -> Result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import _dispatch
from ._backends._protocol import FORBIDDEN_FROM
from ._solvers import entropic, exact
from ._solvers._loop import Progress, Watch
from ._solvers._outcome import Outcome
from ._solvers.starts import starting_plans
from ._validate import Prepared, make_problem
from ._version import __version__
from .result import ConvergenceError, ConvergenceWarning, Residuals, Result, Status

METHODS = ("auto", "entropic", "conditional_gradient")
FEASIBLE = {8: 1e-6, 4: 1e-4}  # largest relative violation of a marginal in a converged result, by bytes of the dtype


def solve(
    M: Any = None,
    C1: Any = None,
    C2: Any = None,
    p: Any = None,
    q: Any = None,
    *,
    alpha: Any = None,
    loss: str = "square",
    m: Any = None,
    tau: Any = None,
    reg: Any = 0.0,
    reg_rel: Any = None,
    reference: Any = None,
    normalize: str | None = None,
    mask: Any = None,
    method: str = "auto",
    init: Any = None,
    n_init: int = 1,
    random_state: Any = None,
    tol: float | None = None,
    max_iter: int | None = None,
    backend: str = "auto",
    callback: Callable[[Progress], Any] | None = None,
    verbose: bool = False,
    on_fail: str = "warn",
) -> Result:
    r"""Fused (partial, unbalanced) Gromov-Wasserstein transport, linear optimal transport included.

    .. math:: \min_{T \ge 0}\ (1-\alpha) \langle M, T \rangle
              + \alpha \sum_{ijkl} (C1_{ik} - C2_{jl})^2\, T_{ij} T_{kl}
              + reg\, KL(T \,\|\, Q) + \tau_1 KL(T 1 \,\|\, p) + \tau_2 KL(T' 1 \,\|\, q)

    with KL(x||y) = sum x log(x/y) - x + y. The marginals are balanced (T1 = p, T'1 = q) unless `m` or `tau` is given.

    Parameters
    ----------
    M : array (n, m), optional
        Feature cost, any sign. None: pure Gromov-Wasserstein.
    C1, C2 : arrays (n, n) and (m, m), optional
        Structures, symmetric or not. Both None: linear OT. All arrays may have a leading batch axis of B problems.
    p, q : arrays (n,) and (m,), optional
        Weights, uniform with sum 1 by default. Any totals where the marginals are relaxed. Points of weight 0 cost no time.
    alpha : float in [0, 1]
        Weight of the structure term; by default 0.5 where M and structures are given, else what makes sense.
    loss : "square"
    m : float, optional
        Transported mass, 0 < m <= min(sum p, sum q): T1 <= p, T'1 <= q, sum T = m.
    tau : float or pair, optional
        Price of marginal error, one for both sides or (rows, columns); inf is a hard marginal, 0 a free one. A finite positive
        price needs reg > 0.
    reg : float
        Weight of the entropy, in units of the cost. 0: exact conditional gradient on linear programs.
    reg_rel : float, optional
        The same as a share of the cost range (1-alpha)(max M - min M) + alpha max (C1-C2)^2. Pass one of the two.
    reference : array (n, m) or positive number, optional
        Q, the reference plan of the entropy; p q' by default. Zeros forbid pairs. A number c: Q_ij = c, and reg KL(T || 1) is
        reg sum T (log T - 1) up to a constant.
    normalize : None, "mean", "max"
        Scales M and the structures first, so that alpha and reg mean the same on every data set. "mean": <|M|, T> = 1 and
        E(T) = 1 at the product plan of mass one; "max": largest entry 1. The value is that of the scaled problem.
    mask : boolean array (n, m), optional
        True where a pair is allowed.
    method : "auto", "entropic" (reg > 0), "conditional_gradient" (reg = 0)
    init : None, "product", "features", "monotone", "reversed", "random", or an array (n, m)
        Starting plan. A plan that is given is kept to: no annealing.
    n_init : int
        Number of starts, in this order: product, features (solution for M alone), monotone and reversed coupling, random. The
        lowest value wins; all values are in `result.starts`.
    random_state : int or numpy Generator
    tol : float
        Bound of `residuals.stationarity`. Default 1e-7 (float32: 1e-5); for the exact method 1e-9.
    max_iter : int
        Outer iterations; default 500, exact 1000.
    backend : "auto", "numba", "numpy"
    callback : callable, optional
        Called with an object (iteration, objective, residual, elapsed) after each outer iteration; return True to stop.
    verbose : bool
        The same, as lines on stderr.
    on_fail : "warn", "raise", "ignore"
        What to do where the certificate does not hold.

    Returns
    -------
    Result
        plan, value, certificate, matches; see `fpgwot.Result`.

    Raises
    ------
    ValueError, TypeError
        Input that makes no sense; the text says what came in and what to do.
    NotImplementedError
        Losses other than "square", m="auto", CUDA arrays, and finite tau with reg = 0.
    ConvergenceError
        With on_fail="raise".

    Notes
    -----
    Each outer iteration costs one gradient, O(n^2 m + n m^2) for dense structures, and a few dozen reads of an n x m array
    (exact: one sparse linear program). Sources: Peyre, Cuturi, Solomon (2016), Vayer et al. (2019), Chapel, Alaya, Gasso (2020),
    Chizat et al. (2018).

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot import solve
    >>> x, y = np.linspace(0, 1, 5), np.linspace(0, 1, 6)
    >>> M = abs(x[:, None] - y[None, :])
    >>> C1, C2 = abs(x[:, None] - x), abs(y[:, None] - y)
    >>> res = solve(M, C1, C2, alpha=0.5, m=0.7, reg=0.05)
    >>> res.converged, round(res.mass, 6)
    (True, 0.7)
    """
    _check_arguments(method, on_fail, n_init, tol, max_iter, reg, reg_rel)
    be, device, take, give = _dispatch.resolve([M, C1, C2, p, q, mask, reference, init], backend)
    M, C1, C2, p, q, mask, reference = (take(x) for x in (M, C1, C2, p, q, mask, reference))
    init = take(init)
    prep = make_problem(
        be, M, C1, C2, p, q,
        alpha=alpha, loss=loss, m=m, tau=tau, reg=reg, reg_rel=reg_rel, reference=reference, normalize=normalize, mask=mask,
    )  # fmt: skip
    if mask is not None or prep.problem.bias is not None:
        _check_feasible(prep)
    name = _method(method, prep)
    watch = Watch(callback, verbose, prep.is_batch)
    rng = np.random.default_rng(random_state)
    limits = {"tol": tol, "max_iter": max_iter}
    out, starts = _run(prep, name, init, n_init, rng, limits, watch)
    result = _result(prep, out, name, device, give, starts, random_state, tol)
    _complain(result, on_fail)
    return result


def solve_batch(problems: Sequence[dict[str, Any]], **common: Any) -> list[Result]:
    """Solve problems of unequal sizes together; one `Result` for each.

    Parameters
    ----------
    problems : sequence of dicts
        The arguments M, C1, C2, p, q, mask of `solve` for each problem, and m, alpha, reg where they differ.
    common
        Every other argument of `solve`, the same for all problems.

    Notes
    -----
    Shorter problems are padded with points of weight 0, which the kernels skip. All outer steps run in lockstep, problems that
    are done are masked. Errors are those of `solve`.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot import solve_batch
    >>> rng = np.random.default_rng(0)
    >>> pair = [dict(M=rng.random((4, 5))), dict(M=rng.random((6, 3)))]
    >>> [r.plan.shape for r in solve_batch(pair, reg=0.1)]
    [(4, 5), (6, 3)]
    """
    if not problems:
        return []
    arrays, scalars = ("M", "C1", "C2", "p", "q", "mask"), ("m", "alpha", "reg", "reg_rel")
    names = set().union(*problems)
    if names - {*arrays, *scalars}:
        raise TypeError(f"unknown keys {sorted(names - {*arrays, *scalars})} in a problem; it takes {[*arrays, *scalars]}")
    if names & set(common):
        raise TypeError(f"{sorted(names & set(common))} given both in a problem and for all: give each in one place")
    for name in names:
        if any((x.get(name) is None) != (problems[0].get(name) is None) for x in problems):
            raise ValueError(f"{name} is given in some problems of the batch and missing in others: all or none")
    be, device, take, give = _dispatch.resolve([x.get(name) for x in problems for name in arrays], common.get("backend", "auto"))
    sizes = [_problem_size({k: take(v) for k, v in x.items()}) for x in problems]
    n, k = max(s[0] for s in sizes), max(s[1] for s in sizes)
    stacked: dict[str, Any] = {}
    for name, shape in {"M": (n, k), "C1": (n, n), "C2": (k, k), "mask": (n, k)}.items():
        if problems[0].get(name) is not None:
            stacked[name] = _pad([np.asarray(take(x[name])) for x in problems], shape)
    for name, side, width in (("p", 0, n), ("q", 1, k)):
        given = [x.get(name) for x in problems]
        weights = [
            np.full(s[side], 1 / s[side]) if w is None else np.asarray(take(w), float) for w, s in zip(given, sizes, strict=True)
        ]
        stacked[name] = _pad(weights, (width,))
    for name in scalars:
        if problems[0].get(name) is not None:
            stacked[name] = np.array([x[name] for x in problems])
    result = solve(**stacked, **common)
    return [_trim(result[b], *sizes[b], give) for b in range(len(problems))]


def align(
    X: Any,
    Y: Any,
    mass: Any = 0.8,
    *,
    metric: str = "cosine",
    alpha: float = 0.3,
    reg_rel: float = 0.01,
    structure: str | None = "laplace",
    scale: float = 0.05,
    rho: float = 0.0,
    p: Any = None,
    q: Any = None,
    mask: Any = None,
    tol: float | None = None,
    max_iter: int | None = None,
    backend: str = "auto",
    n_init: int = 1,
    random_state: Any = None,
    callback: Callable[[Progress], Any] | None = None,
    on_fail: str = "warn",
) -> Result:
    r"""Align two feature sequences by regularised fused partial Gromov-Wasserstein transport (R-FPGWOT) with sensible defaults.

    .. math:: \min_T\ (1-\alpha) \langle D(X, Y) + \rho |i/n - j/m|, T \rangle + \alpha E(T) + reg\, KL(T \,\|\, p q'),
              \quad T1 \le p,\ T'1 \le q,\ \textstyle\sum T = mass

    where D and the structures have been scaled to mean one, so that the parameters mean the same on every data set.

    Parameters
    ----------
    X, Y : arrays (n, d) and (m, d)
        One row of features per frame.
    mass : float in (0, 1]
        Share of the frames to match; 1 matches all.
    metric : "cosine" (1 - cos), "sqeuclidean", "euclidean"
    alpha : float in [0, 1]
        Weight of the temporal structure; 0 (or structure=None) is partial Kantorovich transport.
    reg_rel : float
        Entropy weight as a share of the cost range; 0 solves exactly.
    structure : "laplace", 1 - exp(-|i-k|/(scale n)): neighbours go to neighbours, whatever the order of the steps;
        "linear", |i-k|/n: the order at large counts too; None
    scale : float
        Width of "laplace" as a share of the sequence.
    rho : float
        Price of being off the diagonal, relative to the mean feature cost; 0 where the order of steps is not known.
    p, q, mask, tol, max_iter, backend, n_init, random_state, callback, on_fail
        As in `solve`.

    Returns
    -------
    Result
        `matches()`, `unmatched()`, `path()` and `plot()` read it.

    Raises
    ------
    ValueError
        X and Y that are not matrices with the same number of columns; and as `solve`.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot import align
    >>> X = np.random.default_rng(0).standard_normal((30, 8))
    >>> res = align(X, X[5:], mass=0.8)
    >>> bool(np.mean(res.matches()["i"] == res.matches()["j"] + 5) > 0.9)
    True
    """
    from scipy.spatial.distance import cdist

    _, _, take, _ = _dispatch.resolve([X, Y], backend)
    A, B = (np.asarray(take(x), dtype=float) for x in (X, Y))
    for name, Z in (("X", A), ("Y", B)):
        if Z.ndim != 2:
            raise ValueError(f"{name} must be a matrix (frames, features), got shape {Z.shape}; for many pairs use solve_batch")
        if not np.isfinite(Z).all():
            raise ValueError(f"{name} has NaN or infinite features; drop or fill those frames first")
    if A.shape[1] != B.shape[1]:
        raise ValueError(f"X and Y need the same features, got {A.shape[1]} and {B.shape[1]} columns")
    if metric not in ("cosine", "sqeuclidean", "euclidean"):
        raise ValueError(f"unknown metric {metric!r}; choose 'cosine', 'sqeuclidean' or 'euclidean'")
    if structure not in ("laplace", "linear", None):
        raise ValueError(f"unknown structure {structure!r}; choose 'laplace', 'linear' or None")
    if rho < 0:
        raise ValueError(f"rho must be 0 or more, got {rho}")
    if metric == "cosine":
        A, B = (Z / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-12) for Z in (A, B))
        M = 1 - A @ B.T
    else:
        M = cdist(A, B, metric)
    n, k = M.shape
    mean = M.mean()
    M = M / mean if mean > 0 else M
    if rho > 0:
        M = M + rho * np.abs(np.arange(n)[:, None] / n - np.arange(k)[None, :] / k)
    C1, C2 = (_temporal(structure, size, scale) for size in (n, k))
    kind = next((np.float32 for x in (X, Y) if str(getattr(x, "dtype", "")).endswith("float32")), float)
    return solve(
        M.astype(kind), C1 if C1 is None else C1.astype(kind), C2 if C2 is None else C2.astype(kind), p, q,
        alpha=None if structure is None else alpha, m=mass, reg_rel=reg_rel if reg_rel else None, normalize="mean", mask=mask,
        tol=tol, max_iter=max_iter, backend=backend, n_init=n_init, random_state=random_state, callback=callback, on_fail=on_fail,
    )  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """What `audit` finds: the objective and the certificate of any plan.

    `stationarity` is ||S(T) - T||_1 / mass, S(T) the solution for the cost linearised at T (reg > 0), or the Frank-Wolfe gap
    over |value| (reg = 0).
    """

    value: float
    value_linear: float
    value_quad: float
    value_reg: float
    value_marginal: float
    mass: float
    marginal_violation: float
    mass_error: float
    stationarity: float


def audit(
    T: Any,
    M: Any = None,
    C1: Any = None,
    C2: Any = None,
    p: Any = None,
    q: Any = None,
    *,
    alpha: float | None = None,
    m: float | None = None,
    tau: Any = None,
    reg: float = 0.0,
    reference: Any = None,
) -> Audit:
    """Objective, feasibility, mass and stationarity of a plan from any package, in the units of `solve`.

    Computed in plain NumPy from the definition, apart from every solver; only `stationarity` solves one linear problem.

    Parameters
    ----------
    T : array (n, m)
        The plan to examine.
    M, C1, C2, p, q, alpha, m, tau, reg, reference
        The problem, as in `solve`.

    Raises
    ------
    ValueError
        A plan of the wrong shape, with negative or non-finite entries; and as `solve`.
    """
    be, _, take, _ = _dispatch.resolve([T, M, C1, C2, p, q], "numpy")
    T, M, C1, C2, p, q, reference = (None if x is None else np.asarray(take(x), float) for x in (T, M, C1, C2, p, q, reference))
    options = {"alpha": alpha, "m": m, "tau": tau, "reg": reg, "reference": reference}
    prep = make_problem(be, M, C1, C2, p, q, loss="square", reg_rel=None, normalize=None, mask=None, **options)
    p_, q_ = prep.p[0], prep.q[0]
    if T.shape != (len(p_), len(q_)) or not np.isfinite(T).all() or (T < 0).any():
        raise ValueError(
            f"the plan must be ({len(p_)}, {len(q_)}), finite and not negative; got shape {T.shape}, smallest entry {T.min():g}"
        )
    mu, nu, mass = T.sum(1), T.sum(0), float(T.sum())
    w_lin, w_quad = float(prep.problem.wl[0]), float(prep.problem.wq[0] / prep.scale[0])
    linear, quad, cost = 0.0, 0.0, np.zeros_like(T)
    if M is not None:
        linear, cost = w_lin * float(np.sum(M * T)), cost + w_lin * M
    if C1 is not None and w_quad > 0:
        C1, C2 = (C.array[0].astype(float) if hasattr(C, "array") else C for C in (C1, C2))
        half = (C1**2 @ mu)[:, None] + (C2**2 @ nu)[None] - 2 * C1 @ T @ C2.T
        other = (C1.T**2 @ mu)[:, None] + (C2.T**2 @ nu)[None] - 2 * C1.T @ T @ C2
        quad, cost = w_quad * float(np.sum(half * T)), cost + w_quad * (half + other)
    Q = np.outer(p_, q_) if reference is None else np.broadcast_to(reference, T.shape)
    entropy = reg * _kl(T, Q) if reg > 0 else 0.0
    tau1, tau2 = prep.problem.marginals.tau
    price = sum(t * _kl(x, w) for t, x, w in ((tau1, mu, p_), (tau2, nu, q_)) if 0 < t < np.inf)
    violation = 0.0
    for t, x, w in ((tau1, mu, p_), (tau2, nu, q_)):
        if np.isinf(t):
            excess = x - w if m is not None else np.abs(x - w)
            violation = max(violation, float(np.max(np.where(w > 0, excess / np.where(w > 0, w, 1), x))))
    linearised = solve(cost, p=p_, q=q_, m=m, tau=tau, reg=reg, reference=reference, tol=1e-10, on_fail="ignore")
    value = linear + quad + entropy + price
    if reg > 0:
        stationarity = float(np.abs(linearised.plan - T).sum()) / max(mass, 1e-300)
    else:
        stationarity = max(float(np.sum(cost * (T - linearised.plan))), 0.0) / max(abs(value), 1e-300)
    mass_error = abs(mass - m) / m if m is not None else 0.0
    return Audit(value, linear, quad, entropy, price, mass, max(violation, 0.0), mass_error, stationarity)


# ------------------------------------------------------------------------------------------------------------- inside a call


def _check_arguments(method: str, on_fail: str, n_init: int, tol: Any, max_iter: Any, reg: Any, reg_rel: Any) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {METHODS}")
    if on_fail not in ("warn", "raise", "ignore"):
        raise ValueError(f"unknown on_fail {on_fail!r}; choose 'warn', 'raise' or 'ignore'")
    if not isinstance(n_init, (int, np.integer)) or n_init < 1:
        raise ValueError(f"n_init must be a number of starts, 1 or more; got {n_init!r}")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol must be positive, got {tol!r}")
    if max_iter is not None and not max_iter >= 1:
        raise ValueError(f"max_iter must be 1 or more, got {max_iter!r}")


def _method(method: str, prep: Prepared) -> str:
    eps, marginals = prep.problem.eps, prep.problem.marginals
    if len(set(eps > 0)) > 1:
        raise ValueError("reg is 0 for some problems of the batch and positive for others: split the batch")
    exact = not eps[0] > 0
    if method == "entropic" and exact:
        raise ValueError("method='entropic' needs reg > 0 (or reg_rel)")
    if method == "conditional_gradient" and not exact:
        raise ValueError("method='conditional_gradient' is the exact solver: it needs reg=0")
    if exact and not marginals.is_hard:
        raise NotImplementedError(f"tau={marginals.tau} with reg=0 is planned, not done: pass reg > 0, or tau of 0 and inf only")
    return "conditional_gradient" if exact else "entropic"


def _run(
    prep: Prepared, name: str, init: Any, n_init: int, rng: np.random.Generator, limits: dict[str, Any], watch: Watch
) -> tuple[Outcome, Any]:
    problem = prep.problem
    plans = starting_plans(prep, init, n_init, rng, exact=name != "entropic")
    B, low = len(problem.size), problem.dtype.itemsize < 8
    if name == "entropic":
        tol = limits["tol"] or (1e-5 if low else 1e-7)
        T = np.concatenate([t for t, _ in plans])
        anneal = np.repeat([a for _, a in plans], B)
        out = entropic.solve(
            _tiled(problem, len(plans)), T, tol=tol, max_iter=limits["max_iter"] or 500, watch=watch, anneal=anneal
        )
    else:
        tol = limits["tol"] or 1e-9
        out = exact.solve(problem, [t for t, _ in plans], tol=tol, max_iter=limits["max_iter"] or 1000, watch=watch)
    if len(plans) == 1:
        return out, None
    values = sum(out.terms.values()).reshape(len(plans), B)  # type: ignore[union-attr]
    best = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=0) * B + np.arange(B)
    return out.take(best), (values * prep.scale).T


def _tiled(problem: Any, starts: int) -> Any:
    """The same problems once more for each start; costs and structures are shared."""
    if starts == 1:
        return problem
    B = len(problem.size)

    def layers(x: Any) -> Any:
        return x if x is None or len(x) in (1, B) else None

    assert problem.C1 is None or (problem.C1.shape[0] in (1, B))
    tile = {k: np.concatenate([getattr(problem, k)] * starts) for k in _PER_PROBLEM}
    C = {}
    for k in ("C1", "C2"):
        D = getattr(problem, k)
        C[k] = D if D is None or D.shape[0] == 1 else type(D)(np.concatenate([D.array] * starts))
    return replace(problem, **tile, **C, M=layers(problem.M), bias=layers(problem.bias))


_PER_PROBLEM = ("size", "wl", "wq", "eps", "p", "q", "r", "c", "cap", "mass", "reference_mass")


def _check_feasible(prep: Prepared) -> None:
    """A mask can leave too few pairs: the least mass on forbidden pairs is a linear program with costs 0 and 1."""
    problem = prep.problem
    if problem.bias is None or not (problem.bias >= FORBIDDEN_FROM).any() or not problem.marginals.is_hard:
        return
    be = _dispatch.load_backend("numba")
    for b in range(len(problem.size)):
        lost = exact.forbidden_mass(be, problem, b, problem.bias[b % len(problem.bias)] >= FORBIDDEN_FROM)
        if lost > 1e-9:
            where = f" of problem {b}" if prep.is_batch else ""
            raise ValueError(
                f"the mask{where} is infeasible: at least {lost * prep.scale[b]:.3g} of the mass would have to go through "
                "forbidden pairs; allow more pairs, or relax the marginals with m= or tau="
            )


def _result(
    prep: Prepared, out: Outcome, name: str, device: str, give: Callable[[Any], Any], starts: Any, seed: Any, tol: Any
) -> Result:
    """From the solver's units, order and padding back to the caller's."""
    problem, s, (B, n, k) = prep.problem, prep.scale, prep.full
    dtype = problem.dtype

    def put(x: Any, shape: tuple[int, ...], fill: float, kind: Any, *orders: Any) -> Any:
        if all(o is None for o in orders) and x.shape[1:] == shape and (problem.size == (n, k)).all():
            return np.asarray(x, kind)
        full = np.full((B, *shape), fill, kind)
        for b, sizes in enumerate(problem.size):
            index = [np.arange(sizes[a]) if o is None else o[b][: sizes[a]] for a, o in _axes(orders, x.ndim)]
            block = x[b][tuple(slice(len(i)) for i in index)]
            full[b][np.ix_(*index)] = block
        return full

    def _axes(orders: tuple[Any, ...], ndim: int) -> list[tuple[int, Any]]:
        return [(0, orders[0]), (1, orders[1])] if ndim == 3 else [(0, orders[0])] if orders[0] is not _COLS else [(1, prep.cols)]

    plan = put(out.plan * s[:, None, None].astype(out.plan.dtype), (n, k), 0.0, dtype, prep.rows, prep.cols)
    gradient = put(out.gradient, (n, k), np.inf, dtype, prep.rows, prep.cols)
    f = put(out.potentials[0], (n,), -np.inf, float, prep.rows)
    g = put(out.potentials[1], (k,), -np.inf, float, _COLS)
    a, c = plan.sum(2, dtype=float), plan.sum(1, dtype=float)
    mass = a.sum(1)
    marginal, mass_error = _violations(prep, a, c, mass)
    terms = {key: value * s for key, value in out.terms.items()}
    status = out.status
    good = np.array([x is Status.CONVERGED for x in status])
    feasible = marginal <= FEASIBLE[dtype.itemsize]
    status = [x if x is not Status.CONVERGED or ok else Status.STALLED for x, ok in zip(status, feasible, strict=True)]
    result = Result(
        plan=plan, value=sum(terms.values()), value_linear=terms["linear"], value_quad=terms["quad"], value_reg=terms["reg"],
        value_marginal=terms["marginal"], mass=mass, marginal_a=a, marginal_b=c, potentials=(f, g, out.potentials[2]),
        gradient=gradient, residuals=Residuals(marginal, mass_error, out.stationarity), status=status, converged=good & feasible,
        n_iter=out.n_iter, n_passes=out.n_passes, n_gradients=out.n_gradients, history=out.history, method=name,
        backend=problem.be.name, device=device, weights=(prep.p, prep.q), starts=starts,
        provenance={"version": __version__, "backend": problem.be.name, "dtype": dtype.name, "seed": seed},
    )  # fmt: skip
    if not prep.is_batch:
        result = result[0]
    return replace(
        result,
        **{name: give(getattr(result, name)) for name in ("plan", "gradient", "marginal_a", "marginal_b")},
        potentials=(give(result.potentials[0]), give(result.potentials[1]), result.potentials[2]),
    )


_COLS = object()  # marks a vector over the columns


def _violations(prep: Prepared, a: np.ndarray, c: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest marginal violation relative to the weight of its point, and the error of a fixed mass."""
    problem, worst = prep.problem, np.zeros(len(mass))
    for side, (x, w) in enumerate(((a, prep.p), (c, prep.q))):
        if np.isinf(problem.marginals.tau[side]):
            ratio = np.where(w > 0, (x - w) / np.where(w > 0, w, 1), 0.0)
            capped = problem.cap[:, side] == 0
            worst = np.maximum(worst, np.where(capped, ratio.max(1), np.abs(ratio).max(1)))
    target = problem.mass * prep.scale
    return np.maximum(worst, 0.0), np.where(np.isnan(target), 0.0, np.abs(mass - target) / np.where(np.isnan(target), 1, target))


def _complain(result: Result, on_fail: str) -> None:
    if on_fail == "ignore" or np.all(result.converged):
        return
    if result.is_batch:
        bad = [b for b, ok in enumerate(result.converged) if not ok]
        text = f"{len(bad)} of {len(result)} problems did not converge, the first is {bad[0]}: {result.status[bad[0]].text}"
    else:
        text = (
            f"{result.status.text} (stationarity {result.residuals.stationarity:.1e}, marginal {result.residuals.marginal:.1e})"
        )
    if on_fail == "raise":
        raise ConvergenceError(text)
    warnings.warn(text, ConvergenceWarning, stacklevel=3)


def _temporal(kind: str | None, n: int, scale: float) -> np.ndarray | None:
    if kind is None:
        return None
    lag = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) / n
    return lag if kind == "linear" else 1 - np.exp(-lag / scale)


def _problem_size(x: dict[str, Any]) -> tuple[int, int]:
    if x.get("M") is not None:
        n, k = np.shape(x["M"])
        return n, k
    if x.get("C1") is None or x.get("C2") is None:
        raise ValueError("each problem needs M, or C1 and C2, or all three")
    return len(x["C1"]), len(x["C2"])


def _pad(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    dtype = np.result_type(*arrays)
    out = np.zeros((len(arrays), *shape), dtype)
    for b, a in enumerate(arrays):
        if a.ndim != len(shape):
            raise ValueError(f"problem {b} of the batch: expected an array with {len(shape)} axes, got shape {a.shape}")
        out[(b, *(slice(k) for k in a.shape))] = a
    return out


def _trim(result: Result, n: int, k: int, give: Callable[[Any], Any]) -> Result:
    f, g, h = result.potentials
    p, q = result.weights
    return replace(
        result,
        plan=give(np.ascontiguousarray(result.plan[:n, :k])),
        gradient=give(np.ascontiguousarray(result.gradient[:n, :k])),
        marginal_a=give(result.marginal_a[:n]),
        marginal_b=give(result.marginal_b[:k]),
        potentials=(give(f[:n]), give(g[:k]), h),
        weights=(p[:n], q[:k]),
    )


def _kl(x: np.ndarray, y: np.ndarray) -> float:
    ratio = np.log(np.where(x > 0, x, 1)) - np.log(np.where(x > 0, np.maximum(y, 1e-300), 1))
    return float(np.sum(x * ratio - x + y))
