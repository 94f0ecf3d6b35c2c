"""Convolutions as products of matrices, without columns in memory where the input lies channels-last.

By layout:
- rows: a row of the product is an output pixel, found through one address a tap (a row of zeros outside of the input), columns
  are output channels. Serves channels-last results, mixed layouts and transposed convolutions. Where numbers of a tap do not lie
  together, or are too few, or are halves, rows are first copied into a buffer.
- planes: a row is an output channel, columns are output pixels, whose windows are packed panel by panel. Serves row-major results.
- depthwise convolutions, those of few input channels with a channels-last result, and those of few output channels have kernels of
  their own (depthwise.py, direct.py, narrow.py).

A transposed convolution is cut into phases, one for each position of a result modulo the strides: within a phase every result
sees the same taps, so nothing is multiplied by zeros.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from ...ir.core import Node, Value
from ...ir.recording import greatest
from ..convolutions import GEOMETRY, Geometry, biased_sums, geometry, grouped_weight, refuse_conv
from ..epilogue import Builder, Site, epilogue_of, site_of
from ..operands import first_int, first_result, slot_of
from ..spec import Call, KernelSource, Launch, Refusal
from .blocks import RESULT_AT, Nest, Shape, launch, nest_text
from .conv_text import PLANES_BATCH, PLANES_FILL, PLANES_PACK, rows_fragments
from .gemm import computing, pack_panels
from .target import serves

FEW_CHANNELS = 8  # below, the numbers of a tap are too few for a loop of their own
MANY_CHANNELS = 64  # from here on, the taps of a line are no faster together than one by one


@serves("conv", "conv_transpose")
def build(node: Node) -> KernelSource | Refusal:
    """One to three spatial axes, floats, each of input and result row-major or channels-last, weights row-major."""
    site = site_of(node)
    if isinstance(site, Refusal):
        return site
    refusal = refuse_conv(site)
    if refusal:
        return refusal
    epilogue = epilogue_of(site, 1, partial(biased_sums, site))
    if isinstance(epilogue, Refusal):
        return epilogue
    last = [t.layout is not None for t in (site.operand(0).tensor, site.result)]
    full = any(kind == "full" for kind, _ in epilogue.leaves)
    from .narrow import build_narrow, is_narrow

    x, w = (site.operand(i) for i in (0, 1))
    if is_narrow(site.anchor, w) and (last[0] or x.tensor.shape[1] == 1) and (last[1] or site.result.shape[1] == 1):
        return build_narrow(site, epilogue)
    if last[1] and is_direct(site.anchor, w):
        from .direct import build_direct

        return build_direct(site, epilogue, spread=True)
    if site.anchor.op.name == "conv" and last[0] == last[1]:
        from .depthwise import build_depthwise, is_depthwise

        if is_depthwise(site):
            return build_depthwise(site, epilogue)
        if not last[1]:
            return _planes(site, epilogue)
        from .winograd import build_winograd, is_winograd

        if is_winograd(site):
            return replace(build_winograd(site, epilogue), strict=_rows(site, epilogue))
    if full and not last[1]:
        return Refusal("this row-major result takes no operand of its own shape", {"result": site.result})
    return _rows(site, epilogue)


def is_direct(node: Node, w: Value | None) -> bool:
    """Whether a node with this weight reads so few channels that its sums are done directly, where its result is channels-last."""
    from .narrow import is_narrow

    few = w is not None and w.is_const and 0 < w.array.shape[1] < FEW_CHANNELS
    return few and node.op.name == "conv" and node.attr("group") == 1 and not is_narrow(node, w)


def _geometry(site: Site, call: Call) -> Geometry:
    return geometry(site.anchor, call.operands[site.index[0]], call.operands[site.index[1]])


def _nest(site: Site, epilogue: Builder, columns: int | None, channels_on: str) -> Nest:
    slots = [slot_of(site.outer, i) for _, i in epilogue.leaves]
    return Nest(site.result.dtype, epilogue, slots, first_result(site.outer), columns, channels_on)


# ---- rows ---------------------------------------------------------------------------------------------------------------


def _rows(site: Site, epilogue: Builder) -> KernelSource:
    w, node = site.operand(1), site.outer
    transposed, group = site.anchor.op.name == "conv_transpose", site.anchor.attr("group")
    x_last, y_last = (t.layout is not None for t in (site.operand(0).tensor, site.result))
    shape = w.tensor.shape
    per_group = shape[0] if transposed and group == 1 else None if transposed else shape[1]
    few = isinstance(per_group, int) and per_group < FEW_CHANNELS and not transposed
    buffered = few or not x_last or site.result.dtype.itemsize == 2
    columns = (w.array.shape[1] if transposed else w.array.shape[0] // group) if w.is_const else None
    nest = _nest(site, epilogue, columns, "col")
    fragments = rows_fragments(transposed, buffered, y_last, w.is_const)
    text = partial(nest_text, nest, {"x": site.slot(0), "w": site.slot(1)}, [*GEOMETRY, *_STRIDES], first_int(node), **fragments)

    def bind(call: Call) -> Launch:
        g = _geometry(site, call)
        if x_last and y_last and not transposed:
            g = g.flat(with_batch=True)
        return _launch_rows(nest, g, transposed, buffered, x_last, y_last, w.is_const)

    pack = (
        {site.index[1]: lambda a: pack_panels(grouped_weight(a.astype(computing(a.dtype)), group, transposed), nest.tiling)}
        if w.is_const
        else {}
    )
    return KernelSource(text, bind, "conv.rows", pack)


# Byte strides of the input; of a weight that the kernel packs (output, input channel); of a group's weights; phases; the block of
# results; taps of a segment, and how many numbers the copied end of a line may have.
_STRIDES = ("x_n", "x_d", "x_h", "x_w", "x_c", "w_out", "w_in", "w_group", "phases", "at_result", "taps", "border")


def _launch_rows(nest: Nest, g: Geometry, transposed: bool, buffered: bool, x_last: bool, y_last: bool, packed: bool) -> Launch:
    item = nest.dtype.itemsize
    step = item * (g.channels if x_last else 1)
    x_w, x_h, x_d = step, step * g.inputs[2], step * g.inputs[2] * g.inputs[1]
    x_n = math.prod(g.inputs) * g.channels * item
    x_c = item if x_last else math.prod(g.inputs) * item
    columns, phases = g.out_channels // g.group, math.prod(g.strides) if transposed else 1
    w_out, w_in = (g.taps, columns * g.taps) if transposed else (g.per_group * g.taps, g.taps)
    if packed:
        w_group = g.taps * g.per_group * nest.tiling.padded(columns) * nest.item
    else:
        w_group = item * (g.per_group * w_in if transposed else columns * w_out)
    per_phase = [-(-o // s) for o, s in zip(g.outputs, g.strides, strict=True)] if transposed else g.outputs
    rows = g.n * math.prod(per_phase)
    whole = buffered and not transposed  # one segment
    taps, border = (1, 0) if buffered or transposed else _together(g)
    depth, segments = (g.taps * g.per_group, 1) if whole else (taps * g.per_group, g.taps // taps)
    shape = Shape(rows, columns, depth, segments, g.group * phases, not packed, g.taps * g.per_group if buffered else 0,
                  0 if buffered else depth, 0 if y_last else g.out_channels, 2 * border * segments, g.outputs[2])  # fmt: skip
    extra = [*g.ints(), x_n, x_d, x_h, x_w, x_c, w_out * item, w_in * item, w_group, phases, RESULT_AT, taps, border]
    return launch(nest, shape, extra)


def _together(g: Geometry) -> tuple[int, int]:
    """How many taps a segment has, of channels-last inputs, and how many numbers of a line of the input its border takes. Where
    a tap has many numbers, nothing is gained by taking several."""
    width, channels = g.kernel[2], g.per_group
    if width == 1 or g.group > 1 or g.dilations[2] > 1 or channels >= MANY_CHANNELS:
        return 1, 0
    behind = (g.outputs[2] - 1) * g.strides[2] - g.begin[2] + width - g.inputs[2]
    return width, (greatest(g.begin[2], behind) + width) * channels


# ---- planes -------------------------------------------------------------------------------------------------------------


def _planes(site: Site, epilogue: Builder) -> KernelSource:
    w, node = site.operand(1), site.outer
    nest = _nest(site, epilogue, None, "row")
    halves = site.result.dtype.itemsize == 2
    copied = halves and not w.is_const
    text = partial(nest_text, nest, {"x": site.slot(0), "w": site.slot(1)}, [*GEOMETRY, "group"], first_int(node),
                     setup="st_i64(table_b, 0, 0)",
                     base="scratch + at_panel + (column - first_column) * total * CI", batch=PLANES_BATCH, pack_panel=PLANES_PACK,
                     fill=PLANES_FILL[copied])  # fmt: skip

    def bind(call: Call) -> Launch:
        g = _geometry(site, call).flat(with_batch=False)
        depth = g.taps * g.per_group
        shape = Shape(g.out_channels // g.group, math.prod(g.outputs), depth, 1, g.n * g.group, True, depth if copied else 0)
        return launch(nest, shape, [*g.ints(), g.group])

    pack = {site.index[1]: lambda a: a.astype(computing(a.dtype))} if w.is_const and halves else {}
    return KernelSource(text, bind, "conv.planes", pack)
