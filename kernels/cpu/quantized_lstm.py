"""dynamic_quantize_lstm: an LSTM whose weights are bytes, and whose inputs and states are quantized as they come.

A unit of work is one direction, since the states of all batch rows are quantized together in each step. The inputs are quantized
once and projected, then the recurrence runs step by step. Sums are exact: products of a quantized number (less its zero point) and
a weight are whole, at most 255² each, so that 256 of them are added up in f32 without rounding; then they go to i32 sums, which
wrap as the reference's do. The weights' zero points are taken off at the end, by the sum of the row that they multiply.

Weights are packed in panels of a few vectors of columns, row after row of the reduction, as in `rnn.py`; all four gates stand in
one row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.core import Node
from ...ir.types import F32
from ..spec import Call, KernelSource, Launch, Refusal
from .operands import fill_in, first_int, first_result, refuse_layouts, slot_of
from .quantize import RANGE
from .rnn import ACTIVATIONS, indent, panel_vectors, panel_width
from .target import serves

EXACT = 256  # products of 255 * 255 whose sum f32 holds


def pack_columns(width: int) -> Callable[[np.ndarray], np.ndarray]:
    """[directions, k, columns] to panels [directions, columns padded / width, k, width]."""

    def pack(w: np.ndarray) -> np.ndarray:
        d, k, n = w.shape
        out = np.pad(w, ((0, 0), (0, 0), (0, -n % width)))
        return np.ascontiguousarray(out.reshape(d, k, -1, width).transpose(0, 2, 1, 3))

    return pack


def _multiply(rows: int, vectors: int, dtype: str) -> str:
    """A subroutine: out[r] += a[r] @ panel, of whole numbers in f32 and bytes, to i32."""
    pairs = [(r, v) for r in range(rows) for v in range(vectors)]
    names = [f"{n}{r}" for n in ("a", "out") for r in range(rows)]
    lines = [f"def multiply_{rows}(panel, k, {', '.join(names)}):", f"    for first in range(0, k, {EXACT}):"]
    lines += [f"        c{r}_{v} = splat(f32(0))" for r, v in pairs]
    lines += [f"        for i in range(first, min(first + {EXACT}, k)):"]
    lines += [f"            x{r} = splat(ld_f32(a{r}, i))" for r in range(rows)]
    lines += [f"            w{v} = to_f32(ldv_{dtype}(panel, i * WIDTH + {v} * LANES))" for v in range(vectors)]
    lines += [f"            c{r}_{v} = fma(x{r}, w{v}, c{r}_{v})" for r, v in pairs]
    lines += [f"        stv_i32(out{r}, {v} * LANES, add(ldv_i32(out{r}, {v} * LANES), to_i32(c{r}_{v})))" for r, v in pairs]
    return "@function\n" + "\n".join(lines) + "\n\n\n"


# Rows of `count` numbers, `pitch` elements apart, become u8 less their zero point, in rows of f32, as `dynamic_quantize_linear` has
# it; the step.
_QUANTIZE = """
@function
def quantize(source, rows, count, pitch, out, out_pitch):
    lows = splat(f32(0))
    highs = splat(f32(0))
    for r in range(rows):
        for i in range(0, count, LANES):
            v = ldm_f32(source, r * pitch + i, count - i)
            lows = minimum(lows, v)
            highs = maximum(highs, v)
    low = hmin(lows)
    high = hmax(highs)
    step = step_of(low, high)
    zero = zero_point(low, step)
    for r in range(rows):
        for i in range(0, count, LANES):
            v = add(rint(div(ldm_f32(source, r * pitch + i, count - i), splat(step))), splat(zero))
            v = minimum(maximum(v, splat(f32(0))), splat(f32(255)))
            stv_f32(out, r * out_pitch + i, sub(to_f32(to_i32(v)), splat(zero)))
    return step


"""
# sums[:, all gates] = VECTORS @ weights - total of the row * zero points, times the step and the scales
_SCALE = """
@function
def scale(sums, row, k, zeros, scales, step, out, columns):
    total = i32(0)
    for i in range(k):
        total = add(total, to_i32(ld_f32(row, i)))
    for j in range(0, columns, LANES):
        whole = sub(ldv_i32(sums, j), mul(splat(total), ldv_i32(zeros, j)))
        stv_f32(out, j, mul(to_f32(whole), mul(splat(step), ldv_f32(scales, j))))


"""
# Sizes: steps, batch, inputs, hidden, columns of all gates padded to panels, numbers of an input and of a state padded to vectors,
# bytes of a direction's scratch. Its parts: zero points, scales and biases by column; sums of two rows and the state's product;
# states, memories and quantized states; projected inputs, quantized inputs.
_KERNEL = """
def kernel(p, tile, ntiles):
    steps = param(p, FIRST)
    batch = param(p, FIRST + 1)
    inputs = param(p, FIRST + 2)
    hidden = param(p, FIRST + 3)
    columns = param(p, FIRST + 4)
    wide_x = param(p, FIRST + 5)
    wide_h = param(p, FIRST + 6)
    pitch = columns * 4
    row_h = wide_h * 4
    x = param(p, 0)
    for d in range(DIRECTIONS * tile // ntiles, DIRECTIONS * (tile + 1) // ntiles):
        zeros_w = param(p, SCRATCH) + d * param(p, FIRST + 7)
        zeros_r = zeros_w + pitch
        scales_w = zeros_r + pitch
        scales_r = scales_w + pitch
        bias = scales_r + pitch
        sums = bias + pitch
        product = sums + 2 * pitch
        state = product + pitch
        cell = state + batch * row_h
        quantized = cell + batch * row_h
        projected = quantized + batch * row_h
        numbers = projected + steps * batch * pitch
        memset(zeros_w, 0, 5 * pitch)
        memset(state, 0, 2 * batch * row_h)
        for t in range(steps):
            memset(param(p, RESULT) + (t * DIRECTIONS + d) * batch * hidden * 4, 0, batch * hidden * 4)
        CLEAR_LAST
        for j in range(4 * hidden):
            st_i32(zeros_w, j, to_i32(ld_BYTE(W_ZERO)))
            st_i32(zeros_r, j, to_i32(ld_BYTE(R_ZERO)))
        for j in range(4 * hidden):
            st_f32(scales_w, j, ld_f32(W_SCALE))
            st_f32(scales_r, j, ld_f32(R_SCALE))
            ADD_BIAS
        for b in range(batch):
            LOAD_STATE
            LOAD_CELL
            pass
        longest = steps
        FIND_LONGEST
        rows = longest * batch
        step = quantize(x, rows, inputs, inputs, numbers, wide_x)
        for r in range(0, rows, 2):
            memset(sums, 0, 2 * pitch)
            a = numbers + r * wide_x * 4
            for q in range(columns // WIDTH):
                panel = param(p, 1) + (d * (columns // WIDTH) + q) * inputs * WIDTH
                at = sums + q * WIDTH * 4
                if r + 1 < rows:
                    multiply_2(panel, inputs, a, a + wide_x * 4, at, at + pitch)
                else:
                    multiply_1(panel, inputs, a, at)
            for r2 in range(r, min(r + 2, rows)):
                a = numbers + r2 * wide_x * 4
                scale(sums + (r2 - r) * pitch, a, inputs, zeros_w, scales_w, step, projected + r2 * pitch, columns)
        backward = BACKWARD
        for s in range(longest):
            step = quantize(state, batch, hidden, wide_h, quantized, wide_h)
            for b in range(0, batch, 2):
                memset(sums, 0, 2 * pitch)
                a = quantized + b * row_h
                for q in range(columns // WIDTH):
                    panel = param(p, 2) + (d * (columns // WIDTH) + q) * hidden * WIDTH
                    at = sums + q * WIDTH * 4
                    if b + 1 < batch:
                        multiply_2(panel, hidden, a, a + row_h, at, at + pitch)
                    else:
                        multiply_1(panel, hidden, a, at)
                for b2 in range(b, min(b + 2, batch)):
                    length = LENGTH
                    h = state + b2 * row_h
                    if s >= length:
                        memset(h, 0, row_h)
                        continue
                    t = length - 1 - s if backward else s
                    scale(sums + (b2 - b) * pitch, quantized + b2 * row_h, hidden, zeros_r, scales_r, step, product, columns)
                    row = projected + (t * batch + b2) * pitch
                    c = cell + b2 * row_h
                    for j in range(0, hidden, LANES):
                        BODY
                    memcpy(param(p, RESULT) + ((t * DIRECTIONS + d) * batch + b2) * hidden * 4, h, hidden * 4)
                    if s == length - 1:
                        STORE_LAST
"""
_LONGEST = """
longest = i64(0)
for b in range(batch):
    longest = max(longest, i64(ld_i32(LENS, b)))
longest = min(longest, steps)
"""


def _words(node: Node, directions: int) -> dict[str, object]:
    """What the kernel's words stand for."""
    out = first_result(node)

    def address(i: int) -> str:
        return f"param(p, {slot_of(node, i)})"

    def of_column(i: int) -> str:
        """A parameter of column j: one a direction, or one a column."""
        return f"{address(i)}, {'d * 4 * hidden + j' if node.operands[i].tensor.rank == 2 else 'd'}"

    def load(what: str, i: int) -> str:
        start = f"{address(i)} + (d * batch + b) * hidden * 4" if node.operand(i) is not None else ""
        return f"memcpy({what} + b * row_h, {start}, hidden * 4)" if start else ""

    bias = (
        ", ".join(f"ld_f32({address(3)}, d * 8 * hidden + {k}j)" for k in ("", "4 * hidden + "))
        if node.operand(3) is not None
        else ""
    )
    lens = node.operand(4) is not None
    last = [f"param(p, {out + 1 + k})" for k in range(len(node.results) - 1)]
    store = [f"memcpy({r} + (d * batch + b2) * hidden * 4, {what}, hidden * 4)" for r, what in zip(last, ("h", "c"))]
    clear = [f"memset({r} + d * batch * hidden * 4, 0, batch * hidden * 4)" for r in last]
    return {
        "RESULT": out, "SCRATCH": out + len(node.results), "DIRECTIONS": directions,
        "W_SCALE": of_column(8), "W_ZERO": of_column(9), "R_SCALE": of_column(10), "R_ZERO": of_column(11),
        "ADD_BIAS": f"st_f32(bias, j, add({bias}))" if bias else "", "LOAD_STATE": load("state", 5), "LOAD_CELL": load("cell", 6),
        "FIND_LONGEST": indent(fill_in(_LONGEST, LENS=address(4)), 8) if lens else "",
        "LENGTH": f"min(i64(ld_i32({address(4)}, b2)), steps)" if lens else "steps",
        "BACKWARD": {"forward": "False", "reverse": "True"}.get(node.attr("direction"), "d == 1"),
        "CLEAR_LAST": indent("\n".join(clear), 8), "STORE_LAST": indent("\n".join(store) or "pass", 24),
    }  # fmt: skip


def _cell(node: Node, activations: tuple[str, ...]) -> list[str]:
    """The text for one vector of a row: gates i, o, f and g, the memory m, the state."""

    def activate(k: int, value: str) -> str:
        clip = node.attr("clip")
        if clip is not None:
            value = f"maximum(minimum({value}, splat(f32({float(clip)!r}))), splat(f32({-float(clip)!r})))"
        return ACTIVATIONS[activations[k]].replace("V", value).replace("T(", "f32(")

    def peep(gate: str, k: int) -> list[str]:
        if node.operand(7) is None:
            return []
        weights = f"ldm_f32(param(p, {slot_of(node, 7)}), (d * 3 + {k}) * hidden + j, hidden - j)"
        return [f"{gate} = add({gate}, mul({weights}, m))"]

    lines = ["m = ldv_f32(c, j)"]
    for k, gate in enumerate("iofg"):
        at = f"{k} * hidden + j"
        lines.append(f"{gate} = add(add(ldv_f32(row, {at}), ldv_f32(product, {at})), ldv_f32(bias, {at}))")
    forget = "sub(splat(f32(1)), i)" if node.attr("input_forget") else activate(0, "f")
    lines += [*peep("i", 0), *peep("f", 2), f"i = {activate(0, 'i')}", f"f = {forget}", f"g = {activate(1, 'g')}"]
    lines += ["m = add(mul(f, m), mul(i, g))", *peep("o", 1), f"o = {activate(0, 'o')}"]
    return [*lines, "stv_f32(c, j, m)", f"stv_f32(h, j, mul(o, {activate(2, 'm')}))"]


def _refusal(node: Node, activations: tuple[str, ...]) -> Refusal | None:
    if any(a not in ACTIVATIONS for a in activations) or len(activations) % 3 or activations[:3] != activations[-3:]:
        return Refusal("there is no kernel for these activations", {"activations": activations})
    for i in (1, 2):
        v = node.operands[i]
        if not v.is_const:
            return Refusal("the weights are not constant", {node.op.operand_name(i): f"%{v.name}"})
    return refuse_layouts(node)


@serves("dynamic_quantize_lstm")
def build(node: Node) -> KernelSource | Refusal:
    directions = 2 if node.attr("direction") == "bidirectional" else 1
    activations = tuple(a.lower() for a in node.attr("activations")) or ("sigmoid", "tanh", "tanh") * directions
    refusal = _refusal(node, activations)
    if refusal is not None:
        return refusal
    width, vectors, byte = panel_width(F32), panel_vectors(F32), node.operands[1].tensor.dtype.name
    words = _words(node, directions) | {"BODY": indent("\n".join(_cell(node, activations)), 24)}
    text = (
        _multiply(1, vectors, byte)
        + _multiply(2, vectors, byte)
        + RANGE.lstrip("\n")
        + _QUANTIZE.lstrip("\n")
        + _SCALE.lstrip("\n")
    )
    text += fill_in(_KERNEL.lstrip("\n"), **words)
    text = fill_in(text, FIRST=first_int(node), WIDTH=width).replace("BYTE", byte)

    def bind(call: Call) -> Launch:
        (steps, batch, inputs), hidden = call.operands[0], call.operands[2][1]
        columns = -(-4 * hidden // width) * width
        wide_x, wide_h = (-(-n // 16) * 16 for n in (inputs, hidden))
        numbers = 8 * columns + 3 * batch * wide_h + steps * batch * (columns + wide_x)
        scratch = 4 * (-(-numbers // 16) * 16)
        return Launch((steps, batch, inputs, hidden, columns, wide_x, wide_h, scratch), directions, scratch * directions)

    pack = {1: pack_columns(width), 2: pack_columns(width)}
    return KernelSource(text, bind, "lstm.i32", pack)
