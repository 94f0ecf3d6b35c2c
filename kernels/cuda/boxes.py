"""The one kernel behind most data movement: it copies lists of boxes (`../boxes.py`); one text for each item size serves all.

A box is copied in *units* of 1 to 16 bytes, the longest that its strides allow where both sides are contiguous, each by one
thread, so that neighbouring threads write neighbours. Where the source is contiguous along another loop than the destination, tiles
of 32 by 32 units go through shared memory. No division is by anything but the count of a loop (FastDiv).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ...ir.recording import as_table
from ..boxes import Box, Loop, collapse
from ..operands import fill_in
from ..spec import Launch
from .source import fast_div
from .text import blocks_for, checked_size, kernel
from .units import unit_helpers, unit_width, unit_widths

THREADS, EACH = 256, 4  # of a block; units that a thread copies, so that as many loads are in flight
ENOUGH = 1 << 17  # units with which a GPU is busy at one for each thread
INLINE = 96  # words of records among the parameters; longer lists lie in device memory
TILE, NARROW = 32, 16  # units a side of a transposed tile; of sides shorter than this too many threads would be idle
COPY, SPLAT, TRANSPOSE = 0, 32, 64  # with the bytes of a unit: what a record says is to be done

# A record: [0] the number of the block behind its last one, [1] what to do, [2] source slot (-1: a literal, in the next two words),
# [3] its offset, [5] destination slot, [6] its offset. To copy: [7] units, [8] units of a block; of the inner loop [9] the count,
# [10] the source stride, [11] the destination stride, [12] the bytes. To transpose: [7] units along the destination's inner loop,
# [8] along the source's, [9] and [12] tiles along them, [10] the source stride of the first, [11] the destination stride of the
# second. Then the outer loops, innermost first: count, source and destination stride. Strides are bytes, divisors FastDivs.
HEAD = 13
_TEXT = """
template <class W> DEVICE W repeated(i64 at) {
    W word;
    for (u32 k = 0; k < sizeof(W) / sizeof(Part); k++) ((Part*)&word)[k] = ((const Part*)at)[k % (ITEM / sizeof(Part))];
    return word;
}

DEVICE void step_outwards(const i64* loops, u32 count, u32 rest, i64& s, i64& d) {
    for (u32 o = 0; o < count; o++) {
        FastDiv n(loops[3 * o]);
        u32 q = rest / n, i = rest - q * n.d;
        s += i * loops[3 * o + 1];
        d += i * loops[3 * o + 2];
        rest = q;
    }
}

// Units of W; the last one of the inner loop may be shorter. `splat`: all of it is the one element at the source.
template <class W> DEVICE void copy(const i64* r, i64 source, i64 target, u32 block, u32 outer, bool splat) {
    FastDiv n0(r[9]);
    u32 units = r[7], step = r[8], first = block * step, end = units < first + step ? units : first + step;
    i64 s0 = r[10], d0 = r[11], bytes = r[12];
    bool aligned = (((splat ? 0 : source) | target) & (sizeof(W) - 1)) == 0;
    W words[EACH];
    i64 to[EACH];
#pragma unroll
    for (u32 k = 0; k < EACH; k++) {  // all loads before all stores
        u32 u = first + k * THREADS + threadIdx.x;
        to[k] = 0;
        if (u >= end) continue;
        u32 q = u / n0, i = u - q * n0.d;
        i64 s = source + i * s0, d = target + i * d0, left = bytes - i64(i) * sizeof(W);
        step_outwards(r + HEAD, outer, q, s, d);
        if (aligned && left >= i64(sizeof(W))) {
            words[k] = splat ? repeated<W>(s) : *(const W*)s;
            to[k] = d;
        } else {
            for (u32 b = 0; b < sizeof(W) && b < left; b += sizeof(Part))
                *(Part*)(d + b) = *(const Part*)(s + (splat ? b % ITEM : b));
        }
    }
#pragma unroll
    for (u32 k = 0; k < EACH; k++)
        if (to[k]) *(W*)to[k] = words[k];
}

// Lanes read along the source and write along the target; rows of 33 units keep shared memory free of bank conflicts both ways.
template <class W> DEVICE void transpose(const i64* r, i64 s, i64 d, u32 block, u32 outer, unsigned char* shared) {
    auto tile = (W(*)[TILE + 1])shared;
    FastDiv tiles0(r[9]), tiles1(r[12]);
    u32 n0 = r[7], n1 = r[8], q = block / tiles0, rest = q / tiles1;
    u32 i0 = TILE * (block - q * tiles0.d), i1 = TILE * (q - rest * tiles1.d), lane = threadIdx.x % TILE, row = threadIdx.x / TILE;
    i64 s0 = r[10], d1 = r[11];
    step_outwards(r + HEAD, outer, rest, s, d);
    bool aligned = ((s | d) & (sizeof(W) - 1)) == 0;
#pragma unroll
    for (u32 k = row; k < TILE; k += THREADS / TILE)
        if (i0 + k < n0 && i1 + lane < n1) move<W>((i64)&tile[k][lane], s + (i0 + k) * s0 + i64(i1 + lane) * sizeof(W), aligned);
    __syncthreads();
#pragma unroll
    for (u32 k = row; k < TILE; k += THREADS / TILE)
        if (i0 + lane < n0 && i1 + k < n1) move<W>(d + (i1 + k) * d1 + i64(i0 + lane) * sizeof(W), (i64)&tile[lane][k], aligned);
}
"""
_BODY = """
u32 count = p[FIRST], outer = p[FIRST + 1], size = HEAD + 3 * outer, low = 0, high = count - 1;
const i64* r = count * size <= INLINE ? &p.w[FIRST + 2] : (const i64*)p[FIRST - 1];
while (low < high) {  // to the first record whose blocks end behind this one
    u32 middle = (low + high) / 2;
    if (r[middle * size] > blockIdx.x) high = middle;
    else low = middle + 1;
}
r += low * size;
u32 block = blockIdx.x - (low ? u32(r[-i32(size)]) : 0);
i64 source = r[2] < 0 ? (i64)(r + 3) : p.w[r[2]] + r[3], target = p.w[r[5]] + r[6];
__align__(16) __shared__ unsigned char shared[TILE * (TILE + 1) * 16];
switch (r[1]) {
"""


def copy_text(first_int: int, item: int) -> str:
    """The kernel that copies boxes of elements of `item` bytes; its ints begin at slot `first_int`, behind a table."""
    words = {"FIRST": first_int, "ITEM": item, "HEAD": HEAD, "EACH": EACH, "TILE": TILE, "INLINE": INLINE, "THREADS": THREADS}
    body = fill_in(_BODY, **words).strip("\n").split("\n")
    for w, unit in unit_widths(item):
        body += [f"case {COPY + w}: return copy<{unit}>(r, source, target, block, outer, false);",
                 f"case {SPLAT + w}: return copy<{unit}>(r, source, target, block, outer, true);",
                 f"case {TRANSPOSE + w}: return transpose<{unit}>(r, source, target, block, outer, shared);"]  # fmt: skip
    return kernel(THREADS, first_int + 2 + INLINE, [*body, "}"], [unit_helpers(item), fill_in(_TEXT, **words).strip("\n")])


# ---- records


class Record(NamedTuple):
    """A box as the kernel wants it: the words of its record behind the first one, its outer loops, the blocks that copy it."""

    words: tuple[int, ...]
    outer: Sequence[Loop]
    blocks: int


def launch(boxes: Sequence[Box], item: int) -> Launch:
    """The parameters that make the kernel of `copy_text` copy the boxes. Raises ValueError where one is too large."""
    records = [_record(b, loops, item) for b in boxes if (loops := collapse(b))]
    deepest = max((len(r.outer) for r in records), default=0)
    words, blocks = list[int](), 0
    for r in records:
        blocks += r.blocks
        words += [blocks, *r.words]
        for n, s, d in [*reversed(r.outer), *[(1, 0, 0)] * (deepest - len(r.outer))]:
            words += [fast_div(n), s, d]
    inline = words if len(words) <= INLINE else []
    ints = (len(records), deepest, *inline, *[0] * (INLINE - len(inline)))
    table = as_table([0] if inline else words)
    return Launch(ints, checked_size(blocks), tables=(table,))


def _record(b: Box, loops: list[Loop], item: int) -> Record:
    """How a box is copied whose loops are given in elements, by falling destination stride."""
    loops = [(n, s * item, d * item) for n, s, d in loops]
    (n, s, d), outer = loops[-1], loops[:-1]
    dst_at, splat = b.dst_at * item, s == 0 and d == item
    if isinstance(b.src, bytes):
        literal = b.src.ljust(16, b"\0")
        place = (-1, *(int.from_bytes(literal[k : k + 8], "little", signed=True) for k in (0, 8)))
        splat, outer = True, [(n, 0, d) for n, _, d in outer]
    else:
        place = (b.src, b.src_at * item, 0)
    place = (*place, b.dst, dst_at)
    width, nbytes = item, n * item
    if d == item and s in (0, item):
        strides = [dst_at, *(d for _, _, d in outer)] + ([] if s == 0 else [place[1], *(s for _, s, _ in outer)])
        width = unit_width(nbytes, strides, item, tail=True)
        units = blocks_for(nbytes, width)
        n, s, d = units, s and width, width
        if units * width == nbytes and units == 1 and outer and s:  # the run is one unit: the next loop is the inner one
            n, s, d = outer.pop()
            nbytes = n * width
    else:
        nbytes = n * width
    along = next((k for k, x in enumerate(outer) if x[1] == width), None)
    if not splat and d == width and s != width and nbytes == n * width and along is not None and min(n, outer[along][0]) >= NARROW:
        return _transpose(place, (n, s, d), outer.pop(along), outer, width)
    units = checked_size(n * math.prod(x[0] for x in outer))
    step = THREADS if units <= ENOUGH else THREADS * EACH
    kind = SPLAT if splat else COPY
    return Record((kind + width, *place, units, step, fast_div(n), s, d, nbytes), outer, blocks_for(units, step))


def _transpose(place: tuple[int, ...], inner: Loop, along: Loop, outer: Sequence[Loop], width: int) -> Record:
    (n0, s0, _), (n1, _, d1) = inner, along
    tiles0, tiles1 = blocks_for(n0, TILE), blocks_for(n1, TILE)
    blocks = checked_size(tiles0 * tiles1 * math.prod(x[0] for x in outer))
    return Record((TRANSPOSE + width, *place, n0, n1, fast_div(tiles0), s0, d1, fast_div(tiles1)), outer, blocks)
