"""The one kernel behind most data movement: it copies lists of boxes (`../boxes.py`); one text for each item size serves all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.recording import greatest
from ..boxes import Box, Loop, collapse, halved
from ..operands import tiles_for
from ..spec import Launch

BLOCK = 1 << 14  # elements that one unit of work moves, about


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
        boxes, item = [half for b in boxes for half in halved(b)], 8
    loops = [piece for b in boxes for piece in _pieces(collapse(b), b)]
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
