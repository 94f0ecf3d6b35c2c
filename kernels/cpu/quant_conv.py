"""Convolutions of 8-bit integers, exact in i32: a row of the product is an output channel, a column an output pixel.

A block of pixels is packed at a time: first as planes, a row of bytes for each input channel and tap (the zero point where the
window reaches past the input), then as the panels that the microkernel reads (quant_panels.py), which all output channels are
multiplied with.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ...ir.core import Node
from ...ir.recording import greatest, least
from ...ir.types import U8
from ..convolutions import GEOMETRY, Geometry, geometry
from ..epilogue import Site
from ..operands import MULTIPLIED, fill_in, tiles_for
from ..quantized import Epilogue, check_sizes, constant_zeros, steps_of, words_of
from ..spec import Call, KernelSource, Launch, Refusal
from .blocks import insert
from .conv_text import PLANES_PACK
from .quant import ROW, finish, leaves_text, params_text
from .quant_panels import pack_rows, panel_columns, panel_pitch, row_pitch, tile_rows
from .tiling import tiling

_INTS = (*GEOMETRY, "group", "block", "slice_bytes", "at_panels", "at_rows", "at_sums", "at_table")
_KERNEL = """
multiply = int_panel(LANES_, False, PROGRAM, BIASED)


def kernel(p, tile, ntiles):
    PARAMS
    planes = scratch + tile * slice_bytes
    panels = planes + at_panels
    sums = planes + at_sums
    table_r = planes + at_table
    columns = OD * OH * OW
    depth = per_group * KD * KH * KW
    pairs = (depth + 1) // 2
    pitch = 4 * pairs + 4
    blocks = (columns + block - 1) // block
    per_out = out_channels // group
    r = 0
    empty = to_i8(XZ)
    for unit in range(images * group * blocks * tile // ntiles, images * group * blocks * (tile + 1) // ntiles):
        column = unit % blocks * block
        batch = unit // blocks
        group_index = batch % group
        width = min(block, columns - column)
        source_all = x + batch * per_group * D * H * W
        PLANES
        PANELS
        WEIGHTS
        for i in range(per_out + PAD):
            st_i64(table_r, i, (group_index * per_out + min(i, per_out - 1)) * 4)
        for q in range((width + WIDTH - 1) // WIDTH):
            panel = panels + q * WIDTH * (4 + 2 * pairs)
            first = column + q * WIDTH
            RESULT
"""
_PANELS = """
for q in range((width + WIDTH - 1) // WIDTH):
    panel = panels + q * WIDTH * (4 + 2 * pairs)
    for j in range(WIDTH):
        st_i32(panel, j, to_i32(sub(XZ, i16(SHIFT))))
    for pair in range(pairs):
        upper = planes + 2 * pair * block + q * WIDTH
        data = panel + WIDTH * (4 + 2 * pair)
        for j in range(0, WIDTH, LANES):
            low = to_u16(ldv_u8(upper, j))
            high = to_u16(ldv_u8(upper + block, j))
            stv_u16(data, j, xor_(add(low, mul(high, splat(u16(256)))), splat(u16(FLIP))))
"""
_PACKED_WEIGHTS = "rows = w + group_index * per_out * pitch"
_PACK_WEIGHTS = """
rows = planes + at_rows
for i in range(per_out):
    channel = group_index * per_out + i
    source = w + channel * depth
    target = rows + i * pitch
    PACK_ROW
"""
_DIRECT = """
c = result + batch * per_out * columns * 4
multiply(per_out, pairs, rows, pitch, panel, c, columns * 4, first * 4, columns - first, table_r, LEAVES)
"""
_REQUANTIZED = """
multiply(per_out, pairs, rows, pitch, panel, sums, WIDTH * 4, 0, WIDTH, 0)
for i in range(per_out):
    channel = group_index * per_out + i
    c = result + (batch * per_out + i) * columns + first
    for j in range(min(WIDTH, columns - first)):
        acc = get_i32(sums, i * WIDTH + j)
        BIAS
        FINISH
"""


def build_conv(site: Site, roles: dict[str, int], then: Epilogue | None) -> KernelSource | Refusal:
    """conv_integer and qlinear_conv on row-major operands; `roles` says where they are (quant.py), `then` what follows."""
    node = site.outer
    rank = node.operands[roles["x"]].tensor.rank
    if rank not in (3, 4, 5):
        return Refusal("one to three spatial axes are served", {"rank": rank})
    w, small = node.operands[roles["w"]], node.results[0].tensor.dtype.itemsize < 4
    zeros = constant_zeros(node, roles, w.array.shape[0]) if w.is_const else None

    def bind(call: Call) -> Launch:
        g = geometry(site.anchor, call.operands[roles["x"]], call.operands[roles["w"]]).flat(with_batch=False)
        check_sizes(site.anchor, roles, call, 1, g.out_channels)
        return _launch(g, zeros is None, small, steps_of(call, roles))

    def pack(weights: np.ndarray) -> np.ndarray:
        return pack_rows(weights.reshape(len(weights), -1), np.broadcast_to(zeros, len(weights)))

    text = partial(_text, node, roles, then, zeros is not None)
    return KernelSource(text, bind, "conv.i32", {} if zeros is None else {roles["w"]: pack})


def _text(node: Node, roles: dict[str, int], then: Epilogue | None, packed: bool) -> str:
    words, unsigned = words_of(node, roles, "r", "channel"), node.operands[roles["x"]].tensor.dtype is U8
    planes = PLANES_PACK.replace("CT(0)", "empty").replace("_CT(", "_i8(").replace("_T(", "_i8(").replace("panel", "planes")
    planes = fill_in(planes.replace("total", "depth").replace("padded", "block"), CI=1, MI=1)
    bias = "acc = add(acc, get_i32(bias, channel))" if "bias" in roles else ""
    small = node.results[0].tensor.dtype.itemsize < 4
    leaf_lines, leaves = leaves_text(node, then)
    text = insert(_KERNEL, PARAMS=params_text(node, roles, _INTS) + "\n" + leaf_lines, PLANES=planes, PANELS=_PANELS,
                  WEIGHTS=_PACKED_WEIGHTS if packed else insert(_PACK_WEIGHTS, PACK_ROW=ROW[False]),
                  RESULT=insert(_REQUANTIZED, FINISH=finish(node, words, "j"), BIAS=bias) if small else _DIRECT)  # fmt: skip
    text = fill_in(text, ZERO=words["WZ"], **words, WIDTH=panel_columns(), LANES_=tiling(4).lanes, PAD=tile_rows(),
                   BIASED=then is not None and then.bias is not None, PROGRAM=then and then.program("row"), LEAVES=leaves,
                   SHIFT=128 if unsigned else 0, FLIP=0x8080 if unsigned else 0)  # fmt: skip
    return text.lstrip("\n").replace("_A(", f"_{node.operands[roles['w']].tensor.dtype.name}(")


BLOCK_BYTES = 1 << 17  # of the planes of a block of pixels, which the second-level cache holds with its panels
MOST_PIXELS = 256


def _launch(g: Geometry, packs: bool, requantized: bool, steps: list[int]) -> Launch:
    width, depth, columns, per_out = panel_columns(), g.taps * g.per_group, math.prod(g.outputs), g.out_channels // g.group
    block = least(BLOCK_BYTES // greatest(1, depth), least(MOST_PIXELS, columns + width - 1)) // width * width
    block = greatest(width, block)
    work = g.n * columns * g.out_channels * depth
    sizes = [(depth + 2) * block, block // width * panel_pitch(depth), per_out * row_pitch(depth) if packs else 0,
             per_out * width * 4 if requantized else 0, 8 * (per_out + tile_rows())]  # fmt: skip
    at = [0]
    for size in sizes:
        at.append(at[-1] + -(-size // 64) * 64)
    units = g.n * g.group * -(-columns // block)
    tiles = tiles_for(units, work, MULTIPLIED)
    return Launch((*g.ints(), g.group, block, at[-1], *at[1:5], *steps), tiles, at[-1] * tiles)
