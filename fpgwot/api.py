"""The public functions. One call takes six stops: api -> _dispatch -> _validate -> _solvers -> _backends -> Result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from . import _dispatch
from ._backends._protocol import FORBIDDEN_FROM
from ._finish import complain, doubt, result_of, trimmed
from ._solvers import entropic, exact, exact_kl, mass_path
from ._solvers._loop import Progress, Watch
from ._solvers._outcome import Outcome
from ._solvers.starts import starting_plans
from ._validate import Prepared, make_problem
from .result import MassPath, Result
from .structure import LaplaceKernel, PowerDistance, Structure

METHODS = ("auto", "entropic", "conditional_gradient")


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
        Price of marginal error, one for both sides or (rows, columns); inf is a hard marginal, 0 a free one. A finite positive
        price needs reg > 0.
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
    method : "auto", "entropic" (reg > 0), "conditional_gradient" (reg = 0)
    init : None, "product", "annealed", "features", "monotone", "reversed", "random", or an array (n, m)
        Starting plan. A plan that is given is kept to: no annealing. "annealed": with reg = 0 the plan of eight outer steps of
        the entropic solver on the way down from a flat kernel; with reg > 0 the same as "product", which is annealed anyway.
    n_init : int
        Number of starts, in this order: product, features (solution for M alone), monotone and reversed coupling, random; with
        init="annealed" and reg = 0 all are annealed, from the second on with noise on the costs. The lowest value wins; all
        values are in `result.starts`.
    random_state : int or numpy Generator
    tol : float
        Bound of `residuals.stationarity`. Default 1e-7 (float32: 1e-5); for the exact method 1e-9.
    max_iter : int
        Outer iterations; default 500, exact 1000. A plan that is cut short meets hard marginals and mass all the same.
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
    NotImplementedError
        With reg = 0: a positive finite tau.
    ConvergenceError
        With on_fail="raise".

    Notes
    -----
    Each outer iteration costs one gradient, O(n^2 m + n m^2) for dense structures and O(n m) for temporal ones, and a few dozen
    reads of an n x m array (exact: one linear program, a few reads). Sources: Peyre, Cuturi, Solomon
    (2016), Vayer et al. (2019), Chapel, Alaya, Gasso (2020), Chizat et al. (2018).

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
        _check_feasible(prep)
    name = _method(method, prep)
    watch = Watch(callback, verbose, prep.is_batch)
    limits = {"tol": tol, "max_iter": max_iter}
    path = None
    if isinstance(m, str):
        prep, path = _choose_mass(prep, name)
    out, starts = _run(prep, name, init, n_init, random_state, limits, watch)
    result = result_of(prep, out, name, device, give, starts, random_state)
    if path is not None:
        result = replace(result, mass_path=path if prep.is_batch else path[0])
        doubt(path, on_fail)
    complain(result, on_fail)
    return result


@_dispatch.on_callers_stream
def solve_batch(
    problems: Sequence[dict[str, Any]],
    *,
    alpha: Any = None,
    loss: str = "square",
    m: Any = None,
    tau: Any = None,
    tv: Any = None,
    sink: Any = None,
    reg: Any = 0.0,
    reg_rel: Any = None,
    smoothness: Any = 0.0,
    normalize: str | None = None,
    method: str = "auto",
    init: str | None = None,
    n_init: int = 1,
    random_state: Any = None,
    tol: float | None = None,
    max_iter: int | None = None,
    backend: str = "auto",
    callback: Callable[[Progress], Any] | None = None,
    verbose: bool = False,
    on_fail: str = "warn",
) -> list[Result]:
    """Solve problems of unequal sizes together; one `Result` for each.

    Parameters
    ----------
    problems : sequence of dicts
        The arguments M, C1, C2, p, q, mask of `solve` for each problem, and m, alpha, reg, reg_rel where they differ.
    alpha, loss, m, ..., on_fail
        As in `solve`, the same for all problems.

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
    common = {"m": m, "alpha": alpha, "reg": reg or None, "reg_rel": reg_rel}
    twice = sorted(name for name in names if common.get(name) is not None)
    if twice:
        raise TypeError(f"{twice} given both in a problem and for all: give each in one place")
    for name in names:
        if any((x.get(name) is None) != (problems[0].get(name) is None) for x in problems):
            raise ValueError(f"{name} is given in some problems of the batch and missing in others: all or none")
    if any(isinstance(x.get(name), Structure) for x in problems for name in ("C1", "C2")):
        raise TypeError("solve_batch pads its structures and takes arrays only: pass C.to_dense()[0] for an operator C")
    be, device, take, give = _dispatch.resolve([x.get(name) for x in problems for name in arrays], backend)
    sizes = [_problem_size({k: take(v) for k, v in x.items()}) for x in problems]
    n, k = max(s[0] for s in sizes), max(s[1] for s in sizes)
    stacked: dict[str, Any] = {}
    for name, shape in {"M": (n, k), "C1": (n, n), "C2": (k, k), "mask": (n, k)}.items():
        if problems[0].get(name) is not None:
            stacked[name] = _pad(
                [y if hasattr(y, "dtype") else np.asarray(y) for y in (take(x[name]) for x in problems)], shape, be
            )
    for name, side, width in (("p", 0, n), ("q", 1, k)):
        given = [x.get(name) for x in problems]
        weights = [
            np.full(s[side], 1 / s[side]) if w is None else np.asarray(be.host(take(w)), float)
            for w, s in zip(given, sizes, strict=True)
        ]
        padded = _pad(weights, (width,), be)
        stacked[name] = padded if all(isinstance(x, np.ndarray) for x in stacked.values()) else be.xp.asarray(padded)
    for name in scalars:
        if problems[0].get(name) is not None:
            stacked[name] = np.array([x[name] for x in problems])
    result = solve(
        **{**common, "reg": reg, **stacked},
        loss=loss, tau=tau, tv=tv, sink=sink, smoothness=smoothness, normalize=normalize, method=method, init=init,
        n_init=n_init, random_state=random_state, tol=tol, max_iter=max_iter, backend=backend, callback=callback,
        verbose=verbose, on_fail=on_fail,
    )  # fmt: skip
    return [trimmed(result[b], *sizes[b], give) for b in range(len(problems))]


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


def _choose_mass(prep: Prepared, name: str) -> tuple[Prepared, list[MassPath]]:
    """The problem at the mass where its price jumps, and the paths of price and objective that say why."""
    host = prep.problem.be.host
    whole = np.minimum(host(prep.problem.p.sum(1)), host(prep.problem.q.sum(1)))
    _check_feasible(replace(prep, problem=mass_path.with_mass(prep.problem, whole)))  # the path ends there
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


def _run(
    prep: Prepared, name: str, init: Any, n_init: int, seed: Any, limits: dict[str, Any], watch: Watch
) -> tuple[Outcome, Any]:
    problem = prep.problem
    plans = starting_plans(prep, init, n_init, seed, exact=name != "entropic")
    B, low = len(problem.size), problem.dtype.itemsize < 8
    if name == "entropic":
        tol = limits["tol"] or (1e-5 if low else 1e-7)
        T = plans[0][0]
        if len(plans) > 1:
            T = problem.be.xp.concatenate([problem.product_plan() if t is None else t for t, _ in plans])
        anneal = np.repeat([a for _, a in plans], B)
        out = entropic.solve(
            _tiled(problem, len(plans)), T, tol=tol, max_iter=limits["max_iter"] or 500, watch=watch, anneal=anneal, is_final=True
        )
    else:
        tol = limits["tol"] or 1e-9
        is_shifted = problem.loss == "kl" and problem.C1 is not None and problem.marginals.kind == "balanced"
        solver = exact_kl if is_shifted else exact
        out = solver.solve(problem, [t for t, _ in plans], tol=tol, max_iter=limits["max_iter"] or 1000, watch=watch)
    if len(plans) == 1:
        return out, None
    values = sum(out.terms.values()).reshape(len(plans), B)  # type: ignore[union-attr]
    best = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=0) * B + np.arange(B)
    return out.take(best, problem.be.xp), (values * prep.scale).T


def _tiled(problem: Any, starts: int) -> Any:
    """The same problems once more for each start; costs and structures are shared."""
    if starts == 1:
        return problem
    xp = problem.be.xp
    given = {k: getattr(problem, k) for k in _PER_PROBLEM if getattr(problem, k) is not None}
    tile = {k: (np if isinstance(x, np.ndarray) else xp).concatenate([x] * starts) for k, x in given.items()}
    C = {}
    for k in ("C1", "C2"):
        D = getattr(problem, k)
        C[k] = D if D is None else D.take(xp.asarray(np.tile(np.arange(D.shape[0]), starts)))
    return replace(problem, **tile, **C)


_PER_PROBLEM = ("size", "wl", "wq", "eps", "p", "q", "r", "c", "cap", "mass", "reference_mass", "price", "smoothness")


def _check_feasible(prep: Prepared) -> None:
    """A mask can leave too few pairs: the least mass on forbidden pairs is a linear program with costs 0 and 1."""
    problem = prep.problem
    if problem.bias is None or not (problem.bias >= FORBIDDEN_FROM).any():
        return
    host = problem.be.host  # a linear program: the one thing that takes a matrix from a GPU to the host
    problem = replace(problem, bias=host(problem.bias), p=host(problem.p), q=host(problem.q))
    if problem.marginals.kind == "kl":  # a hard side against a soft one: every point needs a partner, and may have any
        for b, size in enumerate(problem.size):
            allowed = problem.bias[b % len(problem.bias), : size[0], : size[1]] < FORBIDDEN_FROM
            for side, tau in enumerate(problem.marginals.tau):
                alone = np.flatnonzero(~allowed.any(1 - side))
                if np.isinf(tau) and len(alone):
                    name = ("row", "column")[side]
                    raise ValueError(
                        f"the mask is infeasible: {name} {alone[0]} has a hard marginal and no allowed partner; "
                        "allow a pair, give the point weight 0, or a finite tau"
                    )
        return
    if problem.marginals.kind == "priced":
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


def _temporal(kind: str | None, n: int, scale: float) -> Structure | None:
    if kind is None:
        return None
    return PowerDistance(n, scale=1 / n) if kind == "linear" else LaplaceKernel(n, scale * n, weight=-1.0, offset=1.0)


def _problem_size(x: dict[str, Any]) -> tuple[int, int]:
    if x.get("M") is not None:
        n, k = x["M"].shape if hasattr(x["M"], "shape") else np.shape(x["M"])
        return n, k
    if x.get("C1") is None or x.get("C2") is None:
        raise ValueError("each problem needs M, or C1 and C2, or all three")
    return len(x["C1"]), len(x["C2"])


def _pad(arrays: list[Any], shape: tuple[int, ...], be: Any) -> Any:
    xp = np if all(isinstance(a, np.ndarray) for a in arrays) else be.xp
    out = xp.zeros((len(arrays), *shape), np.result_type(*(a.dtype for a in arrays)))
    for b, a in enumerate(arrays):
        if a.ndim != len(shape):
            raise ValueError(f"problem {b} of the batch: expected an array with {len(shape)} axes, got shape {a.shape}")
        index: Any = (b, *(slice(k) for k in a.shape))
        out[index] = a
    return out
