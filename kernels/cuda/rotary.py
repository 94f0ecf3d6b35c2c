"""Rotary positions: pairs of elements of each head turned by the angles of their position. A thread turns a pair, neighbours
neighbouring ones, or copies an element that is not turned."""

from __future__ import annotations

from ...ir.core import Node
from ..attention import refuse_rotary, rotary_of
from ..operands import fill_in, first_int
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel

THREADS = 256
_TEXT = """
u32 u = blockIdx.x * THREADS + threadIdx.x, total = p[FIRST], half = p[FIRST + 4];
if (u >= total) return;
FastDiv each(p[FIRST + 1]), length(p[FIRST + 2]), heads(p[FIRST + 3]);
u32 row = u / each, i = u - row * each.d, q = row / length, n = q / heads, s = row - q * length.d;
i64 at = n * p[FIRST + 6] + (q - n * heads.d) * p[FIRST + 7] + s * p[FIRST + 8], place = PLACE;
if (place < 0 || place >= p[FIRST + 5]) {
    report(p[RESULT + 1]);
} else if (i < half) {
    auto a = ld_TYPE(p[0], at + LEFT), b = ld_TYPE(p[0], at + RIGHT);
    auto c = ld_TYPE(p[1], place * half + i), d = ld_TYPE(p[2], place * half + i);
    st_TYPE(p[RESULT], at + LEFT, c * a - d * b);
    st_TYPE(p[RESULT], at + RIGHT, d * a + c * b);
} else {
    st_TYPE(p[RESULT], at + half + i, ld_TYPE(p[0], at + half + i));
}
"""


@serves("rotary_embedding")
def rotary_embedding(node: Node) -> KernelSource | Refusal:
    """The kernel of rotary_embedding, in f32."""
    refusal = refuse_rotary(node)
    if refusal is not None:
        return refusal
    dtype, first, given = node.operands[0].tensor.dtype, first_int(node), node.operand(3) is not None  # type: ignore[union-attr]
    left, right = ("2 * i", "2 * i + 1") if node.attr("interleaved") else ("i", "half + i")

    def bind(call: Call) -> Launch:
        r = rotary_of(node, call)
        each = r.size - r.half
        total = checked_size(r.batch * r.heads * r.length * each)
        divisors = map(fast_div, (each, r.length, r.heads))
        ints = (total, *divisors, r.half, r.positions, r.batch_step, r.head_step, r.step)
        return Launch(ints, blocks_for(total, THREADS), 8)

    words = {"FIRST": first, "THREADS": THREADS, "RESULT": 3 + given, "LEFT": left, "RIGHT": right,
             "PLACE": "ld_i64(p[3], n * length.d + s)" if given else "n * length.d + s"}  # fmt: skip
    body = fill_in(_TEXT.replace("TYPE", str(dtype)), **words).strip("\n").split("\n")
    message = "rotary_embedding: a position lies outside of the caches" if given else ""
    return KernelSource(lambda: kernel(THREADS, first + 9, body), bind, checked=message)
