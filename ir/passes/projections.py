"""Projections of one input become one product where attention reads them as columns of its result.

Queries, keys and values [B,S,H*D] of one input (keys and values where queries come from elsewhere) are products with constant
weights, with or without a bias. One product with all columns of the weights fills a GPU better than three, and is one launch;
`split` cuts its result, and is fused into attention, which reads the columns where they lie. Where attentions of several layers
project one input, an encoder's result, one product serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ..core import Graph, Module, Node, Value
from ..op import OPS
from ..rewrite import Builder, sweep
from ..types import FLOATS
from .fuse import dissolve, fuse_attention
from .manager import Context, register

MOST_COLUMNS = 8192  # of a product for several attentions: its result lives until the last of them


class Projection(NamedTuple):
    """x @ weights + bias, and the nodes that compute it, the last one first."""

    x: Value
    weights: np.ndarray
    bias: np.ndarray | None
    nodes: tuple[Node, ...]


def _projection(v: Value | None, attention: Node) -> Projection | None:
    """What `v` is, if attention alone reads it."""
    add = None if v is None or v.tensor.rank != 3 or v.tensor.layout is not None else v.node
    if add is None or not _read_by(add, attention):
        return None
    product, bias = add, None
    if add.op.name == "add":
        found = next((pair for pair in (add.operands, add.operands[::-1]) if pair[1] is not None and pair[1].is_const), None)
        source = None if found is None or found[0] is None or found[0].type != v.type else found[0].node  # type: ignore[union-attr]
        if source is None or not _read_by(source, add):
            return None
        product, bias = source, found[1].array  # type: ignore[index, union-attr]
    if product.op.name != "matmul" or product.graph is not attention.graph:
        return None
    x, w = product.operands
    if x is None or w is None or not w.is_const or w.tensor.rank != 2 or w.tensor.dtype not in FLOATS:
        return None
    columns = w.tensor.shape[1]  # type: ignore[index]
    if bias is not None and (bias.size != columns or bias.shape[-1:] != (columns,)):
        return None
    nodes = (product,) if product is add else (add, product)
    return Projection(x, w.array, None if bias is None else bias.reshape(-1), nodes)  # type: ignore[arg-type]


def _read_by(node: Node, user: Node) -> bool:
    return len(node.results) == 1 and not node.results[0].is_output and set(node.results[0].users) == {user}


Read = tuple[Node, dict[Value, Projection]]  # an attention, and those of its operands that are merged


@register
@dataclass(frozen=True)
class MergeProjections:
    """Merges the projections of one input that attentions read, up to `most` columns of several; fuses each with what cuts them."""

    name: ClassVar[str] = "merge-projections"
    most: int = MOST_COLUMNS

    def run(self, module: Module, ctx: Context) -> bool:
        assert ctx.target is not None, "the pass merge-projections needs a target"
        changed = False
        for graph in module.open_graphs():
            for group in _groups(graph, self.most):
                merged = _merge(group, ctx)
                changed |= merged
                for read in group if not merged and len(group) > 1 else ():  # each by itself
                    changed |= _merge([read], ctx)
        return changed


def _groups(graph: Graph, most: int) -> list[list[Read]]:
    """The attentions that read several projections of one input, by that input."""
    groups: dict[Value, list[list[Read]]] = {}
    for node in graph.nodes:
        if node.op.name != "attention":
            continue
        found = {v: p for v in dict.fromkeys(node.operands[:3]) if (p := _projection(v, node)) is not None}
        by_input = [{v: p for v, p in found.items() if p.x is x} for x in dict.fromkeys(p.x for p in found.values())]
        mine = max(by_input, key=len, default={})
        if len(mine) < 2:
            continue
        here = groups.setdefault(next(iter(mine.values())).x, [[]])
        if sum(_columns(read) for read in here[-1]) + _columns((node, mine)) > most:  # type: ignore[arg-type]
            here.append([])
        here[-1].append((node, mine))  # type: ignore[arg-type]
    return [group for same in groups.values() for group in same if group]


def _columns(read: Read) -> int:
    return sum(p.weights.shape[1] for p in read[1].values())


def _merge(group: Sequence[Read], ctx: Context) -> bool:
    """Merges the projections of a group, and cuts them for each of its attentions."""
    merged = [p for _, found in group for p in found.values()]
    nodes = [n for p in merged for n in p.nodes]
    builders = [Builder(group[0][0], [loc for n in nodes for loc in n.locs])]
    product, at, reason = _product(merged, builders[0]), 0, None
    total, given = product.tensor.shape[2], [list(attention.operands) for attention, _ in group]  # type: ignore[index]
    for read in group:
        attention, found = read
        builders.append(Builder(attention, [loc for p in found.values() for n in p.nodes for loc in n.locs]))
        parts = _cut(product, [p.weights.shape[1] for p in found.values()], at, total, builders[-1])  # type: ignore[arg-type]
        known = dict(zip(found, parts))
        for i, v in enumerate(attention.operands[:3]):
            attention.set_operand(i, known.get(v, v))  # type: ignore[arg-type]
        reason = fuse_attention(attention, ctx.target)  # type: ignore[arg-type]
        at += _columns(read)
        if reason is not None:
            break
    if reason is None:
        sweep(nodes)
    else:
        for (attention, _), operands in zip(group, given):
            parent = attention.graph.parent  # type: ignore[union-attr]
            if parent is not None and parent.op.name == "fused":
                dissolve(parent)
            for i, v in enumerate(operands):
                attention.set_operand(i, v)
        for b in reversed(builders):
            b.undo()
    for attention, found in group:
        involved = [n for p in found.values() for n in p.nodes]
        ctx.log.record("merge projections", attention, "applied" if reason is None else "refused", reason or "", involved)
    return reason is None


def _product(merged: Sequence[Projection], b: Builder) -> Value:
    """All projections as one."""
    dtype, name = merged[0].weights.dtype, f"{b.before.name}.projections"
    x = merged[0].nodes[-1].operands[0]  # which an attention that was merged before may give
    y = b.op("matmul", x, b.const(np.concatenate([p.weights for p in merged], axis=1), f"{name}.weights"), result=name)
    if any(p.bias is not None for p in merged):
        biases = [np.full(p.weights.shape[1], -0.0, dtype) if p.bias is None else p.bias for p in merged]  # x + -0.0 is x
        y = b.op("add", y, b.const(np.concatenate(biases), f"{name}.bias"), result=name)
    return y  # type: ignore[no-any-return]


def _cut(product: Value, columns: Sequence[int], at: int, total: int, b: Builder) -> Sequence[Value]:
    """Columns of a product from `at` on, in parts of so many."""
    if len(set(columns)) == 1 and sum(columns) == total:
        return b.op(OPS["split"], product, axis=2, num_outputs=len(columns), results=len(columns))  # type: ignore[no-any-return]
    before, behind = [at] * (at > 0), [total - at - sum(columns)] * (at + sum(columns) < total)
    sizes = np.array([*before, *columns, *behind], np.int64)
    name = f"{product.name}.sizes"
    parts = b.op(OPS["split"], product, b.const(sizes, name), axis=2, results=len(sizes))
    return parts[len(before) : len(before) + len(columns)]  # type: ignore[no-any-return]
