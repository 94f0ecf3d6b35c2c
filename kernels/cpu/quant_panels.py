"""The register-tiled inner kernels of products of bytes, exact in i32: what `quant.py`, `quant_conv.py` and `quantized_lstm.py`
multiply with. Sums wrap as i32 do.

*Pairs*: a number of A is an i16 (a byte less its zero point), one of B an i8, widened in registers. Two numbers of the reduction
stand side by side in both, so that one instruction (x86's pmaddwd) multiplies pairs and adds each pair up: |255 * -128 * 2| is
far below 2^31. A row of A is an i32, the negative sum of its numbers, and then its numbers, padded with 0 to an even count. A
panel of B is an i32 a column, the column's zero point, and then for each pair of k the columns' two bytes. The sums start from
the product of both heads: that takes B's zero points off.

*Quads*: a number of A is a u8, one of B an i8, four of the reduction side by side. pmaddubsw adds pairs up in i16, where it
saturates: weights of one sign may be 128 together, so that 255 times them fits. Where they are more, B holds less than they are,
and what is left of them (*rests*: pairs, two of them a quad) is multiplied behind all others. Most panels hold so few large
weights that the pairs of two quads (an *oct*) may be added up in i16: `_panel_of_quads` decides. A row of A is -z and
z * K - sum(a), where z is its zero point, and its numbers; a panel is the sums of its columns, their zero points, how many octs and
quads of rests it has, the quads, the rests, and where the two pairs of each stand in a row of A. Needs AVX2 and few rests
(`takes_quads`).

Rows and panels are padded with zeros. The unsigned bytes of B, and for quads the signed ones of A, are shifted by 128, and so are
their zero points.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from .emitter import Emitter, internal, intrinsic, name_of
from .program import IDENTITY, Place, Program, operand_count, store_tile
from .tiling import host_features, tiling

VECTORS = 2  # of a panel
QUADS_HEAD = 8  # bytes in front of a row of quads
SAFE = 128  # what two weights of one sign may be together
MOST_RESTS = 0.12  # of all pairs of a panel, for quads to be faster than pairs


def panel_columns() -> int:
    """Columns of a panel."""
    return VECTORS * tiling(4).lanes


def tile_rows(quads: bool = False) -> int:
    """Rows of the largest tile. Tiles of half that and of one row serve what is left. Quads need two registers more."""
    return tiling(4).rows[VECTORS] - 2 * quads


def row_pitch(depth: int, quads: bool = False) -> int:
    """Bytes of a row of A."""
    return 4 * -(-depth // 4) + QUADS_HEAD if quads else 4 * -(-depth // 2) + 4


def panel_pitch(depth: int) -> int:
    """Bytes of a panel of pairs."""
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
    """B [..., K, N] of bytes with its columns' zero points (that broadcast to [..., N]) as panels of pairs: u8 [..., panels,
    panel_pitch]."""
    *lead, k, n = b.shape
    width, shift = panel_columns(), 128 if b.dtype == np.uint8 else 0
    panels, pairs = -(-n // width), -(-k // 2)
    data = np.zeros((*lead, 2 * pairs, panels * width), np.int8)
    data[..., :k, :n] = (b.astype(np.int16) - shift).astype(np.int8)
    head = np.zeros((*lead, panels * width), np.int32)
    head[..., :n] = np.asarray(zeros).astype(np.int32) - shift
    data = np.moveaxis(data.reshape(*lead, pairs, 2, panels, width), -2, -4).swapaxes(-1, -2)
    out = np.zeros((*lead, panels, panel_pitch(k)), np.uint8)
    out[..., : 4 * width] = head.view(np.uint8).reshape(*lead, panels, 4 * width)
    out[..., 4 * width :] = np.ascontiguousarray(data).view(np.uint8).reshape(*lead, panels, 2 * pairs * width)
    return out


def _unsafe(pairs: np.ndarray) -> np.ndarray:
    """Where [..., 2, N] weights would make the sum of a pair saturate."""
    return (np.maximum(pairs, 0).sum(-2) > SAFE) | (np.minimum(pairs, 0).sum(-2) < -SAFE)


def takes_quads(b: np.ndarray) -> bool:
    """Whether products with the constant B [..., K, N] should be quads, by a sample of its panels."""
    lanes = tiling(4).lanes
    if lanes < 8 or (lanes == 16 and "avx512bw" not in host_features()) or not b.size:
        return False
    width = panel_columns()
    even = b.reshape(-1, *b.shape[-2:])[:, : b.shape[-2] // 2 * 2]
    starts = range(0, b.shape[-1], max(width, b.shape[-1] // 8 // width * width))
    samples = [_shifted(m[:, j : j + width]) for m in even for j in starts]
    unsafe = np.concatenate([_unsafe(m.reshape(-1, 2, m.shape[1])).any(-1) for m in samples])
    return bool(unsafe.sum() <= MOST_RESTS * unsafe.size)


def _shifted(b: np.ndarray) -> np.ndarray:
    return b.astype(np.int16) - (128 if b.dtype == np.uint8 else 0)


def pack_quads(b: np.ndarray, zeros: np.ndarray | int = 0) -> np.ndarray:
    """B [..., K, N] of bytes with its columns' zero points (that broadcast to [..., N]) as panels of quads: u8, first a table of
    the panels' offsets, as i64."""
    *lead, k, n = b.shape
    width, shift = panel_columns(), 128 if b.dtype == np.uint8 else 0
    wide = -(-n // width) * width
    weights = np.zeros((*lead, -(-k // 4) * 4, wide), np.int16)
    weights[..., :k, :n] = _shifted(b)
    all_zeros = np.zeros((*lead, wide), np.int32)
    all_zeros[..., :n] = np.asarray(zeros).astype(np.int32) - shift
    panels = []
    for m, z in zip(weights.reshape(-1, *weights.shape[-2:]), all_zeros.reshape(-1, wide), strict=True):
        panels += [_panel_of_quads(m[:, j : j + width], z[j : j + width]) for j in range(0, wide, width)]
    table = np.zeros(-(-len(panels) // 8) * 8, np.int64)
    table[: len(panels)] = table.nbytes + np.cumsum([0, *(p.nbytes for p in panels)])[:-1]
    return np.concatenate([table.view(np.uint8), *panels])


def _panel_of_quads(w: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    k, width = w.shape
    pairs = w.reshape(k // 2, 2, width)
    halved = np.where(_unsafe(pairs)[:, None], pairs >> 1, pairs)
    octs, rests, main = 0, _rests(pairs - halved), halved
    if k >= 8:
        sparser = _for_octs(pairs)
        more = _rests(pairs - sparser)
        if len(more) - len(rests) < k // 16:
            octs, rests, main = k // 8, more, sparser
    rests += [(0, np.zeros((2, width), np.int8))] * (len(rests) % 2)
    places = np.int32([2 * place for place, _ in rests])
    data = np.array([r for _, r in rests], np.int8).reshape(-1, 4, width)
    counts = np.int64([octs, len(data), *[0] * 6])
    quads = main.astype(np.int8).reshape(k // 4, 4, width)
    parts = [w.sum(0, dtype=np.int32), zeros, counts, quads.swapaxes(1, 2), data.swapaxes(1, 2), places]
    out = np.concatenate([np.ascontiguousarray(p).reshape(-1).view(np.uint8) for p in parts])
    return np.pad(out, (0, -len(out) % 64))


def _for_octs(pairs: np.ndarray) -> np.ndarray:
    """Weights without those that would make the sum of two quads' pairs saturate."""
    out = pairs.copy()
    whole = len(pairs) // 4 * 4
    groups = out[:whole].reshape(-1, 2, 2, *pairs.shape[1:])  # [oct, quad, pair, 2, column]
    groups[:, 1] = np.where(_unsafe(groups.swapaxes(1, 2).reshape(*groups.shape[:1], 2, 4, -1))[:, :, None], 0, groups[:, 1])
    return np.where(_unsafe(out)[:, None], out >> 1, out)


def _rests(left: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Rests [pair, 2, column] as safe pairs with their places."""
    out = []
    while left.any():
        (places,) = np.nonzero(left.any((1, 2)))
        part = np.where(_unsafe(left)[:, None], left >> 1, left)
        out += [(int(p), part[p].astype(np.int8)) for p in places]
        left = left - part
    return out


# ---- the microkernels ---------------------------------------------------------------------------------------------------


@functools.cache
def int_panel(lanes: int, quads: bool = False, program: Program | None = None, biased: bool = False) -> Any:
    """An intrinsic

        panel(rows, steps, a, a_pitch, b, c, c_pitch, c_at, ncols, row_at, *operands)

    that computes `rows` rows of one panel at `b` in `steps` pairs or quads; rows of A lie `a_pitch` bytes apart, those of the
    result `c_pitch`, and its first column `c_at` bytes behind `c`. Columns past `ncols` are not written. The result is the sums as
    i32, or what the program makes of them as f32, with its operands as for `gemm_panel`: the table `row_at` repeats the last row's
    entry for as many rows as a tile has, and only "row" operands need it. Where it is biased, the first operand is such a row of
    i32, which are added to the sums.
    """
    mr = tile_rows(quads)
    arguments = 10 + biased + operand_count(program or IDENTITY)

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, "f32", lanes)
        rows, steps, a, a_pitch, b, c, c_pitch, c_at, ncols, row_at, *rest = args

        def call(height: int, count: Any, first: Any) -> None:
            parts = lanes, height, quads, program, biased
            tile = internal(e.b.module, name_of("ints", *parts), arguments + 1, _tile(*parts))
            at = [e.b.add(start, e.b.mul(first, pitch)) for start, pitch in ((a, a_pitch), (c, c_pitch), (row_at, e.int(8)))]
            e.b.call(tile, [e.b.sub(rows, first), count, steps, at[0], a_pitch, b, at[1], c_pitch, c_at, ncols, at[2], *rest])

        half, over = mr // 2, e.b.srem(rows, e.int(mr))
        many = e.b.icmp_signed(">", over, e.int(half + 1))  # then another whole tile
        whole = e.b.add(e.b.sdiv(rows, e.int(mr)), e.b.zext(many, e.i64))
        some = e.b.and_(e.b.not_(many), e.b.icmp_signed(">", over, e.int(1)))
        one = e.b.or_(e.b.icmp_signed("==", over, e.int(1)), e.b.icmp_signed("==", over, e.int(half + 1)))
        for test, height, count, first in (
            (e.b.icmp_signed(">", whole, e.int(0)), mr, whole, e.int(0)),
            (some, half, e.int(1), e.b.mul(whole, e.int(mr))),
            (one, 1, e.int(1), e.b.sub(rows, e.int(1))),
        ):
            with e.b.if_then(test):
                call(height, count, first)

    return intrinsic(name_of("int_panel", lanes, mr, quads, program, biased), arguments, build)


def _tile(lanes: int, mr: int, quads: bool, program: Program | None, biased: bool) -> Callable[[Any, Sequence[Any]], None]:
    """The body of the function that computes `count` tiles of mr rows, of which `rows` are valid."""
    nv, heads = VECTORS, 2 if quads else 1

    def build(builder: Any, args: Sequence[Any]) -> None:
        e = Emitter(builder, "f32", lanes)
        rows, count, depth, a, a_pitch, b, c, c_pitch, c_at, ncols, row_at, *operands = args
        addend = e.pointer(operands.pop(0)) if biased else None
        panel, vector = e.pointer(b), lanes * 4
        bytes_ = nv * vector if quads else nv * vector // 2  # of a step
        data = e.at(panel, heads * nv * vector + (64 if quads else 0))
        end = e.at(data, e.b.mul(depth, e.int(bytes_)))
        octs, rests = (e.load_int(panel, heads * nv * vector + 8 * i) if quads else e.int(0) for i in range(2))
        # While the tiles of a panel are computed, the next panel is brought near, spread over all of them.
        stride = e.b.sdiv(e.int(bytes_), e.b.select(e.b.icmp_signed(">", count, e.int(0)), count, e.int(1)))

        def multiply(acc: list, numbers: Sequence[Sequence[Any]], columns: Sequence[Sequence[Any]]) -> list:
            """Adds the products of each row's numbers (one a step) and the steps' columns."""
            out = []
            for i, xs in enumerate(numbers):
                xs = [e.b.bitcast(e.spread(x), columns[0][0].type) for x in xs]
                for j in range(nv):
                    ys = [step[j] for step in columns]
                    out.append(e.b.add(acc[i * nv + j], _quadwise(e, xs, ys) if quads else _pairwise(e, xs[0], ys[0])))
            return out

        def steps(starts: Sequence[Any], n: int) -> Callable[[Any, list], list]:
            def body(_: Any, carried: list) -> list:
                k, bp, ahead, *acc = carried
                if mr > 1:  # a single row waits for memory anyway
                    e.prefetch(ahead)
                    ahead = e.at(ahead, e.times(stride, n))
                columns = [[_bytes(e, e.at(bp, (u * nv + j) * bytes_ // nv), quads) for j in range(nv)] for u in range(n)]
                here = [e.at(s, k) for s in starts]
                numbers = [[e.b.load(e.at(row, 4 * u), typ=e.i32, align=4) for u in range(n)] for row in here]
                return [e.b.add(k, e.int(4 * n)), e.at(bp, n * bytes_), ahead, *multiply(acc, numbers, columns)]

            return body

        def rest(starts: Sequence[Any]) -> Callable[[Any, list], list]:
            places = e.at(end, e.b.mul(rests, e.int(bytes_)))

            def body(index: Any, acc: list) -> list:
                here, at = e.at(end, e.times(index, bytes_)), e.at(places, e.times(index, 8))
                columns = [[_bytes(e, e.at(here, j * bytes_ // nv), True) for j in range(nv)]]
                pair_at = [e.b.zext(e.b.load(e.at(at, 4 * i), typ=e.i32, align=4), e.i64) for i in (0, 1)]
                return multiply(acc, [[_two_pairs(e, e.at(row, 4 * heads), pair_at)] for row in starts], columns)

            return body

        def tile(index: Any, before: list) -> list:
            first = e.b.mul(index, e.int(mr))

            def row(start: Any, pitch: Any, i: Any) -> Any:
                """Row i of the tile; rows past the last are the last once more."""
                at = e.b.add(first, e.int(i) if isinstance(i, int) else i)
                return e.at(
                    e.pointer(start), e.b.mul(e.b.select(e.b.icmp_signed("<", at, rows), at, e.b.sub(rows, e.int(1))), pitch)
                )

            starts = [row(a, a_pitch, i) for i in range(mr)]
            acc = _started(e, panel, starts, heads)
            carried = [e.int(4 * heads), data, *before, *acc]
            if quads:
                carried = e.loop(octs, carried, steps(starts, 2))
            _, _, ahead, *acc = e.loop(e.b.sub(depth, e.b.mul(octs, e.int(2))), carried, steps(starts, 1))
            if quads:
                acc = e.loop(rests, acc, rest(starts))
            table = e.at(e.pointer(row_at), e.times(first, 8))
            if biased:
                acc = [e.b.add(x, _addend(e, addend, table, i // nv)) for i, x in enumerate(acc)]
            flat = [e.b.bitcast(x, e.type.llvm) if program is None else e.b.sitofp(x, e.type.llvm) for x in acc]
            store_tile(e, program or IDENTITY, flat, nv, Place(partial(row, c, c_pitch), table, c_at, ncols, operands))
            return [ahead]

        e.loop(count, [end], tile)

    return build


def _started(e: Emitter, panel: Any, starts: Sequence[Any], heads: int) -> list:
    """What the sums start from: the products of the heads of rows and columns."""
    out: list[Any] = []
    for start in starts:
        for j in range(VECTORS):
            terms = []
            for h in range(heads):
                row = e.spread(e.b.load(e.at(start, 4 * h), typ=e.i32, align=4))
                column = e.b.load(e.at(panel, (h * VECTORS + j) * e.lanes * 4), typ=e.ir.VectorType(e.i32, e.lanes), align=4)
                terms.append(e.b.mul(row, column))
            out.append(functools.reduce(e.b.add, terms))
    return out


def _addend(e: Emitter, addend: Any, table: Any, i: int) -> Any:
    """The number that is added to row i of a tile, in all lanes."""
    return e.spread(e.b.load(e.at(addend, e.load_int(table, 8 * i)), typ=e.i32, align=4))


def _bytes(e: Emitter, pointer: Any, quads: bool) -> Any:
    """A step's bytes for a vector of columns; pairs as i16."""
    raw = e.b.load(pointer, typ=e.ir.VectorType(e.i8, (4 if quads else 2) * e.lanes), align=1)
    return raw if quads else e.b.sext(raw, e.ir.VectorType(e.half, 2 * e.lanes))


def _two_pairs(e: Emitter, row: Any, places: Sequence[Any]) -> Any:
    """The pairs of bytes at two places of a row, in an i32."""
    low, high = (e.b.zext(e.b.load(e.at(row, place), typ=e.half, align=1), e.i32) for place in places)
    return e.b.or_(low, e.b.shl(high, e.ir.Constant(e.i32, 16)))


def _pairwise(e: Emitter, x: Any, y: Any) -> Any:
    """x[2i] * y[2i] + x[2i + 1] * y[2i + 1] of i16, as i32."""
    result = e.ir.VectorType(e.i32, e.lanes)
    if e.lanes == 8:
        return e.call("llvm.x86.avx2.pmadd.wd", result, [x, y])
    if e.lanes == 16 and "avx512bw" in host_features():
        return e.call("llvm.x86.avx512.pmaddw.d.512", result, [x, y])
    halves = []
    for start in (0, 1):
        order = e.ir.Constant(result, list(range(start, 2 * e.lanes, 2)))
        halves.append(e.b.mul(*(e.b.sext(e.b.shuffle_vector(v, v, order), result) for v in (x, y))))
    return e.b.add(*halves)


def _quadwise(e: Emitter, xs: Sequence[Any], ys: Sequence[Any]) -> Any:
    """The sum of x[4i + n] * y[4i + n] over n and over all x (u8) and y (i8), as i32. The sums of all products with n = 0, 1 must
    fit into i16, and those with n = 2, 3."""
    pairs = e.ir.VectorType(e.half, 2 * e.lanes)
    name = "llvm.x86.avx512.pmaddubs.w.512" if e.lanes == 16 else "llvm.x86.avx2.pmadd.ub.sw"
    sums = [e.call(name, pairs, [x, y]) for x, y in zip(xs, ys, strict=True)]
    return _pairwise(e, functools.reduce(e.b.add, sums), e.ir.Constant(pairs, [1] * 2 * e.lanes))
