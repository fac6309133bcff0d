"""Semi-relaxed (fused) Gromov-Wasserstein: only the first marginal is fixed, the second is found."""

from __future__ import annotations

from typing import Any

from ._call import array_like, bare, check_start, contract, entropic_log, exact_log, number, parts, transport
from .balanced import fused_value
from .proximal import Steps, proximal

IGNORED = ("alpha_min", "alpha_max", "armijo")
FREE = (float("inf"), 0.0)


@contract(*IGNORED)
def semirelaxed_gromov_wasserstein(
    C1: Any,
    C2: Any,
    p: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    log: bool = False,
    G0: Any = None,
    max_iter: float = 1e4,
    tol_rel: float = 1e-9,
    tol_abs: float = 1e-9,
    random_state: Any = 0,
    *,
    verbose: bool = False,
) -> Any:
    r"""Semi-relaxed Gromov-Wasserstein plan, by conditional gradient.

    .. math:: \min_T \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl}, \quad T 1 = p,\ T \ge 0

    Parameters
    ----------
    C1, C2 : arrays (n, n) and (m, m)
        Structures, symmetric or not; NumPy or torch.
    p : array (n,), optional
        Weights of the first side; uniform by default.
    loss_fun : "square_loss", (a - b)^2, or "kl_loss", a log(a/b) - a + b
    G0 : array (n, m) or str, optional
        Starting plan with T 1 = p, or the name of one of POT's (`ot.gromov.semirelaxed_init_plan`); default p and uniform q.
    max_iter : int
        Linear programs.
    tol_rel, tol_abs : float
        Stop where the Frank-Wolfe gap is below tol_rel |value|, or below tol_abs.
    random_state : int
        For a start by name.
    log : bool
        Return (T, log); keys loss, srgw_dist, and fpgwot, the `Result` with its certificate.
    verbose : bool
        Report the iterations on stderr.
    symmetric, armijo : without effect

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of C1

    Raises
    ------
    ValueError, TypeError
        As in `gromov_wasserstein`.

    Notes
    -----
    Contract of `ot.gromov.semirelaxed_gromov_wasserstein`. Source: Vincent-Cuaz et al. (2022).

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import semirelaxed_gromov_wasserstein
    >>> x = np.array([0.0, 0.1, 2.0, 2.1, 2.2])
    >>> C1, C2 = abs(x[:, None] - x), np.array([[0.0, 2.0, 9.0], [2.0, 0.0, 9.0], [9.0, 9.0, 0.0]])
    >>> sorted(semirelaxed_gromov_wasserstein(C1, C2).sum(0).round(3).tolist())
    [0.0, 0.4, 0.6]
    """
    result = _exact(None, C1, C2, p, loss_fun, 1.0, G0, max_iter, tol_rel, tol_abs, random_state, verbose)
    T = array_like(result.plan, C1)
    return (T, _log(result, "srgw_dist", C1, p)) if log else T


@contract(*IGNORED)
def semirelaxed_gromov_wasserstein2(
    C1: Any,
    C2: Any,
    p: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    log: bool = False,
    G0: Any = None,
    max_iter: float = 1e4,
    tol_rel: float = 1e-9,
    tol_abs: float = 1e-9,
    random_state: Any = 0,
    *,
    verbose: bool = False,
) -> Any:
    """Value of the semi-relaxed plan; arguments as in `semirelaxed_gromov_wasserstein`, log["T"] is the plan.

    For torch tensors that require gradients the value has those of the envelope theorem in C1 and C2.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import semirelaxed_gromov_wasserstein2
    >>> round(float(semirelaxed_gromov_wasserstein2(np.diag([1.0, 0.5]), np.diag([1.0, 0.5]))), 6)
    0.1875
    """
    result = _exact(None, C1, C2, p, loss_fun, 1.0, G0, max_iter, tol_rel, tol_abs, random_state, verbose)
    logged = _log(result, "srgw_dist", C1, p)
    logged["T"] = T = array_like(result.plan, C1)
    value = fused_value(logged["srgw_dist"], None, C1, C2, T, 1.0, loss_fun)
    return (value, logged) if log else value


@contract(*IGNORED)
def semirelaxed_fused_gromov_wasserstein(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    alpha: Any = 0.5,
    G0: Any = None,
    log: bool = False,
    max_iter: float = 1e4,
    tol_rel: float = 1e-9,
    tol_abs: float = 1e-9,
    random_state: Any = 0,
    *,
    verbose: bool = False,
) -> Any:
    r"""Semi-relaxed fused Gromov-Wasserstein plan.

    .. math:: \min_T (1-\alpha) \langle M, T \rangle + \alpha \sum_{ijkl} L(C1_{ik}, C2_{jl}) T_{ij} T_{kl}, \quad T 1 = p

    Parameters
    ----------
    M : array (n, m)
        Feature cost, any sign.
    alpha : float in [0, 1]
        Weight of the structures.
    C1, C2, p, loss_fun, symmetric, G0, log, max_iter, tol_rel, tol_abs, random_state, verbose
        As in `semirelaxed_gromov_wasserstein`; the value in the log is called srfgw_dist.

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of M

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import semirelaxed_fused_gromov_wasserstein
    >>> C = 1 - np.eye(3)
    >>> semirelaxed_fused_gromov_wasserstein(C, C, C).round(3).diagonal()
    array([0.333, 0.333, 0.333])
    """
    result = _exact(M, C1, C2, p, loss_fun, alpha, G0, max_iter, tol_rel, tol_abs, random_state, verbose)
    T = array_like(result.plan, M)
    return (T, _log(result, "srfgw_dist", M, p)) if log else T


@contract(*IGNORED)
def semirelaxed_fused_gromov_wasserstein2(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    alpha: Any = 0.5,
    G0: Any = None,
    log: bool = False,
    max_iter: float = 1e4,
    tol_rel: float = 1e-9,
    tol_abs: float = 1e-9,
    random_state: Any = 0,
    *,
    verbose: bool = False,
) -> Any:
    """Value of the semi-relaxed fused plan; arguments as in `semirelaxed_fused_gromov_wasserstein`, log["T"] is the plan.

    For torch tensors that require gradients the value has those of the envelope theorem in M, C1, C2 and alpha.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import semirelaxed_fused_gromov_wasserstein2
    >>> C = 1 - np.eye(3)
    >>> round(float(semirelaxed_fused_gromov_wasserstein2(C, C, C)), 6)
    0.0
    """
    result = _exact(M, C1, C2, p, loss_fun, alpha, G0, max_iter, tol_rel, tol_abs, random_state, verbose)
    logged = _log(result, "srfgw_dist", M, p)
    logged["T"] = T = array_like(result.plan, M)
    parts(logged, result, M)
    value = fused_value(logged["srfgw_dist"], M, C1, C2, T, alpha, loss_fun)
    return (value, logged) if log else value


@contract()
def entropic_semirelaxed_gromov_wasserstein(
    C1: Any,
    C2: Any,
    p: Any = None,
    loss_fun: str = "square_loss",
    epsilon: float = 0.1,
    symmetric: bool | None = None,
    G0: Any = None,
    max_iter: float = 1e4,
    tol: float = 1e-9,
    log: bool = False,
    verbose: bool = False,
    random_state: Any = 0,
) -> Any:
    r"""Semi-relaxed Gromov-Wasserstein plan by proximal steps, POT's mirror descent.

    .. math:: T_{k+1} = \arg\min_{T 1 = p} \langle \nabla E(T_k), T \rangle + \epsilon\, KL(T \,\|\, T_k)

    The limit is a plan *without* entropy; epsilon is the inverse of a step size.

    Parameters
    ----------
    C1, C2, p, loss_fun, symmetric, G0, random_state
        As in `semirelaxed_gromov_wasserstein`, "kl_loss" included.
    epsilon : float
        Positive.
    max_iter : int
        Steps.
    tol : float
        Stop where a step, measured every tenth time, moves the plan by less (2-norm).
    log : bool
        Return (T, log); keys err, srgw_dist.
    verbose : bool
        Report the changes on stderr.

    Returns
    -------
    T : array (n, m), of the kind and floating dtype of C1

    Notes
    -----
    Contract of `ot.gromov.entropic_semirelaxed_gromov_wasserstein`, the same iterates. Source: Vincent-Cuaz et al. (2022).

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_semirelaxed_gromov_wasserstein
    >>> blocks = np.kron(np.diag([1.0, 0.5]), np.ones((3, 3)))
    >>> entropic_semirelaxed_gromov_wasserstein(blocks, np.diag([1.0, 0.5]), epsilon=0.05).sum(0).round(3)
    array([0.5, 0.5])
    """
    done = _steps(None, C1, C2, p, loss_fun, epsilon, 1.0, G0, max_iter, tol, random_state, verbose)
    T = array_like(done.plan, C1)
    return (T, _short(done, "srgw_dist", C1)) if log else T


@contract()
def entropic_semirelaxed_gromov_wasserstein2(
    C1: Any,
    C2: Any,
    p: Any = None,
    loss_fun: str = "square_loss",
    epsilon: float = 0.1,
    symmetric: bool | None = None,
    G0: Any = None,
    max_iter: float = 1e4,
    tol: float = 1e-9,
    log: bool = False,
    verbose: bool = False,
    random_state: Any = 0,
) -> Any:
    """Energy of that plan; arguments as in `entropic_semirelaxed_gromov_wasserstein`, log["T"] is the plan.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_semirelaxed_gromov_wasserstein2
    >>> C = np.diag([1.0, 0.5])
    >>> round(float(entropic_semirelaxed_gromov_wasserstein2(C, C, epsilon=0.01)), 4)
    0.1875
    """
    done = _steps(None, C1, C2, p, loss_fun, epsilon, 1.0, G0, max_iter, tol, random_state, verbose)
    logged = _short(done, "srgw_dist", C1)
    logged["T"] = T = array_like(done.plan, C1)
    value = fused_value(logged["srgw_dist"], None, C1, C2, T, 1.0, loss_fun)
    return (value, logged) if log else value


@contract()
def entropic_semirelaxed_fused_gromov_wasserstein(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    epsilon: float = 0.1,
    alpha: Any = 0.5,
    G0: Any = None,
    max_iter: float = 1e4,
    tol: float = 1e-9,
    log: bool = False,
    verbose: bool = False,
    random_state: Any = 0,
) -> Any:
    """The same with features: (1-alpha) <M, T> + alpha E(T) in place of E; keys of the log err, lin_loss, quad_loss, srfgw_dist.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_semirelaxed_fused_gromov_wasserstein
    >>> C = 1 - np.eye(3)
    >>> entropic_semirelaxed_fused_gromov_wasserstein(C, C, C, epsilon=0.1).round(3).diagonal()
    array([0.333, 0.333, 0.333])
    """
    done = _steps(M, C1, C2, p, loss_fun, epsilon, alpha, G0, max_iter, tol, random_state, verbose)
    T = array_like(done.plan, M)
    if not log:
        return T
    logged = _short(done, "srfgw_dist", M)
    parts(logged, done, M)
    return T, logged


@contract()
def entropic_semirelaxed_fused_gromov_wasserstein2(
    M: Any,
    C1: Any,
    C2: Any,
    p: Any = None,
    loss_fun: str = "square_loss",
    symmetric: bool | None = None,
    epsilon: float = 0.1,
    alpha: Any = 0.5,
    G0: Any = None,
    max_iter: float = 1e4,
    tol: float = 1e-9,
    log: bool = False,
    verbose: bool = False,
    random_state: Any = 0,
) -> Any:
    """Value of that plan; log["T"] is the plan.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import entropic_semirelaxed_fused_gromov_wasserstein2
    >>> C = 1 - np.eye(3)
    >>> round(float(entropic_semirelaxed_fused_gromov_wasserstein2(C, C, C, epsilon=0.1)), 4)
    0.0
    """
    done = _steps(M, C1, C2, p, loss_fun, epsilon, alpha, G0, max_iter, tol, random_state, verbose)
    logged = _short(done, "srfgw_dist", M)
    logged["T"] = T = array_like(done.plan, M)
    parts(logged, done, M)
    value = fused_value(logged["srfgw_dist"], M, C1, C2, T, alpha, loss_fun)
    return (value, logged) if log else value


# ------------------------------------------------------------------------------------------------------------------ shared


def _start(M: Any, C1: Any, C2: Any, p: Any, alpha: Any, G0: Any, random_state: Any) -> Any:
    if not isinstance(G0, str):
        check_start(G0, p, False, C1, C2, capped=False)
        return G0
    from ot.gromov import semirelaxed_init_plan

    C1 = bare(C1)
    p = C1[0] * 0.0 + 1.0 / len(C1) if p is None else bare(p, C1)
    return semirelaxed_init_plan(C1, bare(C2), p, bare(M), number(alpha), G0, random_state=random_state)


def free_weights(C2: Any, p: Any) -> Any:
    """Uniform weights of the free side, of the total of p: they set the scale only."""
    C2 = bare(C2)
    return C2[0] * 0.0 + (1.0 if p is None else float(sum(bare(p)))) / len(C2)


def _exact(
    M: Any, C1: Any, C2: Any, p: Any, loss_fun: str, alpha: Any, G0: Any, max_iter: float, tol_rel: float, tol_abs: float,
    random_state: Any, verbose: bool,
) -> Any:  # fmt: skip
    G0 = _start(M, C1, C2, p, alpha, G0, random_state)
    return transport(
        M, C1, C2, p, free_weights(C2, p), loss_fun=loss_fun, alpha=alpha, G0=G0, tol=tol_rel, tol_abs=tol_abs,
        max_iter=max_iter, limit=1e4, verbose=verbose, tau=FREE,
    )  # fmt: skip


def _steps(
    M: Any, C1: Any, C2: Any, p: Any, loss_fun: str, epsilon: Any, alpha: Any, G0: Any, max_iter: float, tol: float,
    random_state: Any, verbose: bool,
) -> Any:  # fmt: skip
    if not number(epsilon) > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon!r}; without it use semirelaxed_gromov_wasserstein")
    G0 = _start(M, C1, C2, p, alpha, G0, random_state)
    steps = Steps(number(epsilon), max_iter, tol, verbose=verbose)
    return proximal(bare(M), bare(C1), bare(C2), p, free_weights(C2, p), loss_fun, number(alpha), G0, steps, free_columns=True)


def _log(result: Any, name: str, like: Any, p: Any) -> dict[str, Any]:
    logged = exact_log(result, name, like, p, None)
    return {key: logged[key] for key in ("loss", name, "fpgwot")}


def _short(done: Any, name: str, like: Any) -> dict[str, Any]:
    logged = entropic_log(done, name, like)
    return {key: logged[key] for key in ("err", name)}
