"""A copy of a module in which every value has a name of its own and everything stands in ONNX's terms: `fused` nodes are replaced
by what their regions hold, and layouts, which say where elements lie and not what they are, are gone."""

from __future__ import annotations

from ...ir.core import Graph, Module, Node, Value
from ...ir.types import TensorType, Type

Values = dict[Value, Value]


def portable_copy(module: Module) -> Module:
    """The copy. It shares the contents of constants with `module`."""
    out = Module(module.name, module.opsets)
    out.meta, out.output_names, out.symbols = dict(module.meta), list(module.output_names), dict(module.symbols)
    values: Values = {}
    for v in module.main.inputs:
        values[v] = _input(v, out.main)
    for v in module.consts.values():
        values[v] = out.add_const(v.name, v.const, v.tensor.with_(layout=None))  # type: ignore[arg-type]
    copy_nodes(module.main, out.main, values)
    out.main.set_outputs(values[v] for v in module.main.outputs)
    return out


def _input(v: Value, graph: Graph) -> Value:
    new = graph.add_input(v.name, unlaid(v.type))
    new.dims = v.dims
    return new


def unlaid(t: Type | None) -> Type | None:
    """The type without a layout."""
    return t.with_(layout=None) if isinstance(t, TensorType) and t.layout is not None else t


def copy_nodes(source: Graph, to: Graph, values: Values, before: Node | None = None) -> list[Node]:
    """Copies the nodes of a graph to the end of another, or before one of its nodes; the new ones. `values` maps what they read
    and takes what they make."""
    made: list[Node] = []
    for node in source:
        operands = [None if v is None else values[v] for v in node.operands]
        if node.op.name == "to_layout":
            values[node.result] = operands[0]  # type: ignore[assignment]
        elif node.op.name == "fused":
            body = node.regions[0]
            values.update(zip(body.inputs, operands, strict=True))  # type: ignore[arg-type]
            made += copy_nodes(body, to, values, before)
            values.update((r, values[o]) for r, o in zip(node.results, body.outputs, strict=True))
        else:
            made.append(_copy_node(node, operands, to, values, before))
    return made


def _copy_node(node: Node, operands: list[Value | None], to: Graph, values: Values, before: Node | None) -> Node:
    regions = [_region(r, to.module, values) for r in node.regions]
    names, types = [r.name for r in node.results], [unlaid(r.type) for r in node.results]
    new = to.add(node.op, operands, dict(node.attrs), names=names, types=types, regions=regions, locs=node.locs, before=before)
    for old, r in zip(node.results, new.results):
        values[old], r.dims = r, old.dims
    return new


def _region(region: Graph, module: Module, values: Values) -> Graph:
    graph = Graph(region.name, module)
    values.update((v, _input(v, graph)) for v in region.inputs)
    copy_nodes(region, graph, values)
    graph.set_outputs(values[v] for v in region.outputs)
    return graph
