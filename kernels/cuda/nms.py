"""non_max_suppression: a block takes the boxes of a class in the order of their scores, and each that it keeps strikes out others.

A second pass puts what all classes kept behind each other and reports how many boxes there are.
"""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.recording import greatest, least, opaque
from ..operands import fill_in, first_int, refuse_layouts, slot_of
from ..spec import Call, Dims, KernelSource, Launch, Refusal
from .target import serves
from .text import checked_size, kernel, power_from
from .topk import SORT, THREADS

MOST_LISTS = 64 << 20  # bytes of all blocks' lists: with more there are fewer blocks than classes

_HELPERS = """
struct Corners { f32 y1, x1, y2, x2; };
DEVICE Corners corners(i64 boxes, u32 i) {
    f32 b0 = ld_f32(boxes, 4 * i), b1 = ld_f32(boxes, 4 * i + 1), b2 = ld_f32(boxes, 4 * i + 2), b3 = ld_f32(boxes, 4 * i + 3);
    return CORNERS;
}
// Rounded at each step: what is decided by it must not hang on which of the products become part of a sum.
DEVICE f32 area(Corners c) { return __fmul_rn(sub(c.y2, c.y1), sub(c.x2, c.x1)); }
DEVICE bool overlaps(Corners a, Corners b, f32 limit) {
    f32 height = sub(minimum(a.y2, b.y2), maximum(a.y1, b.y1)), width = sub(minimum(a.x2, b.x2), maximum(a.x1, b.x1));
    f32 common = __fmul_rn(maximum(height, f32(0)), maximum(width, f32(0))), first = area(a), second = area(b);
    f32 both = sub(add(first, second), common);
    return first > 0 && second > 0 && both > 0 && div(common, both) > limit;
}
// In the order of the scores, NaN below all of them, the zeros equal.
DEVICE u32 key_of(f32 x) {
    u32 bits = bits_f32_u32(x);
    if (x != x) return 0;
    return x == f32(0) ? 1u << 31 : bits >> 31 ? ~bits : bits | 1u << 31;
}
"""
# Scratch: the length, how many boxes each class keeps, which, then each block's list.
_BODY = """
__shared__ u32 filled;
u32 classes = p[FIRST], n = p[FIRST + 1], groups = p[FIRST + 2], room = p[FIRST + 3];
i64 counts = p[SCRATCH] + 64, kept = counts + 4 * i64(groups);
i64 wanted = MOST;
u32 most = wanted < 0 ? 0 : wanted < room ? u32(wanted) : room;
if (p[FIRST + 6] == 1) {
    u32 before = 0;
    for (u32 i = threadIdx.x; i < blockIdx.x; i += THREADS) before += ld_u32(counts, i);
    before = block_sum<THREADS>(before);
    u32 count = blockIdx.x < groups ? ld_u32(counts, blockIdx.x) : 0;
    for (u32 i = threadIdx.x; i < count; i += THREADS) {
        i64 to = p[RESULT] + 24 * (i64(before) + i);
        st_i64(to, 0, blockIdx.x / classes);
        st_i64(to, 1, blockIdx.x % classes);
        st_i64(to, 2, ld_u32(kept, i64(blockIdx.x) * room + i));
    }
    if (blockIdx.x + 1 >= groups && threadIdx.x == 0) st_i64(p[SCRATCH], 1, before + count);
    return;
}
u64* list = (u64*)(p[SCRATCH] + p[FIRST + 4]) + i64(blockIdx.x) * p[FIRST + 5];
f32 limit = LIMIT;
for (u32 group = blockIdx.x; group < groups; group += gridDim.x) {
    i64 boxes = p[0] + i64(group / classes) * n * 16, scores = p[1] + i64(group) * n * 4;
    if (threadIdx.x == 0) filled = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < n; i += THREADS) {
        f32 score = ld_f32(scores, i);
        if (LEAST) list[atomicAdd(&filled, 1u)] = u64(key_of(score)) << 32 | u32(~i);
    }
    __syncthreads();
    u32 m = filled, size = 1, count = 0;
    while (size < m) size *= 2;
    for (u32 i = m + threadIdx.x; i < size; i += THREADS) list[i] = 0;
    __syncthreads();
    sort(list, size);
    for (u32 i = 0; i < m && count < most; i++) {
        if (list[i] == 0) continue;  // struck out
        u32 box = ~u32(list[i]);
        Corners a = corners(boxes, box);
        if (threadIdx.x == 0) st_u32(kept, i64(group) * room + count, box);
        count++;
        for (u32 j = i + 1 + threadIdx.x; j < m; j += THREADS)
            if (list[j] != 0 && overlaps(a, corners(boxes, ~u32(list[j])), limit)) list[j] = 0;
        __syncthreads();
    }
    if (threadIdx.x == 0) st_u32(counts, group, count);
    __syncthreads();
}
"""
_CORNERS = {
    False: "{minimum(b0, b2), minimum(b1, b3), maximum(b0, b2), maximum(b1, b3)}",
    True: "{sub(b1, div(b3, f32(2))), sub(b0, div(b2, f32(2))), add(b1, div(b3, f32(2))), add(b0, div(b2, f32(2)))}",
}


@serves("non_max_suppression")
def non_max_suppression(node: Node) -> KernelSource | Refusal:
    refusal = refuse_layouts(node)
    if refusal is not None:
        return refusal
    first, optional = first_int(node), {i: f"p[{slot_of(node, i)}]" for i in (2, 3, 4) if node.operand(i) is not None}
    words = {
        "FIRST": first, "RESULT": first - 2, "SCRATCH": first - 1,
        "MOST": f"ld_i64({optional[2]}, 0)" if 2 in optional else "0",
        "LIMIT": f"ld_f32({optional[3]}, 0)" if 3 in optional else "f32(0)",
        "LEAST": f"score > ld_f32({optional[4]}, 0)" if 4 in optional else "true",
    }  # fmt: skip

    def most(call: Call) -> int:
        """How many boxes of a class can be kept."""
        n, wanted = call.operands[1][2], call.contents.get(2)  # type: ignore[index]
        return 0 if 2 not in optional else n if wanted is None else least(n, max(int(wanted.item()), 0))

    def bind(call: Call) -> Launch:
        """Ints: classes, boxes, classes of all images, boxes kept of each, where the lists begin, their length."""
        batch, classes, n = call.operands[1]  # type: ignore[misc]
        groups, room = batch * classes, most(call)
        checked_size(4 * batch * n + groups * n)
        size = opaque(power_from, n)
        blocks = greatest(1, least(groups, MOST_LISTS // (8 * size)))
        lists = -(-(64 + 4 * groups * (1 + room)) // 64) * 64
        return Launch((classes, n, groups, room, lists, size), 1, lists + 8 * size * blocks, (blocks, greatest(1, groups)))

    def bound(call: Call) -> list[Dims]:
        return [(math.prod(call.operands[1][:2]) * most(call), 3)]  # type: ignore[index]

    helpers = fill_in(_HELPERS, CORNERS=_CORNERS[bool(node.attr("center_point_box"))]).strip("\n")
    body = fill_in(_BODY, **words).strip("\n").split("\n")
    text, host = kernel(THREADS, first + 7, body, [helpers, "", SORT.strip("\n"), ""]), frozenset({2} if 2 in optional else ())
    return KernelSource(text, bind, "a block for each class", host=host, bound=bound, trim=(0,))
