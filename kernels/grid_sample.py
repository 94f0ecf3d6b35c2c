"""Reading images at a grid of positions, as far as all targets see it alike: what is served, and the formulas that lead from a
number of the grid to a position. Their words are functions that all languages of kernels have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..ir.core import Node
from ..ir.types import F64, FLOATS
from .operands import refuse_layouts, refuse_strings
from .spec import Call, Refusal

# How a position outside of [low, high] comes back, all in f64.
_SETTLE = {
    "zeros": "at",
    "border": "minimum(maximum(at, 0.0), f64(size - 1))",
    "reflection": "reflect(at, low, high)",
}


@dataclass(frozen=True)
class Sampling:
    """A grid_sample node: whether the nearest element is taken (else four are interpolated), what the texts' words stand for, and
    the types TYPE (of elements; those that are only moved are unsigned), REAL (of sums), GRID and T (in which it is computed)."""

    nearest: bool
    words: dict[str, object]
    types: dict[str, str]

    def typed(self, text: str) -> str:
        for word in ("GRID", "TYPE", "REAL"):
            text = text.replace(word, self.types[word])
        return re.sub(r"\b(to_)?T\b", rf"\g<1>{self.types['T']}", text)


def sampling_of(node: Node) -> Sampling | Refusal:
    """What a grid_sample node asks for, of two axes, nearest or linear."""
    assert node.operands[0] is not None and node.operands[1] is not None
    x, grid, mode = node.operands[0].tensor, node.operands[1].tensor, node.attr("mode")
    refusal = refuse_layouts(node) or refuse_strings(node)
    if refusal:
        return refusal
    if x.rank != 4 or mode == "cubic" or x.dtype.itemsize > 8 or (mode == "linear" and x.dtype not in FLOATS):
        return Refusal("there is a kernel for two axes only, nearest, or linear on floats", {"x": x, "mode": mode})
    nearest, corners = mode == "nearest", node.attr("align_corners")
    at = "mul(div(add(g, T(1)), T(2)), T(size - 1))" if corners else "div(sub(mul(add(g, T(1)), T(size)), T(1)), T(2))"
    words = {"SETTLE": _SETTLE[node.attr("padding_mode")], "LOW": 0.0 if corners else -0.5, "FROMGRID": at,
             "NEAR": "rint(at)" if nearest else "at"}  # fmt: skip
    types = {"GRID": str(grid.dtype), "TYPE": f"u{8 * x.dtype.itemsize}" if nearest else str(x.dtype),
             "REAL": "f64" if x.dtype is F64 else "f32", "T": "f64" if grid.dtype is F64 else "f32"}  # fmt: skip
    return Sampling(nearest, words, types)


def sizes_of(call: Call) -> tuple[int, int, int, int, int]:
    """Images, positions in each, channels, height, width. Raises ValueError for a grid of another number of images."""
    (count, channels, height, width), (images, *size, _) = call.operands[0] or (), call.operands[1] or ()
    if count != images:
        raise ValueError(f"a grid for {images} images, expected one for each of {count}")
    return images, size[0] * size[1], channels, height, width
