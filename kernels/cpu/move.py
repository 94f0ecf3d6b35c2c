"""Data movement: everything that is a list of boxes (see ../moves.py), and the few operators that are not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.core import Node
from ..boxes import Box, Mover, dense
from ..moves import movers, moves_of
from ..operands import fill_in, first_int, refuse_layouts, refuse_strings, tiles_for
from ..spec import Call, KernelSource, Launch, Refusal
from .boxes import copy_text, launch
from .target import serves


@serves(*movers())
def copier(node: Node) -> KernelSource | Refusal:
    """The kernel of a node that copies boxes of elements of its result's type."""
    found = moves_of(node)
    if isinstance(found, Refusal):
        return found
    at, item = first_int(node), node.results[0].tensor.dtype.itemsize

    def copy(some: Sequence[Box]) -> Launch:
        return launch(some, at, item)

    return Mover(copy_text(at, item), lambda call: copy(found.boxes(call)), host=found.host, boxes=found.boxes, copy=copy)


# ---- what no list of boxes says

_TRILU = """
def kernel(p, tile, ntiles):
    out = param(p, FIRST - 2)
    rows = param(p, FIRST + 1)
    cols = param(p, FIRST + 2)
    units = param(p, FIRST)
    shift = SHIFT
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        source = param(p, 0) + u * cols * ITEM
        row = out + u * cols * ITEM
        cut = minimum(maximum(u % rows + shift, 0), cols)
        for j in range(cut):
            put_TYPE(row, j, BEFORE)
        for j in range(cut, cols):
            put_TYPE(row, j, AFTER)
"""


@serves("trilu")
def trilu(node: Node) -> KernelSource | Refusal:
    refusal = refuse_strings(node) or refuse_layouts(node)
    dtype, upper = node.results[0].tensor.dtype, bool(node.attr("upper"))
    if refusal or dtype.itemsize > 8:
        return refusal or Refusal("elements of 16 bytes have no kernel", {"type": dtype})
    typ, item = f"u{8 * dtype.itemsize}", dtype.itemsize

    def bind(call: Call) -> Launch:
        *batch, rows, cols = call.results[0]
        units = math.prod(batch) * rows
        return Launch((units, rows, cols), tiles_for(units, units * cols), units=units)

    copy, zero = f"get_{typ}(source, j)", f"{typ}(0)"
    words = {"BEFORE": zero if upper else copy, "AFTER": copy if upper else zero}
    shift = "0" if node.operand(1) is None else "minimum(maximum(ld_i64(param(p, 1), 0), -(1 << 40)), 1 << 40)"
    words["SHIFT"] = shift if upper else f"{shift} + 1"
    return KernelSource(fill_in(_TRILU.replace("TYPE", typ), FIRST=first_int(node), ITEM=item, **words), bind)


_REVERSE = """
def kernel(p, tile, ntiles):
    lens = param(p, 1)
    steps = param(p, FIRST)
    batch = param(p, FIRST + 1)
    size = param(p, FIRST + 2)
    step = param(p, FIRST + 3)
    entry = param(p, FIRST + 4)
    units = steps * batch
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        t = u // batch
        b = u - t * batch
        n = ld_i64(lens, b)
        if n < 0 or n > steps:
            st_i64(param(p, 3), 0, 1)
            n = 0
        from_ = n - 1 - t if t < n else t
        memcpy(param(p, 2) + t * step + b * entry, param(p, 0) + from_ * step + b * entry, size)
"""


@serves("reverse_sequence")
def reverse_sequence(node: Node) -> KernelSource | Refusal:
    refusal = refuse_strings(node) or refuse_layouts(node)
    if refusal:
        return refusal
    item, time, batch = node.operands[0].tensor.dtype.itemsize, node.attr("time_axis"), node.attr("batch_axis")

    def bind(call: Call) -> Launch:
        shape = call.operands[0]
        strides = [s * item for s in dense(node.operands[0], shape)]
        units, size = shape[0] * shape[1], math.prod(shape[2:]) * item
        ints = (shape[time], shape[batch], size, strides[time], strides[batch])
        return Launch(ints, tiles_for(units, units * size // item), 8, units=units)

    message = f"reverse_sequence: a length lies outside of [0, the size of axis {time} of {node.operands[0].type}]"
    return KernelSource(fill_in(_REVERSE, FIRST=first_int(node)), bind, checked=message)


_RANGE = """
def kernel(p, tile, ntiles):
    start = ld_TYPE(param(p, 0), 0)
    delta = ld_TYPE(param(p, 2), 0)
    out = param(p, 3)
    n = param(p, FIRST)
    for i in range(n * tile // ntiles, n * (tile + 1) // ntiles):
        st_TYPE(out, i, add(start, mul(to_WIDE(i), delta)))
"""


@serves("range")
def range_(node: Node) -> KernelSource | Refusal:
    dtype = node.results[0].tensor.dtype
    if node.attr("stash_type") != 1 and dtype.bits < 32 and dtype.is_float:
        return Refusal("this float type is computed in f32 only", {"type": dtype, "stash_type": node.attr("stash_type")})
    wide = "f32" if dtype.is_float and dtype.bits < 32 else str(dtype)
    text = _RANGE.replace("TYPE", str(dtype)).replace("WIDE", wide)

    def bind(call: Call) -> Launch:
        (n,) = call.results[0]
        return Launch((n,), tiles_for(n, n), units=n)

    return KernelSource(fill_in(text, FIRST=first_int(node)), bind)
