"""Simulated recordings of one procedure, with the truth about which frames correspond. Imports NumPy only."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import erf
from typing import Any

import numpy as np

# Step annotations of web videos (COIN) and of recorded kitchens: keyword arguments of `make_procedures`.
STATISTICS: dict[str, dict[str, float]] = {
    "web": {
        "background": 0.57,
        "background_sd": 0.23,
        "repeat": 0.39,
        "drop": 0.183,
        "order_agreement": 0.88,
        "duration_sd": 0.87,
    },
    "kitchen": {
        "background": 0.18,
        "background_sd": 0.13,
        "repeat": 0.13,
        "drop": 0.042,
        "order_agreement": 0.88,
        "duration_sd": 0.46,
    },
}
AR = 0.8  # correlation of the noise of neighbouring frames
DRIFT = 0.7  # change of the mean over one half of a step, in units of the spread of the prototypes
OFFSET = 0.5  # sd of the constant that each recording adds to all its frames


@dataclass(frozen=True)
class Procedures:
    """Recordings of one procedure.

    Attributes
    ----------
    sequences : list of arrays (n_i, dim)
        One row of features per frame.
    labels : list of int arrays (n_i,)
        Step of each frame, 1 .. n_steps in the canonical order; 0 is background.
    n_steps : int
    """

    sequences: list[np.ndarray] = field(repr=False)
    labels: list[np.ndarray] = field(repr=False)
    n_steps: int

    def __len__(self) -> int:
        return len(self.sequences)

    def correspondence(self, i: int, j: int, tolerance: float = 0.1) -> np.ndarray:
        """True matches of recordings i and j, a boolean array (n_i, n_j).

        Two frames match where they show the same step, in the same occurrence (the r-th time that the step is done in its
        recording), at about the same relative position: frame a of an occurrence of l frames, a = 0 .. l - 1, covers the
        interval [a/l, (a+1)/l] of the step, and two frames match where their intervals overlap or are less than `tolerance`
        apart. One-to-many is the rule where lengths differ; every frame of an occurrence that both recordings have has a
        partner. Background and occurrences that the other recording lacks have none.

        Parameters
        ----------
        i, j : int
        tolerance : float
            In units of the step. 0: the intervals must overlap; 1: all frames of the occurrence match.
        """
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be 0 or more, got {tolerance!r}")
        (step, turn, start, end), (step_, turn_, start_, end_) = _positions(self.labels[i]), _positions(self.labels[j])
        same = (step[:, None] == step_) & (turn[:, None] == turn_) & (step > 0)[:, None]
        gap = np.maximum(start[:, None] - end_, start_ - end[:, None])
        return same & (gap < tolerance + (-1e-9 if tolerance == 0 else 1e-9))

    def partner_share(self, i: int, j: int) -> tuple[float, float]:
        """Share of the frames of i, and of j, that have a partner in the other."""
        match = self.correspondence(i, j)
        return float(match.any(1).mean()), float(match.any(0).mean())

    def true_mass(self, i: int, j: int) -> float:
        """Largest mass that a plan with T1 <= 1/n_i, T'1 <= 1/n_j can carry on true matches alone.

        Each occurrence that both recordings have adds the smaller of its two shares of the frames. At most
        min(`partner_share`): a step that is long in one recording and short in the other cannot be matched in full.
        """
        shares = []
        for labels in (self.labels[i], self.labels[j]):
            step, turn, _, _ = _positions(labels)
            keys, counts = np.unique(np.stack((step, turn), axis=1)[step > 0], axis=0, return_counts=True)
            shares.append({tuple(k): c / len(labels) for k, c in zip(keys.tolist(), counts.tolist(), strict=True)})
        return float(sum(min(share, shares[1].get(key, 0.0)) for key, share in shares[0].items()))

    def statistics(self) -> dict[str, float]:
        """What the labels realise: the statistics that `make_procedures` takes, measured as on annotations.

        background, background_sd : mean and sd over recordings of the share of background frames
        repeat : share of recordings with a step done more than once
        jaccard : of the step sets of two recordings, mean over pairs
        order_agreement : share of the pairs of common steps that two recordings do in the same order (first occurrences),
            mean over pairs of recordings
        duration_sd : sd of the log length of occurrences within a recording, pooled over recordings
        steps : mean number of occurrences per recording
        """
        share, repeated, count, squares, freedom = [], [], [], 0.0, 0
        firsts = np.full((len(self), self.n_steps), -1)
        for s, labels in enumerate(self.labels):
            step, length, start = _runs(labels)
            is_step = step > 0
            done, log = step[is_step], np.log(length[is_step])
            share.append(float(np.mean(labels == 0)))
            repeated.append(len(np.unique(done)) < len(done))
            count.append(len(done))
            squares, freedom = squares + float(np.sum((log - log.mean()) ** 2)), freedom + len(log) - 1
            for k, at in zip(done[::-1], start[is_step][::-1], strict=True):
                firsts[s, k - 1] = at
        has = (firsts >= 0).astype(float)
        pair = np.triu_indices(len(self), 1)
        common, either = (has @ has.T)[pair], (np.maximum(has[:, None], has[None]).sum(2))[pair]
        a, b = np.triu_indices(self.n_steps, 1)
        order = np.sign(firsts[:, b] - firsts[:, a]) * has[:, a] * has[:, b]  # 1: a before b; 0: one of them is missing
        known = np.abs(order)
        seen = (known @ known.T)[pair]
        agree = ((order @ order.T + known @ known.T) / 2)[pair][seen > 0] / seen[seen > 0]
        nan = float("nan")
        return {
            "background": float(np.mean(share)),
            "background_sd": float(np.std(share)),
            "repeat": float(np.mean(repeated)),
            "jaccard": float(np.mean(common / either)) if len(common) else nan,
            "order_agreement": float(np.mean(agree)) if len(agree) else nan,
            "duration_sd": float(np.sqrt(squares / freedom)) if freedom else nan,
            "steps": float(np.mean(count)),
        }


def make_procedures(
    n_sequences: int = 2,
    n_steps: int = 8,
    *,
    background: float = 0.57,
    background_sd: float | None = None,
    shared_background: float = 0.25,
    repeat: float = 0.39,
    drop: float = 0.183,
    order_agreement: float = 0.88,
    duration_sd: float = 0.87,
    noise: float = 0.8,
    dim: int = 24,
    length: int | tuple[int, int] = 100,
    random_state: Any = None,
) -> Procedures:
    r"""Recordings of one procedure that vary as real ones do: background, missing, repeated and reordered steps.

    A recording keeps each of the steps with probability 1 - drop, does them in the order of k + sigma z_k (z normal, sigma set
    by `order_agreement`), perhaps repeats one of them later on, and gives them durations exp(duration_sd z). Background fills
    a share of the frames, split at random over the gaps before, between and after the steps. Frame features are

    .. math:: x_t = c_k + 0.7\, u_k\, r_t + o + noise\, e_t

    with the prototype c_k and the drift u_k of the step (standard normal, the same in all recordings), r_t in [-1, 1] the
    position within the occurrence, o the recording's own offset (sd 0.5) and e_t a unit AR(1) noise of correlation 0.8.
    Background pieces have prototypes private to the recording, some of them shared by all, and their own drift.

    Parameters
    ----------
    n_sequences, n_steps : int
    background : float in [0, 1)
        Mean share of background frames; web videos .57, recorded kitchens .18. 0: none at all.
    background_sd : float, optional
        Its sd over recordings (a beta distribution); by default .465 sqrt(background (1 - background)), which is .23 at .57.
        0: the same share in all.
    shared_background : float in [0, 1]
        Share of background pieces that look alike in all recordings.
    repeat : float in [0, 1]
        Share of recordings in which one step is done twice, with another step between the two.
    drop : float in [0, 1)
        Probability that a recording lacks a step; the expected Jaccard overlap of the step sets of two recordings is
        (1 - drop)/(1 + drop): .69 for .183, .92 for .042. A recording keeps at least two steps (one where n_steps is 1).
    order_agreement : float in (0.5, 1]
        Expected share of pairs of common steps that two recordings do in the same order. 1: always the canonical order;
        towards .5: any order.
    duration_sd : float
        sd of the log length of a step.
    noise : float
        sd of the noise where the prototypes have sd 1.
    dim : int
    length : int, or (shortest, longest)
        Number of frames of each recording, drawn uniformly from a range. Every step keeps at least one frame, so short
        recordings have a little less background and less spread in durations than asked for.
    random_state : int or numpy Generator

    Returns
    -------
    Procedures

    Raises
    ------
    ValueError
        Arguments out of range; sd of the background that a share of this mean cannot have; too few frames for the steps.

    Notes
    -----
    Defaults and `STATISTICS` are those of 10,070 web videos (COIN) and 384 cooking recordings, as reported in this project;
    `Procedures.statistics` measures them again.

    Examples
    --------
    >>> from fpgwot.datasets import make_procedures
    >>> data = make_procedures(3, random_state=0)
    >>> [x.shape for x in data.sequences], data.correspondence(0, 1).shape
    ([(100, 24), (100, 24), (100, 24)], (100, 100))
    """
    _check(locals())
    shortest, longest = (length, length) if isinstance(length, (int, np.integer)) else length
    if shortest < n_steps + 1 or longest < shortest:
        raise ValueError(f"length must be at least n_steps + 1 = {n_steps + 1} frames (a range: smaller first), got {length!r}")
    rng = np.random.default_rng(random_state)
    if background_sd is None:
        background_sd = 0.465 * np.sqrt(background * (1 - background))
    sigma = _jitter(order_agreement, n_steps)
    prototypes, drifts = rng.standard_normal((n_steps + 1, dim)), DRIFT * rng.standard_normal((n_steps + 1, dim))
    common = rng.standard_normal((2, dim))
    sequences, labels = [], []
    for _ in range(n_sequences):
        steps = _steps(rng, n_steps, drop, sigma, repeat)
        n = int(rng.integers(shortest, longest + 1))
        n_background = min(round(_share(rng, background, background_sd) * n), n - len(steps))
        lengths = _apportion(np.exp(duration_sd * rng.standard_normal(len(steps))), n - n_background)
        gaps = _apportion(rng.dirichlet(np.ones(len(steps) + 1)), n_background, floor=0)
        private = rng.standard_normal((3, dim))
        mean, label = np.empty((n, dim)), np.zeros(n, dtype=np.int64)
        at = 0
        for piece in range(2 * len(steps) + 1):
            k = steps[piece // 2] if piece % 2 else 0
            size = int(lengths[piece // 2] if k else gaps[piece // 2])
            if k:
                centre, drift = prototypes[k], drifts[k]
            else:
                centre = common[rng.integers(2)] if rng.random() < shared_background else private[rng.integers(3)]
                drift = DRIFT * rng.standard_normal(dim)
            mean[at : at + size] = centre + drift * (2 * (np.arange(size) + 0.5)[:, None] / max(size, 1) - 1)
            label[at : at + size] = k
            at += size
        offset = OFFSET * rng.standard_normal(dim)
        sequences.append(mean + offset + noise * _coloured(rng, n, dim))
        labels.append(label)
    return Procedures(sequences, labels, n_steps)


# ------------------------------------------------------------------------------------------------------------------ inside


def _check(a: dict[str, Any]) -> None:
    for name in ("n_sequences", "n_steps", "dim"):
        if not isinstance(a[name], (int, np.integer)) or a[name] < 1:
            raise ValueError(f"{name} must be an integer, 1 or more; got {a[name]!r}")
    for name in ("background", "drop"):
        if not 0 <= a[name] < 1:
            raise ValueError(f"{name} must be in [0, 1), got {a[name]!r}")
    for name in ("repeat", "shared_background"):
        if not 0 <= a[name] <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {a[name]!r}")
    for name in ("duration_sd", "noise"):
        if not 0 <= a[name] < np.inf:
            raise ValueError(f"{name} must be 0 or more, got {a[name]!r}")
    if not 0.5 < a["order_agreement"] <= 1:
        raise ValueError(f"order_agreement must be in (0.5, 1]: two unrelated orders agree on half; got {a['order_agreement']!r}")
    b, sd = a["background"], a["background_sd"]
    if sd is not None and not (sd == 0 or 0 < sd**2 < b * (1 - b)):
        raise ValueError(f"a share of mean {b:g} has an sd of 0 up to {np.sqrt(b * (1 - b)):.3g}, got background_sd={sd!r}")


def _jitter(agreement: float, n: int) -> float:
    """sigma such that two orders of k + sigma z_k agree on this share of pairs.

    A pair at distance h keeps its order with probability r = Phi(h/(sigma sqrt 2)), and two recordings agree on it with
    probability r^2 + (1-r)^2.
    """
    if agreement == 1 or n == 1:
        return 0.0
    h = np.arange(1, n)

    def expected(sigma: float) -> float:
        r = np.array([0.5 * (1 + erf(x / (2 * sigma))) for x in h])
        return float(np.average(r**2 + (1 - r) ** 2, weights=n - h))

    low, high = 1e-3, 1.0
    while expected(high) > agreement:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle) > agreement else (low, middle)
    return (low + high) / 2


def _steps(rng: np.random.Generator, n: int, drop: float, sigma: float, repeat: float) -> list[int]:
    """Steps of one recording in the order in which they are done."""
    position = np.arange(1, n + 1) + sigma * rng.standard_normal(n)
    kept = rng.random(n) >= drop
    if kept.sum() < min(2, n):
        kept[rng.permutation(n)[: min(2, n)]] = True
    steps = [int(k) + 1 for k in np.argsort(position) if kept[k]]
    if rng.random() < repeat and len(steps) > 1:
        first = int(rng.integers(len(steps) - 1))
        steps.insert(int(rng.integers(first + 2, len(steps) + 1)), steps[first])
    return steps


def _share(rng: np.random.Generator, mean: float, sd: float) -> float:
    if mean == 0 or sd == 0:
        return mean
    total = mean * (1 - mean) / sd**2 - 1
    return float(rng.beta(mean * total, (1 - mean) * total))


def _apportion(weights: np.ndarray, total: int, floor: int = 1) -> np.ndarray:
    """Whole numbers of sum `total` in proportion to the weights, each at least `floor`: largest remainders."""
    wish = weights / weights.sum() * total
    small = wish < floor
    while floor and small.any():  # those below the floor get it, the others share the rest
        rest = total - floor * int(small.sum())
        wish = np.where(small, floor, weights / max(weights[~small].sum(), 1e-300) * rest)
        if not (more := (wish < floor) & ~small).any():
            break
        small |= more
    out = np.floor(wish + 1e-9).astype(np.int64)
    short = total - int(out.sum())
    out[np.argsort(-(wish - out), kind="stable")[:short]] += 1
    return out


def _coloured(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """AR(1) noise of unit variance."""
    e = rng.standard_normal((n, dim))
    fresh = np.sqrt(1 - AR**2)
    for t in range(1, n):
        e[t] = AR * e[t - 1] + fresh * e[t]
    return e


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, length and start of each run of equal labels."""
    start = np.flatnonzero(np.diff(labels, prepend=labels[0] - 1))
    return labels[start], np.diff(start, append=len(labels)), start


def _positions(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each frame: its step, which occurrence of it, and the interval of the occurrence that it covers."""
    step, length, start = _runs(labels)
    turn = np.array([np.count_nonzero(step[:r] == step[r]) for r in range(len(step))])
    run = np.repeat(np.arange(len(step)), length)
    inside = np.arange(len(labels)) - start[run]
    return labels, turn[run], inside / length[run], (inside + 1) / length[run]
