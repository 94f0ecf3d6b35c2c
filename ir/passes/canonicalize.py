"""Removes operations that do nothing and merges views and transposes: the plain form that other passes expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core import Module, Value
from ..infer import contents, infer_module, input_symbols
from ..rewrite import Builder, Match, Pattern, Rule, refuse, rewrite, scalar_constant
from ..symbols import symbols_of
from ..types import I64, TensorType
from .manager import Context, register

VIEWS = ("reshape", "flatten", "squeeze", "unsqueeze")


def same_type(a: Value, b: Value) -> bool:
    """Whether both are tensors of one element type and provably one shape."""
    return isinstance(a.type, TensorType) and a.type == b.type and a.type.shape is not None


def _noop(m: Match, b: Builder) -> Any:
    """The first operand, where the result has its very type."""
    x = m.root.operands[0]
    if x is None or len(m.root.results) != 1 or not same_type(x, m.root.result):
        return None
    return x


def _identity(m: Match, b: Builder) -> Any:
    return m["x"]


def _dropout(m: Match, b: Builder) -> Any:
    """Inference: dropout hands its input on; the mask, where somebody reads it, is all true."""
    training = m.root.operand(2)
    if training is not None and (training.array is None or bool(training.array.ravel()[0])):
        return refuse("training mode", training=training)
    if len(m.root.results) > 1:
        if not m.root.results[1].is_dead:
            return refuse("the mask is read")
        return [m["x"], m["x"]]
    return m["x"]


def _known_shape(v: Value, known: set[str]) -> bool:
    return (
        isinstance(v.type, TensorType)
        and v.type.shape is not None
        and all(s.name in known for d in v.type.shape for s in symbols_of(d))
    )


def shape_operand(b: Builder, v: Value) -> Value:
    """The shape of `v` as an operand: a constant, or `dims` where it holds symbols."""
    shape = v.tensor.shape
    assert shape is not None
    if all(isinstance(d, int) for d in shape):
        return b.const(np.array(shape, np.int64), f"{v.name}.shape")
    return b.op("dims", value=shape, dtype=I64, result=f"{v.name}.shape")


def _view_of_view(m: Match, b: Builder) -> Any:
    if not _known_shape(m.root.result, input_symbols(b.module)):
        return refuse("the shape is known only at run time", shape=m.root.result.type)
    return b.op("reshape", m.node("inner").operands[0], shape_operand(b, m.root.result), allowzero=1)


def _transpose_perm(node: Any) -> tuple[int, ...] | None:
    perm, rank = node.attr("perm"), node.operands[0].tensor.rank
    return tuple(perm) if perm else None if rank is None else tuple(range(rank))[::-1]


def _transpose_of_transpose(m: Match, b: Builder) -> Any:
    outer, inner = _transpose_perm(m.root), _transpose_perm(m.node("inner"))
    if outer is None or inner is None:
        return None
    perm = tuple(inner[p] for p in outer)
    x = m.node("inner").operands[0]
    return x if perm == tuple(range(len(perm))) else b.op("transpose", x, perm=perm)


def _trivial_transpose(m: Match, b: Builder) -> Any:
    """A transpose that moves only axes of size 1 is a view."""
    perm, shape = _transpose_perm(m.root), m["x"].tensor.shape
    if perm is None or shape is None:
        return None
    if perm == tuple(range(len(perm))):
        return m["x"]
    moved = [p for p in perm if shape[p] != 1]
    if moved != sorted(moved) or not _known_shape(m.root.result, input_symbols(b.module)):
        return None
    return b.op("reshape", m["x"], shape_operand(b, m.root.result), allowzero=1)


def _full_slice(m: Match, b: Builder) -> Any:
    """A slice that takes everything forwards."""
    steps = m.root.operand(4)
    if not same_type(m["x"], m.root.result):
        return None
    if steps is not None and (steps.array is None or np.any(steps.array != 1)):
        return refuse("steps other than 1")
    return m["x"]


def _zero_pad(m: Match, b: Builder) -> Any:
    pads = contents(m.root.operand(1))
    if pads is None or any(p != 0 for p in np.asarray(pads, object).ravel()):
        return None
    return m["x"]


def _single(m: Match, b: Builder) -> Any:
    """concat, sum, max, min, mean of one operand."""
    return m.root.operands[0] if len(m.root.operands) == 1 and same_type(m.root.operands[0], m.root.result) else None


def _unit(number: float) -> Any:
    """x op c where the constant c changes nothing."""

    def build(m: Match, b: Builder) -> Any:
        if scalar_constant(m["c"]) != number or not same_type(m["x"], m.root.result):
            return None
        return m["x"]

    return build


def _sub_zero(m: Match, b: Builder) -> Any:
    c = scalar_constant(m["c"])
    if c != 0 or not same_type(m["x"], m.root.result):
        return None
    if np.signbit(c) and m["x"].tensor.dtype.is_float:
        return refuse("x - -0.0 turns -0.0 into 0.0")
    return m["x"]


def _dead_clip(m: Match, b: Builder) -> Any:
    """clip without bounds."""
    return m["x"] if all(v is None for v in m.root.operands[1:]) else None


RULES = (
    Rule("identity(x) => x", Pattern("identity", "x"), _identity),
    Rule("dropout(x) => x", Pattern("dropout", "x"), _dropout),
    Rule("cast(x) to its own type => x", Pattern("cast", "x"), _noop),
    Rule("view(x) of its own shape => x", Pattern(VIEWS, "x"), _noop),
    Rule("view(view(x)) => reshape(x)", Pattern(VIEWS, Pattern(VIEWS, "x", bind="inner")), _view_of_view, keeps_inner=True),
    Rule("transpose(transpose(x)) => transpose(x)", Pattern("transpose", Pattern("transpose", "x", bind="inner")),
         _transpose_of_transpose, keeps_inner=True),
    Rule("transpose(x) of axes of size 1 => reshape(x)", Pattern("transpose", "x"), _trivial_transpose),
    Rule("slice(x) of everything => x", Pattern("slice", "x"), _full_slice),
    Rule("pad(x) by nothing => x", Pattern("pad", "x"), _zero_pad),
    Rule("expand(x), tile(x) to its own shape => x", Pattern(("expand", "tile"), "x"), _noop),
    Rule("concat(x), sum(x), ... of one => x", Pattern(("concat", "sum", "max", "min", "mean"), "x"), _single),
    Rule("mul(x, 1) => x", Pattern("mul", "x", "c"), _unit(1.0)),
    Rule("div(x, 1) => x", Pattern("div", "x", "c"), _unit(1.0)),
    Rule("pow(x, 1) => x", Pattern("pow", "x", "c"), _unit(1.0)),
    Rule("sub(x, 0) => x", Pattern("sub", "x", "c"), _sub_zero),
    Rule("clip(x) without bounds => x", Pattern("clip", "x"), _dead_clip),
)  # fmt: skip


@register
@dataclass(frozen=True)
class Canonicalize:
    """Applies the rules of this file to a fixed point."""

    name: ClassVar[str] = "canonicalize"

    def run(self, module: Module, ctx: Context) -> None:
        rewrite(module, RULES, ctx.log)
        infer_module(module)
