"""POT's building blocks of a Gromov-Wasserstein loop, for the packages that write their own: same names, same values.

With L(a, b) = f1(a) + f2(b) - h1(a) h2(b) the cost linearised at T is constC - h1(C1) T h2(C2)'.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._call import bare, loss_of

OFFSET = 1e-18  # inside the logarithms of the KL loss, as in POT


def _log(x: Any) -> Any:
    return x.log() if hasattr(x, "log") else np.log(x)


def _transformed(C1: Any, C2: Any, loss_fun: str) -> tuple[Any, Any, Any, Any]:
    """f1(C1), f2(C2), h1(C1), h2(C2)."""
    if loss_of(loss_fun) == "square":
        return C1**2, C2**2, C1, 2 * C2
    return C1 * _log(C1 + OFFSET) - C1, C2, C1, _log(C2 + OFFSET)


def _array(x: Any) -> Any:
    return np.asarray(x) if isinstance(x, (list, tuple)) else x


def init_matrix(C1: Any, C2: Any, p: Any, q: Any, loss_fun: str = "square_loss", nx: Any = None) -> tuple[Any, Any, Any]:
    """constC = f1(C1) p 1' + 1 (f2(C2) q)' (n, m), h1(C1) and h2(C2); `nx`, a backend of POT, is not needed.

    Examples
    --------
    >>> import numpy as np
    >>> constC, hC1, hC2 = init_matrix(np.eye(2), np.eye(2), np.full(2, 0.5), np.full(2, 0.5))
    >>> constC
    array([[1., 1.],
           [1., 1.]])
    """
    C1, C2, p, q = (_array(x) for x in (C1, C2, p, q))
    f1, f2, h1, h2 = _transformed(C1, C2, loss_fun)
    return (f1 @ p)[:, None] + (f2 @ q)[None], h1, h2


def init_matrix_semirelaxed(C1: Any, C2: Any, p: Any, loss_fun: str = "square_loss", nx: Any = None) -> tuple[Any, Any, Any, Any]:
    """constC = f1(C1) p 1' (n, m), h1(C1), h2(C2) and f2(C2)', whose product with T'1 the caller adds."""
    C1, C2, p = (_array(x) for x in (C1, C2, p))
    f1, f2, h1, h2 = _transformed(C1, C2, loss_fun)
    constC = (f1 @ p)[:, None] + (f2[:, 0] * 0)[None]
    return constC, h1, h2, f2.T


def tensor_product(constC: Any, hC1: Any, hC2: Any, T: Any, nx: Any = None) -> Any:
    """constC - h1(C1) T h2(C2)': half the gradient of a symmetric energy (n, m)."""
    constC, hC1, hC2, T = (_array(x) for x in (constC, hC1, hC2, T))
    return constC - hC1 @ T @ hC2.T


def gwloss(constC: Any, hC1: Any, hC2: Any, T: Any, nx: Any = None) -> Any:
    """Energy <tensor_product, T> of a plan with the marginals that constC was made for."""
    return (tensor_product(constC, hC1, hC2, T) * _array(T)).sum()


def gwggrad(constC: Any, hC1: Any, hC2: Any, T: Any, nx: Any = None) -> Any:
    """Gradient 2 tensor_product of the energy of symmetric structures (n, m)."""
    return 2 * tensor_product(constC, hC1, hC2, T)


def _step(a: Any, b: Any, low: Any, high: Any) -> Any:
    """Minimiser of a t^2 + b t on [0, 1], then cut to [low, high]."""
    if a > 0:
        t = min(1.0, max(0.0, -b / (2.0 * a)))
    else:
        t = 1.0 if a + b < 0 else 0.0
    return t if low is None and high is None else np.clip(t, low, high)


def solve_gromov_linesearch(
    G: Any, deltaG: Any, cost_G: Any, C1: Any, C2: Any, M: Any, reg: Any, alpha_min: Any = None, alpha_max: Any = None,
    nx: Any = None, symmetric: bool = False,
) -> tuple[Any, int, Any]:  # fmt: skip
    """Exact step from G along deltaG for <M, T> + reg E(T) at fixed marginals: (step, 1, cost after it).

    C1 and C2 are the *transformed* structures h1(C1) and h2(C2) = 2 C2 of `init_matrix`, whatever their names say.
    """
    dot = C1 @ deltaG @ C2.T
    a = -reg * (dot * deltaG).sum()
    b = (M * deltaG).sum() - reg * ((dot * G).sum() + ((dot * G) if symmetric else (C1 @ G @ C2.T) * deltaG).sum())
    t = _step(a, b, alpha_min, alpha_max)
    return t, 1, cost_G + a * t**2 + b * t


def solve_partial_gromov_linesearch(
    G: Any, deltaG: Any, cost_G: Any, df_G: Any, df_Gc: Any, M: Any, reg: Any, alpha_min: Any = None, alpha_max: Any = None,
    nx: Any = None,
) -> tuple[Any, int, Any, Any]:  # fmt: skip
    """The same with free marginals, from the gradients at both ends: (step, 1, cost, gradient after it)."""
    bend = df_Gc - df_G
    a = reg * 0.5 * (bend * deltaG).sum()
    b = (M * deltaG).sum() + reg * (df_G * deltaG).sum()
    t = _step(a, b, alpha_min, alpha_max)
    return t, 1, cost_G + a * t**2 + b * t, df_G + t * bend


def solve_semirelaxed_gromov_linesearch(
    G: Any, deltaG: Any, cost_G: Any, C1: Any, C2: Any, ones_p: Any, M: Any, reg: Any, fC2t: Any = None, alpha_min: Any = None,
    alpha_max: Any = None, nx: Any = None,
) -> tuple[Any, int, Any]:  # fmt: skip
    """The same with a free second marginal; fC2t is f2(C2)', by default C2'**2."""
    fC2t = C2.T**2 if fC2t is None else fC2t
    of_delta = (ones_p[:, None] * deltaG.sum(0)[None]) @ fC2t - C1 @ deltaG @ C2.T
    of_G = (ones_p[:, None] * G.sum(0)[None]) @ fC2t - C1 @ G @ C2.T
    a = reg * (of_delta * deltaG).sum()
    b = (M * deltaG).sum() + reg * ((of_delta * G).sum() + (of_G * deltaG).sum())
    t = _step(a, b, alpha_min, alpha_max)
    return t, 1, cost_G + a * t**2 + b * t


def energy(C1: Any, C2: Any, T: Any, loss_fun: str) -> float:
    """E(T) of any plan, from its own marginals."""
    C1, C2, T = bare(C1), bare(C2), bare(T)
    return float(gwloss(*init_matrix(C1, C2, T.sum(1), T.sum(0), loss_fun), T))


def linear_cost(M: Any, C1: Any, C2: Any, T: Any, alpha: float, loss_fun: str) -> Any:
    """Gradient of (1-alpha) <M, T> + alpha E(T), structures symmetric or not; leading batch axes allowed."""
    G = 0.0 if M is None else (1 - alpha) * M
    if alpha == 0:
        return G
    f1, f2, h1, h2 = _transformed(C1, C2, loss_fun)
    mu, nu = T.sum(-1), T.sum(-2)
    f1, f2 = f1 + f1.swapaxes(-1, -2), f2 + f2.swapaxes(-1, -2)
    const = (f1 @ mu[..., None]) + (f2 @ nu[..., None]).swapaxes(-1, -2)
    both = h1 @ T @ h2.swapaxes(-1, -2) + h1.swapaxes(-1, -2) @ T @ h2
    return G + alpha * (const - both)
