"""dynamic_quantize_lstm: an LSTM whose weights are bytes, and whose inputs and states are quantized as they come.

A unit of work is one direction, since the states of all batch rows are quantized together in each step. The inputs are quantized
once and projected, then the recurrence runs step by step. Both products are those of `quant_panels.py`, exact; all four gates stand
in one row.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from ...ir.core import Node
from ...ir.recording import greatest
from ..operands import fill_in, first_int, first_result, refuse_layouts, slot_of
from ..spec import Call, KernelSource, Launch, Refusal
from .blocks import insert
from .quant import PANEL, ROW, STEPS
from .quant_panels import pack_panels, pack_quads, panel_columns, row_pitch, takes_quads
from .quantize import RANGE
from .rnn import ACTIVATIONS, indent
from .target import serves
from .tiling import tiling

# Rows of `count` numbers, `gap` elements apart, become u8 as `dynamic_quantize_linear` has it, in `source`, and rows of a
# product in `out`; the step. Adding 2^23 to a whole number leaves it in the low bits.
_QUANTIZE = """
@function
def NAME(numbers, rows, count, gap, source, out):
    lows = splat(f32(0))
    highs = splat(f32(0))
    for r in range(rows):
        for i in range(0, count, LANES):
            v = ldm_f32(numbers, r * gap + i, count - i)
            lows = minimum(lows, v)
            highs = maximum(highs, v)
    low = hmin(lows)
    high = hmax(highs)
    scale = step_of(low, high)
    middle = zero_point(low, scale)
    depth = count
    STEPS
    for r in range(rows):
        for i in range(0, count, LANES):
            y = add(rint(div(ldm_f32(numbers, r * gap + i, count - i), splat(scale))), splat(middle))
            y = where(ge(y, splat(f32(0))), y, splat(f32(0)))
            y = where(lt(y, splat(f32(255))), y, splat(f32(255)))
            stv_u8(source, i, to_u8(bits_f32_u32(add(y, splat(f32(8388608))))))
        target = out + r * pitch
        PACK_ROW
    return scale


"""
# Sizes: steps, batch, inputs, hidden, columns of all gates padded to panels, numbers of a state padded to vectors, bytes of a
# direction's scratch, and where in it stand: scales by column and biases; the state's product; states, memories; the bytes of a
# row, the rows of the states' and of the inputs' products; projected inputs.
_KERNEL = """
multiply_w = int_panel(LANES_, QUADS_W)
multiply_r = int_panel(LANES_, QUADS_R)


def kernel(p, tile, ntiles):
    steps = param(p, FIRST)
    batch = param(p, FIRST + 1)
    inputs = param(p, FIRST + 2)
    hidden = param(p, FIRST + 3)
    columns = param(p, FIRST + 4)
    wide_h = param(p, FIRST + 5)
    pitch = columns * 4
    row_h = wide_h * 4
    x = param(p, 0)
    for d in range(DIRECTIONS * tile // ntiles, DIRECTIONS * (tile + 1) // ntiles):
        scales_w = param(p, SCRATCH) + d * param(p, FIRST + 6)
        scales_r = scales_w + pitch
        bias = scales_r + pitch
        product = scales_w + param(p, FIRST + 7)
        state = scales_w + param(p, FIRST + 8)
        cell = state + batch * row_h
        bytes_ = scales_w + param(p, FIRST + 9)
        rows_h = scales_w + param(p, FIRST + 10)
        rows_x = scales_w + param(p, FIRST + 11)
        projected = scales_w + param(p, FIRST + 12)
        memset(scales_w, 0, 3 * pitch)
        memset(state, 0, 2 * batch * row_h)
        for t in range(steps):
            memset(param(p, RESULT) + (t * DIRECTIONS + d) * batch * hidden * 4, 0, batch * hidden * 4)
        CLEAR_LAST
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
        step = quantize_w(x, longest * batch, inputs, inputs, bytes_, rows_x)
        for j in range(0, columns, LANES):
            stv_f32(scales_w, j, mul(splat(step), ldv_f32(scales_w, j)))
        w = param(p, 1)
        depth = inputs
        STEPS_W
        for q in range(columns // WIDTH):
            PANEL_W
            multiply_w(longest * batch, steps_w, rows_x, pitch_w, panel, projected, pitch, q * WIDTH * 4, WIDTH, 0)
        backward = BACKWARD
        w = param(p, 2)
        depth = hidden
        STEPS_R
        for s in range(longest):
            step = splat(quantize_r(state, batch, hidden, wide_h, bytes_, rows_h))
            for q in range(columns // WIDTH):
                PANEL_R
                multiply_r(batch, steps_r, rows_h, pitch_r, panel, product, pitch, q * WIDTH * 4, WIDTH, 0)
            for b in range(batch):
                length = LENGTH
                h = state + b * row_h
                if s >= length:
                    memset(h, 0, row_h)
                    continue
                t = length - 1 - s if backward else s
                sums = product + b * pitch
                row = projected + (t * batch + b) * pitch
                c = cell + b * row_h
                for j in range(0, hidden, 2 * LANES):
                    BODY
                memcpy(param(p, RESULT) + ((t * DIRECTIONS + d) * batch + b) * hidden * 4, h, hidden * 4)
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
    store = [f"memcpy({r} + (d * batch + b) * hidden * 4, {what}, hidden * 4)" for r, what in zip(last, ("h", "c"))]
    clear = [f"memset({r} + d * batch * hidden * 4, 0, batch * hidden * 4)" for r in last]
    return {
        "RESULT": out, "SCRATCH": out + len(node.results), "DIRECTIONS": directions,
        "W_SCALE": of_column(8), "R_SCALE": of_column(10),
        "ADD_BIAS": f"st_f32(bias, j, add({bias}))" if bias else "", "LOAD_STATE": load("state", 5), "LOAD_CELL": load("cell", 6),
        "FIND_LONGEST": indent(fill_in(_LONGEST, LENS=address(4)), 8) if lens else "",
        "LENGTH": f"min(i64(ld_i32({address(4)}, b)), steps)" if lens else "steps",
        "BACKWARD": {"forward": "False", "reverse": "True"}.get(node.attr("direction"), "d == 1"),
        "CLEAR_LAST": indent("\n".join(clear), 8), "STORE_LAST": indent("\n".join(store) or "pass", 20),
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
        lines.append(f"{gate} = mul(to_f32(ldv_i32(row, {at})), ldv_f32(scales_w, {at}))")
        lines.append(f"{gate} = add({gate}, mul(to_f32(ldv_i32(sums, {at})), mul(step, ldv_f32(scales_r, {at}))))")
        lines.append(f"{gate} = add({gate}, ldv_f32(bias, {at}))")
    forget = "sub(splat(f32(1)), i)" if node.attr("input_forget") else activate(0, "f")
    lines += [*peep("i", 0), *peep("f", 2), f"i = {activate(0, 'i')}", f"f = {forget}", f"g = {activate(1, 'g')}"]
    lines += ["m = add(mul(f, m), mul(i, g))", *peep("o", 1), f"o = {activate(0, 'o')}"]
    return [*lines, "stv_f32(c, j, m)", f"stv_f32(h, j, mul(o, {activate(2, 'm')}))"]


def _in_step(lines: list[str]) -> list[str]:
    """The text of a cell for two vectors at once: one chain of dependent instructions would leave the units idle."""

    def of(line: str, k: int) -> str:
        return re.sub(r"\bj\b", "(j + LANES)" if k else "j", re.sub(r"\b([miofg])\b", rf"\g<1>{k}", line))

    return [of(line, k) for line in lines for k in (0, 1)]


def _refusal(node: Node, activations: tuple[str, ...]) -> Refusal | None:
    if any(a not in ACTIVATIONS for a in activations) or len(activations) % 3 or activations[:3] != activations[-3:]:
        return Refusal("there is no kernel for these activations", {"activations": activations})
    for i in (1, 2, 9, 11):
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
    width, quads = panel_columns(), [takes_quads(node.operands[i].array) for i in (1, 2)]

    def bind(call: Call) -> Launch:
        (steps, batch, inputs), hidden = call.operands[0], call.operands[2][1]
        columns, wide_h = -(-4 * hidden // width) * width, _padded(hidden)
        pitches = [row_pitch(n, q) for n, q in zip((inputs, hidden), quads, strict=True)]
        wide_x = _padded(inputs)
        sizes = [12 * columns, 4 * batch * columns, 8 * batch * wide_h, greatest(wide_x, wide_h), batch * pitches[1],
                 steps * batch * pitches[0], 4 * (steps * batch * columns + 2 * tiling(4).lanes)]  # fmt: skip
        at = [0]
        for size in sizes:
            at.append(at[-1] + -(-size // 64) * 64)
        return Launch((steps, batch, inputs, hidden, columns, wide_h, at[-1], *at[1:7]), directions, at[-1] * directions)

    return KernelSource(
        partial(_text, node, activations, quads),
        bind,
        "lstm.i32",
        {i: _packer(node, i, q) for i, q in zip((1, 2), quads, strict=True)},
    )


def _padded(n: int) -> int:
    """Room for n numbers that are read by two vectors."""
    return -(-n // (2 * tiling(4).lanes)) * 2 * tiling(4).lanes


def _packer(node: Node, i: int, quads: bool) -> Callable[[np.ndarray], np.ndarray]:
    zeros = node.operands[8 + 2 * i - 1].array  # by direction, or by direction and column
    zeros = zeros[:, None] if zeros.ndim == 1 else zeros
    return lambda w: (pack_quads if quads else pack_panels)(w, zeros)


def _text(node: Node, activations: tuple[str, ...], quads: list[bool]) -> str:
    text, fragments = RANGE.lstrip("\n"), {"BODY": "\n".join(_in_step(_cell(node, activations)))}
    for name, q in zip("wr", quads, strict=True):
        quantize = insert(_QUANTIZE, STEPS=STEPS[q], PACK_ROW=ROW[q]).replace("_A(", "_u8(")
        text += fill_in(quantize, NAME=f"quantize_{name}", ZERO="to_i16(middle)", SHIFT_A=0) + "\n\n"
        upper = name.upper()
        fragments |= {f"{k}_{upper}": t[q].replace("steps", f"steps_{name}").replace("pitch", f"pitch_{name}")
                      for k, t in (("STEPS", STEPS), ("PANEL", PANEL))}  # fmt: skip
    text += insert(_KERNEL, **fragments)
    return fill_in(text, **_words(node, 2 if node.attr("direction") == "bidirectional" else 1), FIRST=first_int(node),
                   WIDTH=panel_columns(), LANES_=tiling(4).lanes, QUADS_W=quads[0], QUADS_R=quads[1],
                   INDEX=f"d * (columns // {panel_columns()}) + q")  # fmt: skip
