"""dynamic_quantize_linear on CUDA: the range of all elements is folded, then each is quantized (line.py: one line)."""

from __future__ import annotations

import math

from ...ir.core import Node
from ...ir.ops.quant import quantize
from ...ir.scalar import trace
from ...ir.types import F32, U8
from ..dynamic_range import CLIPPED, STEP, ZERO
from ..lines import Array
from ..operands import first_int, refuse_layouts
from ..printer import Printer
from ..spec import Call, KernelSource, Launch, Refusal
from .line import NEIGHBOURS, SIZES, THREADS, Line, in_modes, places, read, spread
from .rows import known_size, whole
from .target import serves
from .text import declared, indent, kernel

_WIDE = 4  # f32 in 16 bytes


@serves("dynamic_quantize_linear")
def dynamic(node: Node) -> KernelSource | Refusal:
    """The kernel of dynamic_quantize_linear. NaN, which both folds pass on, becomes the scale."""
    refusal = refuse_layouts(node)
    if refusal is not None:
        return refusal

    def bind(call: Call) -> Launch:
        return spread(1, math.prod(call.operands[0] or ()), False, _WIDE, F32, 2, holds=True, maps=True)

    return KernelSource(lambda: _text(node), bind, "range")


def _text(node: Node) -> str:
    x, first, p = Array("x", "f32", "0"), first_int(node), Printer()
    out = p.value(trace(quantize, [F32, F32, U8], {"to": U8}), ["v", "step", "middle"])
    quantized = ["auto quantized = [&](f32 v) {", *indent([*declared(p.lines), f"return {out};"]), "};"]

    def write(held: bool) -> list[str]:
        line = Line(F32, _WIDE, read(x, _WIDE), held)
        return [
            *line.begin(),
            *line.fold("low", "minimum", "f32(0)", x, lambda v: v),
            *line.fold("high", "maximum", "f32(0)", x, lambda v: v),
            f"step = low == high ? f32(1) : {STEP}",
            f"zero = {ZERO}",
            f"middle = {CLIPPED}",
            "if (blockIdx.x == 0 && threadIdx.x == 0) {",
            "    st_f32(p[2], 0, step);",
            "    st_u8(p[3], 0, middle);",
            "}",
            *quantized,
            *line.map(x, Array("y", "u8", "0"), "quantized({0})".format),
        ]

    body = [f"i64 x = p[0], y = p[1], partials = p[{first - 1}];", *places(first, 0, False), *whole(_WIDE, "x", "y")]
    body += in_modes(write, known_size(node.operands[0].tensor.shape or ()), False, F32)  # type: ignore[union-attr]
    return kernel(THREADS, first + len(SIZES) + 1, body, [NEIGHBOURS])
