"""accelerate(): every binding found, calls counted, what is not covered by POT, everything put back."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
import warnings

import numpy as np
import ot
import pytest

import fpgwot
from fpgwot._accelerate import NAMES, OLD, _not_ours
from fpgwot.gromov import old_names


@pytest.fixture
def C():
    x = np.random.default_rng(0).random((12, 2))
    return ot.dist(x)


def bindings() -> dict[tuple[str, str], int]:
    found = {}
    for name, module in list(sys.modules.items()):
        for key, value in list(getattr(module, "__dict__", {}).items()) if isinstance(module, types.ModuleType) else ():
            if callable(value) and getattr(value, "__name__", None) in NAMES:
                found[name, key] = id(value)
    return found


@pytest.fixture
def caller():
    """A module that has bound POT's names before, under its own and under another name."""
    module = types.ModuleType("somebody_elses_package")
    module.fgw, module.entropic_gromov_wasserstein = ot.gromov.fused_gromov_wasserstein, ot.gromov.entropic_gromov_wasserstein
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def test_bindings_are_found_counted_and_put_back(C, caller):
    before = bindings()
    with fpgwot.accelerate() as fast:
        assert ot.gromov.gromov_wasserstein is not fpgwot.gromov.gromov_wasserstein
        ours = [ot.gromov.gromov_wasserstein(C, C), ot.gromov_wasserstein(C, C)]
        caller.fgw(C, C, C)
        caller.entropic_gromov_wasserstein(C, C, epsilon=0.1)
        ot.solve_gromov(C, C, reg=0.1)
        ot.gromov.gromov_barycenters(4, [C, C], max_iter=2, random_state=0)
    assert {name: calls.ours for name, calls in fast.calls.items()} == {
        "gromov_wasserstein": 2 + 4,  # POT's barycentre calls it too
        "fused_gromov_wasserstein": 1,
        "entropic_gromov_wasserstein": 1,
        "solve_gromov": 1,
    }
    assert all(calls.pot == 0 for calls in fast.calls.values())
    assert "gromov_wasserstein: 6 calls here" in fast.text
    assert bindings() == before
    np.testing.assert_array_equal(ours[0], fpgwot.gromov.gromov_wasserstein(C, C))


def test_put_back_after_an_error_and_names_bound_meanwhile(C):
    before = bindings()
    fast = fpgwot.accelerate()

    def fails() -> None:
        with fast:
            ot.fresh_name = ot.gromov.gromov_wasserstein
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    kept = ot.__dict__.pop("fresh_name")
    assert bindings() == before
    kept(C, C)  # works on, and is POT's again
    assert not fast.calls


def test_what_is_not_covered_goes_to_pot(C):
    with fpgwot.accelerate() as fast:
        T = ot.gromov.gromov_wasserstein(C, C, alpha_max=0.5)
        ot.solve_gromov(C, C, C, unbalanced=1.0, unbalanced_type="KL", reg=0.5)
    assert T.shape == C.shape
    assert fast.calls["gromov_wasserstein"].pot == 1
    assert "alpha_max" in next(iter(fast.calls["gromov_wasserstein"].reasons))
    assert fast.calls["solve_gromov"].pot == 1
    with fpgwot.accelerate(fallback=False), pytest.raises(NotImplementedError):
        ot.gromov.gromov_wasserstein(C, C, alpha_max=0.5)
    with fpgwot.accelerate(["gromov_wasserstein"]) as fast:
        ot.gromov.gromov_wasserstein(C, C)
        ot.gromov.fused_gromov_wasserstein(C, C, C)
    assert list(fast.calls) == ["gromov_wasserstein"]
    with pytest.raises(ValueError, match="cannot be swapped"):
        fpgwot.accelerate(["emd"])
    foreign = type("Array", (), {"__module__": "jaxlib.xla_extension"})()
    assert _not_ours([C, foreign]) == "jaxlib arrays"


def test_decorator_and_nesting(C):
    fast = fpgwot.accelerate()

    @fast
    def work(depth: int) -> np.ndarray:
        """Docstring."""
        return work(depth - 1) if depth else ot.gromov.gromov_wasserstein(C, C)

    before = bindings()
    work(2)
    work(0)
    assert work.__doc__ == "Docstring."
    assert fast.calls["gromov_wasserstein"].ours == 2
    with fpgwot.accelerate() as outer, fpgwot.accelerate() as inner:
        ot.gromov.gromov_wasserstein(C, C)
    assert (len(outer.calls), inner.calls["gromov_wasserstein"].ours) == (0, 1)
    assert bindings() == before


def test_a_script(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        "import sys, numpy as np\nfrom ot.gromov import gromov_wasserstein\n"
        "C = np.abs(np.subtract.outer(np.arange(5.0) ** 2, np.arange(5.0) ** 2))\n"
        "print(__name__, sys.argv[1:], gromov_wasserstein(C, C).trace().round(6))\n",
        encoding="utf-8",
    )
    run = [sys.executable, "-m", "fpgwot"]
    done = subprocess.run([*run, str(script), "a", "--b"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["__main__", "['a',", "'--b']", "1.0"]
    assert "gromov_wasserstein: 1 calls here" in done.stderr
    assert subprocess.run([*run, "missing.py"], capture_output=True, text=True).returncode == 2
    assert "fpgwot" in subprocess.run([*run, "info"], capture_output=True, text=True).stdout


# ---------------------------------------------------------------------------------------------------- deprecated names

OLD_NAMES = [x.removeprefix(OLD) for x in NAMES if x.startswith(OLD)]


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@pytest.mark.parametrize("name", OLD_NAMES)
def test_old_names_have_the_signature_plans_and_values_of_pot(name):
    ours, pot = getattr(old_names, name), getattr(ot.partial, name)
    expected = [(x.name, x.kind, x.default) for x in inspect.signature(pot).parameters.values() if x.kind is not x.VAR_KEYWORD]
    assert [(x.name, x.kind, x.default) for x in inspect.signature(ours).parameters.values()] == expected
    rng = np.random.default_rng(1)
    C1, C2 = ot.dist(rng.normal(size=(8, 2))), ot.dist(rng.normal(size=(9, 2)))
    C1, C2, p, q = C1 / C1.max(), C2 / C2.max(), np.full(8, 1 / 8), np.full(9, 1 / 9)
    args = (C1, C2, p, q, 0.05) if "entropic" in name else (C1, C2, p, q)
    out, log = ours(*args, m=0.5, log=True)
    out_pot, log_pot = quietly(pot, *args, m=0.5, log=True)
    assert set(log_pot) <= set(log)
    np.testing.assert_allclose(log["partial_gw_dist"], log_pot["partial_gw_dist"], rtol=1e-6)
    np.testing.assert_allclose(out, out_pot, atol=1e-7)
    np.testing.assert_allclose(ours(*args, m=0.5), out)
    if name.endswith("2"):
        np.testing.assert_allclose(log["T"], log_pot["T"], atol=1e-7)
    with pytest.raises(TypeError, match="keyword"):
        ours(*args, m=0.5, loss_fun="kl_loss")


def test_old_names_are_swapped_and_put_back(C, caller):
    caller.old = ot.partial.partial_gromov_wasserstein2
    before, p = bindings(), np.full(12, 1 / 12)
    with fpgwot.accelerate() as fast, warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning about the name
        value = caller.old(C, C[::-1, ::-1], p, p, m=0.5)
        T = ot.partial.entropic_partial_gromov_wasserstein(C, C, p, p, 0.1, 0.5)
    assert {k: v.ours for k, v in fast.calls.items()} == {
        "partial.partial_gromov_wasserstein2": 1,
        "partial.entropic_partial_gromov_wasserstein": 1,
    }
    assert bindings() == before
    assert T.sum() == pytest.approx(0.5)
    assert value == old_names.partial_gromov_wasserstein2(C, C[::-1, ::-1], p, p, m=0.5)
    with fpgwot.accelerate(["partial_gromov_wasserstein"]) as fast, pytest.warns(UserWarning, match="deprecated"):
        ot.partial.partial_gromov_wasserstein(C, C, p, p, m=0.5)
    assert not fast.calls
