"""From what the caller passed to a `Problem`: every check, and every error that says what came in and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._backends._protocol import FORBIDDEN
from ._problem import Problem
from .marginals import Marginals, balanced, fixed_mass, kl_penalty, mass_price
from .structure import KL_OFFSET, SCAN_FROM, Dense, Structure, kl_structures
from .structure.recognition import recognised

LOSSES = ("square", "product", "kl")
MASS_SLACK = 1e-9  # a mass or a pair of totals off by this share is taken for rounding


@dataclass
class Prepared:
    """A problem, and what is needed to hand its solution back in the caller's shapes and units."""

    problem: Problem
    scale: np.ndarray  # (B,) T = scale T'
    rows: np.ndarray | None  # (B, n') caller's index of each row in use, None where nothing moved
    cols: np.ndarray | None
    p: np.ndarray  # (B, n) the caller's weights
    q: np.ndarray
    full: tuple[int, int, int]  # caller's (B, n, m)
    is_batch: bool
    is_full: bool  # every point has weight


def make_problem(
    be: Any,
    M: Any,
    C1: Any,
    C2: Any,
    p: Any,
    q: Any,
    *,
    alpha: Any,
    loss: str,
    m: Any,
    tau: Any,
    reg: Any,
    reg_rel: Any,
    reference: Any,
    normalize: str | None,
    mask: Any,
    tv: Any = None,
    sink: Any = None,
    smoothness: Any = 0.0,
) -> Prepared:
    """Check, promote, scale by the total weight, take out points without weight; see `Problem` for the result."""
    _check_choices(loss, normalize)
    if (C1 is None) != (C2 is None):
        raise ValueError("C1 and C2 go together: pass both structures (Gromov-Wasserstein), or none (linear OT)")
    if M is None and C1 is None:
        raise ValueError("nothing to solve: pass a cost M (n, m), or two structures C1 (n, n) and C2 (m, m), or both")
    dtype = _common_dtype(M, C1, C2)
    is_batch = any(len(_shape(x)) == 3 for x in (M, mask, reference) if x is not None)
    is_batch |= any(len(_shape(x)) == 2 for x in (p, q) if x is not None)
    is_batch |= any(len(_shape(C)) == 3 for C in (C1, C2) if _is_array(C))
    M = None if M is None else _layers(be, "M", M, dtype)
    D1, D2 = _structure(be, "C1", C1, dtype), _structure(be, "C2", C2, dtype)
    n, k = (M.shape[1], M.shape[2]) if M is not None else (D1.shape[1], D2.shape[1])  # type: ignore[union-attr]
    if n == 0 or k == 0:
        raise ValueError(f"empty problem: {n} x {k} points; both sides need at least one")
    if D1 is not None and D2 is not None and (D1.shape[1], D2.shape[1]) != (n, k):
        raise ValueError(
            f"shapes do not fit: M is {n} x {k}, so C1 must be {n} x {n} and C2 {k} x {k}; got {D1.shape[1:]}, {D2.shape[1:]}"
        )
    layers = [len(x) for x in (M,) if x is not None] + [D.shape[0] for D in (D1, D2) if D is not None]
    layers += [_shape(x)[0] for x in (reference, mask) if x is not None and len(_shape(x)) == 3]
    layers += [_shape(x)[0] for x in (p, q) if x is not None and len(_shape(x)) == 2]
    B = max(layers)
    if not {1, B}.issuperset(layers):
        raise ValueError(f"batch axes differ: {sorted(set(layers))}; every array needs the same number of problems, or none")
    p_, P, rows, order_r = _weights(be, "p", p, B, n)
    q_, Q, cols, order_c = _weights(be, "q", q, B, k)
    weak = 1e-5 if any(getattr(x, "dtype", None) == np.float32 for x in (p, q)) else MASS_SLACK
    price = _price(tv, sink, B)
    marginals, mass, cap, by = _marginals(m, tau, price, P, Q, weak)
    if by is not None:  # one total to the last digit
        q_ = q_ * by[:, None]
        Q = np.add.reduce(q_, axis=1)
    gamma = _smoothness(smoothness, B)

    w_lin, w_quad = _weights_of_terms(alpha, M, D1, B)
    if D1 is not None and not any(w_quad.tolist()):
        D1 = D2 = None
    if D1 is not None and gamma is not None and not np.all(w_quad > 0):
        raise ValueError("smoothness in a batch needs alpha > 0 in every problem, or in none: split the batch")
    # a total of one up to rounding is one
    scale = np.array([1.0 if abs(x - 1.0) < 1e-13 else x for x in np.minimum(P, Q).tolist()])
    is_scaled = any(x != 1.0 for x in scale.tolist())
    w_quad = w_quad * scale

    size, is_full = np.empty((B, 2), np.int64), isinstance(rows, int) and isinstance(cols, int)
    size[:, 0], size[:, 1] = rows, cols
    p_use, q_use = p_, q_
    if order_r is not None or order_c is not None:
        r = order_r if order_r is not None else np.tile(np.arange(n), (B, 1))
        c = order_c if order_c is not None else np.tile(np.arange(k), (B, 1))
        r, c = r[:, : size[:, 0].max()], c[:, : size[:, 1].max()]
        order_r, order_c = r, c
        M, D1, D2 = _gather(be, M, r, c), _subset(be, D1, r), _subset(be, D2, c)
        p_use, q_use = np.take_along_axis(p_, r, 1), np.take_along_axis(q_, c, 1)
    if normalize is not None:  # only points with weight count, so padding changes nothing
        w_lin, w_quad = _normalized(be, normalize, loss, M, D1, D2, p_use, q_use, size, w_lin, w_quad)
    eps = _entropy_weight(reg, reg_rel, loss, M, D1, D2, w_lin, w_quad, size)
    bias, rank_one, total = _reference(be, reference, mask, eps, P * Q, (B, n, k), dtype)
    if order_r is not None and order_c is not None:
        bias = _gather(be, bias, order_r, order_c)
    pn, qn = (p_use / scale[:, None], q_use / scale[:, None]) if is_scaled else (p_use, q_use)
    if not any(eps.tolist()):
        row, col = np.zeros(pn.shape), np.zeros(qn.shape)
    elif rank_one is None:  # reference p q': its logarithm is a sum of a row and a column vector
        row = -eps[:, None] * (np.log(np.where(pn > 0, pn, 1)) + np.log(scale)[:, None])
        col = -eps[:, None] * np.log(np.where(qn > 0, qn, 1))
    else:
        row, col = np.broadcast_to((-eps * np.log(rank_one / scale))[:, None], pn.shape).copy(), np.zeros_like(qn)
    if loss == "kl" and D1 is not None and D2 is not None:
        D1, D2 = kl_structures(be, D1, D2, dtype)
    pn, qn, row, col = (be.xp.asarray(x) for x in (pn, qn, row, col))
    problem = Problem(
        be, np.dtype(dtype), size, M, bias, D1, D2, w_lin, w_quad, eps, pn, qn, row, col,
        marginals, cap, mass / scale if is_scaled else mass, total / scale if is_scaled else total, loss,
        price=price, smoothness=None if gamma is None else gamma * scale,
    )  # fmt: skip
    return Prepared(problem, scale, order_r, order_c, p_, q_, (B, n, k), is_batch, is_full)


# ------------------------------------------------------------------------------------------------------------------ arrays


def _is_array(C: Any) -> bool:
    return C is not None and not isinstance(C, Structure)


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if hasattr(x, "shape") else np.shape(x)


def _common_dtype(*arrays: Any) -> type:
    kinds = []
    for a in arrays:
        a = a.array if isinstance(a, Dense) else a
        if a is not None and not isinstance(a, Structure):  # operators follow the arrays
            dtype = a.dtype if hasattr(a, "dtype") else np.asarray(a).dtype
            if dtype.kind not in "fiub":
                raise TypeError(f"costs and structures must be real numbers, got an array of dtype {dtype}")
            kinds.append(dtype)
    return np.float32 if kinds and all(d.kind == "f" and d.itemsize < 8 for d in kinds) else np.float64


def real(name: str, a: Any) -> np.ndarray:
    """The argument as an array of float64; an error that names it where that would lose something."""
    a = np.asarray(a)
    if a.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got an array of dtype {a.dtype}")
    return a.astype(float)


def _finite(be: Any, name: str, a: Any) -> Any:
    if not be.is_finite(a):
        bad = np.argwhere(~np.isfinite(be.host(a)))[0]
        where = tuple(int(x) for x in bad)
        raise ValueError(
            f"{name} has NaN or infinite entries (first at {where}); forbid pairs with mask= instead of infinite costs"
        )
    return a


def _contiguous(be: Any, a: Any, dtype: type) -> Any:
    """The array as the kernels take it. One that is read-only is copied: Numba would compile every kernel once more for it."""
    a = be.xp.ascontiguousarray(a, dtype=dtype)
    return a if be.xp is not np or a.flags.writeable else a.copy()


def _layers(be: Any, name: str, a: Any, dtype: type) -> Any:
    a = _contiguous(be, a, dtype)
    if a.ndim not in (2, 3):
        raise ValueError(f"{name} must be (n, m), or (B, n, m) for a batch; got shape {a.shape}")
    return _finite(be, name, a if a.ndim == 3 else a[None])


def _structure(be: Any, name: str, C: Any, dtype: type) -> Structure | None:
    if C is None:
        return None
    if isinstance(C, Structure):
        if C.shape[1] < SCAN_FROM and not isinstance(C, Dense):
            C = Dense(C.to_dense())
        if isinstance(C, Dense):
            _finite(be, name, C.array)
            array = _contiguous(be, C.array, dtype)
            return C if array is C.array else Dense(array)
    else:
        C = _contiguous(be, C, dtype)
        if C.ndim not in (2, 3) or C.shape[-1] != C.shape[-2]:
            raise ValueError(f"{name} must be square, (n, n) or (B, n, n); got shape {C.shape}")
        found = recognised(C, be)  # its entries are those of an operator, so they are finite
        return Dense(_finite(be, name, C)) if found is None else found
    return C


def _weights(be: Any, name: str, w: Any, B: int, n: int) -> tuple[np.ndarray, np.ndarray, Any, np.ndarray | None]:
    """Weights, their totals, the number of points with weight (n: all) and the order that puts these first (None: it is so).

    They are checked and ordered on the host, wherever the matrices are.
    """
    if w is None:
        w = np.full((B, n), 1.0 / n)
        return w, np.add.reduce(w, axis=1), n, None
    w = real(name, be.host(w))
    if w.ndim not in (1, 2) or w.shape[-1] != n:
        raise ValueError(f"{name} must have {n} entries, one for each point; got shape {w.shape}")
    given = w
    if w.shape != (B, n):
        w = w[None] if w.ndim == 1 and B == 1 else np.broadcast_to(w, (B, n)).copy()
    low, totals = float(w.min()), np.add.reduce(w, axis=1)
    if not (low >= 0 and max(totals.tolist()) < np.inf):
        _finite(be, name, given)
        if low < 0:
            raise ValueError(f"{name} has negative weights (smallest {low:g}); weights must be 0 or more")
        raise ValueError(f"the sum of {name} overflows: divide the weights by their largest")
    if not min(totals.tolist()) > 0:
        raise ValueError(f"{name} sums to zero: at least one weight must be positive")
    return w, totals, *((n, None) if low > 0 else _positive_first(w))


def _positive_first(w: np.ndarray) -> tuple[Any, np.ndarray | None]:
    """Number of points with weight, and the order that puts them first; None where they are first already."""
    positive = w > 0
    count = np.count_nonzero(positive, axis=1)
    if (np.diff(positive.astype(np.int8), axis=1) <= 0).all():
        return count, None
    return count, np.argsort(~positive, axis=1, kind="stable")


def _gather(be: Any, a: Any, rows: np.ndarray, cols: np.ndarray) -> Any:
    if a is None:
        return None
    r, c = be.xp.asarray(rows), be.xp.asarray(cols)
    return be.xp.ascontiguousarray(be.xp.stack([a[b % len(a)][r[b][:, None], c[b]] for b in range(len(rows))]))


def _subset(be: Any, D: Structure | None, index: np.ndarray) -> Structure | None:
    """A structure on the points in use, index[b] of problem b."""
    if D is None:
        return None
    if D.shape[0] == 1 and (index == index[0]).all() and not isinstance(D, Dense):
        return D.subset(index[0])
    index = index[:1] if D.shape[0] == 1 and (index == index[0]).all() else index
    return Dense(_gather(be, be.xp.asarray(D.to_dense()), index, index))


# ------------------------------------------------------------------------------------------------------------------ options


def _check_choices(loss: str, normalize: str | None) -> None:
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}; choose one of {LOSSES}")
    if normalize not in (None, "mean", "max"):
        raise ValueError(f"unknown normalize {normalize!r}; choose None, 'mean' or 'max'")


def _number(name: str, x: Any, B: int) -> np.ndarray:
    if type(x) in (float, int) and x == x:  # what nearly every call passes
        return np.array([float(x)] * B)
    try:
        x = np.asarray(x, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {x!r}") from None
    if x.ndim > 1 or (x.ndim == 1 and len(x) != B):
        raise ValueError(f"{name} must be one number, or one for each of the {B} problems; got shape {x.shape}")
    if np.isnan(x).any():
        raise ValueError(f"{name} is NaN")
    return np.broadcast_to(x, (B,)).astype(float)


def _weights_of_terms(alpha: Any, M: Any, D1: Any, B: int) -> tuple[np.ndarray, np.ndarray]:
    if alpha is None:
        alpha = 0.0 if D1 is None else 1.0 if M is None else 0.5
    alpha = _number("alpha", alpha, B)
    low, high = min(alpha.tolist()), max(alpha.tolist())
    if low < 0 or high > 1:
        raise ValueError(f"alpha must be in [0, 1], the weight of the Gromov-Wasserstein term; got {high if high > 1 else low:g}")
    if M is None and low < 1:
        raise ValueError(f"alpha={low:g} weighs a feature cost, but M is None: pass M, or alpha=1 for pure Gromov-Wasserstein")
    if D1 is None and high > 0:
        raise ValueError(f"alpha={high:g} weighs structures, but C1 and C2 are None: pass them, or alpha=0 for linear OT")
    return 1 - alpha, alpha


def _price(tv: Any, sink: Any, B: int) -> np.ndarray | None:
    """Price lambda of unmatched mass: lambda (sum p + sum q - 2 sum T); a sink of threshold zeta is lambda = zeta/2."""
    if tv is None and sink is None:
        return None
    if tv is not None and sink is not None:
        raise ValueError("tv and sink are the same price in two units (sink = 2 tv): pass one of them")
    price = _number("tv", tv, B) if tv is not None else _number("sink", sink, B) / 2
    if np.isinf(price).any():
        raise ValueError("tv and sink must be finite; for all of the mass pass neither")
    return price


def _smoothness(smoothness: Any, B: int) -> np.ndarray | None:
    if type(smoothness) in (float, int) and smoothness == 0:
        return None
    gamma = _number("smoothness", smoothness, B)
    if (gamma < 0).any() or np.isinf(gamma).any():
        raise ValueError(f"smoothness must be 0 or positive and finite, got {smoothness!r}")
    return gamma if gamma.any() else None


def _marginals(
    m: Any, tau: Any, price: Any, P: np.ndarray, Q: np.ndarray, slack: float
) -> tuple[Marginals, np.ndarray, np.ndarray, np.ndarray | None]:
    """Marginal rules, fixed mass (NaN: none), caps of the potentials, and what makes the total of q exact (None: nothing)."""
    B = len(P)
    none, free = np.array([np.nan] * B), np.array([[np.inf, np.inf]] * B)
    if sum(x is not None for x in (m, tau, price)) > 1:
        raise ValueError("m, tau and tv (or sink) are ways to relax the marginals: pass one of them")
    if price is not None:
        return mass_price(), none, np.zeros((B, 2)), None
    if isinstance(m, str):
        if m != "auto":
            raise ValueError(f"m must be a number or 'auto', got {m!r}")
        m = np.minimum(P, Q) / 2  # any mass below the largest: the path sets its own
    if m is not None:
        mass, most = _number("m", m, B), np.minimum(P, Q)
        for x, top in zip(mass.tolist(), most.tolist(), strict=True):
            if not 0 < x <= top * (1 + slack):
                raise ValueError(f"m={x:g} cannot be transported: it must be above 0 and at most min(sum p, sum q) = {top:.10g}")
        rules, fixed, cap, both = fixed_mass(mass, P, Q)
        return rules, fixed, cap, np.where(both, P / Q, 1.0) if both.any() else None
    if tau is not None:
        t = np.asarray(tau, dtype=float)
        if t.shape not in ((), (2,)) or np.isnan(t).any() or (t < 0).any():
            raise ValueError(f"tau must be one price of marginal error, or a pair (rows, columns), 0 or more; got {tau!r}")
        t1, t2 = (float(x) for x in np.broadcast_to(t, (2,)))
        if t1 == t2 == 0:
            raise ValueError("tau=0 on both sides leaves no constraint on the plan: give at least one side a price")
        if t1 < np.inf or t2 < np.inf:
            return kl_penalty(t1, t2), none, free, None
    for x, y in zip(P.tolist(), Q.tolist(), strict=True):
        if abs(x - y) > slack * max(x, y):
            raise ValueError(
                f"balanced transport needs equal totals, but sum p = {x:.10g} and sum q = {y:.10g}: "
                "normalise the weights, or relax the marginals with m= or tau="
            )
    return balanced(), none, free, None if P.tolist() == Q.tolist() else P / Q


def _normalized(
    be: Any,
    how: str,
    loss: str,
    M: Any,
    D1: Any,
    D2: Any,
    p: np.ndarray,
    q: np.ndarray,
    size: np.ndarray,
    w_lin: np.ndarray,
    w_quad: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the terms after scaling. "mean": <|M|, T> = E(T) = 1 at the product plan of mass one; "max": entries up to 1."""
    B = len(p)
    if M is not None:
        spread = np.ones(B)
        for b, (n, k) in enumerate(size):
            A, left, right = abs(M[b % len(M), :n, :k]), be.xp.asarray(p[b, :n]), be.xp.asarray(q[b, :k])
            spread[b] = float(A.max()) if how == "max" else float(left @ (A @ right)) / (p[b].sum() * q[b].sum())
        w_lin = w_lin / np.where(spread > 0, spread, 1.0)
    if D1 is not None:
        sizes = [
            _largest(loss, D1, D2, b, size[b]) if how == "max" else _mean_energy(be, loss, D1, D2, p[b], q[b], b)
            for b in range(B)
        ]
        w_quad = w_quad / np.array(sizes)
    return w_lin, w_quad


def _largest(loss: str, D1: Structure, D2: Structure, b: int, size: np.ndarray) -> float:
    """Largest |L(C1_ik, C2_jl)| of problem b, L the loss; 1 where all are 0."""
    (low1, high1), (low2, high2) = (_range(D, b, int(n)) for D, n in zip((D1, D2), size, strict=True))
    if loss == "square":
        s = max(high1 - low2, high2 - low1) ** 2
    elif loss == "kl":  # convex in the pair: largest at a corner
        s = max(_kl_loss(a, b) for a in (low1, high1) for b in (low2, high2))
    else:
        s = max(abs(high1), abs(low1)) * max(abs(high2), abs(low2))
    return s if s > 0 else 1.0


def _kl_loss(a: Any, b: Any) -> Any:
    return a * np.log((a + KL_OFFSET) / (b + KL_OFFSET)) - a + b


def _range(D: Structure, b: int, n: int) -> tuple[float, float]:
    """Smallest and largest entry of the structure of problem b among its first n points."""
    if isinstance(D, Dense):
        C = D.array[b % len(D.array), :n, :n]
        return float(C.min()), float(C.max())
    low, high = D.extent()
    return float(low[b % len(low)]), float(high[b % len(high)])


def _mean_energy(be: Any, loss: str, D1: Structure, D2: Structure, p: np.ndarray, q: np.ndarray, b: int) -> float:
    """|E| of problem b at the product plan of mass one; 1 where it is 0."""
    if loss == "kl":
        A, B = (D.to_dense()[b % D.shape[0]].astype(float) for D in (D1, D2))
        x, y = p / p.sum(), q / q.sum()
        s = x @ (A * np.log(A + KL_OFFSET) - A) @ x + y @ B @ y - (x @ A @ x) * (y @ np.log(B + KL_OFFSET) @ y)
        return float(s) if s > 0 else 1.0
    (square1, mean1), (square2, mean2) = _forms(be, D1, p / p.sum(), b), _forms(be, D2, q / q.sum(), b)
    s = square1 + square2 - 2 * mean1 * mean2 if loss == "square" else abs(mean1 * mean2)
    return s if s > 0 else 1.0


def _forms(be: Any, D: Structure, x: np.ndarray, b: int) -> tuple[float, float]:
    """x'(C*C)x and x'Cx of problem b in float64."""
    y = be.xp.asarray(x)
    if isinstance(D, Dense):
        C = be.xp.asarray(D.array[b % len(D.array)]).astype(float)
        return float(y @ ((C * C) @ y)), float(y @ (C @ y))
    X = y[None, :, None]
    return tuple(float(y @ A.on(be, X.dtype).matmul(be, X)[0, :, 0]) for A in (D.square(), D))  # type: ignore[return-value]


def _entropy_weight(
    reg: Any, reg_rel: Any, loss: str, M: Any, D1: Any, D2: Any, w_lin: np.ndarray, w_quad: np.ndarray, size: np.ndarray
) -> np.ndarray:
    B = len(size)
    eps = _number("reg", reg, B)
    if min(eps.tolist()) < 0 or max(eps.tolist()) == np.inf:
        raise ValueError(f"reg must be 0 (exact) or positive and finite (entropic), got {reg!r}")
    if reg_rel is None:
        return eps
    if max(eps.tolist()) > 0:
        raise ValueError("reg and reg_rel are the same weight in two units: pass one of them")
    share = _number("reg_rel", reg_rel, B)
    if (share <= 0).any() or np.isinf(share).any():
        raise ValueError(f"reg_rel must be positive and finite, a share of the cost range; got {reg_rel!r}")
    span = np.zeros(B)
    for b, (n, k) in enumerate(size):
        if M is not None:
            A = M[b % len(M), :n, :k]
            span[b] += w_lin[b] * float(A.max() - A.min())
        if D1 is not None:
            span[b] += w_quad[b] * _largest(loss, D1, D2, b, size[b])
    return share * np.where(span > 0, span, 1.0)


def _reference(
    be: Any, reference: Any, mask: Any, eps: np.ndarray, product: np.ndarray, shape: tuple[int, int, int], dtype: type
) -> tuple[Any, np.ndarray | None, np.ndarray]:
    """bias = -eps log Q with forbidden pairs, the constant of a constant Q (None: Q = p q'), and sum Q."""
    (B, n, k), xp = shape, be.xp
    bias: Any = None
    constant, total = None, product
    if mask is not None:
        mask = xp.asarray(mask)
        if mask.dtype != bool or mask.shape not in ((n, k), (B, n, k)):
            raise ValueError(f"mask must be boolean, ({n}, {k}), True where a pair is allowed; got {mask.dtype} {mask.shape}")
        bias = (~(mask if mask.ndim == 3 else mask[None])).astype(dtype) * dtype(FORBIDDEN)
    if reference is None:
        return bias, constant, total
    if not (eps > 0).all():
        raise ValueError("reference is the reference plan of the entropy: it needs reg > 0")
    Q = xp.asarray(reference)
    if Q.dtype.kind not in "fiub":
        raise TypeError(f"reference must hold real numbers, got an array of dtype {Q.dtype}")
    Q = Q.astype(float)
    if Q.shape not in ((), (n, k), (B, n, k)) or not xp.isfinite(Q).all() or (Q < 0).any() or (Q.ndim == 0 and Q == 0):
        raise ValueError(
            f"reference must be a positive number or a plan ({n}, {k}) with entries 0 (forbidden) or more; got shape {Q.shape}"
        )
    if Q.ndim == 0:
        return bias, np.full(B, float(Q)), np.full(B, float(Q) * n * k)
    Q = xp.broadcast_to(Q, (B, n, k))
    prior = xp.where(Q > 0, -xp.asarray(eps)[:, None, None] * xp.log(xp.where(Q > 0, Q, 1)), FORBIDDEN)
    bias = prior.astype(dtype) if bias is None else xp.minimum(prior + bias, FORBIDDEN).astype(dtype)
    return bias, np.ones(B), be.host(Q.sum((1, 2)))
