"""softmax(q k' * scale + mask) v, as torch and Hugging Face's exports spell it, made one `attention` where the target serves that.

The factor stands at the scores, at q, or as its square root at q and k. A row that the mask closes with -inf everywhere gives
zeros, as `attention` defines it, where the spelling gives NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..core import Value
from ..rewrite import Builder, Match, Pattern, Rule, outside_use, refuse, scalar_constant
from ..target import Target
from ..types import FLOATS


def _unscaled(v: Value, m: Match) -> tuple[Value, float]:
    """`v` without a product with (or quotient by) one constant number, and the factor."""
    node = v.node
    if node is None or node.op.name not in ("mul", "div") or node.graph is not m.root.graph:
        return v, 1.0
    pairs = [tuple(node.operands)] + ([tuple(node.operands[::-1])] if node.op.name == "mul" else [])
    for x, c in pairs:
        factor = scalar_constant(c)
        if x is not None and factor and math.isfinite(factor) and x.type == v.type:
            m.inner.append(node)
            return x, factor if node.op.name == "mul" else 1 / factor
    return v, 1.0


def _masked(v: Value, m: Match) -> tuple[Value, list[Value]] | None:
    """The scores, and what is added to them (a mask, a bias of positions): what leads to a product of matrices is the scores."""
    added: list[Value] = []
    while (node := v.node) is not None and node.op.name == "add" and node.graph is m.root.graph:
        pairs = (node.operands, node.operands[::-1])
        found = next(((x, y) for x, y in pairs if x is not None and y is not None and x.type == v.type and _is_scores(x)), None)
        if found is None:
            return None
        m.inner.append(node)
        v = found[0]
        added.append(found[1])
    return v, added


def _is_scores(v: Value) -> bool:
    """Whether `v` is a matmul, perhaps scaled, or one to which one thing is added."""
    node = v.node
    added = node is not None and node.op.name == "add"
    return _is_product(v) or (added and any(o is not None and _is_product(o) for o in node.operands))  # type: ignore[union-attr]


def _is_product(v: Value) -> bool:
    """Whether `v` is a matmul, perhaps scaled."""
    node = v.node
    if node is not None and node.op.name in ("mul", "div"):
        node = next((o.node for o in node.operands if o is not None and o.node is not None and o.node.op.name == "matmul"), None)
    return node is not None and node.op.name == "matmul"


def _build(target: Target | None) -> Callable[[Match, Builder], Any]:
    def build(m: Match, b: Builder) -> Any:
        softmax, v = m.node("softmax"), m["v"]
        rank = softmax.result.tensor.rank
        if rank != 4 or softmax.attr("axis") not in (-1, 3) or v.tensor.dtype not in FLOATS or v.tensor.rank != 4:
            return refuse("no softmax along the keys of [batch, heads, queries, keys]", type=softmax.result.type)
        found = _masked(m["s"], m)
        if found is None:
            return refuse("what is added are no scores and a mask")
        (product_sum, added), mask = found, None
        scores, scale = _unscaled(product_sum, m)
        product = scores.node
        if product is None or product.op.name != "matmul":
            return refuse("the scores are no product of matrices")
        m.inner.append(product)
        refusal = outside_use(m)
        if refusal is not None:
            return refusal
        (q, at_q), (k, at_k) = (_unscaled(x, m) for x in product.operands)  # type: ignore[arg-type]
        heads = [x.tensor.shape[1] if x.tensor.rank == 4 else None for x in (q, k, v)]  # type: ignore[index]
        if heads[0] is None or len(set(heads)) > 1:
            return refuse("queries, keys and values have different heads", heads=heads)
        if scale * at_q * at_k <= 0:
            return refuse("the factor is not positive", scale=scale * at_q * at_k)
        keys = b.op("transpose", k, perm=(0, 1, 3, 2))
        for x in added:
            mask = x if mask is None else b.op("add", x, mask)
        y = b.op("attention", q, keys, v, mask, scale=scale * at_q * at_k)
        reason = "there is no target" if target is None else target.refuses(y.node)
        if reason is not None or y.type != m.root.result.type:
            b.undo()
            return refuse(reason or "types", result=m.root.result.type)
        return y

    return build


def rule(target: Target | None) -> Rule:
    """The rule for a target, which refuses where the target has no kernel."""
    pattern = Pattern("matmul", Pattern("softmax", "s", bind="softmax"), "v")
    return Rule("softmax(q k' * scale + mask) v => attention(q, k, v, mask)", pattern, _build(target), keeps_inner=True)
