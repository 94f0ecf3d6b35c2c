"""Products of few rows that are normalized before: `fused.normed`, a layer_norm or rms_norm in front of a matmul or gemm with its
epilogue.

Each block finds the mean and deviation of its rows by itself, and its warps normalize numbers between memory and the tensor cores
(direct.cuh), rounded as the normalization by itself would store them. That is one launch less where rows are few: a block has them
all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ...ir.core import Node, Value
from ...ir.types import BF16, F16, F32
from ..epilogue import Site, epilogue_of
from ..lines import norm_axis
from ..operands import refuse_layouts, slot_of
from ..printer import literal
from ..products import channel_axis, scaled_sums
from ..spec import KernelSource, Refusal
from .cut import MULTIPROCESSORS
from .gemm import Matmul, floats
from .target import serves
from .text import blocks_for
from .tiles import Product, Work

MOST_ROWS = 32  # of a direct tile
MOST_DEPTH = 4096  # numbers of a row, which a warp holds
MOST_BLOCKS = 2 * MULTIPROCESSORS  # that each find the same means

_TEXT = """
// Of the rows from `first` on, at `at`, their mean (0 where they are not CENTERED) and one over their deviation.
template <class M, bool CENTERED, int PACKS>
DEVICE void row_statistics(i64 at, u32 step, u32 first, u32 rows, u32 n, f32 epsilon, f32* statistics) {
    const u32 lane = threadIdx.x % 32 * 8;
#pragma unroll 1
    for (u32 i = threadIdx.x / 32; i < DIRECT_ROWS && first + i < rows; i += BLOCK / 32) {
        const i64 from = at + i64(first + i) * step * 2;
        Pack<M, 8> x[PACKS] = {};
#pragma unroll
        for (u32 k = 0; k < PACKS; k++)
            if (k * 256 + lane < n) x[k] = read_pack<M, 8>(from, k * 256 + lane, n, (from & 15) == 0);
        f32 mean = 0, sum = 0;
        if (CENTERED) {
#pragma unroll
            for (u32 k = 0; k < PACKS; k++)
#pragma unroll
                for (u32 j = 0; j < 8; j++) mean += x[k].get(j);
            mean = warp_sum(mean) / f32(n);
        }
#pragma unroll
        for (u32 k = 0; k < PACKS; k++)
#pragma unroll
            for (u32 j = 0; j < 8; j++)
                if (k * 256 + lane < n) sum += (x[k].get(j) - mean) * (x[k].get(j) - mean);
        sum = warp_sum(sum);
        if (lane == 0) statistics[2 * i] = mean, statistics[2 * i + 1] = 1 / sqrt(sum / f32(n) + epsilon);
    }
    __syncthreads();
}

// Rows less their mean, over their deviation, times a scale and with a shift, one for each step of the reduction.
template <class M, class Base, bool SCALED, bool SHIFTED> struct Normed {
    struct Place { typename Base::Place place; f32 mean, inverse; };
    using Depth = typename Base::Depth;
    Base base;
    i64 scale, shift;
    u32 first;
    const f32* statistics;
    __device__ __forceinline__ Place place(u32 i) const {
        const u32 row = i - first;
        return {base.place(i), statistics[2 * row], statistics[2 * row + 1]};
    }
    __device__ __forceinline__ Depth depth(u32 k) const { return base.depth(k); }
    __device__ __forceinline__ Chunk chunk(const Place& r, const Depth& k, bool aligned) const {
        if (!base.inside(r.place, k)) return {};
        auto x = __builtin_bit_cast(Pack<M, 8>, chunk_of<M>(base, r.place, k, aligned));
        Pack<M, 8> by = {}, more = {}, y;
        if (SCALED) by = read_pack<M, 8>(scale, k, base.depths, (scale & 15) == 0);
        if (SHIFTED) more = read_pack<M, 8>(shift, k, base.depths, (shift & 15) == 0);
#pragma unroll
        for (u32 j = 0; j < 8; j++) {
            f32 v = (x.get(j) - r.mean) * r.inverse;
            if (SCALED) v = v * by.get(j);
            if (SHIFTED) v = v + more.get(j);
            y.set(j, v);
        }
        return __builtin_bit_cast(Chunk, y);
    }
};
template <class M, class Base, bool SCALED, bool SHIFTED>
DEVICE Chunk chunk_of(const Normed<M, Base, SCALED, SHIFTED>& source, const typename Normed<M, Base, SCALED, SHIFTED>::Place& place,
                      const typename Base::Depth& depth, bool aligned) {
    return source.chunk(place, depth, aligned);
}
"""


@serves("fused.normed")
def build(node: Node) -> KernelSource | Refusal:
    """The kernel of a normalization over the last axis, a matmul or gemm of 16-bit floats that alone reads it as its first operand,
    and an epilogue (kernels/epilogue.py), of sizes that are known and make a direct tile."""
    region = node.regions[0]
    norm, anchor, *chain = region.nodes if len(region) > 1 else [None, None]
    if norm is None or norm.op.name not in ("layer_norm", "rms_norm") or anchor.op.name not in ("matmul", "gemm"):
        return Refusal("expected a normalization and a product in front")
    refusal = refuse_layouts(node) or _refuse_norm(norm, anchor)
    if refusal is not None:
        return refusal
    given = [norm.operands[0], *anchor.operands[1:]]
    if any(v is not None and (v.graph is not region or v.node is not None) for v in [*given, *norm.operands]):
        return Refusal("an operand is no input of the region")
    site = Site(node, anchor, tuple(None if v is None else v.index for v in given), tuple(chain))
    found = epilogue_of(site, channel_axis(anchor), partial(scaled_sums, site))
    if isinstance(found, Refusal):
        return found
    if any(kind == "unknown" for kind, _ in found.leaves):
        return Refusal("C's shape does not say how it broadcasts")
    product = NormedMatmul(floats(site, found, "f32", "fp32"), norm)
    return product.refusal or product.source()


def _refuse_norm(norm: Node, anchor: Node) -> Refusal | None:
    axis, x = norm_axis(norm), norm.operands[0]
    if isinstance(axis, Refusal):
        return axis
    y, dtype = norm.results[0], x.tensor.dtype  # type: ignore[union-attr]
    types = {v.tensor.dtype for v in (*norm.operands, *norm.results) if v is not None}
    if dtype not in (F16, BF16) or len(types) > 1 or len(norm.results) > 1 or anchor.results[0].tensor.dtype is not dtype:
        return Refusal("expected one type of 16 bits, and no statistics as results", {"x": x.type})  # type: ignore[union-attr]
    if axis != (x.tensor.rank or 0) - 1 or [i for i, v in enumerate(anchor.operands) if v is y] != [0] or len(y.uses) > 1:  # type: ignore[union-attr]
        return Refusal("expected lines along the last axis, of which only the product's rows are made")
    return None


class NormedMatmul(Matmul):
    """A product whose rows are normalized on their way."""

    def __init__(self, work: Work, norm: Node):
        self.norm = norm
        super().__init__(work)
        self.refusal = self._refuse()

    def _refuse(self) -> Refusal | None:
        cut = self._known_cut()
        if cut is None or not self.direct:
            return Refusal("the product has no direct tile")
        rows, columns, depth, _ = cut
        launch = self.product.launch(*cut, [])
        if rows > MOST_ROWS or depth > MOST_DEPTH or launch.tiles > MOST_BLOCKS:
            return Refusal("each of many blocks would normalize all rows", {"rows": rows, "columns": columns, "depth": depth})
        return None

    def _product(self) -> Product:
        """The product, whose loader of rows is put behind their normalization."""
        product, dtype = super()._product(), self.dtype
        cut = self._known_cut()
        if not self.direct or cut is None:
            return product
        scale, shift = (self._address(v) for v in (self.norm.operand(1), self.norm.operand(2)))
        centered, given = self.norm.op.name == "layer_norm", [str(x != "0").lower() for x in (scale, shift)]
        base = self.work.loader(self.work.x, "base", f"Strided<element_{dtype}, S, true>", "a, rows, depth, a_row, a_col", "rows")
        kind = f"Normed<element_{dtype}, Strided<element_{dtype}, S, true>, {', '.join(given)}>"
        packs, epsilon = blocks_for(max(cut[2], 1), 256), literal(self.norm.attr("epsilon"), F32)
        find = f"row_statistics<element_{dtype}, {str(centered).lower()}, {packs}>"
        setup: Sequence[str] = [
            "__shared__ f32 statistics[2 * DIRECT_ROWS];",
            base,
            f"{find}((i64)a, a_row, row_tile * 32, rows, depth, {epsilon}, statistics);",
            f"const {kind} left = {{base, {scale}, {shift}, row_tile * 32, statistics}};",
            *product.setup[1:],
        ]
        return replace(product, setup=setup, helpers=[*product.helpers, _TEXT.strip("\n")])

    def _address(self, v: Value | None) -> str:
        return "0" if v is None else f"p[{slot_of(self.site.outer, v.index)}]"
