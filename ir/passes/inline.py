"""Rules that put the body of an `if` with a known condition, or of a loop that runs at most once, in the place of the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core import Graph, Node, Value
from ..rewrite import Builder, Match, Pattern, Refusal, Rule, refuse
from ..types import TensorType


def _flag(v: Value | None) -> bool | None:
    """The truth of a constant condition."""
    return bool(v.const.array.ravel()[0]) if v is not None and v.is_const and v.tensor.size == 1 else None  # type: ignore[union-attr]


def _put_before(node: Node, region: Graph, inputs: Sequence[Value], b: Builder) -> list[Value]:
    """Moves the nodes of a region before the node that holds it; the values that the region returns."""
    assert node.graph is not None
    for inner, outer in zip(region.inputs, inputs, strict=True):
        node.graph.replace_uses(inner, outer)
    for n in region.nodes:
        node.graph.move(n, before=node)
        for r in n.results:
            if b.facts.names[r.name] > 1:  # another scope has a value of that name
                r.name = b.module.fresh(r.name)
    outputs = list(region.outputs)
    region.set_outputs(())
    return outputs


def _if(m: Match, b: Builder) -> Any:
    condition = _flag(m.root.operands[0])
    if condition is None:
        return None
    return _put_before(m.root, m.root.regions[0 if condition else 1], (), b)


def _trips(node: Node) -> int | Refusal:
    """How often a loop surely runs: 0 or 1."""
    count, go = node.operand(0), node.operand(1)
    body = node.regions[0]
    if go is not None and _flag(go) is False:
        return 0
    number = None if count is None or not count.is_const else int(count.const.array.ravel()[0])  # type: ignore[union-attr]
    if number is not None and number <= 0:
        return 0
    once = number == 1 or (_flag(body.outputs[0]) is False and (count is None or number is not None))
    if once and (go is None or _flag(go)):
        return 1
    return refuse("the number of iterations is not known to be 0 or 1", M=number)


def _loop(m: Match, b: Builder) -> Any:
    node = m.root
    trips, initial = _trips(node), node.operands[2:]
    if isinstance(trips, Refusal):
        return trips
    if any(v is None for v in initial):
        return refuse("a carried value is left out")
    scanned = node.results[len(initial) :]
    if trips == 0:
        if not all(isinstance(r.type, TensorType) and r.type.is_static and r.type.size == 0 for r in scanned):
            return refuse("the size of an empty scan output is not known")
        return [*initial, *(b.const(np.zeros(r.tensor.shape, r.tensor.dtype.np), r.name) for r in scanned)]  # type: ignore[arg-type]
    start = [b.const(np.array(0, np.int64), "iteration"), b.const(np.array(True), "go"), *initial]
    outputs = _put_before(node, node.regions[0], start, b)[1:]  # type: ignore[arg-type]
    axis = b.const(np.array([0], np.int64), "axes")
    return [*outputs[: len(initial)], *(b.op("unsqueeze", v, axis) for v in outputs[len(initial) :])]


RULES = (
    Rule("if(true) => its branch", Pattern("if"), _if),
    Rule("loop of at most one iteration => its body", Pattern("loop"), _loop),
)
