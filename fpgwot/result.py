"""What a solve returns: the plan, its value, and the certificate that says how good it is."""

from __future__ import annotations

import base64
import enum
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

DROPPED_SHARE = 0.1  # a frame that sends less than this share of its weight counts as unmatched


class Status(enum.Enum):
    """How a solve ended. The text says what to change."""

    CONVERGED = "converged: the certificate holds"
    MAX_ITER = "max_iter was reached before the certificate held: raise max_iter, raise tol, or raise reg"
    STALLED = (
        "the residual stopped falling before it reached tol: raise reg or tol, or try another start (n_init=8); "
        "the plan is feasible to the residual shown"
    )
    PRECISION = "the residual is at the rounding of float32: pass float64 arrays, or raise reg or tol"
    UNBOUNDED = "the optimal mass is astronomically large: costs far below -tau pay for it; raise tau, or shift M up"
    STOPPED = "the callback asked to stop"

    @property
    def text(self) -> str:
        """One sentence for the user."""
        return self.value


class ConvergenceWarning(UserWarning):
    """A solve ended without its certificate."""


class ConvergenceError(RuntimeError):
    """The same, where the caller asked for an error (`on_fail="raise"`)."""


@dataclass(frozen=True)
class Residuals:
    """The certificate of a plan; every entry is measured on the plan that is returned, 0 is perfect.

    Attributes
    ----------
    marginal : largest violation of a hard or capped marginal, relative to the weight of its point
    mass : |sum T - m| / m where the mass is fixed, else 0
    stationarity : entropic, L1 distance of the plan from the fixed point exp((f + g + h - G)/reg) of its own gradient G and
        of the marginal conditions, relative to its mass (or to the smaller total weight, where a price leaves the plan less
        than that); exact, Frank-Wolfe gap plus rounding of the linear program, relative to the value (see `solve`); proximal,
        the gap between the linearised problem and its dual, relative to the value
    """

    marginal: Any
    mass: Any
    stationarity: Any

    def __getitem__(self, b: int) -> Residuals:
        return Residuals(float(self.marginal[b]), float(self.mass[b]), float(self.stationarity[b]))


CLEAR = 0.85  # contrast of a path from which its split is taken: .87 to .97 on problem T, .52 to .82 where no mass stands out


def two_levels(prices: np.ndarray) -> tuple[int, float]:
    """Number of prices on the lower of two levels fitted by least squares, and the share of the variance that they explain."""
    ordered = np.maximum.accumulate(prices)  # F is nearly convex in m; small dips are noise of the local optima
    errors = [ordered[:k].var() * k + ordered[k:].var() * (len(ordered) - k) for k in range(1, len(ordered))]
    best, total = int(np.argmin(errors)), ordered.var() * len(ordered)
    return best + 1, float(1 - errors[best] / total) if total > 0 else 0.0


@dataclass(frozen=True)
class MassPath:
    """Objective and price of mass along the path from which `m="auto"` chose; masses in the caller's units.

    Attributes
    ----------
    masses, values, prices : arrays (k,)
        Grid of masses, least objective found at each, and dF/dm there: the price of the next bit of mass.
    split : float
        Where the prices fall into a low and a high level (least squares); the mass that was taken where they do (`is_clear`).
    knee : float
        The point of the curve farthest below its chord; the mass that was taken otherwise.
    n_passes, n_gradients : int
        Work of the whole path.
    """

    masses: np.ndarray = field(repr=False)
    values: np.ndarray = field(repr=False)
    prices: np.ndarray = field(repr=False)
    split: float
    knee: float
    n_passes: int
    n_gradients: int

    @property
    def mass(self) -> float:
        """The mass that was taken: the split where the prices have two levels, else the knee."""
        return self.split if self.is_clear else self.knee

    @property
    def contrast(self) -> float:
        """Share of the variance of the (rising) prices that two levels explain: 1 for a jump, .75 for an even rise."""
        return two_levels(self.prices)[1]

    @property
    def is_clear(self) -> bool:
        """Whether the price of mass jumps. Where it rises evenly nothing in it says how much to match."""
        return self.contrast >= CLEAR

    @property
    def band(self) -> tuple[float, float]:
        """From the smaller to the larger of the two criteria: the masses that are defensible."""
        return min(self.split, self.knee), max(self.split, self.knee)

    @property
    def agree(self) -> bool:
        """Whether the two criteria are within a tenth of the largest mass."""
        low, high = self.band
        return high - low <= 0.1 * float(self.masses[-1]) + 1e-12

    @property
    def text(self) -> str:
        """One sentence: what was chosen, and whether the criteria agree."""
        low, high = self.band
        if not self.is_clear:
            return (
                f"mass {self.mass:.3g}, the knee of the curve, is not to be trusted: the price of mass rises without a jump "
                f"(two levels explain {self.contrast:.2f} of its variance, of an even rise .75); pass m if it is known, "
                "or a sink price from fpgwot.nulls.null_price"
            )
        if self.agree:
            return f"mass {self.mass:.3g}: the price of mass jumps there, and the knee of the curve is at {self.knee:.3g}"
        return (
            f"mass {self.mass:.3g} is uncertain: the price of mass jumps there, but the knee of the curve is at {self.knee:.3g}; "
            f"compare plans between {low:.3g} and {high:.3g}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Price and objective against mass, with both criteria; returns the axes (needs matplotlib)."""
        from . import plot

        return plot.mass_path(self, ax=ax)


@dataclass(frozen=True)
class Result:
    """Solution of one problem, or of a batch (then every field has a leading batch axis; `result[b]` is one of them).

    Attributes
    ----------
    plan : array (n, m)
        The coupling, of the caller's array kind and dtype.
    value : float
        F(plan), recomputed from the plan: value_linear + value_quad + value_reg + value_marginal.
    value_linear, value_quad, value_reg, value_marginal : float
        (1-alpha) <M,T>, alpha E(T), reg KL(T || Q) and the KL prices of the marginals, weights included.
    mass : float
        sum T.
    marginal_a, marginal_b : arrays (n,), (m,)
        T 1 and T' 1.
    potentials : tuple (f, g, h) or None
        Dual variables in units of the cost: T = exp((f_i + g_j + h - G_ij)/reg) in the entropic case, where G is `gradient`.
        h is the price of mass: at the optimum a pair is matched only if it costs less. Points without weight have -inf.
    gradient : array (n, m)
        The linearised cost G at the plan, all terms but the entropy's log T included.
    residuals : Residuals
    status : Status
    converged : bool
        True only if the certificate holds to `tol`.
    n_iter, n_passes, n_gradients : int
        Outer iterations; reads of the n x m kernel, a factor of the Newton system counted as 16 and one for 16 columns (exact:
        reads of the linearised cost); gradients of the energy.
    history : array (k, 2)
        Objective and stationarity after each outer iteration, in the units that the solver works in.
    starts : array or None
        Objective reached from each start (`n_init` above 1).
    mass_path : MassPath or None
        How m="auto" chose the mass.
    method, backend, device : str
    provenance : dict
        Version, backend, dtype, seed.
    """

    plan: Any
    value: Any
    value_linear: Any
    value_quad: Any
    value_reg: Any
    value_marginal: Any
    mass: Any
    marginal_a: Any
    marginal_b: Any
    potentials: Any
    gradient: Any = field(repr=False)
    residuals: Residuals
    status: Any
    converged: Any
    n_iter: Any
    n_passes: Any
    n_gradients: Any
    history: Any = field(repr=False)
    method: str
    backend: str
    device: str
    weights: Any = field(repr=False)
    starts: Any = field(default=None, repr=False)
    mass_path: Any = field(default=None, repr=False)
    provenance: dict[str, Any] = field(default_factory=dict, repr=False)

    # ------------------------------------------------------------------------------------------------------------ batches
    @property
    def is_batch(self) -> bool:
        """Whether the fields have a batch axis."""
        return getattr(self.plan, "ndim", 2) == 3

    def __len__(self) -> int:
        if not self.is_batch:
            raise TypeError("this result holds one problem; only the result of a batch has a length")
        return len(self.plan)

    def __getitem__(self, b: int) -> Result:
        """The result of one problem of a batch."""
        if not -len(self) <= b < len(self):
            raise IndexError(f"problem {b} of a batch of {len(self)}")
        one: dict[str, Any] = {k: float(getattr(self, k)[b]) for k in _FLOATS} | {k: int(getattr(self, k)[b]) for k in _INTS}
        f, g, h = self.potentials if self.potentials is not None else (None, None, None)
        return replace(
            self,
            plan=self.plan[b],
            marginal_a=self.marginal_a[b],
            marginal_b=self.marginal_b[b],
            potentials=None if f is None or g is None or h is None else (f[b], g[b], float(h[b])),
            gradient=self.gradient[b],
            residuals=self.residuals[b],
            status=self.status[b],
            converged=bool(self.converged[b]),
            history=self.history[b],
            weights=tuple(w[b] for w in self.weights),
            starts=None if self.starts is None else self.starts[b],
            mass_path=None if self.mass_path is None else self.mass_path[b],
            **one,
        )

    def _numpy(self, *names: str) -> list[np.ndarray]:
        if self.is_batch:
            raise TypeError("this result is a batch: take one problem of it first, result[b]")
        arrays = (self.weights if name == "weights" else getattr(self, name) for name in names)
        return [_to_numpy(a) for a in arrays]

    # ---------------------------------------------------------------------------------------------------------- readings
    @property
    def balance(self) -> dict[str, float]:
        """Share of each term in F, by absolute size: an entry near 0 means that its parameter has no say."""
        parts = {
            "linear": self.value_linear,
            "quadratic": self.value_quad,
            "entropy": self.value_reg,
            "marginal": self.value_marginal,
        }
        total = sum(abs(v) for v in parts.values())
        total = np.where(total == 0, 1, total) if self.is_batch else total or 1.0
        return {k: abs(v) / total for k, v in parts.items()}

    def matches(self, one_to_one: bool = False, top: int | None = None) -> np.ndarray:
        """Matched pairs as a record array (i, j, weight, confidence), the strongest first.

        Each row point that sends at least a tenth of its weight is paired with the column that gets most of it. With
        `one_to_one` the pairs are the assignment of largest total weight (`scipy.optimize.linear_sum_assignment`).
        `weight` is T_ij; `confidence` is T_ij / max(row sum, column sum): 1 where the two points belong to one another only.
        """
        T, p, q = (*self._numpy("plan"), *map(_to_numpy, self.weights))
        row, col = T.sum(1), T.sum(0)
        if one_to_one:
            from scipy.optimize import linear_sum_assignment

            i, j = linear_sum_assignment(T, maximize=True)
            keep = (row[i] >= DROPPED_SHARE * p[i]) & (col[j] >= DROPPED_SHARE * q[j]) & (T[i, j] > 0)
        else:
            i, j = np.arange(len(T)), T.argmax(1)
            keep = (row >= DROPPED_SHARE * p) & (row > 0)
        i, j = i[keep], j[keep]
        w = T[i, j]
        order = np.argsort(-w, kind="stable")[:top]
        return np.rec.fromarrays(
            [i[order], j[order], w[order], (w / np.maximum(row[i], col[j]))[order]],
            dtype=[("i", np.int64), ("j", np.int64), ("weight", float), ("confidence", float)],
        )

    def unmatched(self) -> np.ndarray:
        """Dropped points of both sides: (side, index, mass, partner, price, asked, reason).

        `mass` is what the point sends; `partner` its cheapest counterpart at current prices, `price` = min (G_ij - g_j),
        what matching it would cost, `asked` = h, the price at which mass is matched. `reason` is "background" where even
        a free partner costs more than asked, "no room" where its partners are taken.
        """
        T, G = self._numpy("plan", "gradient")
        p, q = map(_to_numpy, self.weights)
        f, g, h = (np.nan_to_num(_to_numpy(x), neginf=0.0) for x in self.potentials)
        rows = [_dropped("row", T.sum(1), p, G, g, h), _dropped("column", T.sum(0), q, G.T, f, h)]
        return np.concatenate(rows).view(np.recarray)

    def path(self) -> np.ndarray:
        """Monotone decoding: index pairs (k, 2) of the path with steps right, down and diagonal that collects most mass.

        Cells that carry less than a tenth of the smaller weight are left out. O(n m).
        """
        (T,) = self._numpy("plan")
        p, q = map(_to_numpy, self.weights)
        n, m = T.shape
        best, step, prev = np.empty((n, m)), np.zeros((n, m), np.int8), np.full(m, -np.inf)
        for i in range(n):
            above, diag = prev, np.concatenate(([0.0 if i == 0 else -np.inf], prev[:-1]))
            enter = np.maximum(above, diag)
            S = np.cumsum(T[i])
            run = np.maximum.accumulate(enter - (S - T[i]))
            best[i] = prev = run + S
            step[i] = np.where(run > enter - (S - T[i]), 2, np.where(diag >= above, 0, 1))
        i, j, cells = n - 1, m - 1, []
        while i >= 0 and j >= 0:
            cells.append((i, j))
            s = step[i, j]
            i, j = (i - 1, j - 1) if s == 0 else (i - 1, j) if s == 1 else (i, j - 1)
        path = np.array(cells[::-1])
        keep = T[path[:, 0], path[:, 1]] >= DROPPED_SHARE * np.minimum(p[path[:, 0]], q[path[:, 1]])
        return path[keep]

    def to_pandas(self) -> Any:
        """`matches()` as a pandas DataFrame (needs pandas)."""
        import pandas as pd

        return pd.DataFrame.from_records(self.matches())

    def plot(self, ax: Any = None, *, labels_a: Any = None, labels_b: Any = None, name_a: str = "a", name_b: str = "b") -> Any:
        """Transport map with the mass profile of both sides and the dropped points (needs matplotlib); returns the axes.

        `labels_a`, `labels_b` are step labels of the points, drawn as bars with their boundaries; `fpgwot.plot.plan` has more.
        """
        from . import plot

        return plot.plan(self, ax, labels_a=labels_a, labels_b=labels_b, name_a=name_a, name_b=name_b)

    # ----------------------------------------------------------------------------------------------------------- display
    def __repr__(self) -> str:
        if self.is_batch:
            good = int(np.sum(self.converged))
            return f"Result(batch of {len(self)}, {good} converged, method={self.method!r}, backend={self.backend!r})"
        r = self.residuals
        return (
            f"Result(value={self.value:.6g}, mass={self.mass:.6g}, converged={self.converged}, n_iter={self.n_iter}, "
            f"n_passes={self.n_passes}, residuals=(marginal={r.marginal:.1e}, mass={r.mass:.1e}, "
            f"stationarity={r.stationarity:.1e}), method={self.method!r}, backend={self.backend!r})"
        )

    def _repr_html_(self) -> str:
        if self.is_batch:
            return f"<code>{self!r}</code>"
        r = self.residuals
        rows = {
            "value": f"{self.value:.6g}",
            "mass": f"{self.mass:.6g}",
            "status": self.status.text,
            "residuals": f"marginal {r.marginal:.1e}, mass {r.mass:.1e}, stationarity {r.stationarity:.1e}",
            **({"chosen mass": self.mass_path.text} if self.mass_path is not None else {}),
            "work": f"{self.n_iter} iterations, {self.n_passes} passes, {self.n_gradients} gradients",
            "method": f"{self.method}, {self.backend}, {self.provenance.get('dtype', '')}",
        }
        body = "".join(
            f"<tr><th style='text-align:left'>{k}</th><td style='text-align:left'>{v}</td></tr>" for k, v in rows.items()
        )
        png = base64.b64encode(_thumbnail(_to_numpy(self.plan))).decode()
        picture = f"<img alt='plan' style='image-rendering:pixelated;width:160px' src='data:image/png;base64,{png}'>"
        return f"<div style='display:flex;gap:1em'>{picture}<table>{body}</table></div>"


_FLOATS = ("value", "value_linear", "value_quad", "value_reg", "value_marginal", "mass")
_INTS = ("n_iter", "n_passes", "n_gradients")


def _to_numpy(a: Any) -> np.ndarray:
    if hasattr(a, "detach"):  # torch
        a = a.detach().cpu()
    return np.asarray(a.get() if hasattr(a, "get") and not isinstance(a, dict) else a)


def _dropped(side: str, mass: np.ndarray, weight: np.ndarray, G: np.ndarray, other: np.ndarray, asked: float) -> np.ndarray:
    index = np.flatnonzero((mass < DROPPED_SHARE * weight) & (weight > 0))
    net = G[index] - other[None]
    partner = net.argmin(1) if len(index) else index
    price = net[np.arange(len(index)), partner] if len(index) else np.zeros(0)
    free = G[index].min(1) if len(index) else np.zeros(0)
    reason = np.where(free > asked, "background", "no room")
    kind = [("side", "U6"), ("index", np.int64), ("mass", float), ("partner", np.int64), ("price", float), ("asked", float)]
    table = np.empty(len(index), dtype=[*kind, ("reason", "U10")])
    columns = (side, index, mass[index], partner, price, float(asked), reason)
    for name, value in zip(table.dtype.names or (), columns, strict=True):
        table[name] = value
    return table


def _thumbnail(T: np.ndarray, size: int = 96) -> bytes:
    """A small greyscale PNG of the plan: block maxima, dark where mass is."""
    rows, cols = (np.array_split(np.arange(k), min(k, size)) for k in T.shape)
    small = np.array([[T[r[0] : r[-1] + 1, c[0] : c[-1] + 1].max() for c in cols] for r in rows])
    grey = (255 * (1 - np.sqrt(np.clip(small, 0, None) / max(small.max(), 1e-300)))).astype(np.uint8)
    raw = b"".join(b"\0" + line.tobytes() for line in grey)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
