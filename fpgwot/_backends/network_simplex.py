"""The network simplex on a sparse set of arcs: the only place that reaches POT's compiled linear program.

min sum_a cost_a x_a   over  x >= 0,  sum of x leaving row r = a_r,  sum of x entering column c = b_c
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Potentials = tuple[np.ndarray, np.ndarray]
MAX_PIVOTS = 10**9  # a pivot limit is no use to a caller: an unfinished simplex has neither a plan nor potentials

_REASONS = {
    0: "the arcs admit no feasible flow",
    2: "the problem is unbounded",
    3: f"it needs more than {MAX_PIVOTS} pivots",
}


class LinearProgramError(RuntimeError):
    """The linear program has no solution, or the simplex could not find it."""


def sparse_lp(
    a: np.ndarray, b: np.ndarray, rows: np.ndarray, cols: np.ndarray, cost: np.ndarray, start: Potentials | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Optimal flow over the arcs (rows[t], cols[t]) of cost[t], and the potentials of its optimal basis.

    Parameters
    ----------
    a, b : float64 arrays (n,), (m,)
        Supplies and demands, all positive, of one total. A node without weight would get no potential.
    rows, cols : uint64 arrays (k,)
        Ends of the arcs; no arc twice.
    cost : float64 array (k,)
        Any sign, finite. Zeros are arcs like all others.
    start : (u, v), optional
        Potentials to start from; saves time where they are nearly optimal.

    Returns
    -------
    i, j, x : integer, integer, float64 arrays
        Ends and flows of arcs, in no order; all that carry flow are among them.
    u, v : float64 arrays (n,), (m,)
        u_i + v_j <= cost on every arc, with equality where flow is.

    Raises
    ------
    LinearProgramError
        The arcs admit no feasible flow, or the solver gave up.
    """
    # The simplex starts from artificial arcs of cost (largest cost + 1) * nodes: too cheap for negative costs, and so dear for
    # tiny ones that they drown. The total flow is fixed, so costs may be shifted; a power of two scales without rounding.
    low = float(cost.min())
    span = float(cost.max()) - low
    unit = 2.0 ** math.floor(math.log2(span)) if span > 0.0 else 1.0
    scaled = (cost - low) * (1.0 / unit)
    compiled = _compiled()
    if compiled is None:
        r, c, x, u, v, code = _public(a, b, rows, cols, scaled)
    else:
        warm = (None, None) if start is None else (start[0] / unit, (start[1] - low) / unit)
        r, c, x, _, u, v, code = compiled(a, b, rows, cols, scaled, MAX_PIVOTS, *warm)
    if code != 1:
        raise LinearProgramError(
            f"the network simplex found no optimal plan: {_REASONS.get(code, f'unknown status {code}')}. "
            "Check that the weights of both sides agree in total and that the costs are finite."
        )
    return r, c, x, u * unit, v * unit + low


@functools.cache
def _compiled() -> Callable[..., Any] | None:
    """POT's sparse routine; it is no documented name, so a release may move it."""
    try:
        from ot.lp.emd_wrap import emd_c_sparse
    except ImportError:
        return None
    return emd_c_sparse  # type: ignore[no-any-return]


def _public(a: np.ndarray, b: np.ndarray, rows: np.ndarray, cols: np.ndarray, cost: np.ndarray) -> Any:
    """The same through the documented `ot.emd`: same result, slower, and without a start."""
    import warnings

    import ot
    from scipy.sparse import coo_matrix

    costs = coo_matrix((cost, (rows.astype(np.int64), cols.astype(np.int64))), shape=(len(a), len(b)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the code below says more than the warning
        plan, log = ot.emd(a, b, costs, numItermax=MAX_PIVOTS, log=True, center_dual=False)
    return plan.row, plan.col, plan.data, log["u"], log["v"], int(log["result_code"])
