"""Casts that do not depend on each other become one kernel.

What the pass `precision` converts, and nothing else could take along, are mostly small tensors: caches that come and go in f32,
rows of tables. Their casts are made together where the first of them is read; those of outputs, at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from ..core import Graph, Module, Node
from ..target import Target
from ..types import BF16, F16, F32
from .fuse import dissolve, make_fused
from .manager import Context, register

TYPES = (F16, BF16, F32)


@dataclass
class _Group:
    """Casts between the same types; `made` is the last place where an operand is made, `read` the first where a result is read."""

    members: list[Node] = field(default_factory=list)
    made: float = -math.inf
    read: float = math.inf


@register
@dataclass(frozen=True)
class GroupCasts:
    """Makes casts of 16- and 32-bit floats one kernel, up to `most` of them, where that can be done at one place."""

    name: ClassVar[str] = "group-casts"
    most: int = 64

    def run(self, module: Module, ctx: Context) -> bool:
        assert ctx.target is not None, "the pass group-casts needs a target"
        changed = False
        for graph in module.open_graphs():
            for group in _groups(graph, self.most):
                if len(group.members) > 1:
                    changed |= _fuse(group, graph, ctx)
        return changed


def _groups(graph: Graph, most: int) -> list[_Group]:
    """All casts, each in the first group that it fits in."""
    order = graph.positions()
    found: list[tuple[int, float, Node]] = []
    for n in graph:
        if _can_group(n):
            producer = n.operands[0].node  # type: ignore[union-attr]
            readers = [_position(user, graph, order) for user in n.result.users]
            found.append((order.get(producer, -1) if producer else -1, min(readers, default=math.inf), n))  # type: ignore[arg-type]
    groups: dict[object, list[_Group]] = {}
    for made, read, n in sorted(found, key=lambda x: x[0]):
        key = n.operands[0].tensor.dtype, n.result.tensor.dtype, read == math.inf  # type: ignore[union-attr]
        here = groups.setdefault(key, [])
        group = next((g for g in here if made < g.read and read > g.made and len(g.members) < most), None)
        if group is None:
            group = _Group()
            here.append(group)
        group.members.append(n)
        group.made, group.read = max(group.made, made), min(group.read, read)
    return [g for same in groups.values() for g in same]


def _can_group(n: Node) -> bool:
    x = n.operands[0] if n.op.name == "cast" else None
    if x is None or x.is_const or x.tensor.dtype not in TYPES or x.tensor.shape is None:
        return False
    y = n.result.tensor
    return y.dtype in TYPES and x.tensor.layout == y.layout


def _position(user: Node, graph: Graph, order: dict[Node, int]) -> int:
    """Where a node, or the node in whose regions it stands, is in the graph."""
    while user.graph is not graph:
        assert user.graph is not None and user.graph.parent is not None
        user = user.graph.parent
    return order[user]


def _fuse(group: _Group, graph: Graph, ctx: Context) -> bool:
    """Makes a group one node where the first result of it is read, at the end of the graph where none is."""
    target: Target = ctx.target  # type: ignore[assignment]
    nodes = graph.nodes
    place = None if group.read == math.inf else nodes[int(group.read)]
    for n in group.members:
        graph.move(n, before=place)
    fused = make_fused(group.members, "casts", [n.result for n in group.members])
    reason = target.refuses(fused)
    ctx.log.record(f"group {len(group.members)} casts", fused, "refused" if reason else "applied", reason or "")
    if reason is not None:
        dissolve(fused)
    return reason is None
