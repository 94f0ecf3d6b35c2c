"""The largest elements along an axis, in order: a block for each line.

An element becomes an entry, a number of 64 bits (of 96 where elements have 64), its key above the complement of its place, so that
all of a line differ, and of equal elements the first is the greatest. Of a long line a radix search finds the digits of the least
entry to be taken, eight bits at a time; what is taken is sorted, in shared memory where it finds room.
"""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.recording import opaque
from ...ir.types import NUMERIC
from ..operands import fill_in, first_int, refuse_layouts
from ..printer import register
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import checked_size, kernel, power_from

THREADS = 512
HELD_BYTES = 32768  # of entries in shared memory

# Keys in the order of the elements: NaN above all numbers, the zeros equal.
_KEYS = {
    "f": """
    auto bits = bits_REGISTER_KEY(x);
    if (x != x) return ~KEY(0);
    return x == REGISTER(0) ? SIGN : bits & SIGN ? ~bits : bits | SIGN;""",
    "i": "\n    return KEY(SIGNED(x)) ^ SIGN;",
    "u": "\n    return KEY(x);",
}
# Sorts a power of two of numbers, the greatest first (Batcher's bitonic sorter).
SORT = f"""
template <class T> DEVICE void sort(T* list, u32 size) {{
    for (u32 span = 2; span <= size; span *= 2) {{
        for (u32 step = span / 2; step > 0; step /= 2) {{
            for (u32 pair = threadIdx.x; pair < size / 2; pair += {THREADS}) {{
                u32 i = pair + (pair & ~(step - 1));
                T a = list[i], b = list[i + step];
                if (i & span ? b < a : a < b) {{
                    list[i] = b;
                    list[i + step] = a;
                }}
            }}
            __syncthreads();
        }}
    }}
}}
"""
# Entries of keys of 32 and of 64 bits, and their digits.
_ENTRY = {
    32: """
using Entry = u64;
DEVICE Entry entry_of(u32 key, u32 rest) { return u64(key) << 32 | rest; }
DEVICE u32 rest_of(Entry e) { return u32(e); }
DEVICE u32 digit_of(Entry e, u32 shift) { return e >> shift & 255; }
DEVICE Entry at_digit(u32 digit, u32 shift) { return u64(digit) << shift; }
""",
    64: """
struct Entry {
    u64 key;
    u32 rest;
    __device__ __forceinline__ bool operator<(Entry o) const { return key < o.key || (key == o.key && rest < o.rest); }
    __device__ __forceinline__ bool operator>=(Entry o) const { return !(*this < o); }
    __device__ __forceinline__ bool operator==(Entry o) const { return key == o.key && rest == o.rest; }
    __device__ __forceinline__ Entry operator&(Entry o) const { return {key & o.key, rest & o.rest}; }
    __device__ __forceinline__ Entry operator|(Entry o) const { return {key | o.key, rest | o.rest}; }
};
DEVICE Entry entry_of(u64 key, u32 rest) { return {key, rest}; }
DEVICE u32 rest_of(Entry e) { return e.rest; }
DEVICE u32 digit_of(Entry e, u32 shift) { return shift < 32 ? e.rest >> shift & 255 : u32(e.key >> (shift - 32)) & 255; }
DEVICE Entry at_digit(u32 digit, u32 shift) {
    return shift < 32 ? Entry{0, digit << shift} : Entry{u64(digit) << (shift - 32), 0};
}
""",
}
_KEY_OF = """
DEVICE KEY key_of(REGISTER x) {BODY
}
"""
_BODY = """
__shared__ Entry held[HELD];
__shared__ u32 bins[256], digit, left, filled;
FastDiv inner(p[FIRST]);
u32 n = p[FIRST + 1], k = p[FIRST + 2], size = p[FIRST + 3], row = blockIdx.x / inner;
u32 column = blockIdx.x - row * inner.d;
i64 x = p[0] + (i64(row) * n * inner.d + column) * ITEM, first = i64(row) * k * inner.d + column;
Entry* list = size <= HELD ? held : (Entry*)p[FIRST - 1] + i64(blockIdx.x) * size;
auto element = [&](u32 i) { return entry_of(ORDER key_of(ld_TYPE(x, i64(i) * inner.d)), ~i); };
Entry known = {}, mask = {};  // the digits found of the least entry that is taken, and where they are
u32 need = k;
for (i32 shift = TOP; n > HELD && shift >= 0; shift -= 8) {
    for (u32 i = threadIdx.x; i < 256; i += THREADS) bins[i] = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < n; i += THREADS) {
        Entry e = element(i);
        if ((e & mask) == known) atomicAdd(&bins[digit_of(e, shift)], 1u);
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
    known = known | at_digit(digit, shift);
    mask = mask | at_digit(255, shift);
    need = left;
    bool all = bins[digit] == left;
    __syncthreads();
    if (all) break;
}
if (threadIdx.x == 0) filled = 0;
for (u32 i = threadIdx.x; i < size; i += THREADS) list[i] = Entry{};
__syncthreads();
for (u32 i = threadIdx.x; i < n; i += THREADS) {
    Entry e = element(i);
    if ((e & mask) >= known) list[atomicAdd(&filled, 1u)] = e;
}
__syncthreads();
sort(list, size);
for (u32 i = threadIdx.x; i < k; i += THREADS) {
    u32 place = ~rest_of(list[i]);
    st_TYPE(p[FIRST - 3], first + i64(i) * inner.d, ld_TYPE(x, i64(place) * inner.d));
    st_i64(p[FIRST - 2], first + i64(i) * inner.d, place);
}
"""


@serves("topk")
def topk(node: Node) -> KernelSource | Refusal:
    x = node.operands[0].tensor  # type: ignore[union-attr]
    if x.dtype not in NUMERIC:
        return Refusal("the elements are no numbers", {"X": x})
    refusal = refuse_layouts(node)
    if refusal is not None:
        return refusal
    if len(node.results) != 2:
        return Refusal("the kernel writes values and indices", {"results": len(node.results)})
    axis, first, kind = node.attr("axis") % x.rank, first_int(node), register(x.dtype)
    bits = 64 if x.dtype.bits == 64 else 32
    item = bits // 4  # bytes of an entry, padded
    held = HELD_BYTES // item

    def bind(call: Call) -> Launch:
        """Ints: divisor by the elements behind the axis, length of a line, how many are taken, how many are sorted."""
        dims, k = call.operands[0], call.results[0][axis]  # type: ignore[index]
        n, inner = dims[axis], math.prod(dims[axis + 1 :])  # type: ignore[index]
        checked_size(math.prod(dims))  # type: ignore[arg-type]
        lines = math.prod(dims[:axis]) * inner if k else 0  # type: ignore[index]
        size = opaque(power_from, n if n <= held else k)
        return Launch((fast_div(inner), n, k, size), lines, lines * size * item if size > held else 0)

    words = {"FIRST": first, "ITEM": x.dtype.itemsize, "HELD": held, "ORDER": "" if node.attr("largest") else "~", "TOP": bits + 24}
    body = fill_in(_BODY, **words).replace("_TYPE(", f"_{x.dtype}(").strip("\n").split("\n")
    key_of = _KEY_OF.replace("BODY", _KEYS[kind[0]]).replace("REGISTER", kind).replace("KEY", f"u{bits}")
    key_of = fill_in(key_of, SIGN=f"(u{bits}(1) << {bits - 1})", SIGNED=f"i{bits}")
    helpers = [_ENTRY[bits].strip("\n"), key_of.strip("\n"), "", SORT.strip("\n"), ""]
    return KernelSource(kernel(THREADS, first + 4, body, helpers), bind, "a block for each line")
