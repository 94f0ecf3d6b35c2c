"""Layout: data between convolutions and pools lies with its channels last.

Nodes that the target runs fastest in a layout get it; elementwise nodes, reductions and what only moves data follow their operands;
all others see row-major data.
What must change its layout goes through `to_layout`, once for each (value, layout). Logical axes and shapes stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core import Graph, Module, Node, Value
from ..layout import Layout, channels_last, lies_alike, views_alike
from ..op import OPS
from ..rewrite import DecisionLog
from ..target import Target
from ..types import TensorType
from .manager import Context, register
from .movement import perm_of

# Nodes that take operand 0 in any layout, as their axes are logical; all operands of `concat` are such.
FOLLOWING = frozenset({"slice", "split", "pad", "resize", "reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_l2",
                       "group_norm", "instance_norm"})  # fmt: skip


@register
@dataclass(frozen=True)
class LayoutPass:
    """Chooses layouts and inserts `to_layout`."""

    name: ClassVar[str] = "layout"

    def run(self, module: Module, ctx: Context) -> bool:
        assert ctx.target is not None, "the pass layout needs a target"
        changed = False
        for graph in [g for g in module.main.graphs() if not (g.parent and g.parent.op.has("isolated"))]:
            changed |= _Assigner(graph, ctx.target, ctx.log).run()
        return changed


class _Assigner:
    def __init__(self, graph: Graph, target: Target, log: DecisionLog):
        self.graph, self.target, self.log = graph, target, log
        self.converted: dict[tuple[Value, Layout | None], Value] = {}

    def run(self) -> bool:
        """Whether any node was given a layout."""
        changed = False
        for node in self.graph.nodes:
            if (node.op.name == "transpose" and self._transpose(node)) or (node.op.name == "reshape" and self._reshape(node)):
                changed = True
                continue
            wanted = self.target.layout_of(node)
            if wanted is None:
                wanted = self._layout_of_operands(node)
            changed |= wanted is not None
            if wanted is None or not self._run_in(node, wanted):
                self._row_major(node)
        self.graph.set_outputs([self._as(v, None, None) for v in self.graph.outputs])
        return changed

    def _transpose(self, node: Node) -> bool:
        """A transpose reads any layout. Its result gets the one in which it is the bytes of its operand, if that is row-major or
        has its channels last: nothing is moved then."""
        x, perm = node.operands[0], perm_of(node)
        if x is None or x.is_const or perm is None or x.tensor.shape is None:
            return False
        for layout in (None, channels_last(len(perm))):
            if (x.tensor.layout or layout) is not None and lies_alike(x.tensor.shape, x.tensor.layout, perm, layout):
                self._result(node, layout)
                self.log.record("layout", node, "applied", f"a transpose to {layout or 'row-major'} that moves nothing")
                return True
        return x.tensor.layout is not None and self.target.refuses(node) is None

    def _reshape(self, node: Node) -> bool:
        """A reshape of spatial axes keeps its channels last where all that read it are transposes that give row-major data then,
        as those that make patches of an image a sequence: nothing is moved."""
        x, y = node.operands[0], node.result
        if x is None or x.tensor.layout is None or y.tensor.rank is None or y.is_output:
            return False
        layout = channels_last(y.tensor.rank)
        perms = [perm_of(user) if user.op.name == "transpose" else None for user in y.users]
        row_major = all(p is not None and lies_alike(y.tensor.shape, layout, p, None) for p in perms)  # type: ignore[arg-type]
        if not perms or not row_major or not views_alike(x.tensor.shape, x.tensor.layout, y.tensor.shape, layout):  # type: ignore[arg-type]
            return False
        self._result(node, layout)
        self.log.record("layout", node, "applied", f"a reshape in {layout} that moves nothing")
        return True

    def _run_in(self, node: Node, layout: Layout) -> bool:
        """Gives the node's data operands and results the layout; takes it back where the target has no kernel for that."""
        rank = len(layout.perm)
        data = range(0) if self._stays(node) else _data(node)
        for i, v in enumerate(node.operands):
            full = v is not None and isinstance(v.type, TensorType) and v.type.rank == rank
            self._set(node, i, layout if i in data and full else None)
        self._result(node, layout)
        reason = self.target.refuses(node)
        if reason is None:
            if not node.op.is_elementwise:
                self.log.record("layout", node, "applied", f"{node.op.name} runs in {layout}")
            return True
        self.log.record("layout", node, "refused", f"{node.op.name} in {layout}: {reason}")
        self._result(node, None)
        return False

    def _stays(self, node: Node) -> bool:
        """Whether a row-major operand 0 needs no conversion."""
        x = node.operands[0]
        return x is not None and x.tensor.layout is None and self.target.reads_row_major(node)

    def _layout_of_operands(self, node: Node) -> Layout | None:
        """The layout that the operands of a node which follows them have, where they have one."""
        if not (node.op.is_elementwise or node.op.name == "concat" or node.op.name in FOLLOWING):
            return None
        types = [v.type for v in (node.operands[i] for i in _data(node)) if v is not None and not v.is_const]
        known = [t for t in types if isinstance(t, TensorType) and t.layout is not None]
        rank = max((t.rank or 0 for t in known), default=0)
        if node.op.is_elementwise and not (isinstance(node.result.type, TensorType) and node.result.type.rank == rank):
            return None
        return min((t.layout for t in known if t.rank == rank), key=str, default=None)

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

    def _result(self, node: Node, layout: Layout | None) -> None:
        for r in node.results:
            if isinstance(r.type, TensorType) and (layout is None or r.type.rank == len(layout.perm)):
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
            node = self.graph.add(OPS["to_layout"], [v], {"layout": str(layout or "")}, names=[name], before=place,
                                  types=[v.type.with_(layout=layout)], locs=source.locs if source else ())  # fmt: skip
            if v.graph is not self.graph:
                return node.result  # a constant or captured value: not known to come before other readers
            self.converted[key] = node.result
        return self.converted[key]


def _data(node: Node) -> range:
    """Which operands lie in the node's layout."""
    return range(len(node.operands) if node.op.is_elementwise or node.op.name == "concat" else 1)


def _after(v: Value, graph: Graph) -> Node | None:
    """The node before which something that follows `v` at once must stand."""
    if v.node is None:
        return next(iter(graph), None)
    return v.node._next
