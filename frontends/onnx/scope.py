"""Names and their order: which value a name means, and an order in which a graph's nodes can be read."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx

from ...ir.errors import LimitError


class Scope:
    """Values by name; a region sees what the graphs around it define. `defined` answers what this graph itself defines."""

    __slots__ = ("_outer", "_values")

    def __init__(self, outer: Scope | None = None):
        self._outer, self._values = outer, dict[str, Any]()

    def defined(self, name: str) -> bool:
        return name in self._values

    def define(self, name: str, value: Any) -> None:
        self._values[name] = value

    def get(self, name: str) -> Any:
        """The value of `name`, None where nothing of that name is visible."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._values:
                return scope._values[name]
            scope = scope._outer
        return None


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds as attributes."""
    for a in node.attribute:
        if a.HasField("g"):
            yield a.g
        yield from a.graphs


def reads(node: onnx.NodeProto, depth: int) -> set[str]:
    """The names that a node reads, those that its regions capture included. Raises LimitError below `depth` nested graphs."""
    names = {n for n in node.input if n}
    for g in subgraphs(node):
        if depth <= 0:
            raise LimitError("graphs are nested deeper than the limit; raise Limits.depth to allow it")
        inside = {i.name for i in g.input} | {i.name for i in g.initializer} | {i.values.name for i in g.sparse_initializer}
        inside.update(o for n in g.node for o in n.output)
        for n in g.node:
            names |= reads(n, depth - 1) - inside
        names |= {o.name for o in g.output} - inside
    return names


def ordered(nodes: Sequence[onnx.NodeProto], known: Iterable[str], depth: int) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes in an order in which each comes after those that it reads, and those that no order serves (cycles).

    ONNX demands that order; models that break it, but hold no cycle, are read all the same. Where the order is right
    already it stays. `known` are the names of inputs and initializers.
    """
    given = set(known)
    if _in_order(nodes, given):
        return list(nodes), []
    made = {o: i for i, n in enumerate(nodes) for o in n.output if o}
    missing: list[set[int]] = []
    sorted_already = True
    for i, n in enumerate(nodes):
        names = reads(n, depth) if n.attribute and any(True for _ in subgraphs(n)) else n.input  # graphs may capture
        before = {made[x] for x in names if x in made and x not in given}
        sorted_already &= all(b < i for b in before)
        missing.append(before)
    if sorted_already:
        return list(nodes), []
    readers: dict[int, list[int]] = {}
    for i, before in enumerate(missing):
        for b in before:
            readers.setdefault(b, []).append(i)
    ready = [i for i, before in enumerate(missing) if not before]  # already a heap: increasing
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for r in readers.get(i, ()):
            missing[r].discard(i)
            if not missing[r]:
                heapq.heappush(ready, r)
    left = set(range(len(nodes))) - set(order)
    return [nodes[i] for i in order], [nodes[i] for i in sorted(left)]


def _in_order(nodes: Sequence[onnx.NodeProto], known: set[str]) -> bool:
    """Whether every node plainly reads only what is known or came before; False also where regions make that hard to say."""
    seen = known | {""}
    for n in nodes:
        if not seen.issuperset(n.input) or any(a.HasField("g") or a.graphs for a in n.attribute):
            return False
        seen.update(n.output)
    return True
