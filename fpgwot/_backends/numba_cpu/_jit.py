"""How kernels are compiled: one fast-math set, a cache on disk where one can be written, a serial and a parallel form.

Compiling is what a first call waits for, so nothing is compiled that has not been earned: the parallel form of a kernel, and the
loops that the interpreter can run as well (`Deferred`).

A kernel is written once, with `prange` over work items whose partial sums it adds in a fixed order, so its result does not
depend on the number of threads. Its serial form is used for little work (a parallel region costs 10-20 us), inside another
thread's call (not every Numba threading layer may be entered twice), and in a forked child (OpenMP does not survive a fork).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numba import get_num_threads, njit, set_num_threads
from numba.core import event

from ..inner import bound

# not "nnan", "ninf": infinite caps and prices are meant; not "reassoc": `elementary.add` says which sums may be reordered
FASTMATH = {"nsz", "arcp", "contract", "afn"}

EARNED_AFTER = 2.0  # seconds of work that earn the parallel form of a kernel
PRICE = 0.25  # the same for each plain function: about what compiling it takes

_entered = threading.Lock()
_forked = False


def _after_fork() -> None:
    global _forked, _entered
    _forked, _entered = True, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _version_of_sources() -> str:
    """Numba's cache looks at the file of a function only; this tells apart kernels whose helpers in other files differ."""
    here = Path(__file__).parent
    files = [*sorted(here.glob("*.py")), here.parent / "inner.py", here.parent / "_protocol.py"]
    return hashlib.sha1(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]


_SOURCES = _version_of_sources()


_njit: Any = njit  # its stub does not know all of its options
_OPTIONS = {"fastmath": FASTMATH, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


class _Compiling(event.Listener):
    """Our functions being compiled: without garbage collection, which looks at millions of objects, a tenth of the time."""

    def __init__(self) -> None:
        self.seconds = 0.0  # so far
        self._depth, self._begin, self._collects = 0, 0.0, False

    def on_start(self, event: Any) -> None:
        if not self._depth:
            if not str(event.data["dispatcher"].py_func.__module__).startswith(_PACKAGE):  # None: made by exec
                return
            self._begin, self._collects = time.perf_counter(), gc.isenabled()
            gc.disable()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        if self._depth:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.perf_counter() - self._begin
                if self._collects:
                    gc.enable()


_PACKAGE = __name__.partition(".")[0] + "."
_compiling = _Compiling()
event.register("numba:compile", _compiling)


def _compile(function: Callable[..., Any], **options: Any) -> Any:
    function.__qualname__ += "_" + _SOURCES
    options = {**_OPTIONS, **options}
    try:
        return _njit(cache=True, **options)(function)
    except RuntimeError:  # Numba found no folder to write to: compile in each process
        return _njit(**options)(function)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel without a parallel form, which kernels may call too.

    It is inlined without asking there. Else each kernel carries a copy that was optimised with it, and the loader takes whichever
    copy came first: then a kernel compiled in this process and the same one out of the cache round differently.
    """
    return _compile(function, forceinline=True)


class Deferred:
    """Code between kernels: `interpreted` until the seconds spent there have earned its `compiled` form, or that is on disk.

    Both round alike, so nothing depends on which of them runs.
    """

    AT_ONCE = False

    def __init__(self, compiled: Any, interpreted: Callable[..., Any], earned: float) -> None:
        self.__doc__, self.__name__ = interpreted.__doc__, interpreted.__name__
        self.compiled, self.interpreted, self._price = compiled, interpreted, earned
        self._spent, self._is_earned = 0.0, False

    def __call__(self, *args: Any) -> Any:
        if not self._is_earned:
            known = self._spent == 0.0 and _is_on_disk(self.compiled)
            self._is_earned = known or self._spent >= self._price or self.AT_ONCE
        if self._is_earned:
            return self.compiled(*args)
        start = time.perf_counter() - _compiling.seconds
        with np.errstate(all="ignore"):
            result = self.interpreted(*args)
        self._spent += time.perf_counter() - _compiling.seconds - start
        return result


def deferred(function: Callable[..., Any], earned: float, suffix: str) -> Deferred:
    """A function that calls kernels, compiled after so many seconds of it. One for each kind of arguments, told by a suffix:
    the file of one says nothing of the other."""
    return Deferred(_compile(bound(function, suffix), forceinline=True, fastmath=False), function, earned)


def _strict(function: Callable[..., Any], **names: Any) -> Any:
    """Compiled to round as the interpreter does."""
    return _compile(bound(function, "_strict", **names), forceinline=True, fastmath=False)


_strict_helper = functools.cache(_strict)


def compiled(function: Callable[..., Any], *helpers: Callable[..., Any]) -> Callable[..., Any]:
    """Plain code over a few numbers, and the plain functions that it calls."""
    price = PRICE * (1 + len(helpers))
    return Deferred(_strict(function, **{f.__name__: _strict_helper(f) for f in helpers}), function, price)


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that kernels alone call: inlined, kept on disk as a part of them only, and without a form for Python."""
    return _njit(**_OPTIONS, forceinline=True, no_cpython_wrapper=True)(function)


@helper
def copy(x, out):  # type: ignore[no-untyped-def]
    """out[:] = x for vectors of one length. Numba's own assignment builds its error message first: 3 s to compile."""
    for k in range(len(out)):
        out[k] = x[k]


@contextlib.contextmanager
def nothing_deferred() -> Iterator[None]:
    """What the interpreter could run is compiled at once."""
    before, Deferred.AT_ONCE = Deferred.AT_ONCE, True
    try:
        yield
    finally:
        Deferred.AT_ONCE = before


@contextlib.contextmanager
def both_forms() -> Iterator[None]:
    """Parallel forms are compiled at once, and at any size."""
    before = Kernel.EARNED, Kernel.PARALLEL_FROM, Rare.WANTED
    Kernel.EARNED, Kernel.PARALLEL_FROM, Rare.WANTED = 0.0, 1, True
    try:
        yield
    finally:
        Kernel.EARNED, Kernel.PARALLEL_FROM, Rare.WANTED = before


def _is_on_disk(dispatcher: Any) -> bool:
    """Whether the function was compiled before, for this processor and this installation: an image may have been made elsewhere.

    False where Numba keeps that from us.
    """
    try:
        index, here = dispatcher._cache._cache_file._load_index(), dispatcher.targetctx.codegen().magic_tuple()
        return any(key[1] == here for key in index)
    except (AttributeError, LookupError, TypeError, OSError):
        return False


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Serial kernels in this thread, where other workers have the other cores."""
    before = get_num_threads()
    set_num_threads(1)
    try:
        yield
    finally:
        set_num_threads(before)


class _Choice:
    """Which form calls of about one size take: the faster one. The other gets a new chance, ever more rarely."""

    PATIENCE, LONGEST = 8, 2048  # calls until the slower form is tried again; doubled each time it stays slower

    def __init__(self) -> None:
        self.cost, self.calls = [0.0, 0.0], [0, 0]  # mean seconds per unit of work, serial and parallel; 0: not known
        self.wait, self.patience = 0, self.PATIENCE

    def better(self) -> int:
        return int(self.cost[1] <= self.cost[0])

    def form(self) -> int:
        serial, parallel = self.cost
        if not (serial and parallel):
            return 0 if parallel else 1
        if self.calls[slower := 1 - self.better()] == 1:
            return slower  # one call says little: the first may write to fresh memory, or wake threads
        self.wait += 1
        if self.wait < self.patience:
            return self.better()
        self.wait, self.patience = 0, min(2 * self.patience, self.LONGEST)
        return 1 - self.better()

    def record(self, form: int, cost: float) -> None:
        """A running mean, after the better of the first two calls: what a form will cost, not what it can.

        Threads of another library that spin make parallel calls twenty times as long, by turns. A single pause counts little,
        and a form that was slower when it was last tried is not held to that for long: it is tried rarely.
        """
        before, old, known = self.better(), self.cost[form], self.calls[form]
        share = 0.3 if form != before and cost < old else 0.1
        self.cost[form] = cost if known == 0 else min(old, cost) if known == 1 else old + share * (min(cost, 4 * old) - old)
        self.calls[form] = known + 1
        if self.better() != before:
            self.patience = max(self.PATIENCE, self.patience // 2)


class Kernel:
    """`kernel(work, *args)`: the parallel form where `work`, about the number of entries read, is worth it.

    On a busy machine threads that wait for each other can cost 10 to 50 times what they save, and what is in the cache gains
    more or less from a second thread than what is not. So both forms are timed, for each size of work by itself.

    The parallel form takes seconds to compile. Unless an earlier process left it on disk, it has to be earned: by as many seconds
    in the serial form, in calls that are large enough for threads.
    """

    PARALLEL_FROM = 60_000
    EARNED = EARNED_AFTER

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        # Numba's cache is keyed by name and does not know the options: the two forms need two names
        twin = bound(function, "_parallel")
        self.serial, self.parallel = _compile(function), _compile(twin, parallel=True)
        self._choices: dict[int, _Choice] = {}  # by the number of binary digits of the work
        self._spent, self._is_earned = 0.0, False

    def __call__(self, work: int, *args: Any) -> Any:
        if work < self.PARALLEL_FROM or _forked or get_num_threads() == 1:
            return self.serial(*args)
        choice = self._choices.setdefault(int(work).bit_length(), _Choice())
        form = choice.form() if self._is_earned or self._earn() else 0
        if form and not _entered.acquire(blocking=False):
            return self.serial(*args)
        run = self.parallel if form else self.serial
        known = len(run.overloads)
        start = time.perf_counter()
        try:
            result = run(*args)
        finally:
            if form:
                _entered.release()
        seconds = time.perf_counter() - start
        if len(run.overloads) == known:  # nothing was compiled or loaded, which takes longer than any call
            choice.record(form, seconds / work)
            self._spent += seconds
        return result

    def _earn(self) -> bool:
        """Whether it is time for the parallel form."""
        if self._spent == 0.0 and _is_on_disk(self.parallel):
            self._is_earned = True
        self._is_earned |= self._spent >= self.EARNED
        return self._is_earned


kernel = Kernel


class Rare:
    """A function with a parallel form only, which takes half a minute or more to compile: `warmup` does it, or long use.

    `rare(otherwise, *args)` calls `otherwise` where it is not there, and where threads must not be started.
    """

    WANTED = False
    EARNED = 120.0  # seconds in the other way, half of which this one would have saved

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        self.parallel = _compile(function, parallel=True)
        self._spent, self._is_there = 0.0, False

    def __call__(self, otherwise: Callable[[], Any], *args: Any) -> Any:
        if _forked or get_num_threads() == 1:
            return otherwise()
        if not self._is_there:
            known = self._spent == 0.0 and _is_on_disk(self.parallel)
            self._is_there = self.WANTED or known or self._spent >= self.EARNED
        if not self._is_there:
            start = time.perf_counter() - _compiling.seconds
            result = otherwise()
            self._spent += time.perf_counter() - _compiling.seconds - start
            return result
        if not _entered.acquire(blocking=False):
            return otherwise()
        try:
            return self.parallel(*args)
        finally:
            _entered.release()
