"""Which nodes NVIDIA's libraries compute (the rung "libraries"), and the texts of those calls (library.py).

Products stand here, what else there is in library_graphs.py. What is refused a kernel of ours serves: the libraries' rung stands on
that of the tensor cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...ir.core import Node
from ...ir.recording import least
from ...ir.symbols import DimLike
from ...ir.types import FLOATS
from ..epilogue import Site, epilogue_of, site_of
from ..operands import first_int, first_result, refuse_layouts
from ..products import Sizes, channel_axis, scaled_sums
from ..registry import key_of
from ..spec import Call, KernelSource, Launch, Refusal
from .library import SCRATCH, declare
from .library_form import Form, form_of
from .library_graphs import attention, compute_of, conv

LITTLE = 1 << 26  # multiplications


def select(node: Node, precision: str = "fp32") -> KernelSource | Refusal:
    """The library's call that serves a node, or why there is none."""
    name = key_of(node)
    if name == "fused.gemm":
        name = node.regions[0].nodes[0].op.name
    if name in ("matmul", "gemm"):
        return matmul(node, precision)
    if name in ("conv", "conv_transpose"):
        return conv(node, precision)
    if name in ("attention", "fused.attention"):
        return attention(node)
    return Refusal(f"no library is asked for {name}")


def refuse_epilogue(anchor: Node, node: Node, chain: int, precision: str) -> Refusal | None:
    """Why the elementwise `node` shall not join an anchor that a library computes: with it, the library would not. Where there is
    little to multiply, a pass over the result costs more than the library gains."""
    called, work = select(anchor, precision), _work(anchor)
    if isinstance(called, Refusal) or (work is not None and work < LITTLE):
        return None
    before = node.operands[chain].node  # type: ignore[union-attr]
    names = ("add", "relu", "gelu", "mul") if called.variant == "cublaslt" else ("add", "relu")
    erf = node.op.name == "gelu" and node.attr("approximate") != "tanh"
    scales = node.op.name == "mul" and before is not anchor
    if node.op.name not in names or erf or scales or before.op.name in ("relu", "gelu"):  # type: ignore[union-attr]
        return Refusal(f"{called.variant} computes {anchor.op.name} without it", {"step": node.op.name})
    return None


def _work(anchor: Node) -> int | None:
    """The multiplications of a product or convolution, None where sizes are not known."""
    w, y = anchor.operands[1].tensor, anchor.results[0].tensor  # type: ignore[union-attr]
    if not all(isinstance(d, int) for d in (*w.shape, *y.shape)):  # type: ignore[misc]
        return None
    columns = y.shape[1 if "conv" in anchor.op.name else -1] if y.shape else 1
    batches = 1 if "conv" in anchor.op.name else math.prod(w.shape[:-2])  # type: ignore[index, arg-type]
    return math.prod(y.shape) * math.prod(w.shape) // max(columns * batches, 1)  # type: ignore[arg-type, operator, type-var]


# ---- products -----------------------------------------------------------------------------------------------------------


def matmul(node: Node, precision: str) -> KernelSource | Refusal:
    """cuBLASLt's product of row-major floats, summed in f32 (f64 for f64)."""
    site = site_of(node)
    if isinstance(site, Refusal):
        return site
    dtype, refusal = site.result.dtype, refuse_layouts(node)
    if refusal or dtype not in FLOATS:
        return refusal or Refusal(f"{site.anchor.op.name} of {dtype} is asked of no library")
    found = epilogue_of(site, channel_axis(site.anchor), partial(scaled_sums, site))
    form = found if isinstance(found, Refusal) else form_of(found)
    batches = Batches.of(site)
    for refused in (form, batches):
        if isinstance(refused, Refusal):
            return refused
    assert isinstance(form, Form) and isinstance(batches, Batches)
    depth = site.operand(0).tensor.shape[-1 - bool(batches.transposed[0])]  # type: ignore[union-attr, index]
    if form != Form() and not (isinstance(depth, int) and depth):
        return Refusal("the reduction may be empty, of which the library does not make an epilogue", {"depth": depth})
    result, first = first_result(node), first_int(node)
    turned = _is_turned(site, batches)
    transposed = [batches.transposed[0], 1] if turned else batches.transposed
    fields = {"type": dtype, "compute": compute_of(dtype, precision), "transpose": transposed,
              "a": site.slot(0), "b": site.slot(1), **form.fields(node), "y": result,
              "scratch": result + 1, "sizes": first}  # fmt: skip
    text = declare("cublaslt", "matmul", first + 8, fields)
    pack = {site.index[1]: _turned} if turned else {}
    return KernelSource(text, lambda call: batches.bind(site, call, turned), "cublaslt", pack)  # type: ignore[arg-type]


def _is_turned(site: Site, batches: Batches) -> bool:
    """Whether a constant B is stored transposed: where its rows do not begin at multiples of 16 bytes and its columns then do; else
    the library would read it number by number."""
    b, v = site.operand(1).tensor, site.operand(1)  # type: ignore[union-attr]
    if not v.is_const or batches.transposed[1] or len(b.shape) != 2:  # type: ignore[union-attr]
        return False
    return b.shape[0] * b.dtype.itemsize % 16 == 0 != b.shape[1] * b.dtype.itemsize % 16


def _turned(b: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(b.T)


@dataclass(frozen=True)
class Batches:
    """How a product's batches lie: B may have none (then that of A is more rows), or both the same, or one of them one in all."""

    flat: bool
    shared: tuple[bool, bool]  # whether all batches read the same matrix of A, of B
    transposed: list[int]

    @staticmethod
    def of(site: Site) -> Batches | Refusal:
        gemm = site.anchor.op.name == "gemm"
        transposed = [int(bool(site.anchor.attr(t))) if gemm else 0 for t in ("transA", "transB")]
        a, b = (_without_ones(site.operand(i).tensor.shape[:-2]) for i in (0, 1))  # type: ignore[union-attr, index]
        flat = not b and len(site.operand(0).tensor.shape) > 1  # type: ignore[union-attr, arg-type]
        if a and b and a != b:
            return Refusal("batches that differ between the operands are asked of no library", {"A": a, "B": b})
        return Batches(flat, (not a, not b), transposed)

    def bind(self, site: Site, call: Call, turned: bool) -> Launch:
        s = Sizes(call.operands[site.index[0]], call.operands[site.index[1]], *map(bool, self.transposed))  # type: ignore[arg-type, index]
        batches = math.prod(s.batch)
        rows, batches = (s.rows * batches, 1) if self.flat else (s.rows, batches)
        lines = [s.a_col if self.transposed[0] else s.a_row, s.depth if turned else s.b_col if self.transposed[1] else s.b_row]
        steps = [0 if shared or self.flat else n * s.depth for shared, n in zip(self.shared, (rows, s.columns), strict=True)]
        ints = (rows, s.columns, s.depth, batches, *lines, *steps)
        return Launch(ints, least(1, rows * s.columns * batches), SCRATCH)


def _without_ones(dims: Sequence[DimLike]) -> tuple[DimLike, ...]:
    """Batch dims as far as they make a difference: [1, 3] is [3], and nothing is left of [1, 1]."""
    first = next((i for i, d in enumerate(dims) if d != 1), len(dims))
    return tuple(dims[first:])
