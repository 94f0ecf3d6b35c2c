"""Selections whose length the data decide: where elements are not zero, what a condition keeps.

Each block counts what it selects of its elements, one block adds up the counts, then each block writes what it selects in order.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ...ir.core import Node
from ..cpu import select_data as cpu
from ..operands import fill_in, first_int
from ..printer import register
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel
from .units import unit_helpers, unit_width, unit_widths

THREADS, EACH = 256, 16  # of a block; elements that a thread tests
COUNTS = 64  # bytes of scratch before the blocks' counts: the word for errors and the length

_TEXT = """
// How many threads of lower number have the flag; `all`: how many have it. All threads get there together.
DEVICE u32 ahead_of(bool flag, u32& all) {
    __shared__ u32 warps[THREADS / 32];
    u32 lane = threadIdx.x % 32, votes = __ballot_sync(~0u, flag), before = __popc(votes & ((1u << lane) - 1));
    __syncthreads();
    if (lane == 0) warps[threadIdx.x / 32] = __popc(votes);
    __syncthreads();
    all = 0;
    for (u32 w = 0; w < THREADS / 32; w++) {
        if (w == threadIdx.x / 32) before += all;
        all += warps[w];
    }
    return before;
}

// The counts become sums of those before them; the sum of all goes to the word of the length.
DEVICE void add_up(i64 scratch, u32* counts, u32 blocks) {
    __shared__ u32 sums[THREADS];
    u32 each = (blocks + THREADS - 1) / THREADS, first = threadIdx.x * each, end = minimum(first + each, blocks), sum = 0;
    for (u32 b = first; b < end; b++) sum += counts[b];
    sums[threadIdx.x] = sum;
    __syncthreads();
    sum = 0;
    for (u32 t = 0; t < threadIdx.x; t++) sum += sums[t];
    for (u32 b = first; b < end; b++) {
        u32 count = counts[b];
        counts[b] = sum;
        sum += count;
    }
    if (threadIdx.x == THREADS - 1) ((i64*)scratch)[1] = sum;
}
"""
_BODY = """
i64 scratch = p[FIRST - 1];
u32 pass = p[LAST], n = p[FIRST], blocks = p[FIRST + 1], *counts = (u32*)(scratch + COUNTS);
if (pass == 1) return add_up(scratch, counts, blocks);
MORE
u32 count = pass == 0 ? 0 : counts[blockIdx.x];
for (u32 j = 0; j < EACH; j++) {
    u32 i = (blockIdx.x * EACH + j) * THREADS + threadIdx.x, all;
    bool chosen = i < n && TEST;
    CHECK
    u32 to = count + ahead_of(chosen, all);
    count += all;
    if (pass == 0 || !chosen) continue;
    STORE
}
if (pass == 0 && threadIdx.x == 0) counts[blockIdx.x] = count;
"""
_PLACES = """
u32 rest = i;
#pragma unroll
for (u32 a = 0; a < RANK; a++) {
    FastDiv step(p[FIRST + 2 + a]);
    u32 q = rest / step;
    st_i64(p[1], i64(a) * n + to, q);
    rest -= q * step.d;
}
"""
# Compress notes the place of each entry that it keeps; a pass of its own copies.
_COPY = """
template <class W, class P> DEVICE void copy(const P& p, const u32* places) {
    u32 u = blockIdx.x * THREADS + threadIdx.x, total = p[FIRST + 3];
    if (u >= total) return;
    FastDiv units(p[FIRST + 4]), size(p[FIRST + 5]);
    u32 q = u / units, b = q / size, i = q - b * size.d;
    if (i >= u32(p[FIRST]) || !ld_bool(p[1], i)) return;
    i64 to = (i64(b) * size.d + places[i]) * units.d + (u - q * units.d);
    move<W>(p[2] + to * sizeof(W), p[0] + i64(u) * sizeof(W), ((p[0] | p[2]) & (sizeof(W) - 1)) == 0);
}
"""


def _kernel(words: int, helpers: list[str], lines: dict[str, str], numbers: dict[str, object]) -> str:
    """The text; `lines` are put in the place of words that stand alone on a line."""
    body = []
    for line in _BODY.strip("\n").split("\n"):
        word = line.strip()
        if word in lines:
            body += [line.replace(word, new) for new in lines[word].strip("\n").split("\n")]
        else:
            body.append(line)
    numbers = {"THREADS": THREADS, "EACH": EACH, "COUNTS": COUNTS, "LAST": words - 1, **numbers}
    text = [fill_in(t, **numbers).strip("\n") for t in (_TEXT, *helpers)]
    return kernel(THREADS, words, fill_in("\n".join(body), **numbers).split("\n"), text)


@serves("non_zero")
def non_zero(node: Node) -> KernelSource | Refusal:
    """The kernel of non_zero."""
    scalar = cpu.non_zero(node)
    if isinstance(scalar, Refusal):
        return scalar
    x, first = node.operands[0].tensor, first_int(node)  # type: ignore[union-attr]
    rank = x.rank or 0

    def bind(call: Call) -> Launch:
        shape = call.operands[0] or ()
        n = checked_size(math.prod(shape))
        blocks = blocks_for(n, THREADS * EACH)
        steps = [fast_div(math.prod(shape[a + 1 :])) for a in range(rank)]
        return Launch((n, blocks, *steps), 1, COUNTS + 4 * blocks, (blocks, 1, blocks))

    def text() -> str:
        test = "ld_bool(p[0], i)" if x.dtype.name == "bool" else f"ld_{x.dtype}(p[0], i) != {register(x.dtype)}(0)"
        numbers = {"FIRST": first, "RANK": rank, "TEST": test}
        return _kernel(first + 3 + rank, [], {"MORE": "", "CHECK": "", "STORE": _PLACES}, numbers)

    return replace(scalar, source=text, bind=bind)


@serves("compress")
def compress(node: Node) -> KernelSource | Refusal:
    """The kernel of compress."""
    scalar = cpu.compress(node)
    if isinstance(scalar, Refusal):
        return scalar
    x, axis, first = node.operands[0].tensor, node.attr("axis"), first_int(node)  # type: ignore[union-attr]
    item = x.dtype.itemsize

    def bind(call: Call) -> Launch:
        shape, condition = call.operands[:2]
        assert shape is not None and condition is not None
        at = None if axis is None else axis % max(len(shape), 1)
        outer, size, inner = (
            (1, math.prod(shape), 1) if at is None else (math.prod(shape[:at]), shape[at], math.prod(shape[at + 1 :]))
        )
        length, nbytes = checked_size(condition[0]), inner * item
        width = unit_width(nbytes, (), item)
        units = nbytes // width
        total, blocks = checked_size(outer * size * units), blocks_for(length, THREADS * EACH)
        ints = (length, blocks, size, total, fast_div(units), fast_div(size), width)
        return Launch(ints, 1, COUNTS + 4 * (blocks + length), (blocks, 1, blocks, blocks_for(total, THREADS)))

    def text() -> str:
        cases = [f"    case {w}: return copy<{unit}>(p, places);" for w, unit in unit_widths(item)]
        more = [
            "u32* places = counts + blocks;",
            "if (pass == 3) {",
            f"    switch (p[{first + 6}]) {{",
            *cases,
            "    }",
            "    return;",
            "}",
        ]
        check = "if (chosen && i >= u32(p[FIRST + 2])) report(scratch), chosen = false;"
        lines = {"MORE": "\n".join(more), "CHECK": check, "STORE": "places[i] = to;"}
        return _kernel(first + 8, [unit_helpers(item), _COPY], lines, {"FIRST": first, "TEST": "ld_bool(p[1], i)"})

    return replace(scalar, source=text, bind=bind)
