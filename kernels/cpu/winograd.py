"""3x3 convolutions by Winograd's F(4x4, 3x3): a quarter of the multiplications.

A patch of 4x4 results of a channel is A' [(G w G') * (B' d B)] A, where d are the 6x6 inputs that it sees, w is the filter and *
multiplies number by number (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015; Toom and Cook's
multiplication of polynomials). Over channels and many patches the 36 products are matrix products, [patches, channels] by
[channels, results], one for each *frequency*. G w G' is computed when the model is loaded and takes 4 times the memory of w.

With a dilation d a patch holds every d-th result, so that its inputs are every d-th too: d * d grids of patches lie in each other.

Blocks of patches are transformed, multiplied and transformed back while they are in cache; the epilogue is part of the way back.
All sizes are parameters, but for the numbers of channels, which the weight knows.

What differs from a direct convolution: errors are about 1e-5 where results are of order 1, ten times as large; an infinity or NaN
among the 6x6 inputs of a patch makes all its results NaN (or infinite), also those whose window it is not in; and so does what
overflows on the way. accuracy="strict" turns this off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import accumulate

import numpy as np

from ...ir.layout import channels_last
from ...ir.recording import greatest, least
from ...ir.symbols import DimLike
from ...ir.types import F32
from ..convolutions import Geometry, geometry
from ..epilogue import Builder, Site
from ..operands import MAX_TILES, fill_in, first_int, first_result, slot_of
from ..spec import Call, KernelSource, Launch
from .blocks import PAD, Nest, column_lines, column_of, insert, panel_calls, panels_text
from .combine import Stage
from .gemm import pack_panels
from .tiling import tiling

PATCH, SEEN = 4, 6  # results of a patch and inputs that they see, along an axis
FREQUENCIES = SEEN * SEEN
CHANNELS = 16  # the fewest channels that pay for transforms
CHUNK = 64  # channels that are transformed at a time: 36 times as many numbers stay in the first-level cache
BLOCK = 24  # patches of a block: fewer read the weights too often, more do not stay in the second-level cache
FEW_RESULTS, LARGE = 48, 160  # a layer of fewer pixels is left to the direct kernel; what a symbolic size is taken for
WANTED_UNITS = 4  # where there are fewer blocks the columns are cut: each unit then transforms its patches anew
UNIT = 1 << 20  # multiplications that a unit of work should have at least
SCRATCH_BYTES = 1 << 22  # that all tiles may take, unless they are few: one thread alone goes through all of it

# ---- the transforms -----------------------------------------------------------------------------------------------------

_P, _Q = math.sqrt(0.5), math.sqrt(2.0)
"""The polynomials are evaluated at 0, ±_P, ±_Q and infinity. With the usual ±1, ±2 errors are four times as large: these points are
as far from 1 on both sides, and their powers stay small."""


_SUMS_AND_DIFFERENCES: Stage = (
    (1, 0, 0, 0, 0, 0),
    (0, 1, 1, 0, 0, 0),
    (0, 1, -1, 0, 0, 0),
    (0, 0, 0, 1, 1, 0),
    (0, 0, 0, 1, -1, 0),
    (0, 0, 0, 0, 0, 1),
)


def _input_stages(p: float, q: float) -> tuple[Stage, Stage]:
    """B' as two stages: even and odd parts at each pair of points, then their sums and differences."""
    pp, qq = p * p, q * q
    return (
        (
            (pp * qq, 0, -(pp + qq), 0, 1, 0),
            (0, 0, -qq, 0, 1, 0),
            (0, -p * qq, 0, p, 0, 0),
            (0, 0, -pp, 0, 1, 0),
            (0, -q * pp, 0, q, 0, 0),
            (0, pp * qq, 0, -(pp + qq), 0, 1),
        ),
        _SUMS_AND_DIFFERENCES,
    )


def _output_stages(p: float, q: float) -> tuple[Stage, Stage]:
    """A' as two stages: sums and differences of each pair of points, then their powers."""
    return (
        _SUMS_AND_DIFFERENCES,
        (
            (1, 1, 0, 1, 0, 0),
            (0, 0, p, 0, q, 0),
            (0, p**2, 0, q**2, 0, 0),
            (0, 0, p**3, 0, q**3, 1),
        ),
    )


def _filter_matrix(p: float, q: float) -> np.ndarray:
    """G: the filter's polynomial at the points, divided by what Lagrange's interpolation divides by."""
    rows = [[1 / (p * q) ** 2, 0, 0]]
    for x, y in ((p, q), (q, p)):
        scale = 1 / (2 * x * x * (x * x - y * y))
        rows += [[scale, scale * x, scale * x * x], [scale, -scale * x, scale * x * x]]
    return np.array([*rows, [0, 0, 1]])


def _exact(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """With weights that are whole in exact arithmetic (p * q = 1 here) made so."""
    return tuple(tuple(tuple(float(round(w)) if abs(w - round(w)) < 1e-12 else w for w in row) for row in s) for s in stages)


TO_FREQUENCIES = _exact(_input_stages(_P, _Q))
FROM_FREQUENCIES = _exact(_output_stages(_P, _Q))


def transformed_weight(w: np.ndarray) -> np.ndarray:
    """G w G' as [frequency, input channel, output channel] of w[output, input, 3, 3]; j * 6 + i is the frequency i of rows and j of
    columns."""
    g = _filter_matrix(_P, _Q)
    out = np.einsum("ia,ocab,jb->jico", g, w.astype(np.float64), g, optimize=True)
    return out.reshape(FREQUENCIES, w.shape[1], w.shape[0]).astype(np.float32)


# ---- the choice ---------------------------------------------------------------------------------------------------------


def is_winograd(site: Site) -> bool:
    """Whether a convolution is one that this serves, and faster than the direct kernel as far as its types tell."""
    x, w, anchor = site.operand(0).tensor, site.operand(1), site.anchor
    if x.dtype is not F32 or x.rank != 4 or not w.is_const or w.array.shape[2:] != (3, 3) or anchor.attr("group") != 1:
        return False
    if x.layout != channels_last(4) or site.result.layout != channels_last(4):
        return False
    if set(anchor.attr("strides") or {1}) != {1}:
        return False
    outputs, inputs = w.array.shape[:2]
    lanes = tiling(4).lanes
    if min(outputs, inputs) < CHANNELS or outputs % lanes or inputs % lanes:
        return False
    return _pays(site.result.shape[0], site.result.shape[2:], anchor.attr("dilations") or (1, 1))


def _pays(images: DimLike, spatial: Sequence[DimLike], dilations: Sequence[int]) -> bool:
    """Whether there are results enough to read 4 times the weights for, and most results of the patches are wanted. Where sizes are
    symbolic, one large image is assumed: the choice is made once, for all of them."""
    sizes = [d if isinstance(d, int) else LARGE for d in (images if isinstance(images, int) else 1, *spatial)]
    patches = [_patches(n, d) for n, d in zip(sizes[1:], dilations, strict=True)]
    results, computed = math.prod(sizes), sizes[0] * math.prod(patches) * PATCH**2
    return results >= FEW_RESULTS and 2 * results > computed


def _patches(size: int, dilation: int) -> int:
    """How many patches cover an axis: as many for each residue modulo the dilation."""
    return dilation * -(-size // (PATCH * dilation))


# ---- the text -----------------------------------------------------------------------------------------------------------

_TEXT = """
to_frequencies = combine(LANES_, TO_STAGES)
to_rows = combine(LANES_, FROM_STAGES)
to_results = combine(LANES_, FROM_STAGES, PROGRAM)
def kernel(p, tile, ntiles):
    PARAMS
    scratch = param(p, SCRATCH) + tile * slice_bytes
    TABLES
    pitch = (per_block + PAD) * 8
    temporary = scratch + at_temporary
    st_i64(table_b, 0, 0)
    for i in range(6):
        for j in range(6):
            f = j * 6 + i
            st_i64(by_row, i * 6 + j, temporary + (i * 6 + j) * CHUNK * 4)
            st_i64(by_column, f, temporary + (i * 6 + j) * CHUNK * 4)
            if i < 4:
                st_i64(by_result, j * 4 + i, temporary + (i * 6 + j) * CHUNK * 4)
            st_i64(at_frequency, f, scratch + at_v + f * v_pitch)
            st_i64(at_product, f, scratch + at_m + f * m_pitch)
            for t in range(per_block + PAD):
                row = min(t, per_block - 1)
                st_i64(table_all + f * pitch, t, scratch + at_v + f * v_pitch + row * depth * 4)
                st_i64(table_all + (36 + f) * pitch, t, scratch + at_m + f * m_pitch + row * m_row)
    zeros = scratch + at_zeros
    memset(zeros, 0, depth * 4)
    segments = 1
    known = i64(-1)
    for unit in range(blocks * groups * tile // ntiles, blocks * groups * (tile + 1) // ntiles):
        share = unit % groups
        block = unit // groups
        start = block * per_block
        count = min(per_block, patches - start)
        first = share * panels_per
        last = min(first + panels_per, panels)
        first_column = COLUMN_OF_FIRST
        width = (min(COLUMN_OF_LAST, columns) - first_column) * 4
        if block != known:
            known = block
            for t in range(count):
                PLACE
                for i in range(6):
                    y = top - pad_h + i * dh
                    for j in range(6):
                        z = left - pad_w + j * dw
                        inside = y >= 0 and y < H and z >= 0 and z < W
                        st_i64(pixels, i * 6 + j, x + ((n * H + y) * W + z) * depth * 4 if inside else zeros)
                for c in range(0, depth * 4, CHUNK * 4):
                    size = min(CHUNK * 4, depth * 4 - c)
                    for i in range(6):
                        to_frequencies(size, pixels + i * 48, c, by_row + i * 48, 0, 0)
                    for j in range(6):
                        to_frequencies(size, by_column + j * 48, 0, at_frequency + j * 48, t * depth * 4 + c, 0)
        for f in range(36):
            table_a = table_all + f * pitch
            table_c = table_all + (36 + f) * pitch
            at_weight = w + f * depth * padded_columns * 4
            for q in range(first, last):
                COLUMN
                PANEL
        for t in range(count):
            PLACE
            across_left = (OW - left + dw - 1) // dw
            high = min((OH - top + dh - 1) // dh, 4) if across_left > 0 else 0
            for i in range(high):
                for j in range(4):
                    z = left + min(j, across_left - 1) * dw
                    st_i64(targets, i * 4 + j, result + ((n * OH + top + i * dh) * OW + z) * columns * 4 + first_column * 4)
            for c in range(0, width, CHUNK * 4):
                size = min(CHUNK * 4, width - c)
                for j in range(6):
                    to_rows(size, at_product + j * 48, t * m_row + c, by_result + j * 32, 0, 0)
                for i in range(high):
                    to_results(size, by_row + i * 48, 0, targets + i * 32, c, first_column * 4 + cLEAVES)
"""
# Tables of addresses and their entries. Inputs of a patch, by row; its results, by row; where a row of its temporary numbers
# lies, where a column does, and where a column does of which only the upper rows are results; the transformed patches and the
# products of each frequency; the microkernel's first row of a panel; its rows of patches and of products, for each frequency.
_TABLES = {"pixels": SEEN * SEEN, "targets": PATCH * PATCH, "by_row": SEEN * SEEN, "by_column": SEEN * SEEN,
           "by_result": PATCH * SEEN, "at_frequency": FREQUENCIES, "at_product": FREQUENCIES, "table_b": 1,
           "table_all": 0}  # fmt: skip


def _table_lines() -> str:
    entries = accumulate(_TABLES.values(), initial=0)
    return "\n".join([f"{name} = scratch + {8 * at}" for name, at in zip(_TABLES, entries)] + ["table_r = table_b"])


_PLACE = """
px = (start + t) % across
py = (start + t) // across % down
n = (start + t) // across // down
top = py // dh * dh * 4 + py % dh
left = px // dw * dw * 4 + px % dw
"""
_NAMES = ("H", "W", "OH", "OW", "pad_h", "pad_w", "dh", "dw", "across", "down", "patches", "per_block", "blocks", "groups",
          "panels_per", "wide", "mid", "panels", "depth", "columns", "padded_columns", "v_pitch", "m_pitch", "m_row", "slice_bytes",
          "at_temporary", "at_zeros", "at_v", "at_m")  # fmt: skip


def build_winograd(site: Site, epilogue: Builder) -> KernelSource:
    """The kernel of a convolution for which `is_winograd` holds."""
    identity = Builder()
    identity.add("acc")
    nest = Nest(F32, identity, [], first_result(site.outer), site.operand(1).array.shape[0], "col")

    def bind(call: Call) -> Launch:
        return _launch(nest, geometry(site.anchor, call.operands[site.index[0]], call.operands[site.index[1]]))

    pack = {site.index[1]: lambda w: pack_panels(transformed_weight(w), nest.tiling)}
    return KernelSource(partial(_text, site, epilogue, nest), bind, "conv.winograd", pack)


def _text(site: Site, epilogue: Builder, nest: Nest) -> str:
    at, node = first_int(site.outer), site.outer
    names = {"x": site.slot(0), "w": site.slot(1), "result": first_result(node)}
    names |= {f"leaf{k}": slot_of(node, i) for k, (_, i) in enumerate(epilogue.leaves)}
    names |= {name: at + i for i, name in enumerate(_NAMES)}
    params = "\n".join(f"{name} = param(p, {slot})" for name, slot in names.items())
    leaves = "".join(f", leaf{k} - result" if kind == "full" else f", leaf{k}" for k, (kind, _) in enumerate(epilogue.leaves))
    program = tuple(("col", *s[1:]) if s[0] == "channel" else s for s in epilogue.program)
    call = panel_calls(nest, "at_weight + column * depth * 4", "column - first_column")
    text = insert(_TEXT, PARAMS=params, TABLES=_table_lines(), PLACE=_PLACE, COLUMN=column_lines(nest), PANEL=call)
    text = text.replace("COLUMN_OF_FIRST", column_of(nest, "first")).replace("COLUMN_OF_LAST", column_of(nest, "last"))
    text = text.replace("cLEAVES", f"c{leaves}")
    words = {"CHUNK": CHUNK, "PAD": PAD, "MI": 4, "LANES_": nest.tiling.lanes, "SCRATCH": first_result(node) + 1,
             "TO_STAGES": repr(TO_FREQUENCIES), "FROM_STAGES": repr(FROM_FREQUENCIES), "PROGRAM": repr(program)}  # fmt: skip
    return panels_text(nest) + fill_in(text, **words)


# ---- binding ------------------------------------------------------------------------------------------------------------


def _launch(nest: Nest, g: Geometry) -> Launch:
    (_, height, width), (_, out_height, out_width), (_, pad_h, pad_w) = g.inputs, g.outputs, g.begin
    (_, dh, dw) = g.dilations
    down, across = _patches(out_height, dh), _patches(out_width, dw)
    patches, depth, columns, lanes = g.n * down * across, g.channels, g.out_channels, nest.tiling.lanes
    wide, mid, narrow = nest.tiling.widths(columns)
    panels = wide + mid + narrow
    per_block = _evenly(patches, BLOCK)
    blocks = -(-patches // per_block)
    work = FREQUENCIES * patches * depth * columns
    shares = greatest(1, least(WANTED_UNITS, work // UNIT) // greatest(1, blocks))
    panels_per = _evenly(panels, -(-panels // shares))
    groups = -(-panels // panels_per)
    m_row = least(panels_per * 3 * lanes, nest.tiling.padded(columns)) * 4
    v_pitch, m_pitch = per_block * depth * 4, per_block * m_row
    tables = 8 * (sum(_TABLES.values()) + 2 * FREQUENCIES * (per_block + PAD))
    sizes = (tables, FREQUENCIES * CHUNK * 4, depth * 4, FREQUENCIES * v_pitch, FREQUENCIES * m_pitch)
    _, at_temporary, at_zeros, at_v, at_m, slice_bytes = accumulate((-(-size // 64) * 64 for size in sizes), initial=0)
    tiles = greatest(1, least(blocks * groups, MAX_TILES, greatest(WANTED_UNITS, SCRATCH_BYTES // slice_bytes)))
    ints = (height, width, out_height, out_width, pad_h, pad_w, dh, dw, across, down, patches, per_block, blocks, groups,
            panels_per, wide, mid, panels, depth, columns, nest.tiling.padded(columns), v_pitch, m_pitch, m_row, slice_bytes,
            at_temporary, at_zeros, at_v, at_m)  # fmt: skip
    return Launch(ints, tiles, slice_bytes * tiles)


def _evenly(n: int, most: int) -> int:
    """How many of n a part has at most, if there are as few parts as parts of `most` would be, all about equally large."""
    parts = greatest(1, -(-n // most))
    return greatest(1, -(-n // parts))
