"""Casts to the type of another operand, and linear quantization: formulas (`../formulas.py`) as loops."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.core import Node
from ...ir.ops.quant import quantize
from ...ir.scalar import Expr, trace
from ...ir.types import F32, I8, I16, U8, U16
from ..formulas import FORMULAS, formula_of
from ..operands import first_int, refuse_layouts
from ..printer import Printer
from ..spec import Call, KernelSource, Launch, Refusal
from .loops import bind, loop_text
from .target import serves


@serves(*FORMULAS)
def build(node: Node) -> KernelSource | Refusal:
    f = formula_of(node)
    if isinstance(f, Refusal):
        return f

    def compute(body: Printer, names: Mapping[int, str]) -> list[str]:
        return [_converted(body, f.expr, f.arguments(names))]

    text = loop_text(f.space, f.loaded, [f.expr.dtype], compute)
    return KernelSource(text, lambda call: bind(f.space, f.seen(call)), "loops")


def _converted(body: Printer, e: Expr, args: list[str]) -> str:
    """The value of an expression. The last step of a quantization is a cast of whole numbers that the type holds, which a sum with
    1.5 * 2^23 leaves in the low bits: a fraction of the instructions of a cast."""
    if e.fn != "cast" or e.dtype not in (I8, U8, I16, U16) or e.args[0].dtype is not F32 or e.args[0].fn != "where":
        return body.value(e, args)
    whole = body.value(e.args[0], args)
    return body.let(f"to_{e.dtype}(bits_f32_u32(add({whole}, f32(12582912.0))))")


# ---- dynamic_quantize_linear ------------------------------------------------------------------------------------

# How the numbers from low to high (of which 0 is one) become u8.
RANGE = """
@function
def step_of(low, high):
    return f32(1) if low == high else div(sub(high, low), f32(255))


@function
def zero_point(low, step):
    zero = rint(div(neg(low), step))
    return to_f32(to_u8(minimum(maximum(zero, f32(0)), f32(255))))


"""
# One tile finds the range; NaN, which the reference passes on, makes every comparison with it false.
_DYNAMIC = """
def kernel(p, tile, ntiles):
    x = param(p, 0)
    y = param(p, 1)
    n = param(p, FIRST)
    lows = splat(f32(0))
    lows1 = lows
    highs = lows
    highs1 = lows
    i = 0
    while i + 2 * LANES <= n:
        v = ldv_f32(x, i)
        v1 = ldv_f32(x, i + LANES)
        lows = minimum(lows, v)
        lows1 = minimum(lows1, v1)
        highs = maximum(highs, v)
        highs1 = maximum(highs1, v1)
        i += 2 * LANES
    lows = minimum(lows, lows1)
    highs = maximum(highs, highs1)
    while i < n:
        v = ldm_f32(x, i, n - i)
        lows = minimum(lows, v)
        highs = maximum(highs, v)
        i += LANES
    lo = hmin(lows)
    hi = hmax(highs)
    scale = step_of(lo, hi)
    zero = zero_point(lo, scale)
    st_f32(param(p, 2), 0, scale)
    middle = to_u8(zero)
    st_u8(param(p, 3), 0, middle)
    for i in range(n):
        BODY
"""


@serves("dynamic_quantize_linear")
def dynamic(node: Node) -> KernelSource | Refusal:
    """The kernel of dynamic_quantize_linear."""
    refusal = refuse_layouts(node)
    if refusal is not None:
        return refusal
    x, scale, zero = node.operands[0].tensor, *(v.tensor for v in node.results[1:])
    e = trace(quantize, [x.dtype, scale.dtype, zero.dtype], {"to": zero.dtype})
    body = Printer()
    out = _converted(body, e, [body.let("get_f32(x, i)"), "scale", "middle"])
    lines = [*body.lines, f"put_u8(y, i, {out})"]
    text = (
        (RANGE.lstrip("\n") + _DYNAMIC.lstrip("\n"))
        .replace("FIRST", str(first_int(node)))
        .replace("BODY", "\n        ".join(lines))
    )

    def bound(call: Call) -> Launch:
        n = 1
        for d in call.operands[0] or ():
            n *= d
        return Launch((n,))

    return KernelSource(text, bound, "one pass for the range, one for the numbers")
