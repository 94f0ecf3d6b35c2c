"""Convolutions and transposed convolutions as products in tiles (tile.cuh, windows.cuh), without columns in memory.

A row of the product is an output pixel, a column an output channel. Threads read and write along what lies side by side: the
channels of channels-last tensors, the pixels of row-major ones. Constant weights are packed as matrices [group][tap, input
channel][output channel], of which neighbouring threads read neighbours. Depthwise convolutions have a kernel of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from ...ir.core import Node
from ...ir.types import F64
from ..convolutions import Geometry, biased_sums, geometry, grouped_weight, refuse_conv
from ..epilogue import Site, epilogue_of, site_of
from ..operands import first_int, first_result
from ..spec import Call, KernelSource, Launch, Refusal
from .cut import FEW_ROWS, Cut, Tile
from .gemm import SMALL, TALL, floats
from .source import fast_div
from .target import serves
from .text import checked_size
from .tiles import TENSOR, Product, Work, pack_direct, padded, piece, tensor_tiles

# A thread holds the places of its 8 rows beside its sums: wider tiles would leave one block a multiprocessor.
TILES = (TALL, SMALL)
MOST_SIZE = 1 << 28  # of a spatial axis
MOST_STRIDES = 48  # of a transposed convolution, all axes together: each phase has its words among the parameters


@serves("conv", "conv_transpose")
def build(node: Node, precision: str = "fp32", cut: Cut | None = None) -> KernelSource | Refusal:
    """One to three spatial axes, floats, each of input and result row-major or channels-last, weights row-major. With precision
    "tf32" f32 is multiplied with 10 bits of mantissa, but for depthwise ones. `cut` asks the tensor cores for a tile and splits."""
    site = site_of(node)
    if isinstance(site, Refusal):
        return site
    refusal = refuse_conv(site)
    if refusal:
        return refusal
    if site.anchor.op.name == "conv_transpose" and sum(site.anchor.attr("strides")) > MOST_STRIDES:
        return Refusal("the strides make more phases than a kernel has words for", {"strides": list(site.anchor.attr("strides"))})
    found = epilogue_of(site, 1, partial(biased_sums, site))
    if isinstance(found, Refusal):
        return found
    from .depthwise import build_depthwise, is_depthwise

    if is_depthwise(site):
        return build_depthwise(site, found) if cut is None else Refusal("depthwise convolutions have no tiles")
    return Conv(floats(site, found, "f64" if site.result.dtype is F64 else "f32", precision, cut)).tiled()


# ---- axes and phases ----------------------------------------------------------------------------------------------------


def axis_words(g: Geometry, a: int, transposed: bool) -> list[int]:
    """The words of axis a for `axis_of` (windows.cuh): those of the axis, then of its phases."""
    size, out, kernel, s, d, begin = (v[a] for v in (g.inputs, g.outputs, g.kernel, g.strides, g.dilations, g.begin))
    if size >= MOST_SIZE:
        raise ValueError(f"a spatial axis of {size}; CUDA kernels take less than {MOST_SIZE}")
    if not transposed:
        return [size, kernel, 1, 1, s, d, kernel, out, fast_div(kernel), fast_div(out), -begin, 0]
    common = math.gcd(s, d)
    words = [size, kernel, s // common, s, 1, -(d // common)]
    for f in range(s):
        first = next((k for k in range(s // common) if (f + begin - k * d) % s == 0), kernel)
        count, places = max(0, -(-(kernel - first) // (s // common))), max(0, -(-(out - f) // s))
        words += [count, places, fast_div(count), fast_div(places), (f + begin - first * d) // s, first]
    return words


def phase_counts(site: Site, axes: int) -> list[int]:
    """How many phases each axis has."""
    strides = tuple(site.anchor.attr("strides")) or (1,) * axes
    return list(strides) if site.anchor.op.name == "conv_transpose" else [1] * axes


def axes_text(counts: list[int], at: int) -> list[str]:
    """Statements that make `axes` of `phase`; the words of the axes begin at `at`."""
    lines, makers = ([] if math.prod(counts) == 1 else ["u32 q = phase;"]), []
    for a in reversed(range(len(counts))):
        here = at + sum(6 + 6 * n for n in counts[:a])
        if counts[a] == 1:
            makers.insert(0, f"axis_of(p, {here}, 0)")
        else:
            lines += [f"const u32 phase_{a} = q % {counts[a]};", f"q /= {counts[a]};"]
            makers.insert(0, f"axis_of(p, {here}, phase_{a})")
    return [*lines, f"const Axis axes[{len(counts)}] = {{{', '.join(makers)}}};"]


def input_steps(g: Geometry, last: bool, axes: int) -> list[int]:
    """Steps of an image, of a channel and of each axis."""
    pixel = g.channels if last else 1
    steps = [math.prod(g.inputs[a + 1 :]) * pixel for a in range(3 - axes, 3)]
    return [math.prod(g.inputs) * g.channels, 1 if last else math.prod(g.inputs), *steps]


# ---- the product --------------------------------------------------------------------------------------------------------


class Conv:
    """A convolution in tiles: entry `batch` of the product is a group, of a transposed one a group and a phase."""

    def __init__(self, work: Work):
        self.work, self.site, site = work, work.site, work.site
        self.transposed, self.group = site.anchor.op.name == "conv_transpose", site.anchor.attr("group")
        self.x_last, self.y_last = (t.layout is not None for t in (site.outer.operands[work.x].tensor, site.result))
        self.axes = site.result.rank - 2
        self.packed = site.outer.operands[work.w].is_const
        self.counts = phase_counts(site, self.axes)
        self.tiles = self._tiles()
        self.direct = self.tiles[0].direct
        self.product = self._product()

    def tiled(self) -> KernelSource | Refusal:
        """The kernel, unless the cut that is asked for is none for this convolution."""
        cut = self.work.cut
        if cut is not None and (not self.work.tensor or cut.tile == FEW_ROWS or (self.direct and not self._can_be_direct())):
            return Refusal("the tile does not serve this convolution", {"tile": cut.tile})
        return self.source()

    def source(self) -> KernelSource:
        pack = {self.work.w: self._pack} if self.packed else {}
        return KernelSource(self.product.text, self.bind, self.work.variant, pack)

    def _pack(self, w: np.ndarray) -> np.ndarray:
        if self.work.raw is not None:
            return self.work.raw.pack(w)
        matrices = grouped_weight(w, self.group, self.transposed)
        return pack_direct(matrices) if self.direct else np.ascontiguousarray(matrices)

    def bind(self, call: Call) -> Launch:
        for shape in (*call.operands, *call.results):
            checked_size(math.prod(shape or ()))
        g = geometry(self.site.anchor, call.operands[self.work.x], call.operands[self.work.w])
        rows, columns, depth, batches = self._cut_of(g)
        pixels = math.prod(g.outputs)
        out = [g.out_channels, pixels, fast_div(pixels), fast_div(g.per_group), g.n, g.per_group]
        if self.work.raw is not None:
            w_out, w_in, w_tap, w_group = padded(depth), 1, g.per_group, columns * padded(depth)
        elif self.packed:
            w_out, w_in, w_tap, w_group = 1, columns, columns * g.per_group, columns * depth
        elif self.transposed:
            w_out, w_in, w_tap, w_group = g.taps, columns * g.taps, 1, columns * depth
        else:
            w_out, w_in, w_tap, w_group = depth, g.taps, 1, columns * depth
        words = [w for a in range(3 - self.axes, 3) for w in axis_words(g, a, self.transposed)]
        extra = [*out, *input_steps(g, self.x_last, self.axes), w_out, w_in, w_tap, w_group, *g.outputs[3 - self.axes :], *words]
        if self.work.tensor:
            wide = self.work.grain // self.work.item
            aligned = self.x_last and g.channels % wide == 0 and g.per_group % wide == 0
            extra.append(aligned + 2 * (self.packed and (self.work.raw is not None or columns % wide == 0)))
        extra += self.work.more(call, 1, g.out_channels)
        return self.product.launch(rows, columns, depth, batches, extra)

    def _cut_of(self, g: Geometry) -> tuple[int, int, int, int]:
        """Rows, columns, steps of the reduction, entries of the batch."""
        places = [-(-o // s) for o, s in zip(g.outputs, g.strides, strict=True)] if self.transposed else g.outputs
        batches = g.group * math.prod(self.counts)
        return g.n * math.prod(places), g.out_channels // g.group, g.taps * g.per_group, batches

    def _tiles(self) -> Sequence[Tile]:
        """Those whose sums fit in the registers; of the tensor cores' the one that known sizes choose."""
        if not self.work.tensor:
            crowded = self.work.sums == "f64" or (self.transposed and self.axes == 3)
            return TILES[1:] if crowded else TILES
        if self.work.cut is not None:
            return (self.work.cut.tile,)
        g = self._known()
        return tensor_tiles(self.work.tensor, None if g is None else self._cut_of(g), not self.transposed, self._can_be_direct())

    def _known(self) -> Geometry | None:
        shapes = [self.site.outer.operands[i].tensor.shape for i in (self.work.x, self.work.w)]
        known = all(isinstance(d, int) for shape in shapes for d in shape)
        return geometry(self.site.anchor, *shapes) if known else None

    def _can_be_direct(self) -> bool:
        """Whether pixels consist of whole chunks of 16 bytes and the weight is a constant that can be packed."""
        g = self._known() if self.work.tensor in TENSOR.values() else None
        whole = g is not None and g.per_group % 8 == 0 and math.prod(self._cut_of(g)) > 0
        return whole and self.x_last and self.packed and not self.transposed

    def _product(self) -> Product:
        node, work = self.site.outer, self.work
        axes = [f"_{a}" for a in range(self.axes)]
        names = ["out_channels", "pixels", None, None, "images", "per_group", "x_n", "x_c", *(f"x{a}" for a in axes)]
        names += ["w_out", "w_in", "w_tap", "w_group", *(f"out{a}" for a in axes)]
        at = Product.words_at(first_int(node), len(names))
        names += [None] * sum(6 + 6 * n for n in self.counts)
        names += [*(["wide"] if work.tensor else []), *work.names]
        phases = math.prod(self.counts)
        after = [f"const u32 phase = batch % {phases};", f"const u32 group = batch / {phases};"] if phases > 1 else []
        after += axes_text(self.counts, at)
        if self.transposed:
            after.append(f"const u32 rows_here = images{''.join(f' * axes[{a}].all_places' for a in range(self.axes))};")
            after.append(f"const u32 depth_here = {' * '.join(f'axes[{a}].counts' for a in range(self.axes))} * per_group;")
        group = "batch" if phases == 1 else "group"
        rows, depth = ("rows_here", "depth_here") if self.transposed else ("rows", "depth")
        channels = f"FastDiv(p[{self._word(3)}])"
        steps = ", ".join(f"x{a}" for a in axes)
        x, w = f"{work.memory(work.x)} + {group} * per_group * x_c", f"{work.memory(work.w)} + {group} * w_group"
        kind = f"Window<{work.element(work.x)}, S, {_bool(self.x_last)}, {self.axes}>"
        values = f"{x}, {rows}, {depth}, {channels}, axes, x_n, x_c, {{{steps}}}"
        setup = [work.loader(work.x, "left", kind, values, "1")]
        if self.direct:
            setup.append(
                f"const auto right = {work.memory(work.w)} + {group} * ((columns + 31) / 32 * ((depth + 31) / 32) * 1024);"
            )
        elif work.raw is not None:
            kind, values = f"Strided<{work.element(work.w)}, S, true>", f"{w}, columns, depth, w_out, 1"
        elif self.packed and not self.transposed:
            kind, values = f"Strided<{work.element(work.w)}, S, false>", f"{w}, columns, depth, 1, columns"
        else:
            kind = f"Weights<{work.element(work.w)}, S, {_bool(not self.packed)}, {self.axes}>"
            values = f"{w}, columns, {depth}, {channels}, axes, w_out, w_in, w_tap"
        if not self.direct:
            setup.append(work.loader(work.w, "right", kind, values, "columns", f"{group} * columns"))
        if work.tensor:
            setup.append(f"const i64 left_at = (i64)({x}), right_at = (i64)({w});")
        return Product(work, self.site.result.dtype, first_int(node), first_result(node), names, setup, self._place(group),
                       f"({group} * columns + column)", self.tiles, down=not self.y_last, after=[*after, *work.before],
                       helpers=[piece("windows")], rows=rows, depth=depth, cut=not self.transposed,
                       along=(self.x_last, not self.packed or work.raw is not None))  # fmt: skip

    def _word(self, i: int) -> int:
        return Product.words_at(first_int(self.site.outer), i)

    def _place(self, group: str) -> list[str]:
        """Statements that return the place of `row` and `column` in the result."""
        channel = f"{group} * columns + column"
        if self.transposed:
            sizes = ", ".join(f"out_{a}" for a in range(self.axes))
            lines = [f"const u32 sizes[{self.axes}] = {{{sizes}}};", "u32 image, pixel = pixel_of(axes, sizes, row, image);"]
        elif self.y_last:
            return [f"return row * out_channels + {channel};"]
        else:
            lines = [f"u32 image = row / FastDiv(p[{self._word(2)}]), pixel = row - image * pixels;"]
        if self.y_last:
            return [*lines, f"return (image * pixels + pixel) * out_channels + {channel};"]
        return [*lines, f"return (image * out_channels + {channel}) * pixels + pixel;"]


def _bool(x: bool) -> str:
    return "true" if x else "false"
