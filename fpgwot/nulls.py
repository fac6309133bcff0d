"""How much to match, told by recordings that have nothing in common: the price at which they would be matched is too much.

Recordings without a relation are matched too where mass asks for it: a few of their frames are alike by chance. What the next bit
of mass costs them (`Result.potentials[2]`, dF/dm) is a price that related recordings need not pay for what belongs together:

    price = null_price(M, C1, C2, alpha=.1, reg=.01)
    result = solve(M, C1, C2, alpha=.1, reg=.01, sink=price)

Unlike m="auto", which looks for a jump of the price, this needs no gap between the costs of partners and of background.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SHARE = 0.2  # of the largest mass; chosen on simulated pairs (see `null_price`)


def unrelated_costs(M: Any, n_null: int = 4, *, power: int | None = None, random_state: Any = None) -> np.ndarray:
    r"""Costs between recordings like those of M that have nothing to do with each other.

    .. math:: M^{power} = r 1' + 1 c' + U S V' \quad\to\quad N^{power} = r 1' + 1 c' + U S^{1/2} Q S^{1/2} V'

    r and c are means of rows and columns, Q is a random rotation. With M the squared distances (power 1) or distances (2) of
    features that is, up to the units of its axes, a rotation of the features of one recording: each keeps its course in time, its
    near and far frames and those that are far from everything; which of them are alike in the two becomes chance. No features are
    needed.
    One singular value decomposition of M, and two products of its size for each null.

    Parameters
    ----------
    M : array (n, m)
        Feature costs. Nulls of costs of 0 or more are 0 or more and have the mean of M.
    n_null : int
        How many.
    power : 1, 2 or None
        1 for squared distances and cosine costs, 2 for distances; None: the one for which the spectrum S is shorter.
    random_state : int or numpy Generator

    Returns
    -------
    array (n_null, n, m)

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot.nulls import unrelated_costs
    >>> x = np.random.default_rng(0).standard_normal((20, 3))
    >>> M = ((x[:, None] - x) ** 2).sum(2)  # a recording and itself: frame i is frame i
    >>> N = unrelated_costs(M, random_state=0)
    >>> N.shape, bool((M.argmin(1) == np.arange(20)).all()), bool((N[0].argmin(1) == np.arange(20)).mean() < 0.5)
    ((4, 20, 20), True, True)
    """
    M = np.asarray(M, dtype=float)
    if M.ndim != 2 or 0 in M.shape or not np.isfinite(M).all():
        raise ValueError(f"M must be a finite array (n, m), got shape {M.shape}")
    if n_null < 1 or power not in (None, 1, 2):
        raise ValueError(f"n_null must be 1 or more and power 1, 2 or None, got {n_null!r}, {power!r}")
    is_positive = bool((M >= 0).all())
    if power == 2 and not is_positive:
        raise ValueError("power=2 is for distances, but M has negative entries: pass power=1")
    choices = [power] if power is not None else [1, 2] if is_positive else [1]
    power, base, left, right = min((_factors(M, k) for k in choices), key=_length)
    rng, out = np.random.default_rng(random_state), np.empty((n_null, *M.shape))
    for k in range(n_null):
        N = base + left @ _rotation(left.shape[1], rng) @ right.T
        if is_positive:
            N = np.maximum(N, 0) ** (1 / power)
            N *= M.mean() / N.mean() if N.any() else 1.0
        out[k] = N
    return out


def null_price(
    M: Any,
    C1: Any = None,
    C2: Any = None,
    p: Any = None,
    q: Any = None,
    *,
    alpha: Any = None,
    loss: str = "square",
    reg: float = 0.0,
    reference: Any = None,
    normalize: str | None = None,
    share: float = SHARE,
    n_null: int = 4,
    power: int | None = None,
    random_state: Any = None,
) -> Any:
    r"""The price of mass up to which a pair of recordings is better matched than a pair without relation: pass it as `sink`.

    .. math:: price = \mathrm{mean}_k\ \frac{dF_k}{dm}\Big(m = share \cdot \min(\textstyle\sum p, \sum q)\Big)

    F_k(m) is the least objective at mass m with `unrelated_costs` in the place of M and the same structures. The first bits of
    mass are the pairs that are alike by chance, so that a price at a small share is strict, at a large one generous.

    The default share was chosen on simulated and recorded pairs of known overlap (docs/develop/kernel_log.md): with distances
    mass is off by .04 to .15 there where `m="auto"` is off by .11 to .33. Where the price of mass jumps both are right to a few
    per cent; on one of the sets with cosine costs (mocap6) `m="auto"` was better, .08 against .14.

    Parameters
    ----------
    M : array (n, m), or (B, n, m)
        Feature costs, on the host. Structures alone have no costs to pair anew: pure Gromov-Wasserstein problems need m.
    C1, C2, p, q, alpha, loss, reg, reference, normalize
        As in `solve`, and the same as in the call that gets the price; arrays (B, ...) where M has a batch.
    share : float in (0, 1)
        Part of the largest mass at which the nulls' price is read.
    n_null, power, random_state
        As in `unrelated_costs`. Costs n_null solves at a small mass.

    Returns
    -------
    float, or array (B,)

    Examples
    --------
    >>> import numpy as np
    >>> from fpgwot import solve
    >>> from fpgwot.nulls import null_price
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((2, 40, 8))
    >>> y[:20] = x[:20] + 0.1 * rng.standard_normal((20, 8))  # one half has partners
    >>> M = np.linalg.norm(x[:, None] - y, axis=2)
    >>> price = null_price(M, reg=0.05, random_state=0)
    >>> round(float(solve(M, reg=0.05, sink=price).mass), 1)
    0.5
    """
    from .api import solve

    M = np.asarray(M, dtype=float)
    if M.ndim not in (2, 3) or 0 in M.shape:
        raise ValueError(f"M must be an array (n, m), or (B, n, m); got shape {M.shape}")
    if normalize not in (None, "mean"):  # nulls have the mean of M, not its largest entry
        raise NotImplementedError(f"normalize must be None or 'mean', got {normalize!r}; divide M and the structures yourself")
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share!r}")
    stack = M if M.ndim == 3 else M[None]
    # the same rotations for every pair, so that a price does not depend on the place in the batch
    is_number = isinstance(random_state, (int, np.integer))
    seed = random_state if is_number else int(np.random.default_rng(random_state).integers(2**62))
    nulls = np.concatenate([unrelated_costs(x, n_null, power=power, random_state=seed) for x in stack])
    totals = [np.ones(()) if w is None else np.asarray(w, dtype=float).sum(-1) for w in (p, q)]
    m = np.repeat(np.broadcast_to(share * np.minimum(*totals), len(stack)), n_null)

    def repeated(x: Any, single: int) -> Any:
        """Once for each null, where the array has a batch axis."""
        is_batch = not np.isscalar(x) and x is not None and np.ndim(x) > single
        return np.repeat(np.asarray(x), n_null, axis=0) if is_batch else x

    C1, C2, reference = (repeated(x, 2) for x in (C1, C2, reference))
    p, q, alpha = repeated(p, 1), repeated(q, 1), repeated(alpha, 0)
    found = solve(
        nulls, C1, C2, p, q, alpha=alpha, loss=loss, m=m, reg=reg, reference=reference, normalize=normalize, tol=1e-3,
        on_fail="ignore",
    )  # fmt: skip
    price = np.asarray(found.potentials[2]).reshape(len(stack), n_null).mean(1)
    return price if M.ndim == 3 else float(price[0])


# ------------------------------------------------------------------------------------------------------------------- inside


def _factors(M: np.ndarray, power: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """power, r 1' + 1 c', U S^(1/2), V S^(1/2) of M^power, without directions that are rounding."""
    S = M**power
    base = S.mean(1, keepdims=True) + S.mean(0, keepdims=True) - S.mean()
    U, s, Vt = np.linalg.svd(S - base, full_matrices=False)
    used = s > 1e-6 * max(s[0], 1e-12 * np.abs(S).max())
    root = np.sqrt(s[used])
    return power, base, U[:, used] * root, Vt[used].T * root


def _length(factors: tuple[int, np.ndarray, np.ndarray, np.ndarray]) -> float:
    """Effective number of entries of the spectrum: (sum s)^2 / sum s^2."""
    s = (factors[2] ** 2).sum(0)
    return float(s.sum() ** 2 / (s**2).sum()) if len(s) else 0.0


def _rotation(k: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform among orthogonal matrices: QR of a Gaussian one, with the signs of R's diagonal taken out."""
    Q, R = np.linalg.qr(rng.standard_normal((k, k)))
    return np.asarray(Q * np.where(np.diag(R) < 0, -1.0, 1.0))
