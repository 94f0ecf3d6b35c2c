"""Matrix products: `matmul`, `gemm`, and both with an epilogue (`fused.gemm`, which also takes convolutions)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from ...ir.core import Node
from ...ir.types import F32, F64, FLOATS, INTEGERS
from .. import quantized
from ..epilogue import Builder, Site, epilogue_of, site_of
from ..operands import first_int, first_result, refuse_layouts
from ..products import Sizes, channel_axis, scaled_sums
from ..spec import Call, Dims, KernelSource, Launch, Refusal
from . import epilogue as written
from .cut import FEW_ROWS, Cut, Tile
from .target import serves
from .text import checked_size
from .tiles import FEW, TENSOR, TF32, Product, Work, pack_direct, padded, tensor_tiles

LARGE, TALL, SMALL = Tile(128, 128), Tile(128, 64), Tile(64, 64)


@serves("fused.gemm")
def build_fused(node: Node, precision: str = "fp32", cut: Cut | None = None) -> KernelSource | Refusal:
    """An anchor with its epilogue (see kernels/epilogue.py)."""
    anchor = next(iter(node.regions[0]), None)
    name = None if anchor is None else anchor.op.name
    if name in ("matmul", "gemm"):
        return build(node, precision, cut)
    if name in ("conv", "conv_transpose"):
        from .conv import build as build_conv

        return build_conv(node, precision, cut)
    if name in quantized.ANCHORS:
        from .quant import build as build_quant

        return build_quant(node, precision, cut)
    return Refusal("the region does not start with an anchor", {"op": name})


@serves("matmul", "gemm")
def build(node: Node, precision: str = "fp32", cut: Cut | None = None) -> KernelSource | Refusal:
    """Row-major operands of one element type: floats, and integers for matmul, whose sums wrap. With precision "tf32" f32 is
    multiplied with 10 bits of mantissa. `cut` asks the tensor cores for a tile and for splits."""
    site = site_of(node)
    if isinstance(site, Refusal):
        return site
    refusal = refuse_layouts(node)
    if refusal:
        return refusal
    dtype = site.result.dtype
    if dtype not in FLOATS and not (dtype in INTEGERS and site.anchor.op.name == "matmul" and not site.chain):
        return Refusal(
            f"{site.anchor.op.name} of {dtype} has no kernel", {"expected": "f32, f64, f16, bf16; for matmul also integers"}
        )
    found = epilogue_of(site, channel_axis(site.anchor), partial(scaled_sums, site))
    if isinstance(found, Refusal):
        return found
    if any(kind == "unknown" for kind, _ in found.leaves):
        return Refusal("C's shape does not say how it broadcasts")
    sums = ("f64" if dtype is F64 else "f32") if dtype in FLOATS else "u64" if dtype.itemsize == 8 else "u32"
    if dtype in FLOATS:
        return Matmul(floats(site, found, sums, precision, cut)).tiled()
    return Matmul(Work(site, *site.index[:2], sums, lambda channel, held: [f"return {dtype}(acc);"], variant="integers")).source()


def floats(site: Site, found: Builder, sums: str, precision: str, cut: Cut | None = None) -> Work:
    """The work of floats whose sums go through the program `found`. 16-bit floats are multiplied by the tensor cores, and f32 where
    `precision` is tf32; nothing where it is "scalar"."""
    dtype = site.result.dtype
    tensor = TF32 if dtype is F32 and precision == "tf32" else "" if precision == "scalar" else TENSOR.get(dtype, "")
    how = (".tf32" if tensor == TF32 else ".tensor" if tensor else "") + (f" {cut}" if cut is not None else "")
    leaves = written.leaves_of(site.outer, found)
    return Work(site, *site.index[:2], sums, lambda channel, held: written.steps(found, dtype, channel, held=held), leaves,
                written.addresses(leaves), variant=site.anchor.op.name + how, tensor=tensor, cut=cut)  # fmt: skip


class Matmul:
    """A product whose operands are found by strides.

    Where B has no batch, that of A is more rows. Products of up to 8 rows of floats, which wait for B, have a kernel that reads it
    as fast as can be.
    """

    def __init__(self, work: Work):
        self.work, self.site, self.dtype = work, work.site, work.site.result.dtype
        a, b = (self.site.outer.operands[i].tensor for i in (work.x, work.w))
        self.item = a.dtype.itemsize
        gemm = self.site.anchor.op.name == "gemm"
        self.trans_a, self.trans_b = (bool(self.site.anchor.attr(t)) if gemm else False for t in ("transA", "transB"))
        self.flat = len(b.shape) <= 2 and len(a.shape) > 1 and not work.by_row
        self.loops = 0 if self.flat else max(len(a.shape), len(b.shape), 2) - 2
        self.b_along = self.trans_b or len(b.shape) == 1 or work.raw is not None
        rows = a.shape[:-1] if self.flat else a.shape[-2:-1]
        known = math.prod(rows) if all(isinstance(d, int) for d in rows) and not self.trans_a else None
        wanted = a.dtype in FLOATS and not self.trans_a
        self.few = wanted and (known is None or known <= FEW)
        self.tiles = self._tiles() if known is None or known > FEW or not self.few else ()
        self.direct = False
        if work.cut is not None:
            few, self.direct = work.cut.tile == FEW_ROWS, work.cut.tile.direct
            self.few, self.tiles = self.few and few, () if few else (work.cut.tile,)
        elif self._can_be_direct():
            tiles = tensor_tiles(work.tensor, self._known_cut(), direct=True)
            self.direct = tiles[0].direct
            if self.direct:
                self.tiles, self.few = tiles, False
        self.product = self._product()

    def _known_cut(self) -> tuple[int, int, int, int] | None:
        """Rows, columns, steps of the reduction and entries of the batch, where they are known."""
        shapes = [self.site.outer.operands[i].tensor.shape for i in (self.work.x, self.work.w)]
        known = all(isinstance(d, int) for shape in shapes for d in shape)
        return self._cut_of(self._sizes(*shapes)) if known else None

    def _can_be_direct(self) -> bool:
        """Whether A's rows consist of whole chunks of 16 bytes and B is a constant that can be packed."""
        cut = self._known_cut() if self.work.tensor in TENSOR.values() else None
        whole = cut is not None and cut[2] % 8 == 0 and cut[0] * cut[1] * cut[2] > 0
        return whole and self.flat and not self.trans_a and self.site.outer.operands[self.work.w].is_const

    def _tiles(self) -> Sequence[Tile]:
        """Those whose sums fit in the registers, beside the zero points of a thread's rows or 16-bit numbers that are made f32; of
        the tensor cores' the one that known sizes choose."""
        if self.work.tensor:
            return tensor_tiles(self.work.tensor, self._known_cut())
        crowded = self.work.zeros or self.item == 2
        return (SMALL,) if self.work.sums.endswith("64") else (TALL if crowded else LARGE, SMALL)

    def _pack(self, w: np.ndarray) -> np.ndarray:
        two = w.reshape(-1, 1) if w.ndim == 1 else w
        return pack_direct((two.T if self.trans_b else two)[None])

    def tiled(self) -> KernelSource | Refusal:
        """The kernel, unless the cut that is asked for is none for this product."""
        cut = self.work.cut
        serves = self.few if not self.tiles else self._can_be_direct() or not self.direct
        if cut is not None and not (self.work.tensor and serves):
            return Refusal("the tile does not serve this product", {"tile": cut.tile})
        return self.source()

    def source(self) -> KernelSource:
        raw = self.work.raw
        pack = {self.work.w: self._pack} if self.direct else {} if raw is None else {self.work.w: raw.pack}
        return KernelSource(self.product.text, self.bind, self.work.variant, pack)

    def _sizes(self, a: Dims, b: Dims) -> Sizes:
        s = Sizes(a, b, self.trans_a, self.trans_b)
        if self.work.raw is not None:
            s.b_row, s.b_col = 1, padded(s.depth)
        return s

    def _cut_of(self, s: Sizes) -> tuple[int, int, int, int]:
        """Rows, columns, steps of the reduction, entries of the batch."""
        batches = math.prod(s.batch)
        return (s.rows * batches, s.columns, s.depth, 1) if self.flat else (s.rows, s.columns, s.depth, batches)

    def bind(self, call: Call) -> Launch:
        s = self._sizes(call.operands[self.work.x], call.operands[self.work.w])  # type: ignore[arg-type]
        for shape in (*call.operands, *call.results):
            checked_size(math.prod(shape or ()))
        steps = [s.a_row, s.a_col, s.b_row, s.b_col] + ([] if self.flat else s.loops(1))
        if self.work.tensor:
            wide, loops = self.work.grain // self.item, [] if self.flat else s.loops(1)
            lines = (s.a_col if self.trans_a else s.a_row, s.b_col if self.b_along else s.b_row)
            aligned = [all(n % wide == 0 for n in (line, *loops[1 + k :: 3])) for k, line in enumerate(lines)]
            steps.append(aligned[0] + 2 * aligned[1])
        steps += self.work.more(call, s.rows, s.columns)
        span = 8 if self.b_along else 64 if self.item == 2 else 32
        return self.product.launch(*self._cut_of(s), steps, span if self.few else 0)

    def _product(self) -> Product:
        node, work = self.site.outer, self.work
        names = ["a_row", "a_col", "b_row", "b_col"]
        names += [f"{x}{i}" for i in range(self.loops) for x in ("batch_", "a_batch_", "b_batch_")]
        names += [*(["wide"] if work.tensor else []), *work.names]
        after = ["u32 at_a = 0, at_b = 0;"]
        if self.loops:
            after.append("u32 rest = batch;")
        for i in range(self.loops):
            j = f"rest % batch_{i}" if i < self.loops - 1 else "rest"
            after.append(f"at_a += {j} * a_batch_{i}, at_b += {j} * b_batch_{i};")
            if i < self.loops - 1:
                after.append(f"rest /= batch_{i};")
        after += [f"const auto a = {work.memory(work.x)} + at_a;", f"const auto b = {work.memory(work.w)} + at_b;"]
        kinds = [f"Strided<{work.element(i)}, S, {'true' if along else 'false'}>"
                 for i, along in ((work.x, not self.trans_a), (work.w, self.b_along))]  # fmt: skip
        setup = [work.loader(work.x, "left", kinds[0], "a, rows, depth, a_row, a_col", "rows")]
        if self.direct:
            setup += ["const auto right = b;"]
        else:
            setup += [work.loader(work.w, "right", kinds[1], "b, columns, depth, b_col, b_row", "columns")]
        if work.tensor:
            setup += ["const i64 left_at = (i64)a, right_at = (i64)b;"]
        return Product(work, self.dtype, first_int(node), first_result(node), names, setup,
                       ["return (batch * rows + row) * columns + column;"], "column", self.tiles,
                       few=self._few() if self.few else [], after=[*after, *work.before],
                       along=(not self.trans_a, self.b_along))  # fmt: skip

    def _few(self) -> list[str]:
        single = ["auto single = [&](u32 row, u32 column, S sum) {", "    u32 to = place(row, column);",
                  f"    st_{self.dtype}(y, to, finish(sum, row, column, to));", "};"]  # fmt: skip
        if self.b_along:
            call = "few_along<E, {}, S>(few, (i64)a, a_row, (i64)b, b_col, rows, columns, column_tile * 8, shared, single);"
        else:
            span = 64 if self.item == 2 else 32
            call = (
                f"few_across<E, {{}}, S>(few, a, a_row, a_col, (i64)b, b_row, rows, columns, column_tile * {span}, shared, single);"
            )
        part = "split * steps, min(split * steps + steps, depth)"
        few = f"const Few<S> few = {{parts, split, splits, tile_at, column_tiles * batches, {part}}};"
        return [*single, few, f"if (rows == 1) {call.format(1)}", f"else {call.format(FEW)}"]
