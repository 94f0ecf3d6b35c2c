"""Matrix products: `matmul`, `gemm`, and both with an epilogue (`fused.gemm`, which also takes convolutions)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from ...ir.core import Node
from ...ir.types import FLOATS, INTEGERS
from .. import quantized
from ..epilogue import Builder, Site, epilogue_of, operand_kind, site_of
from ..operands import fill_in, first_int, first_result, refuse_layouts, tiles_for
from ..products import Sizes, channel_axis, refuse_epilogue, scaled_sums, sizes_of
from ..spec import Call, KernelSource, Launch, Refusal
from .blocks import Nest, Shape, launch, nest_text
from .target import serves
from .tiling import Tiling


def can_fuse_epilogue(anchor: Node, node: Node, chain: int) -> Refusal | None:
    """Why the elementwise `node`, which reads what came from `anchor` as operand `chain`, cannot join the anchor's kernel (None:
    it can)."""
    refusal = refuse_epilogue(anchor, node, chain)
    if refusal is None and anchor.op.name == "conv_transpose" and anchor.results[0].tensor.layout is None:
        result, types = anchor.results[0].tensor, [None if v is None else v.tensor for v in node.operands]
        if any(t is not None and i != chain and operand_kind(t.shape, result.shape, 1) == "full" for i, t in enumerate(types)):
            return Refusal("a row-major conv_transpose takes no operand of its result's shape")
    return refusal


@serves("fused.gemm")
def build_fused(node: Node) -> KernelSource | Refusal:
    """An anchor with its epilogue (see epilogue.py)."""
    anchor = next(iter(node.regions[0]), None)
    name = None if anchor is None else anchor.op.name
    if name in ("matmul", "gemm"):
        return build(node)
    if name in ("conv", "conv_transpose"):
        from .conv import build as build_conv

        return build_conv(node)
    if name in quantized.ANCHORS:
        from .quant import build as build_quant

        return build_quant(node)
    return Refusal("the region does not start with an anchor", {"op": name})


@serves("matmul", "gemm")
def build(node: Node) -> KernelSource | Refusal:
    """Row-major operands of one element type: floats by the microkernel, integers by loops."""
    site = site_of(node)
    if isinstance(site, Refusal):
        return site
    refusal = refuse_layouts(node)
    if refusal:
        return refusal
    dtype = site.result.dtype
    if dtype in INTEGERS and site.anchor.op.name == "matmul" and not site.chain:
        return _integers(node)
    if dtype not in FLOATS:
        return Refusal(
            f"{site.anchor.op.name} of {dtype} has no kernel", {"expected": "f32, f64, f16, bf16; for matmul also integers"}
        )
    epilogue = epilogue_of(site, channel_axis(site.anchor), partial(scaled_sums, site))
    if isinstance(epilogue, Refusal):
        return epilogue
    b = site.operand(1)
    if b.is_const and all(d == 1 for d in b.tensor.shape[:-2]):
        return _packed(site, epilogue)
    return _unpacked(site, epilogue)


# ---- sizes --------------------------------------------------------------------------------------------------------------


def pack_panels(b: np.ndarray, t: Tiling) -> np.ndarray:
    """b[..., K, N] as panels: for each leading index and each panel its K rows, padded with zeros; one flat array."""
    *lead, k, n = b.shape
    wide, mid, _ = t.widths(n) if n else (0, 0, 0)
    padded = np.zeros((*lead, k, t.padded(n)), b.dtype)
    padded[..., :n] = b
    matrices = padded.reshape(math.prod(lead), k, t.padded(n))
    cuts = np.cumsum([3 * t.lanes] * wide + [2 * t.lanes] * mid)
    pieces = [np.ascontiguousarray(p).ravel() for m in matrices for p in np.split(m, cuts, axis=1) if p.size]
    return np.concatenate(pieces) if pieces else np.zeros(0, b.dtype)


def computing(dtype_np: np.dtype) -> np.dtype:
    """The type that floats of a type are computed in."""
    return dtype_np if dtype_np == np.float64 else np.dtype(np.float32)


# ---- constant B ---------------------------------------------------------------------------------------------------------

_ROWS = """
for i in range(count + PAD):
    r = row + min(i, count - 1)
    st_i64(table_a, i, A_ROW)
    st_i64(table_c, i, c + r * columns * MI)
    st_i64(table_r, i, r * MI)
"""
_COPY_ROWS = """
buffer = scratch + at_buffer
for i in range(count):
    for k in range(depth):
        put_CT(buffer, i * depth + k, get_T(a + (row + i) * a_row + k * a_col, 0))
"""


def _fill(copied: bool) -> str:
    if copied:
        return _COPY_ROWS + _ROWS.replace("A_ROW", "buffer + min(i, count - 1) * depth * CI")
    return _ROWS.replace("A_ROW", "a + r * a_row")


def _copies(site: Site) -> bool:
    """Whether rows of A must be copied: numbers lie apart, or are not of the computing type."""
    return site.result.dtype.itemsize == 2 or (site.anchor.op.name == "gemm" and bool(site.anchor.attr("transA")))


def _nest(site: Site, epilogue: Builder, columns: int | None) -> Nest:
    slots = [sum(v is not None for v in site.outer.operands[:i]) for _, i in epilogue.leaves]
    return Nest(site.result.dtype, epilogue, slots, first_result(site.outer), columns, "col")


def _packed(site: Site, epilogue: Builder) -> KernelSource | Refusal:
    b, copied, node = site.operand(1), _copies(site), site.outer
    trans_b = site.anchor.op.name == "gemm" and bool(site.anchor.attr("transB"))
    shape = b.tensor.shape
    columns = 1 if len(shape) == 1 else shape[-2] if trans_b else shape[-1]
    nest = _nest(site, epilogue, columns)
    refusal = _unknown(epilogue)
    if refusal:
        return refusal

    def pack(array: np.ndarray) -> np.ndarray:
        matrix = array.reshape(-1, 1) if array.ndim == 1 else array.reshape(array.shape[-2:])
        matrix = matrix.T if trans_b else matrix
        return pack_panels(matrix.astype(computing(array.dtype)), nest.tiling)

    def bind(call: Call) -> Launch:
        s = sizes_of(site, call)
        rows = s.rows * math.prod(s.batch)
        shape = Shape(rows, s.columns, s.depth, buffer_row=s.depth if copied else 0)
        return launch(nest, shape, [s.a_row * nest.dtype.itemsize, s.a_col * nest.dtype.itemsize])

    text = partial(
        nest_text, nest, {"a": site.slot(0), "b": site.slot(1)}, ["a_row", "a_col"], first_int(node),
        base="b + column * total * CI", setup="st_i64(table_b, 0, 0)", batch="c = result", fill=_fill(copied),
    )  # fmt: skip
    return KernelSource(text, bind, "gemm", {site.index[1]: pack})


def _unknown(epilogue: Builder) -> Refusal | None:
    return Refusal("C's shape does not say how it broadcasts") if any(kind == "unknown" for kind, _ in epilogue.leaves) else None


# ---- B known at run time ------------------------------------------------------------------------------------------------

# From `a` and `b` of the whole to those of entry `batch`, by `Sizes.loops`.
ALONG_BATCH = """
rest = batch
for i in range(loops):
    n = param(p, LOOPS + 3 * i)
    j = rest % n
    rest //= n
    a += j * param(p, LOOPS + 3 * i + 1)
    b += j * param(p, LOOPS + 3 * i + 2)
"""
_BATCH = f"""
a = a_all
b = b_all{ALONG_BATCH}c = result + batch * rows * columns * MI
"""
_PACK_B = """
source = b + column * b_col
if b_col == MI:
    for k in range(depth):
        for j in range(width):
            put_CT(panel, k * padded + j, get_T(source + k * b_row, j))
else:
    for j in range(width):
        for k in range(depth):
            put_CT(panel, k * padded + j, get_T(source + k * b_row + j * b_col, 0))
if width < padded:
    for k in range(depth):
        for j in range(width, padded):
            st_CT(panel, k * padded + j, CT(0))
"""


def _unpacked(site: Site, epilogue: Builder) -> KernelSource | Refusal:
    copied, node = _copies(site), site.outer
    nest = _nest(site, epilogue, None)
    refusal = _unknown(epilogue)
    if refusal:
        return refusal
    names = ["a_row", "a_col", "b_row", "b_col", "loops"]

    def bind(call: Call) -> Launch:
        s, item = sizes_of(site, call), nest.dtype.itemsize
        shape = Shape(s.rows, s.columns, s.depth, 1, math.prod(s.batch), True, s.depth if copied else 0)
        return launch(nest, shape, [*(n * item for n in (s.a_row, s.a_col, s.b_row, s.b_col)), len(s.batch), *s.loops(item)])

    from .blocks import NAMES

    loops_at = first_int(node) + len(NAMES) + len(names)
    text = partial(
        nest_text, nest, {"a_all": site.slot(0), "b_all": site.slot(1)}, names, first_int(node),
        base="scratch + at_panel + (column - first_column) * total * CI", setup="st_i64(table_b, 0, 0)",
        batch=_BATCH.replace("LOOPS", str(loops_at)), pack_panel=_PACK_B, fill=_fill(copied),
    )  # fmt: skip
    return KernelSource(text, bind, "gemm.unpacked")


# ---- integers -----------------------------------------------------------------------------------------------------------

_INTEGERS = """
def kernel(p, tile, ntiles):
    a_all = param(p, A)
    b_all = param(p, B)
    result = param(p, RESULT)
    rows = param(p, INTS)
    columns = param(p, INTS + 1)
    depth = param(p, INTS + 2)
    b_row = param(p, INTS + 3)
    b_col = param(p, INTS + 4)
    loops = param(p, INTS + 5)
    units = param(p, INTS + 6)
    for unit in range(units * tile // ntiles, units * (tile + 1) // ntiles):
        batch = unit // rows
        a = a_all + unit % rows * depth * ITEM
        b = b_all
        rest = batch
        for i in range(loops):
            n = param(p, INTS + 7 + 3 * i)
            j = rest % n
            rest //= n
            a += j * param(p, INTS + 8 + 3 * i)
            b += j * param(p, INTS + 9 + 3 * i)
        c = result + unit * columns * ITEM
        for j in range(columns):
            st_T(c, j, T(0))
        for k in range(depth):
            x = ld_T(a, k)
            source = b + k * b_row
            if b_col == ITEM:
                for j in range(columns):
                    st_T(c, j, add(ld_T(c, j), mul(x, ld_T(source, j))))
            else:
                for j in range(columns):
                    st_T(c, j, add(ld_T(c, j), mul(x, ld_T(source + j * b_col, 0))))
"""


def _integers(node: Node) -> KernelSource | Refusal:
    """Exact, wrapping as numpy's matmul does."""
    dtype = node.results[0].tensor.dtype
    item = dtype.itemsize

    def bind(call: Call) -> Launch:
        s = Sizes(call.operands[0], call.operands[1])
        units = s.rows * math.prod(s.batch)
        ints = (s.rows, s.columns, s.depth, s.b_row * item, s.b_col * item, len(s.batch), units, *s.loops(item))
        return Launch(ints, tiles_for(units, units * s.columns * s.depth))

    text = fill_in(_INTEGERS, A=0, B=1, RESULT=2, INTS=first_int(node), ITEM=item, T=dtype.name).replace("_T(", f"_{dtype.name}(")
    return KernelSource(text, bind, "integers")
