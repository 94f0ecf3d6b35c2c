"""Reading images at a grid of positions: the taps of a run of positions are found once and serve all channels."""

from __future__ import annotations

from ...ir.core import Node
from ..grid_sample import sampling_of, sizes_of
from ..operands import fill_in, first_int, first_result, tiles_for
from ..spec import Call, KernelSource, Launch, Refusal
from .target import serves

RUN = 256  # positions whose taps are kept at a time

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
    """The kernel of grid_sample."""
    sampling = sampling_of(node)
    if isinstance(sampling, Refusal):
        return sampling

    def bind(call: Call) -> Launch:
        images, positions, channels, height, width = sizes_of(call)
        runs, scratch = -(-positions // RUN), 4 * RUN * 16
        tiles = tiles_for(images * runs, images * positions * (channels + 8) * 4)
        ints = (images, runs, positions, channels, height, width, scratch)
        return Launch(ints, tiles, tiles * scratch, units=images * runs, slice=scratch)

    text = _TEXT
    for word, piece in zip(("FIND", "READ"), _NEAREST if sampling.nearest else _LINEAR):
        text = text.replace(f"\n{word}\n", piece)
    item, grid_item = (node.operands[i].tensor.dtype.itemsize for i in (0, 1))  # type: ignore[union-attr]
    text = fill_in(text, **sampling.words, FIRST=first_int(node), OUT=first_result(node), ITEM=item, GRIDITEM=grid_item, RUN=RUN)
    return KernelSource(sampling.typed(text), bind)
