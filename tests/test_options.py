"""Every documented option changes something: the plan, the value, the log, the number of steps, what is printed, or an error.

The tables are held against the signatures: a keyword without an entry fails. Those documented as without effect are listed.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import ot
import pytest

from fpgwot import ConvergenceWarning, Status, gromov, solve
from fpgwot.gromov import _call, old_names

DOCS = (Path(__file__).parent.parent / "docs" / "drop_in.md").read_text(encoding="utf-8")
IDLE_TABLE = DOCS[DOCS.index("## Options without effect") : DOCS.index("## Differences from POT")]
N, K = 20, 22
RNG = np.random.default_rng(2)
M, C1, C2 = RNG.random((N, K)), RNG.random((N, N)) + 0.1, RNG.random((K, K)) + 0.1
P, Q = RNG.random(N) + 0.5, RNG.random(K) + 0.5
P, Q = P / P.sum(), Q / Q.sum()
MASK = RNG.random((N, K)) < 0.7
PLAN = ot.emd(P, Q, RNG.random((N, K)))


def seen(call, capsys) -> tuple:
    """All that a caller can see of a call: result or error, warnings, what is printed."""
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            out = flat(call())
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            out = [type(error).__name__, str(error)]
    printed = capsys.readouterr()
    assert printed.out == ""  # reports go to stderr
    return (*out, *(str(w.message) for w in caught), "printed" if printed.err else "")


def flat(x) -> list:
    """Numbers and texts of a result, in a list that can be compared; times are left out."""
    if isinstance(x, dict):
        return [y for k in sorted(x) if k != "fpgwot" for y in (k, *flat(x[k]))]
    if isinstance(x, (list, tuple)):
        return [len(x), *(z for y in x for z in flat(y))]
    if isinstance(x, np.ndarray):
        return [x.shape, x.tobytes()]
    if isinstance(x, ot.utils.OTResult):
        return flat([x.plan, np.asarray(x.value), x.log])
    if hasattr(x, "provenance"):
        same = [x.plan, x.value, x.n_iter, x.history, x.status.name, x.provenance["backend"], x.method]
        return flat([*same, x.starts, None if x.mass_path is None else x.mass_path.mass])
    return [x if isinstance(x, (int, str, type(None))) else float(x)]


# ----------------------------------------------------------------------------------------------------------- fpgwot.solve

# option: (the rest of the call, the option's value)
FUSED = {"M": M, "C1": C1, "C2": C2}
ENTROPIC = {**FUSED, "reg": 0.05}
SOLVE = {
    "M": (FUSED, M[::-1]),
    "C1": (FUSED, C1[::-1]),
    "C2": (FUSED, C2[::-1]),
    "p": (FUSED, P),
    "q": (FUSED, Q),
    "alpha": (FUSED, 0.9),
    "loss": (FUSED, "kl"),
    "m": (FUSED, 0.5),
    "tau": (FUSED, (np.inf, 0)),
    "tv": (FUSED, 0.05),
    "sink": (FUSED, 0.1),
    "reg": (FUSED, 0.05),
    "reg_rel": (FUSED, 0.05),
    "reference": (ENTROPIC, PLAN + 1e-3),
    "smoothness": (FUSED, 0.5),
    "normalize": (FUSED, "mean"),
    "mask": (FUSED, MASK),
    "method": (FUSED, "entropic"),  # an error: it needs reg > 0
    "init": (FUSED, "annealed"),
    "n_init": (FUSED, 3),
    "random_state": ({**FUSED, "init": "random", "random_state": 0}, 1),
    "tol": (ENTROPIC, 1e-2),
    "max_iter": (ENTROPIC, 1),
    "backend": (FUSED, "numpy"),
    "callback": (ENTROPIC, lambda now: now.iteration == 1),
    "verbose": (ENTROPIC, True),
    "on_fail": ({**ENTROPIC, "max_iter": 1}, "raise"),
}


def test_the_table_of_solve_is_complete():
    assert set(SOLVE) == set(inspect.signature(solve).parameters)


@pytest.mark.parametrize("option", SOLVE)
def test_every_option_of_solve_changes_something(option, capsys):
    rest, value = SOLVE[option]
    before, again, after = (seen(lambda x=x: solve(**{**rest, **x}), capsys) for x in ({}, {}, {option: value}))
    assert before == again  # a difference is the option's
    assert after != before


@pytest.mark.parametrize("values", [(None, "product", "annealed", "features", "monotone", "reversed", "random")])
def test_every_named_start_is_another(values, capsys):
    found = [seen(lambda x=x: solve(**FUSED, init=x, random_state=0), capsys) for x in values]
    assert found[0] == found[1]
    assert len(set(found[1:])) == len(values) - 1


# ---------------------------------------------------------------------------------------------------------- fpgwot.gromov

CHANGES = {
    "M": M[::-1],
    "C1": C1[::-1],
    "C2": C2[::-1],
    "p": P[::-1],
    "q": Q[::-1],
    "loss_fun": "kl_loss",
    "m": 0.3,
    "alpha": 0.1,
    "epsilon": 0.3,
    "reg": 0.5,
    "G0": PLAN,
    "max_iter": 1,
    "numItermax": 1,
    "tol": 0.9,
    "tol_rel": 0.9,
    "tol_abs": 0.9,
    "solver": "PPA",
    "log": True,
    "verbose": True,
    "random_state": 1,
    "warn": None,  # the opposite of the default; see below
}
WITHOUT_EFFECT = {
    "symmetric": True,
    "armijo": True,
    "nb_dummies": 7,
    "thres": 0.5,
    "warmstart": True,
    "numThreads": 2,
    "numItermaxEmd": 5,
    "alpha_min": 0,
    "alpha_max": 1,
    "numItermax": 5,  # of the entropic functions, where POT has it in **kwargs
    "stopThr": 0.5,
    "warn": True,  # of the entropic functions, as the next two
    "tol_rel": 0.5,
    "tol_abs": 0.5,
    "nx": None,
}
SOLVERS = [x for x in gromov.__all__ if "gromov_wasserstein" in x and "unbalanced" not in x]
OLD = [f"old_names.{x}" for x in vars(old_names) if "gromov_wasserstein" in x]


def function_of(name: str):
    return getattr(old_names, name.removeprefix("old_names.")) if name.startswith("old_names.") else getattr(gromov, name)


def keywords(name: str) -> dict:
    """A call in full: with its log, which shows the steps."""
    fused = {"M": M} if "fused" in name else {}
    base = {**fused, "C1": C1, "C2": C2, "p": P, "log": True} | ({} if "semirelaxed" in name else {"q": Q})
    base |= {"m": 0.6} if "partial" in name else {}
    if "entropic" in name:
        base["reg" if "partial" in name else "epsilon"] = 0.05
    return base


def options(names, kept) -> list:
    return [(n, o) for n in names for o in inspect.signature(function_of(n)).parameters if kept(n, o)]


def is_idle(name: str, option: str) -> bool:
    return option in WITHOUT_EFFECT and option not in CHANGES


@pytest.mark.parametrize("name", [*SOLVERS, *OLD])
def test_the_tables_know_every_keyword(name):
    function = function_of(name)
    known = set(inspect.signature(function).parameters)
    assert known <= set(CHANGES) | set(WITHOUT_EFFECT)
    assert set(function.without_effect) <= set(WITHOUT_EFFECT)
    assert not known & set(function.without_effect)


@pytest.mark.parametrize(("name", "option"), options([*SOLVERS, *OLD], lambda n, o: not is_idle(n, o)))
def test_every_option_changes_something(name, option, capsys, monkeypatch):
    function, base, value = function_of(name), keywords(name), CHANGES[option]
    if option == "G0" and "partial" in name:
        value = 0.6 * value
    if option == "random_state":
        base |= {"G0": "random", "random_state": 0}
    if option == "log":
        base["log"] = False
    if option == "warn":
        value = not inspect.signature(function).parameters["warn"].default
        real = _call.solve

        def stalled(*args, **kwargs):
            done = real(*args, **kwargs)
            return replace(done, converged=False, status=Status.STALLED, residuals=replace(done.residuals, stationarity=0.1))

        monkeypatch.setattr(_call, "solve", stalled)
    before, again, after = (seen(lambda x=x: function(**{**base, **x}), capsys) for x in ({}, {}, {option: value}))
    assert before == again
    assert after != before


IDLE = options(SOLVERS + OLD, is_idle) + [(n, o) for n in SOLVERS + OLD for o in function_of(n).without_effect]


@pytest.mark.parametrize(("name", "option"), IDLE)
def test_options_without_effect_have_none_and_the_docs_say_so(name, option, capsys):
    function, base = function_of(name), keywords(name)
    assert seen(lambda: function(**base), capsys) == seen(lambda: function(**base, **{option: WITHOUT_EFFECT[option]}), capsys)
    assert len(seen(lambda: function(**base), capsys)) > 3  # not an error
    assert f"`{option}" in IDLE_TABLE


def test_a_changed_bound_of_the_line_search_is_refused():
    for name in ("gromov_wasserstein", "partial_gromov_wasserstein", "semirelaxed_gromov_wasserstein"):
        for option, value in (("alpha_min", 0.1), ("alpha_max", 0.9)):
            with pytest.raises(NotImplementedError, match=option):
                function_of(name)(**keywords(name), **{option: value})


def test_unbalanced_functions_refuse_every_call():
    for name in ("fused_unbalanced_gromov_wasserstein", "fused_unbalanced_gromov_wasserstein2"):
        with pytest.raises(NotImplementedError, match=rf"ot\.gromov\.{name}"):
            getattr(gromov, name)(C1, C2)


# ------------------------------------------------------------------------------------------ solve_gromov, batches, helpers

UNIFIED = {"Ca": C1, "Cb": C2, "M": M, "a": P, "b": Q}
SOFT = {**UNIFIED, "reg": 0.05}
SOLVE_GROMOV = {
    "Ca": (UNIFIED, C1[::-1]),
    "Cb": (UNIFIED, C2[::-1]),
    "M": (UNIFIED, M[::-1]),
    "a": (UNIFIED, P[::-1]),
    "b": (UNIFIED, Q[::-1]),
    "loss": (UNIFIED, "KL"),
    "alpha": (UNIFIED, 0.1),
    "reg": (UNIFIED, 0.05),
    "reg_type": (SOFT, "l2"),  # an error
    "unbalanced": ({**UNIFIED, "unbalanced_type": "partial"}, 0.5),
    "unbalanced_type": (UNIFIED, "semirelaxed"),
    "method": (SOFT, "PPA"),
    "max_iter": (SOFT, 1),
    "plan_init": (SOFT, PLAN),
    "tol": (SOFT, 0.9),
    "verbose": (SOFT, True),
}
BATCH = {"Ca": np.stack([C1] * 2), "Cb": np.stack([C2] * 2), "a": np.stack([P] * 2), "b": np.stack([Q] * 2), "reg": 0.05}
BATCH |= {"M": np.stack([M] * 2), "alpha": 0.5}
SOLVE_GROMOV_BATCH = {
    "Ca": (BATCH, BATCH["Ca"][:, ::-1]),
    "Cb": (BATCH, BATCH["Cb"][:, ::-1]),
    "reg": (BATCH, 0.5),
    "a": (BATCH, BATCH["a"][:, ::-1]),
    "b": (BATCH, BATCH["b"][:, ::-1]),
    "loss": (BATCH, "kl"),  # an error
    "M": (BATCH, BATCH["M"][:, ::-1]),
    "alpha": (BATCH, 0.1),
    "T_init": (BATCH, np.stack([PLAN + 1e-3] * 2) / (PLAN + 1e-3).sum()),
    "max_iter": (BATCH, 1),
    "tol": (BATCH, 0.1),
    "grad": (BATCH, "autodiff"),  # an error
}
IDLE_UNIFIED = {"symmetric": True, "n_threads": 2}
IDLE_BATCH = {"symmetric": True, "max_iter_inner": 3, "tol_inner": 0.5, "logits": True}


@pytest.mark.parametrize(
    ("name", "table", "idle"),
    [("solve_gromov", SOLVE_GROMOV, IDLE_UNIFIED), ("solve_gromov_batch", SOLVE_GROMOV_BATCH, IDLE_BATCH)],
)
def test_solve_gromov_and_batches(name, table, idle, capsys):
    function = getattr(gromov, name)
    assert set(inspect.signature(function).parameters) == set(table) | set(idle)
    for option, (rest, value) in table.items():
        before, again, after = (seen(lambda x=x, rest=rest: function(**{**rest, **x}), capsys) for x in ({}, {}, {option: value}))
        assert before == again, option
        assert after != before, option
    rest = next(iter(table.values()))[0]
    for option, value in idle.items():
        assert seen(lambda: function(**rest), capsys) == seen(lambda o=option, v=value: function(**rest, **{o: v}), capsys), (
            option
        )
        assert f"`{option}`" in IDLE_TABLE
        assert option in function.__doc__


TENSORS = dict(zip(("constC", "hC1", "hC2"), gromov.init_matrix(C1, C2, P, Q), strict=True))
STEP = {"G": np.outer(P, Q), "deltaG": PLAN - np.outer(P, Q), "cost_G": 0.3, "M": 0.5 * M, "reg": 0.5}
STEP |= {"alpha_min": 0.0, "alpha_max": 2.0}
HELPERS = {
    "init_matrix": {"C1": C1, "C2": C2, "p": P, "q": Q, "loss_fun": "square_loss"},
    "init_matrix_semirelaxed": {"C1": C1, "C2": C2, "p": P, "loss_fun": "square_loss"},
    "tensor_product": {**TENSORS, "T": PLAN},
    "gwloss": {**TENSORS, "T": PLAN},
    "gwggrad": {**TENSORS, "T": PLAN},
    "solve_gromov_linesearch": {**STEP, "C1": C1, "C2": 2 * C2, "symmetric": False},
    "solve_partial_gromov_linesearch": {**STEP, "df_G": 3 * M, "df_Gc": M},
    "solve_semirelaxed_gromov_linesearch": {**STEP, "C1": C1, "C2": 2 * C2, "ones_p": np.ones(N), "fC2t": (C2**2).T},
}


@pytest.mark.parametrize("name", HELPERS)
def test_helpers_read_all_that_they_take(name, capsys):
    """Each argument, changed alone, changes what comes out; nx is POT's backend object, which is not needed."""
    function, base = getattr(gromov, name), HELPERS[name]
    assert set(inspect.signature(function).parameters) == {*base, "nx"}
    before = seen(lambda: function(**base), capsys)
    for option, value in base.items():
        if isinstance(value, np.ndarray):
            other = 1.5 * value + 0.1 * np.arange(value.shape[0]).reshape(-1, *[1] * (value.ndim - 1))
        else:
            other = {"loss_fun": "kl_loss", "symmetric": True, "alpha_max": 0.01, "alpha_min": 1.5}.get(option, 0.2)
        is_read = (name, option) != ("solve_partial_gromov_linesearch", "G")  # nor does POT read it
        assert (seen(lambda o=option, v=other: function(**{**base, o: v}), capsys) != before) == is_read, option
    assert seen(lambda: function(**base, nx=ot.backend.get_backend(C1)), capsys) == before


def test_every_warning_of_the_table_is_ours():
    with pytest.warns(ConvergenceWarning):
        solve(**ENTROPIC, max_iter=1)
