"""Structures of one sequence: how far apart its frames are in time."""

from __future__ import annotations

from typing import Any

import numpy as np


def laplace_structure(n: int, scale: float = 0.05) -> np.ndarray:
    r"""Kernel of temporal neighbourhood for the square loss.

    .. math:: C_{ik} = \exp(-|i-k| / (scale \cdot n))

    Parameters
    ----------
    n : int
        Number of frames.
    scale : float
        Width as a share of the sequence.

    Returns
    -------
    array (n, n)
        Symmetric, positive definite. 1 - C gives the same energy with the square loss.

    Examples
    --------
    >>> from fpgwot.temporal import laplace_structure
    >>> laplace_structure(3, 1 / 3).round(3)
    array([[1.   , 0.368, 0.135],
           [0.368, 1.   , 0.368],
           [0.135, 0.368, 1.   ]])
    """
    check_sizes(n)
    if not scale > 0:
        raise ValueError(f"scale must be positive, a share of the sequence; got {scale!r}")
    return np.exp(-_lags(n) / (scale * n))


def segment_structure(X: Any, scale: float = 0.1, sharpness: float = 2.0) -> np.ndarray:
    r"""Kernel of segments for the square loss: frames near one another in time *and* alike.

    .. math:: C_{ik} = \exp(-|i-k| / (scale \cdot n))\ \exp(-sharpness\ (d_{ik} / \bar d)^2),\quad d_{ik} = \|x_i - x_k\|

    with the mean distance over all pairs of frames as unit. A boundary between two steps shows as a drop although the frames
    are neighbours, so that a step goes to a step as a whole, and not to parts of two.

    Parameters
    ----------
    X : array (n, d)
        Features of the frames.
    scale : float
        Reach in time as a share of the sequence.
    sharpness : float
        0: time alone (`laplace_structure`).

    Returns
    -------
    array (n, n)
        Symmetric, ones on the diagonal, positive semi-definite (a product of two such kernels).

    Examples
    --------
    >>> from fpgwot.temporal import segment_structure
    >>> segment_structure([[0.0], [0.0], [1.0]], scale=1e9).round(3)
    array([[1., 1., 0.],
           [1., 1., 0.],
           [0., 0., 1.]])
    """
    X = np.asarray(X, dtype=float)
    if X.ndim != 2 or 0 in X.shape or not np.isfinite(X).all():
        raise ValueError(f"X must be a finite array (frames, features), got shape {X.shape}")
    if not 0 <= sharpness < np.inf:
        raise ValueError(f"sharpness must be 0 or more and finite, got {sharpness!r}")
    X = X - X.mean(0)
    squares = np.maximum((X**2).sum(1)[:, None] + (X**2).sum(1) - 2 * X @ X.T, 0)
    np.fill_diagonal(squares, 0)
    mean = np.sqrt(squares).mean()
    alike = np.exp(-sharpness * squares / (mean**2 if mean > 0 else 1.0))
    return laplace_structure(len(X), scale) * (alike + alike.T) / 2


def band_structure(n: int, radius: float) -> np.ndarray:
    r"""Neighbours in time, the frame structure of ASOT and VAOT (product loss).

    .. math:: C_{ik} = 1/r \text{ if } 1 \le |i-k| \le \lfloor n r \rfloor, \text{ else } 0

    Parameters
    ----------
    n : int
        Number of frames.
    radius : float in (0, 1]
        r, as a share of the sequence: ASOT .04, VAOT .02.

    Returns
    -------
    array (n, n)
        Symmetric, zero diagonal; indefinite.

    Raises
    ------
    ValueError
        Where n r < 1: the band would be empty and the structure term would vanish without notice. This happens with
        published defaults (n = 32, r = .02).

    References
    ----------
    Xu and Gould (2024), arXiv 2404.01518.

    Examples
    --------
    >>> from fpgwot.temporal import band_structure
    >>> band_structure(4, 0.25)
    array([[0., 4., 0., 0.],
           [4., 0., 4., 0.],
           [0., 4., 0., 4.],
           [0., 0., 4., 0.]])
    """
    return _near(n, radius) / radius


def far_structure(n: int, radius: float) -> np.ndarray:
    r"""Frames that are not neighbours in time, the second structure of VAOT (product loss).

    .. math:: C_{jl} = 0 \text{ if } 1 \le |j-l| \le \lfloor n r \rfloor, \text{ else } 1

    Parameters
    ----------
    n : int
        Number of frames.
    radius : float in (0, 1]
        As in `band_structure`.

    Returns
    -------
    array (n, n)
        Symmetric, with ones on the diagonal: two neighbours that go to one and the same frame pay as well.

    Raises
    ------
    ValueError
        Where n r < 1.

    References
    ----------
    VAOT, arXiv 2503.16832.

    Examples
    --------
    >>> from fpgwot.temporal import far_structure
    >>> far_structure(3, 0.34)
    array([[1., 0., 1.],
           [0., 1., 0.],
           [1., 0., 1.]])
    """
    return 1.0 - _near(n, radius)


def different_structure(k: int) -> np.ndarray:
    r"""All different steps are equally far apart, the step structure of ASOT (product loss).

    .. math:: C = 1 1' - I

    Parameters
    ----------
    k : int
        Number of steps (clusters).

    Returns
    -------
    array (k, k)

    References
    ----------
    Xu and Gould (2024), arXiv 2404.01518.

    Examples
    --------
    >>> from fpgwot.temporal import different_structure
    >>> different_structure(2)
    array([[0., 1.],
           [1., 0.]])
    """
    check_sizes(k)
    return 1.0 - np.eye(k)


# ------------------------------------------------------------------------------------------------------------------ inside


def check_sizes(*sizes: int) -> None:
    """ValueError where a number of frames is not an integer of 1 or more."""
    for n in sizes:
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"a number of frames must be an integer, 1 or more; got {n!r}")


def _lags(n: int) -> np.ndarray:
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def _near(n: int, radius: float) -> np.ndarray:
    check_sizes(n)
    if not 0 < radius <= 1:
        raise ValueError(f"radius must be in (0, 1], a share of the sequence; got {radius!r}")
    width = int(np.floor(n * radius + 1e-9))
    if width < 1:
        raise ValueError(
            f"a band of radius {radius:g} on {n} frames has width 0, so the structure term would vanish: "
            f"take radius >= {1 / n:.3g}, or at least {int(np.ceil(1 / radius - 1e-9))} frames"
        )
    lags = _lags(n)
    return ((lags >= 1) & (lags <= width)).astype(float)
