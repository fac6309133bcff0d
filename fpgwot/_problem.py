"""A batch of problems in the form that the solvers work on: validated, scaled, padded; and its objective.

Every problem has been divided by its scale s (the smaller of its total weights), so that masses are about 1:

    F'(T') = wl <M, T'> + wq E(T') + eps KL(T' || Q') + tau KL(T'1 || p') + tau KL(T''1 || q'),   T = s T',  F = s F',
    wl = 1 - alpha,  wq = alpha s,  p' = p/s,  Q' = Q/s.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ._backends._protocol import Scaling
from .marginals import Marginals
from .structure import Structure


@dataclass(frozen=True)
class Problem:
    """B problems padded to (n, m); points without weight have been taken out.

    The linear cost is wl M + bias + r 1' + 1 c': `bias` holds -eps log Q of a reference plan and the forbidden pairs, r and c
    the same for the reference p q'. M, bias, C1 and C2 may have fewer layers than there are problems (several starts of one
    problem): problem b uses layer b modulo their number.
    """

    be: Any
    dtype: Any
    size: np.ndarray  # (B, 2)
    M: Any  # (B0, n, m) or None
    bias: Any  # (B0, n, m) or None
    C1: Structure | None
    C2: Structure | None
    wl: np.ndarray  # (B,)
    wq: np.ndarray  # (B,)
    eps: np.ndarray  # (B,)
    p: Any  # (B, n) float64
    q: Any  # (B, m)
    r: Any  # (B, n)
    c: Any  # (B, m)
    marginals: Marginals
    cap: np.ndarray  # (B, 2) upper bound of the potentials: 0 on a capped side, else inf
    mass: np.ndarray  # (B,), NaN where it is not fixed
    reference_mass: np.ndarray  # (B,) sum Q'
    loss: str = "square"
    price: np.ndarray | None = None  # (B,) lambda: unmatched mass costs lambda (sum p' + sum q' - 2 sum T')
    smoothness: np.ndarray | None = None  # (B,) gamma of gamma/2 [tr(T' L T) + tr(T L T')], path Laplacians, scaled as wq

    @property
    def shape(self) -> tuple[int, int, int]:
        """Problems, rows, columns."""
        return len(self.size), self.p.shape[1], self.q.shape[1]

    @property
    def is_quadratic(self) -> bool:
        """Whether the gradient depends on the plan: a Gromov-Wasserstein term, or smoothness."""
        return self.C1 is not None or self.smoothness is not None

    def product_plan(self, out: Any = None) -> Any:
        """p q' scaled to the mass of the problem (q' of mass 1 and p of its own for a KL price)."""
        return self.be.outer(*self._product(), self.be.borrow(self.shape, self.dtype) if out is None else out)

    def product_marginals(self) -> tuple[Any, Any]:
        """Row and column sums of the product plan."""
        a, q = (x.astype(float) for x in self._product())
        return a * q.sum(1)[:, None], q * a.sum(1)[:, None]

    def _product(self) -> tuple[Any, Any]:
        """The two vectors of the product plan."""
        xp = self.be.xp
        P, Q = self.p.sum(1), self.q.sum(1)
        mass = xp.asarray(self.mass)
        mass = xp.where(xp.isnan(mass), xp.minimum(P, Q), mass)
        a = (self.p * (mass / (P * Q))[:, None]).astype(self.dtype)  # cast first: no n x m array in the larger type
        return a, self.q.astype(self.dtype)

    def allocate(self) -> Scaling:
        """State of the scaling iteration at zero potentials."""
        caps = (self.cap[:, 0], self.cap[:, 1])
        return Scaling(
            self.be.xp, self.dtype, self.size, self.p, self.q, self.mass, self.eps, self.marginals.tau, caps, self.be.factors
        )

    def squares(self, mu: Any, nu: Any) -> tuple[Any, Any]:
        """s1 = 1/2 (C1*C1 + its transpose) mu and s2 alike: the rank-one part of the energy."""
        be, out = self.be, []
        for C2_, x in zip(self._squared, (mu, nu), strict=True):
            out.append(C2_.matmul(be, x.astype(self.dtype)[:, :, None])[:, :, 0].astype(float))
        return out[0], out[1]

    @cached_property
    def _placed(self) -> tuple[Structure, Structure]:
        """The structures where the backend computes."""
        assert self.C1 is not None and self.C2 is not None
        return self.C1.on(self.be, self.dtype), self.C2.on(self.be, self.dtype)

    @cached_property
    def _squared(self) -> tuple[Structure, Structure]:
        """Their elementwise squares, made symmetric."""
        assert self.C1 is not None and self.C2 is not None
        return tuple(C.square().symmetrized().on(self.be, self.dtype) for C in (self.C1, self.C2))  # type: ignore[return-value]

    @cached_property
    def _distances(self) -> tuple[Any, Any] | None:
        """Gaps and scales of two structures |t_i - t_k|, whose products a backend makes inside its gradient pass."""
        if not self.be.scans or self.C1 is None or self.C2 is None or self.smoothness is not None:
            return None
        pair = self.C1.distances(), self.C2.distances()
        return None if None in pair else pair

    def cross(self, T: Any, out: Any, work: Any, on: np.ndarray) -> None:
        """out <- A = C1 T C2', the mean with C1' T C2 where the structures are not symmetric; only where `on`."""
        C1, C2 = self._placed
        if not on.all():
            index = self.be.xp.asarray(np.flatnonzero(on))
            part = self.be.xp.empty_like(T[index])
            cross(self.be, C1.take(index), C2.take(index), T[index], part, work[: len(index)])
            out[index] = part
        else:
            cross(self.be, C1, C2, T, out, work)

    def cross_of_product(self, out: Any) -> None:
        """out <- A of the product plan, which is the product of two vectors: no product of matrices."""
        C1, C2 = self._placed
        be, (a, q) = self.be, self._product()

        def outer(turned: bool, out: Any) -> Any:
            x, y = C1.matmul(be, a[:, :, None], transpose=turned), C2.matmul(be, q[:, :, None], transpose=turned)
            return be.outer(x[:, :, 0], y[:, :, 0], out)

        outer(False, out)
        if not (C1.is_symmetric and C2.is_symmetric):
            out += outer(True, be.xp.empty_like(out))
            out *= 0.5

    @property
    def weight_of_cross(self) -> np.ndarray:
        """Weight of A = C1 T C2' in the gradient; -1 where there is none, to carry the smoothness term."""
        if self.C1 is None:
            return np.full(len(self.wq), -1.0)
        return np.asarray(2 * self.wq if self.loss == "product" else -4 * self.wq)

    def gradient(
        self,
        T: Any,
        mu: Any,
        nu: Any,
        mu0: Any,
        nu0: Any,
        G: Any,
        work: Any,
        T0: Any,
        L: Any,
        s: Scaling,
        first: Any,
        on: Any,
        is_product: bool = False,
        ahead: bool = False,
        cross: Any = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """G <- gradient at T (`is_product`: the product plan) of all but the entropy's log T and the KL prices.

        `ahead`: the kernel of a plain step goes to `work`. `cross`: another way to the same products.
        Returns the sums of the primitives `gradient`, `marginal_sums` and `roughness`: all that F needs.
        """
        be, host, xp = self.be, self.be.host, self.be.xp
        r, c, s1, s2, distances = self.r, self.c, None, None, None
        rough, kappa = np.zeros(len(self.wq)), self.weight_of_cross
        if self.C1 is None:
            G[xp.asarray(np.flatnonzero(on))] = 0
        else:
            if is_product:
                self.cross_of_product(G)
            elif (distances := self._distances) is None:
                (cross or self.cross)(T, G, work, on)
            if self.loss != "product":  # the square, or the KL loss, whose structures are transformed
                s1, s2 = self.squares(mu, nu)
                w = xp.asarray(2 * self.wq)[:, None]
                r, c = r + w * s1, c + w * s2
        if self.smoothness is not None:  # its gradient goes in with A
            rough = host(be.roughness(T, G, self.smoothness / kappa, s.size, on))
        along = host(be.marginal_sums(mu, nu, mu0, nu0, s1, s2, self.r, self.c, s))
        if self.price is not None:
            r = r - xp.asarray(2 * self.price)[:, None]
        args = G, self.M, self.bias, T, T0, L, s, r, c, self.wl, -kappa / 4, first, on
        more = {"ahead": work} if ahead else {}
        if distances is not None:
            more["distances"] = distances
        return host(be.gradient(*args, **more)), along, rough

    def constant_gradient(self, T: Any, s: Scaling, on: Any) -> Any:
        """Gradient at the plan 0. The gradient is affine in the plan: at ratio T it is ratio G(T) + (1 - ratio) G(0)."""
        r = self.r if self.price is None else self.r - self.be.xp.asarray(2 * self.price)[:, None]
        G = self.be.xp.zeros_like(T)
        self.be.gradient(G, self.M, self.bias, T, T, T, s, r, self.c, self.wl, -self.weight_of_cross / 4, on, on)
        return G


def cross(be: Any, C1: Structure, C2: Structure, T: Any, out: Any, work: Any) -> None:
    """out <- C1 T C2', the mean with C1' T C2 where the structures are not symmetric."""
    C1.matmul(be, T, out=work)
    C2.rmatmul(be, work, transpose=True, out=out)
    if not (C1.is_symmetric and C2.is_symmetric):
        C1.matmul(be, T, transpose=True, out=work)
        out += C2.rmatmul(be, work)
        out *= 0.5
