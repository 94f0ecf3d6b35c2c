"""Casts to the type of another operand, and linear quantization: formulas (`../formulas.py`) as elementwise kernels; and the
quantization whose scale and zero point follow from the range of what is quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from ...ir.core import Node
from ...ir.ops.quant import quantize
from ...ir.recording import greatest, least
from ...ir.scalar import trace
from ..formulas import FORMULAS, formula_of
from ..operands import fill_in, first_int
from ..printer import Printer
from ..spec import Call, KernelSource, Launch, Refusal
from .loops import bind, elements_of_thread, loop_text
from .target import serves
from .text import blocks_for, checked_size, declared, indent, kernel


@serves(*FORMULAS)
def build(node: Node) -> KernelSource | Refusal:
    f = formula_of(node)
    if isinstance(f, Refusal):
        return f
    results = [node.results[0].tensor.dtype]

    def compute(body: Printer, names: Mapping[int, str]) -> list[str]:
        return [body.value(f.expr, f.arguments(names))]

    wide = elements_of_thread(f.space, f.loaded, results)
    text = partial(loop_text, f.space, f.loaded, results, compute)
    return KernelSource(text, lambda call: bind(f.space, wide, f.seen(call)), "loops")


# ---- dynamic_quantize_linear ------------------------------------------------------------------------------------

THREADS = 256
EACH = 16  # elements of a thread, at least
MOST_BLOCKS = 512  # whose ranges every block of the second pass folds again

# Scratch: the least number of each block of the first pass, then the greatest; 0 is among all of them. NaN is passed on.
_DYNAMIC = """
u32 n = p[FIRST], blocks = gridDim.x;
i64 x = p[0], y = p[1], lows = p[4], highs = lows + 4 * blocks;
f32 low = 0, high = 0;
if (p[FIRST + 1] == 0) {
    for (u32 i = blockIdx.x * THREADS + threadIdx.x; i < n; i += blocks * THREADS) {
        low = minimum(low, ld_f32(x, i));
        high = maximum(high, ld_f32(x, i));
    }
    low = block_min<THREADS>(low);
    high = block_max<THREADS>(high);
    if (threadIdx.x == 0) {
        st_f32(lows, blockIdx.x, low);
        st_f32(highs, blockIdx.x, high);
    }
    return;
}
for (u32 i = threadIdx.x; i < blocks; i += THREADS) {
    low = minimum(low, ld_f32(lows, i));
    high = maximum(high, ld_f32(highs, i));
}
low = block_min<THREADS>(low);
high = block_max<THREADS>(high);
f32 scale = low == high ? f32(1) : div(sub(high, low), f32(255));
u8 middle = to_u8(minimum(maximum(rint(div(neg(low), scale)), f32(0)), f32(255)));
if (blockIdx.x == 0 && threadIdx.x == 0) {
    st_f32(p[2], 0, scale);
    st_u8(p[3], 0, middle);
}
for (u32 i = blockIdx.x * THREADS + threadIdx.x; i < n; i += blocks * THREADS) {
"""


@serves("dynamic_quantize_linear")
def dynamic(node: Node) -> KernelSource | Refusal:
    """In two passes: the range of each block's elements; the range of all, then the numbers, which lie as they did."""
    if node.results[0].tensor.layout != node.operands[0].tensor.layout:  # type: ignore[union-attr]
        return Refusal("the numbers lie otherwise than what is quantized", {"y": node.results[0].type})
    first, body = first_int(node), Printer()
    x, scale, zero = node.operands[0].tensor, *(v.tensor for v in node.results[1:])  # type: ignore[union-attr]
    e = trace(quantize, [x.dtype, scale.dtype, zero.dtype], {"to": zero.dtype})
    out = body.value(e, [body.let("ld_f32(x, i)"), "scale", "middle"])
    head = fill_in(_DYNAMIC, FIRST=first).strip("\n").split("\n")
    text = kernel(THREADS, first + 2, [*head, *indent([*declared(body.lines), f"st_u8(y, i, {out});"]), "}"])

    def bound(call: Call) -> Launch:
        n = checked_size(math.prod(call.operands[0] or ()))
        blocks = greatest(1, least(blocks_for(n, THREADS * EACH), MOST_BLOCKS))
        return Launch((n,), blocks, 8 * blocks, (blocks, blocks))

    return KernelSource(text, bound, "a pass for the range, one for the numbers")
