"""Temporal costs, priors and rewards between the frames of two sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from .structures import check_sizes

KINDS = ("laplace", "gaussian")
SINK_FACTOR = 1.5  # VAVA places the sink 1.5 thresholds away from every frame


def diagonal_cost(n: int, m: int, power: float = 1) -> np.ndarray:
    r"""Offset of each pair of frames from the diagonal.

    .. math:: d_{ij} = |i/n - j/m|^{power},\quad i = 1..n,\ j = 1..m

    Parameters
    ----------
    n, m : int
        Numbers of frames.
    power : float
        1 is the temporal cost of ASOT and VAOT; times a weight rho it is added to the feature cost. 2 penalises far pairs more.

    Returns
    -------
    array (n, m)
        In [0, 1); 0 for the two last frames.

    Notes
    -----
    With n = m counting from 0 or from 1 gives the same. With n != m the two differ by |1/n - 1/m|.

    References
    ----------
    Xu and Gould (2024), arXiv 2404.01518; Su and Hua (2017), order-preserving Wasserstein distance.

    Examples
    --------
    >>> from fpgwot.temporal import diagonal_cost
    >>> diagonal_cost(2, 4)
    array([[0.25, 0.  , 0.25, 0.5 ],
           [0.75, 0.5 , 0.25, 0.  ]])
    """
    check_sizes(n, m)
    if not power > 0:
        raise ValueError(f"power must be positive, got {power!r}")
    d = np.abs(np.subtract.outer(np.arange(1, n + 1) / n, np.arange(1, m + 1) / m))
    return d if power == 1 else d**power


def laplace_prior(n: int, m: int, b: float = 2.0, normalize: bool = False) -> np.ndarray:
    r"""Laplace prior around the diagonal, the reference plan Q of OPEL's consistency term.

    .. math:: Q_{ij} = \frac{1}{2b} \exp(-z_{ij}/b),\quad z_{ij} = |i/n - j/m| / s,\quad s = \sqrt{1/n^2 + 1/m^2}

    Parameters
    ----------
    n, m : int
        Numbers of frames.
    b : float
        Scale in units of s, that is in frames (about 1.4 frames each for n = m). OPEL uses 2.
    normalize : bool
        False: the density as published. True: divided by its sum, a plan of mass 1. The factor changes nothing where the
        mass is fixed (balanced, hard mass); where it is free, a smaller Q asks for a lighter plan.

    Returns
    -------
    array (n, m)
        Positive.

    Notes
    -----
    reg KL(T || Q) equals reg KL(T || 1) + rho <d, T> with rho = reg/(b s), up to terms in the mass alone: a Laplace prior is
    a linear temporal cost.

    References
    ----------
    Chowdhury et al. (2024), OPEL, NeurIPS.

    Examples
    --------
    >>> from fpgwot.temporal import laplace_prior
    >>> laplace_prior(3, 3, b=2.0).round(4)
    array([[0.25  , 0.1755, 0.1233],
           [0.1755, 0.25  , 0.1755],
           [0.1233, 0.1755, 0.25  ]])
    """
    return _prior(n, m, "laplace", b, normalize)


def gaussian_prior(n: int, m: int, std: float = 2.0, normalize: bool = False) -> np.ndarray:
    r"""Gaussian prior around the diagonal, the reference plan Q of OPW (std 1) and of VAVA's consistency term (std 2).

    .. math:: Q_{ij} = \frac{1}{std \sqrt{2\pi}} \exp(-z_{ij}^2 / (2\, std^2)),\quad z_{ij} = |i/n - j/m| / s

    Parameters
    ----------
    n, m : int
        Numbers of frames.
    std : float
        Standard deviation in units of s = sqrt(1/n^2 + 1/m^2).
    normalize : bool
        As in `laplace_prior`.

    Returns
    -------
    array (n, m)
        Positive, or 0 where the density underflows (z/std above about 38): such pairs are forbidden by `solve`.

    References
    ----------
    Su and Hua (2017); Liu et al. (2022), VAVA, arXiv 2111.09301.

    Examples
    --------
    >>> from fpgwot.temporal import gaussian_prior
    >>> gaussian_prior(2, 2, std=1.0, normalize=True).round(4)
    array([[0.2811, 0.2189],
           [0.2189, 0.2811]])
    """
    return _prior(n, m, "gaussian", std, normalize)


def optimality_offset(M: Any, sink: bool = False) -> np.ndarray:
    r"""Offset of each column from the nearest column of the row (one-sided: nothing is symmetric in rows and columns).

    .. math:: o_{ij} = |j - t_i| / m,\quad t_i = 1 + \operatorname{argmin}_l M_{il}

    with l counted from 0 and j from 1, so that without a sink o is 0 at the nearest column.

    Parameters
    ----------
    M : array (n, m)
        Feature cost of the real frames. Of equal costs the first column counts.
    sink : bool
        True: the array (n + 1, m + 1) of the published VAVA code, with the sink first. There t_i keeps its value although the
        columns have moved on by one, so o is 0 at the column *before* the nearest (a slip of that code, kept here because
        `presets.vava` and `presets.opel` stand for it), and t = 1 for the sink's own row.

    Returns
    -------
    array (n, m), or (n + 1, m + 1)

    References
    ----------
    Liu et al. (2022), VAVA, arXiv 2111.09301, optimality prior.

    Examples
    --------
    >>> from fpgwot.temporal import optimality_offset
    >>> optimality_offset([[1.0, 0.0, 2.0, 3.0]])
    array([[0.25, 0.  , 0.25, 0.5 ]])
    """
    M = _cost(M)
    nearest = 1 + M.argmin(1)
    if sink:
        nearest = np.concatenate(([1], nearest))
    m = M.shape[1] + bool(sink)
    return np.abs(np.arange(1, m + 1) / m - nearest[:, None] / m)


def mixture_prior(M: Any, phi: float, kind: str = "laplace", b: float = 2.0, virtual_distance: float | None = None) -> np.ndarray:
    r"""Mixture of the consistency and the optimality prior, the reference plan of VAVA (gaussian) and OPEL (laplace).

    .. math:: Q_{ij} = \phi\, g(d_{ij}/s) + (1-\phi)\, g(o_{ij}/s)

    with g the Laplace density exp(-z/b)/(2b) or the Gaussian one of standard deviation b.

    Parameters
    ----------
    M : array (n, m)
        Feature cost; only the nearest column of each row is read.
    phi : float in [0, 1]
        1: time alone; 0: nearest neighbours alone. Training starts near 1 and lowers it.
    kind : "laplace" or "gaussian"
    b : float
        Scale of the Laplace density, or standard deviation of the Gaussian one.
    virtual_distance : float, optional
        None: no sink, shape (n, m). A number v: the published array (n + 1, m + 1) with the sink first; its row and column hold
        g(1.5 h/s) with h = 2 v / (n + m + 2), and the corner follows the formula above.

    Returns
    -------
    array (n, m), or (n + 1, m + 1)

    References
    ----------
    Liu et al. (2022), VAVA; Chowdhury et al. (2024), OPEL.

    Examples
    --------
    >>> from fpgwot.temporal import mixture_prior
    >>> mixture_prior([[0.0, 1.0], [0.0, 1.0]], phi=0.5).round(4)
    array([[0.25  , 0.1755],
           [0.2128, 0.2128]])
    """
    d, o = _offsets(M, phi, virtual_distance)
    s = _unit(*d.shape)
    Q = phi * _density(d / s, kind, b) + (1 - phi) * _density(o / s, kind, b)
    if virtual_distance is not None:
        _fill_sink(Q, float(_density(np.array(_sink_offset(d.shape, virtual_distance) / s), kind, b)))
    return Q


def idm_reward(M: Any, phi: float, lambda1: float, virtual_distance: float | None = None) -> np.ndarray:
    r"""Reward of pairs near the diagonal and near the nearest column (inverse difference moment); subtract it from the cost.

    .. math:: S_{ij} = \lambda_1 \left( \frac{\phi}{d_{ij}^2 + 1} + \frac{1-\phi}{o_{ij}^2 + 1} \right)

    Parameters
    ----------
    M : array (n, m)
        Feature cost; only the nearest column of each row is read.
    phi : float in [0, 1]
        Weight of the diagonal; phi = 1 is OPW.
    lambda1 : float
        Weight as it stands in the formula. VAVA and OPEL use n + m (real frames), OPW 50.
    virtual_distance : float, optional
        None: no sink. A number v: shape (n + 1, m + 1) with the sink first, whose row and column hold
        lambda1/((1.5 h)^2 + 1), h = 2 v/(n + m + 2); the corner follows the formula.

    Returns
    -------
    array (n, m), or (n + 1, m + 1)
        Between lambda1/2 and lambda1 without sink: d and o are at most 1, so the reward is flat.

    References
    ----------
    Su and Hua (2017), OPW; Liu et al. (2022), VAVA.

    Examples
    --------
    >>> from fpgwot.temporal import idm_reward
    >>> idm_reward([[0.0, 1.0], [0.0, 1.0]], phi=1.0, lambda1=1.0)
    array([[1. , 0.8],
           [0.8, 1. ]])
    """
    d, o = _offsets(M, phi, virtual_distance)
    S = lambda1 * (phi / (d**2 + 1) + (1 - phi) / (o**2 + 1))
    if virtual_distance is not None:
        _fill_sink(S, lambda1 / (_sink_offset(d.shape, virtual_distance) ** 2 + 1))
    return S


# -------------------------------------------------------------------------------------------------------------- structures


# ------------------------------------------------------------------------------------------------------------------ inside


def _cost(M: Any) -> np.ndarray:
    M = np.asarray(M, dtype=float)
    if M.ndim != 2 or 0 in M.shape:
        raise ValueError(f"M must be a cost matrix (n, m), got shape {M.shape}")
    if np.isnan(M).any():
        raise ValueError("M has NaN entries")
    return M


def _unit(n: int, m: int) -> float:
    return float(np.sqrt(1 / n**2 + 1 / m**2))


def _density(z: np.ndarray, kind: str, b: float) -> np.ndarray:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose one of {KINDS}")
    if not b > 0:
        raise ValueError(f"the scale of a prior must be positive, got {b!r}")
    if kind == "laplace":
        return np.exp(-z / b) / (2 * b)
    return np.exp(-(z**2) / (2 * b**2)) / (b * np.sqrt(2 * np.pi))


def _prior(n: int, m: int, kind: str, b: float, normalize: bool) -> np.ndarray:
    Q = _density(diagonal_cost(n, m) / _unit(n, m), kind, b)
    return Q / Q.sum() if normalize else Q


def _offsets(M: Any, phi: float, virtual_distance: float | None) -> tuple[np.ndarray, np.ndarray]:
    if not 0 <= phi <= 1:
        raise ValueError(f"phi must be in [0, 1], the weight of the diagonal; got {phi!r}")
    if virtual_distance is not None and not virtual_distance > 0:
        raise ValueError(f"virtual_distance must be positive, got {virtual_distance!r}")
    o = optimality_offset(M, sink=virtual_distance is not None)
    return diagonal_cost(*o.shape), o


def _sink_offset(shape: tuple[int, ...], virtual_distance: float) -> float:
    return SINK_FACTOR * 2 * virtual_distance / (shape[0] + shape[1])


def _fill_sink(A: np.ndarray, value: float) -> None:
    A[0, 1:] = A[1:, 0] = value
