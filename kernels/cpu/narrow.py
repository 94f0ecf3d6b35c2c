"""Convolutions with one to four output channels: dot products over channels-last windows.

A product of matrices would leave most of a vector of columns empty. Here vectors run along a *segment* of the window instead,
numbers that lie together: all channels of all taps of a line of the window, or of one tap where a dilation or the stride of a
transposed convolution keeps taps apart. Several pixels are summed in step, by the same weights; at the border a segment is cut
short.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.core import Node, Value
from ...ir.recording import least
from ..convolutions import GEOMETRY, geometry, grouped_weight
from ..epilogue import Builder, Site
from ..operands import SUMMED, fill_in, first_int, first_result, slot_of, tiles_for
from ..spec import Call, KernelSource, Launch
from .blocks import insert
from .depthwise import scalar_program
from .gemm import computing
from .tiling import tiling

MOST_CHANNELS = 4
CHUNK = 256  # results of a line that are computed at a time, times the stride where it is transposed
_INTS = (*GEOMETRY, "chunks", "at_sums", "slice_bytes")

_TEXT = """
def kernel(p, tile, ntiles):
    PARAMS
    table = param(p, SCRATCH) + tile * slice_bytes
    sums = table + at_sums
    x_pixel = channels * MI
    run = TAPS * channels
    whole = run // LANES * LANES
    step = X_STEP * channels
    w_channel = KD * KH * KW * channels
    lines = images * OD * OH
    for unit in range(lines * chunks * tile // ntiles, lines * chunks * (tile + 1) // ntiles):
        line = unit // chunks
        begin = (unit - line * chunks) * CHUNK
        t = line // OH
        oh = line - t * OH
        n = t // OD
        od = t - n * OD
        for phase in range(PHASES):
            end = min(begin + CHUNK, (OW - phase + PHASES - 1) // PHASES)
            low = begin
            high = max(end, begin)
            segments = 0
            for kd in range(KD):
                for kh in range(KH):
                    z = IN_D
                    y = IN_H
                    if ALIGNED_DH and z >= 0 and z < D and y >= 0 and y < H:
                        for kw in range(0, KW, TAPS):
                            if ALIGNED_W:
                                v = IN_W
                                st_i64(table, 3 * segments, v)
                                st_i64(table, 3 * segments + 1, x + ((n * D + z) * H + y) * W * x_pixel)
                                st_i64(table, 3 * segments + 2, w + ((kd * KH + kh) * KW + kw) * channels * CI)
                                segments += 1
                                low = max(low, -(v // X_STEP))
                                high = min(high, (W - TAPS - v) // X_STEP + 1)
            j = begin
            while j < end:
                if j >= low and j < high and high - low >= PIXELS:
                    j = min(j, high - PIXELS)
                    for o in range(OUT):
                        ZERO
                        for s in range(segments):
                            at = ld_i64(table, 3 * s + 1) + (ld_i64(table, 3 * s) + j * X_STEP) * x_pixel
                            weights = ld_i64(table, 3 * s + 2) + o * w_channel * CI
                            for i in range(0, whole, LANES):
                                f = ldv_CT(weights, i)
                                WHOLE
                            if whole < run:
                                f = ldm_CT(weights, whole, run - whole)
                                PART
                        STORE
                    j += PIXELS
                else:
                    for o in range(OUT):
                        a0 = splat(CT(0))
                        for s in range(segments):
                            v = ld_i64(table, 3 * s) + j * X_STEP
                            first = min(max(-v, 0), TAPS)
                            size = (max(min(W - v, TAPS), first) - first) * channels
                            at = ld_i64(table, 3 * s + 1) + (v + first) * x_pixel
                            weights = ld_i64(table, 3 * s + 2) + (o * w_channel + first * channels) * CI
                            for i in range(0, size, LANES):
                                a0 = fma(ldm_T(at, i, size - i), ldm_CT(weights, i, size - i), a0)
                        put_CT(sums, ((j - begin) * PHASES + phase) * OUT + o, hsum(a0))
                    j += 1
        at = (line * OW + begin * PHASES) * OUT
        count = min(CHUNK * PHASES, OW - begin * PHASES)
        for o in range(OUT):
            for k in range(count):
                acc = get_CT(sums, k * OUT + o)
                EPILOGUE
                put_T(result, at + k * OUT + o, out)
"""


def is_narrow(node: Node, w: Value) -> bool:
    """Whether a convolution with this weight has few output channels and enough numbers in a segment."""
    if not w.is_const or node.attr("group") != 1 or not w.array.size:
        return False
    transposed = node.op.name == "conv_transpose"
    outputs, channels = w.array.shape[:2] if not transposed else w.array.shape[1::-1]
    return outputs <= MOST_CHANNELS and channels * _taps(node, w.array.shape[-1]) >= tiling(4).lanes


def _taps(node: Node, width: int) -> int:
    """The taps of a line of the window that lie together."""
    return width if node.op.name == "conv" and (node.attr("dilations") or (1,))[-1] == 1 else 1


def build_narrow(site: Site, epilogue: Builder) -> KernelSource:
    """The kernel of a convolution for which `is_narrow` holds, of channels-last tensors (or of one channel)."""
    dtype, node, weight = site.result.dtype, site.outer, site.operand(1).array  # type: ignore[union-attr]
    item = 8 if dtype.name == "f64" else 4
    transposed = site.anchor.op.name == "conv_transpose"
    outputs, pixels = weight.shape[1 if transposed else 0], 4 if item == 8 else 8
    names = {"x": site.slot(0), "w": site.slot(1), "result": first_result(node)}
    names |= {f"leaf{k}": slot_of(node, i) for k, (_, i) in enumerate(epilogue.leaves)}
    names |= {name: first_int(node) + i for i, name in enumerate(_INTS)}
    text = insert(
        _TEXT,
        PARAMS="\n".join(f"{name} = param(p, {slot})" for name, slot in names.items()),
        ZERO="\n".join(f"a{i} = splat(CT(0))" for i in range(pixels)),
        WHOLE="\n".join(f"a{i} = fma(ldv_T(at, i + {i} * step), f, a{i})" for i in range(pixels)),
        PART="\n".join(f"a{i} = fma(ldm_T(at, whole + {i} * step, run - whole), f, a{i})" for i in range(pixels)),
        STORE="\n".join(f"put_CT(sums, ((j + {i} - begin) * PHASES + phase) * OUT + o, hsum(a{i}))" for i in range(pixels)),
        EPILOGUE=scalar_program(epilogue, "o", "at + k * OUT + o"),
    )
    for word, expression in _places(transposed).items():
        text = text.replace(word, expression)
    text = fill_in(text, CT="f64" if item == 8 else "f32", MI=dtype.itemsize, CI=item, CHUNK=CHUNK, PIXELS=pixels, OUT=outputs,
                   SCRATCH=names["result"] + 1, TAPS=_taps(site.anchor, weight.shape[-1]), PHASES="sw" if transposed else 1,
                   X_STEP=1 if transposed else "sw")  # fmt: skip
    text = text.replace("_CT(", "_f64(" if item == 8 else "_f32(").replace("_T(", f"_{dtype.name}(")

    def pack(w: np.ndarray) -> np.ndarray:
        # Rows are output channels, columns (tap, channel).
        return np.ascontiguousarray(grouped_weight(w.astype(computing(w.dtype)), 1, transposed)[0].T)

    def bind(call: Call) -> Launch:
        g = geometry(site.anchor, call.operands[site.index[0]], call.operands[site.index[1]])  # type: ignore[index,arg-type]
        phases = g.strides[2] if transposed else 1
        chunks, lines = -(-g.outputs[2] // (CHUNK * phases)), g.n * math.prod(g.outputs[:2])
        at_sums = -(-24 * g.taps // 64) * 64
        scratch = at_sums + -(-least(CHUNK * phases, g.outputs[2]) * outputs * item // 64) * 64
        work = lines * g.outputs[2] * outputs * g.taps * g.channels
        tiles = tiles_for(lines * chunks, work if not transposed else work // math.prod(g.strides), SUMMED)
        return Launch((*g.ints(), chunks, at_sums, scratch), tiles, scratch * tiles)

    return KernelSource(text, bind, "conv.narrow", {site.index[1]: pack})  # type: ignore[dict-item]


def _places(transposed: bool) -> dict[str, str]:
    """Where the input of a tap lies along each axis, for the result 0 of a phase along the last, and whether there is one."""
    if not transposed:
        places = {f"IN_{a.upper()}": f"o{a} * s{a} - p{a} + k{a} * d{a}" for a in "dh"}
        return places | {"IN_W": "kw * dw - pw", "ALIGNED_DH": "True", "ALIGNED_W": "True"}
    places = {f"IN_{a.upper()}": f"(o{a} + p{a} - k{a} * d{a}) // s{a}" for a in "dh"}
    aligned = " and ".join(f"(o{a} + p{a} - k{a} * d{a}) % s{a} == 0" for a in "dh")
    return places | {"IN_W": "(phase + pw - kw * dw) // sw", "ALIGNED_DH": aligned, "ALIGNED_W": "(phase + pw - kw * dw) % sw == 0"}
