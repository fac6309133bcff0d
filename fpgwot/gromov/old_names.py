"""The deprecated Gromov-Wasserstein names of `ot.partial`, for `accelerate`; new code takes those of `fpgwot.gromov`.

They minimise half of the objective of `ot.gromov`'s functions: values are half as large, and a `reg` acts as 2 reg does there.
"""

from __future__ import annotations

from typing import Any

from . import partial
from ._call import contract, number

IGNORED = ("numThreads", "numItermaxEmd")


@contract(*IGNORED)
def partial_gromov_wasserstein(
    C1: Any,
    C2: Any,
    p: Any,
    q: Any,
    m: Any = None,
    nb_dummies: int = 1,
    G0: Any = None,
    thres: float = 1,
    numItermax: float = 1000,
    tol: float = 1e-7,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    r"""Partial Gromov-Wasserstein plan, as `ot.partial.partial_gromov_wasserstein`.

    .. math:: \min_T \tfrac12 \sum_{ijkl} (C1_{ik} - C2_{jl})^2 T_{ij} T_{kl}, \quad T 1 \le p,\ T' 1 \le q,\ \textstyle\sum T = m

    Parameters
    ----------
    C1, C2, p, q, m, G0, numItermax, tol, verbose
        As in `fpgwot.gromov.partial_gromov_wasserstein`, with which the plan is shared.
    log : bool
        Return (T, log); err holds the Frank-Wolfe gaps, partial_gw_dist is the value.
    nb_dummies, thres : without effect

    Raises
    ------
    ValueError, TypeError
        As in that function.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import old_names
    >>> C, p = 1 - np.eye(4), np.full(4, 0.25)
    >>> old_names.partial_gromov_wasserstein(C, C, p, p, m=0.5).sum()
    np.float64(0.5)
    """
    T, logged = partial.partial_gromov_wasserstein(
        C1, C2, p, q, m, G0=G0, numItermax=numItermax, tol=tol, log=True, verbose=verbose
    )
    return (T, _halved(logged)) if log else T


@contract(*IGNORED)
def partial_gromov_wasserstein2(
    C1: Any,
    C2: Any,
    p: Any,
    q: Any,
    m: Any = None,
    nb_dummies: int = 1,
    G0: Any = None,
    thres: float = 1,
    numItermax: float = 1000,
    tol: float = 1e-7,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """Value of that plan; log["T"] is the plan.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import old_names
    >>> x, p = np.array([0.0, 1.0, 3.0, 9.0]), np.full(4, 0.25)
    >>> C = abs(x[:, None] - x)
    >>> round(float(old_names.partial_gromov_wasserstein2(C, 2 * C, p, p, m=1.0)), 6)
    12.1875
    """
    T, logged = partial_gromov_wasserstein(C1, C2, p, q, m, nb_dummies, G0, thres, numItermax, tol, log=True, verbose=verbose)
    return _value(T, logged, log)


@contract()
def entropic_partial_gromov_wasserstein(
    C1: Any,
    C2: Any,
    p: Any,
    q: Any,
    reg: float,
    m: Any = None,
    G0: Any = None,
    numItermax: float = 1000,
    tol: float = 1e-7,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    r"""Entropic partial Gromov-Wasserstein plan, as `ot.partial.entropic_partial_gromov_wasserstein`.

    .. math:: \min_T \tfrac12 \sum_{ijkl} (C1_{ik} - C2_{jl})^2 T_{ij} T_{kl} + reg \sum_{ij} T_{ij} \log T_{ij},
              \quad T 1 \le p,\ T' 1 \le q,\ \textstyle\sum T = m

    Parameters
    ----------
    C1, C2, p, q, m, G0, numItermax, tol, verbose
        As in `fpgwot.gromov.entropic_partial_gromov_wasserstein`.
    reg : float
        Weight of the entropy; half of what that function takes for the same plan.
    log : bool
        Return (T, log); keys err, partial_gw_dist, and fpgwot, the `Result` of the problem with twice this objective.

    Raises
    ------
    ValueError, TypeError
        As in that function.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import old_names
    >>> C, p = 1 - np.eye(4), np.full(4, 0.25)
    >>> old_names.entropic_partial_gromov_wasserstein(C, C, p, p, 0.1, m=0.5).sum().round(6)
    np.float64(0.5)
    """
    T, logged = partial.entropic_partial_gromov_wasserstein(
        C1, C2, p, q, reg=2 * number(reg), m=m, G0=G0, numItermax=numItermax, tol=tol, log=True, verbose=verbose
    )
    return (T, _halved(logged)) if log else T


@contract()
def entropic_partial_gromov_wasserstein2(
    C1: Any,
    C2: Any,
    p: Any,
    q: Any,
    reg: float,
    m: Any = None,
    G0: Any = None,
    numItermax: float = 1000,
    tol: float = 1e-7,
    log: bool = False,
    verbose: bool = False,
) -> Any:
    """Energy of that plan, without the entropy; log["T"] is the plan.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.gromov import old_names
    >>> x, p = np.array([0.0, 1.0, 3.0, 9.0]), np.full(4, 0.25)
    >>> C = abs(x[:, None] - x)
    >>> round(float(old_names.entropic_partial_gromov_wasserstein2(C, 2 * C, p, p, 0.005)), 2)
    12.19
    """
    T, logged = entropic_partial_gromov_wasserstein(C1, C2, p, q, reg, m, G0, numItermax, tol, log=True, verbose=verbose)
    return _value(T, logged, log)


def _halved(logged: dict[str, Any]) -> dict[str, Any]:
    err = logged["err"] if "err" in logged else [float(x) for x in logged["fpgwot"].history[:, 1]]
    return {"err": err, "partial_gw_dist": logged["partial_gw_dist"] / 2, "fpgwot": logged["fpgwot"]}


def _value(T: Any, logged: dict[str, Any], log: bool) -> Any:
    logged["T"] = T
    return (logged["partial_gw_dist"], logged) if log else logged["partial_gw_dist"]
