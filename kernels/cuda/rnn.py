"""lstm, gru and rnn with any activations, sums in f32 (f64 for f64).

Steps go in chunks. A pass projects the inputs of a chunk for all its steps, in tiles; then comes the recurrence. A warp computes
a hidden unit for a few rows of the batch: its lanes share the reduction along the states, the rows each weight that is read. Where
the recurrent weights are many, a step is a pass (or two, where the reset gate comes first), so that all of the GPU takes part in
it; where they are few, a block goes through all steps of a chunk with its rows by itself, which saves launches.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from ...ir.core import Node
from ...ir.ops.rnn import named_activations
from ...ir.reduction import Reduction
from ...ir.types import FLOATS, DType
from ..operands import fill_in, first_int, first_result, refuse_layouts, slot_of
from ..printer import literal
from ..spec import Call, KernelSource, Launch, Refusal
from .source import fast_div
from .target import serves
from .text import blocks_for, checked_size, kernel

THREADS = 512
ROWS = 4  # of the batch, that a warp computes together
TILE_ROWS, TILE_COLUMNS, TILE_DEPTH = 64, 128, 16  # of the projection; a thread has 4 by 4 of a tile
LSTM_DEFAULTS = ("sigmoid", "tanh", "tanh")
CHUNK_BYTES = 1 << 26  # what the projected inputs of a chunk of steps may take
ALONE = 1 << 18  # bytes of recurrent weights of a direction that one block reads in the time of a launch or two
_ACTIVATIONS = {
    "relu": "x < Acc(0) ? Acc(0) : x", "tanh": "tanh(x)", "sigmoid": "Acc(1) / (Acc(1) + exp(-x))",
    "affine": "ALPHA * x + BETA", "leakyrelu": "x < Acc(0) ? ALPHA * x : x", "thresholdedrelu": "x >= ALPHA ? x : Acc(0)",
    "scaledtanh": "ALPHA * tanh(BETA * x)", "hardsigmoid": "minimum(maximum(ALPHA * x + BETA, Acc(0)), Acc(1))",
    "elu": "x < Acc(0) ? ALPHA * expm1(x) : x", "softsign": "x / (Acc(1) + absolute(x))",
    "softplus": "maximum(x, Acc(0)) + log1p(exp(-absolute(x)))",
}  # fmt: skip
_U32 = ("steps", "batch", "inputs", "hidden", "chunk", "alone")
_DIV = ("passes", "tile_rows", "tile_columns", "by_hidden", "by_groups", "by_batch")
_I64 = ("x_step", "x_row", "y_step", "y_direction", "y_row", "state_direction", "state_row")

# Scratch: the projections of a chunk [directions, chunk, batch, gates, hidden]; then [directions, batch, hidden] each: the state
# before and after a step, which change places, and two that only the gates of one unit use: the cell (lstm), or what the reset gate
# leaves of the state and the update gate (gru).
_TEXT = """
using Acc = ACC;
ACTIVATIONS

struct Sizes {
    MEMBERS
    template <class P> __device__ __forceinline__ explicit Sizes(const P& p) : INITIAL {}
    __device__ __forceinline__ Acc* sums() const { return (Acc*)scratch; }
    __device__ __forceinline__ u32 all() const { return DIRECTIONS * batch * hidden; }
    __device__ __forceinline__ Acc* kept(u32 which) const { return sums() + i64(chunk) * all() * GATES + i64(which) * all(); }
};

// The states before the first step.
DEVICE Acc first_state(const Sizes& x, u32 d, u32 b, u32 k) { return START_STATE; }
DEVICE Acc first_cell(const Sizes& x, u32 d, u32 b, u32 k) { return START_CELL; }

// The step that comes after s others.
DEVICE i64 time_of(const Sizes& x, u32 d, u32 s) { return BACKWARD ? x.steps - 1 - s : s; }

// The projection of the inputs of `span` steps from the step `start` on, with the biases: a tile of it.
DEVICE void project(const Sizes& x, u32 start, u32 span, u32 block) {
    __shared__ __align__(16) Acc xs[DEPTH][HIGH + 4], ws[DEPTH][WIDE + 4];
    u32 q = block / x.tile_columns, d = q / x.tile_rows, row = (q - d * x.tile_rows.d) * HIGH;
    u32 column = (block - q * x.tile_columns.d) * WIDE, rows = span * x.batch, columns = GATES * x.hidden;
    if (row >= rows) return;
    u32 tx = threadIdx.x % 32 * 4, ty = threadIdx.x / 32 * 4;
    Acc sum[4][4] = {};
    for (u32 k0 = 0; k0 < x.inputs; k0 += DEPTH) {
        for (u32 i = threadIdx.x; i < HIGH * DEPTH; i += THREADS) {
            u32 k = k0 + i % DEPTH, r = row + i / DEPTH, s = r / x.by_batch;
            i64 at = time_of(x, d, start + s) * x.x_step + i64(r - s * x.batch) * x.x_row + k;
            xs[i % DEPTH][i / DEPTH] = r < rows && k < x.inputs ? Acc(ld_TYPE(x.x, at)) : Acc(0);
        }
        for (u32 i = threadIdx.x; i < WIDE * DEPTH; i += THREADS) {
            u32 k = k0 + i % DEPTH, c = column + i / DEPTH;
            i64 at = i64(d * columns + c) * x.inputs + k;
            ws[i % DEPTH][i / DEPTH] = c < columns && k < x.inputs ? Acc(ld_TYPE(x.w, at)) : Acc(0);
        }
        __syncthreads();
#pragma unroll
        for (u32 k = 0; k < DEPTH; k++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) sum[i][j] = fma(xs[k][ty + i], ws[k][tx + j], sum[i][j]);
        __syncthreads();
    }
    for (u32 i = 0; i < 4; i++)
        for (u32 j = 0; j < 4; j++) {
            u32 r = row + ty + i, c = column + tx + j;
            if (r >= rows || c >= columns) continue;
            x.sums()[(i64(d) * x.chunk * x.batch + r) * columns + c] = sum[i][j] + BIAS;
        }
}

// sum[g][b] = the weights of gate FROM + g of unit j times what vector(b, k) gives, for ROWS rows b; all lanes get them.
template <u32 gates, class F> DEVICE void dots(const Sizes& x, u32 d, u32 from, u32 j, Acc (&sum)[gates][ROWS], F vector) {
    i64 weights = (i64(d * GATES + from) * x.hidden + j) * x.hidden;
    for (u32 k = threadIdx.x % 32; k < x.hidden; k += 32) {
        Acc v[ROWS];
#pragma unroll
        for (u32 b = 0; b < ROWS; b++) v[b] = vector(b, k);
#pragma unroll
        for (u32 g = 0; g < gates; g++) {
            Acc w = ld_TYPE(x.r, weights + i64(g) * x.hidden * x.hidden + k);
#pragma unroll
            for (u32 b = 0; b < ROWS; b++) sum[g][b] = fma(w, v[b], sum[g][b]);
        }
    }
#pragma unroll
    for (u32 g = 0; g < gates; g++)
#pragma unroll
        for (u32 b = 0; b < ROWS; b++) sum[g][b] = warp_sum(sum[g][b]);
}

// Of the sums those of this lane's row.
template <u32 gates> DEVICE void own(const Acc (&sum)[gates][ROWS], Acc (&mine)[gates]) {
#pragma unroll
    for (u32 g = 0; g < gates; g++)
#pragma unroll
        for (u32 b = 0; b < ROWS; b++)
            if (threadIdx.x % 32 == b) mine[g] = sum[g][b];
}

// Step s of unit j in rows first .. first + ROWS - 1, `part` of it, by a warp.
DEVICE void step(const Sizes& x, u32 d, u32 first, u32 j, u32 start, u32 s, u32 part) {
    const Acc* before = x.kept(s % 2);
    // Rows that are not there are the last one: nobody stores what comes of them.
    auto within = [&](u32 b) { return b < x.batch ? b : x.batch - 1; };
    auto place = [&](u32 b) { return i64(d * x.batch + within(b)) * x.hidden; };
    auto state = [&](u32 b, u32 k) { return s ? before[place(b) + k] : first_state(x, d, within(b), k); };
    u32 lane = threadIdx.x % 32, b = first + lane;
    i64 at = place(b) + j, t = time_of(x, d, s);
    const Acc* row = x.sums() + (i64(d * x.chunk + s - start) * x.batch + within(b)) * GATES * x.hidden + j;
    Acc h, c = 0;
    CELL
    bool live = LIVE;
    h = live ? h : state(b, j);
    x.kept((s + 1) % 2)[at] = h;
    st_TYPE(x.y, t * x.y_step + d * x.y_direction + b * x.y_row + j, live ? h : Acc(0));
    KEEP
    if (s + 1 < x.steps) return;
    i64 last = d * x.state_direction + b * x.state_row + j;
    FINISH
}
"""
_BODY = """
Sizes x(p);
if (x.steps == 0) {  // the final states are the first ones
    for (u32 i = threadIdx.x; i < x.all(); i += THREADS) {
        u32 q = i / x.by_hidden, k = i - q * x.hidden, d = q / x.by_batch, b = q - d * x.batch;
        i64 last = d * x.state_direction + b * x.state_row + k;
        Acc h = first_state(x, d, b, k), c = first_cell(x, d, b, k);
        FINISH
    }
    return;
}
u32 pass = p[LAST], chunk = pass / x.passes, within = pass - chunk * x.passes.d, start = chunk * x.chunk;
u32 span = minimum(x.chunk, x.steps - start), warp = threadIdx.x / 32;
if (within == 0) return project(x, start, span, blockIdx.x);
if (!x.alone) {
    u32 unit = blockIdx.x * WARPS + warp, q = unit / x.by_hidden, d = q / x.by_groups;
    u32 s = start + (within - 1) / PARTS, part = (within - 1) % PARTS;
    if (d < DIRECTIONS && s < x.steps) step(x, d, (q - d * x.by_groups.d) * ROWS, unit - q * x.hidden, start, s, part);
    return;
}
u32 d = blockIdx.x / x.by_groups, first = (blockIdx.x - d * x.by_groups.d) * ROWS;
for (u32 s = start; s < start + span; s++)
    for (u32 part = 0; part < PARTS; part++) {
        for (u32 j = warp; j < x.hidden; j += WARPS) step(x, d, first, j, start, s, part);
        __syncthreads();
    }
"""
# What a step does: the new state h of this lane's row, and the new cell c of an lstm. Lanes without a row end before they read what
# another lane writes.
_LSTM = """
Acc sum[4][ROWS] = {}, gate[4] = {};
dots(x, d, 0, j, sum, [&](u32 r, u32 k) { return state(first + r, k); });
own(sum, gate);
if (lane >= ROWS || b >= x.batch) return;
Acc i = row[0] + gate[0], o = row[x.hidden] + gate[1], f = row[2 * x.hidden] + gate[2], g = row[3 * x.hidden] + gate[3];
Acc memory = s ? x.kept(2)[at] : first_cell(x, d, within(b), j);
"""
# Its end, from the sums of the gates i, o, f and g and the memory.
LSTM_END = """
PEEP_FIRST
i = activation0(d, i);
c = KEPT * memory + i * activation1(d, g);
PEEP_LAST
h = activation0(d, o) * activation2(d, c);
"""
_GRU_LINEAR = """
Acc sum[3][ROWS] = {}, gate[3] = {};
dots(x, d, 0, j, sum, [&](u32 r, u32 k) { return state(first + r, k); });
own(sum, gate);
if (lane >= ROWS || b >= x.batch) return;
Acc z = activation0(d, row[0] + gate[0]), reset = activation0(d, row[x.hidden] + gate[1]);
h = (Acc(1) - z) * activation1(d, row[2 * x.hidden] + reset * (gate[2] + LAST_BIAS)) + z * state(b, j);
"""
# The last gate reads the states of all units after their reset: it is a part of its own.
_GRU = """
if (part == 0) {
    Acc sum[2][ROWS] = {}, gate[2] = {};
    dots(x, d, 0, j, sum, [&](u32 r, u32 k) { return state(first + r, k); });
    own(sum, gate);
    if (lane >= ROWS || b >= x.batch) return;
    x.kept(2)[at] = activation0(d, row[x.hidden] + gate[1]) * state(b, j);
    x.kept(3)[at] = activation0(d, row[0] + gate[0]);
    return;
}
Acc sum[1][ROWS] = {}, gate[1] = {};
dots(x, d, 2, j, sum, [&](u32 r, u32 k) { return x.kept(2)[place(first + r) + k]; });
own(sum, gate);
if (lane >= ROWS || b >= x.batch) return;
Acc z = x.kept(3)[at];
h = (Acc(1) - z) * activation1(d, row[2 * x.hidden] + gate[0]) + z * state(b, j);
"""
_RNN = """
Acc sum[1][ROWS] = {}, gate[1] = {};
dots(x, d, 0, j, sum, [&](u32 r, u32 k) { return state(first + r, k); });
own(sum, gate);
if (lane >= ROWS || b >= x.batch) return;
h = activation0(d, row[0] + gate[0]);
"""


def _recurrence(
    node: Node, gates: int, defaults: Sequence[str], cell: str, parts: int = 1, apart: bool = False
) -> KernelSource | Refusal:
    """The kernel of a recurrent node whose step is `cell`. `apart`: the recurrent bias of the last gate is not added to the
    projection."""
    refusal, dtype = refuse_layouts(node), node.operands[0].tensor.dtype
    if refusal is not None or dtype not in FLOATS:
        return refusal or Refusal("the elements are no floats", {"X": node.operands[0].type})
    acc = Reduction.accumulator(dtype)

    def bind(call: Call) -> Launch:
        return _bind(node, call, gates, parts, acc.itemsize)

    return KernelSource(lambda: _text(node, dtype, acc, gates, defaults, cell, parts, apart), bind, "steps")


def _bind(node: Node, call: Call, gates: int, parts: int, size: int) -> Launch:
    (steps, batch, inputs), hidden = call.operands[0], call.operands[2][2]
    directions, batch_first = call.operands[1][0], node.attr("layout")
    if batch_first:
        steps, batch = batch, steps
    step_bytes = directions * batch * gates * hidden * size
    chunk = max(1, min(steps, CHUNK_BYTES // max(step_bytes, 1)))
    alone, groups = gates * hidden * hidden * node.operands[2].tensor.dtype.itemsize <= ALONE, blocks_for(batch, ROWS)
    passes = 2 if alone else 1 + chunk * parts
    tiles = blocks_for(checked_size(chunk * batch), TILE_ROWS), blocks_for(gates * hidden, TILE_COLUMNS)
    checked_size(directions * gates * hidden)
    checked_size(directions * batch * hidden)
    x = (inputs, steps * inputs) if batch_first else (batch * inputs, inputs)
    y = (
        (directions * hidden, hidden, steps * directions * hidden)
        if batch_first
        else (directions * batch * hidden, batch * hidden, hidden)
    )
    state = (hidden, directions * hidden) if batch_first else (batch * hidden, hidden)
    divisors = map(fast_div, (passes, *tiles, hidden, groups, batch))
    ints = (steps, batch, inputs, hidden, chunk, int(alone), *divisors, *x, *y, *state)
    if not steps:
        return Launch(ints, 1, 0, (1,))
    blocks = directions * groups if alone else blocks_for(directions * groups * hidden, THREADS // 32)
    each = (directions * math.prod(tiles), *[blocks] * (passes - 1))
    every = each * blocks_for(steps, chunk)
    done = len(every) if alone else blocks_for(steps, chunk) + steps * parts  # passes behind the last step have nothing to do
    return Launch(ints, 1, chunk * step_bytes + 4 * directions * batch * hidden * size, every[:done])


def _text(node: Node, dtype: DType, acc: DType, gates: int, defaults: Sequence[str], cell: str, parts: int, apart: bool) -> str:
    first, result = first_int(node), first_result(node)
    names = ("x", "w", "r", "b", "lens", "h0", "c0", "peep")
    slots = {name: slot_of(node, i) for i, name in enumerate(names) if node.operand(i) is not None}
    slots |= {name: result + j for j, name in enumerate(("y", "y_h", "y_c")[: len(node.results)])}
    slots["scratch"] = first - 1
    members = [f"i64 {', '.join(slots)};", f"u32 {', '.join(_U32)};", f"FastDiv {', '.join(_DIV)};", f"i64 {', '.join(_I64)};"]
    ints = {name: first + k for k, name in enumerate((*_U32, *_DIV, *_I64))}
    last = first + len(ints)
    has_c, bias = gates == 4, node.operand(3) is not None
    words = {
        "ACC": acc, "GATES": gates, "DIRECTIONS": 2 if node.attr("direction") == "bidirectional" else 1,
        "INITIAL": ", ".join(f"{name}(p[{slot}])" for name, slot in (slots | ints).items()),
        "BACKWARD": {"forward": "false", "reverse": "true"}.get(node.attr("direction"), "d == 1"),
        "HIGH": TILE_ROWS, "WIDE": TILE_COLUMNS, "DEPTH": TILE_DEPTH, "THREADS": THREADS, "ROWS": ROWS, "WARPS": THREADS // 32,
        "START_STATE": _start("h0", slots), "START_CELL": _start("c0", slots),
        "PARTS": parts, "LAST": last, "BIAS": _bias(gates, apart) if bias else "Acc(0)",
        "LAST_BIAS": f"ld_TYPE(x.b, d * {2 * gates} * x.hidden + {2 * gates - 1} * x.hidden + j)" if bias else "Acc(0)",
        "LIVE": f"t < ld_{node.operand(4).tensor.dtype}(x.lens, b)" if "lens" in slots else "true",
        "KEPT": kept_of(node) if has_c else "",
    }  # fmt: skip
    finish = [f"st_TYPE(x.{name}, last, {value});" for name, value in (("y_h", "h"), ("y_c", "c")) if name in slots]
    keep = ["c = live ? c : memory;", "x.kept(2)[at] = c;"] if has_c else []
    blocks = {"ACTIVATIONS": activations_of(node, acc, defaults), "MEMBERS": members, "CELL": cell.strip("\n").split("\n"),
              "KEEP": keep, "FINISH": finish, **peepholes(slots)}  # fmt: skip
    text, body = (fill_in(with_lines(t, blocks), **words).replace("TYPE", str(dtype)).strip("\n") for t in (_TEXT, _BODY))
    return kernel(THREADS, last + 1, body.split("\n"), [text])


def _bias(gates: int, apart: bool) -> str:
    """Both biases of column c; where the recurrent one of the last gate stays apart, not that one."""
    both = f"Acc(ld_TYPE(x.b, i64(d) * {2 * gates} * x.hidden + c))"
    recurrent = f"ld_TYPE(x.b, i64(d) * {2 * gates} * x.hidden + columns + c)"
    return f"({both} + {f'(c >= {gates - 1} * x.hidden ? Acc(0) : {recurrent})' if apart else recurrent})"


def _start(name: str, slots: dict[str, int]) -> str:
    """A state before the first step."""
    return f"ld_TYPE(x.{name}, d * x.state_direction + b * x.state_row + k)" if name in slots else "0"


def peepholes(slots: Collection[str]) -> dict[str, list[str]]:
    """What an lstm adds to its gates for its memory before and after the step."""
    if "peep" not in slots:
        return {"PEEP_FIRST": [], "PEEP_LAST": []}
    peep = "ld_TYPE(x.peep, (d * 3 + {}) * x.hidden + j) * {}"
    first = f"i += {peep.format(0, 'memory')}, f += {peep.format(2, 'memory')};"
    return {"PEEP_FIRST": [first], "PEEP_LAST": [f"o += {peep.format(1, 'c')};"]}


def kept_of(node: Node) -> str:
    """How much an lstm keeps of its memory."""
    return "(Acc(1) - i)" if node.attr("input_forget") else "activation0(d, f)"


def activations_of(node: Node, acc: DType, defaults: Sequence[str]) -> list[str]:
    """The activation functions: `activation0(direction, x)` and so on."""
    directions = 2 if node.attr("direction") == "bidirectional" else 1
    alpha, beta = node.attr("activation_alpha"), node.attr("activation_beta")
    found = named_activations(node.attr("activations"), defaults, directions, alpha, beta)
    clip, lines = node.attr("clip"), []
    for k in range(len(defaults)):
        each = []
        for name, given in found[k :: len(defaults)]:
            words = {word.upper(): literal(value, acc) for word, value in given.items()}
            each.append(f"({fill_in(_ACTIVATIONS[name], **words)})")
        value = each[0] if len(set(each)) == 1 else f"d == 0 ? {each[0]} : {each[1]}"
        clipped = [] if clip is None else [f"    x = minimum(maximum(x, {literal(-clip, acc)}), {literal(clip, acc)});"]
        lines += [f"DEVICE Acc activation{k}(u32 d, Acc x) {{", *clipped, f"    return {value};", "}"]
    return lines


def with_lines(text: str, blocks: dict[str, list[str]]) -> str:
    """The text with words that stand alone on a line replaced by lines at their indent, and the words in these."""
    out = []
    for line in text.split("\n"):
        word = line.strip()
        if word in blocks:
            inner = with_lines("\n".join(blocks[word]), blocks).split("\n") if blocks[word] else []
            out += [line[: len(line) - len(line.lstrip())] + new for new in inner]
        else:
            out.append(line)
    return "\n".join(out)


@serves("lstm")
def lstm(node: Node) -> KernelSource | Refusal:
    """The kernel of lstm."""
    return _recurrence(node, 4, LSTM_DEFAULTS, _LSTM + LSTM_END.lstrip("\n"))


@serves("gru")
def gru(node: Node) -> KernelSource | Refusal:
    """The kernel of gru."""
    if node.attr("linear_before_reset"):
        return _recurrence(node, 3, ("sigmoid", "tanh"), _GRU_LINEAR, apart=True)
    return _recurrence(node, 3, ("sigmoid", "tanh"), _GRU, parts=2)


@serves("rnn")
def rnn(node: Node) -> KernelSource | Refusal:
    """The kernel of rnn."""
    return _recurrence(node, 1, ("tanh",), _RNN)
