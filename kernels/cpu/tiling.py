"""How wide vectors and how high the tiles of products are, from the features of the CPU."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """How wide a vector is, in elements, and how many rows a tile of 1, 2 and 3 vectors has (`rows[nv]`)."""

    lanes: int
    rows: tuple[int, int, int, int]

    def widths(self, n: int) -> tuple[int, int, int]:
        """How many panels of 3, 2 and 1 vectors cover n columns, in this order, with the least padding."""
        vectors = -(-n // self.lanes)
        if vectors == 1:
            return 0, 0, 1
        mid = (-vectors) % 3  # 3a + 2b: b = 0, 1 or 2
        return (vectors - 2 * mid) // 3, mid, 0

    def padded(self, n: int) -> int:
        """n rounded up to whole vectors."""
        return -(-n // self.lanes) * self.lanes


@functools.cache
def architecture() -> str:
    """x86_64, aarch64 or another machine's name; systems spell these two differently."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@functools.cache
def host_features() -> frozenset[str]:
    """The CPU features to compile for: this host's, unless the environment says others. Asked for are avx2, avx512f, avx512vl, f16c
    and fma, which Linux and LLVM spell alike, and nothing of machines other than x86; what only inspects a model need not import
    LLVM."""
    given = os.environ.get("GRAPHMILL_CPU_FEATURES")
    if given:
        return frozenset(f[1:] for f in given.split(",") if f.startswith("+"))
    if architecture() != "x86_64":
        return frozenset()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            flags = next((line.partition(":")[2].split() for line in f if line.startswith("flags")), [])
    except OSError:
        flags = []
    if flags:
        return frozenset(flags)
    import llvmlite.binding as llvm

    return frozenset(name for name, have in llvm.get_host_cpu_features().items() if have)


def converts_half() -> bool:
    """Whether the CPU has instructions between f16 and f32, as every aarch64 has."""
    return architecture() == "aarch64" or "f16c" in host_features()


def fuses_products() -> bool:
    """Whether the CPU rounds a product and a sum once, at the cost of one: elsewhere LLVM's fmuladd rounds twice."""
    return architecture() == "aarch64" or "fma" in host_features()


@functools.cache
def vector_bits() -> int:
    """How wide vectors are: what the environment says, else as wide as the registers with which the CPU is fastest."""
    given = os.environ.get("GRAPHMILL_VECTOR_BITS")
    if given:
        if given not in ("128", "256", "512"):
            raise ValueError(f"GRAPHMILL_VECTOR_BITS is {given!r}; expected 128, 256 or 512")
        return int(given)
    have = host_features()
    return 512 if {"avx512f", "avx512vl"} <= have else 256 if {"avx2", "fma"} <= have else 128


@functools.cache
def tiling(item: int) -> Tiling:
    """The tiling for floats of `item` bytes on this host.

    4x3, 6x2 and 8x1 fill 16 registers, 8x3 fills 32. aarch64 multiplies by an element of a register, not by one in memory, so
    that each row takes one more: 6x3 is what fits there.
    """
    bits = vector_bits()
    if architecture() == "aarch64":
        rows = (0, 8, 8, 6)
    elif bits == 512 or {"avx512f", "avx512vl"} <= host_features():
        rows = (0, 8, 8, 8)
    else:
        rows = (0, 8, 6, 4)
    return Tiling(bits // (8 * item), rows)
