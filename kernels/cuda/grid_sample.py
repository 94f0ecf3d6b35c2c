"""Reading images at a grid of positions: a thread finds the taps of a position once, for a few channels. Neighbouring threads have
neighbouring positions, so that results are written, and mostly taps read, together."""

from __future__ import annotations

from ...ir.core import Node
from ...ir.recording import greatest, least
from ..grid_sample import sampling_of, sizes_of
from ..operands import fill_in, first_int
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel

THREADS = 256
MANY = 1 << 17  # threads that keep a GPU busy: with more results than that, a thread has several channels
FEWEST, MOST = 4, 32  # channels of a thread

_POSITIONS = """
DEVICE f64 reflect(f64 at, f64 low, f64 high) {
    f64 span = maximum(high - low, 1.0), turned = mod(at - low, 2.0 * span);
    turned = turned > span ? 2.0 * span - turned : turned;
    return minimum(maximum(low + turned, low), high);
}

DEVICE f64 settle(f64 at, i32 size) {
    f64 low = LOW, high = f64(size - 1) - low;
    return at < low || at > high ? SETTLE : at;
}

DEVICE f64 place(T g, i32 size) {
    T at = FROMGRID;
    return settle(f64(NEAR), size);
}

// The index of a whole number on its axis, -1 outside.
DEVICE i32 index(f64 at, i32 size) {
    f64 i = settle(minimum(maximum(at != at ? 0.0 : at, -2147483648.0), 2147483648.0), size);
    return i > -1.0 && i < f64(size) ? i32(i) : -1;
}
"""
_BODY = """
u32 u = blockIdx.x * THREADS + threadIdx.x, channels = p[FIRST + 3];
FastDiv positions(p[FIRST + 1]), groups(p[FIRST + 2]);
if (u >= p[FIRST]) return;
i32 height = p[FIRST + 4], width = p[FIRST + 5];
u32 each = p[FIRST + 6], q = u / positions, j = u - q * positions.d, image = q / groups, begin = (q - image * groups.d) * each;
u32 end = minimum(begin + each, channels), at = 2 * (image * positions.d + j);
f64 x = place(to_T(ld_GRID(p[1], at)), width), y = place(to_T(ld_GRID(p[1], at + 1)), height);
"""
_NEAREST = """
i32 row = index(y, height), column = index(x, width);
for (u32 c = image * channels + begin; c < image * channels + end; c++) {
    i64 plane = p[0] + i64(c) * height * width * ITEM;
    put_TYPE(p[2], c * positions.d + j, row >= 0 && column >= 0 ? get_TYPE(plane, row * width + column) : TYPE(0));
}
"""
_LINEAR = """
f64 top = floor(y), left = floor(x), wy[2] = {1.0 - (y - top), y - top}, wx[2] = {1.0 - (x - left), x - left};
i32 tap[4];
REAL weight[4];
#pragma unroll
for (u32 k = 0; k < 4; k++) {
    i32 row = index(top + f64(k / 2), height), column = index(left + f64(k % 2), width);
    tap[k] = row >= 0 && column >= 0 ? row * width + column : -1;
    weight[k] = REAL(wy[k / 2] * wx[k % 2]);
}
for (u32 c = image * channels + begin; c < image * channels + end; c++) {
    i64 plane = p[0] + i64(c) * height * width * ITEM;
    REAL v = 0;
#pragma unroll
    for (u32 k = 0; k < 4; k++) v += weight[k] * (tap[k] >= 0 ? get_TYPE(plane, tap[k]) : REAL(0));
    put_TYPE(p[2], c * positions.d + j, v);
}
"""


@serves("grid_sample")
def grid_sample(node: Node) -> KernelSource | Refusal:
    """The kernel of grid_sample."""
    sampling = sampling_of(node)
    if isinstance(sampling, Refusal):
        return sampling

    def bind(call: Call) -> Launch:
        """Ints: threads; divisors by the positions of an image and by groups of channels; channels, height, width, channels of a
        thread."""
        images, positions, channels, height, width = sizes_of(call)
        places = images * positions
        for n in (2 * places, places * channels, images * channels * height * width):
            checked_size(n)
        each = greatest(FEWEST, least(places * channels // MANY, MOST))
        groups = blocks_for(channels, each)
        ints = (places * groups, fast_div(positions), fast_div(groups), channels, height, width, each)
        return Launch(ints, blocks_for(places * groups, THREADS))

    item, first = node.operands[0].tensor.dtype.itemsize, first_int(node)  # type: ignore[union-attr]
    words = {**sampling.words, "FIRST": first, "ITEM": item, "THREADS": THREADS}
    helpers, body = (
        sampling.typed(fill_in(t, **words)).strip("\n") for t in (_POSITIONS, _BODY + (_NEAREST if sampling.nearest else _LINEAR))
    )
    return KernelSource(kernel(THREADS, first + 7, body.split("\n"), [helpers, ""]), bind, "a position a thread")
