"""Casts to the type of another operand, and linear quantization: the operators' scalar formulas as loops.

A scale for each index of an axis is a broadcast along the other axes; one for each block is a broadcast within the axis split into
blocks, which is how both the operand and the scale are seen here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...ir.core import Node
from ...ir.ops.cast import cast_value
from ...ir.ops.quant import dequantize, quantize
from ...ir.scalar import Expr, trace
from ...ir.types import F32, I8, I16, U8, U16, TensorType
from ..dynamic_range import CLIPPED, STEP, ZERO
from ..operands import first_int, refuse_layouts, refuse_strings
from ..printer import Printer, supported
from ..space import make_space
from ..spec import Call, Dims, KernelSource, Launch, Refusal
from .loops import bind, loop_text
from .target import serves

Reshape = Callable[[int, Dims], Dims]  # operand's index and shape to the shape that the loops see


def formula(node: Node, e: Expr, types: Sequence[TensorType], result: TensorType, reshape: Reshape) -> KernelSource | Refusal:
    """The loops of an expression over the present operands, seen as `types`; `reshape` brings sizes to that view."""
    if any(not supported(t.dtype) for t in (*types, result)):
        return Refusal("an element type that kernels do not compute with", {"types": [*map(str, types), str(result)]})
    space = make_space(types, result)
    if isinstance(space, Refusal):
        return space
    slots = [i for i, v in enumerate(node.operands) if v is not None]
    used = _arguments(e)

    def compute(body: Printer, names: Mapping[int, str]) -> list[str]:
        return [_converted(body, e, [names.get(slots.index(i), "") if i in slots else "" for i in range(len(node.operands))])]

    text = loop_text(space, [k for k, i in enumerate(slots) if i in used], [result.dtype], compute)

    def seen(call: Call) -> Launch:
        shapes = [None if s is None else reshape(i, s) for i, s in enumerate(call.operands)]
        return bind(space, replace(call, operands=shapes, results=[reshape(0, call.results[0])]))

    return KernelSource(text, seen, "loops")


def _converted(body: Printer, e: Expr, args: list[str]) -> str:
    """The value of an expression. The last step of a quantization is a cast of whole numbers that the type holds, which a sum with
    1.5 * 2^23 leaves in the low bits: a fraction of the instructions of a cast."""
    if e.fn != "cast" or e.dtype not in (I8, U8, I16, U16) or e.args[0].dtype is not F32 or e.args[0].fn != "where":
        return body.value(e, args)
    whole = body.value(e.args[0], args)
    return body.let(f"to_{e.dtype}(bits_f32_u32(add({whole}, f32(12582912.0))))")


def _arguments(e: Expr) -> set[int]:
    return {e.value} if e.fn == "arg" else set().union(*map(_arguments, e.args)) if e.args else set()


@serves("cast_like")
def cast_like(node: Node) -> KernelSource | Refusal:
    """A cast to the element type of operand 1, whose elements are not read."""
    x, target = node.operands[0].tensor, node.operands[1].tensor
    refusal = refuse_strings(node)
    if refusal is not None:
        return refusal
    e = trace(cast_value, [x.dtype], {"to": target.dtype, "saturate": node.attr("saturate"), "round_mode": node.attr("round_mode")})
    one = TensorType(target.dtype, ())
    return formula(node, e, [x, one], node.results[0].tensor, lambda i, shape: shape if i == 0 else ())


@serves("quantize_linear", "dequantize_linear")
def linear(node: Node) -> KernelSource | Refusal:
    """The kernel of quantize_linear or dequantize_linear, with one scale, one an index of an axis, or one a block."""
    y, present = node.results[0].tensor, [None if v is None else v.tensor.dtype for v in node.operands]
    if node.op.name == "quantize_linear":
        e = trace(quantize, present, {"to": y.dtype, "saturate": node.attr("saturate"), "precision": node.attr("precision")})
    else:
        e = trace(dequantize, present, {"to": y.dtype})
    x, block = node.operands[0].tensor, node.attr("block_size")
    axis = node.attr("axis") % max(x.rank or 0, 1)
    parameters = [v.tensor for v in node.operands[1:] if v is not None]
    many = any(not _is_one(t.shape) for t in parameters)
    if not many:
        return formula(node, e, [x, *(t.with_(shape=()) for t in parameters)], y, lambda i, s: s if i == 0 else ())
    if not block:
        return _per_axis(node, e, axis)
    return _blocked(node, e, axis, block)


def _is_one(shape: Sequence[object]) -> bool:
    return all(d == 1 for d in shape)


def _per_axis(node: Node, e: Expr, axis: int) -> KernelSource | Refusal:
    x, behind = node.operands[0].tensor, (1,) * ((node.operands[0].tensor.rank or 0) - axis - 1)
    if any(v is not None and (v.tensor.rank or 0) > 1 and not _is_one(v.tensor.shape) for v in node.operands[1:]):
        return Refusal("a scale or zero point of several axes without blocks", {"scale": node.operands[1].type})

    def reshape(i: int, shape: Sequence) -> tuple:
        return tuple(shape) if i == 0 else () if _is_one(shape) else (*shape, *behind)

    types = [v.tensor.with_(shape=reshape(i, v.tensor.shape)) for i, v in enumerate(node.operands) if v is not None]
    if any(i and t.shape and t.shape[0] != x.shape[axis] for i, t in enumerate(types)):
        return Refusal("the number of scales is not known to be the axis's size", {"scale": node.operands[1].type, "x": x})
    return formula(node, e, types, node.results[0].tensor, reshape)


def _blocked(node: Node, e: Expr, axis: int, block: int) -> KernelSource | Refusal:
    x = node.operands[0].tensor
    refusal = refuse_layouts(node)
    if refusal is None and (not isinstance(x.shape[axis], int) or x.shape[axis] % block):
        refusal = Refusal("blocks that do not divide the axis", {"block_size": block, "x": x})
    if refusal is not None:
        return refusal

    def reshape(i: int, shape: Sequence) -> tuple:
        if _is_one(shape) and i:
            return ()
        split = (shape[axis] // block, block) if i == 0 else (shape[axis], 1)
        return (*shape[:axis], *split, *shape[axis + 1 :])

    types = [v.tensor.with_(shape=reshape(i, v.tensor.shape)) for i, v in enumerate(node.operands) if v is not None]
    ranks = {len(t.shape) for t in types if t.shape}
    if len(ranks) != 1 or any(t.shape and t.shape[axis] != types[0].shape[axis] for t in types):
        return Refusal("the number of scales is not known to be that of blocks", {"scale": node.operands[1].type, "x": x})
    y = node.results[0].tensor
    return formula(node, e, types, y.with_(shape=reshape(0, y.shape)), reshape)


# ---- dynamic_quantize_linear ------------------------------------------------------------------------------------

# How the numbers from low to high (of which 0 is one) become u8.
RANGE = f"""
@function
def step_of(low, high):
    return f32(1) if low == high else {STEP}


@function
def zero_point(low, step):
    zero = {ZERO}
    return to_f32({CLIPPED})


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
