"""Command line: `fpgwot align` and `fpgwot info`. The only module of the package that prints."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from ._read import ReadError, read_sequence
from ._version import __version__

if TYPE_CHECKING:
    from .result import Result

__all__ = ["main"]

QUIET_SECONDS = 2.0  # shorter work needs no progress line
TOP = 10  # matches shown on the terminal; all of them go to the files
PARAMETERS = (
    "mass",
    "metric",
    "alpha",
    "reg_rel",
    "structure",
    "scale",
    "rho",
    "backend",
    "n_init",
    "random_state",
    "tol",
    "max_iter",
)
EPILOG = "exit codes: 0 converged, 1 not converged (results are written all the same), 2 bad input or usage"


class UsageError(Exception):
    """Something the caller can put right; shown without a traceback, exit code 2."""


# --------------------------------------------------------------------------------------------------------------- progress
class _Progress:
    """One line on a terminal, drawn only once the work has taken longer than `QUIET_SECONDS`."""

    def __init__(self, wanted: bool, max_iter: int | None) -> None:
        self.wanted, self.max_iter, self.start = wanted, max_iter, time.perf_counter()
        self.bar: Any = None
        self.tried = self.shown = False
        # compilation calls nobody back, so the first sign of life comes from a timer
        self.timer = threading.Timer(QUIET_SECONDS, self._say, ("working (the first call compiles its kernels)",))
        self.timer.daemon = True
        if wanted:
            self.timer.start()

    def __call__(self, info: Any) -> bool:
        if self.wanted and time.perf_counter() - self.start > QUIET_SECONDS:
            self.timer.cancel()
            self._update(int(info.iteration), float(info.residual))
        return False

    def _update(self, iteration: int, residual: float) -> None:
        if not self.tried:
            self.tried = True
            with contextlib.suppress(ImportError):
                from tqdm import tqdm

                self.bar = tqdm(total=self.max_iter, desc="fpgwot", unit="it", leave=False, file=sys.stderr)
        if self.bar is None:
            self._say(f"iteration {iteration}, residual {residual:.1e}")
        else:
            self.bar.update(iteration - self.bar.n)
            self.bar.set_postfix_str(f"residual {residual:.1e}")

    def _say(self, text: str) -> None:
        self.shown = True
        sys.stderr.write(f"\rfpgwot: {text:<70}")
        sys.stderr.flush()

    def close(self) -> None:
        self.timer.cancel()
        if self.bar is not None:
            self.bar.close()
        if self.shown:
            sys.stderr.write("\r" + " " * 80 + "\r")


# ---------------------------------------------------------------------------------------------------------------- results
def _ranges(index: np.ndarray) -> str:
    """3 4 5 9 -> "3-5, 9"."""
    index = np.unique(index)
    runs = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1)
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs if len(r)) or "none"


def _plain(value: Any) -> Any:
    """Into what JSON knows. Infinity and NaN become null: they are not JSON."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _summary(result: Result, parameters: dict[str, Any], shapes: dict[str, Any], seconds: float) -> dict[str, Any]:
    dropped = result.unmatched()
    r = result.residuals
    terms = {name: getattr(result, f"value_{name}") for name in ("linear", "quad", "reg", "marginal")}
    sides = {"a": dropped["index"][dropped["side"] == "row"], "b": dropped["index"][dropped["side"] == "column"]}
    return _plain(
        {
            "inputs": shapes,
            "parameters": parameters,
            "converged": result.converged,
            "status": result.status.name.lower(),
            "message": result.status.text,
            "value": result.value,
            "value_terms": terms,
            "mass": result.mass,
            "mass_choice": getattr(result.mass_path, "text", None),
            "residuals": {"marginal": r.marginal, "mass": r.mass, "stationarity": r.stationarity},
            "n_iter": result.n_iter,
            "seconds": round(seconds, 4),
            "method": result.method,
            "backend": result.backend,
            "device": result.device,
            "matches": [{"i": i, "j": j, "weight": w, "confidence": c} for i, j, w, c in result.matches().tolist()],
            "dropped": {side: {"count": len(index), "ranges": _ranges(index)} for side, index in sides.items()},
            "provenance": result.provenance,
        }
    )


def _text(s: dict[str, Any]) -> Iterator[str]:
    a, b = s["inputs"]["a"], s["inputs"]["b"]
    yield f"{a['source']} ({a['frames']} frames) -> {b['source']} ({b['frames']} frames), {a['features']} features"
    yield ""
    yield f"strongest matches (of {len(s['matches'])})"
    yield f"{'a':>8} {'b':>8} {'weight':>11} {'confidence':>11}"
    for match in s["matches"][:TOP]:
        yield f"{match['i']:>8} {match['j']:>8} {match['weight']:>11.3e} {match['confidence']:>11.2f}"
    yield ""
    for side, whole in (("a", a), ("b", b)):
        dropped = s["dropped"][side]
        yield f"dropped in {side}: {dropped['count']} of {whole['frames']} frames: {dropped['ranges']}"
    yield ""
    yield f"value   {s['value']:.6g}   (" + ", ".join(f"{k} {v:.4g}" for k, v in s["value_terms"].items() if v) + ")"
    yield f"mass    {s['mass']:.6g}"
    if s["mass_choice"]:
        yield f"        {s['mass_choice']}"
    yield f"status  {s['message']}"
    yield f"time    {s['seconds']:.2f} s, {s['n_iter']} iterations, {s['method']} on {s['backend']} ({s['device']})"


@contextlib.contextmanager
def _writing(target: str) -> Iterator[TextIO]:
    if target == "-":
        yield sys.stdout
    else:
        with open(target, "w", encoding="utf-8", newline="") as file:
            yield file


def _check_targets(args: argparse.Namespace) -> None:
    """Before the work, not after it: every output can be written and is of a known kind."""
    for option in ("out", "json", "matches", "plot"):
        target = getattr(args, option)
        if target not in (None, "-") and not Path(target).absolute().parent.is_dir():
            raise UsageError(f"--{option} {target}: its folder does not exist")
    if args.out not in (None, "-") and Path(args.out).suffix != ".npz":
        raise UsageError(f"--out {args.out}: must end in .npz, or be - for a JSON summary on standard output")
    if args.plot is not None:
        try:
            from . import plot
        except ImportError as error:
            raise UsageError("--plot needs matplotlib: pip install 'fpgwot[plot]'") from error
        kinds = plot.formats()
        if Path(args.plot).suffix.lower().lstrip(".") not in kinds:
            raise UsageError(f"--plot {args.plot}: unknown ending; use one of {', '.join(sorted(kinds))}")


def _write(args: argparse.Namespace, result: Result, summary: dict[str, Any]) -> None:
    if args.out not in (None, "-"):
        p, q = result.weights
        np.savez_compressed(
            args.out, plan=result.plan, matches=np.asarray(result.matches()), unmatched=np.asarray(result.unmatched()), p=p, q=q
        )
    for target in {args.json, "-" if args.out == "-" else None} - {None}:
        with _writing(target) as file:
            file.write(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    if args.matches is not None:
        with _writing(args.matches) as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["i", "j", "weight", "confidence"])
            table.writerows([match["i"], match["j"], match["weight"], match["confidence"]] for match in summary["matches"])
    if args.plot is not None:
        from . import plot

        plot.save(result, args.plot, name_a=Path(args.a).name, name_b=Path(args.b).name)
    if "-" not in (args.out, args.json):
        print("\n".join(_text(summary)))


def _align(args: argparse.Namespace) -> int:
    try:
        X, Y = read_sequence(args.a, args.key), read_sequence(args.b, args.key)
    except ReadError as error:
        raise UsageError(str(error)) from error
    if X.shape[1] != Y.shape[1]:
        raise UsageError(f"{args.a} has {X.shape[1]} features per frame and {args.b} has {Y.shape[1]}: they must be equal")
    _check_targets(args)
    from .api import align

    parameters = {name: getattr(args, name) for name in PARAMETERS}
    progress = _Progress(sys.stderr.isatty() if args.progress is None else args.progress, args.max_iter)
    start = time.perf_counter()
    try:
        # on_fail: what the warning would say is the status, which is printed
        result = align(X, Y, callback=progress if progress.wanted else None, on_fail="ignore", **parameters)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise UsageError(str(error)) from error
    finally:
        progress.close()
    shapes = {
        name: {"source": source, "frames": len(Z), "features": Z.shape[1]}
        for name, source, Z in (("a", args.a, X), ("b", args.b, Y))
    }
    summary = _summary(result, parameters, shapes, time.perf_counter() - start)
    try:
        _write(args, result, summary)
    except OSError as error:
        raise UsageError(f"cannot write: {error}") from error
    return 0 if result.converged else 1


# ------------------------------------------------------------------------------------------------------------------- main
def _mass(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        mass = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number (a share in (0, 1], as in --mass .8)") from None
    if not 0 < mass <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share in (0, 1]; 1 matches every frame")
    return mass


def _structure(text: str) -> str | None:
    if text not in {"laplace", "linear", "none"}:
        raise argparse.ArgumentTypeError(f"{text!r} is none of laplace, linear, none")
    return None if text == "none" else text


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except where there is none to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fpgwot", description="Optimal transport between sequences.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"fpgwot {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="align | info")

    info = commands.add_parser("info", help="versions, threads and backends, to paste into a report")
    info.set_defaults(run=lambda args: _info())

    cmd = commands.add_parser(
        "align",
        help="align two feature sequences",
        description="Aligns two sequences of feature vectors, one frame a row; frames without a counterpart are dropped.",
        epilog=EPILOG,
        formatter_class=_Help,
    )
    cmd.set_defaults(run=_align)
    add: Callable[..., Any] = cmd.add_argument
    add("a", help="first sequence: .npy, .npz (file.npz:NAME) or .csv, one frame a row")
    add("b", help="second sequence")
    add("--key", help="name of the array in .npz inputs", default=None)
    group = cmd.add_argument_group("problem")
    add = group.add_argument
    add(
        "--mass",
        type=_mass,
        default=0.8,
        help="share of each sequence that is matched, in (0, 1]; 1 drops nothing; auto: where its price jumps",
    )
    add("--metric", choices=["cosine", "sqeuclidean", "euclidean"], default="cosine", help="distance between frames")
    add("--alpha", type=float, default=0.3, help="weight of the temporal structure, 0 none, 1 nothing else")
    add("--reg-rel", type=float, default=0.01, help="entropy weight in units of the cost")
    add("--structure", type=_structure, default="laplace", help="temporal structure: laplace, linear or none")
    add("--scale", type=float, default=0.05, help="reach of the Laplace structure, as a share of the length")
    add("--rho", type=float, default=0.0, help="weight of the prior for equal order; 0 where steps may be permuted")
    group = cmd.add_argument_group("solver")
    add = group.add_argument
    add("--backend", default="auto", help="auto, numpy, numba or cupy")
    add("--n-init", type=int, default=1, help="number of starts; the best is kept")
    add("--seed", type=int, default=None, dest="random_state", metavar="SEED", help="seed of random starts")
    add("--tol", type=float, default=None, help="accuracy of the certificate")
    add("--max-iter", type=int, default=None, help="largest number of outer iterations")
    group = cmd.add_argument_group("output")
    add = group.add_argument
    add("--out", metavar="FILE.npz", help="plan, matches, unmatched frames and weights; - : JSON summary on standard output")
    add("--json", metavar="FILE", help="JSON summary; - for standard output")
    add("--matches", metavar="FILE.csv", help="all matches as a table")
    add("--plot", metavar="FILE", help="picture of the transport map (.png, .pdf, .svg)")
    add("--progress", action=argparse.BooleanOptionalAction, default=None, help="progress line on standard error")
    return parser


def _info() -> int:
    from ._info import report  # probes every backend: only when asked

    print(report())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `fpgwot` command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; `sys.argv[1:]` by default.

    Returns
    -------
    int
        0 converged, 1 not converged, 2 bad input or usage.
    """
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except UsageError as error:
        print(f"fpgwot {args.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` closed the pipe: nothing is wrong
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
