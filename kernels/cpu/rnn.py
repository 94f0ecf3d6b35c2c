"""lstm, gru and rnn with the default activations.

Steps go in chunks: the inputs of a whole chunk are projected first, by GEMM's microkernel, then the recurrence runs step by step,
adding to the same sums; there a unit of work is one direction and a block of batch rows. Weights are packed in panels of a few
vectors of columns, row after row of the reduction; every gate is padded with zeros to whole panels, which keeps the padding of the
state zero.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.core import Node
from ...ir.recording import greatest, least
from ...ir.types import F32, F64, DType
from ..operands import MULTIPLIED, fill_in, first_int, first_result, refuse_layouts, slot_of, tiles_for
from ..spec import Call, KernelSource, Launch, Refusal
from .blocks import PAD
from .program import IDENTITY
from .target import serves
from .tiling import tiling

CHUNK_BYTES = 1 << 20  # what the sums of a chunk of steps may take of the caches
LONG = 1 << 28  # operations of the recurrence in one tile, so that a run can be stopped
PROJECTED = 2  # vectors of columns in a panel of the inputs' weights
BLOCK = 8  # batch rows that go through the steps together
ROWS = 2  # rows that share the load of a panel's vectors
BIASED = (("acc",), ("col", 0), ("add", 0, 1))  # the program of the projection
ACTIVATIONS = {
    "sigmoid": "div(splat(T(1)), add(splat(T(1)), exp(neg(V))))",
    "tanh": "tanh(V)",
    "relu": "where(lt(V, splat(T(0))), splat(T(0)), V)",
}


def panel_vectors(dtype: DType) -> int:
    """Vectors of columns in a panel: with ROWS rows their sums fit the registers. An f64 vector takes two registers."""
    return 4 if dtype is F32 else 2


def panel_width(dtype: DType) -> int:
    return panel_vectors(dtype) * tiling(4).lanes


def padded_size(hidden: int, width: int) -> int:
    return -(-hidden // width) * width


def pack_weights(gates: int, width: int, panel: int) -> Callable[[np.ndarray], np.ndarray]:
    """[directions, gates * hidden, k] to panels [directions, gates * padded / panel, k, panel], gates padded to `width`."""

    def pack(w: np.ndarray) -> np.ndarray:
        d, n, k = w.shape
        padded = padded_size(n // gates, width)
        out = np.zeros((d, gates, padded, k), w.dtype)
        out[:, :, : n // gates] = w.reshape(d, gates, n // gates, k)
        return np.ascontiguousarray(out.reshape(d, gates * padded // panel, panel, k).transpose(0, 1, 3, 2))

    return pack


def pack_rows(rows: int, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """[directions, rows * hidden] with each row padded."""

    def pack(b: np.ndarray) -> np.ndarray:
        d, hidden = len(b), b.shape[1] // rows
        return np.pad(b.reshape(d, rows, hidden), ((0, 0), (0, 0), (0, padded_size(hidden, width) - hidden)))

    return pack


def pack_bias(gates: int, width: int, apart: int) -> Callable[[np.ndarray], np.ndarray]:
    """The biases of inputs and state summed; then those of the last `apart` gates' state by themselves, not summed."""

    def pack(b: np.ndarray) -> np.ndarray:
        rows = pack_rows(2 * gates, width)(b)
        total = rows[:, :gates] + rows[:, gates:]
        if apart:
            total[:, -apart:] = rows[:, gates - apart : gates]
        return np.ascontiguousarray(np.concatenate([total, rows[:, 2 * gates - apart :]], axis=1))

    return pack


def _multiply(rows: int, vectors: int) -> str:
    """A subroutine: out[r] += a[r] @ panel for `rows` rows of one panel. One row alone sums even and odd steps apart."""
    pairs = [(r, v) for r in range(rows) for v in range(vectors)]
    names = [f"{n}{r}" for n in ("a", "out") for r in range(rows)]
    lines = [f"def multiply_{rows}(panel, k, {', '.join(names)}):"]
    lines += [f"    c{r}_{v} = ldv_T(out{r}, {v} * LANES)" for r, v in pairs]
    odd = rows == 1
    if odd:
        lines += [f"    d{r}_{v} = splat(T(0))" for r, v in pairs] + ["    for i in range(0, k - 1, 2):"]
    else:
        lines += ["    for i in range(k):"]
    for step, acc in ((0, "c"), (1, "d"))[: 1 + odd]:
        lines += [f"        x{r} = splat(ld_T(a{r}, i + {step}))" for r in range(rows)]
        lines += [f"        w{v} = ldv_T(panel, (i + {step}) * WIDTH + {v} * LANES)" for v in range(vectors)]
        lines += [f"        {acc}{r}_{v} = fma(x{r}, w{v}, {acc}{r}_{v})" for r, v in pairs]
    if odd:
        lines += ["    if k % 2 == 1:", "        x0 = splat(ld_T(a0, k - 1))"]
        lines += [f"        c0_{v} = fma(x0, ldv_T(panel, (k - 1) * WIDTH + {v} * LANES), c0_{v})" for v in range(vectors)]
    lines += [f"    stv_T(out{r}, {v} * LANES, {f'add(c{r}_{v}, d{r}_{v})' if odd else f'c{r}_{v}'})" for r, v in pairs]
    return "@function\n" + "\n".join(lines) + "\n\n\n"


# A pass projects the inputs of a chunk of steps, the next one takes the recurrence through it, and so on; scratch memory holds what
# goes from pass to pass: the sums [DIRECTIONS, chunk, batch, GATES, padded], then state, cell, extra [DIRECTIONS, batch, padded].
# Behind these each tile of a projection has tables of the rows of a direction's inputs and sums. Strides are in elements.
_INTS = ("steps", "batch", "inputs", "hidden", "padded", "chunk", "block", "blocks", "entries", "x_step", "x_row", "y_step",
         "y_direction", "y_row", "state_direction", "state_row", "part")  # fmt: skip
_KERNEL = """
project = gemm_panel(NAME, VECTOR, HIGH, PROJECTED, PROGRAM)

def kernel(p, tile, ntiles):
    PARAMS
    columns = GATES * padded
    panels = columns // WIDTH
    pitch = columns * SIZE
    wide = padded * SIZE
    start = part // 2 * chunk
    span = minimum(chunk, steps - start)
    sums_all = param(p, SCRATCH)
    state_all = sums_all + DIRECTIONS * chunk * batch * pitch
    cell_all = state_all + DIRECTIONS * batch * wide
    extra_all = cell_all + DIRECTIONS * batch * wide
    units = DIRECTIONS * blocks
    if part % 2 == 0:
        zero = extra_all + DIRECTIONS * batch * wide + tile * (64 + 24 * (entries + PAD))
        table_x = zero + 64
        table_sums = table_x + 8 * (entries + PAD)
        table_r = table_sums + 8 * (entries + PAD)
        st_i64(zero, 0, 0)
        panels = columns // COLUMNS
        units = DIRECTIONS * panels
        ready = -1
        for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
            d = unit // panels
            if d != ready:
                ready = d
                backward = BACKWARD
                for i in range(span * batch + PAD):
                    r = minimum(i, span * batch - 1)
                    s = r // batch
                    b = r - s * batch
                    t = steps - 1 - start - s if backward else start + s
                    st_i64(table_x, i, param(p, 0) + (t * x_step + b * x_row) * SIZE)
                    st_i64(table_sums, i, sums_all + ((d * chunk + s) * batch + b) * pitch)
                    st_i64(table_r, i, 0)
            project(span * batch, inputs, 1, table_x, 0, param(p, 1) + unit * inputs * COLUMNS * SIZE, zero, table_sums,
                    (unit - d * panels) * COLUMNS * SIZE, COLUMNS, table_rBIAS)
        units = 0
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        d = unit // blocks
        first = (unit - d * blocks) * block
        count = minimum(block, batch - first)
        bias = BIAS_ROW
        backward = BACKWARD
        state = state_all + (d * batch + first) * wide
        cell = cell_all + (d * batch + first) * wide
        extra = extra_all + (d * batch + first) * wide
        if start == 0:
            memset(state, 0, count * wide)
            memset(cell, 0, count * wide)
            for b in range(count):
                from_ = (d * state_direction + (first + b) * state_row) * SIZE
                LOAD_STATE
                LOAD_CELL
        for s in range(span):
            t = steps - 1 - start - s if backward else start + s
            rows = sums_all + ((d * chunk + s) * batch + first) * pitch
            STEP
        if start + span == steps:
            for b in range(count):
                to = (d * state_direction + (first + b) * state_row) * SIZE
                STORE_STATE
                STORE_CELL
"""
# sums[:, gates FROM to TO] += VECTOR @ R, into OUT_ROWS rows of OUT_PITCH bytes, whose gate FROM stands first
_RECUR = """
for q in range(FROM * padded // WIDTH, TO * padded // WIDTH):
    panel = param(p, 2) + (d * panels + q) * hidden * WIDTH * SIZE
    at = OUT_ROWS + (q * WIDTH - SKIP * padded) * SIZE
    for b in range(0, count - 1, 2):
        a = VECTOR + b * wide
        multiply_2(panel, hidden, a, a + wide, at + b * OUT_PITCH, at + (b + 1) * OUT_PITCH)
    if count % 2 == 1:
        multiply_1(panel, hidden, VECTOR + (count - 1) * wide, at + (count - 1) * OUT_PITCH)
"""
_EACH_ROW = """
for b in range(count):
    row = rows + b * pitch
    h = state + b * wide
    c = cell + b * wide
    y = param(p, RESULT) + (t * y_step + d * y_direction + (first + b) * y_row) * SIZE
    if ENDED:
        memset(y, 0, hidden * SIZE)
        continue
    for j in range(0, padded, LANES):
        BODY
    memcpy(y, h, hidden * SIZE)
"""


def indent(text: str, by: int) -> str:
    return text.strip("\n").replace("\n", "\n" + " " * by)


def _recur(first: int, last: int, vector: str = "state", out: str = "rows", pitch: str = "pitch", skip: int = 0) -> str:
    return fill_in(_RECUR, FROM=first, TO=last, VECTOR=vector, OUT_ROWS=out, OUT_PITCH=pitch, SKIP=skip)


class Recurrence:
    """What the three operators share: how operands are found, checked and packed, and how the text is put together."""

    def __init__(self, node: Node, gates: int, states: int, activations: tuple[str, ...]):
        self.node, self.gates, self.states = node, gates, states
        self.dtype = node.operands[0].tensor.dtype
        self.directions = 2 if node.attr("direction") == "bidirectional" else 1
        self.activations = tuple(a.lower() for a in node.attr("activations")) or activations * self.directions
        self.count = len(activations)
        self.width = panel_width(self.dtype) if self.dtype in (F32, F64) else 0
        self.tiling = tiling(self.dtype.itemsize)

    def refusal(self) -> Refusal | None:
        """Why there is no kernel, None where there is one."""
        node = self.node
        if self.dtype not in (F32, F64):
            return Refusal("the elements are neither f32 nor f64", {"X": node.operands[0].type})
        names, n = self.activations, self.count
        if len(names) != n * self.directions or any(a not in ACTIVATIONS for a in names) or names[:n] != names[-n:]:
            return Refusal("there is no kernel for these activations", {"activations": names})
        for i in (1, 2, 3, 7):
            v = node.operand(i)
            if v is not None and not v.is_const:
                return Refusal("the weights are not constant", {node.op.operand_name(i): f"%{v.name}"})
        return refuse_layouts(node)

    def address(self, i: int) -> str:
        return f"param(p, {slot_of(self.node, i)})"

    def activate(self, k: int, value: str) -> str:
        """The text of activation k of a variable, clipped before."""
        clip = self.node.attr("clip")
        if clip is not None:
            clip = float(clip)
            value = f"maximum(minimum({value}, splat(T({clip!r}))), splat(T({-clip!r})))"
        return ACTIVATIONS[self.activations[k]].replace("V", value)

    def source(self, step: str, body: list[str], apart: int = 0) -> KernelSource:
        """The kernel source, given the text of a step (with EACH_ROW where `body` runs for each vector of each row)."""
        node, size, out = self.node, self.dtype.itemsize, first_result(self.node)
        lens = node.operand(4)
        ended = f"t >= ld_{lens.tensor.dtype}({self.address(4)}, first + b)" if lens is not None else "False"
        each = fill_in(_EACH_ROW, ENDED=ended, BODY=indent("\n".join(body), 8), RESULT=out)
        bias_rows = self.gates + apart if node.operand(3) is not None else 0
        words = {
            "SCRATCH": out + len(node.results), "DIRECTIONS": self.directions, "GATES": self.gates,
            "BIAS_ROW": f"{self.address(3)} + d * {bias_rows} * wide" if bias_rows else "0",
            "PROGRAM": repr(BIASED if bias_rows else IDENTITY),
            "BACKWARD": {"forward": "False", "reverse": "True"}.get(node.attr("direction"), "d == 1"),
            "PARAMS": indent("\n".join(f"{name} = param(p, {first_int(node) + i})" for i, name in enumerate(_INTS)), 4),
            "STEP": indent(step.replace("EACH_ROW", each.strip("\n")), 12), "PAD": PAD,
            "NAME": repr(self.dtype.name), "VECTOR": self.tiling.lanes, "HIGH": self.tiling.rows[PROJECTED],
            "PROJECTED": PROJECTED, "COLUMNS": PROJECTED * self.tiling.lanes,
            "LOAD_STATE": self.load("state", 5), "LOAD_CELL": self.load("cell", 6) if self.states > 1 else "",
            "STORE_STATE": self.store("state", out + 1), "STORE_CELL": self.store("cell", out + 2) if self.states > 1 else "",
        }  # fmt: skip
        vectors = panel_vectors(self.dtype)
        kernel = _KERNEL.replace("table_rBIAS", f"table_r, {words['BIAS_ROW']}" if bias_rows else "table_r")
        text = _multiply(1, vectors) + _multiply(2, vectors) + fill_in(kernel, **words).lstrip("\n")
        text = fill_in(text, WIDTH=self.width, SIZE=size)
        text = text.replace("_T(", f"_{self.dtype}(").replace("(T(", f"({self.dtype}(")
        narrow = PROJECTED * self.tiling.lanes
        pack = {1: pack_weights(self.gates, self.width, narrow), 2: pack_weights(self.gates, self.width, self.width)}
        if bias_rows:
            pack[3] = pack_bias(self.gates, self.width, apart)
        if node.operand(7) is not None:
            pack[7] = pack_rows(3, self.width)
        return KernelSource(text, self.bind, pack=pack)

    def load(self, what: str, i: int) -> str:
        return f"memcpy({what} + b * wide, {self.address(i)} + from_, hidden * SIZE)" if self.node.operand(i) is not None else ""

    def store(self, what: str, slot: int) -> str:
        present = slot < first_result(self.node) + len(self.node.results)
        return f"memcpy(param(p, {slot}) + to, {what} + b * wide, hidden * SIZE)" if present else ""

    def bind(self, call: Call) -> Launch:
        (steps, batch, inputs), hidden = call.operands[0], call.operands[2][2]
        batch_first = self.node.attr("layout")
        if batch_first:
            steps, batch = batch, steps
        padded, d = padded_size(hidden, self.width), self.directions
        block = greatest(1, least(BLOCK, batch))
        row, size = self.gates * padded, self.dtype.itemsize
        together = least(CHUNK_BYTES // greatest(d * batch * row * size, 1), LONG // greatest(2 * row * hidden * block, 1))
        chunk = greatest(1, least(steps, together))
        blocks, entries = -(-batch // block), chunk * batch
        panels = d * row // (PROJECTED * self.tiling.lanes)
        tiles = tiles_for(panels, panels * entries * inputs * PROJECTED * self.tiling.lanes, MULTIPLIED)
        scratch = (entries * row + 3 * batch * padded) * d * size + tiles * (64 + 24 * (entries + PAD))
        x = (inputs, steps * inputs) if batch_first else (batch * inputs, inputs)
        y = (d * hidden, hidden, steps * d * hidden) if batch_first else (d * batch * hidden, batch * hidden, hidden)
        state = (hidden, d * hidden) if batch_first else (batch * hidden, hidden)
        ints = (steps, batch, inputs, hidden, padded, chunk, block, blocks, entries, *x, *y, *state)
        chunks = greatest(1, -(-steps // chunk))
        return Launch(ints, 1, scratch, (tiles, greatest(1, d * blocks)) * int(chunks))


def _load(*gates: str) -> list[str]:
    return [f"{g} = ldv_T(row, {k} * padded + j)" for k, g in enumerate(gates)]


@serves("lstm")
def lstm(node: Node) -> KernelSource | Refusal:
    r = Recurrence(node, 4, 2, ("sigmoid", "tanh", "tanh"))
    refusal = r.refusal()
    if refusal:
        return refusal
    peephole = node.operand(7) is not None

    def peep(gate: str, k: int) -> list[str]:
        return [f"{gate} = fma(ldv_T({r.address(7)} + d * 3 * wide, {k} * padded + j), m, {gate})"] if peephole else []

    body = ["m = ldv_T(c, j)", *_load("i", "o", "f", "g"), *peep("i", 0), *peep("f", 2)]
    forget = "sub(splat(T(1)), i)" if node.attr("input_forget") else r.activate(0, "f")
    body += [f"i = {r.activate(0, 'i')}", f"f = {forget}", f"g = {r.activate(1, 'g')}", "m = add(mul(f, m), mul(i, g))"]
    body += [*peep("o", 1), f"o = {r.activate(0, 'o')}", "stv_T(c, j, m)", f"stv_T(h, j, mul(o, {r.activate(2, 'm')}))"]
    return r.source(_recur(0, 4) + "EACH_ROW", body)


_RESET = """
for b in range(count):
    for j in range(0, padded, LANES):
        r = ldv_T(rows + b * pitch, padded + j)
        stv_T(extra + b * wide, j, mul(RESET, ldv_T(state + b * wide, j)))
"""


@serves("gru")
def gru(node: Node) -> KernelSource | Refusal:
    r = Recurrence(node, 3, 1, ("sigmoid", "tanh"))
    refusal = r.refusal()
    if refusal:
        return refusal
    last = [f"g = {r.activate(1, 'g')}", "h0 = ldv_T(h, j)", "stv_T(h, j, add(mul(sub(splat(T(1)), z), g), mul(z, h0)))"]
    gates = [f"z = {r.activate(0, 'z')}", f"r = {r.activate(0, 'r')}"]
    if node.attr("linear_before_reset"):
        # The state's part of the last gate stays apart until the reset gate is known: in `extra`.
        start = "memset(extra + b * wide, 0, wide)"
        bias = start if node.operand(3) is None else "memcpy(extra + b * wide, bias + 3 * wide, wide)"
        step = f"for b in range(count):\n    {bias}\n" + _recur(0, 2).lstrip("\n") + _recur(2, 3, out="extra", pitch="wide", skip=2)
        body = [*_load("z", "r", "g"), *gates, "g = fma(r, ldv_T(extra + b * wide, j), g)", *last]
        return r.source(step + "EACH_ROW", body, apart=1)
    step = _recur(0, 2) + fill_in(_RESET, RESET=r.activate(0, "r")).lstrip("\n") + _recur(2, 3, vector="extra").lstrip("\n")
    body = ["z = ldv_T(row, j)", "g = ldv_T(row, 2 * padded + j)", gates[0], *last]
    return r.source(step + "EACH_ROW", body)


@serves("rnn")
def rnn(node: Node) -> KernelSource | Refusal:
    r = Recurrence(node, 1, 1, ("tanh",))
    refusal = r.refusal()
    if refusal:
        return refusal
    return r.source(_recur(0, 1) + "EACH_ROW", ["g = ldv_T(row, j)", f"stv_T(h, j, {r.activate(0, 'g')})"])
