"""The example of procedure learning: its data, plans, losses, training and scores, at small sizes."""

from __future__ import annotations

import importlib
import json
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
FOLDER = Path(__file__).parent.parent / "examples" / "procedure_learning"
NAMES = ("data", "plans", "model", "config", "train", "evaluate")


@pytest.fixture(scope="module")
def example() -> dict[str, ModuleType]:
    """The modules of the example; they import one another by their short names."""
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(FOLDER))
    for name in (*NAMES, "run", "pictures"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def recordings(example):
    return example["data"].simulator(seed=3, n=4, length=60, background=0.2)


def small(example, **settings):
    return example["config"].Config(**{"iterations": 12, "grid": 24, "frames": 16, "log_every": 0, **settings})


# --------------------------------------------------------------------------------------------------------------------- data


def test_spliced_background_is_private_and_of_the_size_asked_for(example):
    plain, spliced = example["data"].mocap6(), example["data"].load("mocap6bg", seed=1)
    for a, b in zip(plain, spliced, strict=True):
        assert 0.3 < np.mean(b.steps == 0) < 0.45
        np.testing.assert_array_equal(b.steps[b.steps > 0], a.steps)
    assert all(r.features.shape == (len(r.steps), 24) for r in spliced)
    again = example["data"].load("mocap6bg", seed=1)
    np.testing.assert_array_equal(again[0].features, spliced[0].features)


def test_folder_with_both_kinds_of_annotations(example, tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((6, 3)))
    (tmp_path / "a.txt").write_text("1 1 2\n2 0 0\n")
    (tmp_path / "b.csv").write_text("start,end,step\n0,2,4\n3,6,5\n")
    a, b, c = example["data"].load("folder", tmp_path)
    assert a.steps.tolist() == [1, 1, 2, 2, 0, 0]
    assert b.steps.tolist() == [4, 4, 0, 5, 5, 5]
    assert not c.steps.any()
    np.testing.assert_allclose(np.vstack([r.features for r in (a, b, c)]).std(0), 1, atol=1e-5)
    (tmp_path / "b.csv").write_text("0,7,1\n")
    with pytest.raises(SystemExit, match="0-7"):
        example["data"].load("folder", tmp_path)
    (tmp_path / "a.txt").write_text("1 2")
    with pytest.raises(SystemExit, match="2 labels for 6"):
        example["data"].load("folder", tmp_path)


def film(seed, n=24, size=20):
    """A bright square that stands in another place in each of three steps, on noise: (frames, size, size, 3), uint8."""
    rng = np.random.default_rng(seed)
    steps = np.repeat(rng.permutation(3) + 1, rng.multinomial(n - 12, np.ones(3) / 3) + 4)
    images = rng.integers(0, 60, (n, size, size, 3))
    for image, step in zip(images, steps, strict=True):
        at = 6 * (step - 1) + rng.integers(0, 2)
        image[at : at + 6, at : at + 6, step - 1] += 180
    return images.astype(np.uint8), steps


def test_folder_of_images(example, tmp_path):
    data = example["data"]
    for k, name in enumerate("abc"):
        images, steps = film(k)
        np.save(tmp_path / f"{name}.npy", images if k else np.moveaxis(images, 3, 1))  # both layouts
        (tmp_path / f"{name}.txt").write_text(" ".join(map(str, steps)))
    recordings = data.load("folder", tmp_path)
    for k, r in enumerate(recordings):
        assert r.inputs.shape == (24, 3, 20, 20)
        np.testing.assert_array_equal(np.moveaxis(r.images, 1, 3), film(k)[0])
        np.testing.assert_array_equal(r.steps, film(k)[1])
    x = film(0)[0].astype(float)
    blocks = [np.array_split(np.arange(20), [2, 5, 7, 10, 12, 15, 17])] * 2
    expected = [[[[f[np.ix_(a, b)][..., c].mean() for b in blocks[1]] for a in blocks[0]] for c in range(3)] for f in x[:2]]
    np.testing.assert_allclose(data.pooled(np.moveaxis(x[:2], 3, 1)), np.reshape(expected, (2, -1)))
    everything = np.vstack([r.features for r in recordings])
    assert everything.shape == (72, 3 * 64)
    assert np.mean(everything.var(0)) == pytest.approx(1, abs=1e-3)
    assert everything.std(0).max() > 3 * everything.std(0).min()  # pixels that do nothing are not blown up
    for name in "abc":
        np.save(tmp_path / f"{name}.features.npy", np.random.default_rng(0).standard_normal((24, 5)))
    own = data.load("folder", tmp_path)
    assert [r.name for r in own] == ["a", "b", "c"]
    assert own[0].features.shape == (24, 5)
    assert own[0].inputs.shape == (24, 3, 20, 20)
    (tmp_path / "b.features.npy").unlink()
    with pytest.raises(SystemExit, match="2 of 3 recordings"):
        data.load("folder", tmp_path)
    np.save(tmp_path / "b.features.npy", np.zeros((23, 5)))
    with pytest.raises(SystemExit, match="24 frames"):
        data.load("folder", tmp_path)
    for shape in ((24, 3, 20), (24, 20, 20, 7), (24, 3, 4, 4)):
        np.save(tmp_path / "a.npy", np.zeros(shape))
        with pytest.raises(SystemExit, match="1 to 4 channels"):
            data.load("folder", tmp_path)


def test_training_on_images(example, tmp_path, monkeypatch):
    """Plans from frozen features for half of the training, embedding from the images alone, which finds the steps."""
    sources, all_plans = [], example["train"].all_plans
    monkeypatch.setattr(example["train"], "all_plans", lambda Z, *rest: sources.append(Z.shape[2]) or all_plans(Z, *rest))
    for k in range(4):
        images, steps = film(k)
        np.save(tmp_path / f"{k}.npy", images)
        (tmp_path / f"{k}.txt").write_text(" ".join(map(str, steps)))
    recordings = example["data"].load("folder", tmp_path)
    settings = {"iterations": 30, "pairs": 4, "family": "partial KOT", "fixed_order": "no", "teacher": 0.5, "refresh": 10}
    trained = example["train"].train(recordings, small(example, **settings))
    assert sources == [3 * 64, 32, 32]
    assert not trained.collapsed
    assert np.mean(trained.history["loss"][-2:]) < np.mean(trained.history["loss"][:2])
    on = example["evaluate"].scored(recordings, 24)
    Z = example["train"].embed(trained.model, on.inputs)
    assert Z.shape == (4, 24, 32)
    np.testing.assert_allclose(example["train"].embed(trained.model, on.inputs[1:2])[0], Z[1], atol=1e-6)
    labels = np.concatenate([r.steps for r in on.recordings])
    S = Z.reshape(-1, 32) @ Z.reshape(-1, 32).T
    assert np.mean(S[labels[:, None] == labels]) > np.mean(S[labels[:, None] != labels]) + 0.3
    with pytest.raises(SystemExit, match="images have none"):
        example["train"].train(recordings, small(example, pca_start="yes"))


def test_windows(example):
    X = np.arange(5.0)[:, None]
    np.testing.assert_allclose(example["data"].windows(X, 3)[2], [2, np.std([1, 2, 3])])
    assert example["data"].windows(X, 3, hop=2, change=True).shape == (3, 3)


# -------------------------------------------------------------------------------------------------------------------- plans


def test_every_family_solves_and_keeps_to_its_marginals(example, recordings):
    plans = example["plans"]
    Z = np.stack([r.resampled(20).features for r in recordings])
    batch = plans.Batch.of(Z, [(0, 1), (1, 2)], "euclidean")
    np.testing.assert_allclose(batch.M.mean((1, 2)), 1)
    for name, family in plans.FAMILIES.items():
        T = plans.solve_plans(batch, family)
        assert T.shape == (2, 20, 20)
        assert (T.sum(1) <= 0.05 * (1 + 1e-3)).all(), name
        if family.m is not None or family.keep is not None:
            np.testing.assert_allclose(T.sum((1, 2)), 0.3, rtol=1e-3)
        elif family.published is not None:
            assert 0.9 < T[0].sum() < 1
        elif family.price is None:
            np.testing.assert_allclose(T.sum((1, 2)), 1, rtol=1e-3)
        one = plans.solve_plans(plans.Batch.of(Z, [(1, 2)], "euclidean"), family, tol=1e-6)
        np.testing.assert_allclose(T[1], one[0], atol=2e-3)  # a plan does not depend on its batch mates
    with pytest.raises(ValueError, match="metric"):
        plans.Batch.of(Z, [(0, 1)], "manhattan")


def test_order_test(example):
    plans, data = example["plans"], example["data"]

    def batch(seed, **statistics):
        made = data.simulator(seed=seed, n=6, length=60, background=0.0, **statistics)
        return plans.Batch.of(np.stack([r.resampled(32).features for r in made]), list(combinations(range(6), 2)), "euclidean")

    for seed in (2, 3, 4):
        assert plans.order_is_fixed(batch(seed, order_agreement=1.0, duration_sd=0.3, repeat=0.0))
        assert not plans.order_is_fixed(batch(seed, order_agreement=0.51, repeat=0.0))
    # a fifth of the pairs of steps swapped; here half of the recordings agree by chance, and the median over pairs is .85
    assert not plans.order_is_fixed(batch(4, order_agreement=0.8))
    fixed = plans.for_fixed_order(plans.FAMILIES["partial FGW"])
    assert (fixed.m, fixed.rho) == (None, 0.5)


def test_dtw(example):
    T = example["plans"].dtw(np.array([[0.0, 1, 1], [1, 0, 0]]))
    np.testing.assert_allclose(T, np.array([[1, 0, 0], [0, 1, 1]]) / 3)
    assert (np.argwhere(example["plans"].dtw(np.ones((4, 6))).cumsum(1) > 0)[:, 0] >= 0).all()


# ------------------------------------------------------------------------------------------------------------------- losses


def test_losses_against_loops(example):
    model, rng = example["model"], np.random.default_rng(0)
    Z = rng.standard_normal((2, 9, 4))
    Z /= np.linalg.norm(Z, axis=2, keepdims=True)
    T = rng.random((2, 9, 9)) / 81
    A = torch.as_tensor(Z)
    B = torch.as_tensor(Z[:, ::-1].copy())
    pull = push = weight = count = 0.0
    for z in Z:
        for i in range(9):
            for k in range(9):
                d, lag = ((z[i] - z[k]) ** 2).sum(), abs(i - k)
                if 0 < lag <= 3:
                    pull, weight = pull + d / (1 + lag**2), weight + 1 / (1 + lag**2)
                elif lag > 3:
                    push, count = push + max(0, 1 - d), count + 1
    assert model.intra_loss(A).item() == pytest.approx(pull / weight + push / count)
    S = np.einsum("bik,bjk->bij", Z, Z[:, ::-1]) / 0.1
    rows, columns = (S - np.log(np.exp(S).sum(axis, keepdims=True)) for axis in (2, 1))
    expected = np.mean([-(t * (r + c)).sum() / 2 / t.sum() for t, r, c in zip(T, rows, columns, strict=True)])
    assert model.plan_loss(A, B, torch.as_tensor(T)).item() == pytest.approx(expected)
    none = torch.as_tensor(np.stack((T[0], 0 * T[0])))  # a pair without mass says nothing
    alone = model.plan_loss(A[:1], B[:1], none[:1])
    assert model.plan_loss(A, B, none).item() == pytest.approx(alone.item())
    assert model.plan_loss(A, B, 0 * none).item() == 0
    value = np.mean([(t * (1 - 0.1 * s)).sum() / t.sum() for t, s in zip(T, S, strict=True)])
    assert model.value_loss(A, B, torch.as_tensor(T)).item() == pytest.approx(value)
    best, worst = T.argmax(2), T.argmin(2)
    C, at = 1 - 0.1 * S, np.arange(9)
    gaps = np.stack([C[b][at, best[b]] - C[b][at, worst[b]] for b in range(2)])
    inter = (T.sum(2) * np.log1p(np.exp(2 * gaps))).sum() / T.sum()
    assert model.inter_loss(A, B, torch.as_tensor(T)).item() == pytest.approx(inter)


def test_intra_loss_has_a_gradient_and_separates_far_frames(example):
    Z = torch.nn.functional.normalize(torch.ones(1, 12, 3) + 0.01 * torch.randn(1, 12, 3), dim=-1).requires_grad_()
    example["model"].intra_loss(Z).backward()
    assert Z.grad.abs().sum() > 0


def test_effective_rank(example):
    rank, rng = example["model"].effective_rank, np.random.default_rng(0)
    assert rank(np.ones((9, 4))) == 1
    assert rank(np.outer(rng.standard_normal(50), rng.standard_normal(4))) == pytest.approx(1)
    assert rank(np.concatenate((np.eye(4), -np.eye(4)))) == pytest.approx(4)
    point = np.ones((50, 4)) + 1e-4 * rng.standard_normal((50, 4))  # a collapse that the rank does not see
    assert rank(point) > 3
    assert example["model"].spread(point) < 1e-6
    assert example["model"].spread(np.concatenate((np.eye(4), -np.eye(4)))) == 1
    assert np.isfinite(rank(rng.standard_normal((30, 40)).astype(np.float32)))


def test_pca_start_keeps_the_geometry(example):
    X = np.random.default_rng(0).standard_normal((40, 6)) * [5, 4, 3, 2, 1, 0.1]
    model = example["model"].Embedder(6, dim=6, frames=X).eval()
    Z = model(torch.as_tensor(X[None], dtype=torch.float32))[0].detach().numpy()
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(Z @ Z.T, unit @ unit.T, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------------- training


def test_resumed_training_ends_where_an_uninterrupted_one_does(example, recordings, tmp_path):
    for teacher in (1.0, 0.5):
        settings = {"teacher": teacher, "refresh": 4, "checkpoint_every": 5}
        whole = example["train"].train(recordings, small(example, **settings))
        folder = tmp_path / str(teacher)
        folder.mkdir()
        example["train"].train(recordings, small(example, **settings, iterations=10), folder=folder)
        if teacher == 0.5:  # half of 10 is not half of 12: only the plans of the teacher phase are the same
            continue
        rest = example["train"].train(recordings, small(example, **settings, resume=True), folder=folder)
        for a, b in zip(whole.model.parameters(), rest.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert len(rest.history["loss"]) >= len(whole.history["loss"])


def test_training_lowers_the_loss_and_tells_a_collapse(example, recordings):
    train = example["train"].train
    good = train(recordings, small(example, iterations=60))
    assert np.mean(good.history["loss"][-2:]) < np.mean(good.history["loss"][:2])
    assert min(good.history["rank"]) > 3
    assert not good.collapsed
    bad = train(recordings, small(example, iterations=40, w_plan=0.0, w_intra=0.0, w_value=5.0, pca_start="no", lr=1e-2))
    assert bad.collapsed


def test_options_change_the_training(example, recordings):
    train, weights = example["train"].train, {}
    for name, settings in {
        "default": {},
        "none": {"family": "none"},
        "inter": {"w_inter": 1.0},
        "own plans": {"teacher": 0.5, "refresh": 3},
        "mass": {"family": "partial KOT", "mass": "0.6"},
        "prior": {"fixed_order": "yes"},
    }.items():
        weights[name] = next(train(recordings, small(example, **settings)).model.parameters()).detach().numpy()
    names = list(weights)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert not np.allclose(weights[a], weights[b], atol=1e-7), (a, b)


def test_configuration(example, tmp_path):
    Config, parse = example["config"].Config, example["config"].parse
    assert parse(["--w-intra", "2", "--family", "KOT", "--resume"]) == Config(w_intra=2.0, family="KOT", resume=True)
    (tmp_path / "c.json").write_text(json.dumps({"seed": 4, "dim": 8}))
    assert parse(["--config", str(tmp_path / "c.json"), "--dim", "16"]) == Config(seed=4, dim=16)
    for bad in (["--teacher", "0.2"], ["--family", "magic"], ["--fixed-order", "maybe"], ["--frames", "200"]):
        with pytest.raises(SystemExit):
            parse(bad)


# ------------------------------------------------------------------------------------------------------------------- scores


def test_evaluation_and_controls(example, recordings):
    on = example["evaluate"].scored(recordings, 20)
    assert on.background
    assert on.clusters == 2 * on.steps
    perfect = np.stack([np.eye(9)[r.steps] + np.arange(20)[:, None] * 1e-3 for r in on.recordings])
    scores = example["evaluate"].evaluate(perfect, on, "cosine", example["plans"].FAMILIES["KOT"])
    first, second = (r.steps for r in on.recordings)
    assert scores["neighbours"] == pytest.approx(np.isin(first, second)[first > 0].mean())  # all that have a partner
    assert scores["joint F1 (nearest)"] > 0.8
    rows = example["evaluate"].controls(on)
    assert set(rows) >= {"uniform chunks", "one cluster", "raw features", "DTW (raw features)", "KOT thresholded (raw features)"}
    assert rows["one cluster"]["joint F1 (cut)"] < 0.2 < rows["one cluster"]["EgoProceL F1, empty dropped"]
    assert rows["KOT thresholded (raw features)"]["own mass"] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.slow
def test_whole_run(example, tmp_path):
    pytest.importorskip("matplotlib")
    run = importlib.import_module("run")
    rows = run.main(small(example, out=str(tmp_path), frames=24, iterations=20))
    assert {x.name for x in tmp_path.iterdir()} >= {"plans.png", "embeddings.png", "keysteps.png", "masses.png", "training.png"}
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"].keys() == rows.keys()
