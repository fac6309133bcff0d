r"""Named formulations as keyword arguments of `solve`: print one to see what the name stands for.

    res = solve(M, C1, C2, **presets.fpgw(m=0.7))

`opw`, `vava` and `opel` need the feature cost, because reward, prior and sink depend on it; they return the whole call:

    res = solve(**presets.opel(D))

All are cases of one objective (the terms that a name does not mention are absent):

.. math:: (1-\alpha) \langle M, T \rangle + \alpha E(T) + reg\, KL(T \| Q) + \tau_1 KL(T1 \| p) + \tau_2 KL(T'1 \| q)
          + \tfrac{\gamma}{2} [tr(T' L_n T) + tr(T L_m T')] + tv\,(\textstyle\sum p + \sum q - 2 \sum T)

====================  =======  ========  ===================  ============  ===========================  ====================
preset                alpha    reg       Q                    tau           set                          extra
====================  =======  ========  ===================  ============  ===========================  ====================
`kot`                 0        >= 0      p q'                 inf           T1 = p, T'1 = q              reg = 0: exact (EMD)
`opw`                 0        lambda2   Gaussian in d        inf           T1 = p, T'1 = q              reward in M
`vava`, `opel`        0        lambda2   mixture prior        inf           the same, with a sink        reward in M
`gw`, `fgw`           1, any   >= 0      p q'                 inf           T1 = p, T'1 = q
`asot`, `rgwot`       a/(2-a)  > 0       1                    inf or price  balanced, semi or free       product loss
`fpgw`                any      >= 0      p q'                 -             T1 <= p, T'1 <= q, sum T=m
`fpgw_tv`             any      >= 0      p q'                 -             T1 <= p, T'1 <= q            price tv
`unbalanced`          any      > 0       p q'                 finite        T >= 0
`semi_relaxed`        any      >= 0      p q'                 inf, 0        T1 = p
`r_fpgw`              (0, 1)   > 0       p q' or prior        -, or finite  as `fpgw`, or T >= 0         rho or prior; gamma
====================  =======  ========  ===================  ============  ===========================  ====================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .temporal import diagonal_cost, gaussian_prior, idm_reward, mixture_prior

INF = float("inf")


def kot(reg: float = 0.05) -> dict[str, Any]:
    r"""Kantorovich optimal transport; Sinkhorn's problem for reg > 0, exact (EMD) for reg = 0.

    .. math:: \min_{T1=p,\,T'1=q}\ \langle M, T \rangle + reg\, KL(T \| p q')

    Examples
    --------
    >>> from fpgwot import presets
    >>> presets.kot(0.1)
    {'alpha': 0.0, 'reg': 0.1}
    """
    return {"alpha": 0.0, "reg": reg}


def gw(reg: float = 0.0) -> dict[str, Any]:
    r"""Gromov-Wasserstein: structures alone, ``solve(None, C1, C2, **presets.gw())``.

    .. math:: \min_{T1=p,\,T'1=q}\ E(T) + reg\, KL(T \| p q')

    References
    ----------
    Peyre, Cuturi, Solomon (2016).
    """
    return {"alpha": 1.0, "reg": reg}


def fgw(alpha: float = 0.5, reg: float = 0.0) -> dict[str, Any]:
    r"""Fused Gromov-Wasserstein.

    .. math:: \min_{T1=p,\,T'1=q}\ (1-\alpha) \langle M, T \rangle + \alpha E(T) + reg\, KL(T \| p q')

    References
    ----------
    Vayer et al. (2019).
    """
    return {"alpha": alpha, "reg": reg}


def fpgw(m: Any, alpha: float = 0.5, reg: float = 0.0) -> dict[str, Any]:
    r"""Fused partial Gromov-Wasserstein with a hard mass.

    .. math:: \min_{T1 \le p,\,T'1 \le q,\,\sum T = m}\ (1-\alpha) \langle M, T \rangle + \alpha E(T) + reg\, KL(T \| p q')

    Parameters
    ----------
    m : float, or "auto"
        Mass to transport, 0 < m <= min(sum p, sum q).
    alpha, reg : float

    References
    ----------
    Chapel, Alaya, Gasso (2020); Bai et al. (2025), arXiv 2502.09934.

    Examples
    --------
    >>> from fpgwot import presets
    >>> presets.fpgw(m=0.7)
    {'alpha': 0.5, 'm': 0.7, 'reg': 0.0}
    """
    return {"alpha": alpha, "m": m, "reg": reg}


def fpgw_tv(lam: float, alpha: float = 0.5, reg: float = 0.0) -> dict[str, Any]:
    r"""Fused partial Gromov-Wasserstein with a price lam of unmatched mass on each side.

    .. math:: \min_{T1 \le p,\,T'1 \le q}\ (1-\alpha) \langle M, T \rangle + \alpha E(T) + reg\, KL(T \| p q')
              + lam\,(\textstyle\sum p + \sum q - 2 \sum T)

    With reg = 0 a pair is matched only where its marginal cost is below 2 lam.

    References
    ----------
    Bai et al. (2024), arXiv 2402.03664; Bai et al. (2025), arXiv 2502.09934. Their price multiplies squared masses.
    """
    return {"alpha": alpha, "tv": lam, "reg": reg}


def unbalanced(tau: Any, reg: float, alpha: float = 0.5) -> dict[str, Any]:
    r"""Unbalanced fused Gromov-Wasserstein with linear KL prices of the marginals.

    .. math:: \min_{T \ge 0}\ (1-\alpha) \langle M, T \rangle + \alpha E(T) + reg\, KL(T \| p q')
              + \tau_1 KL(T1 \| p) + \tau_2 KL(T'1 \| q)

    Parameters
    ----------
    tau : float or pair (rows, columns)
    reg : float
        Positive.
    alpha : float

    Notes
    -----
    UGW (Sejourne, Vialard, Peyre 2021) uses a KL that is quadratic in the plan; this one is linear in it.
    """
    return {"alpha": alpha, "tau": tau, "reg": reg}


def semi_relaxed(alpha: float = 0.5, reg: float = 0.0, tau: float = 0.0) -> dict[str, Any]:
    r"""Semi-relaxed fused Gromov-Wasserstein: every row is sent, columns are free (tau = 0) or priced.

    .. math:: \min_{T1 = p}\ (1-\alpha) \langle M, T \rangle + \alpha E(T) + reg\, KL(T \| p q') + \tau KL(T'1 \| q)

    A positive tau needs reg > 0.

    References
    ----------
    Vincent-Cuaz et al. (2022).
    """
    return {"alpha": alpha, "tau": (INF, tau), "reg": reg}


def asot(alpha: float = 0.3, eps: float = 0.07, lambda_rows: float = INF, lambda_columns: float = 0.05) -> dict[str, Any]:
    r"""ASOT, frames (rows) against steps (columns): ``solve(M, band_structure(n, r), different_structure(k), **asot())``.

    The published code prints one objective and descends on another. What its iteration solves is

    .. math:: \min_T\ (1-a) \langle C, T \rangle + \tfrac{a}{2} \langle C_x T C_y, T \rangle
              + \epsilon\, KL(T \| 1) + \lambda_x KL(T1 \| p) + \lambda_y KL(T'1 \| q)

    With the scale c = 1 - a/2 this is c times our objective with

        alpha = (a/2) / c = a / (2 - a),   reg = eps / c,   tau = lambda / c,   loss "product",   Q = 1,

    so the plan is the same and ASOT's value is c times ours (up to a constant and terms in the mass alone).

    Parameters
    ----------
    alpha : float in [0, 1]
        ASOT's own a, weight of the structure term.
    eps : float
        Entropy weight: .07 in training, .04 in evaluation.
    lambda_rows, lambda_columns : float
        Prices of marginal error; inf is a hard marginal. ASOT relaxes the steps (.05 to .16); frames .1 where they are relaxed.

    Notes
    -----
    M = cosine cost + rho `temporal.diagonal_cost`, rho .15 to .25. The code runs 25 gradient steps; here the problem is solved.

    References
    ----------
    Xu and Gould (2024), arXiv 2404.01518.

    Examples
    --------
    >>> from fpgwot import presets
    >>> presets.asot(alpha=1.0, eps=0.1, lambda_columns=0.2)
    {'alpha': 1.0, 'loss': 'product', 'reg': 0.2, 'reference': 1.0, 'tau': (inf, 0.4)}
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], the weight of the structure term; got {alpha!r}")
    c = 1 - alpha / 2
    out: dict[str, Any] = {"alpha": alpha / (2 - alpha), "loss": "product", "reg": eps / c, "reference": 1.0}
    if lambda_rows < INF or lambda_columns < INF:
        out["tau"] = (lambda_rows / c, lambda_columns / c)
    return out


def rgwot(alpha: float = 0.3, eps: float = 0.07) -> dict[str, Any]:
    r"""RGWOT and VAOT, balanced: ``solve(M, band_structure(n, r), far_structure(m, r), **rgwot())``.

    .. math:: \min_{T1=p,\,T'1=q}\ (1-a) \langle C + \rho d, T \rangle + \tfrac{a}{2} \langle C_x T C_y, T \rangle
              + \epsilon\, KL(T \| 1)

    stated with our alpha as in `asot`. M must contain rho times `temporal.diagonal_cost`, rho .35 in VAOT. That RGWOT shares
    these terms with VAOT, by the same authors, is inferred: its own code is not public.

    References
    ----------
    arXiv 2507.15540 (RGWOT), arXiv 2503.16832 (VAOT).
    """
    return asot(alpha, eps, INF, INF)


def r_fpgw(
    m: Any = None,
    tau: Any = None,
    *,
    alpha: float = 0.3,
    reg: float = 0.03,
    shape: tuple[int, int] | None = None,
    rho: float = 0.0,
    prior: Any = None,
    smoothness: float = 0.0,
    normalize: str | None = "mean",
) -> dict[str, Any]:
    r"""R-FPGWOT, regularised fused partial Gromov-Wasserstein, in the form that this project defines.

    .. math:: \min_T\ (1-\alpha) \langle M, T \rangle + \alpha E(T) + reg\, KL(T \| Q) + \tau_1 KL(T1 \| p) + \tau_2 KL(T'1 \| q)
              + \tfrac{\gamma}{2} [tr(T' L_n T) + tr(T L_m T')]

    over T >= 0 (finite tau), or over T1 <= p, T'1 <= q, sum T = m (hard mass).

    Parameters
    ----------
    m : float or "auto", optional
        Hard mass. Give m or tau, one of the two.
    tau : float or pair, optional
        Price of marginal error.
    alpha, reg : float
        In units of the mean cost with normalize="mean".
    shape : (n, m), optional
        Numbers of frames, needed with rho.
    rho : float
        Price of being off the diagonal, in the units of reg: adds rho <d, T>, d_ij = |i/n - j/m|, through the reference
        Q_ij = exp(-rho d_ij/reg)/(n m). It is the linear term of that name, and also a Laplace prior of scale b = reg/(rho s),
        s^2 = 1/n^2 + 1/m^2. 0 where the order of steps is not known.
    prior : array (n, m), optional
        Another reference plan Q, for example `temporal.laplace_prior`. Not together with rho.
    smoothness : float
        gamma.
    normalize : str, optional
        As in `solve`.

    Notes
    -----
    The source's own equation could not be read; the terms follow its public descriptions.

    References
    ----------
    arXiv 2509.24382.

    Examples
    --------
    >>> from fpgwot import presets
    >>> presets.r_fpgw(m=0.5)
    {'alpha': 0.3, 'reg': 0.03, 'normalize': 'mean', 'm': 0.5}
    """
    if (m is None) == (tau is None):
        raise ValueError("r_fpgw relaxes the marginals one way: pass m (hard mass) or tau (price of marginal error)")
    out: dict[str, Any] = {"alpha": alpha, "reg": reg, "normalize": normalize}
    out |= {"m": m} if tau is None else {"tau": tau}
    if rho < 0:
        raise ValueError(f"rho must be 0 or more, got {rho!r}")
    if rho > 0:
        if prior is not None:
            raise ValueError("rho and prior are two ways to give the reference plan: pass one of them")
        if shape is None or not reg > 0:
            raise ValueError("rho is set through the reference plan: it needs shape=(n, m) and reg > 0")
        out["reference"] = np.exp(-rho / reg * diagonal_cost(*shape)) / (shape[0] * shape[1])
    elif prior is not None:
        out["reference"] = prior
    if smoothness != 0:
        out["smoothness"] = smoothness
    return out


def opw(M: Any, lambda1: float = 50.0, lambda2: float = 0.1, std: float = 1.0) -> dict[str, Any]:
    r"""Order-preserving Wasserstein distance: the whole call.

    .. math:: \min_{T1=p,\,T'1=q}\ \langle M - S, T \rangle + \lambda_2 KL(T \| Q),\quad S_{ij} = \lambda_1/(d_{ij}^2 + 1)

    with the Gaussian prior Q of `temporal.gaussian_prior` and uniform weights.

    Parameters
    ----------
    M : array (n, m)
        Feature cost.
    lambda1, lambda2, std : float
        Weight of the reward, entropy weight, and standard deviation of the prior.

    References
    ----------
    Su and Hua (2017).
    """
    D = np.asarray(M, dtype=float)
    return _call(D - idm_reward(D, 1.0, lambda1), lambda2, gaussian_prior(D.shape[0], D.shape[1], std))


def vava(
    M: Any,
    step: int = 0,
    lambda1: float = 1.0,
    lambda2: float = 0.1,
    zeta: float = 0.5,
    virtual_distance: float = 5.0,
    std: float = 2.0,
) -> dict[str, Any]:
    r"""VAVA's transport problem with its sink: the whole call. The plan is (n + 1, m + 1), row 0 and column 0 are the sink.

    .. math:: \min_{T1=1/(n+1),\,T'1=1/(m+1)}\ \langle D - S, T \rangle + \Lambda_2 KL(T \| Q),\quad \Lambda_2 = \lambda_2 n m / 4

    whose solution is the scaling of the published kernel Q * exp((S - D)/Lambda2). D is M with a first row and column of cost
    zeta, S the reward of weight lambda1 (n + m), Q the mixture of Gaussian priors; see `temporal.idm_reward`,
    `temporal.mixture_prior`.

    Parameters
    ----------
    M : array (n, m)
        Feature cost; published: squared Euclidean distances, summed over features.
    step : int
        Training step, which sets phi = 0.999^floor(sqrt(step + 1)) within [.001, .999].
    lambda1, lambda2, zeta, virtual_distance, std : float
        As published: reward per frame, entropy weight in units of n m/4, cost of the sink, its distance, width of the prior.

    Notes
    -----
    The sink has the weight of one frame: it can absorb one frame of each side, however much background there is
    (`solve(..., sink=zeta)` has no such limit). Lambda2 is large, so the plan is mostly the prior. Unlike the code, nothing is
    clipped and the scaling runs to convergence. `solve` returns the plan; drop its first row and column for the frames.

    References
    ----------
    Liu et al. (2022), arXiv 2111.09301.
    """
    phi = float(np.clip(0.999 ** int(np.sqrt(step + 1)), 0.001, 0.999))
    return _with_sink(M, phi, "gaussian", std, lambda1, lambda2, zeta, virtual_distance)


def opel(
    M: Any,
    step: int = 0,
    lambda1: float = 1.0,
    lambda2: float = 0.1,
    zeta: float = 0.5,
    virtual_distance: float = 5.0,
    b: float = 2.0,
) -> dict[str, Any]:
    r"""OPEL's transport problem with its sink: the whole call. The plan is (n + 1, m + 1), row 0 and column 0 are the sink.

    As `vava`, with Laplace priors of scale b and phi = 0.999^floor(sqrt(100 step + 1)) within [.001, .999].

    Parameters
    ----------
    M : array (n, m)
        Feature cost; published: squared Euclidean distances, summed over features.
    step : int
        Training iteration (the code passes it as epoch).
    lambda1, lambda2, zeta, virtual_distance : float
        As in `vava`. The paper's text has lambda2 n m, its code lambda2 n m/4; this is the code's.
    b : float
        Scale of the Laplace priors.

    References
    ----------
    Chowdhury et al. (2024), OPEL, NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot import presets, solve
    >>> D = np.random.default_rng(0).random((6, 8))
    >>> frames = solve(**presets.opel(D)).plan[1:, 1:]
    >>> frames.shape
    (6, 8)
    """
    phi = float(np.clip(0.999 ** int(np.sqrt(100 * step + 1)), 0.001, 0.999))
    return _with_sink(M, phi, "laplace", b, lambda1, lambda2, zeta, virtual_distance)


def _with_sink(
    M: Any, phi: float, kind: str, b: float, lambda1: float, lambda2: float, zeta: float, virtual_distance: float
) -> dict[str, Any]:
    D = np.asarray(M, dtype=float)
    n, m = D.shape
    Q = mixture_prior(D, phi, kind, b, virtual_distance)
    S = idm_reward(D, phi, lambda1 * (n + m), virtual_distance)
    return _call(np.pad(D, ((1, 0), (1, 0)), constant_values=zeta) - S, lambda2 * n * m / 4, Q)


def _call(M: np.ndarray, reg: float, reference: np.ndarray) -> dict[str, Any]:
    n, m = M.shape
    return {"M": M, "p": np.full(n, 1 / n), "q": np.full(m, 1 / m), "reg": reg, "reference": reference}
