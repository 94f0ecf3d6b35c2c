"""The largest elements of rows: a block finds the k-th by digits (radix selection), collects what is not below it, and sorts that.

Elements become unsigned keys in the same order: NaN is greater than every number, the zeros are equal. Behind a key comes the
index, inverted: of equal elements the first is the greater one, so that no two are equal and the order of threads does not matter.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ...ir.core import Node
from ..cpu import topk as cpu
from ..operands import fill_in, first_int
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import checked_size, kernel

THREADS = 512
SORTED = 1024  # elements that are sorted in shared memory; more lie in scratch memory

_TEXT = """
using Key = KEY;
constexpr u32 KEY_BITS = 8 * sizeof(Key), BITS = KEY_BITS + 32;

DEVICE Key key_of(element_TYPE::Register x) { return ORDERunsigned_of(x); }

struct List { Key* key; u32* index; };
DEVICE bool before(List a, u32 i, u32 j) { return a.key[i] > a.key[j] || (a.key[i] == a.key[j] && a.index[i] < a.index[j]); }

// Digits from the first on, `shift` bits before the end of key and inverted index.
DEVICE u64 digits(Key key, u32 i, u32 shift) { return shift >= 32 ? u64(key >> (shift - 32)) : u64(~i >> shift); }
"""
_UNSIGNED = {
    "float": """
DEVICE KEY unsigned_of(REGISTER x) {
    KEY bits = __builtin_bit_cast(KEY, x == 0 ? REGISTER(0) : x), top = KEY(1) << (8 * sizeof(KEY) - 1);
    return x != x ? ~KEY(0) : bits & top ? ~bits : bits | top;
}
""",
    "int": """
DEVICE KEY unsigned_of(REGISTER x) { return KEY(x) ^ (is_signed<REGISTER> ? KEY(1) << (8 * sizeof(KEY) - 1) : KEY(0)); }
""",
}
_BODY = """
__shared__ Key keys[SORTED];
__shared__ u32 indices[SORTED], histogram[256], found[4];
u32 n = p[FIRST], k = p[FIRST + 1], padded = p[FIRST + 2], t = threadIdx.x;
FastDiv inner(p[FIRST + 3]);
u32 row = blockIdx.x / inner, column = blockIdx.x - row * inner.d;
i64 source = i64(row) * n * inner.d + column, target = i64(row) * k * inner.d + column;
List list = {keys, indices};
if (padded > SORTED) {
    list.key = (Key*)p[FIRST - 1] + i64(blockIdx.x) * padded;
    list.index = (u32*)((Key*)p[FIRST - 1] + i64(gridDim.x) * padded) + i64(blockIdx.x) * padded;
}
auto at = [&](u32 i) { return key_of(ld_TYPE(p[0], source + i64(i) * inner.d)); };

// The k-th key is found from its first digit on; what is the same in all that is left needs no more digits.
Key key = 0;
u32 inverted = 0, left = k, shift = BITS;
while (shift) {
    shift -= 8;
    if (t < 256) histogram[t] = 0;
    __syncthreads();
    u64 above = digits(key, ~inverted, shift) >> 8;
    for (u32 i = t; i < n; i += THREADS) {
        Key x = at(i);
        u64 d = digits(x, i, shift);
        if (shift >= 32 ? d >> 8 == above : x == key && d >> 8 == above) atomicAdd(&histogram[d & 255], 1u);
    }
    __syncthreads();
    if (t < 256) {
        u32 greater = 0;
        for (u32 b = 255; b > t; b--) greater += histogram[b];
        if (greater < left && left <= greater + histogram[t]) found[0] = t, found[1] = left - greater, found[2] = histogram[t];
    }
    __syncthreads();
    if (shift >= 32) key |= Key(found[0]) << (shift - 32);
    else inverted |= found[0] << shift;
    left = found[1];
    if (found[2] == left) break;
}

if (t == 0) found[3] = 0;
__syncthreads();
u64 least = digits(key, ~inverted, shift);
for (u32 i = t; i < n; i += THREADS) {
    Key x = at(i);
    bool chosen = shift >= 32 ? digits(x, i, shift) >= least : x > key || (x == key && digits(x, i, shift) >= least);
    if (!chosen) continue;
    u32 place = atomicAdd(&found[3], 1u);
    list.key[place] = x;
    list.index[place] = i;
}
for (u32 i = k + t; i < padded; i += THREADS) list.key[i] = 0, list.index[i] = ~0u;
__syncthreads();

// Bitonic sort (Batcher, 1968).
for (u32 size = 2; size <= padded; size *= 2)
    for (u32 step = size / 2; step; step /= 2) {
        for (u32 i = t; i < padded / 2; i += THREADS) {
            u32 a = 2 * i - (i & (step - 1)), b = a + step;
            if (before(list, b, a) == ((a & size) == 0)) {
                Key x = list.key[a];
                u32 j = list.index[a];
                list.key[a] = list.key[b], list.index[a] = list.index[b];
                list.key[b] = x, list.index[b] = j;
            }
        }
        __syncthreads();
    }
for (u32 i = t; i < k; i += THREADS) {
    u32 j = list.index[i];
    st_TYPE(p[FIRST - 3], target + i64(i) * inner.d, ld_TYPE(p[0], source + i64(j) * inner.d));
    st_i64(p[FIRST - 2], target + i64(i) * inner.d, j);
}
"""


@serves("topk")
def topk(node: Node) -> KernelSource | Refusal:
    """The kernel of topk."""
    scalar = cpu.topk(node)
    if isinstance(scalar, Refusal):
        return scalar
    x, first = node.operands[0].tensor, first_int(node)
    axis, wide = node.attr("axis") % x.rank, x.dtype.bits > 32
    register = "f32" if x.dtype.is_float and not wide else str(x.dtype)

    def bind(call: Call) -> Launch:
        dims, k = call.operands[0], call.results[0][axis]
        inner = math.prod(dims[axis + 1 :])
        rows = checked_size(math.prod(dims[:axis]) * inner if k else 0)
        checked_size(dims[axis])
        padded = 1 << max(int(k) - 1, 0).bit_length()
        room = rows * padded * (12 if wide else 8) if padded > SORTED else 0
        return Launch((dims[axis], k, padded, fast_div(inner)), rows, room)

    def text() -> str:
        words = {"KEY": "u64" if wide else "u32", "REGISTER": register, "THREADS": THREADS, "SORTED": SORTED, "FIRST": first}
        order = "" if node.attr("largest") else "~"
        helpers = _UNSIGNED["float" if x.dtype.is_float else "int"] + _TEXT.replace("ORDER", order)
        helpers, body = (fill_in(t.replace("TYPE", str(x.dtype)), **words).strip("\n") for t in (helpers, _BODY))
        return kernel(THREADS, first + 4, body.split("\n"), [helpers])

    return replace(scalar, source=text, bind=bind)
