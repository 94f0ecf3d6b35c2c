"""Attention reads heads where projections leave them.

Exporters cut the last axis of a projection [B,S,H*D] into heads and transpose these to [B,H,S,D], or cut one projection into
queries, keys and values first. `attention` takes [B,S,H*D] as well: where all three are columns of such tensors, found by
following views, transposes, splits and slices up, it reads them there, and gives its result so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..core import Node, Value
from ..infer import contents
from ..rewrite import Builder, Match, Pattern, Refusal, Rule, refuse
from ..symbols import DimLike, exact_quotient, product, symbols_of
from ..types import Shape
from .movement import VIEWS, perm_of, shape_operand, slice_range

DEEPEST = 16  # nodes between attention and what it reads


@dataclass(frozen=True)
class View:
    """A value as a part of `base`: its element 0 is `at`, its axes have `dims` and `steps`, in elements. `nodes` lie between, the
    last one first."""

    base: Value
    at: DimLike
    dims: Shape
    steps: tuple[DimLike, ...]
    nodes: tuple[Node, ...] = ()


def view_of(v: Value, depth: int = DEEPEST) -> View | None:
    """A value as a part of what it is a view of, of itself where it is none; None where its rank is not known."""
    shape, node = v.tensor.shape, v.node
    if shape is None or v.tensor.layout is not None:
        return None
    if node is not None and node.graph is v.graph and depth and node.operands and node.operands[0] is not None:
        x = view_of(node.operands[0], depth - 1) if node.op.name in (*VIEWS, "transpose", "split", "slice", "gather") else None
        part = None if x is None or x.base.graph is not v.graph else _part(x, node, v, shape)
        if part is not None:
            return replace(part, dims=shape, nodes=(node, *part.nodes))
    return View(v, 0, shape, _steps(shape))


def _part(x: View, node: Node, v: Value, shape: Shape) -> View | None:
    """The result `v` of a node as a part of what its operand is a part of."""
    if node.op.name in VIEWS:
        steps = _reshaped(x, shape)
        return None if steps is None else replace(x, steps=steps)
    if node.op.name == "transpose":
        perm = perm_of(node)
        return None if perm is None else replace(x, steps=tuple(x.steps[a] for a in perm))
    if node.op.name == "split":
        axis = node.attr("axis") % len(shape)
        before = [r.tensor.shape for r in node.results[: v.index]]
        if any(s is None for s in before):
            return None
        return replace(x, at=x.at + sum(s[axis] for s in before) * x.steps[axis])  # type: ignore[index, misc]
    if node.op.name == "slice":
        found = slice_range(node)
        return None if found is None else replace(x, at=x.at + found[1] * x.steps[found[0]])
    axis, number = node.attr("axis") % len(x.dims), contents(node.operand(1))
    if number is None or number.ndim or not isinstance(n := x.dims[axis], int) or not -n <= number < n:
        return None
    return replace(x, at=x.at + int(number) % n * x.steps[axis], steps=x.steps[:axis] + x.steps[axis + 1 :])


def _steps(shape: Sequence[DimLike]) -> tuple[DimLike, ...]:
    """The steps of a tensor in row-major order."""
    return tuple(product(shape[a + 1 :]) for a in range(len(shape)))


def _reshaped(x: View, shape: Shape) -> tuple[DimLike, ...] | None:
    """The steps of a reshape of `x` that moves nothing: of anything where all lies in order, else axes may be cut only."""
    if x.steps == _steps(x.dims):
        return _steps(shape)
    out: list[DimLike] = []
    for d, step in zip(x.dims, x.steps, strict=True):
        if d == 1:
            continue
        group: list[DimLike] = []
        while not group or product(group) != d:
            if len(out) + len(group) == len(shape):
                return None
            group.append(shape[len(out) + len(group)])
        out += [step * inner for inner in _steps(group)]
    return tuple(out) + (0,) * (len(shape) - len(out)) if all(d == 1 for d in shape[len(out) :]) else None


class Columns(NamedTuple):
    """Heads [B,H,S,D] that are the columns from `at` on of `base`, seen as [B,S,width]."""

    view: View
    width: int
    at: int

    @property
    def size(self) -> int:
        return self.view.dims[1] * self.view.dims[3]  # type: ignore[return-value, operator]


def _columns(v: Value) -> Columns | None:
    view = view_of(v)
    if view is None or len(view.dims) != 4 or 0 in view.dims:
        return None
    b, h, s, d = view.dims
    width = exact_quotient(product(view.base.tensor.shape or ()), b * s)
    if not all(isinstance(n, int) for n in (h, d, width, view.at)) or view.at + h * d > width:  # type: ignore[operator]
        return None
    wanted = (s * width, d, width, 1)  # type: ignore[operator]
    alike = all(n == 1 or step == want for n, step, want in zip(view.dims, view.steps, wanted, strict=True))
    return Columns(view, width, view.at) if alike else None  # type: ignore[arg-type]


def _saved(attention: Node, found: Sequence[Columns], counted: Sequence[str]) -> int:
    """How many of the nodes that are `counted` fewer there are if attention reads the columns."""
    vanish = {attention}
    chains = dict.fromkeys(n for c in found for n in c.view.nodes)
    for _ in chains:  # a node vanishes when all that read it have
        vanish |= {n for n in chains if all(not r.is_output and set(r.users) <= vanish for r in n.results)}
    users = attention.results[0].users
    cancels = (
        len(users) == 1
        and not attention.results[0].is_output
        and users[0].op.name == "transpose"
        and perm_of(users[0]) == (0, 2, 1, 3)
    )
    _, heads, length, _ = attention.results[0].tensor.shape or (None,) * 4
    more = 1 if cancels else 0 if heads == 1 or length == 1 else -1
    return sum(n.op.name in counted for n in vanish) + more


def _in_place(counted: Sequence[str], m: Match, b: Builder) -> Any:
    node = m.root
    if any(v.tensor.rank != 4 for v in node.operands[:3]):  # type: ignore[union-attr]
        return None
    found = [_columns(v) for v in node.operands[:3]]  # type: ignore[arg-type]
    strange = next((v for v, c in zip(node.operands, found) if c is None), None)
    if strange is not None:
        reason = "an operand has no heads that lie in the last axis of [batch, length, heads * size]"
        return refuse(reason, operand=f"%{strange.name}")
    columns = [c for c in found if c is not None]
    if _saved(node, columns, counted) <= 0:
        return refuse(f"no {' or '.join(counted)} would be saved")
    result = node.results[0].tensor.shape
    dims = [*(result or (None,)), *(d for c in columns for d in c.view.dims)]
    if any(d is None or any(s.name not in b.facts.known for s in symbols_of(d)) for d in dims):
        return refuse("the sizes are known only at run time", result=node.results[0].type)
    parts = _read(columns, b)
    if isinstance(parts, Refusal):
        return parts
    m.inner.extend(n for c in columns for n in c.view.nodes)
    batch, heads, length, size = result  # type: ignore[misc]
    attrs = node.attrs | {"q_num_heads": heads, "kv_num_heads": columns[1].view.dims[1]}
    y = b.op("attention", *parts, *node.operands[3:], results=len(node.results), **attrs)
    first, *rest = y if isinstance(y, tuple) else (y,)
    heads_last = b.op("reshape", first, shape_operand(b, (batch, length, heads, size), node.name), allowzero=1)
    return [b.op("transpose", heads_last, perm=(0, 2, 1, 3)), *rest]


def _read(columns: Sequence[Columns], b: Builder) -> list[Value] | Refusal:
    """The columns as tensors [B,S,H*D]: what they are part of, split where it has more."""
    edges: dict[tuple[Value, int], list[int]] = {}
    for c in columns:
        known = edges.setdefault((c.view.base, c.width), [0, c.width])
        known[:] = sorted({*known, c.at, c.at + c.size})
    if any(c.at + c.size != next(e for e in edges[c.view.base, c.width] if e > c.at) for c in columns):
        return refuse("queries, keys and values overlap")
    pieces: dict[tuple[Value, int], dict[int, Value]] = {}
    out = []
    for c in columns:
        key = c.view.base, c.width
        if key not in pieces:
            pieces[key] = dict(zip(edges[key], _split(c, edges[key], b)))
        out.append(pieces[key][c.at])
    return out


def _split(c: Columns, edges: Sequence[int], b: Builder) -> Iterator[Value]:
    base, shape = c.view.base, (c.view.dims[0], c.view.dims[2], c.width)
    x = base if base.tensor.shape == shape else b.op("reshape", base, shape_operand(b, shape, base.name), allowzero=1)
    if len(edges) == 2:
        return iter([x])
    sizes = np.diff(edges).astype(np.int64)
    if len(set(sizes)) == 1:
        return iter(b.op("split", x, axis=2, num_outputs=len(sizes), results=len(sizes)))
    return iter(b.op("split", x, b.const(sizes, f"{base.name}.sizes"), axis=2, results=len(sizes)))


def _rule(*counted: str) -> Rule:
    return Rule("attention(transpose(q), transpose(k), transpose(v)) => transpose(attention(q, k, v))",
                Pattern("attention", "q", "k", "v"), partial(_in_place, counted), keeps_inner=True)  # fmt: skip


RULE = _rule("transpose")
WITH_SPLITS = _rule("transpose", "split")  # for targets whose attention cuts what it reads
