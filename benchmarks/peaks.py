"""What one core of this machine can do at most: fused multiply-adds in registers, bytes read and copied.

The loops are kernels of graphmill's own generator, so that they are as wide as the host's vectors.
"""

from __future__ import annotations

import time

import numpy as np
from graphmill.engine.memory import aligned
from graphmill.kernels.cpu import launch
from graphmill.kernels.cpu.objects import kernel_address

CHAINS = 12  # that do not depend on each other: two units of a latency of up to 5, and a spare pair
REPEATS = 9
CACHE, MEMORY = 1 << 18, 1 << 28  # bytes that stay in the second-level cache, and that fit into none


def _chains(line: str, count: int = CHAINS) -> str:
    return "\n".join(line.replace("@", str(k)) for k in range(count))


_FMA = f"""
def kernel(p, tile, ntiles):
    x = ldv_f32(param(p, 0), 0)
    y = ldv_f32(param(p, 0), LANES)
{_chains("    s@ = ldv_f32(param(p, 0), @)")}
    for i in range(param(p, 1)):
{_chains("        s@ = fma(s@, x, y)")}
{_chains("    stv_f32(param(p, 0), 32 + @ * LANES, s@)")}
"""
_READ = f"""
def kernel(p, tile, ntiles):
    x = param(p, 0)
{_chains("    s@ = splat(f32(0))", 8)}
    for i in range(0, param(p, 1), 8 * LANES):
{_chains("        s@ = add(s@, ldv_f32(x, i + @ * LANES))", 8)}
{_chains("    st_f32(param(p, 2), @, hsum(s@))", 8)}
"""
_TRIAD = """
def kernel(p, tile, ntiles):
    for i in range(0, param(p, 3), LANES):
        stv_f32(param(p, 0), i, fma(ldv_f32(param(p, 1), i), splat(f32(3)), ldv_f32(param(p, 2), i)))
"""


def _seconds(text: str, *parameters: np.ndarray | int) -> float:
    """CPU seconds of one call, the best of several."""
    params = np.array([p.ctypes.data if isinstance(p, np.ndarray) else p for p in parameters], np.int64)
    schedule = launch.Schedule(np.array([[kernel_address(text), params.ctypes.data, 1, 0]], np.int64))
    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        schedule.run(1)
        best = min(best, time.process_time() - started)
    return best


def fma() -> float:
    """GFLOP/s of one thread that does nothing but multiply and add in registers."""
    from graphmill.kernels.cpu.vector import LANES

    n, x = 4_000_000, aligned((32 + (CHAINS + 2) * LANES,), np.dtype("f4"))
    x[:] = 0.5
    return 2 * CHAINS * LANES * n / _seconds(_FMA, x, n) / 1e9


def read(nbytes: int) -> float:
    """GB/s of one thread that adds up an array of so many bytes, again and again."""
    x, out = aligned((nbytes // 4,), np.dtype("f4")), aligned((8,), np.dtype("f4"))
    x[:] = 0
    passes = max(1, (1 << 26) // nbytes)
    text = _READ if passes == 1 else _READ.replace("    for i in", "    for again in range(param(p, 3)):\n     for i in")
    return passes * nbytes / _seconds(text, x, nbytes // 4, out, passes) / 1e9


def triad(nbytes: int = MEMORY) -> float:
    """GB/s of a = 3 b + c over so many bytes, as STREAM counts them (what a cache reads before it writes is not counted)."""
    a, b, c = (aligned((nbytes // 12 // 256 * 256,), np.dtype("f4")) for _ in range(3))
    for x in (a, b, c):
        x[:] = 1
    return 3 * a.nbytes / _seconds(_TRIAD, a, b, c, a.size) / 1e9


def measure() -> dict[str, float]:
    """All of these: GFLOP/s under `fma`, GB/s under the others."""
    return {"fma": fma(), "memory": read(MEMORY), "cache": read(CACHE), "triad": triad()}
