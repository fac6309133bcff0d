"""The example of two brains: its data, its problem, its score; and that the documents say what was measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fpgwot import audit

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("celegans", ROOT / "examples" / "celegans.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / "celegans.json").read_text(encoding="utf-8"))


def test_problem_is_the_data_in_another_order(example):
    one, two = (example.load(1, 8, seed=seed) for seed in (0, 1))
    assert one.M.shape == (187, 219)
    assert (one.names1 != two.names1).any()
    rows, cols = (
        [list(second).index(name) for name in first] for first, second in ((one.names1, two.names1), (one.names2, two.names2))
    )
    np.testing.assert_allclose(one.M, two.M[np.ix_(rows, cols)], atol=1e-12)
    np.testing.assert_array_equal(one.C1, two.C1[np.ix_(rows, rows)])
    assert set(np.unique(one.C1)) == {0.0, 1.0}
    assert (one.C1 != one.C1.T).any()
    undirected = example.load(1, 8, example.Setting("type", False, 0.5, 0.8))
    np.testing.assert_array_equal(undirected.C2, undirected.C2.T)
    shared = len(set(one.names1) & set(one.names2))
    assert one.m == pytest.approx(shared / 219)


def test_the_score_of_the_truth_is_one_and_of_its_mirror_image_is_not(example):
    x = example.load(7, 8)
    truth = (x.names1[:, None] == x.names2[None]) / len(x.names1)
    assert example.score(truth, x) == pytest.approx((1.0, 1.0))
    turned = np.array([n[:-1] + {"L": "R", "R": "L"}[n[-1]] if len(n) > 2 and n[-1] in "LR" else n for n in x.names1])
    mirror = (turned[:, None] == x.names2[None]) / len(x.names1)
    identity, up_to_side = example.score(mirror, x)
    assert identity < 0.3
    assert up_to_side > 0.9


def test_most_cells_of_two_adults_are_found(example):
    x = example.load(7, 8)
    result = example.match(x, starts=1)
    identity, up_to_side = example.score(result.plan, x)
    assert identity > 0.9
    assert up_to_side > 0.95
    assert audit(result.plan, *x[:5], alpha=example.CHOSEN.alpha, m=x.m).value == pytest.approx(result.value, rel=1e-9)


def test_settings_are_the_best_on_the_pairs_to_choose_on(example, report):
    assert example.Setting(**report["chosen"]) == example.CHOSEN
    assert len(report["choice"]) == 54
    best = max(report["choice"], key=lambda x: (x["identity"], x["up_to_side"]))
    assert best["setting"] == report["chosen"]
    best = max(report["plain_choice"], key=lambda x: (x["up_to_side"], x["identity"]))
    assert best["setting"] == report["plain"]


def test_what_the_documents_claim_was_measured(report):
    full = (ROOT / "benchmarks" / "results" / "celegans.md").read_text(encoding="utf-8").splitlines()
    lines = (ROOT / "docs" / "celegans.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| 1 ->")]
    assert len(rows) == 14
    assert set(rows) <= set(full)
    found = {(x["pair"], x["method"]): x for x in report["rows"] if x["group"] == "plain" and x["setting"] == report["plain"]}
    for pair, bar in (("1 -> 2", 0.738), ("1 -> 8", 0.418)):  # of POT, in the data set's notes
        ours, pot = found[pair, "1 annealed start"], found[pair, "POT"]
        assert ours["identity"] >= max(bar, pot["identity"])
        assert ours["objective"] <= pot["objective"]
        assert ours["cpu_s"] < pot["cpu_s"] / 2
    found = {(x["pair"], x["method"]): x for x in report["rows"] if x["group"] == "chosen"}
    assert found["1 -> 2", "32 annealed starts"]["identity"] >= 0.90
    assert found["1 -> 8", "32 annealed starts"]["identity"] >= 0.75
    assert all(x["mass_error"] < 1e-9 for x in report["rows"])
