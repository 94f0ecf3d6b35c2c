"""Caches of keys and values are appended to by the attention that reads them.

Decoders return their keys and values [B,H,T,D] as a concatenation of those of the past and of the new ones. `attention` takes both
by themselves, and gives the concatenation as a result: one node, and one kernel, where there were three. Before that, keys and
values that are repeated for groups of queries are read as they are (groups.py); after it, the new ones and the queries are read as
columns of their projection (heads.py), where that saves a split or a transpose.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..core import Module, Node, Value
from ..rewrite import Builder, rewrite, sweep
from ..target import Target
from .groups import RULE
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
        changed = rewrite(module, [RULE], ctx.log) > 0
        for graph in module.open_graphs():
            for node in graph.nodes:
                changed |= node.op.name == "attention" and _append(node, ctx)
        return rewrite(module, [WITH_SPLITS], ctx.log) > 0 or changed


def _append(attention: Node, ctx: Context) -> bool:
    """Has an attention append to its caches; whether it does."""
    concats = [n for v in attention.operands[1:3] if (n := _concat(v, attention)) is not None]
    if len(concats) != 2:
        return False
    readers = _readers(concats, attention)
    reason = _refusal(attention, readers)
    if reason is None:
        made = _appending(attention, concats, ctx.target)  # type: ignore[arg-type]
        if isinstance(made, Node):
            _replace(attention, concats, made, readers or ())
            ctx.log.record(TITLE, made, "applied", involved=concats)
            return True
        reason = made
    ctx.log.record(TITLE, attention, "refused", reason, concats)
    return False


def _concat(v: Value | None, attention: Node) -> Node | None:
    """What makes `v`, where that puts something behind something along the keys."""
    node = None if v is None else v.node
    if v is None or node is None or node.op.name != "concat" or node.graph is not attention.graph or v.tensor.rank != 4:
        return None
    return node if len(node.operands) == 2 and node.attr("axis") % 4 == 2 and v.tensor.layout is None else None


def _refusal(attention: Node, readers: list[Node] | None) -> str | None:
    if any(attention.operand(i) is not None for i in (4, 5, 6)) or len(attention.results) > 1:
        return "there is a past already, or other results"
    if attention.attr("is_causal") or max(attention.attr("left_window_size"), attention.attr("right_window_size")) >= 0:
        return "with a past, queries count from its end"
    return "another operand is computed from the keys or values" if readers is None else None


def _appending(attention: Node, concats: Sequence[Node], target: Target) -> Node | str:
    """An attention that appends as the concatenations do, in front of the one that is there; why there is none."""
    (past_k, new_k), (past_v, new_v) = (n.operands for n in concats)
    kept = any(n.result.is_output or set(n.result.users) != {attention} for n in concats)
    b = Builder(attention, [loc for n in concats for loc in n.locs])
    given = attention.operands[0], new_k, new_v, attention.operand(3), past_k, past_v
    made = b.op(attention.op, *given, results=3 if kept else 1, **attention.attrs)
    node: Node = made[0].node if kept else made.node
    reason, wanted = target.refuses(node), [attention.result.type, *(n.result.type for n in concats)]
    if reason is None and all(r.type == t for r, t in zip(node.results, wanted)):
        return node
    b.undo()
    return reason or "the types are others"


def _replace(attention: Node, concats: Sequence[Node], made: Node, readers: Iterable[Node]) -> None:
    """Puts what was made in the place of all three; what reads the caches comes behind it."""
    graph, behind = attention.graph, attention._next
    assert graph is not None
    for n in readers:
        graph.move(n, before=behind)
    for old, new in zip([attention.result, *(n.result for n in concats)], made.results):
        old.name, new.name = new.name, old.name
        graph.replace_uses(old, new)
    sweep([attention, *concats])


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
