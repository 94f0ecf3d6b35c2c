"""Names of the prelude that rearrange elements between vectors (see vector.py).

transpose_T(src, src_pitch, dst, dst_pitch)   T = u8, u16, u32, u64: dst[i][j] = src[j][i] for 16 / sizeof(T) rows of the
                                              destination and 32 / sizeof(T) of the source; pitches are bytes
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .emit import Val
from .values import I64, Intrinsic

_I64, _I32, _PTR = ir.IntType(64), ir.IntType(32), ir.PointerType()


def _transpose(bits: int) -> Any:
    """Rows of 128 bits, paired to 256, go through rounds of unpacking inside each half: the cheap shuffles of AVX2."""
    n = 128 // bits
    elem = ir.IntType(bits)

    def mask(picks: list[int]) -> ir.Constant:
        return ir.Constant(ir.VectorType(_I32, len(picks)), picks)

    both = mask(list(range(2 * n)))
    parts = range(n // 2), range(n // 2, n)
    unpack = [mask([half * n + k + o for half in range(2) for k in part for o in (0, 2 * n)]) for part in parts]

    def emit(b: ir.IRBuilder, args: list[Val]) -> None:
        src, src_pitch, dst, dst_pitch = (a.v for a in args)

        def at(base: Any, pitch: Any, row: int) -> Any:
            return b.inttoptr(b.add(base, b.mul(pitch, ir.Constant(_I64, row))), _PTR)

        def load(row: int) -> Any:
            return b.load(at(src, src_pitch, row), typ=ir.VectorType(elem, n), align=bits // 8)

        rows = [b.shuffle_vector(load(j), load(j + n), both) for j in range(n)]
        for _ in range(n.bit_length() - 1):
            rows = [b.shuffle_vector(rows[i], rows[i + n // 2], m) for i in range(n // 2) for m in unpack]
        for i, row in enumerate(rows):
            b.store(row, at(dst, dst_pitch, i), align=bits // 8)

    return Intrinsic(f"transpose_u{bits}", lambda src, src_pitch, dst, dst_pitch: (I64,) * 4, emit)


transpose_u8, transpose_u16, transpose_u32, transpose_u64 = (_transpose(n) for n in (8, 16, 32, 64))
