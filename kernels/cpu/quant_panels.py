"""The register-tiled inner kernel of products of bytes, exact in i32: what `quant.py` and `quantized_lstm.py` multiply with.

A number of A is an i16 (a byte less its zero point), one of B an i8, two numbers of the reduction stand side by side in both, so that
one instruction (x86's pmaddwd) multiplies pairs and adds each pair up without rounding or saturation: |255 * -128 * 2| is far
below 2^31. Sums wrap as i32 do. B's bytes are read as they lie, and widened in registers.

A row of A is an i32, the negative sum of its numbers, and then its numbers, padded with 0 to an even count. A panel of B is
a vector of i32 a column, the column's zero point, and then for each pair of k the columns' two bytes, padded with zeros to whole
vectors. The sums start from the product of both heads: that takes B's zero points off. Unsigned bytes of B are stored less 128,
and so are their zero points.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .emitter import Emitter, internal, intrinsic, name_of
from .program import IDENTITY, Place, Program, operand_count, store_tile
from .tiling import host_features, tiling

VECTORS = 2  # of a panel
UNROLL = 1


def panel_columns() -> int:
    """Columns of a panel."""
    return VECTORS * tiling(4).lanes


def tile_rows() -> int:
    """Rows of the largest tile. Tiles of half that and of one row serve what is left; a tile may compute rows past the last."""
    return tiling(4).rows[VECTORS]


def row_pitch(depth: int) -> int:
    """Bytes of a row of A."""
    return 4 * (-(-depth // 2) + 1)


def panel_pitch(depth: int) -> int:
    """Bytes of a panel of B."""
    return panel_columns() * (4 + 2 * -(-depth // 2))


# ---- packing of constants -----------------------------------------------------------------------------------------------


def pack_rows(a: np.ndarray, zeros: np.ndarray | int = 0) -> np.ndarray:
    """A [..., M, K] of bytes, less its rows' zero points [..., M], as rows: i16 [..., M, row_pitch / 2]."""
    *lead, k = a.shape
    out = np.zeros((*lead, row_pitch(k) // 2), np.int16)
    out[..., 2 : 2 + k] = a.astype(np.int16) - np.asarray(zeros, np.int16)[..., None]
    out[..., :2] = np.ascontiguousarray(-out[..., 2:].sum(-1, dtype=np.int32))[..., None].view(np.int16)
    return out


def pack_panels(b: np.ndarray, zeros: np.ndarray | int = 0) -> np.ndarray:
    """B [..., K, N] of bytes with its columns' zero points (that broadcast to [..., N]) as panels: u8 [..., panels, panel_pitch]."""
    *lead, k, n = b.shape
    width, shift = panel_columns(), 128 if b.dtype == np.uint8 else 0
    panels, pairs = -(-n // width), -(-k // 2)
    data = np.zeros((*lead, 2 * pairs, panels * width), np.int8)
    data[..., :k, :n] = (b.astype(np.int16) - shift).astype(np.int8)
    head = np.zeros((*lead, panels * width), np.int32)
    head[..., :n] = np.asarray(zeros).astype(np.int32) - shift
    data = np.moveaxis(data.reshape(*lead, pairs, 2, panels, width), -2, -4).swapaxes(-1, -2)
    parts = head.reshape(*lead, panels, width), np.ascontiguousarray(data).reshape(*lead, panels, -1)
    return np.concatenate([np.ascontiguousarray(p).view(np.uint8).reshape(*lead, panels, -1) for p in parts], -1)


# ---- the microkernel ----------------------------------------------------------------------------------------------------


@functools.cache
def int_panel(lanes: int, program: Program | None = None) -> Any:
    """An intrinsic

        panel(rows, pairs, a, a_pitch, b, c, c_pitch, c_at, ncols, *operands)

    that computes `rows` rows of one panel at `b`; rows of A lie `a_pitch` bytes apart, those of the result `c_pitch`, and its first
    column `c_at` bytes behind `c`. Columns past `ncols` are not written. As many rows behind the last of A as a tile has are read.
    The result is the sums as i32, or what the program makes of them as f32 (see program.py), with the operands "col", "full" and
    "scalar".
    """
    mr = tiling(4).rows[VECTORS]
    arguments = 9 + operand_count(program or IDENTITY)

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, "f32", lanes)
        rows, pairs, a, a_pitch, b, c, c_pitch, *rest = args

        def call(height: int, count: Any, first: Any) -> None:
            tile = internal(e.b.module, name_of("ints", lanes, height, program), arguments + 1, _tile(lanes, height, program))
            moved = [e.b.add(start, e.b.mul(first, pitch)) for start, pitch in ((a, a_pitch), (c, c_pitch))]
            left = e.b.sub(rows, first)
            e.b.call(tile, [left, count, pairs, moved[0], a_pitch, b, moved[1], c_pitch, *rest])

        half, over = mr // 2, e.b.srem(rows, e.int(mr))
        many = e.b.icmp_signed(">", over, e.int(half + 1))  # then another whole tile
        whole = e.b.add(e.b.sdiv(rows, e.int(mr)), e.b.zext(many, e.i64))
        some = e.b.and_(e.b.not_(many), e.b.icmp_signed(">", over, e.int(1)))
        done = e.b.mul(whole, e.int(mr))
        call(mr, whole, e.int(0))
        call(half, e.b.zext(some, e.i64), done)
        one = e.b.or_(e.b.icmp_signed("==", over, e.int(1)), e.b.icmp_signed("==", over, e.int(half + 1)))
        call(1, e.b.zext(one, e.i64), e.b.sub(rows, e.int(1)))

    return intrinsic(name_of("int_panel", lanes, mr, program), arguments, build)


def _tile(lanes: int, mr: int, program: Program | None) -> Callable[[Any, Sequence[Any]], None]:
    """The body of the function that computes `count` tiles of mr rows, of which `rows` are valid."""
    nv = VECTORS

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, "f32", lanes)
        rows, count, pairs, a, a_pitch, b, c, c_pitch, c_at, ncols, *operands = args
        ints = e.ir.VectorType(e.i32, lanes)
        head, bytes_, vector = e.pointer(b), nv * lanes * 2, lanes * 4
        panel = e.at(head, nv * vector)
        blocks, rest = e.b.sdiv(pairs, e.int(UNROLL)), e.b.srem(pairs, e.int(UNROLL))
        # While the tiles of a panel are computed, the next panel is brought near, spread over all of them.
        stride = e.b.sdiv(e.int(bytes_ * UNROLL), e.b.select(e.b.icmp_signed(">", count, e.int(0)), count, e.int(1)))

        def steps(starts: Sequence[Any], n: int) -> Callable[[Any, list], list]:
            def body(_: Any, carried: list) -> list:
                k, bp, ahead, acc = carried[0], carried[1], carried[2], list(carried[3:])
                if n == UNROLL and mr > 1:
                    e.prefetch(ahead)
                    ahead = e.at(ahead, stride)
                here = [e.at(row, k) for row in starts]
                for u in range(n):
                    columns = [_widened(e, e.at(bp, u * bytes_ + j * lanes * 2)) for j in range(nv)]
                    for i in range(mr):
                        pair = e.b.load(e.at(here[i], 4 * u), typ=e.i32, align=4)
                        x = e.b.bitcast(e.spread(pair), columns[0].type)
                        for j in range(nv):
                            acc[i * nv + j] = e.b.add(acc[i * nv + j], pairwise(e, x, columns[j]))
                return [e.b.add(k, e.int(4 * n)), e.at(bp, n * bytes_), ahead, *acc]

            return body

        def tile(index: Any, before: list) -> list:
            first = e.b.mul(index, e.int(mr))
            rows_at = e.at(e.pointer(a), e.b.mul(first, a_pitch))
            starts = [e.at(rows_at, e.b.mul(a_pitch, e.int(i))) for i in range(mr)]
            zeros = [e.b.load(e.at(head, j * vector), typ=ints, align=4) for j in range(nv)]
            totals = [e.spread(e.b.load(row, typ=e.i32, align=4)) for row in starts]
            acc = [e.b.mul(total, zero) for total in totals for zero in zeros]
            carried = e.loop(blocks, [e.int(4), panel, *before, *acc], steps(starts, UNROLL))
            _, _, ahead, *acc = e.loop(rest, carried, steps(starts, 1))
            flat = [e.b.bitcast(x, e.type.llvm) if program is None else e.b.sitofp(x, e.type.llvm) for x in acc]
            _store(e, program or IDENTITY, flat, [e.pointer(c), c_pitch, first, rows], c_at, ncols, operands)
            return [ahead]

        e.loop(count, [e.at(panel, e.b.mul(pairs, e.int(bytes_)))], tile)

    return build


def _store(e: Emitter, program: Program, flat: list, to: Sequence[Any], c_at: Any, ncols: Any, operands: Sequence[Any]) -> None:
    """Stores a tile. Rows past the last one go where the last one goes, in front of it."""
    c, pitch, first, rows = to
    last = e.b.sub(rows, e.int(1))
    mr = len(flat) // VECTORS
    backwards = [x for i in reversed(range(mr)) for x in flat[i * VECTORS : (i + 1) * VECTORS]]

    def row(i: Any) -> Any:
        at = e.b.sub(e.b.add(first, e.int(mr - 1)), e.int(i) if isinstance(i, int) else i)
        at = e.b.select(e.b.icmp_signed("<", at, last), at, last)
        return e.at(c, e.b.mul(at, pitch))

    store_tile(e, program, backwards, VECTORS, Place(row, None, c_at, ncols, operands))


def _widened(e: Emitter, pointer: Any) -> Any:
    """Pairs of bytes for a vector of columns, as i16."""
    raw = e.b.load(pointer, typ=e.ir.VectorType(e.i8, 2 * e.lanes), align=1)
    return e.b.sext(raw, e.ir.VectorType(e.half, 2 * e.lanes))


def pairwise(e: Emitter, x: Any, y: Any) -> Any:
    """x[2i] * y[2i] + x[2i + 1] * y[2i + 1] of i16, as i32."""
    result = e.ir.VectorType(e.i32, e.lanes)
    have = host_features()
    if e.lanes == 8 and "avx2" in have:
        return e.call("llvm.x86.avx2.pmadd.wd", result, [x, y])
    if e.lanes == 16 and "avx512bw" in have:
        return e.call("llvm.x86.avx512.pmaddw.d.512", result, [x, y])
    halves = []
    for start in (0, 1):
        order = e.ir.Constant(result, list(range(start, 2 * e.lanes, 2)))
        wide = [e.b.sext(e.b.shuffle_vector(v, v, order), result) for v in (x, y)]
        halves.append(e.b.mul(*wide))
    return e.b.add(*halves)
