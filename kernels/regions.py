"""Regions of elementwise nodes: what a fused node, or a node by itself, computes for one element, and its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..ir.core import Graph, Node, Value
from ..ir.scalar import Expr, const, trace
from ..ir.types import TensorType
from .printer import Printer, literal, supported
from .spec import Refusal

MOST_OPERANDS = 256  # of one loop: the time of compiling grows faster than their number


@dataclass
class Region:
    """What a loop computes: the body of a fused node, or one node by itself.

    `inputs` are the values that stand for the node's operands, `nodes` what is computed, `outputs` what is stored.
    """

    inputs: list[Value | None]
    nodes: list[Node]
    outputs: list[Value]
    constants: dict[Value, Expr] = field(default_factory=dict)  # operands that are one known number


def region_of(node: Node) -> Region:
    """The region of a fused node, or of a single one."""
    if node.op.name != "fused":
        return Region(list(node.operands), [node], list(node.results), _numbers(node.operands, node.operands))
    body: Graph = node.regions[0]
    inner = [v for n in body for v in n.operands]
    numbers = _numbers(body.inputs, node.operands) | _numbers(inner, inner)
    return Region(list(body.inputs), body.nodes, list(body.outputs), numbers)


def _numbers(names: Sequence[Value | None], values: Sequence[Value | None]) -> dict[Value, Expr]:
    """The constants of one element among `values`, as expressions, under the values of `names` that stand for them."""
    out = {}
    for name, v in zip(names, values, strict=True):
        if name is not None and v is not None and v.is_const and v.tensor.size == 1 and supported(v.tensor.dtype):
            out[name] = const(v.array.reshape(())[()], v.tensor.dtype)  # type: ignore[union-attr]
    return out


def print_nodes(printer: Printer, nodes: Sequence[Node], env: dict[Value, str | Expr]) -> None:
    """Prints elementwise nodes; `env` holds what stands for their operands and takes their results."""
    for n in nodes:
        assert n.op.scalar is not None
        e = trace(n.op.scalar, [None if v is None else v.tensor.dtype for v in n.operands], n.all_attrs())
        env[n.result] = printer.value(e, [env[v] if v is not None else "" for v in n.operands])


def refuse_region(node: Node, region: Region) -> Refusal | None:
    """Why a region of elementwise nodes cannot become a loop."""
    known = set(region.inputs) | set(region.constants) | {r for n in region.nodes for r in n.results}
    for n in region.nodes:
        if not n.op.is_elementwise:
            return Refusal(f"a loop holds elementwise operators only, not {n.op.name}")
        for v in (*n.operands, *n.results):
            if v is None:
                continue
            if not isinstance(v.type, TensorType) or not supported(v.type.dtype):
                return Refusal("an element type that kernels do not compute with", {f"%{v.name}": v.type})
            if v not in known:
                return Refusal("a constant of many elements that is no operand", {f"%{v.name}": v.type})
    return None


def named(x: str | Expr) -> str:
    return literal(x.value, x.dtype) if isinstance(x, Expr) else x
