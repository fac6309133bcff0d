"""The linear programs of the exact solver: a primal network simplex whose basis outlives the call.

    min sum_ij c_ij x_ij   over  x >= 0,  sum_j x_ij = a_i,  sum_i x_ij = b_j,      c_ij = G_ij, or 0 at a dummy

Rows may end with a dummy row and columns with a dummy column; the pair of the two is an arc only where `corner` says so. The
basis is a spanning tree: node k hangs on its parent by an arc that runs up where k is a row and down where k is a column. A
tree stays feasible when the costs change, so each program of a conditional gradient run starts where the last one ended. Flows
are integers (multiples of about 2^-60 of the total): no rounding is handed on, and with the strongly feasible rule (an arc
without flow runs towards the root) no degenerate pivot is ever undone, so the simplex ends.

Pricing takes the most negative arc of a row, row after row. Where the matrix is large, most pivots are made on few arcs first.
A sweep over all rows that finds nothing, with potentials computed afresh from the tree, is the dual certificate of all pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from ._jit import copy, helper, jit, kernel
from .elementary import add
from .lp import EPS, FORBIDDEN_FROM, ROWS, WORTH, lp_candidates, lp_reduce

DENSE_UP_TO = 400_000  # pairs up to which choosing arcs takes longer than it saves
K_COLD, K_WARM = 16, 8  # nearest arcs of each row and column in a first program, and where the arcs are chosen again
K_ADD = 16  # of each row that wants others
MOST_ARCS = 50  # for each point: beyond, the arcs that a run has gathered are chosen again
MAX_SWEEPS = 100_000
PARENT, FIRST, NEXT, PREV, DEPTH = range(
    5
)  # rows of `tree`, whose columns are the nodes: rows, then columns; the last is the root


class Basis(NamedTuple):
    """State of the programs over one polytope."""

    a: np.ndarray  # integer weights of the rows, a dummy included; b those of the columns
    b: np.ndarray
    weights: np.ndarray  # the same of all nodes as they came in
    mass: int
    unit: float  # an integer of one in units of the weights
    corner: bool
    arcs: list[np.ndarray]  # those that the last large program ended with
    tree: np.ndarray
    flow: np.ndarray  # on the arc from each node to its parent
    pi: np.ndarray  # potentials u of rows and v of columns: u_i + v_j = c_ij in the tree


# ------------------------------------------------------------------------------------------------------------ the tree
@helper
def _cost(G: np.ndarray, row: int, col: int, wall: float) -> float:
    n, m = G.shape
    return min(G[row, col], wall) if row < n and col < m else 0.0


@helper
def _detach(tree: np.ndarray, k: int) -> None:
    before, after = tree[PREV, k], tree[NEXT, k]
    if before >= 0:
        tree[NEXT, before] = after
    else:
        tree[FIRST, tree[PARENT, k]] = after
    if after >= 0:
        tree[PREV, after] = before


@helper
def _attach(tree: np.ndarray, k: int, parent: int) -> None:
    head = tree[FIRST, parent]
    tree[PARENT, k], tree[NEXT, k], tree[PREV, k], tree[FIRST, parent] = parent, head, -1, k
    if head >= 0:
        tree[PREV, head] = k


@helper
def _walk(tree: np.ndarray, top: int, k: int) -> int:
    """The node after k in the subtree of `top`, parents first; -1 at its end."""
    if tree[FIRST, k] >= 0:
        return int(tree[FIRST, k])
    while k != top:
        if tree[NEXT, k] >= 0:
            return int(tree[NEXT, k])
        k = tree[PARENT, k]
    return -1


@jit
def _refresh(tree: np.ndarray, pi: np.ndarray, G: np.ndarray, rows: int, wall: float) -> bool:
    """Potentials of the tree at costs G; whether a forbidden pair is in it."""
    root = k = len(pi) - 1
    pi[root], walled = 0.0, False
    k = _walk(tree, root, root)
    while k >= 0:
        up = tree[PARENT, k]
        c = _cost(G, k, up - rows, wall) if k < rows else _cost(G, up, k - rows, wall)
        walled |= c >= wall
        pi[k] = c - pi[up]
        k = _walk(tree, root, k)
    return walled


@helper
def _pivot(tree: np.ndarray, flow: np.ndarray, pi: np.ndarray, rows: int, r: int, c: int, reduced: float) -> None:
    """Bring the arc of row r and column node c into the basis; `reduced` is its reduced cost, negative."""
    # the entering flow runs r -> c and back from c through the tree; where it runs against an arc, that arc loses flow
    a, b, most, leave, on_c = r, c, np.int64(0x7FFFFFFFFFFFFFFF), -1, False
    while a != b:
        if tree[DEPTH, a] >= tree[DEPTH, b]:
            if a < rows and flow[a] < most:  # of equal ones on this side the nearest to r ...
                most, leave, on_c = flow[a], a, False
            a = tree[PARENT, a]
        else:
            b = tree[PARENT, b]
    join, b = a, c
    while b != join:
        if b >= rows and flow[b] <= most:  # ... and on this one the nearest to the join: the last of the cycle
            most, leave, on_c = flow[b], b, True
        b = tree[PARENT, b]
    if most > 0:
        for start in (r, c):
            k, against = start, start < rows
            while k != join:
                flow[k] += -most if (k < rows) == against else most
                k = tree[PARENT, k]
    # hang the part that is cut off below the entering arc: its path from there to the leaving arc is turned round
    k, below = (c, r) if on_c else (r, c)
    top, carried = k, most
    while True:
        up, mine = tree[PARENT, k], flow[k]
        _detach(tree, k)
        _attach(tree, k, below)
        flow[k], carried = carried, mine
        if k == leave:
            break
        k, below = up, k
    change = reduced if on_c else -reduced  # of columns; rows get the opposite
    k = top
    while k >= 0:
        tree[DEPTH, k] = tree[DEPTH, tree[PARENT, k]] + 1
        pi[k] += -change if k < rows else change
        k = _walk(tree, top, k)


# ------------------------------------------------------------------------------------------------------- the first basis
@helper
def _nearest(g: np.ndarray, v: np.ndarray, m: int) -> tuple[float, int]:
    best, where = np.inf, -1
    for j in range(m):
        x = g[j] - v[j]
        if x < best:
            best, where = x, j
    return best, where


@helper
def _in_rising_order(x: np.ndarray) -> np.ndarray:
    """Indices that sort x, of equal ones the first first: by merging runs. Numba's own takes 2 s to compile."""
    n = len(x)
    order, merged = np.empty(n, np.int64), np.empty(n, np.int64)
    for k in range(n):
        order[k] = k
    width = 1
    while width < n:
        for low in range(0, n, 2 * width):
            i, middle, high = low, min(low + width, n), min(low + 2 * width, n)
            j = middle
            for k in range(low, high):
                if i < middle and (j >= high or x[order[i]] <= x[order[j]]):
                    merged[k] = order[i]
                    i += 1
                else:
                    merged[k] = order[j]
                    j += 1
        order, merged = merged, order
        width *= 2
    return order


@helper
def _greedy(G: np.ndarray, a: np.ndarray, b: np.ndarray, mass: int, edges: np.ndarray, x: np.ndarray) -> int:
    """A basic plan of `mass` between the real points: rows in the order of their cheapest cost take what is cheapest."""
    n, m = G.shape
    left, rest, taken = mass, b.copy(), np.zeros(m)
    lowest = np.empty(n)
    for i in range(n):
        lowest[i] = _nearest(G[i], taken, m)[0]
    count = 0
    order = _in_rising_order(lowest)
    for k in range(n):
        i = order[k]
        mine = a[i]
        while mine > 0 and left > 0:
            j = _nearest(G[i], taken, m)[1]
            t = min(mine, rest[j], left)
            edges[count, 0], edges[count, 1], x[count] = i, j, t
            mine, rest[j], left, count = mine - t, rest[j] - t, left - t, count + 1
            if rest[j] == 0:
                taken[j] = -np.inf
        if left == 0:
            break
    return count


@jit
def _plant(
    G: np.ndarray, a: np.ndarray, b: np.ndarray, mass: int, corner: bool, tree: np.ndarray, flow: np.ndarray, pi: np.ndarray,
    wall: float,
) -> None:  # fmt: skip
    """A strongly feasible basis: a greedy plan, what is left to the dummies, and arcs without flow that run up."""
    (n, m), rows, cols = G.shape, len(a), len(b)
    N = rows + cols
    edges, x = np.empty((n + m + N, 2), np.int64), np.empty(n + m + N, np.int64)
    count = _greedy(G, a, b, mass, edges, x)
    left = np.empty(N, np.int64)
    copy(a, left[:rows])
    copy(b, left[rows:])
    for t in range(count):
        left[edges[t, 0]] -= x[t]
        left[rows + edges[t, 1]] -= x[t]
    if cols > m:
        for i in range(n):
            if left[i] > 0:
                edges[count, 0], edges[count, 1], x[count] = i, m, left[i]
                left[rows + m] -= left[i]
                count += 1
    if rows > n:
        for j in range(m):
            if left[rows + j] > 0:
                edges[count, 0], edges[count, 1], x[count] = n, j, left[rows + j]
                left[n] -= left[rows + j]
                count += 1
        if cols > m and left[n] > 0:
            edges[count, 0], edges[count, 1], x[count] = n, m, left[n]
            count += 1
    # arcs of each node
    start = np.zeros(N + 1, np.int64)
    for t in range(count):
        start[edges[t, 0] + 1] += 1
        start[rows + edges[t, 1] + 1] += 1
    for k in range(N):
        start[k + 1] += start[k]
    fill, arcs = start[:N].copy(), np.empty(2 * count, np.int64)
    for t in range(count):
        for k in (edges[t, 0], rows + edges[t, 1]):
            arcs[fill[k]] = t
            fill[k] += 1
    tree[:] = -1
    known = np.empty(cols)  # potentials of the columns reached so far
    for k in range(cols):
        known[k] = -np.inf
    root = rows + cols - 1
    for first in range(rows + 1):
        top = root if first == 0 else first - 1
        if first == 0:
            tree[DEPTH, root], pi[root], flow[root], known[cols - 1] = 0, 0.0, 0, 0.0
        elif tree[DEPTH, top] >= 0:
            continue
        else:
            if top < n:
                best, j = _nearest(G[top], known, m)
                if cols > m and -known[m] < best:
                    best, j = -known[m], m
            else:
                best, j = -known[m] if corner else np.inf, m
                for k in range(m):
                    if -known[k] < best:
                        best, j = -known[k], k
            _attach(tree, top, rows + j)
            tree[DEPTH, top], flow[top] = tree[DEPTH, rows + j] + 1, 0
            pi[top] = _cost(G, top, j, wall) - pi[rows + j]
        k = top
        while k >= 0:  # children are found on the way
            for e in range(start[k], start[k + 1]):
                i, j = edges[arcs[e], 0], edges[arcs[e], 1]
                other = rows + j if k < rows else i
                if tree[DEPTH, other] < 0:
                    _attach(tree, other, k)
                    tree[DEPTH, other], flow[other] = tree[DEPTH, k] + 1, x[arcs[e]]
                    pi[other] = _cost(G, i, j, wall) - pi[k]
                    if other >= rows:
                        known[j] = pi[other]
            k = _walk(tree, top, k)


# --------------------------------------------------------------------------------------------------------------- pricing
@jit
def _repair(
    G: np.ndarray, flagged: np.ndarray, corner: bool, tree: np.ndarray, flow: np.ndarray, pi: np.ndarray, rows: int, limit: float
) -> tuple[float, int]:
    """Pivot on the most negative arc of each flagged row until none of the row is below `limit`; the lowest left, and pivots.

    The lowest is that of a sum over the negative reduced costs of a row: a bound that vectorises.
    """
    (n, m), cols = G.shape, len(pi) - rows
    zero, v, low, pivots = np.zeros(m if rows > n else 0), pi[rows:], 0.0, 0
    for i in range(rows):
        if not flagged[i]:
            continue
        g, dummy = G[i] if i < n else zero, cols > m and (i < n or corner)
        while True:
            u, s, j = pi[i], 0.0, -1
            for t in range(m):
                s = add(s, min(g[t] - v[t] - u, 0.0))
            if s < limit:
                s, j = _nearest(g, v, m)
                s -= u
            if dummy and -v[m] - u < min(s, limit):
                s, j = -v[m] - u, m
            if s >= limit:
                low = min(low, s)
                break
            _pivot(tree, flow, pi, rows, i, rows + j, s)
            pivots += 1
    return low, pivots


@kernel
def _flags(G: np.ndarray, pi: np.ndarray, rows: int, corner: bool, limit: float, flagged: np.ndarray) -> float:
    """Rows with an arc below `limit`, and the lowest bound of the others."""
    (n, m), cols = G.shape, len(pi) - rows
    v, blocks = pi[rows:], (rows + ROWS - 1) // ROWS
    low = np.zeros(blocks)
    for block in prange(blocks):
        x = 0.0
        for i in range(block * ROWS, min(rows, (block + 1) * ROWS)):
            u, s = pi[i], 0.0
            if i < n:
                g = G[i]
                for t in range(m):
                    s = add(s, min(g[t] - v[t] - u, 0.0))
            else:
                for t in range(m):
                    s = add(s, min(-v[t] - u, 0.0))
            if cols > m and (i < n or corner):
                s += min(-v[m] - u, 0.0)
            flagged[i] = s < limit
            x = min(x, 0.0 if s < limit else s)
        low[block] = x
    return low.min()


@jit
def _polish(
    G: np.ndarray, codes: np.ndarray, corner: bool, tree: np.ndarray, flow: np.ndarray, pi: np.ndarray, rows: int, limit: float,
    wall: float,
) -> int:  # fmt: skip
    """Pivot over the arcs of sorted codes i*m + j, and those of the dummies, until none is worth it."""
    (n, m), cols = G.shape, len(pi) - rows
    start, where, cost = np.zeros(n + 1, np.int64), np.empty(len(codes), np.int32), np.empty(len(codes))
    for t in range(len(codes)):
        i = codes[t] // m
        start[i + 1] = t + 1
        where[t] = codes[t] - i * m
        cost[t] = min(G[i, where[t]], wall)
    for i in range(n):
        start[i + 1] = max(start[i + 1], start[i])
    v, pivots, before = pi[rows:], 0, -1
    while pivots > before:
        before = pivots
        for i in range(rows):
            while True:
                best, j = np.inf, -1
                if i < n:
                    for t in range(start[i], start[i + 1]):
                        x = cost[t] - v[where[t]]
                        if x < best:
                            best, j = x, where[t]
                else:
                    for t in range(m):
                        if -v[t] < best:
                            best, j = -v[t], t
                if cols > m and -v[m] < best and (corner or i < n):
                    best, j = -float(v[m]), m
                if best - pi[i] >= limit:
                    break
                _pivot(tree, flow, pi, rows, i, rows + j, best - pi[i])
                pivots += 1
    return pivots


@jit
def _limit(pi: np.ndarray, top: float, wall: float, walled: bool) -> float:
    """A reduced cost above this one is rounding: a few roundings of the costs along a path of the tree."""
    return -4.0 * EPS * len(pi) * (wall if walled else top)


@jit
def optimise(
    G: np.ndarray, a: np.ndarray, b: np.ndarray, mass: int, corner: bool, tree: np.ndarray, flow: np.ndarray, pi: np.ndarray,
    top: float,
) -> tuple[float, float, int]:  # fmt: skip
    """Plant a basis where there is none, and pivot until a clean sweep: lowest reduced cost, what counts as zero, sweeps."""
    rows, wall = len(a), _wall(pi, top)
    everyone = np.ones(rows, np.bool_)
    if tree[DEPTH, -1] < 0:
        _plant(G, a, b, mass, corner, tree, flow, pi, wall)
    for sweep in range(1, MAX_SWEEPS):
        limit = _limit(pi, top, wall, _refresh(tree, pi, G, rows, wall))
        low, pivots = _repair(G, everyone, corner, tree, flow, pi, rows, limit)
        if pivots == 0:
            return low, limit, sweep
    return -np.inf, limit, MAX_SWEEPS


@jit
def _nearest_of_rows(G: np.ndarray, flagged: np.ndarray, v: np.ndarray, k: int) -> np.ndarray:
    """Sorted codes of the k nearest columns of each flagged row."""
    n, m = G.shape
    k = min(k, m)
    codes, t, val, idx = np.empty(np.sum(flagged[:n]) * k, np.int64), 0, np.empty(k), np.empty(k, np.int64)
    for i in range(n):
        if not flagged[i]:
            continue
        g, val[:] = G[i], np.inf
        for j in range(m):
            x = g[j] - v[j]
            if x < val[k - 1] and g[j] < FORBIDDEN_FROM:
                e = k - 1
                while e > 0 and val[e - 1] > x:
                    val[e], idx[e] = val[e - 1], idx[e - 1]
                    e -= 1
                val[e], idx[e] = x, j
        found = np.sort(idx[: np.sum(val < np.inf)])
        for e in range(len(found)):
            codes[t] = i * m + found[e]
            t += 1
    return codes[:t]


def _optimise_large(G: np.ndarray, s: Basis, top: float) -> tuple[float, float, int]:
    """The same for a large matrix: pivots on few arcs, then a (parallel) read of G for rows that want others, and again."""
    (n, m), rows, wall = G.shape, len(s.a), _wall(s.pi, top)
    state = s.corner, s.tree, s.flow, s.pi
    flagged = np.empty(rows, bool)
    if s.tree[DEPTH, -1] < 0:
        _plant(G, s.a, s.b, s.mass, s.corner, s.tree, s.flow, s.pi, wall)
        arcs = lp_candidates(G, *lp_reduce(G, top), K_COLD)
    elif s.arcs and len(s.arcs[0]) <= MOST_ARCS * (n + m):
        arcs = s.arcs[0]
    else:  # the duals of the last program are nearly right for this one
        arcs = lp_candidates(G, s.pi[:n].copy(), s.pi[rows : rows + m].copy(), K_WARM)
    limit = _limit(s.pi, top, wall, _refresh(s.tree, s.pi, G, rows, wall))
    for sweep in range(1, MAX_SWEEPS):
        _polish(G, arcs, *state, rows, limit, wall)
        limit = _limit(s.pi, top, wall, _refresh(s.tree, s.pi, G, rows, wall))
        low = _flags(G.size // WORTH, G, s.pi, rows, s.corner, limit, flagged)
        if flagged.any():
            more = _union(arcs, _nearest_of_rows(G, flagged, s.pi[rows:], K_ADD))
            lowest, pivots = (0.0, 1) if len(more) > len(arcs) else _repair(G, flagged, *state, rows, limit)
            arcs, low = more, min(low, lowest)
            if pivots:
                continue
        s.arcs[:] = [arcs]
        return low, limit, sweep
    return -np.inf, limit, MAX_SWEEPS


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sorted union of sorted codes; the stable sort merges the two runs in linear time."""
    both = np.sort(np.concatenate((a, b)), kind="stable")
    return both[np.concatenate(([True], both[1:] != both[:-1]))]  # type: ignore[no-any-return]


@jit
def _wall(pi: np.ndarray, top: float) -> float:
    """The cost of a forbidden pair, above that of any cycle: it is used only where nothing else is."""
    return 2.0 * (len(pi) + 2) * top + 1.0


# ---------------------------------------------------------------------------------------------------------- basis and plan
@helper
def _total(x: np.ndarray) -> float:
    total = 0.0
    for k in range(len(x)):
        total = add(total, x[k])
    return total


@helper
def _are_equal(x: np.ndarray) -> bool:
    same = True
    for k in range(1, len(x)):
        same = same and x[k] == x[0]
    return same


@jit
def _basis(
    p: np.ndarray, q: np.ndarray, mass: float, spare_p: bool, spare_q: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, float, np.ndarray, np.ndarray, np.ndarray]:
    """Weights as integers of one total and as they came in, mass, what an integer is worth, an empty tree, flow, potentials.

    The dummies take up what is left over, else it is spread over the columns.
    """
    n, m = len(p), len(q)
    unit = 2.0 ** (np.ceil(np.log2(max(_total(p), _total(q)))) - 60.0)
    a, b = np.empty(n + spare_q, np.int64), np.empty(m + spare_p, np.int64)
    for i in range(n):
        a[i] = max(1, np.int64(np.rint(p[i] / unit)))
    for j in range(m):
        b[j] = max(1, np.int64(np.rint(q[j] / unit)))
    A = B = np.int64(0)
    for i in range(n):
        A += a[i]
    for j in range(m):
        B += b[j]
    whole = min(np.int64(np.rint(mass / unit)), A, B)
    if spare_p and spare_q:
        for w in (a[:n], b[:m]):  # a mass that is a multiple of equal weights up to rounding is one: no crumbs
            near = (whole + w[0] // 2) // w[0] * w[0]
            if _are_equal(w) and abs(near - whole) <= 1024 and near <= min(A, B):
                whole = near
                break
    elif spare_p:
        whole = B
    elif spare_q:
        whole = A
    else:
        whole, more = A, A - B
        heavy = t = 0
        for j in range(m):
            heavy += b[j] > 2**20
        for j in range(m):
            if b[j] > 2**20:
                b[j] += more // heavy + (t < more % heavy)
                t += 1
    if spare_q:
        a[n] = B - whole
    if spare_p:
        b[m] = A - whole
    N = len(a) + len(b)
    weights, tree = np.zeros(N), np.empty((5, N), np.int32)
    for i in range(5):
        for k in range(N):
            tree[i, k] = -1
    copy(p, weights[:n])
    copy(q, weights[len(a) : len(a) + m])
    return a, b, weights, whole, unit, tree, np.zeros(N, np.int64), np.zeros(N)


def lp_basis(p: np.ndarray, q: np.ndarray, mass: float, spare_p: bool, spare_q: bool, corner: bool) -> Basis:
    """State of the programs over plans of given mass with T1 <= p where `spare_p`, else T1 = p; T'1 <= q or = q alike.

    With `corner` the mass is free.
    """
    a, b, weights, whole, unit, tree, flow, pi = _basis(p, q, 0.0 if corner else mass, spare_p, spare_q)
    return Basis(a, b, weights, whole, unit, corner, [], tree, flow, pi)


@helper
def in_order(code: np.ndarray, x: np.ndarray, count: int, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` pairs (code, x), sorted by codes: row by row, in each by insertion, where nearly all are in order."""
    start = np.zeros(n + 1, np.int64)
    for t in range(count):
        start[code[t] // m + 1] += 1
    for i in range(n):
        start[i + 1] += start[i]
    codes, entries, end = np.empty(count, np.int64), np.empty(count), np.zeros(n, np.int64)
    for t in range(count):
        i = code[t] // m
        k = start[i] + end[i]
        while k > start[i] and codes[k - 1] > code[t]:
            codes[k], entries[k] = codes[k - 1], entries[k - 1]
            k -= 1
        codes[k], entries[k] = code[t], x[t]
        end[i] += 1
    return codes, entries


@jit
def read_plan(
    n: int, m: int, rows: int, weights: np.ndarray, unit: float, tree: np.ndarray, flow: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted codes and entries of the flow between real points; less than rounding of the total is none."""
    code, x, t = np.empty(n + m, np.int64), np.empty(n + m), np.int64(0)  # a literal 0 would have `in_order` compiled twice
    smallest = flow[0]
    for k in range(len(flow)):
        smallest = max(smallest, flow[k])
    for k in range(len(weights)):
        if weights[k] > 0.0:
            smallest = min(smallest, np.int64(weights[k] / unit))
    crumb = min(1024, smallest // 4)
    for k in range(tree.shape[1] - 1):
        up = tree[PARENT, k]
        i, j = (k, up - rows) if k < rows else (up, k - rows)
        if i < n and j < m and flow[k] > crumb:
            code[t] = i * m + j
            x[t] = flow[k] * unit if tree[FIRST, k] >= 0 else weights[k]  # all of a point whose only arc this is
            t += 1
    return in_order(code, x, t, n, m)


def lp_solve(s: Basis, G: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float, int]:
    """The plan that minimises <G, .>, from the basis of the last call; top = max |G| of the allowed pairs.

    Returns sorted codes and entries, potentials of rows and columns (dummies included), the lowest reduced cost (or 0), the
    bound below which that is no rounding, and the number of sweeps (reads of G).
    """
    (n, m), rows = G.shape, len(s.a)
    if n * m <= DENSE_UP_TO:
        low, limit, sweeps = optimise(G, s.a, s.b, s.mass, s.corner, s.tree, s.flow, s.pi, top)
    else:
        low, limit, sweeps = _optimise_large(G, s, top)
    code, x = read_plan(n, m, rows, s.weights, s.unit, s.tree, s.flow)
    return code, x, s.pi[:rows].copy(), s.pi[rows:].copy(), low, limit, sweeps
