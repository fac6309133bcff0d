"""POT's own tests on our functions: FPGWOT_POT_TESTS=path/to/POT/test pytest tests/pot_conformance (skipped without it)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = [
    ("gromov/test_gw.py", ""),
    ("gromov/test_bregman.py", ""),
    ("gromov/test_partial.py", ""),
    ("gromov/test_semirelaxed.py", ""),
    ("gromov/test_utils.py", ""),
    ("test_solvers.py", "gromov"),
    ("test_partial.py", "gromov"),  # the deprecated names
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "only"), FILES)
def test_own_tests_of_pot(name, only):
    folder = os.environ.get("FPGWOT_POT_TESTS")
    if not folder:
        pytest.skip("set FPGWOT_POT_TESTS to the test folder of a POT checkout")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"{name} is not in that folder")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "plugin", "-p", "no:cacheprovider", "--rootdir", folder]
    command += ["--confcutdir", folder, "-c", os.devnull, str(path), *(["-k", only] if only else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=folder)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
