"""The primitives that every backend implements. A newcomer starts here.

A solver loop is written once, in `_solvers/`, against these functions; `numpy_ref` is the readable implementation and the
oracle of the others. All of them work on a batch of B problems padded to n rows and m columns: problem b uses the first
`size[b]` rows and columns, and only problems with `on[b]` are touched. Matrices have one dtype (float32 or float64);
vectors and sums are float64.

The scaling problem, in units of reg (so a potential here is a potential in cost units divided by reg):

    T_ij = exp(f_i + g_j + h - L_ij/eps) = e_i K_ij v_j      K absorbs (f, g, h); v = exp(y), e = exp(lu + y_h) are what
                                                             the iteration has added since K was built
    rows      F_i = min( rho1 (log p_i - log sum_j exp(g_j + h - L_ij/eps)), cap1 )      exact in every primitive
    columns   the variables y (m of them) and y_h (the last entry), moved by the solver
    dual      phi = sum_i P(F_i) + sum_j Q(G_j) + mass H - sum T,   P(x) = p x (hard, capped), -tau/eps p (e^{-x eps/tau} - 1)

==================  ==================================================================================================
borrow, give_back   an array with anything in it, which the backend may have kept from an earlier solve; arrays to keep
is_finite           whether every entry of an array is a number
is_toeplitz         whether C_ij = weights[|i-j|], up to a tolerance
is_distance         whether C_ij = |t_i - t_j|^power, up to a tolerance
outer               out_ij = x_i y_j, of each problem
plan_marginals      row and column sums of plans
rounded_change      weight (T - share T0) rounded to float32, and the sums of its |entries| before that
matmul              stacked matrix products
gradient            G = wl M + bias + r 1' + 1 c' - 4 wq A in place of A, and all sums that the outer loop needs; a backend that
                    `foresees` also writes exp(f+g+h-G/eps), the kernel of a plain step, where asked to; one that `scans`
                    makes A = C1 T C2 itself, row by row, where both structures are distances in time
divergences         BREG and KL, where those of `gradient` are only bounds from below; None where they are exact
marginal_sums       TOTAL ... LACK from vectors only
roughness           G += weight (L T + T L'), path Laplacians L, and <T, L T + T L'>
spread              mean over rows of (row mean - row minimum) of G: sets the first eps of the annealing
column_logsums      log sum_i exp(f_i + g_j + h - L_ij/eps), safe at any eps
kernel              damped step of the cost and of the plan, exact row update in the log domain, K = exp(f + g + h - L/eps);
                    a backend may put 0 in place of denormal entries, here and in `plan`
sweep               one read of K: exact rows, column sums, dual value, its gradient, the Sinkhorn image, the residuals
anderson            next y by Anderson mixing of the last Sinkhorn images (vectors only); those of the last kernel, which was much
                    the same map, count by how they differ
newton              one read of K: right-hand side, free set and diagonal preconditioner of the Newton system
factor              Cholesky factor in float32 of the Newton system at hand, scaled to a diagonal of one, to precondition it and
                    those after it. Returns the columns of a full system that would cost as much; a backend without `factors`
                    has none and returns zeros
cg                  one read of K: one conjugate gradient step on the Schur complement of the Newton system, where not DONE
trial               y = y0 + a step, projected on the caps (vectors only)
shorten             length of the next trial after a refused one: where the dual turns, as the rows say that came to their caps
                    (vectors only)
plan                T = e K v in place of K; the potentials absorb what was added
compiled            what makes plain code on host numbers fast, given the plain functions it calls: Numba's compiler, or nothing
ascend              the inner loop over sweep ... trial, one text for all backends: `inner.py`; on the GPU small problems take its
                    steps in one launch (`small.cu`)
lp_basis, lp_solve  the exact solver's linear programs, each from the basis of the last one (CPU only); lp_nearest for a free side
fgw_gradient ...    its gradient, and sums over sparse plans: see `numpy_lp`, where each is a few lines
descend             its whole steps on a small problem, without the general loop, or None
==================  ==================================================================================================
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from .aligned import aligned

# Numbers of a problem, Scaling.vals[b, ...]
EPS, TAU1, TAU2, CAP1, CAP2 = range(5)  # current entropy weight, prices of the marginals, caps of the potentials
PHI, RES, VIOL, MASS, GAIN = range(5, 10)  # after `sweep`: dual, residual, largest relative violation, mass; after `trial`
RZ, NORM, SHIFT, DONE, USED = range(10, 15)  # conjugate gradients; images that mixing holds, negative: of the last kernel
FACTORED = 15  # rows of the factor in Scaling.factor that preconditions the Newton systems, 0 where there is none
STEPS = 16  # conjugate gradient steps since `newton`
NUMBERS = 17
# Row vectors, Scaling.rows[b, ..., i]; F0 is f + lu where the Newton system was set up
P, LOG_P, F, LU, E, ROW, W, F0 = range(8)
ROW_VECTORS = 8
# Column vectors, Scaling.cols[b, ..., j]; entry m belongs to the mass: Q there is the fixed mass (NaN if none), G is h
Q, LOG_Q, G, Y, COL, IMAGE, GRAD, DIAG, PRE, CG_X, CG_R, CG_D, Y0, GRAD0, SEAT = range(15)  # SEAT: row of the factor and 1, or 0
COLUMN_VECTORS = 15
# Sums that `gradient` returns: <M,T>, <bias,T>, <A,T>, <T,log T>, ||exp(f+g+h-G/eps) - T||_1, <G-L,T-T0>,
# <T-T0, log T - log T0>, KL(T0 || T) (or less, see `divergences`); and of the kernel of a plain step, where it has been written,
# the largest update of a row potential that it asks for
LIN, BIAS, CROSS, ENT, FIXED, BEND, BREG, KL, JUMP = range(9)
SUMS = 9
# Sums that `marginal_sums` returns, mu and nu the marginals of T: mass; what the reference plan costs, <r,mu> + <c,nu>;
# <s1,mu> + <s2,nu>; KL prices of the marginals; their Bregman divergences from those of T0, symmetrised and forward; and
# <g, q - nu> + h (m - mass): what F lacks, to first order and in units of eps, because the marginals are not met yet
TOTAL, REFERENCE, SQUARES, PRICE, BOTH, FORWARD, LACK = range(7)
MARGINAL_SUMS = 7

FORBIDDEN, FORBIDDEN_FROM = 1e30, 1e29  # cost of a forbidden pair; anything from the second number on is one
ROWS = 32  # rows of a work item
MEMORY = 8  # Anderson mixing: images kept beside the last
DRIFT = 60.0  # largest |log scaling| before it is absorbed again: exp(60) times a kernel entry is a float32
TINY = 1e-30  # in float32: smaller entries of a plan or of a rounded matrix become 0, denormal numbers are slow
LARGEST = 1e20  # of a plan entry: beyond it a soft marginal has lost all hold, and products would overflow
STEP = 10.0  # largest entry of a Newton step
AT_CAP, LACKING = 1e-13, 1e-9  # distance from its cap at which a potential is held by it; log of what a row may lack there
LARGEST_FACTOR = 3000  # columns up to which a dense factor may be bought
RIDGE = 1e-6  # added to its diagonal of ones: what float32 can tell from 0
SHORTER, BISECTIONS = 0.3, 25  # most of a refused step that is tried next; halvings that find where the dual turns


class Scaling:
    """State of the scaling iteration of a batch at zero potentials: three packed arrays, and views of them by name."""

    def __init__(
        self, xp: Any, dtype: Any, size: Any, p: Any, q: Any, mass: Any, eps: Any, tau: Any, cap: Any, factors: bool = True
    ) -> None:
        (B, n), m = p.shape, q.shape[1]
        blocks = (n + ROWS - 1) // ROWS
        self.size = xp.asarray(size)  # (B, 2) rows and columns in use
        zeros = partial(aligned, make=np.zeros) if xp is np else xp.zeros
        self.vals = zeros((B, NUMBERS))
        self.rows = zeros((B, ROW_VECTORS, n))
        self.cols = zeros((B, COLUMN_VECTORS, m + 1))
        self.v = zeros((B, m), dtype)  # exp(y)
        self.hist = zeros((B, 2, MEMORY + 1, m + 1))  # Anderson: images, and their residuals
        self.part = zeros((B, blocks, m), dtype)  # column sums of a block of rows
        self.sums = zeros((B, blocks, SUMS))
        side = m + 1 if factors and m <= LARGEST_FACTOR and B * m * m <= 4 * LARGEST_FACTOR**2 else 0
        self.factor = zeros((B, side, side), np.float32)  # of the scaled Newton system, upper; empty if too large
        self.vals[:, EPS] = xp.asarray(eps)
        for index, value in ((TAU1, tau[0]), (TAU2, tau[1]), (CAP1, cap[0]), (CAP2, cap[1])):
            self.vals[:, index] = xp.asarray(value)
        self.rows[:, P], self.rows[:, LOG_P] = p, xp.log(xp.where(p > 0, p, 1.0))
        self.cols[:, Q, :m], self.cols[:, LOG_Q, :m], self.cols[:, Q, m] = q, xp.log(xp.where(q > 0, q, 1.0)), xp.asarray(mass)

    def __getattr__(self, name: str) -> Any:
        try:
            kind, index = _VIEWS[name]
        except KeyError:
            raise AttributeError(name) from None
        if kind == "vals":
            return self.vals[:, index]
        m = self.v.shape[1]
        return self.rows[:, index] if kind == "rows" else self.cols[:, index, :m] if kind == "cols" else self.cols[:, index, m]


_VIEWS = {
    "eps": ("vals", EPS),
    "tau2": ("vals", TAU2),
    "cap2": ("vals", CAP2),
    "used": ("vals", USED),
    "f": ("rows", F),
    "row": ("rows", ROW),
    "g": ("cols", G),
    "col": ("cols", COL),
    "log_q": ("cols", LOG_Q),
    "grad": ("cols", GRAD),
    "h": ("mass", G),
    "mass": ("mass", Q),
}
