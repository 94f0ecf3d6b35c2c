"""Elementwise nodes, and fused regions of them, taken apart: the space that a loop runs over, and what it does for an element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.core import Node, Value
from ..ir.types import DType
from .printer import Printer
from .regions import MOST_OPERANDS, Region, named, print_nodes, refuse_region, region_of
from .space import Space, make_space
from .spec import Refusal


@dataclass(frozen=True)
class Elementwise:
    """A loop over `space`: which of the operands (numbered without those left out) it loads, the element types of what it stores,
    and which operands' memory the result may take: those read element by element just before it is written."""

    region: Region
    space: Space
    inputs: list[Value]
    loaded: list[int]
    results: list[DType]
    in_place: frozenset[int]

    def compute(self, body: Printer, names: Mapping[int, str]) -> list[str]:
        """Prints what is computed of the loaded operands' `names`, and tells what holds the results."""
        env = dict(self.region.constants) | {self.inputs[k]: name for k, name in names.items()}
        print_nodes(body, self.region.nodes, env)  # type: ignore[arg-type]
        return [named(env[v]) for v in self.region.outputs]


def take_apart(node: Node, any_order: bool = False) -> Elementwise | Refusal:
    """An elementwise node, or a fused region of them whose results have one shape. With `any_order` operands may lie otherwise."""
    if len(node.operands) > MOST_OPERANDS:
        return Refusal("too many operands for one loop", {"operands": len(node.operands), "most": MOST_OPERANDS})
    region = region_of(node)
    refusal = refuse_region(node, region)
    if refusal is not None:
        return refusal
    result = node.results[0].tensor
    for v in node.results:
        if (v.tensor.shape, v.tensor.layout) != (result.shape, result.layout):
            return Refusal("the results differ in shape or layout", {f"%{v.name}": v.type, f"%{node.results[0].name}": result})
    space = make_space([v.tensor for v in node.operands if v is not None], result, any_order)
    if isinstance(space, Refusal):
        return space
    inputs = [v for v in region.inputs if v is not None]
    used = {v for n in region.nodes for v in n.operands} | set(region.outputs)
    loaded = [k for k, v in enumerate(inputs) if v in used and v not in region.constants]
    dtypes = [v.tensor.dtype for v in region.outputs]
    return Elementwise(region, space, inputs, loaded, dtypes, _in_place(node, space))


def _in_place(node: Node, space: Space) -> frozenset[int]:
    """Not with several results, since a store may be moved before a load that it does not depend on."""
    if len(node.results) != 1:
        return frozenset()
    size = node.results[0].tensor.dtype.itemsize
    slots = [i for i, v in enumerate(node.operands) if v is not None]
    return frozenset(
        i for k, i in enumerate(slots)
        if space.is_linear(k) and not node.operands[i].is_const and space.types[k].dtype.itemsize == size  # type: ignore[union-attr]
    )  # fmt: skip
