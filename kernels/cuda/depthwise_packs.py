"""Depthwise convolutions of channels-last images with constant weights, whose windows of one or two axes are known.

A thread computes 16 bytes of neighbouring channels of a pixel. The taps stand in the text one by one, so that all loads of several
rows of a window, and what the epilogue reads, are on their way before the first is waited for: these kernels mostly wait. So
parameters are few too, two numbers a word: each line of them that a multiprocessor has not seen is fetched like other memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ir.types import F64
from ..convolutions import geometry
from ..epilogue import Builder, Site
from ..operands import fill_in, first_int, first_result
from ..spec import Call, KernelSource, Launch
from . import epilogue as written
from .conv import input_steps
from .source import fast_div
from .text import blocks_for, checked_size, indent, kernel

THREADS = 64  # of a block: small images too are spread over all multiprocessors, each of which has caches of its own
AT_ONCE, MOST_TAPS = 10, 64  # taps that are loaded together; taps that stand in a text
WORDS = 10

_BEGIN = """
const u32 units = low(p[AT]), fours = high(p[AT]), x_n = low(p[AT + 4]), x_h = high(p[AT + 4]), x_w = low(p[AT + 5]);
const u32 w_tap = high(p[AT + 5]), height = low(p[AT + 6]), width = high(p[AT + 6]);
const u32 unit = blockIdx.x * THREADS + threadIdx.x;
if (unit >= units) return;
const FastDiv by_w(p[AT + 2]), by_h(p[AT + 3]);
const u32 q = unit / FastDiv(p[AT + 1]), channel = (unit - q * fours) * WIDE, line = q / by_w, image = line / by_h;
const i32 h0 = i32((line - image * by_h.d) * low(p[AT + 7])) - i32(low(p[AT + 8])), h_step = low(p[AT + 9]);
const i32 v0 = i32((q - line * by_w.d) * high(p[AT + 7])) - i32(high(p[AT + 8])), v_step = high(p[AT + 9]);
const u32 x_at = image * x_n + channel;
const i64 x = p[X], w = p[W], y = p[Y];
"""
_SUMS = """
SUM sums[WIDE] = {};
#pragma unroll
for (u32 row = 0; row < HEIGHT; row += ROWS) {
    Pack<E, WIDE> a[ROWS * WIDTH] = {}, b[ROWS * WIDTH] = {};
#pragma unroll
    for (u32 i = 0; i < ROWS * WIDTH; i++) {
        const i32 h = h0 + i32(row + i / WIDTH) * h_step, v = v0 + i32(i % WIDTH) * v_step;
        if (row * WIDTH + i < HEIGHT * WIDTH && u32(h) < height && u32(v) < width) {
            a[i] = load_pack<E, WIDE>(x, x_at + u32(h) * x_h + u32(v) * x_w);
            b[i] = load_pack<E, WIDE>(w, (row * WIDTH + i) * w_tap + channel);
        }
    }
#pragma unroll
    for (u32 i = 0; i < ROWS * WIDTH; i++)
#pragma unroll
        for (u32 j = 0; j < WIDE; j++) sums[j] = fma(a[i].get(j), b[i].get(j), sums[j]);
}
"""
_HALVES = """
DEVICE u32 low(i64 word) { return u32(word); }
DEVICE u32 high(i64 word) { return u32(u64(word) >> 32); }"""


def window_of(site: Site) -> tuple[int, int] | None:
    """The window's height and width, where its taps shall stand in the text."""
    kernel = site.operand(1).tensor.shape[2:]
    if site.anchor.op.name == "conv_transpose" or len(kernel) > 2 or not all(isinstance(k, int) for k in kernel):
        return None
    height, width = (1, *kernel)[-2:]
    return (height, width) if 0 < width <= AT_ONCE and 0 < height * width <= MOST_TAPS else None


def by_taps(w: np.ndarray) -> np.ndarray:
    """Weights as [tap][channel], to be read along the channels."""
    return np.ascontiguousarray(w.reshape(-1, math.prod(w.shape[2:])).T)


def build_packs(site: Site, epilogue: Builder, wide: int, window: tuple[int, int]) -> KernelSource:
    """The kernel of a depthwise convolution of `wide` channels at a time."""

    def bind(call: Call) -> Launch:
        """Ints: see `_BEGIN`; of the two spatial axes sizes, strides, pads before and dilations."""
        for shape in (*call.operands, *call.results):
            checked_size(math.prod(shape or ()))
        g = geometry(site.anchor, call.operands[site.index[0]], call.operands[site.index[1]])
        fours, steps = g.out_channels // wide, input_steps(g, True, 3)
        units = g.n * fours * math.prod(g.outputs)
        pairs = [(steps[0], steps[3]), (steps[4], g.out_channels)]
        pairs += [v[1:] for v in (g.inputs, g.strides, g.begin, g.dilations)]
        words = [fast_div(fours), fast_div(g.outputs[2]), fast_div(g.outputs[1])]
        ints = [units + fours * (1 << 32), *words, *(low + high * (1 << 32) for low, high in pairs)]
        return Launch(tuple(ints), blocks_for(units, THREADS))

    return KernelSource(lambda: _text(site, epilogue, wide, window), bind, "depthwise", {site.index[1]: by_taps})


def _text(site: Site, epilogue: Builder, wide: int, window: tuple[int, int]) -> str:
    node, d, (height, width) = site.outer, site.result.dtype, window
    sums, at = "f64" if d is F64 else "f32", first_int(node)
    words = {"AT": at, "X": site.slot(0), "W": site.slot(1), "Y": first_result(node), "WIDE": wide, "SUM": sums}
    words |= {"HEIGHT": height, "WIDTH": width, "ROWS": min(height, AT_ONCE // width)}
    body = fill_in(_BEGIN, **words).strip().split("\n")
    constant = [node.operands[i].is_const for _, i in epilogue.leaves]  # type: ignore[union-attr]
    body += _held(written.leaves_of(node, epilogue), constant, wide)
    body += fill_in(_SUMS, **words).strip().split("\n")
    steps = written.steps(epilogue, d, "channel", held=("channel", "full"))
    body += [f"auto finish = [&]({sums} acc, u32 j) {{", *indent(steps), "};", f"Pack<E, {wide}> out;", "#pragma unroll"]
    body += [f"for (u32 j = 0; j < {wide}; j++) out.set(j, finish(sums[j], j));", f"store_pack(y, unit * {wide}, out);"]
    return kernel(THREADS, at + WORDS, body, [f"using E = element_{d};{_HALVES}"])


def _held(leaves: Sequence[written.Leaf], constant: Sequence[bool], wide: int) -> list[str]:
    """Statements that read what the epilogue takes: packs in `held`, and single numbers. Those that are `constant` lie at multiples
    of 16 bytes."""
    fields, lines = [], []
    for leaf, fixed in zip(leaves, constant, strict=True):
        at = f"p[{leaf.slot}]"
        if leaf.kind == "scalar":
            lines.append(f"const E::Memory one_{leaf.name} = *(const E::Memory*){at}, *const {leaf.name} = &one_{leaf.name};")
            continue
        place = f"channel, fours * {wide}" if leaf.kind == "channel" else f"unit * {wide}, units * {wide}"
        fields.append(f"Pack<E, {wide}> {leaf.name};")
        whole = "true" if fixed else f"({at} & 15) == 0"
        lines.append(f"held.{leaf.name} = read_pack<E, {wide}>({at}, {place}, {whole});")
    return [f"struct {{ {' '.join(fields)} }} held;", *lines] if fields else lines
