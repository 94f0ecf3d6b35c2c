"""Bytes stay bytes: products of dequantized bytes as products of the bytes, (x - zx) sx @ (w - zw) sw = sx sw ((x - zx) @ (w -
zw)), and tables that are dequantized after rows were taken of them.

The sum of the product is exact and is rounded once, where the sum of what was dequantized rounds at each step. So that nothing else
changes, the scales are finite constants, and no sum can leave i32. What the model quantizes again is left as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core import Module, Node, Value
from ..rewrite import Builder, Match, Pattern, Refusal, Rule, refuse, rewrite
from ..types import F32, I8, U8
from .manager import Context, register

MOST_DEPTH = (2**31 - 1) // 255**2
LEAST, MOST = 2.0**-100, 2.0**100  # scales whose product f32 holds as exactly as others


def _scale_of(node: Node, columns: int) -> np.ndarray | Refusal:
    """The scale of a dequantize_linear node in float64: one number, or one a column (`columns`) of a matrix."""
    scale, shape = node.operands[1], node.operands[0].tensor.shape  # type: ignore[union-attr]
    if node.results[0].tensor.dtype is not F32 or scale.tensor.dtype is not F32:  # type: ignore[union-attr]
        return refuse("dequantized to another type than f32", type=node.results[0].type)
    if not scale.is_const or node.attr("block_size"):  # type: ignore[union-attr]
        return refuse("the scale is no constant, or one a block", scale=scale)
    found = np.asarray(scale.array, np.float64).reshape(-1)  # type: ignore[union-attr]
    if found.size != 1 and (found.size != columns or shape is None or node.attr("axis") % len(shape) != len(shape) - 1):
        return refuse("scales along another axis than the columns", scale=scale)
    if not np.all((found >= LEAST) & (found <= MOST)):
        return refuse("a scale that is not positive, or very large or small", scale=scale)
    return found


def _dequantized(v: Value) -> Node | None:
    node = v.node
    if node is None or node.op.name != "dequantize_linear":
        return None
    return node if node.operands[0].tensor.dtype in (I8, U8) else None  # type: ignore[union-attr]


def _integer_product(m: Match, b: Builder) -> Any:
    x, w = (_dequantized(m[name]) for name in "xw")
    if x is None or w is None:
        return None
    weight = w.operands[0]
    if not weight.is_const or weight.tensor.rank != 2:  # type: ignore[union-attr]
        return refuse("the weights are no constant matrix", weights=weight)
    depth, columns = weight.array.shape  # type: ignore[union-attr]
    if depth > MOST_DEPTH:
        return refuse("sums may leave i32", depth=depth)
    scales = [_scale_of(x, 1), _scale_of(w, columns)]
    for found in scales:
        if isinstance(found, Refusal):
            return found
    zeros = [node.operand(2) for node in (x, w)]
    if zeros[0] is not None and zeros[0].tensor.size != 1:
        return refuse("a zero point that is not one number", zero_point=zeros[0])
    sums = b.op("matmul_integer", x.operands[0], weight, *zeros)
    factor = (scales[0] * scales[1]).astype(np.float32)  # type: ignore[operator]
    scale = b.const(factor.reshape(()) if factor.size == 1 else factor, f"{m.root.name}.scale")
    return b.op("mul", b.op("cast", sums, to=F32), scale)


def _gather_first(m: Match, b: Builder) -> Any:
    """A table that is dequantized whole, for the few rows that are taken of it."""
    node = m["x"].node
    if node is None or node.op.name != "dequantize_linear" or not node.operands[0].is_const:  # type: ignore[union-attr]
        return None
    if any(v is not None and v.tensor.size != 1 for v in node.operands[1:]):
        return refuse("a scale or zero point that is not one number", scale=node.operands[1])
    rows = b.op("gather", node.operands[0], m["i"], axis=m.root.attr("axis"))
    return b.op("dequantize_linear", rows, *node.operands[1:], output_dtype=node.attr("output_dtype"))


RULES = [
    Rule("a product of dequantized bytes => the product of the bytes", Pattern("matmul", "x", "w"), _integer_product),
    Rule("gather(dequantize_linear(x), i) => dequantize_linear(gather(x, i))", Pattern("gather", "x", "i"), _gather_first),
]


@register
@dataclass(frozen=True)
class Quantized:
    """Multiplies bytes, and takes rows of them, where they were dequantized first."""

    name: ClassVar[str] = "quantized"

    def run(self, module: Module, ctx: Context) -> None:
        rewrite(module, RULES, ctx.log)
