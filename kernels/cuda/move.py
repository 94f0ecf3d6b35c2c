"""Data movement: everything that is a list of boxes (see ../moves.py), and the few operators that are not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir.core import Node
from ..boxes import Box, Mover, dense
from ..indexing import FLAG, moved_as
from ..moves import Moves, movers, moves_of
from ..operands import fill_in, first_int, refuse_layouts, refuse_strings
from ..spec import Call, KernelSource, Launch, Refusal
from .boxes import INLINE, copy_text, launch
from .source import MOST_WORDS, fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel
from .units import unit_helpers, unit_width, unit_widths

THREADS = 256


@serves(*movers())
def copier(node: Node) -> KernelSource | Refusal:
    """The kernel of a node that copies boxes of elements of its result's type."""
    found = moves_of(node)
    return found if isinstance(found, Refusal) else mover(node, found)


def mover(node: Node, found: Moves) -> KernelSource | Refusal:
    """The kernel that copies what was found of a node."""
    at, item = first_int(node, 1), node.results[0].tensor.dtype.itemsize
    if at + 2 + INLINE > MOST_WORDS:
        return Refusal("more operands and results than a kernel's parameters hold", {"operands": len(node.operands)})

    def copy(some: Sequence[Box]) -> Launch:
        return launch(some, item)

    return Mover(lambda: copy_text(at, item), lambda call: copy(found.boxes(call)), "boxes", host=found.host, boxes=found.boxes,
                 copy=copy)  # fmt: skip


# ---- what no list of boxes says; a thread writes 16 bytes

_TRILU = """
u32 total = p[FIRST], first = (blockIdx.x * THREADS + threadIdx.x) * WIDE;
if (first >= total) return;
FastDiv cols(p[FIRST + 1]), rows(p[FIRST + 2]);
i64 shift = SHIFT, bound = 1ll << 40;
shift = shift < -bound ? -bound : shift > bound ? bound : shift;
bool whole = first + WIDE <= total && ((p[0] | p[OUT]) & 15) == 0;
auto values = read_pack<element_TYPE, WIDE>(p[0], first, total, whole);
#pragma unroll
for (u32 j = 0; j < WIDE; j++) {
    u32 row = (first + j) / cols, col = first + j - row * cols.d;
    if (!(i64(col) ORDER i64(row % rows) + shift)) values.set(j, 0);
}
write_pack(p[OUT], first, total, whole, values);
"""


@serves("trilu")
def trilu(node: Node) -> KernelSource | Refusal:
    """The kernel of trilu."""
    refusal = refuse_strings(node) or refuse_layouts(node)
    dtype, first = node.results[0].tensor.dtype, first_int(node)
    if refusal or dtype.itemsize > 8:
        return refusal or Refusal("elements of 16 bytes have no kernel", {"type": dtype})
    typ, item, _ = moved_as(dtype)
    wide = 16 // item

    def bind(call: Call) -> Launch:
        total = checked_size(math.prod(call.results[0]))
        rows, cols = call.results[0][-2:]
        return Launch((total, fast_div(cols), fast_div(rows)), blocks_for(total, THREADS * wide))

    shift, order = "0" if node.operand(1) is None else "ld_i64(p[1], 0)", ">=" if node.attr("upper") else "<="
    text = fill_in(_TRILU.replace("TYPE", typ), FIRST=first, OUT=first - 2, THREADS=THREADS, WIDE=wide, SHIFT=shift, ORDER=order)
    return KernelSource(lambda: kernel(THREADS, first + 3, text.strip("\n").split("\n")), bind)


_RANGE = """
u32 total = p[FIRST], first = (blockIdx.x * THREADS + threadIdx.x) * WIDE;
if (first >= total) return;
auto start = ld_TYPE(p[0], 0), delta = ld_TYPE(p[2], 0);
Pack<element_TYPE, WIDE> values;
#pragma unroll
for (u32 j = 0; j < WIDE; j++) values.set(j, add(start, mul(to_REGISTER(first + j), delta)));
write_pack(p[3], first, total, first + WIDE <= total && (p[3] & 15) == 0, values);
"""


@serves("range")
def range_(node: Node) -> KernelSource | Refusal:
    """The kernel of range."""
    dtype, first = node.results[0].tensor.dtype, first_int(node)
    if node.attr("stash_type") != 1 and dtype.bits < 32 and dtype.is_float:
        return Refusal("this float type is computed in f32 only", {"type": dtype, "stash_type": node.attr("stash_type")})
    wide = 16 // dtype.itemsize
    text = _RANGE.replace("TYPE", str(dtype)).replace("REGISTER", "f32" if dtype.is_float and dtype.bits < 32 else str(dtype))

    def bind(call: Call) -> Launch:
        total = checked_size(call.results[0][0])
        return Launch((total,), blocks_for(total, THREADS * wide))

    body = fill_in(text, FIRST=first, THREADS=THREADS, WIDE=wide).strip("\n").split("\n")
    return KernelSource(lambda: kernel(THREADS, first + 1, body), bind)


_REVERSE = """
template <class W, class P> DEVICE void reverse(const P& p) {
    u32 u = blockIdx.x * THREADS + threadIdx.x, total = p[FIRST];
    if (u >= total) return;
    FastDiv units(p[FIRST + 1]), second(p[FIRST + 2]);
    u32 q = u / units, i0 = q / second, i1 = q - i0 * second.d;
    i64 t = TIME, steps = p[FIRST + 3], length = ld_i64(p[1], BATCH), from = t;
    if (length < 0 || length > steps) report(p[3]);
    else if (t < length) from = length - 1 - t;
    i64 source = p[0] + i64(u) * sizeof(W) + (from - t) * p[FIRST + 4];
    move<W>(p[2] + i64(u) * sizeof(W), source, ((p[0] | p[2]) & (sizeof(W) - 1)) == 0);
}
"""


@serves("reverse_sequence")
def reverse_sequence(node: Node) -> KernelSource | Refusal:
    """The kernel of reverse_sequence."""
    refusal = refuse_strings(node) or refuse_layouts(node)
    if refusal:
        return refusal
    item, time, first = node.operands[0].tensor.dtype.itemsize, node.attr("time_axis"), first_int(node)

    def bind(call: Call) -> Launch:
        shape = call.operands[0]
        nbytes = math.prod(shape[2:]) * item
        width = unit_width(nbytes, (), item)
        units = nbytes // width
        total = checked_size(shape[0] * shape[1] * units)
        step = dense(node.operands[0], shape)[time] * item
        return Launch((total, fast_div(units), fast_div(shape[1]), shape[time], step, width), blocks_for(total, THREADS), FLAG)

    def text() -> str:
        words = {"TIME": f"i{time}", "BATCH": f"i{1 - time}", "FIRST": first, "THREADS": THREADS}
        cases = [f"    case {w}: return reverse<{unit}>(p);" for w, unit in unit_widths(item)]
        return kernel(THREADS, first + 6, [f"switch (p[{first + 5}]) {{", *cases, "}"],
                      [unit_helpers(item), fill_in(_REVERSE, **words).strip("\n")])  # fmt: skip

    message = f"reverse_sequence: a length lies outside of [0, the size of axis {time} of {node.operands[0].type}]"
    return KernelSource(text, bind, checked=message)
