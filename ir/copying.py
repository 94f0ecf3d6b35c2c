"""Copies of nodes, graphs and modules."""

from __future__ import annotations

from collections.abc import Iterable

from .core import Graph, Module, Node, Value
from .types import Type

Values = dict[Value, Value]


class Copier:
    """Copies what it is given as it is; subclasses change types, or what becomes of a node.

    `values` maps what copies read in the place of what their originals read, and takes what they make; what it does not have is
    read as it is.
    """

    def type_of(self, v: Value) -> Type | None:
        """The type of a copy; None: it is not known yet."""
        return v.type

    def module(self, module: Module) -> Module:
        """A copy that shares the contents of constants."""
        out = Module(module.name, module.opsets)
        out.meta, out.output_names, out.symbols = dict(module.meta), list(module.output_names), dict(module.symbols)
        values: Values = {v: self._input(v, out.main) for v in module.main.inputs}
        values |= {v: out.add_const(v.name, v.const, self.type_of(v)) for v in module.consts.values()}  # type: ignore[arg-type]
        self.nodes(module.main, out.main, values)
        out.main.set_outputs(values[v] for v in module.main.outputs)
        return out

    def nodes(self, source: Iterable[Node], to: Graph, values: Values, before: Node | None = None) -> list[Node]:
        """Copies at the end of a graph, or before one of its nodes; the new ones."""
        return [new for node in source for new in self.node(node, to, values, before)]

    def node(self, node: Node, to: Graph, values: Values, before: Node | None = None) -> list[Node]:
        """What becomes of one node."""
        regions = [self.region(r, to.module, values) for r in node.regions]
        operands = [None if v is None else values.get(v, v) for v in node.operands]
        names, types = [r.name for r in node.results], [self.type_of(r) for r in node.results]
        new = to.add(node.op, operands, dict(node.attrs), names=names, types=types, regions=regions, locs=node.locs, before=before)
        for old, r in zip(node.results, new.results, strict=True):
            values[old], r.dims = r, old.dims
        return [new]

    def region(self, region: Graph, module: Module, values: Values) -> Graph:
        graph = Graph(region.name, module)
        values.update((v, self._input(v, graph)) for v in region.inputs)
        self.nodes(region, graph, values)
        graph.set_outputs(values.get(v, v) for v in region.outputs)
        return graph

    def _input(self, v: Value, graph: Graph) -> Value:
        new = graph.add_input(v.name, self.type_of(v))
        new.dims = v.dims
        return new
