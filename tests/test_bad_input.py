"""What `solve` refuses, with which error and which remedy; what it accepts as it is; how it ends, warns and reports."""

from __future__ import annotations

import contextlib
import sys
import types
import warnings

import numpy as np
import oracle
import pytest

from fpgwot import ConvergenceError, ConvergenceWarning, Status, align, audit, solve, solve_batch

N, K = 4, 3


def good() -> dict:
    """A problem that is fine; each case changes one thing."""
    rng = np.random.default_rng(0)
    C1, C2 = rng.random((N, N)), rng.random((K, K))
    return {"M": rng.random((N, K)), "C1": C1 + C1.T, "C2": C2 + C2.T, "p": np.full(N, 1 / N), "q": np.full(K, 1 / K), "reg": 0.1}


def spoiled(name: str, value: float) -> np.ndarray:
    x = good()[name].copy()
    x.flat[1] = value
    return x


LINEAR = {"C1": None, "C2": None}
CLOSED = np.ones((N, K), bool)
CLOSED[2] = False  # row 2 has no allowed pair

CASES = [  # what changes, type of the error, a fragment of the text that names the fault or the remedy
    *[({name: spoiled(name, np.nan)}, ValueError, f"{name} has NaN") for name in ("M", "C1", "C2", "p", "q")],
    *[({name: spoiled(name, np.inf)}, ValueError, f"{name} has NaN") for name in ("M", "C1", "C2", "p", "q")],
    ({"M": spoiled("M", -np.inf)}, ValueError, "mask="),
    ({"reference": np.full((N, K), np.nan)}, ValueError, "reference must be"),
    ({"init": np.full((N, K), np.nan)}, ValueError, "init must be"),
    ({"p": spoiled("p", -0.1)}, ValueError, "negative weights"),
    ({"q": np.zeros(K)}, ValueError, "sums to zero"),
    ({"p": np.full(N + 1, 1 / N)}, ValueError, "must have 4 entries"),
    ({"p": 1.0}, ValueError, "must have 4 entries"),
    ({"M": np.ones(N)}, ValueError, r"\(n, m\)"),
    ({"M": 1.0}, ValueError, r"\(n, m\)"),
    ({"M": np.ones((1, 1, N, K))}, ValueError, r"\(B, n, m\)"),
    ({"C1": np.ones((N, N + 1))}, ValueError, "square"),
    ({"C1": np.ones((N + 1, N + 1))}, ValueError, "shapes do not fit"),
    ({"C1": None}, ValueError, "go together"),
    ({"M": None, **LINEAR}, ValueError, "nothing to solve"),
    ({"M": np.ones((0, K)), **LINEAR, "p": None}, ValueError, "empty"),
    ({"M": np.ones((N, 0)), **LINEAR, "q": None}, ValueError, "empty"),
    ({"M": np.ones((2, N, K)), "C1": np.ones((3, N, N))}, ValueError, "batch axes differ"),
    ({"M": np.ones((2, N, K)), "p": np.full((3, N), 1 / N)}, ValueError, "batch axes differ"),
    ({"p": np.full(N, 0.5)}, ValueError, "relax the marginals"),
    *[({"m": m}, ValueError, "at most") for m in (0, -0.5, 1.001, 1 + 1e-6, np.inf)],
    ({"m": np.nan}, ValueError, "NaN"),
    ({"m": "half"}, ValueError, "'auto'"),
    ({"m": [0.1, 0.2]}, ValueError, "one number"),
    ({"m": 0.5, "tau": 1.0}, ValueError, "pass one"),
    ({"tau": -1.0}, ValueError, "0 or more"),
    ({"tau": (1.0, 2.0, 3.0)}, ValueError, "pair"),
    ({"tau": np.nan}, ValueError, "tau must be"),
    ({"tau": 0}, ValueError, "at least one side"),
    ({"reg": -0.1}, ValueError, "positive"),
    ({"reg": np.inf}, ValueError, "finite"),
    ({"reg": np.nan}, ValueError, "NaN"),
    ({"reg": "much"}, TypeError, "number"),
    ({"reg_rel": 0.1}, ValueError, "pass one of them"),
    ({"reg": 0, "reg_rel": -1}, ValueError, "reg_rel must be positive"),
    *[({"alpha": x}, ValueError, r"\[0, 1\]") for x in (-0.1, 1.1)],
    ({"alpha": np.nan}, ValueError, "NaN"),
    ({"M": None, "alpha": 0.5}, ValueError, "alpha=1"),
    ({**LINEAR, "alpha": 0.5}, ValueError, "alpha=0"),
    ({"method": "magic"}, ValueError, "choose one of"),
    ({"backend": "magic"}, ValueError, "choose one of"),
    ({"loss": "magic"}, ValueError, "choose one of"),
    ({"normalize": "magic"}, ValueError, "choose"),
    ({"init": "magic"}, ValueError, "choose one of"),
    ({"init": np.ones((K, N))}, ValueError, "init must be"),
    ({"init": np.zeros((N, K))}, ValueError, "not all 0"),
    ({"init": -np.ones((N, K))}, ValueError, "0 or more"),
    ({"on_fail": "magic"}, ValueError, "'raise'"),
    ({"method": "entropic", "reg": 0}, ValueError, "reg > 0"),
    ({"method": "conditional_gradient"}, ValueError, "reg=0"),
    *[({"n_init": x}, ValueError, "1 or more") for x in (0, -1, 1.5)],
    *[({"tol": x}, ValueError, "tol must be positive") for x in (0, -1e-3, np.nan)],
    *[({"max_iter": x}, ValueError, "1 or more") for x in (0, -1)],
    ({"mask": np.ones((N, K))}, ValueError, "boolean"),
    ({"mask": np.ones((K, N), bool)}, ValueError, "boolean"),
    ({"mask": CLOSED}, ValueError, "infeasible"),
    ({"mask": CLOSED, "reg": 0}, ValueError, "infeasible"),
    ({"mask": CLOSED, "m": 0.9}, ValueError, "infeasible"),
    ({"mask": CLOSED, "tau": (np.inf, 0)}, ValueError, "infeasible"),
    ({"mask": CLOSED, "tau": (np.inf, 0.5)}, ValueError, "infeasible"),
    ({"reference": np.where(CLOSED, 0.1, 0.0)}, ValueError, "infeasible"),
    ({"reference": np.ones((K, N))}, ValueError, "reference must be"),
    ({"reference": -1.0}, ValueError, "reference must be"),
    ({"reference": 0.0}, ValueError, "reference must be"),
    ({"reference": 1.0, "reg": 0}, ValueError, "reg > 0"),
    *[({"M": np.ones((N, K)).astype(kind), **LINEAR}, TypeError, "real numbers") for kind in (object, complex, str)],
    ({"C1": np.ones((N, N), complex)}, TypeError, "real numbers"),
    ({"p": np.full(N, 0.25 + 1j)}, TypeError, "real|number"),
    ({"reference": np.full((N, K), 0.25 + 1j)}, TypeError, "real|number"),
    ({"init": np.full((N, K), 0.25 + 1j)}, TypeError, "real|number"),
    ({"p": ["a"] * N}, (TypeError, ValueError), "string|real|number"),
    ({"loss": "kl", "C1": -np.eye(4)}, ValueError, "C1 has negative ones"),
    ({"tau": 0.5, "reg": 0, "method": "conditional_gradient"}, ValueError, "hard or free"),
]


@pytest.mark.parametrize(("change", "error", "text"), CASES, ids=[f"{i}-{'-'.join(c[0])}" for i, c in enumerate(CASES)])
def test_errors_name_the_remedy(change, error, text):
    with pytest.raises(error, match=text):
        solve(**(good() | change))


def test_arrays_of_another_library():
    """The kind of an array is read off its type: a stand-in is enough."""
    module = types.ModuleType("cupy")
    kind = {"__module__": "cupy", "dtype": np.dtype(float), "ndim": 2, "shape": (N, K), "device": contextlib.nullcontext()}
    stand_in = type("ndarray", (), kind)
    sys.modules["cupy"], before = module, sys.modules.get("cupy")
    try:
        with pytest.raises(TypeError, match="copy them to the host"):
            solve(stand_in(), reg=0.1, backend="numba")
        with pytest.raises(TypeError, match="different kinds"):
            solve(stand_in(), np.ones((N, N)), np.ones((K, K)), reg=0.1)
    finally:
        sys.modules.pop("cupy")
        if before is not None:
            sys.modules["cupy"] = before


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("off", [1e-13, -1e-13, 1e-10])
def test_rounding_in_the_mass_and_in_the_totals_is_accepted(off, backend):
    x = good()
    assert solve(**(x | {"m": 1 + off}), backend=backend).mass == pytest.approx(1, rel=1e-9)
    assert solve(**(x | {"p": x["p"] * (1 + off)}), backend=backend).converged
    p = x["p"].astype(np.float32)
    assert solve(**(x | {"p": p / np.float32(p.sum() * (1 + 1e-6))}), backend=backend).converged


@pytest.mark.parametrize("reg", [0, 0.1])
@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8, bool])
def test_integers_are_promoted(kind, reg):
    """Unsigned and short integers would wrap around in C*C and in differences; none may truncate the plan."""
    rng = np.random.default_rng(1)
    high = 2 if kind is bool else 100
    M, C1, C2 = (rng.integers(0, high, shape).astype(kind) for shape in ((N, K), (N, N), (K, K)))
    reg = reg * high**2
    one, two = solve(M, C1, C2, reg=reg), solve(*(x.astype(float) for x in (M, C1, C2)), reg=reg)
    assert one.plan.dtype == np.float64
    np.testing.assert_array_equal(one.plan, two.plan)
    weights = solve(M, p=np.array([1, 2, 1, 2]), q=np.array([2, 2, 2]), reg=reg)  # integer weights too
    assert weights.mass == pytest.approx(6)
    np.testing.assert_array_equal(solve(M.tolist(), C1.tolist(), C2.tolist(), reg=reg).plan, two.plan)  # and lists
    start = np.ones((N, K), int)
    assert solve(M, C1, C2, reg=reg, init=start).plan.dtype == np.float64


@pytest.mark.parametrize("reg", [0, 0.1])
def test_any_memory_layout_is_read_and_nothing_is_written(reg):
    x = good() | {"reg": reg, "m": 0.8, "mask": np.ones((N, K), bool), "init": np.full((N, K), 1 / (N * K))}
    expected = solve(**x)
    arrays = {k: v for k, v in x.items() if isinstance(v, np.ndarray)}

    def strided(a):
        big = np.zeros([2 * s for s in a.shape], a.dtype)
        view = big[tuple(slice(None, None, 2) for _ in a.shape)]
        view[...] = a
        return view

    def locked(a):
        a = a.copy()
        a.flags.writeable = False
        return a

    for layout in (np.asfortranarray, strided, locked):
        given = {k: layout(v) for k, v in arrays.items()}
        res = solve(**(x | given))
        np.testing.assert_allclose(res.plan, expected.plan, atol=1e-13)
        for name, a in given.items():
            np.testing.assert_array_equal(a, arrays[name], err_msg=f"{name} was modified")
        assert res.plan.flags.c_contiguous
        assert all(not np.shares_memory(res.plan, a) for a in given.values())


@pytest.mark.parametrize("reg", [0, 0.1])
def test_read_only_arrays_compile_nothing_new(reg):
    def compiled():
        modules = [m for name, m in sys.modules.items() if name.startswith("fpgwot._backends.numba_cpu")]
        found = {id(f): f for m in modules for x in vars(m).values() for f in (x, getattr(x, "serial", None))}
        return sum(len(f.signatures) for f in found.values() if hasattr(f, "signatures"))

    x = good() | {"reg": reg}
    solve(**x), solve(x["M"])
    before = compiled()
    for a in x.values():
        if isinstance(a, np.ndarray):
            a.flags.writeable = False
    solve(**x), solve(x["M"])
    assert compiled() == before > 0


@pytest.mark.parametrize("name", ["M", "C1", "C2", "p", "q", "mask", "reference"])
def test_any_array_may_be_the_one_with_the_batch_axis(name):
    x = good() | {"mask": np.ones((N, K), bool), "reference": np.full((N, K), 0.1)}
    batch = solve(**(x | {name: np.stack([x[name]] * 3)}))
    assert len(batch) == 3
    np.testing.assert_allclose(batch[2].plan, solve(**x).plan, atol=1e-9)


def test_big_endian_and_half_precision_are_read():
    x = good()
    swapped = {k: x[k].astype(">f8") for k in ("M", "C1", "C2", "p", "q")}
    np.testing.assert_array_equal(solve(**(x | swapped)).plan, solve(**x).plan)
    assert solve(x["M"].astype(np.float16), reg=0.1).plan.dtype == np.float32


# ------------------------------------------------------------------------------------------------------- the other functions


def test_errors_of_solve_batch():
    x = {"M": np.ones((2, 3))}
    assert solve_batch([]) == []
    for problems, common, error, text in [
        ([x, {"M": np.ones((2, 3)), "typo": 1}], {"reg": 1}, TypeError, "typo"),
        ([x | {"reg": 1}], {"reg": 1}, TypeError, "one place"),
        ([x, {"C1": np.eye(2), "C2": np.eye(3)}], {"reg": 1}, ValueError, "all or none"),
        ([{"p": np.ones(2) / 2}], {"reg": 1}, ValueError, "M, or C1 and C2"),
        ([x | {"p": np.full((2, 2), 0.5)}], {"reg": 1}, ValueError, "problem 0"),
        ([x | {"p": np.full(5, 0.2)}], {"reg": 1}, ValueError, "entries|shape"),
    ]:
        with pytest.raises(error, match=text):
            solve_batch(problems, **common)


def test_errors_of_align_and_audit():
    X = np.random.default_rng(0).normal(size=(6, 3))
    for args, options, text in [
        ((X, X[:, :2]), {}, "same features"),
        ((X[0], X), {}, "matrix"),
        ((X * np.nan, X), {}, "drop or fill"),
        ((X, X, 1.5), {}, "at most"),
        ((X, X), {"metric": "magic"}, "cosine"),
        ((X, X), {"structure": "magic"}, "laplace"),
        ((X, X), {"rho": -1}, "0 or more"),
    ]:
        with pytest.raises(ValueError, match=text):
            align(*args, **options)
    for T in (np.ones((2, 2)), -np.ones((6, 6)), np.full((6, 6), np.nan)):
        with pytest.raises(ValueError, match="plan must be"):
            audit(T, np.ones((6, 6)), reg=1.0)


# --------------------------------------------------------------------------------------------- how it ends, warns and reports


def hard() -> dict:
    """A problem that two iterations do not solve."""
    return oracle.problem("balanced", "fgw", reg=0.01, n=12, k=11).arguments | {"max_iter": 2, "tol": 1e-13}


@pytest.mark.parametrize("reg", [0, 0.01])
def test_on_fail(reg):
    x = hard() | {"reg": reg, "max_iter": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        res = solve(**x)
    assert [w.category for w in caught] == [ConvergenceWarning]
    assert caught[0].filename == __file__  # the caller's line, not one of ours
    assert "max_iter" in str(caught[0].message)
    assert not res.converged
    assert res.status is Status.MAX_ITER
    assert res.n_iter == 1
    with pytest.raises(ConvergenceError, match="max_iter"):
        solve(**x, on_fail="raise")
    assert not solve(**x, on_fail="ignore").converged  # no warning: those are errors here
    with pytest.warns(ConvergenceWarning, match="2 of 2 problems"):
        solve(**(x | {"M": np.stack([x["M"]] * 2)}))


def test_warnings_of_align_point_at_the_caller():
    X = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.warns(ConvergenceWarning) as caught:
        align(X, X[::-1], max_iter=1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("reg", [0, 0.01])
def test_callback_sees_progress_and_stops(reg):
    seen = []
    x = hard() | {"reg": reg, "max_iter": 50}

    def stop(progress):
        seen.append(progress)
        return len(seen) == 2

    res = solve(**x, callback=stop, on_fail="ignore")
    assert len(seen) <= 2
    assert res.converged or res.status is Status.STOPPED
    assert res.n_iter == len(seen) or res.converged
    for i, progress in enumerate(seen):
        assert progress.iteration in (i, i + 1)
        assert isinstance(progress.objective, float)
        assert progress.residual >= 0
        assert progress.elapsed >= 0


@pytest.mark.parametrize("reg", [0, 0.1])
def test_verbose_writes_to_stderr_only(reg, capfd):
    solve(**(good() | {"reg": reg}), verbose=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "objective" in err
    solve(**(good() | {"reg": reg}))
    assert capfd.readouterr() == ("", "")
