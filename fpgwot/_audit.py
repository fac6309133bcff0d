"""The referee: objective and certificate of a plan from any package, in plain NumPy from the definitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _dispatch
from ._validate import make_problem
from .api import solve
from .structure import KL_OFFSET, Structure


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
    tv: float | None = None,
    reg: float = 0.0,
    reference: Any = None,
    smoothness: float = 0.0,
    loss: str = "square",
) -> Audit:
    """Objective, feasibility, mass and stationarity of a plan from any package, in the units of `solve`.

    Computed in plain NumPy from the definition, apart from every solver; only `stationarity` solves one linear problem.

    Parameters
    ----------
    T : array (n, m)
        The plan to examine.
    M, C1, C2, p, q, alpha, m, tau, tv, reg, reference, smoothness, loss
        The problem, as in `solve`.

    Raises
    ------
    ValueError
        A plan of the wrong shape, with negative or non-finite entries; and as `solve`.
    """
    C1, C2 = (C.to_dense()[0] if isinstance(C, Structure) else C for C in (C1, C2))
    be, _, take, _ = _dispatch.resolve([T, M, C1, C2, p, q], "numpy")
    T, M, C1, C2, p, q, reference = (None if x is None else np.asarray(take(x), float) for x in (T, M, C1, C2, p, q, reference))
    options = {"alpha": alpha, "m": m, "tau": tau, "tv": tv, "reg": reg, "reference": reference}
    prep = make_problem(be, M, C1, C2, p, q, loss=loss, smoothness=smoothness, reg_rel=None, normalize=None, mask=None, **options)
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
        half, other = C1 @ T @ C2.T, C1.T @ T @ C2
        if loss == "kl":
            f1, h2 = C1 * np.log(C1 + KL_OFFSET) - C1, np.log(C2 + KL_OFFSET)
            half = (f1 @ mu)[:, None] + (C2 @ nu)[None] - C1 @ T @ h2.T
            other = (f1.T @ mu)[:, None] + (C2.T @ nu)[None] - C1.T @ T @ h2
        if loss == "square":
            half = (C1**2 @ mu)[:, None] + (C2**2 @ nu)[None] - 2 * half
            other = (C1.T**2 @ mu)[:, None] + (C2.T**2 @ nu)[None] - 2 * other
        quad, cost = w_quad * float(np.sum(half * T)), cost + w_quad * (half + other)
    if smoothness > 0:
        rough = _path_laplacian(len(p_)) @ T + T @ _path_laplacian(len(q_))
        quad, cost = quad + smoothness / 2 * float(np.sum(rough * T)), cost + smoothness * rough
    Q = np.outer(p_, q_) if reference is None else np.broadcast_to(reference, T.shape)
    entropy = reg * _kl(T, Q) if reg > 0 else 0.0
    tau1, tau2 = prep.problem.marginals.tau
    price = sum(t * _kl(x, w) for t, x, w in ((tau1, mu, p_), (tau2, nu, q_)) if 0 < t < np.inf)
    price += tv * float(p_.sum() + q_.sum() - 2 * mass) if tv is not None else 0.0
    violation = 0.0
    for t, x, w in ((tau1, mu, p_), (tau2, nu, q_)):
        if np.isinf(t):
            excess = x - w if m is not None or tv is not None else np.abs(x - w)
            violation = max(violation, float(np.max(np.where(w > 0, excess / np.where(w > 0, w, 1), x))))
    linearised = solve(cost, p=p_, q=q_, m=m, tau=tau, tv=tv, reg=reg, reference=reference, tol=1e-10, on_fail="ignore")
    value = linear + quad + entropy + price
    if reg > 0:
        stationarity = float(np.abs(linearised.plan - T).sum()) / max(mass, 1e-300)
    else:
        gain = float(np.sum(cost * (T - linearised.plan)))
        gain -= 2 * tv * (mass - float(linearised.mass)) if tv is not None else 0.0
        stationarity = max(gain, 0.0) / max(abs(value), 1e-300)
    mass_error = abs(mass - m) / m if m is not None else 0.0
    return Audit(value, linear, quad, entropy, price, mass, max(violation, 0.0), mass_error, stationarity)


def _path_laplacian(n: int) -> np.ndarray:
    step = np.diff(np.eye(n), axis=0)
    return step.T @ step


def _kl(x: np.ndarray, y: np.ndarray) -> float:
    ratio = np.log(np.where(x > 0, x, 1)) - np.log(np.where(x > 0, np.maximum(y, 1e-300), 1))
    return float(np.sum(x * ratio - x + y))
