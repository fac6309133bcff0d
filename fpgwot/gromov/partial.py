"""Partial (fused) Gromov-Wasserstein: a given mass m is transported, exact and entropic."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._call import array_like, bare, check_start, contract, entropic_log, exact_log, host, number, parts, scalar_like, transport
from .balanced import fused_value

IGNORED = ("numThreads", "numItermaxEmd", "alpha_min", "alpha_max")


@contract(*IGNORED)
def partial_gromov_wasserstein(
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    m: Any = None,
    loss_fun: str = "square_loss",
    nb_dummies: int = 1,
    G0: Any = None,
    thres: float = 1,
    numItermax: float = 1e4,
    tol: float = 1e-8,
    symmetric: bool | None = None,
    warn: bool = True,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    r"""Partial Gromov-Wasserstein plan, by conditional gradient.

    .. math:: \min_T \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl}, \quad T 1 \le p,\ T' 1 \le q,\ \textstyle\sum T = m,\ T \ge 0

    Parameters
    ----------
    C1, C2 : arrays (n, n) and (m, m)
        Structures, symmetric or not; NumPy or torch.
    p, q : arrays (n,) and (m,), optional
        Weights of any totals; uniform by default.
    m : float, optional
        Transported mass, 0 <= m <= min(sum p, sum q), which is the default.
    loss_fun : "square_loss", (a - b)^2, or "kl_loss", a log(a/b) - a + b
    G0 : array (n, m), optional
        Starting plan below p and q; its mass is brought to m. Default m p q' / (sum p sum q).
    numItermax : int
        Linear programs (not a limit of the programs themselves, as in POT).
    tol : float
        Stop where the Frank-Wolfe gap is below tol |value|.
    warn : bool
        Warn where the plan is not stationary.
    log : bool
        Return (T, log); keys loss, cost, u, v, warning, result_code, partial_gw_dist, and fpgwot, the `Result`.
    verbose : bool
        Report the iterations on stderr.
    nb_dummies, thres, symmetric, numThreads : without effect
        There are no dummy points; POT never reads thres; symmetry is looked up; threads are Numba's.

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of C1

    Raises
    ------
    ValueError
        Input that makes no sense: a mass out of range, a G0 above the weights.
    TypeError
        Unknown keywords; the text names the right one.

    Notes
    -----
    Contract: `ot.gromov.partial_gromov_wasserstein` of POT 0.9.7; docs/drop_in.md lists the differences. Cost of an iteration
    O(n^2 m + n m^2) and a sparse linear program. Source: Chapel, Alaya, Gasso (2020).

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import partial_gromov_wasserstein
    >>> x = np.array([0.0, 1.0, 3.0, 9.0])
    >>> C = abs(x[:, None] - x)
    >>> partial_gromov_wasserstein(C, C[:3, :3], m=0.75).sum().round(6)
    np.float64(0.75)
    """
    T, logged = _exact(None, C1, C2, p, q, m, loss_fun, 1.0, G0, numItermax, tol, warn, verbose, "partial_gw_dist", C1)
    return (T, logged) if log else T


@contract(*IGNORED)
def partial_gromov_wasserstein2(
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    m: Any = None,
    loss_fun: str = "square_loss",
    nb_dummies: int = 1,
    G0: Any = None,
    thres: float = 1,
    numItermax: float = 1e4,
    tol: float = 1e-7,
    symmetric: bool | None = None,
    warn: bool = False,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """Value of the partial plan; arguments as in `partial_gromov_wasserstein`, log["T"] is the plan.

    For torch tensors that require gradients the value has those of the envelope theorem in C1 and C2, from the marginals that
    the plan has.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import partial_gromov_wasserstein2
    >>> x = np.array([0.0, 1.0, 3.0, 9.0])
    >>> C = abs(x[:, None] - x)
    >>> round(float(partial_gromov_wasserstein2(C, 2 * C, m=1.0)), 6)
    24.375
    """
    T, logged = _exact(None, C1, C2, p, q, m, loss_fun, 1.0, G0, numItermax, tol, warn, verbose, "partial_gw_dist", C1)
    logged["T"] = T
    value = fused_value(logged["partial_gw_dist"], None, C1, C2, T, 1.0, loss_fun)
    return (value, logged) if log else value


@contract(*IGNORED)
def partial_fused_gromov_wasserstein(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    m: Any = None,
    loss_fun: str = "square_loss",
    alpha: Any = 0.5,
    nb_dummies: int = 1,
    G0: Any = None,
    thres: float = 1,
    numItermax: float = 1e4,
    tol: float = 1e-8,
    symmetric: bool | None = None,
    warn: bool = True,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    r"""Partial fused Gromov-Wasserstein plan.

    .. math:: \min_T (1-\alpha) \langle M, T \rangle + \alpha \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl},
              \quad T 1 \le p,\ T' 1 \le q,\ \textstyle\sum T = m

    Parameters
    ----------
    M : array (n, m)
        Feature cost, any sign.
    alpha : float in [0, 1]
        Weight of the structures.
    C1, C2, p, q, m, loss_fun, nb_dummies, G0, thres, numItermax, tol, symmetric, warn, log, verbose
        As in `partial_gromov_wasserstein`; the value in the log is called partial_fgw_dist.

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of C1

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import partial_fused_gromov_wasserstein
    >>> x, y = np.array([0.0, 1.0, 3.0]), np.array([3.0, 0.0])
    >>> M, C1, C2 = abs(x[:, None] - y), abs(x[:, None] - x), abs(y[:, None] - y)
    >>> partial_fused_gromov_wasserstein(M, C1, C2, m=2 / 3).round(3)
    array([[0.   , 0.333],
           [0.   , 0.   ],
           [0.333, 0.   ]])
    """
    T, logged = _exact(M, C1, C2, p, q, m, loss_fun, alpha, G0, numItermax, tol, warn, verbose, "partial_fgw_dist", C1)
    return (T, logged) if log else T


@contract(*IGNORED)
def partial_fused_gromov_wasserstein2(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    m: Any = None,
    loss_fun: str = "square_loss",
    alpha: Any = 0.5,
    nb_dummies: int = 1,
    G0: Any = None,
    thres: float = 1,
    numItermax: float = 1e4,
    tol: float = 1e-7,
    symmetric: bool | None = None,
    warn: bool = False,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """Value of the partial fused plan; arguments as in `partial_fused_gromov_wasserstein`, log["T"] is the plan.

    For torch tensors that require gradients the value has those of the envelope theorem in M, C1, C2 and alpha.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import partial_fused_gromov_wasserstein2
    >>> C = 1 - np.eye(3)
    >>> float(partial_fused_gromov_wasserstein2(C, C, C, m=0.5))
    0.0
    """
    T, logged = _exact(M, C1, C2, p, q, m, loss_fun, alpha, G0, numItermax, tol, warn, verbose, "partial_fgw_dist", C1)
    logged["T"] = T
    parts(logged, logged["fpgwot"], C1)
    value = fused_value(logged["partial_fgw_dist"], M, C1, C2, T, alpha, loss_fun)
    return (value, logged) if log else value


@contract()
def entropic_partial_gromov_wasserstein(
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    reg: float = 1.0,
    m: Any = None,
    loss_fun: str = "square_loss",
    G0: Any = None,
    numItermax: float = 1000,
    tol: float = 1e-7,
    symmetric: bool | None = None,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    r"""Entropic partial Gromov-Wasserstein plan.

    .. math:: \min_T \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl} + reg \sum_{ij} T_{ij} (\log T_{ij} - 1),
              \quad T 1 \le p,\ T' 1 \le q,\ \textstyle\sum T = m

    Parameters
    ----------
    reg : float
        Weight of the entropy, in units of the cost; positive.
    numItermax : int
        Outer iterations (gradients of the energy).
    tol : float
        Bound of the relative stationarity residual, at least 1e-8.
    C1, C2, p, q, m, G0, symmetric, log, verbose
        As in `partial_gromov_wasserstein`; keys of the log err, partial_gw_dist (without the entropy) and fpgwot.
    loss_fun : "square_loss" or "kl_loss"

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of C1

    Notes
    -----
    Contract of `ot.gromov.entropic_partial_gromov_wasserstein`; cost O(n^2 m + n m^2) and a few dozen reads of an n x m array per
    iteration.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_partial_gromov_wasserstein
    >>> x = np.array([0.0, 1.0, 3.0, 9.0])
    >>> C = abs(x[:, None] - x)
    >>> entropic_partial_gromov_wasserstein(C, C, reg=0.1, m=0.5).sum().round(6)
    np.float64(0.5)
    """
    T, logged = _entropic(None, C1, C2, p, q, reg, m, loss_fun, 1.0, G0, numItermax, tol, verbose, "partial_gw_dist", C1)
    return (T, logged) if log else T


@contract()
def entropic_partial_gromov_wasserstein2(
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    reg: float = 1.0,
    m: Any = None,
    loss_fun: str = "square_loss",
    G0: Any = None,
    numItermax: float = 1000,
    tol: float = 1e-7,
    symmetric: bool | None = None,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """Energy of that plan, without the entropy; log["T"] is the plan.

    For torch tensors that require gradients the value has its partial derivatives at fixed T, see `entropic_gromov_wasserstein2`.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_partial_gromov_wasserstein2
    >>> x = np.array([0.0, 1.0, 3.0, 9.0])
    >>> C = abs(x[:, None] - x)
    >>> round(float(entropic_partial_gromov_wasserstein2(C, 2 * C, reg=0.01, m=1.0)), 3)
    24.375
    """
    T, logged = _entropic(None, C1, C2, p, q, reg, m, loss_fun, 1.0, G0, numItermax, tol, verbose, "partial_gw_dist", C1)
    logged["T"] = T
    value = fused_value(logged["partial_gw_dist"], None, C1, C2, T, 1.0, loss_fun)
    return (value, logged) if log else value


@contract()
def entropic_partial_fused_gromov_wasserstein(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    reg: float = 1.0,
    m: Any = None,
    loss_fun: str = "square_loss",
    alpha: Any = 0.5,
    G0: Any = None,
    numItermax: float = 1000,
    tol: float = 1e-7,
    symmetric: bool | None = None,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """The same with features: (1-alpha) <M, T> + alpha E(T) in place of E; the value in the log is called partial_fgw_dist.

    POT 0.9.7 ignores M here; see docs/drop_in.md.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_partial_fused_gromov_wasserstein
    >>> C = 1 - np.eye(4)
    >>> T = entropic_partial_fused_gromov_wasserstein(C[::-1], C, C, reg=0.01, m=0.5)
    >>> T.argmax(1)
    array([3, 2, 1, 0])
    """
    T, logged = _entropic(M, C1, C2, p, q, reg, m, loss_fun, alpha, G0, numItermax, tol, verbose, "partial_fgw_dist", C1)
    return (T, logged) if log else T


@contract()
def entropic_partial_fused_gromov_wasserstein2(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    reg: float = 1.0,
    m: Any = None,
    loss_fun: str = "square_loss",
    alpha: Any = 0.5,
    G0: Any = None,
    numItermax: float = 1000,
    tol: float = 1e-7,
    symmetric: bool | None = None,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """Fused value of that plan, without the entropy; log["T"] is the plan, lin_loss and quad_loss are the two parts.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_partial_fused_gromov_wasserstein2
    >>> C = 1 - np.eye(4)
    >>> round(float(entropic_partial_fused_gromov_wasserstein2(C, C, C, reg=0.01, m=0.5)), 6)
    0.0
    """
    T, logged = _entropic(M, C1, C2, p, q, reg, m, loss_fun, alpha, G0, numItermax, tol, verbose, "partial_fgw_dist", C1)
    logged["T"] = T
    parts(logged, logged["fpgwot"], C1)
    value = fused_value(logged["partial_fgw_dist"], M, C1, C2, T, alpha, loss_fun)
    return (value, logged) if log else value


# ------------------------------------------------------------------------------------------------------------------ shared


def _total(w: Any) -> float:
    return 1.0 if w is None else float(np.sum(host(bare(w))))


def _mass(m: Any, p: Any, q: Any) -> float:
    most = min(_total(p), _total(q))
    return most if m is None else float(m)


def _empty(C1: Any, C2: Any, loss_fun: str, name: str, like: Any) -> tuple[Any, dict[str, Any]]:
    """m = 0: nothing moves."""
    zero = scalar_like(0.0, like)
    T = bare(C1)[:, :1] * 0.0 @ (bare(C2)[:1] * 0.0)
    log = {"loss": [zero], "cost": 0.0, "warning": None, "result_code": 1, "err": [], name: zero, "fpgwot": _Nothing()}
    return array_like(T, like), log


class _Nothing:
    """The two parts of an empty plan's value."""

    value_linear = value_quad = 0.0


def _exact(
    M: Any, C1: Any, C2: Any, p: Any, q: Any, m: Any, loss_fun: str, alpha: Any, G0: Any, numItermax: float, tol: float,
    warn: bool, verbose: bool, name: str, like: Any,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    mass = _mass(m, p, q)
    if mass == 0:
        return _empty(C1, C2, loss_fun, name, like)
    check_start(G0, p, q, C1, C2, capped=True)
    result = transport(
        M, C1, C2, p, q, loss_fun=loss_fun, alpha=alpha, m=mass, G0=G0, tol=tol, max_iter=numItermax, limit=1e4, warn=warn,
        verbose=verbose,
    )  # fmt: skip
    return array_like(result.plan, like), exact_log(result, name, like, p, q)


def _entropic(
    M: Any, C1: Any, C2: Any, p: Any, q: Any, reg: Any, m: Any, loss_fun: str, alpha: Any, G0: Any, numItermax: float,
    tol: float, verbose: bool, name: str, like: Any,
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    if not number(reg) > 0:
        raise ValueError(f"reg must be positive, got {reg!r}; without entropy use partial_gromov_wasserstein")
    mass = _mass(m, p, q)
    if mass == 0:
        return _empty(C1, C2, loss_fun, name, like)
    check_start(G0, p, q, C1, C2, capped=True)
    result = transport(
        M, C1, C2, p, q, loss_fun=loss_fun, alpha=alpha, m=mass, G0=G0, reg=reg, tol=tol, max_iter=numItermax, limit=1000,
        verbose=verbose,
    )  # fmt: skip
    return array_like(result.plan, like), entropic_log(result, name, like)
