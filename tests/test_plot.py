"""Pictures: what they show must follow the plan; that they are pretty is checked by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fpgwot.result import Residuals, Result, Status

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")

from fpgwot import plot  # noqa: E402  (needs matplotlib)


def make_result(n: int = 12, m: int = 9, kept: int = 6) -> Result:
    """The first `kept` frames of both sides matched in order, the others dropped."""
    T = np.zeros((n, m))
    T[np.arange(kept), np.arange(kept)] = 1 / n
    k = np.arange(8.0)
    return Result(
        plan=T,
        value=1.0,
        value_linear=1.0,
        value_quad=0.0,
        value_reg=0.0,
        value_marginal=0.0,
        mass=float(T.sum()),
        marginal_a=T.sum(1),
        marginal_b=T.sum(0),
        potentials=(np.zeros(n), np.zeros(m), 0.5),
        gradient=np.ones((n, m)),
        residuals=Residuals(0.0, 0.0, 0.0),
        status=Status.CONVERGED,
        converged=True,
        n_iter=8,
        n_passes=8,
        n_gradients=8,
        history=np.column_stack([1 + 2.0**-k, 10.0**-k]),
        method="made by hand",
        backend="numpy",
        device="cpu",
        weights=(np.full(n, 1 / n), np.full(m, 1 / m)),
    )


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def legend(ax) -> list[str]:
    return [] if ax.get_legend() is None else [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("draw", [plot.plan, plot.lines, plot.convergence])
def test_draws_into_given_axes_and_returns_them(draw):
    figure, (left, right) = plt.subplots(1, 2)
    assert draw(make_result(), right) is right
    assert not left.has_data()
    figure.canvas.draw()


@pytest.mark.parametrize("draw", [plot.plan, plot.lines, plot.convergence])
def test_makes_its_own_figure_without_axes(draw):
    assert draw(make_result()).figure in map(plt.figure, plt.get_fignums())


def test_map_shows_mass_where_the_plan_has_it():
    result = make_result()
    ax = plot.plan(result)
    opacity = ax.images[1].get_array()[..., 3]
    np.testing.assert_array_equal(opacity > 0, result.plan > 0)
    assert ax.get_xlim() == (-0.5, 8.5)
    assert ax.get_ylim() == (11.5, -0.5), "the first frame is at the top"


def test_dropped_frames_are_shaded_counted_and_explained():
    ax = plot.plan(make_result())
    ground = ax.images[0].get_array()
    assert (ground[:6, :6] == 1).all()
    assert (ground[6:] < 1).all()
    assert (ground[:, 6:] < 1).all()
    assert "dropped 6 of 12 and 3 of 9 frames" in ax.texts[0].get_text()
    assert legend(ax) == ["dropped"]


def test_labels_tint_equal_steps_and_colour_mass_between_different_ones():
    la, lb = [1] * 6 + [2] * 6, [1] * 3 + [3] * 6
    ax = plot.plan(make_result(), labels_a=la, labels_b=lb, step_names={1: "fold"})
    assert legend(ax) == ["fold", "2", "3", "different steps", "dropped"]
    assert "50 % of the mass joins equal steps" in ax.texts[0].get_text()
    ink = ax.images[1].get_array()
    assert (ink[0, 0, :3] == matplotlib.colors.to_rgb(plot.INK)).all()
    assert (ink[4, 4, :3] == matplotlib.colors.to_rgb(plot.WRONG)).all()
    assert not (ax.images[0].get_array()[0, 0] == 1).all()


def test_labels_of_one_side_suffice():
    for key in ("labels_a", "labels_b"):
        length = 12 if key == "labels_a" else 9
        for draw in (plot.plan, plot.lines):
            assert "x" in legend(draw(make_result(), **{key: ["x"] * length}))


def test_more_steps_than_colours():
    result = make_result(60, 60, 40)
    assert len(legend(plot.plan(result, labels_a=range(60), labels_b=range(60)))) == 62


def test_wrong_number_of_labels_is_refused():
    with pytest.raises(ValueError, match=r"labels_b has shape \(3,\).*9 frames"):
        plot.plan(make_result(), labels_b=[1, 2, 3])


def test_lines_joins_each_match_and_only_those():
    ax = plot.lines(make_result())
    ends = [(path.vertices[0, 0], path.vertices[-1, 0]) for path in ax.collections[0].get_paths()]
    assert ends == [(k, k) for k in range(6)]


def test_title_and_legend_can_be_left_out():
    for draw in (plot.plan, plot.lines):
        with_title = draw(make_result(), title="mine")
        assert "mine" in [text.get_text() for text in with_title.texts]
        bare = draw(make_result(), title="", legend=False, labels_a=[1] * 12)
        assert legend(bare) == []


def test_colour_map():
    ax = plot.plan(make_result(), cmap="magma")
    assert (ax.images[1].get_array()[0, 0, :3] == matplotlib.colormaps["magma"](1.0)[:3]).all()


def test_single_frames_of_long_sequences_stay_visible():
    result = make_result(1200, 900, 1)
    assert (plot.plan(result).images[1].get_array()[..., 3] > 0).sum() >= 9


def test_empty_plan():
    result = make_result(kept=0)
    for draw in (plot.plan, plot.lines):
        draw(result, labels_a=[1] * 12, labels_b=[1] * 9).figure.canvas.draw()


def test_batch_is_refused_with_the_remedy():
    from dataclasses import replace

    one = make_result()
    batch = replace(one, plan=one.plan[None])
    with pytest.raises(TypeError, match=r"result\[b\]"):
        plot.plan(batch)


def test_result_plot_is_plan():
    assert make_result().plot(name_a="left").get_ylabel() == "frame of left"


def test_convergence_shows_the_history():
    result = make_result()
    ax = plot.convergence(result)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), result.history[:, 1])
    assert ax.get_yscale() == "log"


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_save_writes_without_pyplot(tmp_path: Path, ending: str):
    before = plt.get_fignums()
    path = tmp_path / f"plan.{ending}"
    plot.save(make_result(), path)
    assert path.stat().st_size > 2000
    assert plt.get_fignums() == before
    assert ending in plot.formats()
