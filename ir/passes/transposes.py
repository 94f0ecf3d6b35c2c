"""Transposes sink towards the results, through what works on any order of axes, until two of them meet and cancel.

A step never makes more transposes than there were: a sinking transpose must have no other reader, and an operator of several
operands lets one through only if all its operands come transposed alike, are constants, or hold a single element.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core import Module, Node, Value
from ..infer import contents, infer_module
from ..op import OPS
from ..rewrite import Builder, Match, Pattern, Refusal, Rule, refuse, rewrite
from ..types import TensorType
from . import heads
from .manager import Context, register
from .movement import inverse, perm_of

Perm = tuple[int, ...]


def _transpose_of(v: Value | None, reader: Node) -> Node | None:
    """The transpose that makes `v` in the reader's graph."""
    node = v.node if v is not None else None
    return node if node is not None and node.op.name == "transpose" and node.graph is reader.graph else None


def _single_reader(t: Node, reader: Node) -> bool:
    return not t.result.is_output and set(t.result.users) == {reader}


def _source(v: Value | None, perm: Perm, reader: Node, b: Builder) -> Value | Refusal | None:
    """`v` as it was before a transpose by `perm`."""
    if v is None:
        return None
    t = _transpose_of(v, reader)
    if t is not None:
        if perm_of(t) != perm:
            return refuse("the operands are transposed differently", operand=f"%{v.name}")
        return t.operands[0] if _single_reader(t, reader) else refuse("outside-use", value=f"%{v.name}")
    if not isinstance(v.type, TensorType) or v.type.rank is None:
        return refuse("the rank is not known", operand=f"%{v.name}")
    if v.type.size == 1 and v.type.rank <= len(perm):
        return v if v.type.rank == 0 else _as_scalar(v, b)
    if v.is_const and v.type.rank <= len(perm):
        a = v.const.array  # type: ignore[union-attr]
        a = a.reshape((1,) * (len(perm) - a.ndim) + a.shape)
        return b.const(np.ascontiguousarray(a.transpose(inverse(perm))), f"{v.name}.transposed")
    return refuse("another operand is not transposed", operand=f"%{v.name}")


def _as_scalar(v: Value, b: Builder) -> Value | Refusal:
    """A tensor of one element broadcasts in any order of axes, if it is a constant that may be made a scalar."""
    if v.is_const:
        return b.const(v.const.array.reshape(()), f"{v.name}.scalar")  # type: ignore[union-attr]
    return refuse("another operand is not transposed", operand=f"%{v.name}")


def _sink(node: Node, operands: list[Value | None], perm: Perm, b: Builder, **attrs: Any) -> Value:
    return b.op("transpose", b.op(node.op, *operands, **(node.attrs | attrs)), perm=perm)


def _elementwise(m: Match, b: Builder) -> Any:
    node = m.root
    transposes = [t for t in (_transpose_of(v, node) for v in node.operands) if t is not None]
    perm = perm_of(transposes[0]) if transposes else None
    if perm is None or node.result.tensor.rank != len(perm):
        return None
    m.inner.extend(transposes)  # swept where nobody reads them any more
    operands = [_source(v, perm, node, b) for v in node.operands]
    refusal = next((o for o in operands if isinstance(o, Refusal)), None)
    return refusal if refusal is not None else _sink(node, operands, perm, b)  # type: ignore[arg-type]


def _one_operand(rebuild: Callable[[Node, Perm, Builder], Value | Refusal]) -> Any:
    """A rule of an operator whose operand 0 alone is transposed."""

    def build(m: Match, b: Builder) -> Any:
        node = m.root
        t = _transpose_of(node.operands[0], node)
        perm = perm_of(t) if t is not None else None
        if t is None or perm is None:
            return None
        if not _single_reader(t, node):
            return refuse("outside-use", value=f"%{t.name}")
        m.inner.append(t)
        return rebuild(node, perm, b)

    return build


def _reduction(node: Node, perm: Perm, b: Builder) -> Value | Refusal:
    axes = contents(node.operand(1))
    if node.operand(1) is not None and axes is None:
        return refuse("the axes are not known")
    if axes is None or axes.size == 0:
        return refuse("the reduction is over all axes, or none")
    over = [int(a) % len(perm) for a in axes.ravel()]
    x = node.operands[0].node.operands[0]  # type: ignore[union-attr]
    y = b.op(node.op, x, b.const(np.array([perm[a] for a in over], np.int64), f"{node.name}.axes"), **node.attrs)
    if node.attr("keepdims"):
        return b.op("transpose", y, perm=perm)
    kept = [p for i, p in enumerate(perm) if i not in over]
    rest = tuple(sorted(kept).index(p) for p in kept)
    return y if rest == tuple(range(len(rest))) else b.op("transpose", y, perm=rest)


def _along_axis(node: Node, perm: Perm, b: Builder) -> Value | Refusal:
    x = node.operands[0].node.operands[0]  # type: ignore[union-attr]
    return _sink(node, [x], perm, b, axis=perm[node.attr("axis") % len(perm)])


def _pad(node: Node, perm: Perm, b: Builder) -> Value | Refusal:
    pads = contents(node.operand(1))
    if pads is None or node.operand(3) is not None or pads.dtype == object:
        return refuse("the pads are not known, or not of all axes")
    x, back = node.operands[0].node.operands[0], inverse(perm)  # type: ignore[union-attr]
    moved = np.asarray(pads).reshape(2, len(perm))[:, list(back)].ravel().astype(np.int64)
    return _sink(node, [x, b.const(moved, f"{node.name}.pads"), *node.operands[2:]], perm, b)


def _concat(m: Match, b: Builder) -> Any:
    node = m.root
    transposes = [_transpose_of(v, node) for v in node.operands]
    perm = perm_of(transposes[0]) if transposes[0] is not None else None
    if perm is None:
        return None
    for v, t in zip(node.operands, transposes):
        if t is None or perm_of(t) != perm:
            return refuse("the operands are not all transposed alike", operand=f"%{v.name}")  # type: ignore[union-attr]
        if not _single_reader(t, node):
            return refuse("outside-use", value=f"%{t.name}")
        m.inner.append(t)
    return _sink(node, [t.operands[0] for t in transposes], perm, b, axis=perm[node.attr("axis") % len(perm)])  # type: ignore[union-attr]


def _rules() -> tuple[Rule, ...]:
    loops = tuple(n for n in OPS if OPS[n].is_elementwise and not OPS[n].has("random"))
    reductions = tuple(n for n in OPS if OPS[n].reduction is not None)
    return (
        Rule("op(transpose(x), ...) => transpose(op(x, ...))", Pattern(loops), _elementwise, keeps_inner=True),
        Rule("reduce(transpose(x)) => transpose(reduce(x))", Pattern(reductions), _one_operand(_reduction), keeps_inner=True),
        Rule("softmax(transpose(x)) => transpose(softmax(x))", Pattern(("softmax", "log_softmax")), _one_operand(_along_axis),
             keeps_inner=True),
        Rule("pad(transpose(x)) => transpose(pad(x))", Pattern("pad"), _one_operand(_pad), keeps_inner=True),
        Rule("concat(transpose(x), ...) => transpose(concat(x, ...))", Pattern("concat"), _concat, keeps_inner=True),
        heads.RULE,
    )  # fmt: skip


@register
@dataclass(frozen=True)
class SinkTransposes:
    """Applies the rules of this file and of heads.py; `canonicalize` then cancels the transposes that met."""

    name: ClassVar[str] = "sink-transposes"

    def run(self, module: Module, ctx: Context) -> bool:
        from .canonicalize import RULES

        changed = rewrite(module, [*_rules(), *(r for r in RULES if "transpose" in r.pattern.ops)], ctx.log) > 0
        if changed:
            infer_module(module)
        return changed
