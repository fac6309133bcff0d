"""Run Python under a sanitizer's runtime, which must be loaded before anything else: a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
RUNTIMES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",), "plain": (), "coverage": ()}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:exitcode=99",  # Python leaks at exit by design
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=99",
    "TSAN_OPTIONS": "exitcode=99:halt_on_error=1:report_signal_unsafe=0",
}


def runtime(name: str) -> str:
    """Path of a runtime library of g++, empty where it is not installed."""
    done = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = done.stdout.strip()
    return str(Path(path).resolve()) if "/" in path else ""


def run(flavour: str, arguments: list[str], timeout: float = 300.0, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python arguments...` from the root of the tree, with the runtime of `flavour` loaded; exit status 99 is a finding."""
    env = {**os.environ, **OPTIONS, "EMULATOR_FLAVOUR": flavour, **environment}
    env["PYTHONPATH"] = os.pathsep.join((str(TESTS), str(TESTS.parent)))
    libraries = [runtime(name) for name in RUNTIMES[flavour]]
    if libraries:
        env["LD_PRELOAD"] = " ".join(libraries)
    command = [sys.executable, *arguments]
    if flavour == "thread":  # its shadow memory does not fit every random layout of the addresses
        command = ["setarch", platform.machine(), "-R", *command]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout, check=False, cwd=TESTS.parent)
