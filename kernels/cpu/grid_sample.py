"""Reading images at a grid of positions: the taps of a run of positions are found once and serve all channels."""

from __future__ import annotations

import re

from ...ir.core import Node
from ...ir.types import F64, FLOATS
from ..operands import fill_in, first_int, first_result, refuse_layouts, refuse_strings, tiles_for
from ..spec import Call, KernelSource, Launch, Refusal
from .target import serves

RUN = 256  # positions whose taps are kept at a time

# How a position outside of [low, high] comes back, all in f64.
_SETTLE = {
    "zeros": "at",
    "border": "minimum(maximum(at, 0.0), f64(size - 1))",
    "reflection": "reflect(at, low, high)",
}
# The parameters: images, runs of positions in each, positions, channels, height, width, bytes of scratch for each tile.
# Scratch of a tile: RUN indices of first taps (-1: outside), RUN of second ones, and so on; then the taps' weights.
_TEXT = """
@function
def reflect(at, low, high):
    span = maximum(sub(high, low), 1.0)
    turned = mod(sub(at, low), mul(2.0, span))
    turned = where(gt(turned, span), sub(mul(2.0, span), turned), turned)
    return minimum(maximum(add(low, turned), low), high)


@function
def settle(at, size):
    low = LOW
    high = sub(f64(size - 1), LOW)
    return SETTLE if at < low or at > high else at


@function
def place(g, size):
    at = FROMGRID
    return settle(to_f64(NEAR), size)


@function
def whole(at):
    return to_i64(minimum(maximum(where(isnan(at), 0.0, at), -2147483648.0), 2147483648.0))


@function
def index(y, x, height, width):
    y = to_i64(settle(f64(y), height))
    x = to_i64(settle(f64(x), width))
    return y * width + x if 0 <= y and y < height and 0 <= x and x < width else -1


def kernel(p, tile, ntiles):
    runs = param(p, FIRST + 1)
    positions = param(p, FIRST + 2)
    channels = param(p, FIRST + 3)
    height = param(p, FIRST + 4)
    width = param(p, FIRST + 5)
    taps = param(p, OUT + 1) + tile * param(p, FIRST + 6)
    weights = taps + 4 * RUN * 8
    units = param(p, FIRST) * runs
    for u in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        image = u // runs
        begin = (u - image * runs) * RUN
        count = minimum(RUN, positions - begin)
        grid = param(p, 1) + (image * positions + begin) * 2 * GRIDITEM
        for j in range(count):
            x = place(to_T(ld_GRID(grid, 2 * j)), width)
            y = place(to_T(ld_GRID(grid, 2 * j + 1)), height)
FIND
        for c in range(channels):
            plane = param(p, 0) + (image * channels + c) * height * width * ITEM
            row = param(p, OUT) + ((image * channels + c) * positions + begin) * ITEM
            for j in range(count):
READ
"""
_NEAREST = (
    """
            st_i64(taps, j, index(whole(y), whole(x), height, width))
""",
    """
                i = ld_i64(taps, j)
                put_TYPE(row, j, get_TYPE(plane, i) if i >= 0 else TYPE(0))
""",
)
_LINEAR = (
    """
            top = whole(floor(y))
            left = whole(floor(x))
            fy = sub(y, floor(y))
            fx = sub(x, floor(x))
            for k in range(4):
                wy = fy if k >= 2 else sub(1.0, fy)
                wx = fx if k % 2 == 1 else sub(1.0, fx)
                st_i64(taps, k * RUN + j, index(top + k // 2, left + k % 2, height, width))
                st_f64(weights, k * RUN + j, mul(wy, wx))
""",
    """
                v = REAL(0)
                for k in range(4):
                    i = ld_i64(taps, k * RUN + j)
                    w = to_REAL(ld_f64(weights, k * RUN + j))
                    v = add(v, mul(w, get_TYPE(plane, i) if i >= 0 else REAL(0)))
                put_TYPE(row, j, v)
""",
)


@serves("grid_sample")
def grid_sample(node: Node) -> KernelSource | Refusal:
    assert node.operands[0] is not None and node.operands[1] is not None
    x, grid, mode = node.operands[0].tensor, node.operands[1].tensor, node.attr("mode")
    refusal = refuse_layouts(node) or refuse_strings(node)
    if refusal:
        return refusal
    if x.rank != 4 or mode == "cubic" or x.dtype.itemsize > 8 or (mode == "linear" and x.dtype not in FLOATS):
        return Refusal("there is a kernel for two axes only, nearest, or linear on floats", {"x": x, "mode": mode})
    item, first, nearest = x.dtype.itemsize, first_int(node), mode == "nearest"

    def bind(call: Call) -> Launch:
        (count, channels, height, width), (images, *size, _) = call.operands[0] or (), call.operands[1] or ()
        if count != images:
            raise ValueError(f"a grid for {images} images, expected one for each of {count}")
        positions = size[0] * size[1]
        runs, scratch = -(-positions // RUN), 4 * RUN * 16
        tiles = tiles_for(images * runs, images * positions * (channels + 8) * 4)
        ints = (images, runs, positions, channels, height, width, scratch)
        return Launch(ints, tiles, tiles * scratch, units=images * runs, slice=scratch)

    text = _TEXT
    for word, piece in zip(("FIND", "READ"), _NEAREST if nearest else _LINEAR):
        text = text.replace(f"\n{word}\n", piece)
    corners = node.attr("align_corners")
    at = "mul(div(add(g, T(1)), T(2)), T(size - 1))" if corners else "div(sub(mul(add(g, T(1)), T(size)), T(1)), T(2))"
    text = fill_in(text, SETTLE=_SETTLE[node.attr("padding_mode")], LOW=0.0 if corners else -0.5, FROMGRID=at,
                   NEAR="rint(at)" if nearest else "at", FIRST=first, OUT=first_result(node), ITEM=item,
                   GRIDITEM=grid.dtype.itemsize, RUN=RUN)  # fmt: skip
    text = text.replace("GRID", str(grid.dtype)).replace("TYPE", f"u{8 * item}" if nearest else str(x.dtype))
    text = text.replace("REAL", "f64" if x.dtype is F64 else "f32")
    return KernelSource(re.sub(r"\b(to_)?T\b", rf"\g<1>{'f64' if grid.dtype is F64 else 'f32'}", text), bind)
