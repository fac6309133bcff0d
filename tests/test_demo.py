"""The demo's data, its helpers, and the claim that its table makes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.spatial.distance import cdist

EXAMPLE = Path(__file__).parent.parent / "examples" / "demo_mocap6.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_mocap6", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def routines(demo):
    return demo.load()[0]


def test_data(demo, routines):
    assert [len(r.steps) for r in routines] == [382, 205, 251, 446, 387, 387]
    assert all(r.features.shape == (len(r.steps), 24) and np.isfinite(r.features).all() for r in routines)
    everything = np.vstack([r.features for r in routines])
    np.testing.assert_allclose(everything.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(everything.std(0), 1)
    names = demo.load()[1]
    assert sorted(names) == list(range(1, 13))
    assert {int(z) for r in routines for z in r.steps} == set(names)


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cosine"])
def test_problem(demo, routines, metric: str):
    P = demo.problem(routines[1], routines[2], metric)
    D = cdist(routines[1].features, routines[2].features, metric)
    np.testing.assert_allclose(P.M, D, atol=1e-6)
    assert P.C1.shape == (205, 205)
    assert P.C2.shape == (251, 251)
    assert P.C1[0, 0] == 0 < P.C1[0, 1] < P.C1[0, -1] < 1


def test_linear_time_is_a_monotone_plan(demo):
    p, q = np.full(5, 1 / 5), np.full(3, 1 / 3)
    T = demo.linear_time(demo.Problem(None, None, None, p, q))
    np.testing.assert_allclose(T.sum(1), p)
    np.testing.assert_allclose(T.sum(0), q)
    assert (np.diff(T.argmax(1)) >= 0).all()


def test_keep_cheapest(demo):
    T, M = np.full((2, 2), 0.25), np.array([[1.0, 4.0], [3.0, 2.0]])
    np.testing.assert_allclose(demo.keep_cheapest(T, M, 0.6), [[0.25, 0.0], [0.1, 0.25]])


def test_agreement(demo):
    a, b = demo.Routine(None, np.array([1, 2])), demo.Routine(None, np.array([1, 3]))
    assert demo.agreement(np.array([[0.3, 0.1], [0.1, 0.0]]), a, b) == pytest.approx(0.6)


@pytest.mark.slow
@pytest.mark.parametrize("mass", [0.3, 0.5, 0.7])
def test_structure_helps_at_equal_mass(demo, routines, mass: float):
    """Every second frame, to save time; the order of the methods is the one of the full table."""
    short = [demo.Routine(r.features[::2], r.steps[::2]) for r in routines]
    pairs, score, _ = demo.compare(short, mass, "sqeuclidean", 0.0)
    mean = {name: values.mean() for name, values in score.items()}
    assert mean["linear time"] < mean["KOT"] < mean["FGW"]
    assert mean["KOT"] < mean["partial KOT"] < mean["partial FGW"]
    gain, error, wins = demo.paired(pairs, score, "partial FGW", "partial KOT")
    assert gain > error
    assert wins > len(pairs) / 2


def test_picture(demo, tmp_path: Path):
    pytest.importorskip("matplotlib").use("Agg")
    routines, names = demo.load()
    path = demo.picture([demo.Routine(r.features[::4], r.steps[::4]) for r in routines], names, 0.5, "sqeuclidean", 0.0, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
