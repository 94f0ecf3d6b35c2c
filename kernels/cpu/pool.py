"""Pooling over windows and over whole spatial axes, row-major and channels-last."""

from __future__ import annotations

import math

from ...ir.core import Node
from ..operands import fill_in, first_int, tiles_for
from ..pools import POOLS, Fold, fold_of, refuse_pool, windows_over
from ..spec import Call, KernelSource, Launch, Refusal
from .blocks import insert
from .target import serves

BLOCK = 128  # addends of one sum; sums of sums keep the rounding error of large planes small


@serves(*POOLS)
def build(node: Node) -> KernelSource | Refusal:
    """Up to three spatial axes; indices of maxima for row-major operands only."""
    refusal = refuse_pool(node)
    if refusal is not None:
        return refusal
    last = node.operands[0].tensor.layout is not None
    return _global(node, last) if node.op.name.startswith("global") else _windows(node, last, len(node.results) > 1)


def _text(text: str, node: Node, fold: Fold, **fragments: str) -> str:
    dtype = node.operands[0].tensor.dtype
    compute = "f32" if dtype.itemsize == 2 and dtype.is_float else dtype.name
    text = (
        insert(text, **fragments)
        .replace("STEP", fold.step)
        .replace("START", fold.start)
        .replace("END", fold.end)
        .replace("JOIN", fold.join)
    )
    for word, name in (("CT", compute), ("T", dtype.name)):
        text = text.replace(f"_{word}(", f"_{name}(").replace(f" {word}(", f" {name}(").replace(f"({word}(", f"({name}(")
    sizes = {"MI": dtype.itemsize, "CI": 8 if compute == "f64" else 4 if compute == "f32" else 1}
    return fill_in(text, CT=compute, SCRATCH=1 + len(node.results), **sizes)


# ---- windows ------------------------------------------------------------------------------------------------------------

_NAMES = ("images", "channels", "D", "H", "W", "OD", "OH", "OW", "KD", "KH", "KW", "sd", "sh", "sw", "dd", "dh", "dw", "pd", "ph",
          "pw",
          "ed", "eh", "ew", "units", "slice_bytes")  # fmt: skip


def _params(node: Node) -> str:
    at = first_int(node)
    return "\n".join(f"{name} = param(p, {at + i})" for i, name in enumerate(_NAMES))


# How many elements of an axis a window has that count: those inside of [low, high).
_COUNTS = """
n = 0
for k in range(KD):
    if od * sd - pd + k * dd >= LOW_D and od * sd - pd + k * dd < HIGH_D:
        n += 1
m = 0
for k in range(KH):
    if oh * sh - ph + k * dh >= LOW_H and oh * sh - ph + k * dh < HIGH_H:
        m += 1
area = n * m
"""
_COUNT = """
n = 0
for k in range(KW):
    if ow * sw - pw + k * dw >= LOW_W and ow * sw - pw + k * dw < HIGH_W:
        n += 1
n *= area
"""
# A line of results at a time: first the window's lines are folded into one, then its elements, at every place (of which the strides
# then pick some), so that all loops run over neighbours.
_MAJOR = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    result = param(p, 1)
    PARAMS
    sums = param(p, SCRATCH) + tile * slice_bytes
    folded = sums + W * CI
    span = (OW - 1) * sw + 1
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        plane = x + unit * D * H * W * MI
        for od in range(OD):
            for oh in range(OH):
                COUNTS
                for j in range(W):
                    st_CT(sums, j, START)
                for kd in range(KD):
                    z = od * sd - pd + kd * dd
                    for kh in range(KH):
                        y = oh * sh - ph + kh * dh
                        if z >= 0 and z < D and y >= 0 and y < H:
                            line = plane + (z * H + y) * W * MI
                            for j in range(0, W - LANES + 1, LANES):
                                v = ldv_T(line, j)
                                acc = ldv_CT(sums, j)
                                stv_CT(sums, j, STEP_V)
                            for j in range(W // LANES * LANES, W):
                                v = ld_T(line, j)
                                acc = ld_CT(sums, j)
                                st_CT(sums, j, STEP)
                for j in range(span):
                    st_CT(folded, j, START)
                for kw in range(KW):
                    s = kw * dw - pw
                    low = min(max(-s, 0), span)
                    high = max(min(W - s, span), low)
                    for j in range(low, high - LANES + 1, LANES):
                        u = ldv_CT(sums, j + s)
                        acc = ldv_CT(folded, j)
                        stv_CT(folded, j, JOIN_V)
                    for j in range(low + (high - low) // LANES * LANES, high):
                        u = ld_CT(sums, j + s)
                        acc = ld_CT(folded, j)
                        st_CT(folded, j, JOIN)
                at = ((unit * OD + od) * OH + oh) * OW
                for ow in range(OW):
                    acc = ld_CT(folded, ow * sw)
                    COUNT
                    st_T(result, at + ow, END)
"""
_INDICES = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    result = param(p, 1)
    where_ = param(p, 2)
    PARAMS
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        plane = x + unit * D * H * W * MI
        for od in range(OD):
            for oh in range(OH):
                for ow in range(OW):
                    acc = START
                    best = -1
                    for kd in range(KD):
                        z = od * sd - pd + kd * dd
                        for kh in range(KH):
                            y = oh * sh - ph + kh * dh
                            for kw in range(KW):
                                s = ow * sw - pw + kw * dw
                                if z >= 0 and z < D and y >= 0 and y < H and s >= 0 and s < W:
                                    v = get_T(plane, (z * H + y) * W + s)
                                    if best < 0 or v > acc or (v != v and acc == acc):
                                        acc = v
                                        best = PLACE
                    at = ((unit * OD + od) * OH + oh) * OW + ow
                    st_T(result, at, acc)
                    st_i64(where_, at, best + unit * D * H * W)
"""
# A pixel at a time: the addresses of its window's elements, then all channels.
_LAST = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    result = param(p, 1)
    PARAMS
    table = param(p, SCRATCH) + tile * slice_bytes
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        oh = unit % OH
        od = unit // OH % OD
        image = x + unit // OH // OD * D * H * W * channels * MI
        COUNTS
        for ow in range(OW):
            taps = 0
            for kd in range(KD):
                z = od * sd - pd + kd * dd
                for kh in range(KH):
                    y = oh * sh - ph + kh * dh
                    for kw in range(KW):
                        s = ow * sw - pw + kw * dw
                        if z >= 0 and z < D and y >= 0 and y < H and s >= 0 and s < W:
                            st_i64(table, taps, image + ((z * H + y) * W + s) * channels * MI)
                            taps += 1
            COUNT
            to = result + (unit * OW + ow) * channels * MI
            whole = channels // LANES * LANES
            for c in range(0, whole, LANES):
                acc = splat(START)
                for t in range(taps):
                    v = ldv_T(ld_i64(table, t), c)
                    acc = STEP_V
                stv_T(to, c, END_V)
            for c in range(whole, channels):
                acc = START
                for t in range(taps):
                    v = ld_T(ld_i64(table, t), c)
                    acc = STEP
                st_T(to, c, END)
"""


def _vector(expression: str) -> str:
    """An expression of `Fold` on vectors, which know functions only."""
    out = expression
    for plain, called in (("acc + v * v", "fma(v, v, acc)"), ("acc / CT(n)", "div(acc, CT(n))"), ("acc + ", "add(acc, ")):
        if out.startswith(plain):
            out = called + out[len(plain) :] + (")" if called.endswith(", ") else "")
            break
    return out


def _windows(node: Node, last: bool, indices: bool) -> KernelSource:
    dtype, fold = node.operands[0].tensor.dtype, fold_of(node)
    counts, count = "", ""
    if node.op.name == "average_pool":
        pad = bool(node.attr("count_include_pad"))
        words = {f"LOW_{a.upper()}": f"-p{a}" if pad else "0" for a in "dhw"}
        words |= {f"HIGH_{a.upper()}": f"{a.upper()} + e{a}" if pad else a.upper() for a in "dhw"}
        counts, count = fill_in(_COUNTS, **words), fill_in(_COUNT, **words)
    text = _INDICES if indices else _LAST if last else _MAJOR
    place = "z + D * (y + H * s)" if node.op.name == "max_pool" and node.attr("storage_order") else "(z * H + y) * W + s"
    text = text.replace("STEP_V", _vector(fold.step)).replace("END_V", _vector(fold.end)).replace("PLACE", place)
    text = text.replace("JOIN_V", _vector(fold.join))
    text = _text(text, node, fold, PARAMS=_params(node), COUNTS=counts, COUNT=count)

    def bind(call: Call) -> Launch:
        n, c, *spatial = call.operands[0]
        win, three = windows_over(node, spatial)
        taps, out = math.prod(win.kernel), math.prod(win.out)
        units = n * math.prod(three[3:5]) if last else n * c
        tiles = tiles_for(units, n * c * out * taps)
        slice_bytes = -(-(taps * 8 if last else (three[2] + three[5] * win.strides[-1]) * 8) // 64) * 64
        return Launch((n, c, *three, units, slice_bytes), tiles, slice_bytes * tiles)

    return KernelSource(text, bind, f"pool.{'indices' if indices else 'last' if last else 'major'}.{dtype}")


# ---- whole axes ---------------------------------------------------------------------------------------------------------

_GLOBAL_MAJOR = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    result = param(p, 1)
    units = param(p, INTS)
    n = param(p, INTS + 1)
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        plane = x + unit * n * MI
        whole = n // LANES * LANES
        acc = START
        if whole > 0:
            many = splat(START)
            for block in range((whole + BLOCK * LANES - 1) // (BLOCK * LANES)):
                u = splat(START)
                for i in range(block * BLOCK * LANES, minimum((block + 1) * BLOCK * LANES, whole), LANES):
                    u = FOLD_V
                many = MANY_JOIN
            acc = TOTAL
        for i in range(whole, n):
            v = ld_T(plane, i)
            acc = STEP
        st_T(result, unit, END)
"""
_GLOBAL_LAST = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    result = param(p, 1)
    units = param(p, INTS)
    n = param(p, INTS + 1)
    channels = param(p, INTS + 2)
    at = units * tile // ntiles
    end = units * (tile + 1) // ntiles
    while at < end:
        image = at // channels
        first = at % channels
        last = min(channels, first + end - at)
        source = x + image * n * channels * MI
        to = result + image * channels * MI
        whole = first + (last - first) // LANES * LANES
        for c in range(first, whole, LANES):
            acc = splat(START)
            for block in range((n + BLOCK - 1) // BLOCK):
                u = splat(START)
                for i in range(block * BLOCK, minimum((block + 1) * BLOCK, n)):
                    v = ldv_T(source + i * channels * MI, c)
                    u = STEP_V
                acc = JOIN_V
            stv_T(to, c, END_V)
        for c in range(whole, last):
            sum_ = START
            for block in range((n + BLOCK - 1) // BLOCK):
                part = START
                for i in range(block * BLOCK, minimum((block + 1) * BLOCK, n)):
                    v = ld_T(source + i * channels * MI, c)
                    part = STEP_S
                sum_ = JOIN_S
            st_T(to, c, END_S)
        at += last - first
"""


def _global(node: Node, last: bool) -> KernelSource:
    fold = fold_of(node)
    if last:
        text = _GLOBAL_LAST.replace("STEP_S", fold.step.replace("acc", "part")).replace("END_S", fold.end.replace("acc", "sum_"))
        text = text.replace("JOIN_S", fold.join.replace("acc", "sum_").replace("u)", "part)").replace("+ u", "+ part"))
        text = text.replace("STEP_V", _vector(fold.step).replace("acc", "u")).replace("END_V", _vector(fold.end))
        text = text.replace("JOIN_V", _vector(fold.join))
    else:
        step = _vector(fold.step).replace("acc", "u").replace("v)", "ldv_T(plane, i))").replace("(v,", "(ldv_T(plane, i),")
        step = step.replace("fma(ldv_T(plane, i), v,", "fma(ldv_T(plane, i), ldv_T(plane, i),")
        text = (
            _GLOBAL_MAJOR.replace("FOLD_V", step)
            .replace("MANY_JOIN", _vector(fold.join).replace("acc", "many"))
            .replace("TOTAL", "hmax(many)" if "maximum" in fold.step else "hsum(many)")
        )
    text = fill_in(_text(text, node, fold), INTS=first_int(node), BLOCK=BLOCK)

    def bind(call: Call) -> Launch:
        n, c, *spatial = call.operands[0]
        size = math.prod(spatial)
        units = n * c
        return Launch((units, size, c), tiles_for(units // 64 if last else units, n * c * size))

    return KernelSource(text, bind, f"pool.global.{'last' if last else 'major'}")
