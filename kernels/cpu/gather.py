"""Reading and writing by index. Negative indices count from the end; one that is out of range is reported, never followed."""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.types import SIGNED, U8, U16, U32
from ..boxes import strides_of
from ..indexing import (
    FLAG,
    moved_as,
    refuse_reduction,
    slicers,
    slices_of,
    tuple_length,
    unsupported,
    wide_elements,
)
from ..operands import fill_in, first_int, refuse_layouts, refuse_strings, tiles_for
from ..spec import Call, Dims, KernelSource, Launch, Refusal
from .target import serves

# ---- slices: gather, gather_nd

# data[outer, sizes..., inner], tuples of indices [outer or 1, count, depth] -> [outer, count, inner]
_SLICES = """
def kernel(p, tile, ntiles):
    data = param(p, 0)
    indices = param(p, 1)
    out = param(p, 2)
    count = param(p, FIRST + 1)
    inner = param(p, FIRST + 2)
    span = param(p, FIRST + 3)
    batch = param(p, FIRST + 4)
    depth = param(p, FIRST + 5)
    total = param(p, FIRST) * count
    at = total * tile // ntiles
    end = total * (tile + 1) // ntiles
    while at < end:
        row = at // count
        first = at - row * count
        last = minimum(count, first + end - at)
        source = data + row * span
        chosen = row * batch
        for j in range(first, last):
            offset = 0
            good = True
            for k in range(depth):
                n = param(p, FIRST + 6 + k)
                i = ld_INDEX(indices, (chosen + j) * depth + k) + 0
                if FROM_END and i < 0:
                    i += n
                good = good and 0 <= i < n
                offset = offset * n + i
            if good:
                s = source + offset * inner * ITEM
                d = out + (row * count + j) * inner * ITEM
                for e in range(inner):
                    st_TYPE(d, e, ld_TYPE(s, e))
            else:
                st_i64(param(p, 3), 0, 1)
        at += last - first
"""


@serves(*slicers())
def slices(node: Node) -> KernelSource | Refusal:
    """The kernel of a node that gathers slices."""
    found = slices_of(node)
    if isinstance(found, Refusal):
        return found
    typ, item, each = moved_as(node.operands[0].tensor.dtype)

    def bind(call: Call) -> Launch:
        e = found.extent(call)
        inner, units = e.inner * each, e.rows * e.count
        ints = (e.rows, e.count, inner, e.span * each * item, 0 if found.shared else e.count, found.indices, *e.axes)
        return Launch(ints, tiles_for(units, units * inner), FLAG, units=units)

    text = _SLICES.replace("INDEX", str(node.operands[1].tensor.dtype)).replace("TYPE", typ)
    text = fill_in(text, FIRST=first_int(node), ITEM=item, FROM_END=found.from_end)
    return KernelSource(text, bind, checked=found.message)


# ---- elements: gather_elements, scatter_elements

_ELEMENTS = """
def kernel(p, tile, ntiles):
    data = param(p, 0)
    indices = param(p, 1)
    out = param(p, FIRST - 2)
COPY    outer = param(p, FIRST + 1)
    count = param(p, FIRST + 2)
    step = param(p, FIRST + 3)
    size = param(p, FIRST + 4)
    stride = param(p, FIRST + 5)
    units = param(p, FIRST)
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        rest = u
        base = 0
        for k in range(FIRST + 6, FIRST + 6 + 2 * outer, 2):
            n = param(p, k)
            q = rest // n
            base += (rest - q * n) * param(p, k + 1)
            rest = q
        for j in range(count):
            i = ld_INDEX(indices, u * count + j) + 0
            if i < 0:
                i += size
            if 0 <= i < size:
                at = base + j * step + i * stride
                to = u * count + j
MOVE            else:
                st_i64(param(p, FIRST - 1), 0, 1)
"""
_COPY = """
    if data != out:
        for e in range(param(p, TOTAL)):
            st_TYPE(out, e, ld_TYPE(data, e))
"""
_UPDATE = """
                b = ld_TYPE(param(p, 2), to)
                a = ld_TYPE(out, at)
                st_TYPE(out, at, COMBINED)
"""
# How the old value `a` and the update `b` combine. Comparisons let NaN through.
_COMBINE = {"none": "b", "add": "a + b", "mul": "a * b", "max": "b if b > a or b != b else a", "min": "b if b < a or b != b else a"}


def along_axis(axis: int, data: Dims, indices: Dims, each: int) -> list[int]:
    """The integers of `_ELEMENTS`: for each row of the indices' last axis its number of elements, where they lie in data."""
    strides = [s * each for s in strides_of(data)]
    stride, size = strides[axis], data[axis]
    strides[axis] = 0
    outer = list(zip(indices, strides, strict=True))[:-1]
    ints = [math.prod(indices[:-1]), len(outer), indices[-1], strides[-1], size, stride]
    return ints + [x for pair in reversed(outer) for x in pair]


@serves("gather_elements")
def gather_elements(node: Node) -> KernelSource | Refusal:
    refusal = unsupported(node, 1) or wide_elements(node)
    if refusal:
        return refusal
    x = node.operands[0].tensor
    typ, _, _ = moved_as(x.dtype)
    axis, first = node.attr("axis") % x.rank, first_int(node)

    def bind(call: Call) -> Launch:
        ints = along_axis(axis, call.operands[0], call.operands[1], 1)
        return Launch(tuple(ints), tiles_for(ints[0], ints[0] * ints[2]), FLAG, units=ints[0])

    text = _ELEMENTS.replace("COPY", "").replace("MOVE", "                st_TYPE(out, to, ld_TYPE(data, at))\n")
    text = fill_in(text.replace("TYPE", typ).replace("INDEX", str(node.operands[1].tensor.dtype)), FIRST=first)
    return KernelSource(text, bind, checked=f"gather_elements: an index lies outside of the axis {axis} of data {x}")


def combine(node: Node) -> tuple[str, str] | Refusal:
    """The type in which updates are combined, and the expression."""
    dtype, reduction = node.operands[0].tensor.dtype, node.attr("reduction")
    if reduction == "none":
        return moved_as(dtype)[0], "b"
    return refuse_reduction(node) or (str(dtype), _COMBINE[reduction])


@serves("scatter_elements")
def scatter_elements(node: Node) -> KernelSource | Refusal:
    refusal = unsupported(node, 1) or wide_elements(node)
    how = combine(node)
    if refusal or isinstance(how, Refusal):
        return refusal or how
    x, (typ, expression) = node.operands[0].tensor, how
    axis, first = node.attr("axis") % x.rank, first_int(node)

    def bind(call: Call) -> Launch:
        ints = along_axis(axis, call.operands[0], call.operands[1], 1)
        return Launch((*ints, math.prod(call.operands[0])), 1, FLAG)

    text = _ELEMENTS.replace("COPY", _COPY.lstrip("\n")).replace("MOVE", _UPDATE.lstrip("\n")).replace("COMBINED", expression)
    text = text.replace("TYPE", typ).replace("INDEX", str(node.operands[1].tensor.dtype))
    # The number of elements of data stands behind the pairs of the outer loops.
    text = fill_in(text, FIRST=first, TOTAL=first + 6 + 2 * (x.rank - 1))
    message = f"scatter_elements: an index lies outside of the axis {axis} of data {x}"
    return KernelSource(text, bind, in_place=frozenset({0}), checked=message)


# ---- scatter_nd

_SCATTER_SLICES = """
def kernel(p, tile, ntiles):
    data = param(p, 0)
    indices = param(p, 1)
    updates = param(p, 2)
    out = param(p, 3)
    count = param(p, FIRST + 1)
    inner = param(p, FIRST + 2)
COPY    for j in range(count):
        offset = 0
        good = True
        for k in range(DEPTH):
            n = param(p, FIRST + 3 + k)
            i = ld_INDEX(indices, j * DEPTH + k) + 0
            if i < 0:
                i += n
            good = good and 0 <= i < n
            offset = offset * n + i
        if good:
            for e in range(inner):
                b = ld_TYPE(updates, j * inner + e)
                a = ld_TYPE(out, offset * inner + e)
                st_TYPE(out, offset * inner + e, COMBINED)
        else:
            st_i64(param(p, 4), 0, 1)
"""


@serves("scatter_nd")
def scatter_nd(node: Node) -> KernelSource | Refusal:
    how, depth = combine(node), tuple_length(node)
    refusal = unsupported(node, 1)
    if refusal or isinstance(how, Refusal):
        return refusal or how
    if isinstance(depth, Refusal):
        return depth
    x, (typ, expression) = node.operands[0].tensor, how
    first, each = first_int(node), x.dtype.itemsize // min(8, x.dtype.itemsize) if node.attr("reduction") == "none" else 1

    def bind(call: Call) -> Launch:
        data, indices = call.operands[:2]
        return Launch((math.prod(data) * each, math.prod(indices[:-1]), math.prod(data[depth:]) * each, *data[:depth]), 1, FLAG)

    text = _SCATTER_SLICES.replace("COPY", _COPY.lstrip("\n")).replace("COMBINED", expression)
    text = text.replace("TYPE", typ).replace("INDEX", str(node.operands[1].tensor.dtype))
    text = fill_in(text, FIRST=first, TOTAL=first, DEPTH=depth)
    return KernelSource(text, bind, in_place=frozenset({0}), checked=f"scatter_nd: an index lies outside of data {x}")


# ---- tensor_scatter

# cache [batch, between, size, inner], update [batch, between, steps, inner]
_CACHE = """
def kernel(p, tile, ntiles):
    cache = param(p, 0)
    out = param(p, FIRST - 2)
    between = param(p, FIRST + 1)
    size = param(p, FIRST + 2)
    steps = param(p, FIRST + 3)
    inner = param(p, FIRST + 4)
    units = param(p, FIRST)
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        row = out + u * size * inner
        if out != cache:
            memcpy(row, cache + u * size * inner, size * inner)
        at = START
        new = param(p, 1) + u * steps * inner
        if WRONG:
            st_i64(param(p, FIRST - 1), 0, 1)
        else:
            for t in range(steps):
                memcpy(row + (at + t) % size * inner, new + t * inner, inner)
"""


@serves("tensor_scatter")
def tensor_scatter(node: Node) -> KernelSource | Refusal:
    refusal = refuse_strings(node) or refuse_layouts(node)
    if refusal:
        return refusal
    x = node.operands[0].tensor
    axis, item, circular = node.attr("axis") % x.rank, x.dtype.itemsize, node.attr("mode") == "circular"

    def bind(call: Call) -> Launch:
        dims, update = call.operands[:2]
        units = math.prod(dims[:axis])
        inner = math.prod(dims[axis + 1 :]) * item
        ints = (units, math.prod(dims[1:axis]), dims[axis], update[axis], inner)
        return Launch(ints, tiles_for(units, math.prod(dims)), FLAG, units=units)

    start = "0" if node.operand(2) is None else "ld_i64(param(p, 2), u // between)"
    # Circular: a huge start must not overflow; with steps > size the last ones win, as in the loop's order.
    start, wrong = (f"{start} % maximum(size, 1)", "size == 0") if circular else (start, "at < 0 or at > size - steps")
    message = f"tensor_scatter: an update does not fit the axis {axis} of the cache {x} at its write index"
    text = fill_in(_CACHE, FIRST=first_int(node), START=start, WRONG=wrong)
    return KernelSource(text, bind, in_place=frozenset({0}), checked=message)


# ---- one_hot

# indices [outer, inner], values [off, on] -> [outer, depth, inner]
_ONE_HOT = """
def kernel(p, tile, ntiles):
    indices = param(p, 0)
    out = param(p, 3)
    off = ld_TYPE(param(p, 2), 0)
    on = ld_TYPE(param(p, 2), 1)
    outer = param(p, FIRST)
    depth = param(p, FIRST + 1)
    inner = param(p, FIRST + 2)
    for a in range(outer * tile // ntiles, outer * (tile + 1) // ntiles):
        row = out + a * depth * inner * ITEM
        for e in range(depth * inner):
            st_TYPE(row, e, off)
        for b in range(inner):
            i = ld_INDEX(indices, a * inner + b) + 0
            if i < 0:
                i += depth
            if 0 <= i < depth:
                st_TYPE(row, i * inner + b, on)
"""


@serves("one_hot")
def one_hot(node: Node) -> KernelSource | Refusal:
    refusal = refuse_strings(node) or refuse_layouts(node)
    if node.operands[0].tensor.dtype not in SIGNED | {U8, U16, U32}:
        refusal = refusal or Refusal("indices are no integers of up to 64 bits with a sign", {"indices": node.operands[0].type})
    values, y = node.operands[2].tensor, node.results[0].tensor
    if refusal or values.dtype.itemsize > 8:
        return refusal or Refusal("elements of 16 bytes have no kernel", {"values": values})
    typ, item, _ = moved_as(values.dtype)
    axis = node.attr("axis") % y.rank

    def bind(call: Call) -> Launch:
        dims = call.results[0]
        outer = math.prod(dims[:axis])
        return Launch((outer, dims[axis], math.prod(dims[axis + 1 :])), tiles_for(outer, math.prod(dims)), units=outer)

    text = _ONE_HOT.replace("TYPE", typ).replace("INDEX", str(node.operands[0].tensor.dtype))
    return KernelSource(fill_in(text, FIRST=first_int(node), ITEM=item), bind)
