"""Running tables of kernels: one native call walks a table, worker threads help by claiming tiles.

A *row* of a table is four 64-bit words: the address of a kernel, of its parameters, how many tiles it has, and the address of a
word to clear before it starts (0: none). Threads take one tile at a time by a compare-and-swap of one word that holds the range of
tiles that nobody has taken of the row under way: the caller takes the first, workers with an even number the last, so that most of
what a thread reads it wrote itself in the row before. (Lines from another core's cache come at a quarter of the speed.) A row is
done when its *tiles* are done, so that a worker which the system has taken off a core never holds back the others; tiles are cut by
shape alone, so that the bits do not depend on who ran them.

The native call returns after a slice of time, so that Python sees signals and deadlines, and is called again to go on. Workers
spin for a moment after a run and then sleep. The pool belongs to the process: who finds it taken runs all tiles itself.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ..operands import fill_in
from .cpus import granted_cpus
from .tiling import architecture

SLICE = 20_000_000  # nanoseconds of a native call, about: it ends with a tile
SPIN = 100_000  # nanoseconds that an idle worker spins before it sleeps
ROW = 4  # words of a row
_HAS_FUTEX = sys.platform == "linux" and architecture() in ("x86_64", "aarch64")

# Words of the pool's memory; those that threads share lie in cache lines of their own.
_WORDS = {"CLAIM": 0, "DONE": 8, "CURRENT": 16, "HELPERS": 24, "WAKE": 32, "SLEEPING": 40, "STOP": 48}
# Words of a run: what to do, how far it has come (all 0 before it starts and after it ended), who helps; PATCHES: the address of
# COUNT triples, a parameter's address, which of the arrays from ARRAYS on it points into, and how many bytes after its start;
# FAULT: 1 if a word that was cleared for its row did not stay so; TIMES: where to write when the run began and each row ended (0:
# nowhere).
_RUN_WORDS = {"TABLE": 0, "ROWS": 1, "AT": 2, "LOW": 3, "HIGH": 4, "POOL": 5, "HELP": 6, "COUNT": 7, "PATCHES": 8, "FAULT": 9,
              "TIMES": 10, "ARRAYS": 16}  # fmt: skip
ARRAYS = _RUN_WORDS["ARRAYS"]
_RUN = """
def kernel(run, tile, ntiles):
    table = param(run, TABLE)
    rows = param(run, ROWS)
    at = param(run, AT)
    low = param(run, LOW)
    high = param(run, HIGH)
    pool = param(run, POOL)
    helpers = param(run, HELP)
    for i in range(param(run, COUNT)):
        patch = param(run, PATCHES) + 24 * i
        st_i64(param(patch, 0), 0, ld_i64(param(run, ARRAYS + param(patch, 1)) + DATA, 0) + param(patch, 2))
    times = param(run, TIMES)
    if at == 0 and high == 0:
        st_i64(run, FAULT, 0)
        if times != 0:
            st_i64(times, 0, nanoseconds())
    until = 0
    late = False
    called = False
    while at < rows and not late:
        row = table + 32 * at
        tiles = param(row, 2)
        if low == high:
            low = 0
            high = tiles
            if param(row, 3) != 0:
                st_i64(param(row, 3), 0, 0)
        if helpers == 0 or tiles == 1:
            while low < high and not late:
                call_kernel(param(row, 0), param(row, 1), low, tiles)
                low += 1
                if low < high or at + 1 < rows:  # to look at the clock takes as long as a small tile
                    now = nanoseconds()
                    until = now + SLICE if until == 0 else until
                    late = now > until
        else:
            if not called:
                called = True
                until = nanoseconds() + SLICE if until == 0 else until
                atomic_store(pool + 8 * HELPERS, helpers)
                atomic_add(pool + 8 * WAKE, 1)
                if atomic_load(pool + 8 * SLEEPING) > 0:
                    wake_all(pool + 8 * WAKE)
            began = high - low
            atomic_store(pool + 8 * CURRENT, row)
            atomic_store(pool + 8 * DONE, 0)
            atomic_store(pool + 8 * CLAIM, high << 32 | low)
            while low < high:
                claim = atomic_load(pool + 8 * CLAIM)
                low = claim & 0xffffffff
                high = claim >> 32
                if low < high:
                    if late:
                        if atomic_swap_if(pool + 8 * CLAIM, claim, 0):
                            break
                    elif atomic_swap_if(pool + 8 * CLAIM, claim, claim + 1):
                        call_kernel(param(row, 0), param(row, 1), low, tiles)
                        atomic_add(pool + 8 * DONE, 1)
                        late = nanoseconds() > until
            spins = 0
            while atomic_load(pool + 8 * DONE) < began - (high - low):
                spins += 1
                if spins < 2000:
                    pause()
                else:
                    give_way()
        if low == high:
            if param(row, 3) != 0:
                if ld_i64(param(row, 3), 0) != 0:
                    st_i64(run, FAULT, 1)
            if times != 0:
                st_i64(times, at + 1, nanoseconds())
            at += 1
    if called:
        atomic_store(pool + 8 * HELPERS, 0)
    done = at == rows
    st_i64(run, AT, 0 if done else at)
    st_i64(run, LOW, 0 if done else low)
    st_i64(run, HIGH, 0 if done else high)
"""
_WORK = """
def kernel(pool, me, spin):
    idle_since = nanoseconds()
    while atomic_load(pool + 8 * STOP) == 0:
        claim = atomic_load(pool + 8 * CLAIM)
        low = claim & 0xffffffff
        high = claim >> 32
        if low < high and me < atomic_load(pool + 8 * HELPERS):
            if atomic_swap_if(pool + 8 * CLAIM, claim, claim + 1 if me & 1 else claim - (1 << 32)):
                row = atomic_load(pool + 8 * CURRENT)
                see_new_code()
                call_kernel(param(row, 0), param(row, 1), low if me & 1 else high - 1, param(row, 2))
                atomic_add(pool + 8 * DONE, 1)
                idle_since = nanoseconds()
        elif nanoseconds() - idle_since < spin:
            pause()
        elif me < atomic_load(pool + 8 * HELPERS):
            give_way()
        else:
            turn = atomic_load(pool + 8 * WAKE)
            atomic_add(pool + 8 * SLEEPING, 1)
            if atomic_load(pool + 8 * HELPERS) <= me and atomic_load(pool + 8 * STOP) == 0:
                sleep_while(pool + 8 * WAKE, turn)
            atomic_add(pool + 8 * SLEEPING, -1)
            idle_since = nanoseconds()
"""


# numpy's C interface fixes that an array object starts with the object header and then the address of its data (PyArrayObject).
_DATA = object.__basicsize__


@functools.cache
def _native(text: str, *types: Any) -> Callable[..., None]:
    from .objects import kernel_address

    return ctypes.CFUNCTYPE(None, *types)(kernel_address(_filled(text)))


def _filled(text: str) -> str:
    return fill_in(text, SLICE=SLICE, DATA=_DATA, **_WORDS, **_RUN_WORDS)


def own_texts() -> list[str]:
    """The kernels that run the others."""
    return [_filled(_RUN), _filled(_WORK)]


class Pool:
    """The worker threads of this process, started when a run first asks for them. Its memory is never freed, since a thread
    may look at it at any time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        raw = np.zeros(64 + 8, np.int64)
        self._words = raw[-(raw.ctypes.data // 8) % 8 :][:64]
        self.address = self._words.ctypes.data
        self.workers = 0

    def helpers(self, threads: int) -> int:
        """How many workers can help a run on so many threads; starts those that are missing."""
        while self.workers < threads - 1:
            args = (_native(_WORK, *[ctypes.c_int64] * 3), self.address, self.workers, SPIN if _may_spin() else 0)
            try:
                threading.Thread(target=_work, args=args, name=f"graphmill-{self.workers}", daemon=True).start()
            except RuntimeError:  # the system gives no more, or the interpreter is ending
                break
            self.workers += 1
        return min(threads - 1, self.workers)


def _work(native: Callable[[int, int, int], None], address: int, me: int, spin: int) -> None:
    native(address, me, spin)


@functools.cache
def _may_spin() -> bool:
    """Spinning eats the quota of a container that has less time than cores."""
    return granted_cpus() >= (os.cpu_count() or 1)


_KEPT: list[Pool] = []
_pool = Pool()


def _after_fork() -> None:
    """A child has none of its parent's threads."""
    global _pool
    _KEPT.append(_pool)
    _pool = Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Schedule:
    """A table of rows (int64 [rows, 4]) that can be run again and again, by one caller at a time."""

    def __init__(self, table: np.ndarray, patches: np.ndarray | None = None):
        """`patches` (int64 [n, 3]) are the addresses of parameters that point into arrays, into which, and how many bytes after its
        start; see `advance`."""
        self.table, self._patches = table, np.zeros((0, 3), np.int64) if patches is None else patches
        self._words = np.zeros(ARRAYS + 1 + self._patches[:, 1].max(initial=0), np.int64)
        self._words[:9] = table.ctypes.data, len(table), 0, 0, 0, 0, 0, 0, self._patches.ctypes.data
        self.view = memoryview(self._words)  # type: ignore[arg-type]  # much faster to read and write than the array
        self._address = self._words.ctypes.data
        # A kernel's other arguments, tile and number of tiles, mean nothing here, and to pass them takes as long as a small kernel.
        self._native = _native(_RUN, ctypes.c_void_p)
        self._divided = bool((table[:, 2] > 1).any())  # otherwise there is nothing to help with

    def run(self, threads: int, between: Callable[[], None] | None = None) -> None:
        """Runs the rows in order, on up to `threads` threads. `between` is called between slices of time and may raise: no thread
        works on the table any more then."""
        self.view[2] = self.view[3] = self.view[4] = 0
        while not self.advance(threads):
            if between is not None:
                between()

    def advance(self, threads: int, patches: int = 0) -> bool:
        """Runs for a slice of time from where the last one ended; whether all is done.

        At its start, so many of the patches are done: parameters get addresses in the data of the arrays whose `id` stands in
        the words of `view` from ARRAYS on.
        """
        view = self.view
        view[7] = patches
        if threads > 1 and self._divided and _HAS_FUTEX and _pool.lock.acquire(blocking=False):
            pool = _pool
            try:
                view[5], view[6] = pool.address, pool.helpers(threads)
                self._native(self._address)
            finally:
                view[6] = 0
                pool.lock.release()
        else:
            self._native(self._address)
        return not (view[2] or view[4])

    @property
    def fault(self) -> bool:
        """Whether a row of the last run left something in the word that was cleared for it."""
        return bool(self.view[9])

    def time_rows(self) -> np.ndarray:
        """From now on each run writes here (int64 [rows + 1]) when it began and when each row ended, in nanoseconds."""
        self._times = np.zeros(len(self.table) + 1, np.int64)
        self.view[10] = self._times.ctypes.data
        return self._times


def call(address: int, params: np.ndarray, tiles: int, threads: int) -> None:
    """Runs all tiles of one kernel."""
    Schedule(np.array([[address, params.ctypes.data, tiles, 0]], np.int64)).run(threads)


def _address_in_object(a: np.ndarray) -> int:
    return ctypes.c_int64.from_address(id(a) + _DATA).value


def _address_by_attribute(a: np.ndarray) -> int:
    return a.ctypes.data


_PROBE = np.arange(3)[1:]
ARRAYS_AS_EXPECTED = _address_in_object(_PROBE) == _PROBE.ctypes.data
address_of = _address_in_object if ARRAYS_AS_EXPECTED else _address_by_attribute
"""The address of an array's first element; several times faster than `a.ctypes.data` where numpy's objects lie as they should."""
