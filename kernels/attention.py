"""What all targets see alike of attention and rotary positions: what no kernel serves, how heads lie, which keys a query sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..ir.core import Node, Value
from ..ir.types import BOOL, FLOATS, TensorType
from .operands import refuse_layouts, slot_of
from .spec import Call, Refusal


@dataclass(frozen=True)
class Attention:
    """Attention alone, or in the region of the fused node `outer` behind splits of what it reads.

    `index[i]` is the operand of `outer` that its operand i is, None where that is left out; queries, keys and values [B,S,H*D]
    may be columns of one, from `first[i]` on.
    """

    outer: Node
    node: Node
    index: tuple[int | None, ...]
    first: tuple[int, int, int] = (0, 0, 0)

    def has(self, i: int) -> bool:
        """Whether operand i is there."""
        return self.node.operand(i) is not None

    def slot(self, i: int) -> int:
        """The parameter slot of operand i."""
        return slot_of(self.outer, self.index[i])  # type: ignore[arg-type]


def attention_of(node: Node) -> Attention | Refusal:
    """The attention of a node, or why there is no kernel for it."""
    a = _take_apart(node)
    if isinstance(a, Refusal):
        return a
    q, k, v = (x.tensor for x in a.node.operands[:3])  # type: ignore[union-attr]
    refusal = refuse_layouts(node)
    if refusal is None and (len({q.dtype, k.dtype, v.dtype}) > 1 or q.dtype not in FLOATS):
        refusal = Refusal("queries, keys and values are of different types", {"q": q, "k": k, "v": v})
    if refusal is None and len(a.node.results) > 3:
        refusal = Refusal("the scores are asked for as a result")
    if refusal is None and (a.node.attr("scale") or 0) < 0:
        refusal = Refusal("the scale is negative", {"scale": a.node.attr("scale")})
    return refusal or _refuse_mask(a.node, k) or a


def _take_apart(node: Node) -> Attention | Refusal:
    if node.op.name != "fused":
        return Attention(node, node, tuple(None if v is None else i for i, v in enumerate(node.operands)))
    region = node.regions[0]
    *splits, inner = region.nodes
    if inner.op.name != "attention" or list(region.outputs) != list(inner.results):
        return Refusal("a region of attention ends in one and returns its results", {"last": inner.op.name})
    index: list[int | None] = []
    first = [0, 0, 0]
    for i, v in enumerate(inner.operands):
        x = v if v is None or v.node not in splits or i > 2 else _source(v.node)  # type: ignore[arg-type]
        if v is not None and (x is None or x.graph is not region or x.node is not None):
            return Refusal(
                "an operand is neither an input of the region nor cut from one along its last axis", {f"%{v.name}": v.type}
            )
        index.append(None if x is None else x.index)
        if x is not v:
            first[i] = sum(r.tensor.shape[-1] for r in v.node.results[: v.index])  # type: ignore[index, misc, union-attr]
    return Attention(node, inner, tuple(index), tuple(first))  # type: ignore[arg-type]


def _source(split: Node) -> Value | None:
    """What a node splits, where that is [B,S,columns] and its parts are columns of known number."""
    x = split.operands[0]
    if x is None or split.op.name != "split" or x.tensor.rank != 3 or split.attr("axis") % 3 != 2:
        return None
    return x if all(isinstance(r.tensor.shape[2], int) for r in split.results) else None  # type: ignore[index]


def _refuse_mask(node: Node, k: TensorType) -> Refusal | None:
    mask = node.operand(3)
    if mask is None:
        return None
    shape, total = mask.tensor.shape or (), k.shape[-2] if k.rank == 4 else k.shape[1]  # type: ignore[index]
    past = node.operand(4)
    if past is not None:
        total = past.tensor.shape[2] + total  # type: ignore[index, operator]
    if mask.tensor.dtype is not BOOL and mask.tensor.dtype not in FLOATS:
        return Refusal("the mask is neither of bools nor of floats", {"mask": mask.type})
    last = shape[-1] if shape else 1
    if last != total and not (isinstance(last, int) and last != 1):
        return Refusal("the mask's last axis is not known to be that of the keys", {"mask": mask.type, "keys": total})
    return None


class Lie(NamedTuple):
    """How the heads of an operand or result lie: its sizes, then the elements between two batches, heads and positions."""

    batch: int
    heads: int
    length: int
    size: int
    batch_step: int
    head_step: int
    step: int
    at: int = 0  # where element 0 is

    @property
    def steps(self) -> tuple[int, int, int]:
        return self.batch_step, self.head_step, self.step


class Extent(NamedTuple):
    """The sizes of a call: `groups` query heads share a head of keys, of which `past` come from the past and `total` there are in
    all; `mask` is the elements between batches, heads and queries of the mask (0 where they share it), and its keys."""

    q: Lie
    k: Lie
    v: Lie
    y: Lie
    past: int
    total: int
    groups: int
    mask: tuple[int, ...]


def extent_of(a: Attention, call: Call) -> Extent:
    """The sizes of attention at those of the call."""
    heads = a.node.attr("q_num_heads"), a.node.attr("kv_num_heads")
    shapes = [None if i is None else call.operands[i] for i in a.index]
    shapes += [None] * (7 - len(shapes))
    q, k, v = (_lie(shapes[i], heads[i > 0], a.node.operands[i], a.first[i]) for i in range(3))  # type: ignore[arg-type]
    past = shapes[4][2] if shapes[4] is not None else 0
    mask = [1] * 4
    if shapes[3] is not None:
        mask = [1] * (4 - len(shapes[3])) + list(shapes[3])
    _check(q, k, v, mask, past + k.length)
    steps = [0 if mask[axis] == 1 else math.prod(mask[axis + 1 :]) for axis in range(3)]
    return Extent(q, k, v, _lie(call.results[0], heads[0]), past, past + k.length, q.heads // max(k.heads, 1), (*steps, mask[3]))


def _check(q: Lie, k: Lie, v: Lie, mask: Sequence[int], total: int) -> None:
    """Raises ValueError for sizes that do not go together, which types need not tell."""
    if k.batch != q.batch or k.size != q.size or (v.batch, v.heads, v.length) != (k.batch, k.heads, k.length):
        raise ValueError(
            f"queries, keys and values have sizes {q[:4]}, {k[:4]}, {v[:4]}, expected one batch, and keys for each of both"
        )
    for n, size in zip(mask, (q.batch, q.heads, q.length), strict=False):
        if n != 1 and n != size:
            raise ValueError(f"the mask has sizes {mask}: {n} and {size} do not broadcast")
    if mask[3] != 1 and mask[3] > total:
        raise ValueError(f"the mask has sizes {mask}, expected up to {total} keys")


def _lie(shape: Sequence[int], count: int | None, part: Value | None = None, first: int = 0) -> Lie:
    """How the heads of a tensor lie, or of the columns from `first` on that are `part`."""
    if len(shape) == 4:
        b, h, s, d = shape
        return Lie(b, h, s, d, h * s * d, s * d, d)
    b, s, columns = shape
    assert count is not None
    width = columns if part is None or part.node is None else part.tensor.shape[2]  # type: ignore[index]
    d = width // count
    return Lie(b, count, s, d, s * columns, d, columns, first)


def key_ends(node: Node) -> list[str]:
    """Expressions of which the least is behind the last key that query s of batch n may see, beside `total`; `offset` is what a
    query's position is ahead of its number."""
    ends = []
    if node.operand(3) is not None:
        ends.append("m_t")
    if node.operand(6) is not None:
        ends.append("ld_i64(lens, n) + 0")
    if node.attr("is_causal"):
        ends.append("s + offset + 1")
    if node.attr("right_window_size") >= 0:
        ends.append(f"s + offset + {node.attr('right_window_size') + 1}")
    return ends


# ---- rotary positions


def refuse_rotary(node: Node) -> Refusal | None:
    """Why there is no kernel for a rotary_embedding, None where there is one."""
    x, cos, sin = (v.tensor for v in node.operands[:3])  # type: ignore[union-attr]
    refusal = refuse_layouts(node)
    if refusal is None and len({x.dtype, cos.dtype, sin.dtype}) > 1:
        refusal = Refusal("the caches are of another type", {"x": x, "cos_cache": cos, "sin_cache": sin})
    return refusal


class Rotary(NamedTuple):
    """The sizes of a call; `half` of the `size` elements of a head are the left of a pair, each cache holds so many `positions`."""

    batch: int
    heads: int
    length: int
    size: int
    half: int
    positions: int
    batch_step: int
    head_step: int
    step: int


def rotary_of(node: Node, call: Call) -> Rotary:
    """The sizes of a rotary_embedding at those of the call."""
    shape, cache = call.operands[:2]
    assert shape is not None and cache is not None
    x = _lie(shape, node.attr("num_heads"))
    half = (node.attr("rotary_embedding_dim") or x.size) // 2
    return Rotary(
        x.batch, x.heads, x.length, x.size, half, cache[0] if node.operand(3) is not None else x.batch * x.length, *x.steps
    )
