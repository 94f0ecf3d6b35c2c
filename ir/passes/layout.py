"""Layout: data between convolutions and pools lies with its channels last.

Nodes that the target runs fastest in a layout get it; elementwise nodes, reductions and what only moves data follow their operands;
all others see row-major data. Where operands differ, and where a reshape keeps the channels, a layout goes on only if something
behind gains from it.
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
from ..types import TensorType, Type
from .manager import Context, register
from .movement import perm_of

# Nodes that take operand 0 in any layout, as their axes are logical; all operands of `concat` are such.
FOLLOWING = frozenset({"slice", "split", "pad", "resize", "reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_l2",
                       "group_norm", "instance_norm", "quantize_linear", "dequantize_linear",
                       "dynamic_quantize_linear"})  # fmt: skip


@register
@dataclass(frozen=True)
class LayoutPass:
    """Chooses layouts and inserts `to_layout`."""

    name: ClassVar[str] = "layout"

    def run(self, module: Module, ctx: Context) -> bool:
        assert ctx.target is not None, "the pass layout needs a target"
        changed = False
        for graph in module.open_graphs():
            changed |= _Assigner(graph, ctx.target, ctx.log).run()
        return changed


def _gaining(graph: Graph, target: Target) -> set[Value]:
    """The values that would better have their channels last: what follows operands leads from them to a node that is fastest so, or
    to a transpose to row-major that moves nothing then."""
    gaining: set[Value] = set()
    for node in reversed(list(graph.nodes)):
        wanted = target.layout_of(node) is not None
        through = (_follows(node) or node.op.has("view")) and any(r in gaining for r in node.results)
        for i in _data(node) if node.operands else ():
            v = node.operands[i]
            last = channels_last(v.type.rank or 0) if v is not None and isinstance(v.type, TensorType) else None
            if v is not None and last is not None and (wanted or _undone(node, last) or (through and _passes(node, v, last))):
                gaining.add(v)
    return gaining


def _undone(node: Node, layout: Layout) -> bool:
    """Whether a node is a transpose that makes row-major data of the layout, and moves nothing."""
    perm = perm_of(node) if node.op.name == "transpose" else None
    shape = node.operands[0].tensor.shape  # type: ignore[union-attr]
    return perm is not None and shape is not None and lies_alike(shape, layout, perm, None)


def _passes(node: Node, v: Value, layout: Layout) -> bool:
    """Whether the node's result has its channels last where its operand `v` has."""
    t = node.results[0].type
    if not isinstance(t, TensorType):
        return False
    if not node.op.has("view"):
        return t.rank == len(layout.perm) or not node.op.is_elementwise
    shape = v.tensor.shape
    return shape is not None and t.shape is not None and views_alike(shape, layout, t.shape, channels_last(len(t.shape)))


def _follows(node: Node) -> bool:
    return node.op.is_elementwise or node.op.name == "concat" or node.op.name in FOLLOWING


class _Assigner:
    def __init__(self, graph: Graph, target: Target, log: DecisionLog):
        self.graph, self.target, self.log = graph, target, log
        self.gaining = _gaining(graph, target)
        self.converted: dict[tuple[Value, Layout | None], Value] = {}

    def run(self) -> bool:
        """Whether any node was given a layout."""
        changed = False
        for node in self.graph.nodes:
            if (node.op.name == "transpose" and self._transpose(node)) or (node.op.has("view") and self._view(node)):
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

    def _view(self, node: Node) -> bool:
        """A reshape keeps channels last where it keeps the channels, and something behind gains from it: nothing is moved then."""
        x, result = node.operands[0], node.results[0]
        layout = x.type.layout if x is not None and isinstance(x.type, TensorType) else None
        if layout is None or result not in self.gaining or not _passes(node, x, layout):  # type: ignore[arg-type]
            return False
        self._result(node, channels_last(result.tensor.rank or 0))
        self.log.record("layout", node, "applied", f"{node.op.name} keeps its channels last, and moves nothing")
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
        if not _follows(node):
            return None
        types = [v.type for v in (node.operands[i] for i in _data(node)) if v is not None and not v.is_const]
        known = [t for t in types if isinstance(t, TensorType) and t.layout is not None]
        rank = max((t.rank or 0 for t in known), default=0)
        if node.op.is_elementwise and not (isinstance(node.result.type, TensorType) and node.result.type.rank == rank):
            return None
        layout = min((t.layout for t in known if t.rank == rank), key=str, default=None)
        if layout is None or any(r in self.gaining for r in node.results) or not any(_moves(t, layout) for t in types):
            return layout
        # What is row-major would be moved, and the result back: only for the epilogue of what made the other operand.
        return layout if node.op.is_elementwise and any(self._chained(v) for v in node.operands if v is not None) else None

    def _chained(self, v: Value) -> bool:
        """Whether `v` comes from a node that is fastest in a layout, through elementwise ones that nobody else reads."""
        while v.node is not None and len(v.uses) == 1 and v.node.op.is_elementwise:
            laid = [o for o in v.node.operands if o is not None and isinstance(o.type, TensorType) and o.type.layout is not None]
            if not laid:
                return False
            v = laid[0]
        return v.node is not None and len(v.uses) == 1 and self.target.layout_of(v.node) is not None

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
        if self._cast_to(v, layout):
            return v
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

    def _cast_to(self, v: Value, layout: Layout | None) -> bool:
        """Whether `v` is a cast for one reader, and its kernel can store it in the layout: then it does so."""
        node = v.node
        if node is None or node.op.name != "cast" or v.graph is not self.graph or len(v.uses) + len(v.output_of) != 1:
            return False
        before = v.tensor.layout
        self._result(node, layout)
        reason = self.target.refuses(node)
        if reason is not None:
            self._result(node, before)
            return False
        self.log.record("layout", node, "applied", f"cast stores in {layout or 'row-major'}")
        return True


def _moves(t: Type | None, layout: Layout) -> bool:
    """Whether a value of this type is row-major and must be moved to lie in the layout."""
    if not isinstance(t, TensorType) or t.layout is not None or t.rank != len(layout.perm):
        return False
    return t.shape is None or not lies_alike(t.shape, None, tuple(range(len(layout.perm))), layout)


def _data(node: Node) -> range:
    """Which operands lie in the node's layout."""
    return range(len(node.operands) if node.op.is_elementwise or node.op.name == "concat" else 1)


def _after(v: Value, graph: Graph) -> Node | None:
    """The node before which something that follows `v` at once must stand."""
    if v.node is None:
        return next(iter(graph), None)
    return v.node._next
