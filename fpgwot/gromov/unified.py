"""POT's front ends: `solve_gromov`, `solve_gromov_batch`, and the unbalanced function that our objective does not cover."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..api import solve
from ._call import array_like, bare, contract, host, number
from .balanced import fused_gromov_wasserstein2, gromov_wasserstein2
from .entropic import entropic_fused_gromov_wasserstein2, entropic_gromov_wasserstein2
from .partial import (
    entropic_partial_fused_gromov_wasserstein2,
    entropic_partial_gromov_wasserstein2,
    partial_fused_gromov_wasserstein2,
    partial_gromov_wasserstein2,
)
from .proximal import Steps, proximal
from .semirelaxed import (
    entropic_semirelaxed_fused_gromov_wasserstein2,
    entropic_semirelaxed_gromov_wasserstein2,
    semirelaxed_fused_gromov_wasserstein2,
    semirelaxed_gromov_wasserstein2,
)


@contract()
def solve_gromov(
    Ca: Any,
    Cb: Any,
    M: Any = None,
    a: Any = None,
    b: Any = None,
    loss: str = "L2",
    symmetric: bool | None = None,
    alpha: Any = 0.5,
    reg: Any = None,
    reg_type: str = "entropy",
    unbalanced: Any = None,
    unbalanced_type: str = "KL",
    n_threads: int = 1,
    method: str | None = None,
    max_iter: int | None = None,
    plan_init: Any = None,
    tol: float | None = None,
    verbose: bool = False,
) -> Any:
    """One front end to all solvers, as `ot.solve_gromov`; returns POT's `OTResult`.

    Parameters
    ----------
    Ca, Cb : arrays (n, n) and (m, m)
        Structures.
    M : array (n, m), optional
        Feature cost; None, or alpha=1: Gromov-Wasserstein without features.
    a, b : arrays, optional
        Weights, uniform by default.
    loss : "L2" or "KL"
    alpha : float in [0, 1]
        Weight of the structures; 0 is linear transport.
    reg : float, optional
        Weight of the entropy sum T log T; None or 0: exact.
    reg_type : "entropy"
    unbalanced, unbalanced_type
        "partial" with the mass in `unbalanced`, "semirelaxed", or None: balanced. "KL" and "L2" are POT's alone.
    method : "PGD" (default) or "PPA" for the entropic balanced problems
    max_iter, tol, plan_init, verbose
        As in the functions of this package; their defaults.
    symmetric, n_threads : without effect

    Returns
    -------
    ot.utils.OTResult
        plan, value (the entropy included), value_linear, value_quad, potentials, marginals, log; log["fpgwot"] is the `Result`.

    Raises
    ------
    NotImplementedError
        Unknown losses and penalties, and unbalanced_type "KL" and "L2" with `unbalanced` given.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import solve_gromov
    >>> C = 1 - np.eye(3)
    >>> round(float(solve_gromov(C, C, C, alpha=0.5).value), 6)
    0.0
    """
    from ot.backend import get_backend
    from ot.utils import OTResult

    names = {"l2": "square_loss", "kl": "kl_loss"}
    if loss.lower() not in names:
        raise NotImplementedError(f"Not implemented GW loss={loss!r}; one of 'L2', 'KL'")
    loss_fun, kind = names[loss.lower()], _kind(unbalanced, unbalanced_type)
    exact = reg is None or number(reg) == 0
    if not exact and reg_type.lower() != "entropy":
        raise NotImplementedError(f"Not implemented reg_type={reg_type!r}; only 'entropy'")
    fused = M is not None and number(alpha) != 1
    common: dict[str, Any] = {"loss_fun": loss_fun, "log": True, "G0": plan_init, "verbose": verbose}
    common |= {"alpha": alpha} if fused else {}
    stop = {} if tol is None else {"tol_rel": tol, "tol_abs": tol} if exact and kind != "partial" else {"tol": tol}
    limit = {} if max_iter is None else {"numItermax" if kind == "partial" else "max_iter": max_iter}
    first = (M, Ca, Cb) if fused else (Ca, Cb)
    if fused and number(alpha) == 0 and kind == "balanced":
        return _linear(M, a, b, None if exact else reg, get_backend(bare(M)), OTResult)
    if kind == "balanced":
        extra = {} if exact else {"epsilon": reg, "solver": method or "PGD"}
        table: dict[tuple[bool, bool], Any] = {
            (True, True): fused_gromov_wasserstein2,
            (True, False): gromov_wasserstein2,
            (False, True): entropic_fused_gromov_wasserstein2,
            (False, False): entropic_gromov_wasserstein2,
        }
        value, log = table[exact, fused](*first, a, b, **common, **stop, **limit, **extra)
    elif kind == "semirelaxed":
        extra = {} if exact else {"epsilon": reg}
        table = {
            (True, True): semirelaxed_fused_gromov_wasserstein2,
            (True, False): semirelaxed_gromov_wasserstein2,
            (False, True): entropic_semirelaxed_fused_gromov_wasserstein2,
            (False, False): entropic_semirelaxed_gromov_wasserstein2,
        }
        value, log = table[exact, fused](*first, a, **common, **stop, **limit, **extra)
    else:
        extra = {"m": unbalanced} if exact else {"m": unbalanced, "reg": reg}
        table = {
            (True, True): partial_fused_gromov_wasserstein2,
            (True, False): partial_gromov_wasserstein2,
            (False, True): entropic_partial_fused_gromov_wasserstein2,
            (False, False): entropic_partial_gromov_wasserstein2,
        }
        value, log = table[exact, fused](*first, a, b, **common, **stop, **limit, **extra)
    T = log["T"]
    nothing = 0 if kind != "partial" and (not exact or number(alpha) == 1) else None  # as POT fills it in
    linear, quad = (log["lin_loss"], log["quad_loss"]) if fused else (nothing, value)
    if not exact:
        value = value + number(reg) * (T * _safe_log(T)).sum()
    duals = (log["u"], log["v"]) if "u" in log and kind == "balanced" else None
    status = log["fpgwot"].status.text if hasattr(log.get("fpgwot"), "status") else None
    return OTResult(
        potentials=duals,
        value=value,
        value_linear=linear,
        value_quad=quad,
        plan=T,
        status=status,
        backend=get_backend(T),
        log=log,
    )


@contract()
def solve_gromov_batch(
    Ca: Any,
    Cb: Any,
    reg: float = 1e-2,
    a: Any = None,
    b: Any = None,
    loss: str = "sqeuclidean",
    symmetric: bool | None = None,
    M: Any = None,
    alpha: Any = None,
    T_init: Any = None,
    max_iter: int = 50,
    tol: float = 1e-5,
    max_iter_inner: int = 50,
    tol_inner: float = 1e-5,
    grad: str = "envelope",
    logits: bool | None = None,
) -> Any:
    """B (fused) Gromov-Wasserstein problems of one size by proximal steps of size 1/reg, as `ot.batch.solve_gromov_batch`.

    Parameters
    ----------
    Ca, Cb : arrays (B, n, n) and (B, m, m)
        Structures.
    reg : float
        Weight of the proximal term.
    a, b : arrays (B, n) and (B, m), optional
        Weights, uniform by default.
    loss : "sqeuclidean"; POT's vector-valued structures (B, n, n, d) and "kl" are POT's alone
    M, alpha : array (B, n, m) and float in [0, 1], optional
        Feature cost and weight of the structures; both or none.
    T_init : array (B, n, m), optional
    max_iter, tol
        Steps, and the change of the plans (mean absolute entry) at which they stop.
    symmetric, max_iter_inner, tol_inner, logits : without effect
        Each step is solved to the end.
    grad : "envelope" and "detach" (the values carry no gradient); POT has "autodiff"

    Returns
    -------
    ot.utils.OTResult
        plan (B, n, m), value, value_linear, value_quad (B,).

    Notes
    -----
    For the entropic problem itself, and for unequal sizes, see `fpgwot.solve` and `fpgwot.solve_batch`.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import solve_gromov_batch
    >>> C = np.stack([1 - np.eye(3)] * 2)
    >>> solve_gromov_batch(C, C, reg=0.1, M=C, alpha=0.5).plan.argmax(2)
    array([[0, 1, 2],
           [0, 1, 2]])
    """
    from ot.backend import get_backend
    from ot.utils import OTResult

    if loss not in ("sqeuclidean", "l2") or getattr(Ca, "ndim", 3) != 3:
        raise NotImplementedError("only loss='sqeuclidean' on structures (B, n, n): use ot.batch.solve_gromov_batch")
    tensors = any(getattr(x, "requires_grad", False) for x in (Ca, Cb, M, a, b))
    if grad not in ("envelope", "detach") or (tensors and grad == "envelope"):
        raise NotImplementedError("gradients of a batch are in ot.batch.solve_gromov_batch, or fpgwot.nn; pass grad='detach'")
    if (M is None) != (alpha is None):
        raise ValueError("M and alpha go together: pass both (fused), or none")
    steps = Steps(number(reg), max_iter, tol * np.sqrt(host(Ca).shape[1] * host(Cb).shape[1]), every=1)
    done = proximal(bare(M), bare(Ca), bare(Cb), a, b, "square_loss", 1.0 if alpha is None else number(alpha), T_init, steps)
    linear = np.zeros(len(done.plan)) if M is None else done.value_linear
    values = [array_like(np.asarray(x), Ca) for x in (done.value_quad + linear, linear, done.value_quad)]
    plan = array_like(done.plan, Ca)
    return OTResult(
        value=values[0], value_linear=values[1], value_quad=values[2], plan=plan, backend=get_backend(plan),
        log={"n_iter": done.n_iter},
    )  # fmt: skip


@contract()
def fused_unbalanced_gromov_wasserstein(
    Cx: Any,
    Cy: Any,
    wx: Any = None,
    wy: Any = None,
    reg_marginals: Any = 10,
    epsilon: float = 0,
    divergence: str = "kl",
    unbalanced_solver: str = "mm",
    alpha: float = 0,
    M: Any = None,
    init_duals: Any = None,
    init_pi: Any = None,
    max_iter: int = 100,
    tol: float = 1e-7,
    max_iter_ot: int = 500,
    tol_ot: float = 1e-7,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """Not covered: POT prices marginals by the *quadratic* KL(T1 (x) T1 || p (x) p) and returns two plans.

    `fpgwot.solve(..., tau=, reg=)` prices them by tau KL(T1 || p); the two have other minima.

    Raises
    ------
    NotImplementedError
        Always; use `ot.gromov.fused_unbalanced_gromov_wasserstein`.
    """
    raise NotImplementedError(
        "ot.gromov.fused_unbalanced_gromov_wasserstein has the quadratic KL price, fpgwot.solve(tau=, reg=) the linear one"
    )


@contract()
def fused_unbalanced_gromov_wasserstein2(
    Cx: Any,
    Cy: Any,
    wx: Any = None,
    wy: Any = None,
    reg_marginals: Any = 10,
    epsilon: float = 0,
    divergence: str = "kl",
    unbalanced_solver: str = "mm",
    alpha: float = 0,
    M: Any = None,
    init_duals: Any = None,
    init_pi: Any = None,
    max_iter: int = 100,
    tol: float = 1e-7,
    max_iter_ot: int = 500,
    tol_ot: float = 1e-7,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """Not covered, see `fused_unbalanced_gromov_wasserstein`.

    Raises
    ------
    NotImplementedError
        Always; use `ot.gromov.fused_unbalanced_gromov_wasserstein2`.
    """
    raise NotImplementedError(
        "ot.gromov.fused_unbalanced_gromov_wasserstein2 has the quadratic KL price, fpgwot.solve(tau=, reg=) the linear one"
    )


def _kind(unbalanced: Any, unbalanced_type: str) -> str:
    name = unbalanced_type.lower()
    if name == "semirelaxed":
        return "semirelaxed"
    if unbalanced is None:
        return "balanced"
    if name == "partial":
        return "partial"
    if name in ("kl", "l2"):
        raise NotImplementedError(f"unbalanced_type={unbalanced_type!r}: the quadratic price is in ot.solve_gromov")
    raise NotImplementedError(f"Unknown unbalanced_type={unbalanced_type!r}; one of 'semirelaxed', 'partial', 'KL', 'L2'")


def _safe_log(T: Any) -> Any:
    return (T + 1e-16).log() if hasattr(T, "log") else np.log(T + 1e-16)


def _linear(M: Any, a: Any, b: Any, reg: Any, backend: Any, result: Any) -> Any:
    """alpha = 0: linear transport."""
    done = solve(bare(M), p=bare(a, M), q=bare(b, M), reg=number(reg) or 0.0)
    value = (
        done.value_linear if reg is None else done.value_linear + number(reg) * float((done.plan * _safe_log(done.plan)).sum())
    )
    f, g, h = done.potentials
    return result(
        potentials=(array_like(f + h, M), array_like(g, M)), value=value, value_linear=done.value_linear,
        value_quad=0 if reg is None else None,
        plan=array_like(done.plan, M), status=done.status.text, backend=backend, log={"fpgwot": done},
    )  # fmt: skip
