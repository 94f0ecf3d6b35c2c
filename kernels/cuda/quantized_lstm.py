"""dynamic_quantize_lstm: an LSTM whose weights are bytes, and whose inputs and states are quantized as they come.

The inputs are quantized as a whole, in two passes, and projected in tiles. Then come the steps, as in `rnn.py`: a warp computes a
hidden unit for a few rows of the batch, by bytes in fours. The states of all rows are quantized together, so a step begins with
their range, to which each block of the step before gave its part; where there is little to multiply, a block goes through all
steps of a direction by itself.

All bytes are taken less 128, as i8: with x and w such bytes, and their zero points too, the sum of (x - xz) * (w - wz) is that of
x * w, less wz times the sum of x, less xz times the sum of w - wz. All of it is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.core import Node
from ...ir.recording import greatest, least
from ...ir.types import F32
from ..operands import fill_in, first_int, first_result, refuse_layouts, slot_of
from ..spec import Call, KernelSource, Launch, Refusal
from .rnn import LSTM_DEFAULTS, LSTM_END, activations_of, kept_of, peepholes, with_lines
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel

THREADS = 512
WARPS = THREADS // 32
ROWS = 4  # of the batch, that a warp computes together
TILE_ROWS, TILE_COLUMNS, TILE_DEPTH = 64, 128, 16  # of the projection, its depth in words; a thread has 4 by 4 of a tile
HELD = 1024  # words of a quantized row of states in shared memory
EACH = 16  # inputs of a thread whose range is sought, at least
MOST_BLOCKS = 512  # that find the range of the inputs
ALONE = 1 << 18  # bytes of recurrent weights times groups of rows, that one block multiplies in the time of a launch or two
# Words of a row of the inputs and of the states are those of quantized numbers; `parts`: blocks of a direction in a step.
_U32 = ("steps", "batch", "inputs", "hidden", "words_x", "words_h", "ranges", "parts", "alone")
_DIV = ("tile_columns", "by_parts", "by_units", "by_gates")
# Where in scratch stand: the least and greatest inputs by block; the step and zero point of the inputs; the sums of quantized rows
# of inputs; these rows; the projected inputs [steps, batch, directions, 4, hidden]; the states before and after a step, which
# change places, and the memories [directions, batch, hidden]; the least and greatest states by block, which change places too.
_AT = ("lows", "scales", "row_sums", "rows", "projected", "states", "cells", "parts_at")

_TEXT = """
using Acc = f32;
ACTIVATIONS

struct Sizes {
    MEMBERS
    template <class P> __device__ __forceinline__ explicit Sizes(const P& p) : INITIAL {}
    __device__ __forceinline__ u32 columns() const { return DIRECTIONS * 4 * hidden; }
    __device__ __forceinline__ f32* range(u32 s, u32 d) const {
        return (f32*)(scratch + parts_at) + i64(s % 2 * DIRECTIONS + d) * 2 * parts;
    }
    __device__ __forceinline__ f32* state(u32 s, u32 d, u32 b) const {
        return (f32*)(scratch + states) + (i64(s % 2) * DIRECTIONS * batch + d * batch + b) * hidden;
    }
};

// How numbers from low to high (of which 0 is one) become u8.
struct Scale {
    f32 step, zero;
    __device__ __forceinline__ Scale(f32 low, f32 high) : step(low == high ? f32(1) : (high - low) / f32(255)) {
        zero = to_f32(to_u8(minimum(maximum(rint(-low / step), f32(0)), f32(255))));
    }
    __device__ __forceinline__ u32 byte(f32 v) const {
        f32 y = rint(v / step) + zero;
        y = y >= f32(0) ? y : f32(0);
        y = y < f32(255) ? y : f32(255);
        return u32(y) ^ 128u;
    }
    __device__ __forceinline__ i32 middle() const { return i32(zero) - 128; }
};

// Numbers 4 * k to 4 * k + 3 of n as a word; what is not there is 0.
template <class F> DEVICE u32 word_of(const Scale& scale, u32 k, u32 n, F number) {
    u32 word = 0;
#pragma unroll
    for (u32 i = 0; i < 4; i++)
        if (4 * k + i < n) word |= scale.byte(number(4 * k + i)) << 8 * i;
    return word;
}

DEVICE i32 multiplied(u32 a, u32 b, i32 sum) { return __dp4a(i32(a), i32(b), sum); }
DEVICE i32 summed(u32 a, i32 sum) { return multiplied(a, 0x01010101u, sum); }

// The sum of a column from that of its bytes and that of the row's. Before its weights a column has its zero point and its sum.
DEVICE f32 settled(i64 weights, u32 columns, u32 c, i32 sum, i32 row_sum, i32 zero) {
    u32 less = u32(ld_i32(weights, c)) * u32(row_sum) + u32(zero) * u32(ld_i32(weights, columns + c));
    return f32(i32(u32(sum) - less));
}
DEVICE u32 weight(i64 weights, u32 columns, u32 words, u32 c, u32 k) {
    return ld_u32(weights, i64(2) * columns + i64(c) * words + k);
}

DEVICE u32 length_of(const Sizes& x, u32 b) { return LENGTH; }
DEVICE f32 first_state(const Sizes& x, u32 d, u32 i) { return FIRST_STATE; }
DEVICE f32 first_cell(const Sizes& x, u32 d, u32 i) { return FIRST_CELL; }

// The range of the inputs of this block, of those steps that any sequence has. The final states begin as 0.
DEVICE void find_range(const Sizes& x) {
    u32 longest = 0, begin = blockIdx.x * THREADS + threadIdx.x;
    for (u32 b = threadIdx.x; b < x.batch; b += THREADS) longest = maximum(longest, length_of(x, b));
    u32 n = block_max<THREADS>(longest) * x.batch * x.inputs;
    f32 low = 0, high = 0;
    for (u32 i = begin; i < n; i += gridDim.x * THREADS) {
        f32 v = ld_f32(x.x, i);
        low = minimum(low, v);
        high = maximum(high, v);
    }
    low = block_min<THREADS>(low);
    high = block_max<THREADS>(high);
    if (threadIdx.x == 0) {
        st_f32(x.scratch + x.lows, blockIdx.x, low);
        st_f32(x.scratch + x.lows, x.ranges + blockIdx.x, high);
    }
    for (u32 i = begin; i < DIRECTIONS * x.batch * x.hidden; i += gridDim.x * THREADS) {
        CLEAR
    }
}

// The scale of numbers whose blocks have left their ranges.
DEVICE Scale scale_of(const f32* lows, u32 n) {
    f32 low = 0, high = 0;
    for (u32 i = threadIdx.x; i < n; i += THREADS) {
        low = minimum(low, lows[i]);
        high = maximum(high, lows[n + i]);
    }
    low = block_min<THREADS>(low);
    return Scale(low, block_max<THREADS>(high));
}

// A row of the inputs by each warp.
DEVICE void quantize_rows(const Sizes& x) {
    Scale scale = scale_of((const f32*)(x.scratch + x.lows), x.ranges);
    u32 row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (blockIdx.x == 0 && threadIdx.x == 0) *(Scale*)(x.scratch + x.scales) = scale;
    if (row >= x.steps * x.batch) return;
    i32 sum = 0;
    for (u32 k = threadIdx.x % 32; k < x.words_x; k += 32) {
        u32 word = word_of(scale, k, x.inputs, [&](u32 i) { return ld_f32(x.x, i64(row) * x.inputs + i); });
        st_u32(x.scratch + x.rows, i64(row) * x.words_x + k, word);
        sum = summed(word, sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) st_i32(x.scratch + x.row_sums, row, sum);
}

// A tile of the projection of the inputs, for all directions, with the biases.
DEVICE void project(const Sizes& x) {
    __shared__ u32 xs[DEPTH][HIGH + 4], ws[DEPTH][WIDE + 4];
    u32 q = blockIdx.x / x.tile_columns, row = q * HIGH, column = (blockIdx.x - q * x.tile_columns.d) * WIDE;
    u32 rows = x.steps * x.batch, columns = x.columns(), tx = threadIdx.x % 32 * 4, ty = threadIdx.x / 32 * 4;
    i32 sum[4][4] = {};
    for (u32 k0 = 0; k0 < x.words_x; k0 += DEPTH) {
        for (u32 i = threadIdx.x; i < HIGH * DEPTH; i += THREADS) {
            u32 k = k0 + i % DEPTH, r = row + i / DEPTH;
            xs[i % DEPTH][i / DEPTH] = r < rows && k < x.words_x ? ld_u32(x.scratch + x.rows, i64(r) * x.words_x + k) : 0;
        }
        for (u32 i = threadIdx.x; i < WIDE * DEPTH; i += THREADS) {
            u32 k = k0 + i % DEPTH, c = column + i / DEPTH;
            ws[i % DEPTH][i / DEPTH] = c < columns && k < x.words_x ? weight(x.w, columns, x.words_x, c, k) : 0;
        }
        __syncthreads();
#pragma unroll
        for (u32 k = 0; k < DEPTH; k++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) sum[i][j] = multiplied(xs[k][ty + i], ws[k][tx + j], sum[i][j]);
        __syncthreads();
    }
    Scale scale = *(const Scale*)(x.scratch + x.scales);
    for (u32 i = 0; i < 4; i++)
        for (u32 j = 0; j < 4; j++) {
            u32 r = row + ty + i, c = column + tx + j;
            if (r >= rows || c >= columns) continue;
            u32 d = c / x.by_gates, k = c - d * 4 * x.hidden;
            f32 v = settled(x.w, columns, c, sum[i][j], ld_i32(x.scratch + x.row_sums, r), scale.middle());
            st_f32(x.scratch + x.projected, i64(r) * columns + c, v * (scale.step * ld_f32(x.ws, W_COLUMN)) + BIAS);
        }
}

// Step s of WARPS units from j0 on, in ROWS rows of the batch from `first` on; `fresh`: these rows are not yet held, quantized.
DEVICE void advance(const Sizes& x, u32 d, u32 first, u32 j0, u32 s, const Scale& scale, bool fresh, f32& low, f32& high) {
    __shared__ u32 held[ROWS][HELD];
    // Rows and units that are not there are the last ones: nobody stores what comes of them.
    auto within = [&](u32 b) { return b < x.batch ? b : x.batch - 1; };
    u32 lane = threadIdx.x % 32, unit = j0 + threadIdx.x / 32, j = unit < x.hidden ? unit : x.hidden - 1, columns = x.columns();
    i32 sum[4][ROWS] = {}, total[ROWS] = {};
    for (u32 k0 = 0; k0 < x.words_h; k0 += HELD) {
        u32 n = minimum(u32(HELD), x.words_h - k0);
        if (fresh || x.words_h > HELD) {
            __syncthreads();
            u32 r = threadIdx.x / (THREADS / ROWS), b = within(first + r);
            const f32* state = x.state(s, d, b);
            auto number = [&](u32 i) { return s ? state[i] : first_state(x, d, b * x.hidden + i); };
            for (u32 k = threadIdx.x % (THREADS / ROWS); k < n; k += THREADS / ROWS)
                held[r][k] = word_of(scale, k0 + k, x.hidden, number);
            __syncthreads();
        }
        for (u32 k = lane; k < n; k += 32) {
            u32 v[ROWS];
#pragma unroll
            for (u32 r = 0; r < ROWS; r++) {
                v[r] = held[r][k];
                total[r] = summed(v[r], total[r]);
            }
#pragma unroll
            for (u32 g = 0; g < 4; g++) {
                u32 w = weight(x.r, columns, x.words_h, (d * 4 + g) * x.hidden + j, k0 + k);
#pragma unroll
                for (u32 r = 0; r < ROWS; r++) sum[g][r] = multiplied(w, v[r], sum[g][r]);
            }
        }
    }
    i32 mine[4] = {}, row_sum = 0;
#pragma unroll
    for (u32 r = 0; r < ROWS; r++) {
        i32 all = warp_sum(total[r]);
        row_sum = lane == r ? all : row_sum;
#pragma unroll
        for (u32 g = 0; g < 4; g++) {
            i32 of = warp_sum(sum[g][r]);
            mine[g] = lane == r ? of : mine[g];
        }
    }
    u32 b = first + lane;
    if (lane >= ROWS || b >= x.batch || unit >= x.hidden) return;
    u32 length = length_of(x, b);
    bool live = s < length;
    i64 t = live && (BACKWARD) ? length - 1 - s : s, i = i64(b) * x.hidden + j;
    f32 gate[4];
#pragma unroll
    for (u32 g = 0; g < 4; g++) {
        u32 k = g * x.hidden + j, c = d * 4 * x.hidden + k;
        gate[g] = ld_f32(x.scratch + x.projected, (t * x.batch + b) * columns + c);
        gate[g] += settled(x.r, columns, c, mine[g], row_sum, scale.middle()) * (scale.step * ld_f32(x.rs, R_COLUMN));
    }
    f32 h, c, memory = s ? ((f32*)(x.scratch + x.cells))[d * x.batch * x.hidden + i] : first_cell(x, d, i);
    CELL
    h = live ? h : f32(0);
    ((f32*)(x.scratch + x.cells))[d * x.batch * x.hidden + i] = c;
    x.state(s + 1, d, b)[j] = h;
    st_f32(x.y, (t * DIRECTIONS + d) * x.batch * x.hidden + i, h);
    low = minimum(low, h);
    high = maximum(high, h);
    if (s + 1 != length) return;
    i += i64(d) * x.batch * x.hidden;
    FINISH
}

// The scale of the first states of a direction.
DEVICE Scale first_scale(const Sizes& x, u32 d) {
    f32 low = 0, high = 0;
    for (u32 i = threadIdx.x; i < x.batch * x.hidden; i += THREADS) {
        low = minimum(low, first_state(x, d, i));
        high = maximum(high, first_state(x, d, i));
    }
    low = block_min<THREADS>(low);
    return Scale(low, block_max<THREADS>(high));
}

// A block's share of step s.
DEVICE void share(const Sizes& x, u32 s) {
    u32 d = blockIdx.x / x.by_parts, part = blockIdx.x - d * x.parts, group = part / x.by_units;
    Scale scale = s ? scale_of(x.range(s, d), x.parts) : first_scale(x, d);
    f32 low = 0, high = 0;
    advance(x, d, group * ROWS, (part - group * x.by_units.d) * WARPS, s, scale, true, low, high);
    low = block_min<THREADS>(low);
    high = block_max<THREADS>(high);
    if (threadIdx.x == 0) {
        x.range(s + 1, d)[part] = low;
        x.range(s + 1, d)[x.parts + part] = high;
    }
}

// All steps of a direction.
DEVICE void run(const Sizes& x, u32 d) {
    Scale scale = first_scale(x, d);
    for (u32 s = 0; s < x.steps; s++) {
        f32 low = 0, high = 0;
        for (u32 first = 0; first < x.batch; first += ROWS)
            for (u32 j = 0; j < x.hidden; j += WARPS) advance(x, d, first, j, s, scale, j == 0, low, high);
        low = block_min<THREADS>(low);
        scale = Scale(low, block_max<THREADS>(high));
    }
}
"""
_BODY = """
Sizes x(p);
u32 pass = p[LAST];
if (pass == 0) return find_range(x);
if (pass == 1) return quantize_rows(x);
if (pass == 2) return project(x);
if (x.alone) run(x, blockIdx.x);
else share(x, pass - 3);
"""


@serves("dynamic_quantize_lstm")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of dynamic_quantize_lstm, whose weights must be constant."""
    for i in (1, 2, 9, 11):
        v = node.operands[i]
        if not v.is_const:  # type: ignore[union-attr]
            return Refusal("the weights are not constant", {node.op.operand_name(i): f"%{v.name}"})  # type: ignore[union-attr]
    refusal = refuse_layouts(node)
    if refusal is not None:
        return refusal
    directions = 2 if node.attr("direction") == "bidirectional" else 1
    pack = {i: _packer(node, i) for i in (1, 2)}
    return KernelSource(lambda: _text(node, directions), lambda call: _bind(call, directions), "steps of bytes", pack)


def _words(n: int) -> int:
    """How many words the bytes of n numbers take."""
    return -(-n // 4)


def _packer(node: Node, i: int) -> Callable[[np.ndarray], np.ndarray]:
    """Makes words of weights [directions, n, columns]: the columns' zero points, their sums, their bytes, all of i8."""
    zeros = node.operands[8 + 2 * i - 1].array  # type: ignore[union-attr]  # by direction, or by direction and column

    def pack(w: np.ndarray) -> np.ndarray:
        directions, n, columns = w.shape
        shift = 128 if w.dtype == np.uint8 else 0
        zero = zeros[:, None] if zeros.ndim == 1 else zeros
        zero = np.broadcast_to(zero.astype(np.int32) - shift, (directions, columns)).reshape(-1, 1)
        taken = w.astype(np.int32).transpose(0, 2, 1).reshape(directions * columns, n) - shift
        bytes_ = np.zeros((directions * columns, 4 * _words(n)), np.int8)
        bytes_[:, :n] = taken
        return np.concatenate([zero.ravel(), (taken - zero).sum(1, dtype=np.int32), bytes_.view(np.int32).ravel()])

    return pack


def _bind(call: Call, directions: int) -> Launch:
    (steps, batch, inputs), hidden = call.operands[0], call.operands[2][1]  # type: ignore[misc,index]
    rows, columns, words_x, words_h = steps * batch, directions * 4 * hidden, _words(inputs), _words(hidden)
    for n in (rows * inputs, rows * columns, columns * inputs, directions * batch * hidden):
        checked_size(n)
    groups, units = blocks_for(batch, ROWS), blocks_for(hidden, WARPS)
    ranges = greatest(1, least(blocks_for(rows * inputs, THREADS * EACH), MOST_BLOCKS))
    alone, parts = 16 * hidden * words_h * groups <= ALONE, groups * units
    states = directions * batch * hidden
    sizes = (2 * ranges, 2, rows, rows * words_x, rows * columns, 2 * states, states, 4 * directions * parts)
    at = [0]
    for size in sizes:
        at.append(at[-1] + -(-size // 16) * 64)
    tile_columns = blocks_for(columns, TILE_COLUMNS)
    divisors = map(fast_div, (tile_columns, parts, units, 4 * hidden))
    ints = (steps, batch, inputs, hidden, words_x, words_h, ranges, parts, int(alone), *divisors, *at[:-1])
    passes = (ranges, blocks_for(rows, WARPS), blocks_for(rows, TILE_ROWS) * tile_columns)
    recurrent = (directions,) if alone else (directions * parts,) * steps
    return Launch(ints, 1, at[-1], (*passes, *recurrent) if steps else passes[:1])


def _text(node: Node, directions: int) -> str:
    first, result = first_int(node), first_result(node)
    names = ("x", "w", "r", "b", "lens", "h0", "c0", "peep", "ws", "wz", "rs", "rz")
    slots = {name: slot_of(node, i) for i, name in enumerate(names) if node.operand(i) is not None and name not in ("wz", "rz")}
    slots |= {name: result + j for j, name in enumerate(("y", "y_h", "y_c")[: len(node.results)])}
    slots["scratch"] = first - 1
    ints = {name: first + k for k, name in enumerate((*_U32, *_DIV, *_AT))}
    members = [f"i64 {', '.join(slots)};", f"u32 {', '.join(_U32)};", f"FastDiv {', '.join(_DIV)};", f"i64 {', '.join(_AT)};"]
    start = "ld_f32(x.{}, i64(d) * x.batch * x.hidden + i)"

    def column(i: int) -> str:
        return "c" if node.operands[i].tensor.rank == 2 else "d"  # type: ignore[union-attr]

    words = {
        "DIRECTIONS": directions, "INITIAL": ", ".join(f"{name}(p[{slot}])" for name, slot in (slots | ints).items()),
        "BACKWARD": {"forward": "false", "reverse": "true"}.get(node.attr("direction"), "d == 1"),
        "HIGH": TILE_ROWS, "WIDE": TILE_COLUMNS, "DEPTH": TILE_DEPTH, "THREADS": THREADS,
        "ROWS": ROWS, "WARPS": WARPS, "HELD": HELD,
        "LENGTH": "u32(minimum(maximum(ld_i32(x.lens, b), 0), i32(x.steps)))" if "lens" in slots else "x.steps",
        "FIRST_STATE": start.format("h0") if "h0" in slots else "0", "FIRST_CELL": start.format("c0") if "c0" in slots else "0",
        "BIAS": " + ".join(f"ld_f32(x.b, d * 8 * x.hidden + {k}k)" for k in ("", "4 * x.hidden + ")) if "b" in slots else "0",
        "W_COLUMN": column(8), "R_COLUMN": column(10), "KEPT": kept_of(node), "LAST": first + len(ints),
    }  # fmt: skip
    finals = [(name, value) for name, value in (("y_h", "h"), ("y_c", "c")) if name in slots]
    cell = ["f32 i = gate[0], o = gate[1], f = gate[2], g = gate[3];", *LSTM_END.strip("\n").split("\n")]
    blocks = {"ACTIVATIONS": activations_of(node, F32, LSTM_DEFAULTS), "MEMBERS": members, "CELL": ["{", *cell, "}"],
              "CLEAR": [f"st_f32(x.{name}, i, f32(0));" for name, _ in finals],
              "FINISH": [f"st_f32(x.{name}, i, {value});" for name, value in finals], **peepholes(slots)}  # fmt: skip
    text, body = (fill_in(with_lines(t, blocks), **words).replace("TYPE", "f32").strip("\n") for t in (_TEXT, _BODY))
    return kernel(THREADS, first + len(ints) + 1, body.split("\n"), [text])
