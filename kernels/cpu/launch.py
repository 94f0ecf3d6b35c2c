"""Running the tiles of a kernel, on one thread or several."""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# void launch(kernel, params, first, last, ntiles): runs the tiles [first, last). One call from Python for all of them.
_LAUNCH = """
define void @gm_launch(i64 %kernel, i64 %params, i64 %first, i64 %last, i64 %tiles) {
entry:
  %fn = inttoptr i64 %kernel to ptr
  %any = icmp slt i64 %first, %last
  br i1 %any, label %loop, label %done
loop:
  %tile = phi i64 [ %first, %entry ], [ %next, %loop ]
  call void %fn(i64 %params, i64 %tile, i64 %tiles)
  %next = add i64 %tile, 1
  %more = icmp slt i64 %next, %last
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


@functools.cache
def _launcher() -> ctypes._CFuncPtr:
    import llvmlite.binding as llvm

    from . import objects

    with objects._lock:
        engine = objects._engine()
        engine.add_module(llvm.parse_assembly(_LAUNCH))
        engine.finalize_object()
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)(engine.get_function_address("gm_launch"))


_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def _workers() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(thread_name_prefix="graphmill")
        return _pool


def call(address: int, params: np.ndarray, tiles: int, threads: int) -> None:
    """Runs all tiles of the kernel at `address` on up to `threads` threads; the bits do not depend on how many."""
    launch, p = _launcher(), params.ctypes.data
    shares = min(threads, tiles)
    if shares <= 1:
        launch(address, p, 0, tiles, tiles)
        return
    cuts = [tiles * i // shares for i in range(shares + 1)]
    others = [_workers().submit(launch, address, p, a, b, tiles) for a, b in itertools.pairwise(cuts[1:])]
    launch(address, p, 0, cuts[1], tiles)
    for f in others:
        f.result()
