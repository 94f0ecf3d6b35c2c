"""Layout: data between convolutions and pools lies with its channels last.

Nodes that the target runs fastest in a layout get it; elementwise nodes follow their operands; all others see row-major data.
What must change its layout goes through `to_layout`, once for each (value, layout). Logical axes and shapes stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core import Graph, Module, Node, Value
from ..layout import Layout
from ..op import OPS
from ..rewrite import DecisionLog
from ..target import Target
from ..types import TensorType
from .manager import Context, register


@register
@dataclass(frozen=True)
class LayoutPass:
    """Chooses layouts and inserts `to_layout`."""

    name: ClassVar[str] = "layout"

    def run(self, module: Module, ctx: Context) -> None:
        assert ctx.target is not None, "the pass layout needs a target"
        for graph in [g for g in module.main.graphs() if not (g.parent and g.parent.op.has("isolated"))]:
            _Assigner(graph, ctx.target, ctx.log).run()


class _Assigner:
    def __init__(self, graph: Graph, target: Target, log: DecisionLog):
        self.graph, self.target, self.log = graph, target, log
        self.converted: dict[tuple[Value, Layout | None], Value] = {}

    def run(self) -> None:
        for node in self.graph.nodes:
            wanted = self.target.layout_of(node)
            if wanted is not None and self.target.refuses(node) is None:
                self._prefer(node, wanted)
            elif node.op.is_elementwise or node.op.has("any_layout"):
                self._follow(node)
            else:
                self._row_major(node)
        self.graph.set_outputs([self._as(v, None, None) for v in self.graph.outputs])

    def _prefer(self, node: Node, layout: Layout) -> None:
        self._set(node, 0, layout)
        for i in range(1, len(node.operands)):
            self._set(node, i, None)
        self._result(node, layout)
        self.log.record("layout", node, "applied", f"{node.op.name} runs in {layout}")

    def _follow(self, node: Node) -> None:
        """An elementwise node runs in the layout of its full-rank operands; the others are converted to it."""
        rank = node.result.tensor.rank if isinstance(node.result.type, TensorType) else None
        full = [i for i, v in enumerate(node.operands) if v is not None and isinstance(v.type, TensorType) and v.type.rank == rank]
        layouts = {node.operands[i].tensor.layout for i in full if not node.operands[i].is_const} - {None}  # type: ignore[union-attr]
        if rank is None or not layouts:
            return self._row_major(node)
        layout = sorted(layouts, key=str)[0]
        for i in full:
            self._set(node, i, layout)
        self._result(node, layout)

    def _row_major(self, node: Node) -> None:
        for i in range(len(node.operands)):
            self._set(node, i, None)
        for v in node.captures() if node.regions else ():
            if isinstance(v.type, TensorType) and v.type.layout is not None:
                self._in_regions(node, v)

    def _in_regions(self, node: Node, v: Value) -> None:
        """What regions read of outside is row-major."""
        plain = self._as(v, None, node)
        inside = {g for r in node.regions for g in r.graphs()}
        for user, i in list(v.uses):
            if user.graph in inside:
                user.set_operand(i, plain)
        for g, _ in list(v.output_of):
            if g in inside:
                g.set_outputs(plain if o is v else o for o in g.outputs)

    def _result(self, node: Node, layout: Layout) -> None:
        for r in node.results:
            if isinstance(r.type, TensorType) and r.type.rank == len(layout.perm):
                r.type = r.type.with_(layout=layout)

    def _set(self, node: Node, i: int, layout: Layout | None) -> None:
        v = node.operands[i]
        if v is not None and isinstance(v.type, TensorType):
            new = self._as(v, layout, node)
            if new is not v:
                node.set_operand(i, new)

    def _as(self, v: Value, layout: Layout | None, before: Node | None) -> Value:
        """`v` in the given layout."""
        if not isinstance(v.type, TensorType) or v.type.layout == layout:
            return v
        source = v.node
        if source is not None and source.op.name == "to_layout" and source.operands[0].type.layout == layout:  # type: ignore[union-attr]
            return source.operands[0]  # type: ignore[return-value]
        key = (v, layout)
        if key not in self.converted:
            # Right behind its producer, where every later reader can see it.
            place = _after(v, self.graph) if v.graph is self.graph else before
            name = f"{v.name}.{layout or 'plain'}"
            node = self.graph.add(OPS["to_layout"], [v], {"layout": str(layout or "")}, names=[name],
                                  types=[v.type.with_(layout=layout)], locs=source.locs if source else (), before=place)  # fmt: skip
            if v.graph is not self.graph:
                return node.result  # a constant or captured value: not known to come before other readers
            self.converted[key] = node.result
        return self.converted[key]


def _after(v: Value, graph: Graph) -> Node | None:
    """The node before which something that follows `v` at once must stand."""
    if v.node is None:
        return next(iter(graph), None)
    return v.node._next
