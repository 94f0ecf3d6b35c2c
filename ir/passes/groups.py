"""Keys and values that are repeated for groups of query heads: attention reads each once.

Exporters of models with fewer heads of keys than of queries repeat each, [B,G,T,D] to [B,G,R,T,D] to [B,G*R,T,D], as torch has to;
`attention` shares a head of keys among neighbouring heads of queries by itself.
"""

from __future__ import annotations

from typing import Any

from ..core import Node, Value
from ..rewrite import Builder, Match, Pattern, Rule, refuse
from .movement import VIEWS


def _repeated(v: Value) -> tuple[Value, list[Node]] | None:
    """What `v` repeats along its heads, each as often as the others, and the nodes between, the last one first."""
    nodes: list[Node] = []
    for names in (VIEWS, ("expand",), VIEWS):
        node = v.node if not nodes else nodes[-1].operands[0].node  # type: ignore[union-attr]
        if node is None or node.op.name not in names or node.graph is not v.graph or node.operands[0] is None:
            return None
        nodes.append(node)
    x = nodes[-1].operands[0]
    shapes = [t.tensor.shape for t in (v, nodes[0].operands[0], nodes[1].operands[0], x)]  # type: ignore[union-attr]
    if any(s is None or len(s) != rank for s, rank in zip(shapes, (4, 5, 5, 4))):
        return None
    whole, wide, narrow, small = shapes
    b, heads, length, size = small  # type: ignore[misc]
    often = wide[2]  # type: ignore[index]
    if not isinstance(heads, int) or not isinstance(often, int) or heads < 1 or often < 1:
        return None
    same = narrow == (b, heads, 1, length, size) and wide == (b, heads, often, length, size)
    return (x, nodes) if same and whole == (b, heads * often, length, size) else None  # type: ignore[return-value]


def _build(m: Match, b: Builder) -> Any:
    node = m.root
    found = [_repeated(v) for v in node.operands[1:3]]  # type: ignore[arg-type]
    (k, v) = found
    if k is None or v is None:
        return None
    if len(node.results) > 1 or node.operand(4) is not None:
        return refuse("keys and values are results, too")
    if k[0].tensor.shape[:2] != v[0].tensor.shape[:2]:  # type: ignore[index]
        return refuse("keys and values have different heads", k=k[0].type, v=v[0].type)
    m.inner.extend([*k[1], *v[1]])
    return b.op("attention", node.operands[0], k[0], v[0], *node.operands[3:], **node.attrs)


RULE = Rule(
    "attention(q, repeat(k), repeat(v)) => attention(q, k, v)", Pattern("attention", "q", "k", "v"), _build, keeps_inner=True
)
