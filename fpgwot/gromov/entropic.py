"""Entropic (fused) Gromov-Wasserstein with both marginals fixed: solver="PGD", and proximal steps, solver="PPA"."""

from __future__ import annotations

from typing import Any

from ._call import array_like, bare, check_start, contract, entropic_log, number, parts, transport
from .balanced import fused_value
from .proximal import Steps, proximal

INNER = ("numItermax", "stopThr", "warn", "tol_rel", "tol_abs")  # of POT's inner Sinkhorn loop, which has no counterpart here


@contract(*INNER)
def entropic_gromov_wasserstein(
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    loss_fun: str = "square_loss",
    epsilon: float = 0.1,
    symmetric: bool | None = None,
    G0: Any = None,
    max_iter: float = 1000,
    tol: float = 1e-9,
    solver: str = "PGD",
    warmstart: bool = False,
    verbose: bool = False,
    log: bool = False,
) -> Any:
    r"""Entropic Gromov-Wasserstein plan.

    .. math:: \min_T \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl} + \epsilon \sum_{ij} T_{ij} (\log T_{ij} - 1),
              \quad T 1 = p,\ T' 1 = q

    Parameters
    ----------
    C1, C2 : arrays (n, n) and (m, m)
        Structures, symmetric or not; NumPy or torch.
    p, q : arrays (n,) and (m,), optional
        Weights of equal totals; uniform by default.
    loss_fun : "square_loss" or "kl_loss"
    epsilon : float
        Weight of the entropy, in units of the cost; positive.
    G0 : array (n, m), optional
        Starting plan with the marginals p and q; default p q'.
    max_iter : int
        Outer iterations (gradients of the energy).
    tol : float
        Bound of the relative stationarity residual, at least 1e-8.
    solver : "PGD", the problem above, or "PPA", proximal steps T <- argmin <grad E(T_k), T> + epsilon KL(T || T_k), which lead
        to a plan without entropy
    verbose : bool
        Report the iterations on stderr.
    log : bool
        Return (T, log); keys err, gw_dist (the energy without the entropy), and fpgwot, the `Result` (PGD).
    symmetric, warmstart, numItermax, stopThr, warn : without effect
        The last three are caps of POT's inner loop, which is solved to the end here.

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
    Contract: `ot.gromov.entropic_gromov_wasserstein` of POT 0.9.7; docs/drop_in.md lists the differences. Cost of an iteration
    O(n^2 m + n m^2) and a few dozen reads of an n x m array. Source: Peyre, Cuturi, Solomon (2016); Xu et al. (2019) for PPA.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_gromov_wasserstein
    >>> x = np.array([0.0, 1.0, 3.0])
    >>> C = abs(x[:, None] - x)
    >>> entropic_gromov_wasserstein(C, C, epsilon=0.05).argmax(1)
    array([0, 1, 2])
    """
    check_start(G0, p, q, C1, C2, capped=False)
    done = _solved(None, C1, C2, p, q, loss_fun, epsilon, 1.0, G0, max_iter, tol, solver, verbose)
    T = array_like(done.plan, C1)
    return (T, entropic_log(done, "gw_dist", C1)) if log else T


@contract(*INNER)
def entropic_gromov_wasserstein2(
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    loss_fun: str = "square_loss",
    epsilon: float = 0.1,
    symmetric: bool | None = None,
    G0: Any = None,
    max_iter: float = 1000,
    tol: float = 1e-9,
    solver: str = "PGD",
    warmstart: bool = False,
    verbose: bool = False,
    log: bool = False,
) -> Any:
    """Energy of the entropic plan, without the entropy; arguments as in `entropic_gromov_wasserstein`, log["T"] is the plan.

    For torch tensors that require gradients the value has its partial derivatives at fixed T (POT's grad="envelope"): the
    gradient of the regularised objective. `fpgwot.nn` differentiates through the plan.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_gromov_wasserstein2
    >>> x = np.array([0.0, 1.0, 3.0])
    >>> C = abs(x[:, None] - x)
    >>> round(float(entropic_gromov_wasserstein2(C, C, epsilon=0.01)), 6)
    0.0
    """
    check_start(G0, p, q, C1, C2, capped=False)
    done = _solved(None, C1, C2, p, q, loss_fun, epsilon, 1.0, G0, max_iter, tol, solver, verbose)
    logged = entropic_log(done, "gw_dist", C1)
    logged["T"] = T = array_like(done.plan, C1)
    value = fused_value(logged["gw_dist"], None, C1, C2, T, 1.0, loss_fun)
    return (value, logged) if log else value


@contract(*INNER)
def entropic_fused_gromov_wasserstein(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    loss_fun: str = "square_loss",
    epsilon: float = 0.1,
    symmetric: bool | None = None,
    alpha: Any = 0.5,
    G0: Any = None,
    max_iter: float = 1000,
    tol: float = 1e-9,
    solver: str = "PGD",
    warmstart: bool = False,
    verbose: bool = False,
    log: bool = False,
) -> Any:
    r"""Entropic fused Gromov-Wasserstein plan.

    .. math:: \min_T (1-\alpha) \langle M, T \rangle + \alpha \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl}
              + \epsilon \sum_{ij} T_{ij} (\log T_{ij} - 1), \quad T 1 = p,\ T' 1 = q

    Parameters
    ----------
    M : array (n, m)
        Feature cost, any sign.
    alpha : float in [0, 1]
        Weight of the structures.
    C1, C2, p, q, loss_fun, epsilon, symmetric, G0, max_iter, tol, solver, warmstart, verbose, log
        As in `entropic_gromov_wasserstein`; the value in the log is called fgw_dist.

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of M

    Notes
    -----
    Errors, cost and sources as there; contract of `ot.gromov.entropic_fused_gromov_wasserstein`.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_fused_gromov_wasserstein
    >>> x, y = np.array([0.0, 1.0, 3.0]), np.array([3.0, 1.0, 0.0])
    >>> M, C1, C2 = abs(x[:, None] - y), abs(x[:, None] - x), abs(y[:, None] - y)
    >>> entropic_fused_gromov_wasserstein(M, C1, C2, epsilon=0.05).argmax(1)
    array([2, 1, 0])
    """
    check_start(G0, p, q, C1, C2, capped=False)
    done = _solved(M, C1, C2, p, q, loss_fun, epsilon, alpha, G0, max_iter, tol, solver, verbose)
    T = array_like(done.plan, M)
    return (T, entropic_log(done, "fgw_dist", M)) if log else T


@contract(*INNER)
def entropic_fused_gromov_wasserstein2(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    q: Any = None,
    loss_fun: str = "square_loss",
    epsilon: float = 0.1,
    symmetric: bool | None = None,
    alpha: Any = 0.5,
    G0: Any = None,
    max_iter: float = 1000,
    tol: float = 1e-9,
    solver: str = "PGD",
    warmstart: bool = False,
    verbose: bool = False,
    log: bool = False,
) -> Any:
    """Fused value of the entropic plan, without the entropy; arguments as in `entropic_fused_gromov_wasserstein`.

    log["T"] is the plan; gradients as in `entropic_gromov_wasserstein2`, in M and alpha as well.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_fused_gromov_wasserstein2
    >>> C = 1 - np.eye(4)
    >>> round(float(entropic_fused_gromov_wasserstein2(C, C, C, epsilon=0.01)), 3)
    0.0
    """
    check_start(G0, p, q, C1, C2, capped=False)
    done = _solved(M, C1, C2, p, q, loss_fun, epsilon, alpha, G0, max_iter, tol, solver, verbose)
    logged = entropic_log(done, "fgw_dist", M)
    logged["T"] = T = array_like(done.plan, M)
    parts(logged, done, M)
    value = fused_value(logged["fgw_dist"], M, C1, C2, T, alpha, loss_fun)
    return (value, logged) if log else value


def _solved(
    M: Any, C1: Any, C2: Any, p: Any, q: Any, loss_fun: str, epsilon: Any, alpha: Any, G0: Any, max_iter: float, tol: float,
    solver: str, verbose: bool,
) -> Any:  # fmt: skip
    if solver not in ("PGD", "PPA"):
        raise ValueError(f"Unknown solver {solver!r}; pick one of 'PGD', 'PPA'")
    if not number(epsilon) > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon!r}; without entropy use gromov_wasserstein")
    if solver == "PPA":
        steps = Steps(number(epsilon), max_iter, tol, verbose=verbose)
        return proximal(bare(M), bare(C1), bare(C2), p, q, loss_fun, number(alpha), G0, steps)
    return transport(
        M, C1, C2, p, q, loss_fun=loss_fun, alpha=alpha, G0=G0, reg=epsilon, tol=tol, max_iter=max_iter, limit=1000,
        verbose=verbose,
    )  # fmt: skip
