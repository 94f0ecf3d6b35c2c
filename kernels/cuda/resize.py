"""Resize: a thread computes one element of the result from tables of indices and weights, which lie in the device's memory.

What it adds up is added in the CPU kernel's order: for each tap of the last resized axis, a sum over those of the others.
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.core import Node
from ...ir.layout import physical
from ...ir.types import dtype_of
from ..boxes import strides_of
from ..operands import fill_in, first_int, first_result
from ..resize import Resize, Taps, resize_of
from ..spec import Call, Dims, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel

THREADS = 256

# Axes of the result, innermost first, of four words each: divisor, stride of the operand in elements, taps (0: it is not resized),
# where its indices stand behind the axes; its weights stand at the same place behind the weights.
_AXIS = """
u32 n = p[FIRST], axes = p[FIRST + 1], i = blockIdx.x * THREADS + threadIdx.x;
if (i >= n) return;
const i64* axis = (const i64*)p[FIRST - 2];
const i64* indices = axis + 4 * axes;
"""
_NEAREST = """
u32 rest = i;
i64 at = 0;
bool outside = false;
for (u32 k = 0; k < axes; k++, axis += 4) {
    FastDiv size(axis[0]);
    u32 q = rest / size;
    i64 j = rest - q * size.d;
    if (axis[2]) j = indices[axis[3] + j];
    outside = outside || j < 0;
    at += j * axis[1];
    rest = q;
}
st_TYPE(p[OUT], i, outside ? bits_i64_u64(p[FIRST + 2]) : u64(ld_TYPE(p[0], at)));
"""
_INTERPOLATE = """
i64 weights = p[FIRST - 1];
u32 last = p[FIRST + 3], others = p[FIRST + 4];
REAL v = REAL(0), fill = ld_REAL(&p.w[FIRST + 2], 0);
bool outside = false;
for (u32 t = 0; t < last && !outside; t++) {
    REAL sum = REAL(0), factor = REAL(1);
    for (u32 c = 0; c < others && !outside; c++) {
        REAL weight = REAL(1);
        i64 at = 0;
        u32 rest = i, choice = c;
        bool first = true;
        for (u32 k = 0; k < axes; k++) {
            FastDiv size(axis[4 * k]);
            u32 q = rest / size, taps = axis[4 * k + 2];
            i64 j = rest - q * size.d;
            if (taps) {
                i64 place = axis[4 * k + 3] + j * taps + (first ? t : choice % taps);
                if (first) factor = ld_REAL(weights, place);
                else weight = mul(weight, ld_REAL(weights, place));
                if (!first) choice /= taps;
                first = false;
                j = indices[place];
                outside = outside || j < 0;
            }
            at += j * axis[4 * k + 1];
            rest = q;
        }
        if (!outside) sum = add(sum, mul(to_REAL(ld_TYPE(p[0], at)), weight));
    }
    v = add(v, mul(sum, factor));
}
v = outside ? fill : v;
st_TYPE(p[OUT], i, NARROW);
"""


def tables(taps: dict[int, Taps], shape: Dims, out: Dims, real: np.dtype) -> tuple[list[int], np.ndarray]:
    """The words of the axes and of all indices, and all weights, for physical shapes. Axes that stay are taken together."""
    strides = strides_of(shape)
    axes: list[list[int]] = []
    indices: list[np.ndarray] = []
    at = 0
    for a in reversed(range(len(out))):
        t = taps.get(a)
        if t is None and axes and not axes[-1][2]:
            axes[-1][0] *= out[a]
            continue
        axes.append([out[a], strides[a], t.index.shape[1] if t else 0, at])
        if t is not None:
            indices.append(t.index.ravel())
            at += t.index.size
    weights = [t.weight.ravel() for a, t in sorted(taps.items(), reverse=True) if t.weight is not None]
    words = [w for n, stride, count, place in axes for w in (fast_div(n), stride, count, place)]
    return words + [i for x in indices for i in x.tolist()], np.concatenate([np.zeros(0), *weights]).astype(real)


def launch(found: Resize, call: Call, layout: object) -> Launch:
    """Ints: elements, axes, the bits of the fill; for interpolation, the taps of the last resized axis and those of all others."""
    shape, out = (physical(s, layout) for s in (call.operands[0], call.results[0]))  # type: ignore[arg-type]
    if 0 in out:
        return Launch((0,) * (3 if found.nearest else 5), 0, tables=(np.zeros(1, np.int64), np.zeros(1, found.real)))
    taps, total = found.taps(call), checked_size(math.prod(out))
    words, weights = tables(taps, shape, out, found.real)
    counts = [taps[a].index.shape[1] for a in sorted(taps, reverse=True)] or [1]
    axes = (len(words) - sum(t.index.size for t in taps.values())) // 4
    ints = (total, axes, int.from_bytes(found.fill, "little", signed=True), counts[0], math.prod(counts[1:]))
    given = (np.array(words or [0], np.int64), weights if weights.size else np.zeros(1, found.real))
    return Launch(ints[: 3 if found.nearest else 5], blocks_for(total, THREADS), tables=given)


@serves("resize")
def resize(node: Node) -> KernelSource | Refusal:
    found = resize_of(node)
    if isinstance(found, Refusal):
        return found
    x = node.operands[0].tensor  # type: ignore[union-attr]
    first = first_int(node, 2)
    text = fill_in(
        _AXIS.lstrip("\n") + (_NEAREST if found.nearest else _INTERPOLATE).lstrip("\n"), FIRST=first, OUT=first_result(node)
    )
    if found.nearest:
        text = text.replace("TYPE", f"u{8 * x.dtype.itemsize}")
    else:
        text = fill_in(text, NARROW=found.narrow).replace("TYPE", str(x.dtype)).replace("REAL", str(dtype_of(found.real)))
    words = first + (3 if found.nearest else 5)
    return KernelSource(
        kernel(THREADS, words, text.rstrip("\n").split("\n")), lambda call: launch(found, call, x.layout), host=found.host
    )
