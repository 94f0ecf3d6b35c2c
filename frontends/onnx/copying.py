"""A copy of a module in which every value has a name of its own and everything stands in ONNX's terms: `fused` nodes are replaced
by what their regions hold; layouts, which say where elements lie and not what they are, are gone, and so is `fail`, behind which
stands what fails."""

from __future__ import annotations

from ...ir.copying import Copier, Values
from ...ir.core import Graph, Module, Node, Value
from ...ir.types import TensorType, Type


def portable_copy(module: Module) -> Module:
    """The copy. It shares the contents of constants with `module`."""
    return Portable().module(module)


class Portable(Copier):
    """Copies without layouts and fused regions."""

    def type_of(self, v: Value) -> Type | None:
        return v.type.with_(layout=None) if isinstance(v.type, TensorType) and v.type.layout is not None else v.type

    def node(self, node: Node, to: Graph, values: Values, before: Node | None = None) -> list[Node]:
        if node.op.name not in ("to_layout", "fused", "fail"):
            return super().node(node, to, values, before)
        if node.op.name == "fail":
            return []
        operands = [None if v is None else values[v] for v in node.operands]
        if node.op.name == "to_layout":
            values[node.result] = operands[0]  # type: ignore[assignment]
            return []
        body = node.regions[0]
        values.update(zip(body.inputs, operands, strict=True))  # type: ignore[arg-type]
        made = self.nodes(body, to, values, before)
        values.update((r, values[o]) for r, o in zip(node.results, body.outputs, strict=True))
        return made
