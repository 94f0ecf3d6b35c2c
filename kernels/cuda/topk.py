"""The largest elements along an axis, in order: a block for each line.

An element becomes a number of 64 bits, its key above the complement of its place, so that all of a line differ, and of equal
elements the first is the greatest. Of a long line a radix search finds the digits of the least number to be taken, eight bits at a
time; what is taken is sorted, in shared memory where it finds room.
"""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.types import NUMERIC
from ..operands import fill_in, first_int, refuse_layouts
from ..printer import register
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import checked_size, kernel

THREADS = 512
HELD = 4096  # numbers in shared memory

# Keys in the order of the elements: NaN above all numbers, the zeros equal.
_KEYS = {
    "f": """
    u32 bits = bits_f32_u32(x);
    if (x != x) return ~0u;
    return x == f32(0) ? 1u << 31 : bits >> 31 ? ~bits : bits | 1u << 31;""",
    "i": "\n    return u32(i32(x)) ^ 1u << 31;",
    "u": "\n    return u32(x);",
}
# Sorts a power of two of numbers, the greatest first (Batcher's bitonic sorter).
SORT = f"""
DEVICE void sort(u64* list, u32 size) {{
    for (u32 span = 2; span <= size; span *= 2) {{
        for (u32 step = span / 2; step > 0; step /= 2) {{
            for (u32 i = threadIdx.x; i < size; i += {THREADS}) {{
                u64 a = list[i], b = list[i ^ step];
                if ((i & step) == 0 && (i & span ? a > b : a < b)) {{
                    list[i] = b;
                    list[i ^ step] = a;
                }}
            }}
            __syncthreads();
        }}
    }}
}}
"""
_KEY_OF = """
DEVICE u32 key_of(REGISTER x) {KEY
}
"""
_BODY = """
__shared__ u64 held[HELD];
__shared__ u32 bins[256], digit, left, filled;
FastDiv inner(p[FIRST]);
u32 n = p[FIRST + 1], k = p[FIRST + 2], size = p[FIRST + 3], row = blockIdx.x / inner;
u32 column = blockIdx.x - row * inner.d;
i64 x = p[0] + (i64(row) * n * inner.d + column) * ITEM, first = i64(row) * k * inner.d + column;
u64* list = size <= HELD ? held : (u64*)p[FIRST - 1] + i64(blockIdx.x) * size;
auto element = [&](u32 i) { return u64(ORDER key_of(ld_TYPE(x, i64(i) * inner.d))) << 32 | u32(~i); };
u64 known = 0, mask = 0;  // the digits found of the least number that is taken, and where they are
u32 need = k;
for (i32 shift = 56; n > HELD && shift >= 0; shift -= 8) {
    for (u32 i = threadIdx.x; i < 256; i += THREADS) bins[i] = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < n; i += THREADS) {
        u64 e = element(i);
        if ((e & mask) == known) atomicAdd(&bins[e >> shift & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 256) {
        u32 above = 0;
        for (u32 i = threadIdx.x + 1; i < 256; i++) above += bins[i];
        if (above < need && need <= above + bins[threadIdx.x]) {
            digit = threadIdx.x;
            left = need - above;
        }
    }
    __syncthreads();
    known |= u64(digit) << shift;
    mask |= u64(255) << shift;
    need = left;
    bool all = bins[digit] == left;
    __syncthreads();
    if (all) break;
}
if (threadIdx.x == 0) filled = 0;
for (u32 i = threadIdx.x; i < size; i += THREADS) list[i] = 0;
__syncthreads();
for (u32 i = threadIdx.x; i < n; i += THREADS) {
    u64 e = element(i);
    if ((e & mask) >= known) list[atomicAdd(&filled, 1u)] = e;
}
__syncthreads();
sort(list, size);
for (u32 i = threadIdx.x; i < k; i += THREADS) {
    u32 place = ~u32(list[i]);
    st_TYPE(p[FIRST - 3], first + i64(i) * inner.d, ld_TYPE(x, i64(place) * inner.d));
    st_i64(p[FIRST - 2], first + i64(i) * inner.d, place);
}
"""


@serves("topk")
def topk(node: Node) -> KernelSource | Refusal:
    x = node.operands[0].tensor  # type: ignore[union-attr]
    if x.dtype not in NUMERIC or x.dtype.bits == 64:
        return Refusal("elements whose key does not fit into 32 bits", {"X": x})
    refusal = refuse_layouts(node)
    if refusal is not None:
        return refusal
    if len(node.results) != 2:
        return Refusal("the kernel writes values and indices", {"results": len(node.results)})
    axis, first, kind = node.attr("axis") % x.rank, first_int(node), register(x.dtype)

    def bind(call: Call) -> Launch:
        """Ints: divisor by the elements behind the axis, length of a line, how many are taken, how many are sorted."""
        dims, k = call.operands[0], call.results[0][axis]  # type: ignore[index]
        n, inner = int(dims[axis]), math.prod(dims[axis + 1 :])  # type: ignore[index]
        checked_size(math.prod(dims))  # type: ignore[arg-type]
        lines = math.prod(dims[:axis]) * inner if k else 0  # type: ignore[index]
        size = 1 << max((n if n <= HELD else int(k)) - 1, 0).bit_length()
        return Launch((fast_div(inner), n, k, size), lines, lines * size * 8 if size > HELD else 0)

    words = {"FIRST": first, "ITEM": x.dtype.itemsize, "HELD": HELD, "ORDER": "" if node.attr("largest") else "~"}
    body = fill_in(_BODY, **words).replace("_TYPE(", f"_{x.dtype}(").strip("\n").split("\n")
    key_of = _KEY_OF.replace("REGISTER", kind).replace("KEY", _KEYS[kind[0]])
    return KernelSource(
        kernel(THREADS, first + 4, body, [key_of.strip("\n"), "", SORT.strip("\n"), ""]), bind, "a block for each line"
    )
