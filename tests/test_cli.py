"""The command line: what it prints and where, its files, its exit codes."""

from __future__ import annotations

import builtins
import csv
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fpgwot import cli

N, M, SHIFT = 40, 25, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sequences: b is frames 5 to 29 of a, a little noisy."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    a = rng.normal(size=(N, 6))
    b = a[SHIFT : SHIFT + M] + 0.01 * rng.normal(size=(M, 6))
    np.save(folder / "a.npy", a)
    np.save(folder / "b.npy", b)
    np.savez(folder / "both.npz", first=a, second=b)
    np.savez(folder / "one.npz", first=a)
    np.savetxt(folder / "comma.csv", a, delimiter=",", header=",".join("uvwxyz"), comments="")
    np.savetxt(folder / "blanks.csv", b)
    return folder


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Calls `fpgwot align` in the folder; returns exit code, standard output, standard error."""

    def call(*args: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        try:
            code = cli.main(["align", *args])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_prints_matches_dropped_frames_value_mass_status_time(run):
    code, out, err = run("a.npy", "b.npy", "--mass", ".5")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    table = lines.index(next(line for line in lines if "confidence" in line))
    matches = [line.split() for line in lines[table + 1 : table + 11]]
    assert len(matches) == 10
    assert all(int(i) - int(j) == SHIFT for i, j, *_ in matches)
    for word in ("dropped in a:", "dropped in b:", "value", "mass    0.5", "status  converged", "time"):
        assert word in out


def test_dropped_frames_are_compact_ranges():
    assert cli._ranges(np.array([3, 4, 5, 9, 11, 12])) == "3-5, 9, 11-12"
    assert cli._ranges(np.array([], dtype=int)) == "none"
    assert cli._ranges(np.array([7])) == "7"


def test_out_holds_plan_matches_unmatched_and_weights(run, folder: Path):
    assert run("a.npy", "b.npy", "--mass", ".5", "--out", "plan.npz")[0] == 0
    with np.load(folder / "plan.npz", allow_pickle=False) as file:
        assert file["plan"].shape == (N, M)
        assert file["plan"].sum() == pytest.approx(0.5, rel=1e-5)
        assert {"i", "j", "weight", "confidence"} == set(file["matches"].dtype.names)
        assert set(file["unmatched"]["side"]) <= {"row", "column"}
        np.testing.assert_allclose(file["p"], 1 / N)
        np.testing.assert_allclose(file["q"], 1 / M)


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_json_alone_on_standard_output(run, option: str):
    code, out, _ = run("a.npy", "b.npy", "--mass", ".5", option, "-")
    summary = json.loads(out)
    assert code == 0
    assert summary["converged"] is True
    assert summary["mass"] == pytest.approx(0.5, rel=1e-5)
    assert summary["parameters"]["mass"] == 0.5
    assert sum(summary["value_terms"].values()) == pytest.approx(summary["value"])
    assert set(summary["residuals"]) == {"marginal", "mass", "stationarity"}
    assert {"i", "j", "weight", "confidence"} == set(summary["matches"][0])
    assert summary["dropped"]["a"]["count"] >= N - M
    assert summary["provenance"]
    assert summary["inputs"]["a"] == {"source": "a.npy", "frames": N, "features": 6}


def test_both_dashes_print_one_summary(run):
    json.loads(run("a.npy", "b.npy", "--out", "-", "--json", "-")[1])


def test_json_file_leaves_the_text_on_standard_output(run, folder: Path):
    code, out, _ = run("a.npy", "b.npy", "--json", "s.json")
    assert "strongest matches" in out
    assert json.loads((folder / "s.json").read_text())["converged"] is (code == 0)


def test_matches_file(run, folder: Path):
    run("a.npy", "b.npy", "--mass", ".5", "--matches", "m.csv")
    rows = list(csv.DictReader((folder / "m.csv").read_text().splitlines()))
    assert {int(r["i"]) - int(r["j"]) for r in rows} == {SHIFT}


def test_mass_auto_says_how_it_was_chosen(run, folder: Path):
    _, out, _ = run("a.npy", "b.npy", "--mass", "auto", "--json", "s.json")
    assert "price of mass" in out
    assert "price of mass" in json.loads((folder / "s.json").read_text())["mass_choice"]


def test_plot(run, folder: Path):
    pytest.importorskip("matplotlib")
    assert run("a.npy", "b.npy", "--plot", "plan.png")[0] == 0
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("a", "b", "extra"),
    [
        ("both.npz:first", "both.npz:second", []),
        ("one.npz", "b.npy", []),
        ("one.npz", "one.npz", ["--key", "first"]),
        ("comma.csv", "blanks.csv", []),
    ],
)
def test_kinds_of_input(run, a: str, b: str, extra: list[str]):
    code, out, _ = run(a, b, "--mass", ".5", "--out", "-", *extra)
    assert code == 0
    assert json.loads(out)["inputs"]["a"]["frames"] == N


def test_options_reach_align(run, monkeypatch: pytest.MonkeyPatch):
    import fpgwot.api

    seen: dict[str, Any] = {}
    real = fpgwot.api.align

    def spy(X: np.ndarray, Y: np.ndarray, **given: Any) -> Any:
        seen.update(given)
        return real(X, Y, mass=0.5)

    monkeypatch.setattr(fpgwot.api, "align", spy)
    code, _, _ = run(
        *("a.npy", "b.npy", "--mass", ".6", "--metric", "euclidean", "--alpha", ".2", "--reg-rel", ".1", "--structure", "none"),
        *(
            "--scale",
            ".2",
            "--rho",
            ".3",
            "--backend",
            "numpy",
            "--seed",
            "3",
            "--n-init",
            "2",
            "--tol",
            "1e-5",
            "--max-iter",
            "9",
        ),
    )
    assert code == 0
    assert seen.pop("callback") is None
    assert seen.pop("on_fail") == "ignore"
    assert seen == {
        "mass": 0.6,
        "metric": "euclidean",
        "alpha": 0.2,
        "reg_rel": 0.1,
        "structure": None,
        "scale": 0.2,
        "rho": 0.3,
        "backend": "numpy",
        "random_state": 3,
        "n_init": 2,
        "tol": 1e-5,
        "max_iter": 9,
    }


def test_defaults_are_those_of_align():
    from fpgwot import align

    args = vars(cli._parser().parse_args(["align", "a.npy", "b.npy"]))
    signature = inspect.signature(align).parameters
    assert {name: args[name] for name in cli.PARAMETERS} == {name: signature[name].default for name in cli.PARAMETERS}


def test_not_converged_is_exit_code_one_and_still_writes(run, folder: Path):
    code, out, _ = run("a.npy", "b.npy", "--max-iter", "1", "--tol", "1e-14", "--out", "early.npz")
    assert code == 1
    assert "status  max_iter" in out
    assert (folder / "early.npz").exists()


def test_bad_files_name_the_file_and_the_remedy(run, folder: Path):
    np.save(folder / "two.npy", np.ones((4, 2)))
    np.save(folder / "cube.npy", np.ones((4, 2, 2)))
    np.save(folder / "text.npy", np.array(["a", "b"]))
    bad = np.ones((7, 6))
    bad[3, 1] = np.nan
    np.save(folder / "nan.npy", bad)
    (folder / "ragged.csv").write_text("1,2\n3\n")
    (folder / "empty.csv").write_text("")
    (folder / "fake.npz").write_text("hello")
    (folder / "a.docx").write_text("hello")
    for source, words in {
        "nowhere.npy": "no such file",
        ".": "is a folder",
        "a.docx": "unknown kind of file",
        "both.npz": "holds 2 arrays (first, second)",
        "both.npz:third": "it holds: first, second",
        "two.npy": "2 features per frame",
        "cube.npy": "(4, 2, 2)",
        "text.npy": "expected numbers",
        "nan.npy": "NaN or infinity in 1 of 7 frames (first: 3)",
        "ragged.csv": "between 1 and 2 numbers",
        "empty.csv": "no line of numbers",
        "fake.npz": "cannot be read",
    }.items():
        code, out, err = run(source, "b.npy")
        assert (code, out) == (2, ""), source
        assert words in err, (source, err)
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--mass", "1.5"], "no share in (0, 1]"),
        (["--mass", "much"], "not a number"),
        (["--metric", "hamming"], "invalid choice"),
        (["--structure", "tree"], "none of laplace"),
        (["--backend", "abacus"], "backend"),
        (["--out", "plan.txt"], "must end in .npz"),
        (["--out", "nowhere/plan.npz"], "folder does not exist"),
        (["--plot", "plan.xyz"], "unknown ending"),
    ],
)
def test_bad_usage(run, args: list[str], words: str):
    code, out, err = run("a.npy", "b.npy", *args)
    assert (code, out) == (2, "")
    assert words in err


def test_plot_without_matplotlib_is_refused_before_the_work(run, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def no_plot(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if "plot" in (fromlist or ()):
            raise ImportError("No module named 'matplotlib'")
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", no_plot)
    code, _, err = run("a.npy", "b.npy", "--plot", "plan.png")
    assert code == 2
    assert "fpgwot[plot]" in err


class Info:
    iteration, objective, residual, elapsed = 7, 1.0, 1e-3, 3.0


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_progress_goes_to_standard_error_after_two_seconds(capsys, monkeypatch: pytest.MonkeyPatch, with_tqdm: bool):
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    progress = cli._Progress(wanted=True, max_iter=10)
    assert progress(Info()) is False
    assert capsys.readouterr().err == "", "short work shows nothing"
    progress.start -= 3
    progress(Info())
    progress.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert "1.0e-03" in err


def test_info_can_be_pasted(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    for name in ("fpgwot", "python", "numpy", "scipy", "numba", "pot", "cupy", "torch", "threads", "threading layer", "cache"):
        assert any(line.startswith(name) for line in out.splitlines()), name
    line = next(line for line in out.splitlines() if line.startswith("backend cupy"))
    assert "found" in line or "missing: " in line


def test_runs_as_a_program(folder: Path):
    done = subprocess.run(
        [sys.executable, "-m", "fpgwot.cli", "align", "a.npy", "b.npy", "--out", "-"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])},  # also where the package is not installed
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["converged"] is True
