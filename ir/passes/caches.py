"""Caches of keys and values are appended to by the attention that reads them.

Decoders return their keys and values [B,H,T,D] as a concatenation of those of the past and of the new ones. `attention` takes both
by themselves, and gives the concatenation as a result: one node, and one kernel, where there were three. The new ones, and the
queries, are then read as columns of their projection (heads.py) where that saves a split or a transpose.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from ..core import Module, Node, Value
from ..rewrite import Builder, Facts, attempt, refuse, sweep
from .heads import WITH_SPLITS
from .manager import Context, register

TITLE = "attention(q, concat(past, k), concat(past, v)) => attention(q, k, v, past, past)"


@register
@dataclass(frozen=True)
class Caches:
    """Appends keys and values to their caches in attention."""

    name: ClassVar[str] = "caches"

    def run(self, module: Module, ctx: Context) -> bool:
        assert ctx.target is not None, "the pass caches needs a target"
        changed, facts = False, Facts(module)
        for graph in [g for g in module.main.graphs() if not (g.parent and g.parent.op.has("isolated"))]:
            for node in graph.nodes:
                if node.op.name != "attention":
                    continue
                made = _append(node, ctx)
                changed |= made is not node
                changed |= attempt(WITH_SPLITS, made, ctx.log, facts)
        return changed


def _append(attention: Node, ctx: Context) -> Node:
    """Has an attention append to its caches; what is attention then."""
    q, k, v, mask = (attention.operand(i) for i in range(4))
    concats = [x.node for x in (k, v) if x is not None and _is_append(x, attention)]
    if len(concats) != 2:
        return attention
    graph, behind = attention.graph, attention._next
    assert graph is not None
    readers = _readers(concats, attention)
    reason = None
    if any(attention.operand(i) is not None for i in (4, 5, 6)) or len(attention.results) > 1:
        reason = refuse("there is a past already, or other results")
    elif attention.attr("is_causal") or max(attention.attr("left_window_size"), attention.attr("right_window_size")) >= 0:
        reason = refuse("with a past, queries count from its end")
    elif readers is None:
        reason = refuse("another operand is computed from the keys or values")
    else:
        (past_k, new_k), (past_v, new_v) = (n.operands for n in concats)
        kept = any(r.is_output or set(r.users) != {attention} for r in (n.result for n in concats))
        b = Builder(attention, [loc for n in concats for loc in n.locs])
        made = b.op(attention.op, q, new_k, new_v, mask, past_k, past_v, results=3 if kept else 1, **attention.attrs)
        y, *present = made if kept else (made,)
        found, wanted = [y.type, *(p.type for p in present)], [attention.result.type, k.type, v.type]  # type: ignore[union-attr]
        problem = ctx.target.refuses(y.node)  # type: ignore[union-attr]
        if problem is None and found == wanted[: len(found)]:
            for n in readers:
                graph.move(n, before=behind)
            for old, new in zip([attention.result, *(n.result for n in concats)], [y, *present]):
                old.name, new.name = new.name, old.name
                graph.replace_uses(old, new)
            sweep([attention, *concats])
            ctx.log.record(TITLE, y.node, "applied", involved=concats)
            return y.node  # type: ignore[no-any-return]
        b.undo()
        reason = refuse(problem or "types", found=found)
    ctx.log.record(TITLE, attention, "refused", str(reason), concats)
    return attention


def _is_append(v: Value, attention: Node) -> bool:
    """Whether `v` is something with something behind it along the keys."""
    node = v.node
    if node is None or node.op.name != "concat" or node.graph is not attention.graph or v.tensor.rank != 4:
        return False
    return len(node.operands) == 2 and node.attr("axis") % 4 == 2 and v.tensor.layout is None


def _readers(concats: Collection[Node], attention: Node) -> list[Node] | None:
    """What stands before the attention and is computed from the concatenations, in order; None where the attention reads that."""
    order = attention.graph.positions()  # type: ignore[union-attr]
    first, last = min(order[n] for n in concats), order[attention]
    known, found = {n.result for n in concats}, list[Node]()
    for n, at in order.items():
        if first < at < last and any(v in known for v in (*n.operands, *(n.captures() if n.regions else ()))):
            found.append(n)
            known.update(n.results)
    late = {r for n in found for r in n.results}
    return None if late & {*attention.operands} or set(concats) & {*found} else found
