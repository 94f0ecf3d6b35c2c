"""Projections of one input become one product where attention reads them as columns of its result.

Queries, keys and values [B,S,H*D] of one input (keys and values where queries come from elsewhere) are products with constant
weights, with or without a bias. One product with all columns of the weights fills a GPU better than three, and is one launch;
`split` cuts its result, and is fused into attention, which reads the columns where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ..core import Module, Node, Value
from ..op import OPS
from ..rewrite import Builder, sweep
from ..types import FLOATS
from .fuse import fuse_attention
from .manager import Context, register


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


@register
@dataclass(frozen=True)
class MergeProjections:
    """Merges the projections that one attention reads; fuses it with what cuts them."""

    name: ClassVar[str] = "merge-projections"

    def run(self, module: Module, ctx: Context) -> bool:
        assert ctx.target is not None, "the pass merge-projections needs a target"
        changed = False
        for graph in [g for g in module.main.graphs() if not (g.parent and g.parent.op.has("isolated"))]:
            for node in graph.nodes:
                if node.op.name == "attention":
                    changed |= _merge(node, ctx)
        return changed


def _merge(attention: Node, ctx: Context) -> bool:
    """Merges the largest group of an attention's projections that have one input."""
    given = list(attention.operands)
    found = {v: p for v in dict.fromkeys(given[:3]) if (p := _projection(v, attention)) is not None}
    groups = [[v for v in found if found[v].x is x] for x in dict.fromkeys(p.x for p in found.values())]
    group = max(groups, key=len, default=[])
    if len(group) < 2:
        return False
    merged = [found[v] for v in group]  # type: ignore[index]
    nodes = [n for p in merged for n in p.nodes]
    b = Builder(attention, [loc for n in nodes for loc in n.locs])
    parts = dict(zip(group, _parts(merged, b)))
    for i, v in enumerate(given[:3]):
        attention.set_operand(i, parts.get(v, v))
    reason = fuse_attention(attention, ctx.target)  # type: ignore[arg-type]
    if reason is not None:
        for i, v in enumerate(given):
            attention.set_operand(i, v)
        b.undo()
    else:
        sweep(nodes)
    ctx.log.record("merge projections", attention, "applied" if reason is None else "refused", reason or "", nodes)
    return reason is None


def _parts(merged: Sequence[Projection], b: Builder) -> tuple[Value, ...]:
    """The projections as parts of one."""
    sizes, dtype = np.array([p.weights.shape[1] for p in merged], np.int64), merged[0].weights.dtype
    name = f"{b.before.name}.projections"
    y = b.op("matmul", merged[0].x, b.const(np.concatenate([p.weights for p in merged], axis=1), f"{name}.weights"), result=name)
    if any(p.bias is not None for p in merged):
        none = (np.full(n, -0.0, dtype) for n in sizes)  # x + -0.0 is x
        biases = [zero if p.bias is None else p.bias for p, zero in zip(merged, none)]
        y = b.op("add", y, b.const(np.concatenate(biases), f"{name}.bias"), result=name)
    if len(set(sizes)) == 1:
        return b.op(OPS["split"], y, axis=2, num_outputs=len(sizes), results=len(sizes))
    return b.op(OPS["split"], y, b.const(sizes, f"{name}.sizes"), axis=2, results=len(sizes))
