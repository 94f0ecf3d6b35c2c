"""Writing by index: scatter_elements, scatter_nd, tensor_scatter, in the order of the reference whatever the order of threads.

Updates of one place form a list: every update links itself in front (in no particular order), then the thread of a list's first
element sorts it by the updates' numbers, and last each list is folded into its place from its first update to its last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...ir.core import Node
from ..indexing import FLAG, moved_as, refuse_reduction, tuple_length, unsupported, wide_elements
from ..operands import fill_in, first_int, refuse_layouts, refuse_strings
from ..spec import Call, KernelSource, Launch, Refusal
from .gather import along_axis
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel
from .units import unit_helpers, unit_width, unit_widths

THREADS = 256
HEAD = 64  # bytes of scratch before the lists
SMALL = 5  # ints before those of the place

# Passes: 0 no list has elements, the result is the data; 1 link; 2 sort; 3 fold. `first` has the update that was linked last, which
# sorts its list; `next` has -3 - the next update, instead of that, where a sorted list begins.
_SCATTER = """
// The lists a and b, both sorted, as one.
DEVICE i32 merged(i32* next, i32 a, i32 b) {
    i32 first = -1, last = -1;
    while (a >= 0 && b >= 0) {
        i32 least = a < b ? a : b;
        if (a < b) a = next[a];
        else b = next[b];
        if (last < 0) first = least;
        else next[last] = least;
        last = least;
    }
    next[last] = a >= 0 ? a : b;
    return first;
}

// A list sorted by merging: bin k holds 2^k elements or none.
DEVICE i32 sorted(i32* next, i32 list) {
    if (next[list] < 0) return list;
    i32 bins[32];
    u32 used = 0;  // bits
    while (list >= 0) {
        i32 carry = list, k = 0;
        list = next[carry];
        next[carry] = -1;
        for (; used >> k & 1; k++) carry = merged(next, bins[k], carry);
        used = (used >> k | 1) << k;
        bins[k] = carry;
    }
    for (i32 k = 0; k < 32; k++)
        if (used >> k & 1) list = list < 0 ? bins[k] : merged(next, bins[k], list);
    return list;
}

template <class P> DEVICE i64 place(const P& p, u32 j) {
    PLACE
}

KERNEL(THREADS, WORDS) {
    u32 pass = p[LAST], u = blockIdx.x * THREADS + threadIdx.x, count = p[FIRST];
    i32 *first = (i32*)(p[FIRST - 1] + HEAD), *next = first + p[FIRST + 3];
    if (pass == 0) {
        if (u < p[FIRST + 3]) first[u] = -1;
        u32 total = p[FIRST + 4], e = u * WIDE;
        if (p[0] == p[3] || u >= (total + WIDE - 1) / WIDE) return;
        bool whole = e + WIDE <= total && ((p[0] | p[3]) & 15) == 0;
        write_pack(p[3], e, total, whole, read_pack<element_TYPE, WIDE>(p[0], e, total, whole));
        return;
    }
    FastDiv inner(p[FIRST + 2]);
    u32 j = pass == 3 ? u / inner : u, e = u - j * inner.d;
    if (j >= count) return;
    i64 at = place(p, j);
    if (at < 0) {
        report(p[FIRST - 1]);
        return;
    }
    if (pass == 1) {
        next[j] = atomicExch(first + at, i32(j));
    } else if (pass == 2) {
        if (first[at] != i32(j)) return;
        i32 begin = sorted(next, j);
        next[begin] = -3 - next[begin];  // below -1: a list begins
    } else {
        i32 behind = count == 1 ? -2 : next[j];
        if (behind > -2) return;
        auto a = ld_TYPE(p[3], at * inner.d + e);
        for (i32 k = j; k >= 0; k = k == i32(j) ? -3 - behind : next[k]) {
            auto b = ld_TYPE(p[2], i64(k) * inner.d + e);
            a = to_TYPE(COMBINED);
        }
        st_TYPE(p[3], at * inner.d + e, a);
    }
}
"""
# How the old value `a` and the update `b` combine. Comparisons let NaN through.
_COMBINE = {"none": "b", "add": "add(a, b)", "mul": "mul(a, b)", "max": "b > a || b != b ? b : a", "min": "b < a || b != b ? b : a"}
_ELEMENT = """
i64 i = ld_INDEX(p[1], j), size = p[AT], at;
if (i < 0) i += size;
if (i < 0 || i >= size) return -1;
at = i * p[AT + 1];
u32 rest = j;
#pragma unroll
for (u32 k = 0; k < OUTER; k++) {
    FastDiv n(p[AT + 3 + 2 * k]);
    u32 q = rest / n;
    at += (rest - q * n.d) * p[AT + 4 + 2 * k];
    rest = q;
}
return at + rest * p[AT + 2];
"""
_TUPLE = """
i64 offset = 0;
#pragma unroll
for (u32 k = 0; k < DEPTH; k++) {
    i64 n = p[AT + k], i = ld_INDEX(p[1], i64(j) * DEPTH + k);
    if (i < 0) i += n;
    if (i < 0 || i >= n) return -1;
    offset = offset * n + i;
}
return offset;
"""
Extent = tuple[int, int, int, Sequence[int]]  # updates, places, elements of an update and place, ints of the place


def _scatter(node: Node, place: str, ints: int, extent: Callable[[Call], Extent], message: str) -> KernelSource | Refusal:
    """The kernel of a node whose updates go where the text `place` says, with so many ints."""
    refusal = refuse_reduction(node)
    if refusal is not None:
        return refusal
    dtype, reduction, first = node.operands[0].tensor.dtype, node.attr("reduction"), first_int(node)
    typ, item, each = moved_as(dtype) if reduction == "none" else (str(dtype), dtype.itemsize, 1)
    wide = 16 // item

    def bind(call: Call) -> Launch:
        count, places, inner, more = extent(call)
        inner *= each
        total = checked_size(math.prod(call.operands[0]) * each)
        units = blocks_for(checked_size(count * inner), THREADS)
        link = blocks_for(count, THREADS) if count != 1 or not inner else 0  # one update alone needs no list
        begin = blocks_for(max(places if link else 0, blocks_for(total, wide)), THREADS)
        room = HEAD + 4 * (places + count) if link else HEAD
        return Launch((count, inner, fast_div(inner), places if link else 0, total, *more), 1, room, (begin, link, link, units))

    def text() -> str:
        words = {"AT": first + SMALL, "INDEX": node.operands[1].tensor.dtype, "FIRST": first, "HEAD": HEAD, "WIDE": wide,
                 "LAST": first + SMALL + ints, "WORDS": first + SMALL + ints + 1, "COMBINED": _COMBINE[reduction],
                 "THREADS": THREADS}  # fmt: skip
        lines = place.replace("INDEX", str(words["INDEX"])).strip("\n").replace("\n", "\n    ")
        return fill_in(_SCATTER.replace("PLACE", lines).replace("TYPE", typ), **words).lstrip("\n")

    return KernelSource(text, bind, in_place=frozenset({0}), checked=message)


@serves("scatter_elements")
def scatter_elements(node: Node) -> KernelSource | Refusal:
    """The kernel of scatter_elements."""
    refusal = unsupported(node, 1) or wide_elements(node)
    if refusal:
        return refusal
    x = node.operands[0].tensor
    axis = node.attr("axis") % x.rank

    def extent(call: Call) -> Extent:
        data, indices = call.operands[:2]
        return math.prod(indices), math.prod(data), 1, along_axis(axis, data, indices)[1:]

    place = fill_in(_ELEMENT, OUTER=x.rank - 1)
    return _scatter(node, place, 1 + 2 * x.rank, extent, f"scatter_elements: an index lies outside of the axis {axis} of data {x}")


@serves("scatter_nd")
def scatter_nd(node: Node) -> KernelSource | Refusal:
    """The kernel of scatter_nd."""
    depth, refusal = tuple_length(node), unsupported(node, 1)
    if refusal or isinstance(depth, Refusal):
        return refusal or depth

    def extent(call: Call) -> Extent:
        data, indices = call.operands[:2]
        return math.prod(indices[:-1]), math.prod(data[:depth]), math.prod(data[depth:]), data[:depth]

    message = f"scatter_nd: an index lies outside of data {node.operands[0].tensor}"
    return _scatter(node, fill_in(_TUPLE, DEPTH=depth), depth, extent, message)


# ---- tensor_scatter: cache [batch, between, size, inner], update [batch, between, steps, inner]

_CACHE = """
template <class W, class P> DEVICE void update(const P& p) {
    u32 u = blockIdx.x * THREADS + threadIdx.x, total = p[FIRST];
    if (u >= total) return;
    FastDiv units(p[FIRST + 1]), size(p[FIRST + 2]), between(p[FIRST + 3]);
    u32 q = u / units, line = q / size, e = u - q * units.d;
    i64 t = q - line * size.d, steps = p[FIRST + 4], start = START, from;
    WHICH
    i64 to = p[OUT] + i64(u) * sizeof(W);
    bool aligned = ((p[0] | p[1] | p[OUT]) & (sizeof(W) - 1)) == 0;
    if (from >= 0 && from < steps) move<W>(to, p[1] + ((line * steps + from) * units.d + e) * sizeof(W), aligned);
    else if (p[0] != p[OUT]) move<W>(to, p[0] + i64(u) * sizeof(W), aligned);
}
"""
_LINEAR = """
from = t - start;
if (start < 0 || start > size.d - steps) {
    report(p[OUT + 1]);
    from = -1;
}
"""
# Of the updates that come around to one place the last wins.
_CIRCULAR = """
from = (t - mod(start, i64(size.d)) + size.d) % size.d;
if (from < steps) from += (steps - 1 - from) / size.d * size.d;
"""


@serves("tensor_scatter")
def tensor_scatter(node: Node) -> KernelSource | Refusal:
    """The kernel of tensor_scatter."""
    refusal = refuse_strings(node) or refuse_layouts(node)
    if refusal:
        return refusal
    x, first = node.operands[0].tensor, first_int(node)
    axis, item, circular = node.attr("axis") % x.rank, x.dtype.itemsize, node.attr("mode") == "circular"

    def bind(call: Call) -> Launch:
        dims, update = call.operands[:2]
        nbytes = math.prod(dims[axis + 1 :]) * item
        width = unit_width(nbytes, (), item)
        units = nbytes // width
        total = checked_size(math.prod(dims[: axis + 1]) * units)
        ints = (total, fast_div(units), fast_div(dims[axis]), fast_div(math.prod(dims[1:axis])), update[axis], width)
        return Launch(ints, blocks_for(total, THREADS), FLAG)

    def text() -> str:
        start = "0" if node.operand(2) is None else "ld_i64(p[2], line / between)"
        which = (_CIRCULAR if circular else _LINEAR).strip("\n").replace("\n", "\n    ")
        words = {"FIRST": first, "OUT": first - 2, "START": start, "THREADS": THREADS}
        cases = [f"    case {w}: return update<{unit}>(p);" for w, unit in unit_widths(item)]
        helper = fill_in(_CACHE.replace("WHICH", which), **words).strip("\n")
        return kernel(THREADS, first + 6, [f"switch (p[{first + 5}]) {{", *cases, "}"], [unit_helpers(item), helper])

    message = f"tensor_scatter: an update does not fit the axis {axis} of the cache {x} at its write index"
    return KernelSource(text, bind, in_place=frozenset({0}), checked=message)
