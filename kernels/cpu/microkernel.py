"""The register-tiled inner kernels of GEMM and convolutions, emitted as LLVM code inside intrinsics.

A tile of MR rows by NV vectors is held in registers while the products are summed: `acc[i, j] += a[row i, k] * b[k, j]`. Rows are
found through a table of addresses, one for each (segment, row), so that one kernel serves GEMM (one segment), convolution (a
segment of C numbers for each tap) and transposed convolution; columns come from a *panel* of B, packed K by NV vectors and padded
with zeros. The sum runs through all segments in order, then the epilogue (see program.py) is applied in registers and the
tile is stored; columns past `ncols` are neither read nor written. f16 and bf16 are computed in f32 and exist only in what the
epilogue reads and stores.

The tile's height, its width and the vector width follow from the host's features (see tiling.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .emitter import Emitter, internal, intrinsic, name_of
from .program import IDENTITY, Place, Program, operand_count, store_tile

UNROLL = 8
AHEAD = 3  # cache lines of the next panel that are asked for in UNROLL steps: all of it while four tiles are computed


@functools.cache
def gemm_panel(memory: str, lanes: int, mr: int, nv: int, program: Program = IDENTITY, staged: bool = False) -> Any:
    """The GEMM microkernel: an intrinsic

        panel(rows, depth, segments, a, a_pitch, b, b_at, c, c_at, ncols, row_at, *operands)

    that computes `rows` rows of one panel of nv vectors, in tiles of mr and mr - 1 rows (one row has a tile of its own). `a` is a
    table of row addresses [segment][row] with `a_pitch` bytes a segment, each row having `depth` contiguous numbers; `b` is the
    panel and `b_at[segment]` the first of its rows for a segment; `c` is a table of the result rows' addresses, to which `c_at`
    bytes are added; `row_at` is a table of byte offsets for row operands. Operands are addresses (for "full" the distance in
    bytes from the result). A and B hold numbers of the computing type. The tables repeat the last row for as many rows as a tile
    has.

    A staged kernel computes long sums in several calls, each over a part of the depth, with the bits of one call (but for one row).
    Before the operands it takes `sums`, room for [rows + mr][nv * lanes] numbers of the computing type, and `stage`: 1
    where it goes on from `sums`, plus 2 where it ends (else it leaves the sums there, and no result).
    """
    arguments = (13 if staged else 11) + operand_count(program)

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, memory, lanes)
        rows, depth, segments, a, a_pitch, b, b_at, c, c_at, ncols, row_at, *operands = args

        def call(height: int, count: Any, shift: Any) -> None:
            moved = [e.b.add(table, e.times(shift, 8)) for table in (a, c, row_at)]
            rest = [e.b.add(operands[0], e.times(shift, nv * lanes * e.item)), *operands[1:]] if staged else operands
            parts = memory, lanes, height, nv, program, staged
            tile = internal(e.b.module, name_of("tile", *parts), arguments, _gemm_tile(*parts))
            e.b.call(tile, [count, depth, segments, moved[0], a_pitch, b, b_at, moved[1], c_at, ncols, moved[2], *rest])

        with e.b.if_else(e.b.icmp_signed("==", rows, e.int(1))) as (one, more):
            with one:
                call(1, e.int(1), e.int(0))
            with more:
                over = e.b.srem(rows, e.int(mr))
                low = e.b.select(e.b.icmp_signed("==", over, e.int(0)), e.int(0), e.b.sub(e.int(mr), over))
                left = e.b.sub(rows, e.b.mul(low, e.int(mr - 1)))
                fits = e.b.icmp_signed(">=", left, e.int(0))
                high = e.b.sdiv(e.b.select(fits, left, e.b.add(rows, e.int(mr - 1))), e.int(mr))
                call(mr, high, e.int(0))
                call(mr - 1, e.b.select(fits, low, e.int(0)), e.b.mul(high, e.int(mr)))

    return intrinsic(name_of("panel", memory, lanes, mr, nv, program, staged), arguments, build)


def _gemm_tile(memory: str, lanes: int, mr: int, nv: int, program: Program, staged: bool) -> Callable[[Any, Sequence[Any]], None]:
    """The body of the function that computes `count` tiles of mr rows; the other arguments are those of `gemm_panel`."""
    ways = 2 if mr * nv < 8 else 1  # independent sums where one row alone would wait for the adder

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, memory, lanes)
        count, depth, segments, a, a_pitch, b, b_at, c, c_at, ncols, row_at, *operands = args
        sums, stage = (e.pointer(operands.pop(0)), operands.pop(0)) if staged else (None, None)
        panel, b_table = e.pointer(b), e.pointer(b_at)
        item, vector, row_bytes = e.item, e.lanes * e.item, nv * e.lanes * e.item
        blocks, rest = e.b.sdiv(depth, e.int(UNROLL)), e.b.srem(depth, e.int(UNROLL))

        def steps(rows: Sequence[Any], n: int) -> Callable[[Any, list], list]:
            def body(_: Any, carried: list) -> list:
                k, bp, ahead, acc = carried[0], carried[1], carried[2], list(carried[3:])
                if n == UNROLL and mr > 1:  # a single row waits for memory anyway
                    for line in range(AHEAD):
                        e.prefetch(e.at(ahead, 64 * line))
                    ahead = e.at(ahead, stride)
                here = [e.at(r, k) for r in rows]
                for u in range(n):
                    columns = [e.load(bp, u * row_bytes + j * vector) for j in range(nv)]
                    way = (u % ways) * mr * nv
                    for i in range(mr):
                        x = e.splat(here[i], u * item)
                        for j in range(nv):
                            acc[way + i * nv + j] = e.fma(x, columns[j], acc[way + i * nv + j])
                return [e.b.add(k, e.int(n * item)), e.at(bp, n * row_bytes), ahead, *acc]

            return body

        # While the tiles of a panel are computed, the next panel is brought near, spread over all of them.
        size = e.b.mul(e.b.mul(segments, depth), e.int(row_bytes))
        stride = e.b.sdiv(e.int(row_bytes * UNROLL), e.b.select(e.b.icmp_signed(">", count, e.int(0)), count, e.int(1)))

        def tile(index: Any, before: list) -> list:
            first = e.b.mul(index, e.int(8 * mr))
            table = e.at(e.pointer(a), first)

            def segment(s: Any, acc: list) -> list:
                place = e.at(table, e.b.mul(s, a_pitch))
                rows = [e.pointer(e.load_int(place, 8 * i)) for i in range(mr)]
                begin = e.at(panel, e.b.mul(e.load_int(b_table, e.b.mul(s, e.int(8))), e.int(row_bytes)))
                carried = e.loop(blocks, [e.int(0), begin, *acc], steps(rows, UNROLL))
                return e.loop(rest, carried, steps(rows, 1))[2:]

            kept = e.at(sums, e.b.mul(index, e.int(mr * row_bytes))) if staged else None
            start = [e.zero] * (mr * nv) if kept is None else _resume(e, kept, stage, mr * nv)
            ahead, *flat = e.loop(segments, [*before, *start, *[e.zero] * ((ways - 1) * mr * nv)], segment)
            if ways == 2:
                flat = [e.b.fadd(x, y) for x, y in zip(flat[: mr * nv], flat[mr * nv :], strict=True)]
            results = e.at(e.pointer(c), first)
            place = Place(lambda i: e.pointer(e.load_int(results, e.times(i, 8))), e.at(e.pointer(row_at), first), c_at, ncols,
                           operands)  # fmt: skip
            if kept is None:
                store_tile(e, program, flat, nv, place)
                return [ahead]
            with e.b.if_else(e.b.icmp_signed(">=", stage, e.int(2))) as (last, more):
                with last:
                    store_tile(e, program, flat, nv, place)
                with more:
                    for n, value in enumerate(flat):
                        e.b.store(value, e.at(kept, n * vector), align=item)
            return [ahead]

        e.loop(count, [e.at(panel, size)], tile)

    return build


def _resume(e: Emitter, kept: Any, stage: Any, count: int) -> list:
    """What the sums start from: what an earlier stage left, or zeros."""
    before = e.b.block
    with e.b.if_then(e.b.trunc(stage, e.ir.IntType(1))):
        left, loaded = [e.load(kept, n * e.lanes * e.item) for n in range(count)], e.b.block
    out = []
    for value in left:
        phi = e.b.phi(value.type)
        phi.add_incoming(e.zero, before)
        phi.add_incoming(value, loaded)
        out.append(phi)
    return out


@functools.cache
def window_tile(memory: str, lanes: int, px: int, nv: int, spread: bool, masked: bool, program: Program = IDENTITY) -> Any:
    """The microkernel of direct convolutions: an intrinsic

        tile(count, taps, table, x_at, x_step, w, c, c_step, c_at, ncols, *operands)

    for `count` tiles of px pixels by nv vectors of channels: `acc[i, j] += x[tap, pixel i][j] * w[tap][j]`. `table` has two words
    a tap: the address of the first pixel's input, to which `x_at` bytes are added, and the byte offset of the tap's weights in
    `w`. Inputs of neighbouring pixels lie `x_step` bytes apart, their results `c_step` bytes, the first at `c` + `c_at`. With
    `spread` an input is one number for all channels, else a vector of them. Inputs are in the memory's type, weights in the
    computing type (padded to whole vectors). Only a masked kernel may be given fewer than nv * lanes columns. Operands are those
    of `gemm_panel`, without rows.
    """

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, memory, lanes)
        count, taps, table, x_at, x_step, w, c, c_step, c_at, ncols, *operands = args
        entries, weights = e.pointer(table), e.pointer(w)
        vector, step = e.lanes * e.item, e.lanes * e.stored
        masks = [e.mask(e.b.sub(ncols, e.int(j * e.lanes))) if masked else None for j in range(nv)]
        x_steps = [e.b.mul(x_step, e.int(i)) for i in range(px)]

        def tile(index: Any, _: list) -> list:
            first = e.b.mul(index, e.int(px))
            moved = e.b.add(x_at, e.b.mul(first, x_step))

            def tap(t: Any, acc: list) -> list:
                entry, acc = e.at(entries, e.b.mul(t, e.int(16))), list(acc)
                x, at_tap = e.at(e.pointer(e.load_int(entry)), moved), e.at(weights, e.load_int(entry, 8))
                columns = [e.load(at_tap, j * vector) for j in range(nv)]
                for i in range(px):
                    row = e.at(x, x_steps[i])
                    number = e.fetch_one(row).v if spread else None
                    for j in range(nv):
                        value = number if spread else e.fetch(e.at(row, j * step), masks[j]).v
                        acc[i * nv + j] = e.fma(value, columns[j], acc[i * nv + j])
                return acc

            flat = e.loop(taps, [e.zero] * (px * nv), tap)
            results = e.at(e.pointer(c), e.b.mul(first, c_step))

            def row(i: Any) -> Any:
                return e.at(results, e.b.mul(c_step, e.int(i) if isinstance(i, int) else i))

            place = Place(row, None, c_at, ncols, operands)
            store_tile(e, program, flat, nv, place, masked)
            return []

        e.loop(count, [], tile)

    return intrinsic(name_of("window", memory, lanes, px, nv, spread, masked, program), 10 + operand_count(program), build)
