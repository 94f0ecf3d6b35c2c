"""Depthwise convolutions: one filter a channel, so that there is no product of matrices, only sums along windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from textwrap import indent

import numpy as np

from ...ir.recording import greatest, least
from ..convolutions import GEOMETRY, geometry, grouped_weight
from ..epilogue import Builder, Site
from ..operands import SUMMED, fill_in, first_int, first_result, slot_of, tiles_for
from ..spec import Call, KernelSource, Launch
from .blocks import insert
from .direct import build_direct
from .gemm import computing
from .program import LEAVES
from .tiling import tiling


def is_depthwise(site: Site) -> bool:
    """Whether every channel has one filter of its own, and the weight is known when the text is made."""
    w = site.operand(1)
    return w.is_const and w.array.shape[1] == 1 and site.anchor.attr("group") == w.array.shape[0] > 1


def build_depthwise(site: Site, epilogue: Builder) -> KernelSource:
    """Input and result of one layout. Channels-last: vectors of channels; row-major: rows of pixels."""
    if site.result.layout is not None:
        return _last(site, epilogue)
    dtype = site.result.dtype
    item = 8 if dtype.name == "f64" else 4
    compute = "f64" if item == 8 else "f32"
    text = _major_text(site, epilogue).replace("_CT(", f"_{compute}(").replace("_T(", f"_{dtype.name}(")
    text = fill_in(text, CT=compute, MI=dtype.itemsize, CI=item)

    def pack(w: np.ndarray) -> np.ndarray:
        return w.reshape(w.shape[0], math.prod(w.shape[2:])).astype(computing(w.dtype))

    def bind(call: Call) -> Launch:
        g = geometry(site.anchor, call.operands[site.index[0]], call.operands[site.index[1]])
        units = g.n * g.channels
        tiles = tiles_for(units, units * math.prod(g.outputs) * g.taps, SUMMED)
        scratch = -(-g.outputs[2] * item // 64) * 64
        return Launch((*g.ints(), units, scratch), tiles, scratch * tiles)

    return KernelSource(text, bind, "depthwise", {site.index[1]: pack})


# ---- channels last ------------------------------------------------------------------------------------------------------

PIXELS = 4  # of a tile of two vectors: the sums, a line's weights and an input stay in registers
MOST_TAPS = 16  # of a line of the window; they are all written out
RUN = 8  # lines of the result at most that are computed channel by channel
LINES = 4  # of a tile at least: every tile reads the lines around its own, too
FEW_LINES = 16  # of the result: below, channels are shared out
FETCHED = 1 << 18  # bytes of a plane of the input from which on lines are fetched ahead

_INTS = ("shares", "ahead", "at_tables", "at_zeros", "slice_bytes")

_LAST = """
def kernel(p, tile, ntiles):
    PARAMS
    lists = param(p, SCRATCH) + tile * slice_bytes
    tables = lists + at_tables
    zeros = lists + at_zeros
    for i in range(channels):
        put_T(zeros, i, T(0))
    pixel = channels * MI
    w_pitch = (channels + LANES_ - 1) // LANES_ * LANES_ * CI
    groups = (channels + CHUNK - 1) // CHUNK
    whole = channels // CHUNK
    lines = images * OD * OH
    places = (OW - 1) * STRIDE + (KW - 1) * DILATION + 1
    low = min(max(pw, 0), places)
    high = max(min(W + pw, places), low)
    pitch = 16 * KD * KH + 8
    unit = lines * shares * tile // ntiles
    stop = lines * shares * (tile + 1) // ntiles
    while unit < stop:
        share = unit // lines
        line = unit - share * lines
        t = line // OH
        oh = line - t * OH
        n = t // OD
        od = t - n * OD
        run = min(RUN, OH - oh, stop - unit)
        top = oh * sh - ph
        height = (run - 1) * sh + (KH - 1) * dh + 1
        for kd in range(KD):
            z = od * sd - pd + kd * dd
            if z >= 0 and z < D:
                for r in range(max(0, -top), min(height, H - top)):
                    table = tables + (kd * height + r) * places * 8
                    at = x + ((n * D + z) * H + top + r) * W * pixel
                    for i in range(low):
                        put_i64(table, i, zeros)
                    for i in range(low, high):
                        put_i64(table, i, at + (i - pw) * pixel)
                    for i in range(high, places):
                        put_i64(table, i, zeros)
        for i in range(run):
            listed = lists + i * pitch
            count = 0
            for kd in range(KD):
                z = od * sd - pd + kd * dd
                for kh in range(KH):
                    r = i * sh + kh * dh
                    if z >= 0 and z < D and top + r >= 0 and top + r < H:
                        st_i64(listed, 2 * count + 1, (kd * KH + kh) * KW * w_pitch)
                        st_i64(listed, 2 * count + 2, tables + (kd * height + r) * places * 8)
                        count += 1
            st_i64(listed, 0, count)
        first = result + line * OW * pixel
        begin = groups * share // shares
        end = groups * (share + 1) // shares
        CALLS
        unit += run
"""


def _last(site: Site, epilogue: Builder) -> KernelSource:
    dtype, weight = site.result.dtype, site.operand(1).array  # type: ignore[union-attr]
    kernel = weight.shape[2:]
    if kernel[-1] > MOST_TAPS:
        return build_direct(site, epilogue, spread=False)
    item = 8 if dtype.name == "f64" else 4
    channels, lanes = len(weight), tiling(item).lanes
    padded, chunks = tiling(item).padded(channels), -(-channels // (2 * lanes))
    stride, dilation = ((site.anchor.attr(name) or (1,))[-1] for name in ("strides", "dilations"))
    names = {"x": site.slot(0), "w": site.slot(1), "result": first_result(site.outer)}
    names |= {f"leaf{k}": slot_of(site.outer, i) for k, (_, i) in enumerate(epilogue.leaves)}
    names |= {name: first_int(site.outer) + i for i, name in enumerate((*GEOMETRY, *_INTS))}
    program = tuple(("col", *s[1:]) if s[0] == "channel" else s for s in epilogue.program)
    calls = _LineCalls(epilogue, [2] * (channels >= 2 * lanes) + [1] * (channels % (2 * lanes) > 0))
    width = site.result.shape[-1]  # type: ignore[index]
    long = isinstance(width, int) and width >= PIXELS
    both = f"if OW >= PIXELS:\n{indent(calls.text(PIXELS), '    ')}\nelse:\n{indent(calls.text(1), '    ')}"
    body = insert(_LAST, PARAMS="\n".join(f"{name} = param(p, {slot})" for name, slot in names.items()),
                  CALLS=calls.text(PIXELS) if long else both)  # fmt: skip
    words = {"SCRATCH": names["result"] + 1, "STRIDE": stride, "DILATION": dilation, "MI": dtype.itemsize, "CI": item,
             "CHUNK": 2 * lanes, "LANES_": lanes, "PIXELS": PIXELS, "RUN": RUN, "T": "f64" if item == 8 else "f32"}  # fmt: skip
    text = fill_in(body, **words)
    for px in (PIXELS,) if long else (PIXELS, 1):
        for nv in calls.vectors:
            masked = nv == 1 and channels % lanes != 0
            args = (dtype.name, lanes, px, nv, math.prod(kernel[:-1]), kernel[-1], stride, dilation, masked, program)
            text = f"tile_{px}_{nv} = line_tile(*{args!r})\n" + text

    def pack(w: np.ndarray) -> np.ndarray:
        return np.pad(grouped_weight(w.astype(computing(w.dtype)), 1, False)[0], ((0, 0), (0, padded - channels)))

    def bind(call: Call) -> Launch:
        g = geometry(site.anchor, call.operands[site.index[0]], call.operands[site.index[1]])  # type: ignore[index,arg-type]
        lines = g.n * math.prod(g.outputs[:2])
        work = lines * g.outputs[2] * channels * g.taps
        shares = 1 if lines >= FEW_LINES else tiles_for(chunks, work, SUMMED)
        places = greatest(0, (g.outputs[2] - 1) * stride + (kernel[-1] - 1) * dilation + 1)
        run = greatest(0, least(RUN, g.outputs[1]))
        height = (run - 1) * g.strides[1] + (g.kernel[1] - 1) * g.dilations[1] + 1
        parts = (run * (16 * math.prod(g.kernel[:2]) + 8), g.kernel[0] * height * places * 8, channels * dtype.itemsize)
        _, at_tables, at_zeros, scratch = accumulate((-(-size // 64) * 64 for size in parts), initial=0)
        tiles = tiles_for(greatest(1, lines // LINES) * shares, work, SUMMED)
        line = g.inputs[2] * channels * dtype.itemsize
        ahead = g.strides[1] * line if g.inputs[1] * line > FETCHED else 0
        return Launch((*g.ints(), shares, ahead, at_tables, at_zeros, scratch), tiles, scratch * tiles)

    return KernelSource(text.replace("_T(", f"_{dtype.name}("), bind, "depthwise", {site.index[1]: pack})  # type: ignore[dict-item]


@dataclass(frozen=True)
class _LineCalls:
    """The calls of the microkernel for lines of pixels: two vectors of channels at a time, then one."""

    epilogue: Builder
    vectors: Sequence[int]

    def text(self, px: int) -> str:
        """Calls for the groups of channels from `begin` to `end`."""
        leaves = [f"leaf{k} - result" if kind == "full" else f"leaf{k}" for k, (kind, _) in enumerate(self.epilogue.leaves)]
        singles = "(channels - whole * CHUNK + LANES_ - 1) // LANES_ if end > whole else 0"
        lines = []
        for nv in self.vectors:
            count, first = ("min(end, whole) - begin", "begin * CHUNK") if nv == 2 else (singles, "whole * CHUNK")
            args = [count, "run", "OW", "lists", "pitch", f"{first} * MI", "ahead", f"w + {first} * CI", "w_pitch", "first",
                    "OW * pixel", "pixel", f"{first} * MI", f"channels - {first}", *leaves]  # fmt: skip
            lines.append(f"tile_{px}_{nv}({', '.join(args)})")
        return "\n".join(lines)


# ---- row-major ----------------------------------------------------------------------------------------------------------


def _params(site: Site, epilogue: Builder) -> str:
    at = first_int(site.outer)
    names = {"x": site.slot(0), "w": site.slot(1), "result": first_result(site.outer)}
    names |= {f"leaf{k}": slot_of(site.outer, i) for k, (_, i) in enumerate(epilogue.leaves)}
    names |= {name: at + i for i, name in enumerate((*GEOMETRY, "units", "slice_bytes"))}
    return "\n".join(f"{name} = param(p, {slot})" for name, slot in names.items())


_MAJOR = """
def kernel(p, tile, ntiles):
    PARAMS
    sums = param(p, SCRATCH) + tile * slice_bytes
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        c = unit % channels
        plane = x + unit * D * H * W * MI
        weight = w + c * KD * KH * KW * CI
        for od in range(OD):
            for oh in range(OH):
                for j in range(OW):
                    st_CT(sums, j, CT(0))
                for kd in range(KD):
                    z = od * sd - pd + kd * dd
                    for kh in range(KH):
                        y = oh * sh - ph + kh * dh
                        if z >= 0 and z < D and y >= 0 and y < H:
                            line = plane + (z * H + y) * W * MI
                            for kw in range(KW):
                                v = kw * dw - pw
                                low = min(max(-(v // sw), 0), OW)
                                high = max(min(-((v - W) // sw), OW), low)
                                f = ld_CT(weight, (kd * KH + kh) * KW + kw)
                                if sw == 1:
                                    for j in range(low, high):
                                        put_CT(sums, j, fma(get_T(line, j + v), f, ld_CT(sums, j)))
                                else:
                                    for j in range(low, high):
                                        put_CT(sums, j, fma(get_T(line, j * sw + v), f, ld_CT(sums, j)))
                at = ((unit * OD + od) * OH + oh) * OW
                for j in range(OW):
                    acc = get_CT(sums, j)
                    EPILOGUE
                    put_T(result, at + j, out)
"""
_BINARY = {
    "min": "minimum",
    "max": "maximum",
    "abs": "absolute",
    "round": "rint",
    "pow": "pow_",
    "and": "and_",
    "or": "or_",
    "xor": "xor_",
    "not": "not_",
}


def _major_text(site: Site, epilogue: Builder) -> str:
    text = insert(_MAJOR, PARAMS=_params(site, epilogue), EPILOGUE=scalar_program(epilogue, "c", "at + j"))
    return fill_in(text, SCRATCH=first_result(site.outer) + 1)


def scalar_program(epilogue: Builder, channel: str, element: str) -> str:
    """A program as statements for one element, from `acc` to `out`; `channel` and `element` index operands of these kinds."""
    index, lines = {"channel": channel, "full": element, "scalar": "0"}, []
    for i, (fn, *args) in enumerate(epilogue.program):
        if fn == "acc":
            value = "acc"
        elif fn == "const":
            value = f"CT({_number(args[0])})"
        elif fn in LEAVES or fn == "channel":
            value = f"get_T(leaf{args[0]}, {index[fn]})"
        else:
            value = f"{_BINARY.get(fn, fn)}({', '.join(f's{a}' for a in args)})"
        lines.append(f"s{i} = {value}")
    return "\n".join([*lines, f"out = s{len(epilogue.program) - 1}"])


def _number(text: str) -> str:
    value = float.fromhex(text)
    return repr(value) if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
