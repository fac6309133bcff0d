"""Exact (fused) Gromov-Wasserstein with both marginals fixed."""

from __future__ import annotations

from typing import Any

from ._call import array_like, check_start, contract, exact_log, number, parts, structure_gradients, transport, with_gradients
from .helpers import energy

IGNORED = ("numItermaxEmd", "numThreads", "alpha_min", "alpha_max")


@contract(*IGNORED)
def gromov_wasserstein(
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    log: bool = False,
    armijo: bool = False,
    G0: Any = None,
    max_iter: float = 1e4,
    tol_rel: float = 1e-9,
    tol_abs: float = 1e-9,
    *,
    verbose: bool = False,
) -> Any:
    r"""Gromov-Wasserstein plan between two structures, by conditional gradient.

    .. math:: \min_T \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl}, \quad T 1 = p,\ T' 1 = q,\ T \ge 0

    Parameters
    ----------
    C1, C2 : arrays (n, n) and (m, m)
        Structures, symmetric or not; NumPy or torch.
    p, q : arrays (n,) and (m,), optional
        Weights of equal totals; uniform by default.
    loss_fun : "square_loss", (a - b)^2, or "kl_loss", a log(a/b) - a + b
    symmetric, armijo : without effect
        Symmetry is looked up and the line search is exact.
    log : bool
        Return (T, log); keys loss, cost, u, v, warning, result_code, gw_dist, and fpgwot, the `Result` with its certificate.
    G0 : array (n, m), optional
        Starting plan with the marginals p and q; default p q'.
    max_iter : int
        Linear programs.
    tol_rel, tol_abs : float
        Stop where the Frank-Wolfe gap is below tol_rel |value|, or below tol_abs.
    verbose : bool
        Report the iterations on stderr.

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of C1

    Raises
    ------
    ValueError
        Input that makes no sense, a G0 that breaks the marginals.
    TypeError
        Unknown keywords; the text names the right one.

    Notes
    -----
    Contract: `ot.gromov.gromov_wasserstein` of POT 0.9.7; docs/drop_in.md lists the differences. Cost of an iteration
    O(n^2 m + n m^2) and a sparse linear program. Source: Peyre, Cuturi, Solomon (2016); Vayer et al. (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import gromov_wasserstein
    >>> x = np.array([0.0, 1.0, 3.0])
    >>> C = abs(x[:, None] - x)
    >>> gromov_wasserstein(C, C[::-1, ::-1]).round(3)
    array([[0.   , 0.   , 0.333],
           [0.   , 0.333, 0.   ],
           [0.333, 0.   , 0.   ]])
    """
    check_start(G0, p, q, C1, C2, capped=False)
    result = transport(
        None, C1, C2, p, q, loss_fun=loss_fun, G0=G0, tol=tol_rel, tol_abs=tol_abs, max_iter=max_iter, limit=1e4, verbose=verbose
    )
    T = array_like(result.plan, C1)
    return (T, exact_log(result, "gw_dist", C1, p, q)) if log else T


@contract(*IGNORED)
def gromov_wasserstein2(
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    log: bool = False,
    armijo: bool = False,
    G0: Any = None,
    max_iter: float = 1e4,
    tol_rel: float = 1e-9,
    tol_abs: float = 1e-9,
    *,
    verbose: bool = False,
) -> Any:
    """Value of the Gromov-Wasserstein plan; arguments as in `gromov_wasserstein`, log["T"] is the plan.

    For torch tensors that require gradients the value has those of the envelope theorem in C1, C2, p and q.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import gromov_wasserstein2
    >>> x = np.array([0.0, 1.0, 3.0])
    >>> C = abs(x[:, None] - x)
    >>> round(float(gromov_wasserstein2(C, 2 * C)), 6)
    3.111111
    """
    T, logged = gromov_wasserstein(
        C1, C2, p, q, loss_fun, symmetric, True, armijo, G0, max_iter, tol_rel, tol_abs, verbose=verbose
    )
    logged["T"] = T
    value = logged["gw_dist"]
    if any(getattr(x, "requires_grad", False) for x in (C1, C2, p, q)):
        g1, g2 = structure_gradients(C1, C2, T, loss_fun)
        u, v = logged["u"], logged["v"]
        value = with_gradients(value, (C1, g1), (C2, g2), (p, u - u.mean()), (q, v - v.mean()))
    return (value, logged) if log else value


@contract(*IGNORED)
def fused_gromov_wasserstein(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    alpha: Any = 0.5,
    armijo: bool = False,
    G0: Any = None,
    log: bool = False,
    max_iter: float = 1e4,
    tol_rel: float = 1e-9,
    tol_abs: float = 1e-9,
    *,
    verbose: bool = False,
) -> Any:
    r"""Fused Gromov-Wasserstein plan: features and structures together.

    .. math:: \min_T (1-\alpha) \langle M, T \rangle + \alpha \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl},
              \quad T 1 = p,\ T' 1 = q,\ T \ge 0

    Parameters
    ----------
    M : array (n, m)
        Feature cost, any sign.
    alpha : float in [0, 1]
        Weight of the structures.
    C1, C2, p, q, loss_fun, symmetric, armijo, G0, log, max_iter, tol_rel, tol_abs, verbose
        As in `gromov_wasserstein`; the value in the log is called fgw_dist.

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of M

    Notes
    -----
    Errors, cost and sources as in `gromov_wasserstein`; contract of `ot.gromov.fused_gromov_wasserstein`.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import fused_gromov_wasserstein
    >>> x, y = np.array([0.0, 1.0, 3.0]), np.array([3.0, 1.0, 0.0])
    >>> T = fused_gromov_wasserstein(abs(x[:, None] - y), abs(x[:, None] - x), abs(y[:, None] - y), alpha=0.5)
    >>> T.argmax(1)
    array([2, 1, 0])
    """
    check_start(G0, p, q, C1, C2, capped=False)
    result = transport(
        M, C1, C2, p, q, loss_fun=loss_fun, alpha=alpha, G0=G0, tol=tol_rel, tol_abs=tol_abs, max_iter=max_iter, limit=1e4,
        verbose=verbose,
    )  # fmt: skip
    T = array_like(result.plan, M)
    return (T, exact_log(result, "fgw_dist", M, p, q)) if log else T


@contract(*IGNORED)
def fused_gromov_wasserstein2(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    alpha: Any = 0.5,
    armijo: bool = False,
    G0: Any = None,
    log: bool = False,
    max_iter: float = 1e4,
    tol_rel: float = 1e-9,
    tol_abs: float = 1e-9,
    *,
    verbose: bool = False,
) -> Any:
    """Value of the fused Gromov-Wasserstein plan; arguments as in `fused_gromov_wasserstein`, log["T"] is the plan.

    For torch tensors that require gradients the value has those of the envelope theorem in M, C1, C2, p, q and alpha.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import fused_gromov_wasserstein2
    >>> x = np.array([0.0, 1.0, 3.0])
    >>> C = abs(x[:, None] - x)
    >>> float(fused_gromov_wasserstein2(np.ones((3, 3)), C, C, alpha=0.25))
    0.75
    """
    T, logged = fused_gromov_wasserstein(
        M, C1, C2, p, q, loss_fun, symmetric, alpha, armijo, G0, True, max_iter, tol_rel, tol_abs, verbose=verbose
    )
    logged["T"] = T
    parts(logged, logged["fpgwot"], M)
    u, v = logged["u"], logged["v"]
    value = fused_value(logged["fgw_dist"], M, C1, C2, T, alpha, loss_fun, (p, u - u.mean()), (q, v - v.mean()))
    return (value, logged) if log else value


def fused_value(value: Any, M: Any, C1: Any, C2: Any, T: Any, alpha: Any, loss_fun: str, *more: Any) -> Any:
    """A fused value with its partial derivatives in M, C1, C2, alpha and what else is given."""
    if not any(getattr(x, "requires_grad", False) for x in (M, C1, C2, alpha, *(x for x, _ in more))):
        return value
    g1, g2 = structure_gradients(C1, C2, T, loss_fun)
    a = number(alpha)
    pairs = [(M, (1 - a) * T), (C1, a * g1), (C2, a * g2), *more]
    if getattr(alpha, "requires_grad", False):
        pairs.append((alpha, energy(C1, C2, T, loss_fun) - float((M.detach() * T).sum())))
    return with_gradients(value, *pairs)
