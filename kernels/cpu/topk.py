"""The largest elements of rows: topk and hardmax. NaN counts as greater than every number; of equal elements the first wins."""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.types import FLOATS, NUMERIC
from ..operands import fill_in, first_int, first_result, refuse_layouts, tiles_for
from ..spec import Call, KernelSource, Launch, Refusal
from .target import serves

# x [outer, n, inner] -> the k best of each row, best first. While a row is read, its results hold a heap with the worst at the
# root; then roots are taken off, to the end of what is left.
_TOP_K = """
@function
def better(a, b):
    return BETTER


@function
def sift(values, chosen, first, inner, size, v, t):
    at = 0
    while 2 * at + 1 < size:
        c = first + (2 * at + 1) * inner
        a = ld_TYPE(values, c)
        i = ld_i64(chosen, c)
        down = 2 * at + 1
        if down + 1 < size:
            b = ld_TYPE(values, c + inner)
            j = ld_i64(chosen, c + inner)
            if better(a, b) or (j > i and not better(b, a)):
                a = b
                i = j
                down += 1
        if better(a, v) or (t > i and not better(v, a)):
            break
        st_TYPE(values, first + at * inner, a)
        st_i64(chosen, first + at * inner, i)
        at = down
    st_TYPE(values, first + at * inner, v)
    st_i64(chosen, first + at * inner, t)


def kernel(p, tile, ntiles):
    x = param(p, 0)
    values = param(p, FIRST - 3)
    chosen = param(p, FIRST - 2)
    units = param(p, FIRST)
    n = param(p, FIRST + 1)
    k = param(p, FIRST + 2)
    inner = param(p, FIRST + 3)
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        row = u // inner
        source = row * n * inner + u - row * inner
        first = row * k * inner + u - row * inner
        for t in range(k):
            v = ld_TYPE(x, source + t * inner)
            at = t
            while at > 0:
                up = (at - 1) // 2
                parent = ld_TYPE(values, first + up * inner)
                if better(v, parent):
                    break
                st_TYPE(values, first + at * inner, parent)
                st_i64(chosen, first + at * inner, ld_i64(chosen, first + up * inner))
                at = up
            st_TYPE(values, first + at * inner, v)
            st_i64(chosen, first + at * inner, t)
        for t in range(k, n):
            v = ld_TYPE(x, source + t * inner)
            if better(v, ld_TYPE(values, first)):
                sift(values, chosen, first, inner, k, v, t)
        for last in range(k - 1, 0, -1):
            v = ld_TYPE(values, first + last * inner)
            t = ld_i64(chosen, first + last * inner)
            st_TYPE(values, first + last * inner, ld_TYPE(values, first))
            st_i64(chosen, first + last * inner, ld_i64(chosen, first))
            sift(values, chosen, first, inner, last, v, t)
"""


def greater(a: str, b: str, is_float: bool) -> str:
    """The text of a > b, with NaN above every number."""
    return f"{a} > {b} or ({a} != {a} and {b} == {b})" if is_float else f"{a} > {b}"


@serves("topk")
def topk(node: Node) -> KernelSource | Refusal:
    x = node.operands[0].tensor
    if x.dtype not in NUMERIC:
        return Refusal("the elements are no numbers", {"X": x})
    refusal = refuse_layouts(node)
    if refusal:
        return refusal
    if len(node.results) != 2:
        return Refusal("the kernel writes values and indices", {"results": len(node.results)})
    axis = node.attr("axis") % x.rank

    def bind(call: Call) -> Launch:
        dims, k = call.operands[0], call.results[0][axis]
        inner = math.prod(dims[axis + 1 :])
        units = math.prod(dims[:axis]) * inner if k else 0
        return Launch((units, dims[axis], k, inner), tiles_for(units, units * dims[axis] * 4), units=units)

    order = greater("a", "b", x.dtype.is_float) if node.attr("largest") else greater("b", "a", x.dtype.is_float)
    return KernelSource(fill_in(_TOP_K.replace("TYPE", str(x.dtype)), FIRST=first_int(node), BETTER=order), bind)


_HARDMAX = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    out = param(p, OUT)
    units = param(p, FIRST)
    n = param(p, FIRST + 1)
    inner = param(p, FIRST + 2)
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        row = u // inner
        first = row * n * inner + u - row * inner
        best = 0
        a = ld_TYPE(x, first)
        st_TYPE(out, first, f_TYPE(0))
        for t in range(1, n):
            b = ld_TYPE(x, first + t * inner)
            st_TYPE(out, first + t * inner, f_TYPE(0))
            if GREATER:
                a = b
                best = t
        st_TYPE(out, first + best * inner, f_TYPE(1))
"""


@serves("hardmax")
def hardmax(node: Node) -> KernelSource | Refusal:
    x = node.operands[0].tensor
    refusal = refuse_layouts(node)
    if refusal or x.dtype not in FLOATS:
        return refusal or Refusal("the elements are no floats", {"x": x})
    axis, flatten = node.attr("axis") % max(x.rank, 1), node.attr("flatten")

    def bind(call: Call) -> Launch:
        dims = call.operands[0]
        n = math.prod(dims[axis:]) if flatten else dims[axis] if dims else 1
        inner = 1 if flatten else math.prod(dims[axis + 1 :])
        units = math.prod(dims[:axis]) * inner if n else 0
        return Launch((units, n, inner), tiles_for(units, units * n), units=units)

    text = _HARDMAX.replace("f_TYPE", "f64" if x.dtype.bits == 64 else "f32").replace("TYPE", str(x.dtype))
    text = fill_in(text, FIRST=first_int(node), OUT=first_result(node), GREATER=greater("b", "a", True))
    return KernelSource(text, bind)
