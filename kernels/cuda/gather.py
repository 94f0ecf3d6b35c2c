"""Reading by index: gather, gather_nd, gather_elements, array_feature_extractor, one_hot. Neighbouring threads write neighbours
and, in a slice, read them; an index that is out of range is noted in scratch memory, never followed."""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.types import SIGNED, U8, U16, U32
from ..boxes import strides_of
from ..indexing import FLAG, moved_as, slicers, slices_of, unsupported, wide_elements
from ..moves import picked
from ..operands import fill_in, first_int, refuse_layouts, refuse_strings
from ..spec import Call, KernelSource, Launch, Refusal
from .move import mover
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel
from .units import unit_helpers, unit_width, unit_widths

THREADS = 256

# ---- slices: a thread copies one unit of a slice

_SLICES = """
template <class W, class P> DEVICE void slices(const P& p) {
    u32 u = blockIdx.x * THREADS + threadIdx.x, total = p[FIRST];
    if (u >= total) return;
    FastDiv units(p[FIRST + 1]), count(p[FIRST + 2]);
    u32 q = u / units, row = q / count;
    i64 at = p[FIRST + 4] * row + (q - row * count.d), offset = 0;
    bool good = true;
#pragma unroll
    for (u32 k = 0; k < DEPTH; k++) {
        i64 n = p[FIRST + 6 + k], i = ld_INDEX(p[1], at * DEPTH + k);
        if (FROM_END && i < 0) i += n;
        good = good && 0 <= i && i < n;
        offset = offset * n + i;
    }
    if (!good) {
        report(p[3]);
        return;
    }
    i64 source = p[0] + row * p[FIRST + 3] + (offset * units.d + (u - q * units.d)) * sizeof(W);
    move<W>(p[2] + i64(u) * sizeof(W), source, ((p[0] | p[2]) & (sizeof(W) - 1)) == 0);
}
"""


@serves(*slicers())
def slices(node: Node) -> KernelSource | Refusal:
    """The kernel of a node that gathers slices."""
    found, box = slices_of(node), picked(node) if node.op.name == "gather" else None
    if isinstance(found, Refusal):
        return found
    if box is not None:
        return mover(node, box)
    item, index, first = node.operands[0].tensor.dtype.itemsize, node.operands[1].tensor.dtype, first_int(node)

    def bind(call: Call) -> Launch:
        """Ints: units in all, divisors by the units of a slice and by the slices of a row, bytes of a row of data, tuples of a row
        (0 where all share them), bytes of a unit, the axes."""
        e = found.extent(call)
        nbytes, span = e.inner * item, e.span * item
        width = unit_width(nbytes, [span], item)
        units = nbytes // width
        total = checked_size(e.rows * e.count * units)
        ints = (total, fast_div(units), fast_div(e.count), span, 0 if found.shared else e.count, width, *e.axes)
        return Launch(ints, blocks_for(total, THREADS), FLAG)

    def text() -> str:
        words = {"THREADS": THREADS, "FIRST": first, "DEPTH": found.indices, "FROM_END": str(found.from_end).lower()}
        helper = fill_in(_SLICES.replace("INDEX", str(index)), **words).strip("\n")
        cases = [f"    case {w}: return slices<{unit}>(p);" for w, unit in unit_widths(item)]
        body = [f"switch (p[{first + 5}]) {{", *cases, "}"]
        return kernel(THREADS, first + 6 + found.indices, body, [unit_helpers(item), helper])

    return KernelSource(text, bind, checked=found.message)


# ---- elements

_ELEMENTS = """
u32 u = blockIdx.x * THREADS + threadIdx.x, total = p[FIRST];
if (u >= total) return;
i64 i = ld_INDEX(p[1], u), size = p[FIRST + 1];
if (i < 0) i += size;
if (i < 0 || i >= size) {
    report(p[3]);
    return;
}
i64 at = i * p[FIRST + 2];
u32 rest = u;
#pragma unroll
for (u32 k = 0; k < OUTER; k++) {
    FastDiv n(p[FIRST + 4 + 2 * k]);
    u32 q = rest / n;
    at += (rest - q * n.d) * p[FIRST + 5 + 2 * k];
    rest = q;
}
st_TYPE(p[2], u, ld_TYPE(p[0], at + rest * p[FIRST + 3]));
"""


def along_axis(axis: int, data: tuple[int, ...], indices: tuple[int, ...]) -> list[int]:
    """The ints of kernels along an axis: number of indices, size and stride of the axis, stride of axis 0 of what is else, then of
    the other axes from the last on the divisor by their size and their stride."""
    strides = list(strides_of(data))
    stride, strides[axis] = strides[axis], 0
    pairs = [x for a in range(len(data) - 1, 0, -1) for x in (fast_div(indices[a]), strides[a])]
    return [checked_size(math.prod(indices)), data[axis], stride, strides[0], *pairs]


@serves("gather_elements")
def gather_elements(node: Node) -> KernelSource | Refusal:
    """The kernel of gather_elements."""
    refusal = unsupported(node, 1) or wide_elements(node)
    if refusal:
        return refusal
    x, index, first = node.operands[0].tensor, node.operands[1].tensor.dtype, first_int(node)
    axis = node.attr("axis") % x.rank

    def bind(call: Call) -> Launch:
        ints = along_axis(axis, call.operands[0], call.operands[1])
        return Launch(tuple(ints), blocks_for(ints[0], THREADS), FLAG)

    text = _ELEMENTS.replace("TYPE", moved_as(x.dtype)[0]).replace("INDEX", str(index))
    body = fill_in(text, THREADS=THREADS, FIRST=first, OUTER=x.rank - 1).strip("\n").split("\n")
    message = f"gather_elements: an index lies outside of the axis {axis} of data {x}"
    return KernelSource(lambda: kernel(THREADS, first + 2 + 2 * x.rank, body), bind, checked=message)


# ---- one_hot: indices [outer, inner], values [off, on] -> [outer, depth, inner]; a thread writes 16 bytes

_ONE_HOT = """
u32 total = p[FIRST], first = (blockIdx.x * THREADS + threadIdx.x) * WIDE;
if (first >= total) return;
FastDiv inner(p[FIRST + 1]), depth(p[FIRST + 2]);
auto off = ld_TYPE(p[2], 0), on = ld_TYPE(p[2], 1);
Pack<element_TYPE, WIDE> values;
#pragma unroll
for (u32 j = 0; j < WIDE; j++) {
    u32 u = first + j < total ? first + j : first, q = u / inner, a = q / depth;
    i64 i = ld_INDEX(p[0], a * inner.d + (u - q * inner.d));
    if (i < 0) i += depth.d;
    values.set(j, i == i64(q - a * depth.d) ? on : off);
}
write_pack(p[3], first, total, first + WIDE <= total && (p[3] & 15) == 0, values);
"""


@serves("one_hot")
def one_hot(node: Node) -> KernelSource | Refusal:
    """The kernel of one_hot for indices that are integers."""
    refusal = refuse_strings(node) or refuse_layouts(node)
    if node.operands[0].tensor.dtype not in SIGNED | {U8, U16, U32}:
        refusal = refusal or Refusal("indices are no integers of up to 64 bits with a sign", {"indices": node.operands[0].type})
    values, y, first = node.operands[2].tensor, node.results[0].tensor, first_int(node)
    if refusal or values.dtype.itemsize > 8:
        return refusal or Refusal("elements of 16 bytes have no kernel", {"values": values})
    typ, item, _ = moved_as(values.dtype)
    axis, wide = node.attr("axis") % y.rank, 16 // item

    def bind(call: Call) -> Launch:
        dims = call.results[0]
        total = checked_size(math.prod(dims))
        return Launch((total, fast_div(math.prod(dims[axis + 1 :])), fast_div(dims[axis])), blocks_for(total, THREADS * wide))

    text = _ONE_HOT.replace("TYPE", typ).replace("INDEX", str(node.operands[0].tensor.dtype))
    body = fill_in(text, THREADS=THREADS, FIRST=first, WIDE=wide).strip("\n").split("\n")
    return KernelSource(lambda: kernel(THREADS, first + 3, body), bind)
