"""Regions of rows: elementwise nodes before and behind one softmax or normalization along contiguous rows, taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.core import Node, Value
from ..ir.types import FLOATS, TensorType
from .operands import refuse_layouts
from .regions import Region, refuse_region, region_of
from .space import Space, make_space
from .spec import Refusal

ANCHORS = frozenset({"softmax", "log_softmax", "layer_norm", "rms_norm"})


@dataclass
class RowRegion:
    """A region taken apart: the operator, the axis where its rows begin, and the operands that loops load."""

    region: Region
    anchor: Node
    axis: int
    loaded: dict[Value, int]  # slots
    outer: Space
    inner: Space
    outputs: Sequence[Value]

    @property
    def x(self) -> TensorType:
        return self.anchor.operands[0].tensor  # type: ignore[union-attr]

    def needed(self, wanted: Sequence[Value]) -> list[Node]:
        """The elementwise nodes that the wanted values take, in order."""
        want, out = set(wanted), []
        for n in reversed(self.region.nodes):
            if n is not self.anchor and want & set(n.results):
                out.append(n)
                want |= {v for v in n.operands if v is not None}
        return out[::-1]


def split_dims(shape: Sequence, rank: int, axis: int) -> tuple[tuple, tuple]:
    """The dims of an operand before and behind the axis of the result."""
    at = max(0, axis - rank + len(shape))
    return tuple(shape[:at]), tuple(shape[at:])


def take_apart(node: Node) -> RowRegion | Refusal:
    region = region_of(node)
    found = [n for n in region.nodes if n.op.name in ANCHORS]
    if len(found) != 1 or len(found[0].results) != 1:
        return Refusal("a region of rows has one softmax or normalization with one result", {"found": [n.op.name for n in found]})
    anchor, others = found[0], [n for n in region.nodes if n is not found[0]]
    parameters = [v for v in anchor.operands[1:] if v is not None]
    x = anchor.operands[0].tensor  # type: ignore[union-attr]
    rank = x.rank or 0
    axis = anchor.attr("axis") % max(rank, 1)
    refusal = refuse_layouts(node) or refuse_region(node, Region([*region.inputs, *anchor.results], others, [], region.constants))
    if refusal is None:
        refusal = next((f for p in parameters if (f := refuse_parameter(x, p, axis)) is not None), None)
    if refusal is None and any(p not in region.inputs or p.tensor.dtype not in FLOATS for p in parameters):
        refusal = Refusal("scale and bias must be operands of the region")
    if refusal is None and anchor.op.name.endswith("softmax") and (axis != rank - 1 or rank == 0 or anchor.attr("flatten")):
        refusal = Refusal("softmax along another axis than the last", {"axis": axis, "x": x})
    if refusal is None and (x.dtype not in FLOATS or any(v.tensor.shape != x.shape for v in region.outputs)):
        refusal = Refusal("a result has another shape than the rows", {"x": x})
    if refusal is not None:
        return refusal
    return _with_spaces(node, region, anchor, axis)


def _with_spaces(node: Node, region: Region, anchor: Node, axis: int) -> RowRegion | Refusal:
    x = anchor.operands[0].tensor  # type: ignore[union-attr]
    inputs = [v for v in region.inputs if v is not None]
    read = {v for n in region.nodes if n is not anchor for v in n.operands} | {anchor.operands[0]} | set(region.outputs)
    loaded = {v: k for k, v in enumerate(inputs) if v in read and v not in region.constants}
    parts = [split_dims(v.tensor.shape, x.rank, axis) for v in inputs]  # type: ignore[arg-type]
    outer, inner = (
        make_space([v.tensor.with_(shape=p[i]) for v, p in zip(inputs, parts, strict=True)], x.with_(shape=shape))
        for i, shape in enumerate((x.shape[:axis], x.shape[axis:]))  # type: ignore[index]
    )
    if isinstance(outer, Refusal) or isinstance(inner, Refusal):
        return outer if isinstance(outer, Refusal) else inner  # type: ignore[return-value]
    mixed = next((v for v, k in loaded.items() if not inner.is_linear(k) and not inner.is_single(k)), None)
    if mixed is not None:
        return Refusal("an operand is broadcast within the row", {f"%{mixed.name}": mixed.type, "x": x})
    return RowRegion(region, anchor, axis, loaded, outer, inner, region.outputs)


def refuse_parameter(x: TensorType, v: Value | None, axis: int) -> Refusal | None:
    """Scale and bias must have an element for each of a row."""
    if v is None:
        return None
    shape, row = v.tensor.shape or (), (x.shape or ())[axis:]
    lead = len(row) - len(shape)
    same = lead <= 0 and shape[-lead:] == row and all(d == 1 for d in shape[:-lead])
    same = same or (lead > 0 and shape == row[lead:] and all(d == 1 for d in row[:lead]))
    return None if same else Refusal("a parameter is broadcast within the row", {f"%{v.name}": v.type, "x": x})
