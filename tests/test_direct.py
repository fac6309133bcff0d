"""Ordinary linear programs take one compiled call, with the result of the general one; what is not ordinary takes that."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import ot
import pytest

from fpgwot import _direct, api, solve


def general(M: Any, p: Any = None, q: Any = None, **options: Any) -> Any:
    """The same problem by the general call: a callback is not ordinary."""
    return solve(M, None, None, p, q, callback=lambda at: False, **options)


def weights(rng: np.random.Generator, n: int) -> np.ndarray:
    w = rng.random(n) + 0.1
    return w / w.sum()


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of `solve` that came to it, whether the direct function took it."""
    taken: list[bool] = []
    original = _direct.linear

    def watched(*args: Any) -> Any:
        result = original(*args)
        taken.append(result is not None)
        return result

    monkeypatch.setattr(api._direct, "linear", watched)
    return taken


@pytest.mark.parametrize("m", [None, 0.8, 0.35])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (7, 7), (16, 11), (40, 63)])
@pytest.mark.parametrize("kind", ["random", "signed", "ties", "zero"])
@pytest.mark.parametrize("is_uniform", [True, False])
def test_result_is_that_of_the_general_call(
    direct: list[bool], shape: tuple[int, int], m: float | None, kind: str, is_uniform: bool
) -> None:
    rng = np.random.default_rng(sum(shape))
    M = {
        "random": rng.random(shape),
        "signed": rng.standard_normal(shape) * 50,
        "ties": rng.integers(0, 3, shape).astype(float),
        "zero": np.zeros(shape),
    }[kind]
    p, q = (None, None) if is_uniform else (weights(rng, shape[0]), weights(rng, shape[1]))
    got, want = solve(M, None, None, p, q, m=m), general(M, p, q, m=m)
    heavy = m is not None and max(*got.weights[0], *got.weights[1]) > m  # such points are cut first
    assert direct[0] is not heavy
    for field in fields(got):
        a, b = getattr(got, field.name), getattr(want, field.name)
        if field.name in ("plan", "gradient", "marginal_a", "marginal_b", "history"):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15, err_msg=field.name)
            assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape, field.name
        elif field.name in ("potentials", "weights"):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-14, err_msg=field.name)
        elif field.name == "residuals":
            assert abs(a.marginal - b.marginal) < 1e-13 and abs(a.mass - b.mass) < 1e-13
            assert abs(a.stationarity - b.stationarity) < 1e-13
        elif isinstance(b, float):
            assert type(a) is float and a == pytest.approx(b, rel=1e-13, abs=1e-15), field.name
        else:
            assert a == b and type(a) is type(b), field.name


@pytest.mark.parametrize("m", [None, 0.7])
def test_value_is_that_of_an_independent_program(direct: list[bool], m: float | None) -> None:
    rng = np.random.default_rng(0)
    for n, k in ((6, 9), (30, 30), (90, 50)):
        M, p, q = rng.standard_normal((n, k)), weights(rng, n), weights(rng, k)
        res = solve(M, None, None, p, q, m=m)
        if m is None:
            want = (ot.emd(p, q, M) * M).sum()
        else:  # dummies take the rest; the pair of the two is too dear to be used
            A = np.zeros((n + 1, k + 1))
            A[:n, :k], A[n, k] = M, 1e3
            want = (ot.emd(np.append(p, 1 - m), np.append(q, 1 - m), A)[:n, :k] * M).sum()
        assert res.converged and res.value == pytest.approx(want, abs=1e-12)
        assert res.mass == pytest.approx(1.0 if m is None else m, abs=1e-14)
        f, g, h = res.potentials
        reduced = M - f[:, None] - g - h
        assert reduced.min() > -1e-12 and abs(reduced[res.plan > 0]).max() < 1e-12
        assert f @ p + g @ q + h * res.mass == pytest.approx(want, abs=1e-12)
    assert direct == [True] * 3


def test_nothing_of_the_callers_is_in_the_result() -> None:
    M, p, q = np.random.default_rng(0).random((4, 4)), np.full(4, 0.25), np.full(4, 0.25)
    res = solve(M, None, None, p, q)
    assert not any(np.shares_memory(x, y) for x in (res.gradient, *res.weights) for y in (M, p, q))


def test_numbers_of_numpy_are_ordinary(direct: list[bool]) -> None:
    M = np.random.default_rng(0).random((6, 6))
    res = solve(M, m=np.float64(0.7), reg=np.float64(0.0))
    assert direct == [True]
    assert type(res.residuals.mass) is float
    np.testing.assert_array_equal(res.plan, solve(M, m=0.7).plan)


def test_the_extraordinary_goes_to_the_general_call(direct: list[bool]) -> None:
    rng = np.random.default_rng(0)
    M, u = rng.random((6, 6)), np.full(6, 1 / 6)
    holes = np.array([0, 0.2, 0.2, 0.2, 0.2, 0.2])
    mask = rng.random((6, 6)) < 0.9
    solve(M, p=holes, q=u)
    solve(M, p=3 * u, q=3 * u)
    solve(M.astype(np.float32))
    solve(M.tolist())
    solve(M, p=u.tolist(), q=u)
    solve(np.stack([M, M]))
    solve(M, m=1.0)
    solve(M, m=0.1)
    assert direct == [False] * 8
    solve(M, mask=mask)
    solve(M, n_init=2)
    solve(M, tau=(np.inf, 0))
    solve(M, sink=0.4)
    solve(M, alpha=0.0)
    solve(M, normalize="max")
    solve(M, backend="numpy")
    solve(M, reg=0.1)
    assert direct == [False] * 9  # the other backend is asked for by name and left to it


@pytest.mark.parametrize(
    ("M", "options", "text"),
    [
        (np.full((3, 3), np.nan), {}, "NaN or infinite"),
        (np.full((3, 3), np.inf), {}, "NaN or infinite"),
        (np.zeros((0, 3)), {}, "empty problem"),
        (np.zeros((3, 3)), {"p": np.array([1.0, -0.5, 0.5])}, "negative weights"),
        (np.zeros((3, 3)), {"p": np.zeros(3)}, "sums to zero"),
        (np.zeros((3, 3)), {"p": np.full(4, 0.25)}, "must have 3 entries"),
        (np.zeros((3, 3)), {"p": np.full(3, 0.5)}, "equal totals"),
        (np.zeros((3, 3)), {"m": 1.5}, "cannot be transported"),
        (np.zeros((3, 3)), {"m": float("nan")}, "NaN"),
        (np.zeros((3, 3)), {"m": -0.5}, "cannot be transported"),
        (np.zeros((3, 3)), {"backend": "jax"}, "unknown backend"),
        (np.zeros((3, 3)), {"method": "proximal"}, "finite positive tau"),
        (np.zeros((3, 3)), {"smoothness": -1.0}, "smoothness must be"),
        (np.zeros((3, 3)), {"loss": "cubic"}, "unknown loss"),
    ],
)
def test_errors_are_those_of_the_general_call(M: np.ndarray, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        solve(M, **options)
