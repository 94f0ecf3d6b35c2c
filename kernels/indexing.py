"""What builders ask about operators that read and write by index: what kernels take, and how slices lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..ir.core import Node
from ..ir.types import FLOATS, I32, I64, INTEGERS, DType
from .operands import refuse_layouts, refuse_strings
from .spec import Call, Dims, Refusal

FLAG = 8  # bytes of scratch: the word in which a kernel reports


def unsupported(node: Node, indices: int) -> Refusal | None:
    """What no kernel by index takes: strings, other layouts, indices that are not i32 or i64."""
    t = node.operands[indices].tensor
    wrong = None if t.dtype in (I32, I64) else Refusal("indices are neither i32 nor i64", {"indices": t})
    return refuse_strings(node) or refuse_layouts(node) or wrong


def moved_as(dtype: DType) -> tuple[str, int, int]:
    """How elements are moved: the name of an unsigned type, its bytes, and how many of them make an element."""
    size = min(dtype.itemsize, 8)
    return f"u{8 * size}", size, dtype.itemsize // size


def wide_elements(node: Node) -> Refusal | None:
    """For kernels that move whole elements along an axis."""
    t = node.operands[0].tensor
    if t.rank == 0:
        return Refusal("data is a scalar", {"data": t})
    return None if t.dtype.itemsize <= 8 else Refusal("elements of 16 bytes are moved one by one on the host only", {"data": t})


def refuse_reduction(node: Node) -> Refusal | None:
    """For kernels that combine updates with what is there."""
    dtype, reduction = node.operands[0].tensor.dtype, node.attr("reduction")
    if reduction == "none" or dtype in INTEGERS | FLOATS:
        return None
    return Refusal("there is no scatter kernel with this reduction", {"reduction": reduction, "type": dtype})


def tuple_length(node: Node) -> int | Refusal:
    """How many indices make a tuple: the last axis of operand 1."""
    shape = node.operands[1].tensor.shape
    if shape and isinstance(shape[-1], int):
        return shape[-1]
    return Refusal("the length of an index tuple is not known", {"indices": node.operands[1].type})


# ---- slices


class Extent(NamedTuple):
    """How the slices of a call lie: data [rows, axes..., inner], tuples [rows or 1, count] -> [rows, count, inner]; `span` elements
    of data are a row."""

    rows: int
    count: int
    inner: int
    span: int
    axes: Dims


@dataclass(frozen=True)
class Slices:
    """Slices data[outer axes..., indices..., :] by tuples of `depth` indices (None: scalars that are no tuples). `shared`: one
    list of tuples for all outer positions; otherwise each has its own. `from_end`: negative indices count from the end."""

    outer: int
    depth: int | None
    shared: bool
    message: str
    from_end: bool = True

    @property
    def indices(self) -> int:
        """How many indices make a tuple."""
        return 1 if self.depth is None else self.depth

    def extent(self, call: Call) -> Extent:
        """How the slices lie at the call's sizes."""
        data, indices = call.operands[:2]
        assert data is not None and indices is not None
        tuples = indices if self.depth is None else indices[:-1]
        end = self.outer + self.indices
        count = math.prod(tuples if self.shared else tuples[self.outer :])
        return Extent(
            math.prod(data[: self.outer]),
            count,
            math.prod(data[end:]),
            math.prod(data[self.outer :]),
            tuple(data[self.outer : end]),
        )


def _gather(node: Node) -> Slices:
    axis = node.attr("axis") % max(node.operands[0].tensor.rank, 1)
    return Slices(axis, None, True, f"gather: an index lies outside of the axis {axis} of data {node.operands[0].type}")


def _gather_nd(node: Node) -> Slices | Refusal:
    depth = tuple_length(node)
    if isinstance(depth, Refusal):
        return depth
    message = f"gather_nd: an index lies outside of data {node.operands[0].type}"
    return Slices(node.attr("batch_dims"), depth, False, message)


def _array_feature_extractor(node: Node) -> Slices:
    x = node.operands[0].tensor
    message = f"array_feature_extractor: an index lies outside of the last axis of {x}"
    return Slices(x.rank - 1, None, True, message, from_end=False)


_SLICES: dict[str, Callable[[Node], Slices | Refusal]] = {
    "gather": _gather, "gather_nd": _gather_nd, "array_feature_extractor": _array_feature_extractor
}  # fmt: skip


def slicers() -> tuple[str, ...]:
    """The operators that gather slices."""
    return tuple(_SLICES)


def slices_of(node: Node) -> Slices | Refusal:
    """What a node of one of `slicers()` gathers."""
    found = _SLICES[node.op.name](node)
    return found if isinstance(found, Refusal) else unsupported(node, 1) or found
