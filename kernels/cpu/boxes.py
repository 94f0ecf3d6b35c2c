"""The one kernel behind most data movement: it copies *boxes* between strided memories.

A box says `dst[at + sum i_k * dst_stride_k] = src[at + sum i_k * src_stride_k]` for all indices below its dims. Transposes, slices,
concatenations, pads, tiles, fills and changes of layout are lists of boxes whose destinations do not overlap; lists are made when a
node is bound to sizes, so one text for each item size serves every rank, every stride and any number of boxes. A fill is a box
whose source is a literal in the parameter table, with strides of 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.core import Value
from ...ir.layout import Layout
from ...ir.recording import greatest
from ..spec import Call, Dims, KernelSource, Launch
from .operands import tiles_for

BLOCK = 1 << 14  # elements that one unit of work moves, about


@dataclass(frozen=True, slots=True)
class Box:
    """A copy from parameter slot `src` (or from a literal, as bytes) to slot `dst`; offsets and strides count elements."""

    dims: Dims
    src: int | bytes
    src_strides: Dims
    dst: int
    dst_strides: Dims
    src_at: int = 0
    dst_at: int = 0


@dataclass(frozen=True, kw_only=True)
class Mover(KernelSource):
    """The kernel of a node that copies boxes. Who needs no copy of some of the `boxes(call)` asks for the `copy` of the others;
    `bind(call)` is the copy of all."""

    boxes: Callable[[Call], Sequence[Box]]
    copy: Callable[[Sequence[Box]], Launch]


def strides_of(shape: Dims, layout: Layout | None = None) -> Dims:
    """The strides, in elements, of the logical axes of a dense tensor."""
    out, step = [0] * len(shape), 1
    for a in reversed(range(len(shape)) if layout is None else layout.perm):
        out[a] = step
        step *= shape[a]
    return tuple(out)


def copy_text(first_int: int, item: int) -> str:
    """The kernel that copies boxes of elements of `item` bytes (16 are moved as two of 8); its ints begin at slot `first_int`."""
    size = min(item, 8)
    words = {"FIRST": first_int, "ITEM": size, "TYPE": f"u{8 * size}", "TALL": 16 // size, "WIDE": 32 // size}
    text = _TEXT
    for word, value in words.items():
        text = text.replace(word, str(value))
    return text


# A record holds: units, source slot or minus the slot of a literal, its offset, destination slot, offset, then of the
# two inner loops (count, source stride, destination stride) and of the outer ones, innermost first. All offsets are bytes.
_TEXT = """
def kernel(p, tile, ntiles):
    outer = param(p, FIRST + 1)
    total = param(p, FIRST + 2)
    lo = total * tile // ntiles
    hi = total * (tile + 1) // ntiles
    at = FIRST + 3
    for b in range(param(p, FIRST)):
        units = param(p, at)
        slot = param(p, at + 1)
        if slot >= 0:
            src = param(p, slot) + param(p, at + 2)
        else:
            src = p - 8 * slot
        dst = param(p, param(p, at + 3)) + param(p, at + 4)
        n0 = param(p, at + 5)
        s0 = param(p, at + 6)
        d0 = param(p, at + 7)
        n1 = param(p, at + 8)
        s1 = param(p, at + 9)
        d1 = param(p, at + 10)
        for unit in range(maximum(lo, 0), minimum(hi, units)):
            s = src
            d = dst
            rest = unit
            for k in range(at + 11, at + 11 + 3 * outer, 3):
                n = param(p, k)
                q = rest // n
                i = rest - q * n
                s += i * param(p, k + 1)
                d += i * param(p, k + 2)
                rest = q
            if s0 == ITEM and d0 == ITEM:
                for i in range(n1):
                    si = s + i * s1
                    di = d + i * d1
                    for j in range(n0):
                        put_TYPE(di, j, get_TYPE(si, j))
            elif s0 == 0 and d0 == ITEM:
                for i in range(n1):
                    v = get_TYPE(s + i * s1, 0)
                    di = d + i * d1
                    for j in range(n0):
                        put_TYPE(di, j, v)
            elif s1 == ITEM and d0 == ITEM:
                # Lines of the source and rows of the destination stay in the cache within a band of 64.
                ni = n1 // TALL * TALL
                nj = n0 // WIDE * WIDE
                for band in range(0, nj, 64):
                    for i in range(0, ni, TALL):
                        for j in range(band, minimum(band + 64, nj), WIDE):
                            transpose_TYPE(s + i * ITEM + j * s0, s0, d + i * d1 + j * ITEM, d1)
                for i in range(n1):
                    for j in range(nj if i < ni else 0, n0):
                        put_TYPE(d + i * d1, j, get_TYPE(s + j * s0, i))
            else:
                for i in range(n1):
                    si = s + i * s1
                    di = d + i * d1
                    for j in range(n0):
                        put_TYPE(di + j * d0, 0, get_TYPE(si + j * s0, 0))
        lo -= units
        hi -= units
        at += 11 + 3 * outer
        if hi <= 0:
            break
"""


def launch(boxes: Sequence[Box], first_int: int, item: int) -> Launch:
    """The parameters that make the kernel of `copy_text` copy the boxes."""
    if item == 16:
        boxes, item = [half for b in boxes for half in _halved(b)], 8
    loops = [piece for b in boxes for piece in _pieces(_collapse(b), b)]
    outer = max((len(order) - 2 for _, _, _, order in loops), default=0)
    ints, literals, units, moved = [len(loops), outer, 0], {}, 0, 0
    table = first_int + 3 + len(loops) * (11 + 3 * outer)  # the slot of the first literal
    for b, src_at, dst_at, order in loops:
        n = math.prod(d for d, _, _ in order[2:])
        units += n
        moved += n * order[0][0] * order[1][0]
        src = b.src
        if isinstance(src, bytes):
            src = -(table + literals.setdefault(src.ljust(8, b"\0"), len(literals)))
        ints += [n, src, src_at * item, b.dst, dst_at * item]
        for d, s, t in order:
            ints += [d, s * item, t * item]
        ints += [1, 0, 0] * (outer - len(order) + 2)
    ints[2] = units
    ints += [int.from_bytes(w, "little", signed=True) for w in literals]
    return Launch(tuple(ints), tiles_for(units, moved))


def _halved(b: Box) -> list[Box]:
    """The same box in elements of half the size."""
    if isinstance(b.src, bytes):
        to = tuple(2 * d for d in b.dst_strides)
        return [Box(b.dims, b.src[8 * k : 8 * k + 8], b.src_strides, b.dst, to, 0, 2 * b.dst_at + k) for k in range(2)]
    here, there = ((*(2 * x for x in strides), 1) for strides in (b.src_strides, b.dst_strides))
    return [Box((*b.dims, 2), b.src, here, b.dst, there, 2 * b.src_at, 2 * b.dst_at)]


Loop = tuple[int, int, int]  # count, source stride, destination stride


def _collapse(b: Box) -> list[Loop]:
    """The loops of a box by falling destination stride, neighbours merged where both sides allow; [] where it is empty."""
    if 0 in b.dims:
        return []
    loops = sorted((x for x in zip(b.dims, b.src_strides, b.dst_strides, strict=True) if x[0] != 1), key=lambda x: -abs(x[2]))
    out: list[Loop] = []
    for n, s, d in loops:
        if out and out[-1][1] == n * s and out[-1][2] == n * d:
            out[-1] = (out[-1][0] * n, s, d)
        else:
            out.append((n, s, d))
    return out or [(1, 1, 1)]


def _pieces(loops: list[Loop], b: Box) -> list[tuple[Box, int, int, list[Loop]]]:
    """The box as one or two nests of loops, innermost first, at least two deep, whose inner two move about `BLOCK` elements."""
    if not loops:
        return []
    order = list(reversed(loops))
    if order[0][1] != 1:  # a transpose: the loop along the source comes second
        along = next((k for k, x in enumerate(order) if x[1] == 1), 0)
        if along:
            order.insert(1, order.pop(along))
    if len(order) == 1:
        order.append((1, 0, 0))
    (n0, s0, _), (n1, _, _) = order[:2]
    if n0 < 4 and n1 >= 8 and not (s0 == 1 and order[1][1] == 1):
        order[0], order[1] = order[1], order[0]
    k = 0 if order[0][0] >= 2 * BLOCK else 1
    n, s, d = order[k]
    step = BLOCK if k == 0 else greatest(16, BLOCK // order[0][0] // 16 * 16)
    if n < 2 * step:
        return [(b, b.src_at, b.dst_at, order)]
    whole, rest = divmod(n, step)
    head = [*order, (whole, s * step, d * step)]
    head[k] = (step, s, d)
    out = [(b, b.src_at, b.dst_at, head)]
    if rest:
        tail = list(order)
        tail[k] = (rest, s, d)
        out.append((b, b.src_at + whole * step * s, b.dst_at + whole * step * d, tail))
    return out


def runs(index: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Source positions as runs (first destination, count, first source, step of -1, 0 or 1); position -1 means fill."""
    out: list[list[int]] = []
    for at, source in enumerate(index):
        _, n, start, step = out[-1] if out else (0, 0, 0, 0)
        if n and (source < 0) == (start < 0):
            if n == 1 and abs(source - start) <= 1:
                out[-1][1:] = 2, start, source - start
                continue
            if n > 1 and source == start + n * step:
                out[-1][1] += 1
                continue
        out.append([at, 1, source, 0])
    return [tuple(r) for r in out]


def dense(v: Value, shape: Dims) -> Dims:
    """The strides of a value's logical axes at the given sizes."""
    return strides_of(shape, v.tensor.layout)
