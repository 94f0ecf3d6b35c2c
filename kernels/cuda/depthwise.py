"""Depthwise convolutions, transposed ones too: every output channel sees one input channel.

A thread computes neighbours of one pixel, as many channels as 16 bytes hold, where both tensors are channels-last; else one number,
its neighbours in the warp being neighbours in the result. Nothing is shared: what a warp's windows have in common comes from the
first-level cache. Constant weights are packed as [tap][channel] for channels-last results, to be read along the channels.
Convolutions with such packs and known windows are in depthwise_packs.py.
"""

from __future__ import annotations

import math

from ...ir.types import F64
from ..convolutions import geometry
from ..epilogue import Builder, Site
from ..operands import first_int, first_result
from ..spec import Call, KernelSource, Launch
from . import epilogue as written
from .conv import axis_words, input_steps, phase_counts
from .depthwise_packs import build_packs, by_taps, window_of
from .source import fast_div
from .text import blocks_for, checked_size, indent, kernel
from .tiles import piece

THREADS = 256

_TAPS = """
for (u32 i0 = 0; i0 < axes[0].counts; i0++) {
    const i32 d = at[0] + i32(i0) * axes[0].inc;
    if (u32(d) >= axes[0].size) continue;
    for (u32 i1 = 0; i1 < axes[1].counts; i1++) {
        const i32 h = at[1] + i32(i1) * axes[1].inc;
        if (u32(h) >= axes[1].size) continue;
        const u32 line = (axes[0].tap + i0 * axes[0].tap_step) * axes[1].kernel + axes[1].tap + i1 * axes[1].tap_step;
        const u32 x_line = x_at + u32(d) * x_d + u32(h) * x_h;
#pragma unroll 2
        for (u32 i2 = 0; i2 < axes[2].counts; i2++) {
            const i32 v = at[2] + i32(i2) * axes[2].inc;
            if (u32(v) >= axes[2].size) continue;
            const u32 tap = line * axes[2].kernel + axes[2].tap + i2 * axes[2].tap_step;
            TAP
        }
    }
}
"""
_NAMES = ("units", "channels", "fours", None, "w_out", "w_tap", "x_n", "x_c", "x_d", "x_h", "x_w", "O0", "O1", "O2")


def is_depthwise(site: Site) -> bool:
    """Whether each output channel sees one input channel."""
    x, w, group = site.operand(0).tensor, site.operand(1).tensor, site.anchor.attr("group")
    if site.anchor.op.name == "conv_transpose":
        return group > 1 and w.shape[0] == group and isinstance(w.shape[1], int)
    return group > 1 and w.shape[1] == 1 and isinstance(x.shape[1], int) and x.shape[1] == group


def build_depthwise(site: Site, epilogue: Builder) -> KernelSource:
    """The kernel of a site that `is_depthwise`; `epilogue` is what is done to its sums."""
    x_last, y_last = (t.layout is not None for t in (site.operand(0).tensor, site.result))
    transposed, group, w = site.anchor.op.name == "conv_transpose", site.anchor.attr("group"), site.operand(1)
    single = w.tensor.shape[1] == 1 if transposed else w.tensor.shape[0] == group
    item = site.result.dtype.itemsize
    wide = 16 // item if x_last and y_last and single and w.is_const and group % (16 // item) == 0 else 1
    window = window_of(site)
    if wide > 1 and window is not None:
        return build_packs(site, epilogue, wide, window)
    axes = site.result.rank - 2
    packed = w.is_const and y_last

    def bind(call: Call) -> Launch:
        for shape in (*call.operands, *call.results):
            checked_size(math.prod(shape or ()))
        g = geometry(site.anchor, call.operands[site.index[0]], call.operands[site.index[1]])
        units = g.n * g.out_channels * math.prod(g.outputs) // wide
        strides = (1, g.out_channels) if packed else (g.taps, 1)
        fours = g.out_channels // wide
        steps = input_steps(g, x_last, 3)
        ints = [units, g.out_channels, fours, fast_div(g.out_channels // g.group), *strides, *steps, *g.outputs]
        ints += [fast_div(n) for n in (fours, *g.outputs)]
        for a in range(3):
            words = axis_words(g, a, transposed)
            ints += words if a >= 3 - axes or not transposed else words[:12]
        return Launch(tuple(ints), blocks_for(units, THREADS))

    def text() -> str:
        return _text(site, epilogue, wide, y_last)

    return KernelSource(text, bind, "depthwise", {site.index[1]: by_taps} if packed else {})


def _text(site: Site, epilogue: Builder, wide: int, y_last: bool) -> str:
    node, d = site.outer, site.result.dtype
    sums, at = "f64" if d is F64 else "f32", first_int(node)
    counts = phase_counts(site, site.result.rank - 2)
    counts = [1] * (3 - len(counts)) + counts
    body = [f"const i64 y = p[{first_result(node)}];", f"const i64 w = p[{site.slot(1)}];"]
    body += [f"const u32 {name} = p[{at + i}];" for i, name in enumerate(_NAMES) if name]
    divide = [f"FastDiv(p[{at + len(_NAMES) + i}])" for i in range(4)]
    body += ["u32 unit = blockIdx.x * THREADS + threadIdx.x;", "if (unit >= units) return;", "u32 q = unit, next;"]
    channel = [f"next = q / {divide[0]};", f"const u32 channel = (q - next * fours) * {wide};", "q = next;"]
    pixel = []
    for a in (2, 1, 0):
        pixel += [f"next = q / {divide[a + 1]};", f"const u32 o{a} = q - next * O{a};", "q = next;"]
    body += [*channel, *pixel] if y_last else [*pixel, *channel]
    words = at + len(_NAMES) + 4
    makers = []
    for a in range(3):
        makers.append(f"axis_of(p, {words}, {'0' if counts[a] == 1 else f'o{a} % {counts[a]}'})")
        words += 6 + 6 * counts[a]
    body += [f"const Axis axes[3] = {{{', '.join(makers)}}};", "i32 at[3];"]
    for a in range(3):
        place = f"o{a}" if counts[a] == 1 else f"o{a} / {counts[a]}"
        body.append(f"at[{a}] = i32({place}) * axes[{a}].mul + axes[{a}].add;")
    body += [f"const i64 x = p[{site.slot(0)}];", f"const u32 x_at = q * x_n + channel / FastDiv(p[{at + 3}]) * x_c;"]
    body += [f"{sums} sums[{wide}] = {{}};"]
    tap = [
        f"auto a = load_pack<E, {wide}>(x, x_line + u32(v) * x_w);",
        f"auto b = load_pack<E, {wide}>(w, tap * w_tap + channel * w_out);",
        "#pragma unroll",
        f"for (int j = 0; j < {wide}; j++) sums[j] = fma(a.get(j), b.get(j), sums[j]);",
    ]
    for line in _TAPS.strip().split("\n"):
        body += indent(tap, 3) if line.strip() == "TAP" else [line]
    body += written.addresses(written.leaves_of(node, epilogue))
    body += [f"auto finish = [&]({sums} acc, u32 column, u32 to) {{", *indent(written.steps(epilogue, d, "column")), "};"]
    body += [f"Pack<E, {wide}> out;", "#pragma unroll"]
    body += [f"for (u32 j = 0; j < {wide}; j++) out.set(j, finish(sums[j], channel + j, unit * {wide} + j));"]
    body += [f"store_pack(y, unit * {wide}, out);"]
    return kernel(THREADS, words, body, [piece("tile"), piece("windows"), f"using E = element_{d};"])
