"""The benchmarks: the judge against an independent oracle, planted wrong plans, the runner on tiny problems, the report."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import oracle
import pytest

import fpgwot

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import measure, passes_grid, problems, report, suite_goals, suite_methods, suite_sizes  # noqa: E402
from benchmarks.methods import available  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"


def small(n: int = 12) -> problems.Problem:
    return problems.problem_t(n, seed=3)


def solved(z: problems.Problem) -> np.ndarray:
    return fpgwot.solve(z.M, z.C1, z.C2, z.p, z.q, **z.options).plan


# ---------------------------------------------------------------------------------------------------------------- problems


def test_problem_t_is_as_described():
    z = problems.problem_t(64)
    assert z.M.shape == (64, 64)
    assert 0 < z.M.min() < z.M.max() < 2
    np.testing.assert_allclose(z.C1[3], np.abs(np.arange(64) - 3) / 64)
    for labels in z.labels:
        assert 0.1 < np.mean(labels == 0) < 0.4
        assert set(labels) == set(range(9))
    assert list(dict.fromkeys(x for x in z.labels[1] if x)) == [1, 2, 3, 5, 4, 6, 7, 8]  # one pair of steps is swapped


def test_normalized_costs_have_mean_one():
    z = problems.mocap_problem(0, 1).normalized()
    T = np.outer(z.p, z.q)
    assert np.sum(z.M * T) == pytest.approx(1)
    assert measure.judge(z.structural(), T)["value"] == pytest.approx(1)


def test_the_graph_problem_has_a_known_near_solution():
    z = problems.graph_problem(40, swaps=0.0)
    order = np.random.default_rng(20_000)
    order.random((40, 40)), order.random((40, 40))
    T = np.zeros((40, 40))
    T[order.permutation(40), np.arange(40)] = 1 / 40
    assert measure.judge(z, T)["value"] == pytest.approx(0, abs=1e-12)


# ------------------------------------------------------------------------------------------------------------------- judge


@pytest.mark.parametrize("changes", [{}, {"reg": 0.05}, {"m": 0.7, "reg": 0.03}, {"tau": 0.2, "reg": 0.05}, {"m": 0.6}])
def test_the_judge_agrees_with_the_definition_and_with_the_audit(changes, rng):
    z = small().but(**changes)
    T = rng.random(z.shape)
    T *= (z.m or 0.9) / T.sum()
    tau = (z.tau, z.tau) if z.tau is not None else (np.inf, np.inf)
    task = oracle.Task(z.p, z.q, z.M, z.C1, z.C2, z.alpha, z.reg, z.m, tau)
    found, audit = measure.judge(z, T), fpgwot.audit(T, z.M, z.C1, z.C2, z.p, z.q, **z.options)
    assert found["value"] == pytest.approx(oracle.objective(task, T), rel=1e-12)
    assert found["value"] == pytest.approx(audit.value, rel=1e-10)
    assert found["violation"] == pytest.approx(audit.marginal_violation, abs=1e-12)
    assert found["mass_error"] == pytest.approx(audit.mass_error, abs=1e-12)


def test_the_judge_knows_the_product_loss():
    z = problems.segmentation_problem(30, 4)
    T = solved(z)
    audit = fpgwot.audit(T, z.M, z.C1, z.C2, z.p, z.q, **z.options)
    assert measure.judge(z, T)["value"] == pytest.approx(audit.value, rel=1e-10)


def test_planted_wrong_plans_are_flagged(rng):
    z = small(24).but(m=0.8, reg=0.02)
    good = solved(z)
    plans = {
        "good": good,
        "too much": good * 1.25,
        "a row over its weight": good + np.where(np.arange(24) == 5, 0.02, 0)[:, None] * good / good.sum(),
        "shuffled": good[rng.permutation(24)],
        "nan": np.full(z.shape, np.nan),
        "negative": good - 1e-3,
    }
    rows = {name: measure.judge(z, T) for name, T in plans.items()}
    measure.verdicts(list(rows.values()))
    verdict = {name: r["verdict"] for name, r in rows.items()}
    assert verdict["good"] == "ok"
    assert verdict["too much"].startswith("infeasible")
    assert verdict["shuffled"].startswith("worse")
    assert verdict["nan"] == verdict["negative"] == "no plan"
    full = z.but(m=None)
    over = np.outer(full.p, full.q)
    over[5] *= 1.5
    rows = [measure.judge(full, solved(full)), measure.judge(full, over)]
    measure.verdicts(rows)
    assert rows[1]["verdict"].startswith("infeasible")
    # the package's own audit flags the shuffled plan by its stationarity
    assert fpgwot.audit(plans["shuffled"], z.M, z.C1, z.C2, z.p, z.q, **z.options).stationarity > 0.1
    assert fpgwot.audit(good, z.M, z.C1, z.C2, z.p, z.q, **z.options).stationarity < 1e-5


def test_verdicts_where_nobody_is_feasible():
    rows = [{"value": 1.0, "violation": 0.5, "mass_error": 0.0}, {"value": float("nan"), "violation": 0.0, "mass_error": 0.0}]
    measure.verdicts(rows)
    assert [r["verdict"] for r in rows] == ["infeasible (5e-01)", "no plan"]


def test_rounding_gives_a_feasible_plan_and_keeps_a_feasible_one(rng):
    z = small(15)
    T = measure.rounded(z, rng.random(z.shape))
    np.testing.assert_allclose(T.sum(1), z.p)
    np.testing.assert_allclose(T.sum(0), z.q)
    np.testing.assert_allclose(measure.rounded(z, T), T, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------------- clock


def test_interleaved_runs_in_turn_and_keeps_the_first_call_apart():
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    out = measure.interleaved(calls, repeats=3)
    assert order == list("ab" * 4)
    assert len(out["a"]["times"]) == 3
    assert out["a"]["seconds"] == np.median(out["a"]["times"])


def test_short_calls_are_repeated_until_a_time_means_something(monkeypatch):
    count = {"short": 0, "long": 0}

    def call(name: str, seconds: float) -> None:
        count[name] += 1
        time.sleep(seconds)

    out = measure.interleaved({"short": lambda: call("short", 0.001), "long": lambda: call("long", 0.03)}, 3, least=0.02)
    assert count["long"] == 2 + 3
    assert 2 + 3 * 5 <= count["short"] <= 2 + 3 * 20
    assert 0.001 <= out["short"]["seconds"] < 0.01  # of one call


def test_short_calls_settle_before_they_are_timed(monkeypatch):
    order: list[str] = []
    clock = {"quick": 0.04, "middling": 0.5, "slow": 2.0}

    def timed(call, count=1):
        return call(), clock[order[-1]], clock[order[-1]]

    monkeypatch.setattr(measure, "_timed", timed)
    out = measure.interleaved({name: (lambda name=name: order.append(name)) for name in clock}, repeats=2, settle=1.0)
    untimed = ["quick"] * 3 + ["quick"] + ["middling"] * 2 + ["slow"]  # a tenth of a second before each measurement
    assert order == ["quick", "middling", "slow"] * 2 + untimed * 2
    assert [len(row["times"]) for row in out.values()] == [2, 2, 2]


def test_interleaved_reports_a_peer_that_fails_and_runs_slow_ones_once():
    def fails() -> None:
        raise ValueError("no\nplan")

    out = measure.interleaved({"x": fails, "y": lambda: 1, "z": lambda: 2}, repeats=5, once_above=0.0, compiles="z")
    assert out["x"] == {"error": "ValueError: no"}
    assert out["y"]["times"] == []
    assert out["y"]["seconds"] == out["y"]["first"]
    assert len(out["z"]["times"]) == 5  # its first call was compilation


# ------------------------------------------------------------------------------------------------------------------- peers


def test_missing_peers_have_a_reason():
    found, missing = available()
    assert {m.package for m in found} >= {"fpgwot", "POT"}
    assert all(reason for reason in missing.values())


FOUND, _ = available()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [m for m in FOUND if m.name not in ("POT PPA", "OTT", "ASOT iteration")], ids=lambda m: m.name)
def test_every_peer_solves_the_same_problem(method):
    """Conventions (factors of alpha and reg) are right: the objective reached is that of our certified plan."""
    tried = 0
    for z in (
        small().but(reg=0.05),
        problems.structure_problem(12).but(reg=0.02),
        small().linear().but(reg=0.1),
        small().but(m=0.8),
    ):
        if method.solves(z):
            value, best = measure.judge(z, method.prepare(z)())["value"], measure.judge(z, solved(z))["value"]
            assert value == pytest.approx(best, rel=1e-3, abs=1e-5)
            tried += 1
    z = problems.segmentation_problem(40, 5)
    if method.solves(z):
        value, best = measure.judge(z, method.prepare(z)())["value"], measure.judge(z, solved(z))["value"]
        assert value == pytest.approx(best, rel=2e-3)
        tried += 1
    assert tried


def test_the_iteration_of_asot_descends_on_its_objective():
    pytest.importorskip("torch")
    from benchmarks.methods import asot

    z = problems.segmentation_problem(40, 5)
    values = [measure.judge(z, asot.solver([z], steps)()[0])["value"] for steps in (1, 5, 25, 200)]
    assert values[0] > values[1] + 1e-4
    assert np.diff(values).max() < 1e-6  # float32
    assert values[-1] == pytest.approx(measure.judge(z, solved(z))["value"], abs=1e-5)
    both = asot.solver([z, problems.segmentation_problem(40, 5, seed=1)], 25)()
    np.testing.assert_allclose(both[0], asot.solver([z], 25)()[0], rtol=1e-5, atol=1e-9)
    with pytest.raises(ValueError, match="band"):
        asot.band(z.but(C1=z.C1 + 1))


# ------------------------------------------------------------------------------------------------------- runner and report


@pytest.mark.filterwarnings("ignore")
def test_the_runner_and_the_report_on_tiny_problems(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    some = (
        "KOT, exact",
        "KOT, reg .05",
        "FGW, exact",
        "partial FGW, m .8, exact",
        "unbalanced FGW, tau .1, reg .05",
        "ASOT, n x 16",
    )
    monkeypatch.setattr(suite_methods, "TASKS", {k: v for k, v in suite_methods.TASKS.items() if k in some})
    tasks = suite_sizes.tasks
    monkeypatch.setattr(suite_sizes, "tasks", lambda n: {k: v for k, v in tasks(n).items() if k in ("KOT, exact", "FGW, exact")})
    mine = [m for m in FOUND if m.name in ("fpgwot", "POT")]
    out = suite_methods.run(False, 60.0, mine, sizes=(16,))
    assert {r["method"] for r in out["rows"]} == {"fpgwot", "POT"}
    ours = [r for r in out["rows"] if r["method"] == "fpgwot"]
    assert {r["task"] for r in ours} == set(some)
    assert all(r["verdict"] == "ok" for r in ours)
    measure.save(tmp_path / "methods.json", {"suite": "methods", "full": False, **out})
    measure.save(tmp_path / "sizes.json", {"suite": "sizes", "full": False, **suite_sizes.run(False, 60.0, sizes=(16,))})
    path = report.write(tmp_path, tmp_path)
    text = path.read_text()
    assert "## Every method on problem T" in text
    assert "## Never slower than POT?" in text
    assert (tmp_path / "img" / "bench_time.png").stat().st_size > 10_000
    content = json.loads((tmp_path / "methods.json").read_text())
    assert content["machine"]["versions"]["numpy"] == np.__version__
    assert content["machine"]["commit"]


def test_work_on_the_grid_does_not_grow():
    """W = passes + 3 gradients on two problems of the grid: 8,959 when written (the reference prototype: 10,022)."""
    rows = [
        passes_grid.run(problems.problem_t(64, seed).but(**options, reg=reg, reference=1.0), mode)
        for seed in (0, 1)
        for mode, options in passes_grid.MODES.items()
        for reg in passes_grid.REGS
    ]
    assert not any(r["failed"] for r in rows)
    assert sum(r["W"] for r in rows) < 1.1 * 8959


def test_a_short_grid_of_passes():
    z = problems.problem_t(20)
    rows = [passes_grid.run(z.but(**options, reg=0.05, reference=1.0), mode) for mode, options in passes_grid.MODES.items()]
    assert not any(r["failed"] for r in rows)
    assert all(r["residual_recomputed"] < 3e-7 for r in rows)
    assert {c["mode"] for c in passes_grid.cells(rows)} == set(passes_grid.MODES)


def test_the_residual_of_the_grid_sees_a_wrong_plan():
    from dataclasses import replace

    z = problems.problem_t(20).but(m=0.8, reg=0.05, reference=1.0)
    result = fpgwot.solve(z.M, z.C1, z.C2, z.p, z.q, **z.options)
    assert passes_grid.residual(z, result) < 1e-6
    assert passes_grid.residual(z, replace(result, plan=result.plan[::-1])) > 1e-2


@pytest.mark.skipif(not (ROOT / "docs" / "benchmarks.md").exists(), reason="no committed page")
def test_the_committed_page_is_the_report_of_the_committed_results():
    found = report.load(RESULTS)
    images = [name for name in ("bench_time.png", "bench_reach.png") if (ROOT / "docs" / "img" / name).exists()]
    assert (ROOT / "docs" / "benchmarks.md").read_text() == report.page(found, images)


def test_the_readme_table_goes_between_its_markers(tmp_path):
    row = {"work": "x", "peer": "POT", "seconds_ours": 0.001, "seconds_peer": 0.5, "ratio": 500.0}
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.into_readme(readme, {"rows": [row, {"work": "y", "peer": None}]})
    assert readme.read_text().count("| x | POT | 1 ms | 500 ms | 500 |") == 1
    assert "old" not in readme.read_text()
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("after\n")
    readme.write_text("no markers")
    assert not report.into_readme(readme, {"rows": [row]})


def test_a_row_of_the_goals_at_equal_accuracy():
    z = small(16).but(reg=0.05)
    plans = {
        tol: np.asarray(fpgwot.solve(z.M, z.C1, z.C2, z.p, z.q, reg=0.05, alpha=z.alpha, tol=tol).plan) for tol in (1e-1, 1e-7)
    }
    good, off = plans[1e-7], plans[1e-7] * (1 + 0.01 * np.arange(16))

    def slowly(plan: np.ndarray, seconds: float):
        def call() -> np.ndarray:
            time.sleep(seconds)
            return plan

        return call

    def looser(tol: float):  # as loose as 1e-2 is too loose, 1e-3 is slow
        return slowly(np.outer(z.p, z.q) if tol >= 1e-2 else good, 0.02 if tol == 1e-3 else 0.005)

    tighter = {"2 steps": slowly(off, 0.03), "3 steps": slowly(good, 0.05), "4 steps": slowly(good, 0.1)}
    row = suite_goals.compare("x", z, "OTT", 4.0, slowly(good, 0.02), slowly(off, 0.03), 5.0, "", looser, tighter)
    assert row["setting_loose"] == "tol 0.0001"
    assert row["setting_tight"] == "3 steps"
    assert 1 < row["ratio"] < 2.2 < row["ratio_ours"] < 4 < row["ratio_theirs"]
    assert not row["reached"]
    assert row["reached_at_equal_accuracy"]
    text = report.goals({"rows": [row]})
    assert "at equal accuracy |" in text
    assert "x (tol 0.0001) |" in text
    assert "x (3 steps) |" in text
    lower = slowly(np.asarray(fpgwot.solve(z.M, z.C1, z.C2, z.p, z.q, alpha=z.alpha).plan), 0.2)
    cheap = z.but(reg=1e-9)  # by which the vertex is better than our plan: a ratio against it says nothing
    unfair = suite_goals.compare(
        "x", cheap, "OTT", 4.0, slowly(good, 0.02), slowly(good, 0.03), 5.0, "", None, {"9 steps": lower}
    )
    assert unfair["ratio_ours"] > 4
    assert not unfair["reached_at_equal_accuracy"]

    def fails() -> None:
        raise ValueError("not today")

    assert (
        "not today" in suite_goals.compare("x", z, "OTT", 1.0, lambda: good, fails, 1.0, "", looser, {"2 steps": fails})["error"]
    )
    none = suite_goals.compare("x", z, "OTT", 1e9, lambda: good, lambda: good, 1.0, "", looser, {"2 steps": lambda: off})
    assert none["ratio_ours"] is None
    assert not none["reached_at_equal_accuracy"]


def test_a_row_of_the_goals_tells_a_worse_plan_from_a_good_one():
    z = small(16).but(reg=0.05)
    good, product = solved(z), np.outer(z.p, z.q)
    fair = suite_goals.compare("x", z, "POT", 0.0, lambda: good, lambda: product, 1.0)
    assert fair["objective"] == "no worse"
    assert fair["reached"]
    assert suite_goals.compare("x", z, "POT", 0.0, lambda: product, lambda: good, 1.0)["objective"] == "worse"
    off = suite_goals.compare("x", [z, z], "POT", 0.0, lambda: np.stack([good, 1.1 * good]), lambda: np.stack([good] * 2), 1.0)
    assert off["objective"] == "infeasible"
    assert not off["reached"]

    def fails() -> None:
        raise ValueError("not today")

    assert "not today" in suite_goals.compare("x", z, "POT", 1.0, lambda: good, fails, 1.0)["error"]
