"""Products of matrices of 8-bit integers, exact in i32, with the zero points taken off and the results requantized."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ...ir.core import Node
from ...ir.recording import greatest, least
from ...ir.types import I8, U8
from ..epilogue import Site
from ..operands import MAX_TILES, MOVED, MULTIPLIED, fill_in, first_int, first_result, slot_of, tiles_for
from ..products import Sizes
from ..quantized import Epilogue, check_sizes, constant_zeros, steps_of, take_apart, words_of
from ..spec import Call, KernelSource, Launch, Refusal
from .blocks import insert
from .gemm import ALONG_BATCH
from .quant_panels import pack_panels, pack_quads, panel_columns, panel_pitch, row_pitch, takes_quads, tile_rows
from .target import serves
from .tiling import tiling

# What becomes of a sum `acc`.
_REQUANTIZE = """
factor = XS * WS / YS
y = rint(to_f32(acc) * factor) + to_f32(YZ)
y = where(y >= f32(LOWEST), where(y > f32(HIGHEST), f32(HIGHEST), y), f32(LOWEST))
put_Y(c, TO, to_Y(y))
"""
# A row of `depth` bytes as the microkernel wants it (quant_panels.py): pairs (False), less the zero point; quads.
ROW = {
    False: """
zero = ZERO
total = i32(0)
for k in range(depth):
    v = sub(to_i16(get_A(source, k)), zero)
    total = sub(total, to_i32(v))
    put_i16(target, 2 + k, v)
if depth % 2 == 1:
    st_i16(target, 2 + depth, i16(0))
st_i32(target, 0, total)
""",
    True: """
zero = add(to_i32(ZERO), i32(SHIFT_A))
total = mul(zero, to_i32(depth))
for k in range(depth):
    v = xor_(get_u8(source, k), u8(SHIFT_A))
    total = sub(total, to_i32(v))
    put_u8(target, 8 + k, v)
for k in range(depth, 4 * steps):
    st_u8(target, 8 + k, u8(0))
st_i32(target, 0, neg(zero))
st_i32(target, 1, total)
""",
}
# How many pairs or quads a sum of `depth` has, the bytes of a row, and where panel INDEX of a packed w stands.
STEPS = {False: "steps = (depth + 1) // 2\npitch = 4 * steps + 4", True: "steps = (depth + 3) // 4\npitch = 4 * steps + 8"}
PANEL = {False: "panel = w + (INDEX) * WIDTH * (4 + 2 * steps)", True: "panel = w + ld_i64(w, INDEX)"}


@serves("matmul_integer", "qlinear_matmul", "conv_integer", "qlinear_conv")
def build(node: Node) -> KernelSource | Refusal:
    """Row-major operands of i8 and u8; zero points and scales one in all, or one a row of A, a column of B, an output channel. The
    node may be a fused one whose anchor is matmul_integer or conv_integer (see kernels/quantized.py)."""
    found = take_apart(node)
    if isinstance(found, Refusal):
        return found
    site, roles, then = found
    if "conv" in site.anchor.op.name:
        from .quant_conv import build_conv

        return build_conv(site, roles, then)
    return _matmul(site, roles, then)


# ---- what the texts of products and convolutions share ------------------------------------------------------------------


def finish(node: Node, words: dict[str, str], to: str) -> str:
    """The text that requantizes the sum `acc` and stores it as element `to` of `c`."""
    dtype = node.results[0].tensor.dtype
    if dtype.itemsize == 4:
        return f"put_i32(c, {to}, acc)"
    low, high = (-128, 127) if dtype is I8 else (0, 255)
    return fill_in(_REQUANTIZE, **words, TO=to, LOWEST=low, HIGHEST=high).replace("_Y(", f"_{dtype.name}(")


def params_text(node: Node, roles: dict[str, int], names: tuple[str, ...]) -> str:
    """Addresses by role, the integers `names`, and a step (0 or 1) for each parameter."""
    at, steps = first_int(node), [f"{role}_step" for role in roles if role not in ("x", "w", "bias")]
    lines = [f"{role} = param(p, {slot_of(node, i)})" for role, i in roles.items()]
    lines += [f"{name} = param(p, {at + i})" for i, name in enumerate((*names, *steps))]
    return "\n".join([*lines, f"result = param(p, {first_result(node)})", f"scratch = param(p, {first_result(node) + 1})"])


def leaves_text(node: Node, then: Epilogue | None) -> tuple[str, str]:
    """The lines that read the addresses of what an epilogue reads, and how they stand in a call of the microkernel."""
    if then is None:
        return "", ""
    lines = [f"leaf{k} = param(p, {slot_of(node, i)})" for k, (_, i) in enumerate(then.builder.leaves)]
    names = [f"leaf{k} - result" if kind == "full" else f"leaf{k}" for k, (kind, _) in enumerate(then.builder.leaves)]
    if then.bias is not None:
        lines.append(f"addend = param(p, {slot_of(node, then.bias)})")
        names.insert(0, "addend")
    return "\n".join(lines), ", ".join(names)


# ---- matrices -----------------------------------------------------------------------------------------------------------

_INTS = ("batches", "blocks", "groups", "rows", "block_rows", "rows_of_x", "columns", "panels_per", "depth", "w_row", "slice_bytes",
         "at_panel", "at_sums", "loops")  # fmt: skip
_KERNEL = """
multiply = int_panel(LANES_, QUADS, PROGRAM)


def kernel(p, tile, ntiles):
    PARAMS
    STEPS
    buffer = scratch + tile * slice_bytes
    for unit in range(batches * blocks * groups * tile // ntiles, batches * blocks * groups * (tile + 1) // ntiles):
        batch = unit // groups // blocks
        row = unit // groups % blocks * block_rows
        count = min(block_rows, rows - row)
        a = x
        b = w
        BATCH
        for i in range(count):
            r = (row + i) % rows_of_x
            source = a + (row + i) * depth
            target = buffer + i * pitch
            PACK_ROW
        first = unit % groups * panels_per
        for q in range(first, min(first + panels_per, (columns + WIDTH - 1) // WIDTH)):
            column = q * WIDTH
            width = min(WIDTH, columns - column)
            PANEL
            RESULT
"""
_PACK_PANEL = """
panel = buffer + at_panel
for j in range(width):
    st_i32(panel, j, to_i32(sub(WZ, i16(SHIFT))))
for pair in range(steps):
    upper = b + 2 * pair * w_row + column
    lower = upper + w_row
    data = panel + WIDTH * (4 + 2 * pair)
    if 2 * pair + 1 < depth and width == WIDTH:
        for j in range(0, WIDTH, LANES):
            together = add(to_u16(ldv_u8(upper, j)), mul(to_u16(ldv_u8(lower, j)), splat(u16(256))))
            stv_u16(data, j, xor_(together, splat(u16(FLIPS))))
    elif 2 * pair + 1 < depth:
        for j in range(width):
            put_i8(data, 2 * j, xor_(get_i8(upper, j), i8(FLIP)))
            put_i8(data, 2 * j + 1, xor_(get_i8(lower, j), i8(FLIP)))
    else:
        for j in range(width):
            put_i8(data, 2 * j, xor_(get_i8(upper, j), i8(FLIP)))
            put_i8(data, 2 * j + 1, i8(0))
"""
_DIRECT = """
c = result + (batch * rows + row) * columns * 4
multiply(count, steps, buffer, pitch, panel, c, columns * 4, column * 4, width, 0, LEAVES)
"""
_REQUANTIZED = """
sums = buffer + at_sums
multiply(count, steps, buffer, pitch, panel, sums, WIDTH * 4, 0, width, 0)
for i in range(count):
    r = (row + i) % rows_of_x
    c = result + ((batch * rows + row + i) * columns + column)
    for j in range(width):
        acc = get_i32(sums, i * WIDTH + j)
        FINISH
"""


def _matmul(site: Site, roles: dict[str, int], then: Epilogue | None) -> KernelSource:
    node = site.outer
    w = node.operands[roles["w"]]
    shape = w.tensor.shape
    zeros = constant_zeros(node, roles, 1 if len(shape) == 1 else shape[-1]) if w.is_const else None
    packed = zeros is not None and all(d == 1 for d in shape[:-2])
    quads = packed and takes_quads(_matrix(w.array))
    small = node.results[0].tensor.dtype.itemsize < 4

    def bind(call: Call) -> Launch:
        s = Sizes(call.operands[roles["x"]], call.operands[roles["w"]])
        check_sizes(site.anchor, roles, call, s.rows, s.columns)
        return _launch(s, packed, quads, small, [*steps_of(call, roles), *s.loops(1)])

    def pack(array: np.ndarray) -> np.ndarray:
        return (pack_quads if quads else pack_panels)(_matrix(array), zeros)

    variant = "matmul.i32" + (".quads" if quads else "" if packed else ".unpacked")
    return KernelSource(partial(_text, node, roles, then, packed, quads), bind, variant, {roles["w"]: pack} if packed else {})


def _matrix(w: np.ndarray) -> np.ndarray:
    return w.reshape(-1, 1) if w.ndim == 1 else w.reshape(w.shape[-2:])


def _text(node: Node, roles: dict[str, int], then: Epilogue | None, packed: bool, quads: bool) -> str:
    words, small = words_of(node, roles, "r", "column + j"), node.results[0].tensor.dtype.itemsize < 4
    types = {role: node.operands[roles[role]].tensor.dtype for role in ("x", "w")}
    result = insert(_REQUANTIZED, FINISH=finish(node, words, "j")) if small else _DIRECT
    leaf_lines, leaves = leaves_text(node, then)
    text = insert(_KERNEL, PARAMS=params_text(node, roles, _INTS) + "\n" + leaf_lines, STEPS=STEPS[quads], PACK_ROW=ROW[quads],
                  BATCH="" if packed else ALONG_BATCH, PANEL=PANEL[quads] if packed else _PACK_PANEL, RESULT=result)  # fmt: skip
    loops_at = first_int(node) + len(_INTS) + sum(role not in ("x", "w") for role in roles)
    shift = 128 if types["w"] is U8 else 0
    text = fill_in(text, ZERO=words["XZ"], INDEX="q", **words, LOOPS=loops_at, WIDTH=panel_columns(), LANES_=tiling(4).lanes,
                   QUADS=quads, PROGRAM=then and then.program("col"), LEAVES=leaves, SHIFT=shift, FLIP=-shift, FLIPS=257 * shift,
                   SHIFT_A=128 if types["x"] is I8 else 0)  # fmt: skip
    return text.lstrip("\n").replace("_A(", f"_{types['x'].name}(")


KEPT_BYTES = 1 << 17  # of rows of A, which then stay in the second-level cache while panel after panel goes by
FEWEST_PANELS = 6  # that a unit multiplies its rows with, which it has copied for that


def _launch(s: Sizes, packed: bool, quads: bool, requantized: bool, extra: list[int]) -> Launch:
    batches = 1 if packed else math.prod(s.batch)
    rows = s.rows * math.prod(s.batch) if packed else s.rows
    width, mr, pitch = panel_columns(), tile_rows(quads), row_pitch(s.depth, quads)
    panels = -(-s.columns // width)
    most = greatest(mr, least(192 if packed else 1024, KEPT_BYTES // pitch) // mr * mr)
    even = -(-rows // greatest(1, -(-rows // most)))
    block_rows = greatest(mr, -(-even // mr) * mr)
    blocks = -(-rows // block_rows)
    b_bytes = s.columns * s.depth
    wanted = greatest(tiles_for(MAX_TILES, batches * rows * b_bytes, 2 * MULTIPLIED), tiles_for(MAX_TILES, b_bytes, 4 * MOVED))
    groups = greatest(1, least(-(-wanted // greatest(1, batches * blocks)), panels // FEWEST_PANELS))
    panels_per = greatest(1, -(-panels // groups))
    groups = -(-panels // panels_per)
    at_panel = _align(block_rows * pitch)
    at_sums = at_panel + (0 if packed else _align(panel_pitch(s.depth)))
    slice_bytes = at_sums + (block_rows * width * 4 if requantized else 0)
    units = batches * blocks * groups
    tiles = greatest(1, least(units, MAX_TILES))
    ints = (batches, blocks, groups, rows, block_rows, greatest(1, s.rows), s.columns, panels_per, s.depth, s.b_row, slice_bytes,
            at_panel, at_sums, len(s.batch), *extra)  # fmt: skip
    return Launch(ints, tiles, slice_bytes * tiles)


def _align(n: int) -> int:
    return -(-n // 64) * 64
