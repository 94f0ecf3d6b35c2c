"""Matrix products, as far as all targets see them alike: sizes, strides, and what an anchor does to its own sums."""

from __future__ import annotations

import math

from ..ir.core import Node
from ..ir.symbols import broadcast
from ..ir.types import TensorType
from . import quantized
from .epilogue import Builder, Site, check_step, operand_kind
from .spec import Call, Dims, Refusal

ANCHORS = ("matmul", "gemm", "conv", "conv_transpose")


def refuse_epilogue(anchor: Node, node: Node, chain: int) -> Refusal | None:
    """Why the elementwise `node`, which reads what came from `anchor` as operand `chain`, cannot be done to the anchor's sums."""
    if anchor.op.name in quantized.ANCHORS:
        return quantized.refuse_step(anchor, node, chain)
    if anchor.op.name not in ANCHORS:
        return Refusal(f"{anchor.op.name} takes no epilogue")
    types = [None if v is None else v.tensor for v in node.operands]
    return check_step(node, chain, anchor.results[0].tensor, channel_axis(anchor), types)


def channel_axis(anchor: Node) -> int | None:
    """The logical axis of an anchor's result that "one number a channel" runs along."""
    rank = anchor.results[0].tensor.rank
    if anchor.op.name in ("conv", "conv_transpose"):
        return 1
    b = anchor.operands[1]
    return None if not rank or (b is not None and b.tensor.rank == 1) else rank - 1


def scaled_sums(site: Site, b: Builder) -> int:
    """What the anchor does to its sums: alpha * sums + beta * C for gemm."""
    acc = b.add("acc")
    if site.anchor.op.name == "matmul":
        return acc
    alpha, beta = float(site.anchor.attr("alpha")), float(site.anchor.attr("beta"))
    out = acc if alpha == 1 else b.add("mul", acc, b.number(alpha))
    c = site.operand(2)
    if c is None:
        return out
    term = b.leaf(_addend_kind(c.tensor, site.result), site.index[2])
    return b.add("add", out, term if beta == 1 else b.add("mul", term, b.number(beta)))


def _addend_kind(c: TensorType, result: TensorType) -> str:
    kind = operand_kind(c.shape, result.shape, 1)
    if kind is None and len(c.shape) == 2 and c.shape == (result.shape[0], 1):
        return "row"
    return kind or "unknown"


class Sizes:
    """A product's sizes and strides (in elements), from logical shapes."""

    def __init__(self, a: Dims, b: Dims, trans_a: bool = False, trans_b: bool = False):
        a2, b2 = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
        (self.rows, self.depth), (_, self.columns) = self._matrix(a2, trans_a), self._matrix(b2, trans_b)
        self.a_row, self.a_col = (1, a2[-1]) if trans_a else (a2[-1], 1)
        self.b_row, self.b_col = (1, b2[-1]) if trans_b else (b2[-1], 1)
        self.batch = _broadcast(a2[:-2], b2[:-2])
        self.a_batch, self.b_batch = self._strides(a2), self._strides(b2)

    @staticmethod
    def _matrix(shape: Dims, transposed: bool) -> tuple[int, int]:
        return (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])

    def _strides(self, shape: Dims) -> list[int]:
        dims = (1,) * (len(self.batch) - len(shape) + 2) + shape[:-2]
        steps = [math.prod(dims[i + 1 :]) * shape[-2] * shape[-1] for i in range(len(dims))]
        return [0 if d == 1 else s for d, s in zip(dims, steps, strict=True)]

    def loops(self, item: int) -> list[int]:
        """The batch loops, innermost first: count and byte strides of A and B."""
        out = []
        for n, i, j in reversed(list(zip(self.batch, self.a_batch, self.b_batch, strict=True))):
            out += [n, i * item, j * item]
        return out


def _broadcast(a: Dims, b: Dims) -> Dims:
    """The common shape of two, in plain arithmetic (sizes may be recorded, which numpy cannot). Raises ValueError."""
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b), strict=True)
    return tuple(broadcast(m, n) for m, n in pairs)  # type: ignore[misc]


def sizes_of(site: Site, call: Call) -> Sizes:
    trans = [bool(site.anchor.attr(t)) if site.anchor.op.name == "gemm" else False for t in ("transA", "transB")]
    return Sizes(call.operands[site.index[0]], call.operands[site.index[1]], *trans)
