"""The public functions. One call takes six stops: api -> _dispatch -> _validate -> _solvers -> _backends -> Result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from . import _direct, _dispatch
from ._feasible import check_feasible
from ._finish import complain, doubt, result_of
from ._solvers import mass_path
from ._solvers._loop import Below as Below
from ._solvers._loop import Progress, Watch
from ._solvers.run import run
from ._validate import Prepared, make_problem
from .result import MassPath, Result
from .structure import LaplaceKernel, PowerDistance, Structure

METHODS = ("auto", "entropic", "conditional_gradient", "proximal")


@_dispatch.on_callers_stream
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
    tv: Any = None,
    sink: Any = None,
    reg: Any = 0.0,
    reg_rel: Any = None,
    reference: Any = None,
    smoothness: Any = 0.0,
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
              + \alpha \sum_{ijkl} L(C1_{ik}, C2_{jl})\, T_{ij} T_{kl} + reg\, KL(T \,\|\, Q)
              + \tau_1 KL(T 1 \,\|\, p) + \tau_2 KL(T' 1 \,\|\, q) + tv\, (|p| + |q| - 2 |T|) + smoothness\, \Omega(T)

    with KL(x||y) = sum x log(x/y) - x + y and Omega(T) = 1/2 [tr(T' L_n T) + tr(T L_m T')], L_n the Laplacian of the path through
    n points. The marginals are balanced (T1 = p, T'1 = q) unless `m`, `tau`, `tv` or `sink` is given.

    Parameters
    ----------
    M : array (n, m), optional
        Feature cost, any sign. None: pure Gromov-Wasserstein.
    C1, C2 : arrays (n, n) and (m, m), or operators, optional
        Structures, symmetric or not. Both None: linear OT. All arrays may have a leading batch axis of B problems. Operators
        (`PowerDistance`, `LaplaceKernel`, `Toeplitz`, `LowRank`, `PointCloud`) never build the matrix; long arrays of the
        temporal kinds are recognised and treated as such.
    p, q : arrays (n,) and (m,), optional
        Weights, uniform with sum 1 by default. Any totals where the marginals are relaxed. Points of weight 0 cost no time.
    alpha : float in [0, 1]
        Weight of the structure term; by default 0.5 where M and structures are given, else what makes sense.
    loss : "square", (a - b)^2; "product", a b; "kl", a log(a/b) - a + b, of entries of 0 or more
    m : float or "auto", optional
        Transported mass, 0 < m <= min(sum p, sum q): T1 <= p, T'1 <= q, sum T = m. "auto": the mass at which
        its price jumps, from solves at 20 masses; where it does not jump, the knee of F(m) and a warning. See `result.mass_path`,
        and `fpgwot.nulls.null_price` for such problems.
    tau : float or pair, optional
        Price of marginal error, one for both sides or (rows, columns); inf is a hard marginal, 0 a free one.
    tv : float, optional
        Price of unmatched mass: T1 <= p, T'1 <= q, any mass, plus tv (sum p + sum q - 2 sum T). Without entropy a pair is matched
        only where its marginal cost is below 2 tv.
    sink : float, optional
        The same as a threshold: sink = 2 tv, what a sink frame of unlimited capacity with that cost does.
    reg : float
        Weight of the entropy, in units of the cost. 0: exact conditional gradient on linear programs.
    reg_rel : float, optional
        The same as a share of the cost range (1-alpha)(max M - min M) + alpha max (C1-C2)^2. Pass one of the two.
    reference : array (n, m) or positive number, optional
        Q, the reference plan of the entropy; p q' by default. Zeros forbid pairs. A number c: Q_ij = c, and reg KL(T || 1) is
        reg sum T (log T - 1) up to a constant.
    smoothness : float
        Weight of the path-Laplacian term: neighbouring entries of the plan are drawn together. Points of weight 0
        are taken out of the path.
    normalize : None, "mean", "max"
        Scales M and the structures first, so that alpha and reg mean the same on every data set. "mean": <|M|, T> = 1 and
        E(T) = 1 at the product plan of mass one; "max": largest entry 1. The value is that of the scaled problem.
    mask : boolean array (n, m), optional
        True where a pair is allowed.
    method : "auto", "entropic" (reg > 0), "conditional_gradient" (reg = 0), "proximal" (reg = 0, a finite positive tau)
    init : None, "product", "unannealed", "annealed", "features", "monotone", "reversed", "random", or an array (n, m)
        Starting plan. A plan that is given is kept to: no annealing. "unannealed": the product plan is kept to as well.
        "annealed": with reg = 0 the plan of eight outer steps of the entropic solver on the way down from a flat kernel; with
        reg > 0 the same as "product", which is annealed anyway.
    n_init : int
        Number of starts, in this order: product, features (solution for M alone), monotone and reversed coupling, random; with
        init="annealed" and reg = 0 all are annealed, from the second on with noise on the costs. The lowest value wins; all
        values are in `result.starts`.
    random_state : int or numpy Generator
    tol : float
        Bound of `residuals.stationarity`. Default 1e-7 (float32: 1e-5); for conditional gradients 1e-9.
    max_iter : int
        Outer iterations; default 500, conditional gradients 1000, proximal points 100. A plan that is cut short meets hard
        marginals and mass all the same.
    backend : "auto", "numba", "numpy", "cupy"
        "auto": what the arrays are: NumPy and torch CPU on the CPU, CuPy and torch CUDA on their GPU; they come back as what they
        were. "cupy" sends NumPy arrays to the GPU and back. With reg = 0 arrays on a GPU are copied to the host and back.
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
    ConvergenceError
        With on_fail="raise".

    Notes
    -----
    Each outer iteration costs one gradient, O(n^2 m + n m^2) for dense structures and O(n m) for temporal ones, and a few dozen
    reads of an n x m array (exact: one linear program, a few reads; with a finite tau: an entropic solve). From n m = 65,536 on
    most products with dense float64 structures are made in float32, of what has changed in the plan, where neither certificate
    nor value notice; that takes two more n x m arrays and copies of the structures in float32. On the CPU work arrays (128 MB at
    most, in all) are kept for the next call. Sources: Peyre, Cuturi, Solomon (2016), Vayer et al. (2019), Chapel, Alaya, Gasso
    (2020), Chizat et al. (2018), Xie et al. (2020).

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
    if C1 is None and C2 is None and isinstance(reg, (float, int)) and reg == 0 and method in ("auto", "conditional_gradient"):
        others = (alpha, tau, tv, sink, reg_rel, reference, normalize, mask, init, callback)
        if all(x is None for x in others) and loss == "square" and n_init == 1 and not verbose and not np.any(smoothness):
            result = _direct.linear(M, p, q, m, tol, backend, random_state)
            if result is not None:
                complain(result, on_fail)
                return result
    route = _dispatch.resolve([M, C1, C2, p, q, mask, reference, init], backend)
    if route[0].name == "cupy" and reg_rel is None and not np.any(np.asarray(reg) > 0):
        route = _dispatch.on_host(route)
    be, device, take, give = route
    M, C1, C2, p, q, mask, reference = (take(x) for x in (M, C1, C2, p, q, mask, reference))
    init = take(init)
    prep = make_problem(
        be, M, C1, C2, p, q,
        alpha=alpha, loss=loss, m=m, tau=tau, reg=reg, reg_rel=reg_rel, reference=reference, normalize=normalize, mask=mask,
        tv=tv, sink=sink, smoothness=smoothness,
    )  # fmt: skip
    if mask is not None or prep.problem.bias is not None:
        check_feasible(prep)
    name = _method(method, prep)
    watch = Watch(callback, verbose, prep.is_batch)
    limits = {"tol": tol, "max_iter": max_iter}
    path = None
    if isinstance(m, str):
        prep, path = _choose_mass(prep, name)
    out, starts = run(prep, name, init, n_init, random_state, limits, watch)
    result = result_of(prep, out, name, device, give, starts, random_state)
    if path is not None:
        result = replace(result, mass_path=path if prep.is_batch else path[0])
        doubt(path, on_fail)
    complain(result, on_fail)
    return result


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
    mass : float in (0, 1], or "auto"
        Share of the frames to match; 1 matches all. "auto" takes the mass at which its price jumps; see `result.mass_path`.
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
    NotImplementedError
        Features on a GPU.

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

    be, _, take, _ = _dispatch.resolve([X, Y], backend)
    if be.xp is not np and any(isinstance(take(x), be.xp.ndarray) for x in (X, Y)):
        raise NotImplementedError(
            "align makes its costs on the host: pass features as NumPy arrays (backend='cupy' then solves on the GPU), "
            "or make M on the GPU and call solve"
        )
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
        M.astype(kind), C1, C2, p, q,
        alpha=None if structure is None else alpha, m=mass, reg_rel=reg_rel if reg_rel else None, normalize="mean", mask=mask,
        tol=tol, max_iter=max_iter, backend=backend, n_init=n_init, random_state=random_state, callback=callback, on_fail=on_fail,
    )  # fmt: skip


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
    exact = not max(eps.tolist()) > 0
    if not exact and not min(eps.tolist()) > 0:
        raise ValueError("reg is 0 for some problems of the batch and positive for others: split the batch")
    if method == "entropic" and exact:
        raise ValueError("method='entropic' needs reg > 0 (or reg_rel)")
    if method in ("conditional_gradient", "proximal") and not exact:
        raise ValueError(f"method={method!r} solves without entropy: it needs reg=0")
    found = "entropic" if not exact else "conditional_gradient" if marginals.is_hard else "proximal"
    if method not in ("auto", found):
        rules = "hard or free marginals" if found == "proximal" else "a finite positive tau"
        raise ValueError(f"method={method!r} needs {rules}, and tau={marginals.tau}: leave the method to 'auto'")
    return found


def _choose_mass(prep: Prepared, name: str) -> tuple[Prepared, list[MassPath]]:
    """The problem at the mass where its price jumps, and the paths of price and objective that say why."""
    host = prep.problem.be.host
    whole = np.minimum(host(prep.problem.p.sum(1)), host(prep.problem.q.sum(1)))
    check_feasible(replace(prep, problem=mass_path.with_mass(prep.problem, whole)))  # the path ends there
    grid, values, prices, work = mass_path.trace(prep.problem, name)
    paths = []
    for b, s in enumerate(prep.scale):
        split, knee = mass_path.choose(grid[:, b], values[:, b], prices[:, b])
        passes, gradients = (int(x) for x in work[:, b])
        paths.append(
            MassPath(grid[:, b] * s, values[:, b] * s, prices[:, b], float(split * s), float(knee * s), passes, gradients)
        )
    chosen = np.array([x.mass for x in paths]) / prep.scale
    return replace(prep, problem=mass_path.with_mass(prep.problem, chosen)), paths


def _temporal(kind: str | None, n: int, scale: float) -> Structure | None:
    if kind is None:
        return None
    return PowerDistance(n, scale=1 / n) if kind == "linear" else LaplaceKernel(n, scale * n, weight=-1.0, offset=1.0)
