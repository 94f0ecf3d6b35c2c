"""Several tensors, each converted to another float: `fused.casts`. A block converts neighbours of one of them."""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.types import BF16, F16, F32
from ..operands import fill_in, first_int
from ..spec import Call, KernelSource, Launch, Refusal
from .source import MOST_WORDS
from .target import serves
from .text import blocks_for, checked_size, kernel

THREADS, WIDE = 256, 4  # of a block; elements of a thread

# Ints: for each tensor the number of the block behind its last one; then their elements.
_TEXT = """
u32 low = 0, high = COUNT - 1;
while (low < high) {  // to the first tensor whose blocks end behind this one
    u32 middle = (low + high) / 2;
    if (u32(p.w[FIRST + middle]) > blockIdx.x) high = middle;
    else low = middle + 1;
}
u32 block = blockIdx.x - (low ? u32(p.w[FIRST + low - 1]) : 0), n = p.w[FIRST + COUNT + low];
u32 first = (block * THREADS + threadIdx.x) * WIDE;
if (first >= n) return;
i64 from = p.w[low], to = p.w[COUNT + low];
bool whole = first + WIDE <= n && ((from | to) & 15) == 0;
auto x = read_pack<element_SOURCE, WIDE>(from, first, n, whole);
Pack<element_RESULT, WIDE> y;
#pragma unroll
for (u32 j = 0; j < WIDE; j++) y.set(j, x.get(j));
write_pack(to, first, n, whole, y);
"""


@serves("fused.casts")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of a region of casts, each of an operand of its own: between f16, bf16 and f32, the same for all; an operand and
    its result lie alike."""
    region, count, first = node.regions[0], len(node.operands), first_int(node)
    types = {(x.tensor.dtype, y.tensor.dtype) for x, y in zip(node.operands, node.results)}  # type: ignore[union-attr]
    alike = all(x.tensor.layout == y.tensor.layout for x, y in zip(node.operands, node.results))  # type: ignore[union-attr]
    each = [(n.operands[0], n.result) for n in region if n.op.name == "cast"]
    if each != list(zip(region.inputs, region.outputs)) or len(each) != len(region) or len(types) != 1 or not alike:
        return Refusal("expected casts between the same types, each of an operand of its own that lies as its result")
    ((source, result),) = types
    if not {source, result} <= {F16, BF16, F32}:
        return Refusal("casts of these types are not made together", {"source": source, "result": result})
    if first + 2 * count > MOST_WORDS:
        return Refusal("more tensors than a kernel's parameters hold", {"tensors": count})

    def bind(call: Call) -> Launch:
        sizes = [checked_size(math.prod(shape)) for shape in call.results]
        ends, blocks = list[int](), 0
        for n in sizes:
            blocks += blocks_for(n, THREADS * WIDE)
            ends.append(blocks)
        return Launch((*ends, *sizes), checked_size(blocks))

    words = {"COUNT": count, "FIRST": first, "THREADS": THREADS, "WIDE": WIDE}
    text = fill_in(_TEXT.replace("SOURCE", str(source)).replace("RESULT", str(result)), **words).strip("\n").split("\n")
    return KernelSource(lambda: kernel(THREADS, first + 2 * count, text), bind, "casts")
