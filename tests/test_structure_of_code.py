"""Rules of the source that no run would notice: who imports whom, what an import loads, who prints."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import fpgwot

ROOT = Path(fpgwot.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(name: str, tree: ast.Module) -> list[tuple[str, bool]]:
    """Every import as (dotted name from the top, whether it is made at import time of the file)."""
    package = ("fpgwot/" + name).split("/")[:-1]
    lazy = {id(x) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for x in ast.walk(f)}
    lazy |= {
        id(x) for f in ast.walk(tree) if isinstance(f, ast.If) and "TYPE_CHECKING" in ast.unparse(f.test) for x in ast.walk(f)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                inside = [*base, alias.name]
                known = base[:1] == ["fpgwot"] and any("/".join(inside[1:]) + end in TREES for end in (".py", "/__init__.py"))
                found.append((".".join(inside if known or base == ["fpgwot"] else base), id(node) not in lazy))
    return found


IMPORTS = {name: imports(name, tree) for name, tree in TREES.items()}

# Who may import what of the package. A file not named here may import nothing of it.
PUBLIC = ("api", "_batch", "result", "_version", "_info", "_read", "_audit", "plot", "gromov", "temporal", "structure")
PUBLIC += ("marginals", "presets", "_dispatch", "_pairwise", "_warmup", "_accelerate")
ALLOWED = {
    "__init__.py": PUBLIC,
    "api.py": (
        "_direct",
        "_dispatch",
        "_validate",
        "_feasible",
        "_solvers",
        "result",
        "_version",
        "_finish",
        "_audit",
        "_problem",
        "structure",
        "_backends._protocol",
    ),
    "_batch.py": ("_dispatch", "_finish", "_solvers._loop", "api", "result", "structure"),
    "_feasible.py": ("_dispatch", "_validate", "_solvers", "_backends._protocol"),
    "_direct.py": ("_dispatch", "_finish", "_version", "result"),
    "_finish.py": ("_dispatch", "_validate", "_solvers._outcome", "_problem", "result", "_version"),
    "_audit.py": ("_dispatch", "_validate", "_problem", "result", "structure", "api"),
    "presets.py": PUBLIC,
    "_dispatch.py": ("_backends",),
    "_validate.py": ("_problem", "structure", "marginals", "_backends._protocol"),
    "_problem.py": ("structure", "marginals", "_backends._protocol"),
    "result.py": ("plot",),
    "cli.py": PUBLIC,
    "__main__.py": ("cli", "_accelerate"),
    "_accelerate.py": ("gromov",),
    "plot.py": ("result", "api"),
    "_pairwise.py": ("api", "_batch", "result", "structure", "_dispatch"),
    "_warmup.py": ("api", "structure", "_backends"),
    "_sensitivity.py": ("structure", "marginals"),
    "_info.py": ("_version", "_dispatch"),
    "_read.py": (),
    "nulls.py": ("api",),
    "keysteps.py": ("api", "presets", "temporal", "step_order"),
}
for _name in TREES:
    if _name.startswith("nn/"):
        ALLOWED[_name] = (*PUBLIC, "_sensitivity", "_finish", "nn")
    elif _name.startswith("temporal/"):
        ALLOWED[_name] = ("temporal",)
    elif _name.startswith("structure/"):
        ALLOWED[_name] = ("structure", "_backends.numpy_whole")
    elif _name.startswith("gromov/"):
        ALLOWED[_name] = PUBLIC
    elif _name.startswith("_solvers/"):
        ALLOWED[_name] = ("_problem", "result", "marginals", "structure", "_backends._protocol", "_backends.inner", "_solvers")
    elif _name.startswith("_backends/") and _name.count("/") == 1:
        ALLOWED[_name] = ("_backends",)
    elif _name.startswith(
        "_backends/"
    ):  # a backend sees the protocol and what stands beside it, never another backend; plain reads of whole matrices are shared
        _own = "_backends." + _name.split("/")[1]
        ALLOWED[_name] = (_own, "_backends._protocol", "_backends.inner", "_backends.numpy_whole", "_backends.aligned")

# Who may import a heavy or optional library at all; `_info` tells their versions
HEAVY = {
    "matplotlib": ("plot.py", "_info.py"),
    "torch": ("nn/", "_info.py"),
    "ot": ("_backends/network_simplex.py", "_info.py", "gromov/", "_accelerate.py"),
    "numba": ("_backends/numba_cpu/", "_info.py"),
    "cupy": ("_backends/cupy_gpu/", "_info.py"),
    "pandas": ("result.py", "_pairwise.py"),
    "tqdm": ("cli.py", "_pairwise.py"),
    "joblib": ("_pairwise.py",),
    "maxflow": ("keysteps.py",),
}


@pytest.mark.parametrize("name", TREES)
def test_imports_inside_the_package(name):
    allowed = ALLOWED.get(name, ())
    for module, _ in IMPORTS[name]:
        if module.split(".")[0] == "fpgwot":
            inside = module.removeprefix("fpgwot").lstrip(".")
            assert any(inside == x or inside.startswith(x + ".") for x in allowed), f"{name} may not import {module}"


@pytest.mark.parametrize("name", TREES)
def test_imports_of_libraries(name):
    known = {"numpy", "scipy", "fpgwot", "__future__", *HEAVY}
    for module, at_import in IMPORTS[name]:
        root = module.split(".")[0]
        if root in HEAVY:
            assert name.startswith(HEAVY[root]), f"{name} may not import {root}"
        elif root == "scipy":
            assert not at_import or name.startswith(("_backends/", "plot.py")), f"{name} must import {module} inside a function"
        else:
            assert root in known or root in sys.stdlib_module_names, f"{name} imports {root}, which is not a dependency"


def test_the_reader_of_imports_sees_a_forbidden_one():
    """These tests can fail: relative, absolute and lazy forms are all resolved."""
    source = "from ..api import solve\nfrom .. import plot\nimport fpgwot.cli\ndef f():\n    import ot"
    found = imports("_solvers/x.py", ast.parse(source))
    assert found[:3] == [("fpgwot.api", True), ("fpgwot.plot", True), ("fpgwot.cli", True)]
    assert found[-1] == ("ot", False)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return done.stdout


def test_importing_the_package_loads_numpy_only():
    code = "import sys, fpgwot; print(*sorted({x.split('.')[0] for x in sys.modules}))"
    loaded = set(run(code).split())
    assert "fpgwot" in loaded
    assert not loaded & {"numba", "llvmlite", "ot", "scipy", "matplotlib", "torch", "cupy", "pandas", "tqdm", "joblib"}


def test_importing_the_package_is_quick():
    code = "import time, numpy; a = time.perf_counter(); import fpgwot; print(time.perf_counter() - a)"
    assert min(float(run(code)) for _ in range(3)) < 0.3


def test_a_numpy_solve_loads_no_optional_library():
    code = "import sys, fpgwot; fpgwot.solve([[1., 2.], [2., 1.]], reg=.1, backend='numpy'); print(*sys.modules)"
    loaded = {x.split(".")[0] for x in run(code).split()}
    assert not loaded & {"numba", "matplotlib", "torch", "cupy", "pandas"}


@pytest.mark.parametrize("name", TREES)
def test_no_print_and_no_bare_except(name):
    for node in ast.walk(TREES[name]):
        forbidden = ("print", "breakpoint", "eval", "exec")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in forbidden:
            assert name == "cli.py" and node.func.id == "print", f"{name}:{node.lineno} calls {node.func.id}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}:{node.lineno} has a bare except"
        if isinstance(node, ast.Assert):
            # an assert is for the reader and the type checker: never the check of an input
            assert not name.startswith(("_validate.py", "_dispatch.py")), f"{name}:{node.lineno} asserts"


@pytest.mark.parametrize("name", TREES)
def test_every_public_function_has_a_docstring(name):
    tree = TREES[name]
    assert ast.get_docstring(tree) or not tree.body, f"{name} has no docstring"
    if name.startswith("_"):
        return
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}:{node.lineno} {node.name} has no docstring"


DOCTESTS = ["api", "result", "structure/temporal", "structure/recognition", "marginals", "plot", "_audit", "_accelerate"]


@pytest.mark.parametrize("name", DOCTESTS)
def test_doctests(name):
    if f"{name}.py" not in TREES:
        pytest.skip("not in this version")
    module = importlib.import_module(f"fpgwot.{name.replace('/', '.')}")
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert found.failed == 0
    assert found.attempted > 0 or name not in ("api", "structure/temporal", "structure/recognition")
