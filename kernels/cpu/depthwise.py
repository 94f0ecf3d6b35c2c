"""Depthwise convolutions: one filter a channel, so that there is no product of matrices, only sums along windows."""

from __future__ import annotations

import math

import numpy as np

from ..spec import Call, KernelSource, Launch
from .blocks import insert
from .conv import GEOMETRY, geometry
from .direct import build_direct
from .epilogue import Builder, Site
from .gemm import computing
from .microkernel import LEAVES
from .operands import SUMMED, fill_in, first_int, first_result, slot_of, tiles_for


def is_depthwise(site: Site) -> bool:
    """Whether every channel has one filter of its own, and the weight is known when the text is made."""
    w = site.operand(1)
    return w.is_const and w.array.shape[1] == 1 and site.anchor.attr("group") == w.array.shape[0] > 1


def build_depthwise(site: Site, epilogue: Builder) -> KernelSource:
    """Input and result of one layout. Channels-last: vectors of channels; row-major: rows of pixels."""
    if site.result.layout is not None:
        return build_direct(site, epilogue, spread=False)
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
