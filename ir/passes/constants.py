"""Folding of constant scales and shifts into the weights of convolutions and matrix products.

Batch normalization in inference is y = x * s + t with s = scale / sqrt(var + epsilon) and t = bias - mean * s for each channel
(Ioffe and Szegedy 2015, section 3.1). The arithmetic on weights is done in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core import Module, Node, Value
from ..infer import infer_module
from ..rewrite import Builder, Match, Pattern, Rule, refuse, rewrite
from ..types import FLOATS
from .manager import Context, register


def channels(node: Node) -> int | None:
    """The number of output channels where the weights are constant."""
    w = node.operands[1]
    if w is None or not w.is_const:
        return None
    if node.op.name == "conv_transpose":
        return w.const.array.shape[1] * node.attr("group")  # type: ignore[union-attr]
    return w.const.array.shape[0]  # type: ignore[union-attr]


def per_channel(v: Value | None, rank: int, count: int) -> np.ndarray | None:
    """A constant that broadcasts along axis 1 of a tensor of this rank only, as `count` numbers in float64."""
    if v is None or not v.is_const or v.tensor.dtype not in FLOATS:
        return None
    a = v.const.array  # type: ignore[union-attr]
    if a.size == 1:
        return np.full(count, a.ravel()[0], np.float64)
    shape = (1,) * (rank - a.ndim) + a.shape
    if len(shape) != rank or shape[1] != count or a.size != count:
        return None
    return a.reshape(count).astype(np.float64)


def _scaled_conv(conv: Node, scale: np.ndarray, shift: np.ndarray, b: Builder) -> Any:
    """conv(x, w, bias) * scale + shift as one convolution."""
    weight, bias = conv.operands[1], conv.operand(2)
    if bias is not None and not bias.is_const:
        return refuse("the bias is no constant", bias=bias)
    w = weight.const.array.astype(np.float64)  # type: ignore[union-attr]
    if conv.op.name == "conv_transpose":
        groups = conv.attr("group")
        by_group = scale.reshape(groups, 1, -1)
        w = (w.reshape(groups, w.shape[0] // groups, *w.shape[1:]) * by_group[..., None, *([None] * (w.ndim - 3))]).reshape(w.shape) \
            if w.ndim >= 3 else w  # fmt: skip
    else:
        w = w * scale.reshape(-1, *([1] * (w.ndim - 1)))
    old = np.zeros(len(scale)) if bias is None else bias.const.array.astype(np.float64)  # type: ignore[union-attr]
    dtype = weight.tensor.dtype.np  # type: ignore[union-attr]
    if not (np.all(np.isfinite(w.astype(dtype))) and np.all(np.isfinite((old * scale + shift).astype(dtype)))):
        return refuse("the scaled weights overflow")
    new_w = b.const(w.astype(dtype), f"{weight.name}.scaled")  # type: ignore[union-attr]
    new_b = b.const((old * scale + shift).astype(dtype), f"{conv.name}.bias")
    return b.op(conv.op, conv.operands[0], new_w, new_b, **conv.attrs)


CONV = ("conv", "conv_transpose")


def _batch_norm(m: Match, b: Builder) -> Any:
    params = [v.array if v is not None else None for v in m.root.operands[1:5]]
    conv = m.node("conv")
    if m.root.attr("training_mode") or len(m.root.results) > 1:
        return refuse("training mode")
    if any(p is None for p in params) or channels(conv) is None:
        return refuse("weights or statistics are no constants")
    scale, bias, mean, var = (p.astype(np.float64) for p in params)
    s = scale / np.sqrt(var + m.root.attr("epsilon"))
    return _scaled_conv(conv, s, bias - mean * s, b)


def _affine(which: str) -> Any:
    """conv followed by mul, add, sub or div by one constant for each channel."""

    def build(m: Match, b: Builder) -> Any:
        conv, count = m.node("conv"), channels(m.node("conv"))
        rank = conv.result.tensor.rank
        c = per_channel(m["c"], rank, count) if count is not None and rank is not None else None
        if c is None:
            return refuse("not one constant for each channel", operand=f"%{m['c'].name}: {m['c'].type}")
        if m.root.result.type != conv.result.type:
            return refuse("the constant widens the result", result=m.root.result.type)
        one, zero = np.ones_like(c), np.zeros_like(c)
        if which == "div" and np.any(c == 0):
            return refuse("division by zero")
        with np.errstate(all="ignore"):
            scale, shift = {"mul": (c, zero), "div": (1 / c, zero), "add": (one, c), "sub": (one, -c)}[which]
        return _scaled_conv(conv, scale, shift, b)

    return build


RULES = (
    Rule("batch_norm(conv(x, w)) => conv(x, w * s) + t", Pattern("batch_norm", Pattern(CONV, "x", "w", bind="conv")), _batch_norm),
    Rule("mul(conv(x, w), c) => conv(x, w * c)", Pattern("mul", Pattern(CONV, "x", "w", bind="conv"), "c"), _affine("mul")),
    Rule("div(conv(x, w), c) => conv(x, w / c)", Pattern("div", Pattern(CONV, "x", "w", bind="conv"), "c"), _affine("div")),
    Rule("add(conv(x, w), c) => conv(x, w, c)", Pattern("add", Pattern(CONV, "x", "w", bind="conv"), "c"), _affine("add")),
    Rule("sub(conv(x, w), c) => conv(x, w, -c)", Pattern("sub", Pattern(CONV, "x", "w", bind="conv"), "c"), _affine("sub")),
)


@register
@dataclass(frozen=True)
class FoldScales:
    """Applies the rules of this file."""

    name: ClassVar[str] = "fold-scales"

    def run(self, module: Module, ctx: Context) -> None:
        rewrite(module, RULES, ctx.log)
        infer_module(module)
