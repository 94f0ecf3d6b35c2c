"""Direct convolutions with channels-last results: sums along windows, where a product of matrices would have too little to sum.

Depthwise convolutions multiply vectors of channels with vectors of weights; those of few input channels (the first of a network)
spread one number of the input, of whatever layout, over a vector of output channels. Pixels of an output row whose windows lie
inside the input share a list of addresses, one a tap, since their inputs lie a fixed distance apart; windows that reach into the
padding are summed pixel by pixel, over the taps inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..convolutions import GEOMETRY, Geometry, geometry, grouped_weight
from ..epilogue import Builder, Site
from ..operands import SUMMED, fill_in, first_int, first_result, slot_of, tiles_for
from ..spec import Call, KernelSource, Launch
from .blocks import insert
from .gemm import computing
from .tiling import tiling

PIXELS = {False: 4, True: 6}  # of a tile of two vectors, by `spread`: sums, weights and an input stay in registers
ALONE = 4  # vectors of a tile of one pixel
_INTS = (*GEOMETRY, "slice_bytes", "x_n", "x_d", "x_h", "x_w", "x_c")

_TEXT = """
def kernel(p, tile, ntiles):
    PARAMS
    table = param(p, SCRATCH) + tile * slice_bytes
    lines = images * OD * OH
    pixel = out_channels * MI
    x_step = sw * x_w
    low = min(max((pw + sw - 1) // sw, 0), OW)
    high = max(min((W - 1 + pw - (KW - 1) * dw) // sw + 1, OW), low)
    for line in range(lines * tile // ntiles, lines * (tile + 1) // ntiles):
        t = line // OH
        oh = line - t * OH
        n = t // OD
        od = t - n * OD
        ow = 0
        while ow < OW:
            run = high - low if ow == low and high > low else 1
            taps = 0
            for kd in range(KD):
                z = od * sd - pd + kd * dd
                for kh in range(KH):
                    y = oh * sh - ph + kh * dh
                    if z >= 0 and z < D and y >= 0 and y < H:
                        for kw in range(KW):
                            v = ow * sw - pw + kw * dw
                            if v >= 0 and v < W:
                                at = x + n * x_n + z * x_d + y * x_h + v * x_w
                                k = ((kd * KH + kh) * KW + kw) * per_group
                                for i in range(per_group):
                                    st_i64(table, 2 * taps, at + i * x_c)
                                    st_i64(table, 2 * taps + 1, (k + i) * W_PITCH)
                                    taps += 1
            first = result + (line * OW + ow) * pixel
            RUNS
            ow += run
"""
# Whole tiles of a run, and then what is left of it pixel by pixel.
_RUNS = """
done = run // TILE_PIXELS * TILE_PIXELS
if done > 0:
    WHOLE
if run > done:
    REST
"""


def build_direct(site: Site, epilogue: Builder, spread: bool) -> KernelSource:
    """The result is channels-last; with `spread` there is one group and the input has any layout, else it is a depthwise
    convolution of channels-last data."""
    dtype, weight = site.result.dtype, site.operand(1).array  # type: ignore[union-attr]
    item = 8 if dtype.name == "f64" else 4
    lanes = tiling(item).lanes
    padded = tiling(item).padded(len(weight))
    calls = _Calls(site, epilogue, spread, len(weight), lanes, item)
    whole = calls.text("done // TILE_PIXELS", "0", 2, PIXELS[spread])
    runs = insert(_RUNS, WHOLE=whole, REST=calls.text("run - done", "done", ALONE, 1))
    names = {"x": site.slot(0), "w": site.slot(1), "result": first_result(site.outer)}
    names |= {f"leaf{k}": slot_of(site.outer, i) for k, (_, i) in enumerate(epilogue.leaves)}
    names |= {name: first_int(site.outer) + i for i, name in enumerate(_INTS)}
    params = "\n".join(f"{name} = param(p, {slot})" for name, slot in names.items())
    words = {"MI": dtype.itemsize, "W_PITCH": padded * item, "TILE_PIXELS": PIXELS[spread], "SCRATCH": names["result"] + 1}
    text = calls.kernels() + fill_in(insert(_TEXT, PARAMS=params, RUNS=runs), **words)
    x_last = site.operand(0).tensor.layout is not None  # type: ignore[union-attr]

    def pack(w: np.ndarray) -> np.ndarray:  # rows are (tap, input channel)
        return np.pad(grouped_weight(w.astype(computing(w.dtype)), 1, False)[0], ((0, 0), (0, padded - len(w))))

    def bind(call: Call) -> Launch:
        g = geometry(site.anchor, call.operands[site.index[0]], call.operands[site.index[1]])  # type: ignore[index,arg-type]
        lines = g.n * math.prod(g.outputs[:2])
        tiles = tiles_for(lines, lines * g.outputs[2] * g.out_channels * g.taps * g.per_group, SUMMED)
        scratch = -(-g.taps * g.per_group * 16 // 64) * 64
        return Launch((*g.ints(), scratch, *x_strides(g, x_last, dtype.itemsize)), tiles, scratch * tiles)

    return KernelSource(text, bind, "conv.direct" if spread else "depthwise", {site.index[1]: pack})  # type: ignore[dict-item]


@dataclass(frozen=True)
class _Calls:
    """The calls of the microkernel, for all channels of a run of pixels."""

    site: Site
    epilogue: Builder
    spread: bool
    channels: int
    lanes: int
    item: int

    def text(self, count: str, start: str, vectors: int, px: int) -> str:
        """Calls for `count` tiles of px pixels from the pixel `start` of a run: so many vectors of channels at a time, then one."""
        wide = self.channels // (vectors * self.lanes) * vectors * self.lanes
        size = self.site.result.dtype.itemsize
        x_at = f"({start}) * x_step" + ("" if self.spread else f" + c * {size}")
        leaves = [f"leaf{k} - result" if kind == "full" else f"leaf{k}" for k, (kind, _) in enumerate(self.epilogue.leaves)]
        args = [count, "taps", "table", x_at, "x_step", f"w + c * {self.item}", f"first + ({start}) * pixel", "pixel",
                f"c * {size}", f"{self.channels} - c", *leaves]  # fmt: skip
        lines = []
        for begin, end, nv in ((0, wide, vectors), (wide, self.channels, 1)):
            if begin < end:
                lines += [f"for c in range({begin}, {end}, {nv * self.lanes}):", f"    tile_{px}_{nv}({', '.join(args)})"]
        return "\n".join(lines)

    def kernels(self) -> str:
        """The microkernels that the calls name."""
        program = tuple(("col", *s[1:]) if s[0] == "channel" else s for s in self.epilogue.program)
        name, lines = self.site.result.dtype.name, []
        for px, vectors in ((PIXELS[self.spread], 2), (1, ALONE)):
            for nv in (vectors, 1):
                masked = nv == 1 and self.channels % self.lanes != 0
                args = (name, self.lanes, px, nv, self.spread, masked, program)
                lines.append(f"tile_{px}_{nv} = window_tile(*{args!r})\n")
        return "".join(lines)


def x_strides(g: Geometry, last: bool, item: int) -> tuple[int, int, int, int, int]:
    """The byte strides of an input: image, depth, height, width, channel."""
    step = item * (g.channels if last else 1)
    size = math.prod(g.inputs)
    return size * g.channels * item, step * g.inputs[2] * g.inputs[1], step * g.inputs[2], step, item if last else size * item
