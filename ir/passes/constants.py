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
from ..rewrite import Builder, Match, Pattern, Refusal, Rule, refuse, rewrite
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
    tail = (1,) * (w.ndim - 2)
    if conv.op.name == "conv_transpose":  # w[C, M / groups, ...]: the channels of the result lie group by group
        groups = conv.attr("group")
        w = (w.reshape(groups, -1, *w.shape[1:]) * scale.reshape(groups, 1, -1, *tail)).reshape(w.shape)
    else:
        w = w * scale.reshape(-1, 1, *tail)
    old = np.zeros(len(scale)) if bias is None else bias.const.array.astype(np.float64)  # type: ignore[union-attr]
    new = rounded(weight, w), rounded(weight, old * scale + shift)
    if new[0] is None or new[1] is None:
        return refuse("the scaled weights overflow")
    new_w, new_b = b.const(new[0], f"{weight.name}.scaled"), b.const(new[1], f"{conv.name}.bias")  # type: ignore[union-attr]
    return b.op(conv.op, conv.operands[0], new_w, new_b, **conv.attrs)


def rounded(like: Value | None, a: np.ndarray) -> np.ndarray | None:
    """`a` in the element type of `like`; None where a number is too large for it."""
    with np.errstate(over="ignore"):
        out = a.astype(like.tensor.dtype.np)  # type: ignore[union-attr]
    return out if np.isfinite(out.astype(np.float64)).all() else None


CONV = ("conv", "conv_transpose")


def _batch_norm(m: Match, b: Builder) -> Any:
    params = [v.array if v is not None else None for v in m.root.operands[1:5]]
    conv = m.node("conv")
    if m.root.attr("training_mode") or len(m.root.results) > 1:
        return refuse("training mode")
    if any(p is None for p in params) or channels(conv) is None:
        return refuse("weights or statistics are no constants")
    scale, bias, mean, var = (p.astype(np.float64) for p in params)  # type: ignore[union-attr]
    with np.errstate(all="ignore"):
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
            scale, shift = {"mul": (c, zero), "div": (1 / c, zero), "add": (one, c), "sub": (one, -c), "from": (-one, c)}[which]
            return _scaled_conv(conv, scale, shift, b)

    return build


# ---- matrix products --------------------------------------------------------------------------------------------

PRODUCT = ("matmul", "gemm")
MOVES = ("reshape", "transpose", "unsqueeze", "squeeze", "flatten")  # what a number for all elements passes through


def _chain(v: Value) -> list[Node] | Refusal:
    """The nodes from `v` up to a product with constant weights: views, transposes and constant biases that nobody else reads."""
    out: list[Node] = []
    while True:
        node = v.node
        if node is None or node.graph is None or node.op.name not in (*MOVES, "add", *PRODUCT):
            return refuse("no product with constant weights is scaled")
        if v.is_output or len(v.uses) != 1:
            return refuse("outside-use", value=f"%{v.name}")
        out.append(node)
        if node.op.name in PRODUCT:
            return out
        if node.op.name == "add":
            x, y = node.operands
            v = x if y.is_const else y  # type: ignore[assignment, union-attr]
            if not (x.is_const or y.is_const):  # type: ignore[union-attr]
                return refuse("what is added is no constant", value=f"%{node.name}")
        else:
            v = node.operands[0]  # type: ignore[assignment]


def _columns(c: Value, product: Node) -> np.ndarray | None:
    """A constant that is one number, or one for each column of the product's result, in float64."""
    if not c.is_const or c.tensor.dtype not in FLOATS:
        return None
    a, w = c.const.array.astype(np.float64), product.operands[1]  # type: ignore[union-attr]
    if a.size == 1:
        return a.reshape(())
    if not w.is_const or w.tensor.rank < 2:  # type: ignore[union-attr, operator]
        return None
    count = w.const.array.shape[0 if product.attrs.get("transB") else -1]  # type: ignore[union-attr]
    return a.reshape(count) if a.shape[-1] == a.size == count else None


def _scaled_product(product: Node, scale: np.ndarray, b: Builder) -> Any:
    """The product times one number, or one for each column: the weights and C are scaled."""
    weight, third = product.operands[1], product.operand(2)
    if not weight.is_const or weight.tensor.dtype not in FLOATS or weight.tensor.rank < 2:  # type: ignore[union-attr, operator]
        return refuse("the weights are no constants", weights=weight)
    if third is not None and not third.is_const:
        return refuse("C is no constant", C=third)
    factor = scale[:, None] if scale.ndim and product.attrs.get("transB") else scale
    w = rounded(weight, weight.const.array.astype(np.float64) * factor)  # type: ignore[union-attr]
    c = None if third is None else rounded(third, third.const.array.astype(np.float64) * scale)  # type: ignore[union-attr]
    if w is None or (third is not None and c is None):
        return refuse("the scaled weights overflow")
    operands = [product.operands[0], b.const(w, f"{weight.name}.scaled")]  # type: ignore[union-attr]
    if third is not None:
        operands.append(b.const(c, f"{third.name}.scaled"))  # type: ignore[arg-type]
    return b.op(product.op, *operands, result=f"{product.name}.scaled", **product.attrs)


def _scale_product(m: Match, b: Builder) -> Any:
    """(x W + b) * c = x (W c) + b c, also where the result was reshaped and transposed in between, if c is one number."""
    orders = [(m["x"], m["c"])] + ([(m["c"], m["x"])] if m.root.op.name == "mul" else [])
    x, c = next(((x, c) for x, c in orders if c.is_const and not x.is_const), (None, None))
    if x is None or c is None or c.tensor.dtype not in FLOATS:
        return None
    chain = _chain(x)
    if isinstance(chain, Refusal):
        return chain if x.node is not None and x.node.op.name in (*PRODUCT, "add") else None
    if m.root.result.type != x.type:
        return refuse("the constant widens the result", result=m.root.result.type)
    scale = _columns(c, chain[-1])
    if scale is None or (scale.ndim and any(n.op.name in MOVES for n in chain)):
        return refuse("neither one number nor one for each column", operand=f"%{c.name}: {c.type}")
    with np.errstate(all="ignore"):
        scale = 1 / scale if m.root.op.name == "div" else scale
    if not np.isfinite(scale).all():
        return refuse("division by zero")
    biases = {n: v for n in chain if n.op.name == "add" for v in n.operands if v.is_const}  # type: ignore[union-attr]
    scaled = {n: rounded(v, v.const.array.astype(np.float64) * scale) for n, v in biases.items()}  # type: ignore[union-attr]
    if any(a is None for a in scaled.values()):
        return refuse("the scaled weights overflow")
    out = _scaled_product(chain[-1], scale, b)
    if isinstance(out, Refusal):
        return out
    for n in reversed(chain[:-1]):
        rest = [b.const(scaled[n], f"{n.name}.bias")] if n in scaled else n.operands[1:]  # type: ignore[arg-type]
        out = b.op(n.op, out, *rest, result=f"{n.name}.scaled", **n.attrs)
    m.inner.extend(chain)
    return out


def _scaled_rows(m: Match, b: Builder) -> Any:
    """(x * c) W = x (c W), c one number or one for each column of x."""
    w, x, c = m["w"], m["x"], m["c"]
    if not w.is_const:
        return refuse("the weights are no constants", weights=w)
    x, c = (c, x) if x.is_const else (x, c)
    rows = w.const.array.shape[-2] if w.tensor.rank > 1 else None  # type: ignore[union-attr, operator]
    if not c.is_const or c.tensor.dtype not in FLOATS or rows is None or m.node("mul").result.type != x.type:
        return refuse("what scales the operand is no constant", operand=c)
    a = c.const.array.astype(np.float64)  # type: ignore[union-attr]
    if a.size != 1 and not (a.shape[-1] == a.size == rows):
        return refuse("neither one number nor one for each column", operand=f"%{c.name}: {c.type}")
    scaled = rounded(w, w.const.array.astype(np.float64) * a.reshape(-1, 1))  # type: ignore[union-attr]
    return refuse("the scaled weights overflow") if scaled is None else b.op("matmul", x, b.const(scaled, f"{w.name}.scaled"))


def _gemm_bias(m: Match, b: Builder) -> Any:
    """A constant added to a gemm without C is its C."""
    product, c = m.node("gemm"), m["c"]
    if product.operand(2) is not None:
        return refuse("the gemm has a C already")
    shape = product.result.tensor.shape
    if not c.is_const or m.root.result.type != product.result.type or c.tensor.rank > 2 or shape is None:  # type: ignore[operator]
        return refuse("no constant that broadcasts to the result", operand=f"%{c.name}: {c.type}")
    return b.op("gemm", *product.operands[:2], c, **product.attrs)


_CONV = Pattern(CONV, "x", "w", bind="conv")
RULES = (
    Rule("batch_norm(conv(x, w)) => conv(x, w * s) + t", Pattern("batch_norm", _CONV), _batch_norm),
    Rule("mul(conv(x, w), c) => conv(x, w * c)", Pattern("mul", _CONV, "c"), _affine("mul")),
    Rule("div(conv(x, w), c) => conv(x, w / c)", Pattern("div", _CONV, "c"), _affine("div")),
    Rule("add(conv(x, w), c) => conv(x, w, c)", Pattern("add", _CONV, "c"), _affine("add")),
    Rule("sub(conv(x, w), c) => conv(x, w, -c)", Pattern("sub", _CONV, "c"), _affine("sub")),
    Rule("sub(c, conv(x, w)) => conv(x, -w, c)", Pattern("sub", "c", _CONV), _affine("from")),
    Rule("mul(matmul(x, w), c) => matmul(x, w * c)", Pattern(("mul", "div"), "x", "c"), _scale_product, keeps_inner=True),
    Rule("matmul(mul(x, c), w) => matmul(x, c * w)", Pattern("matmul", Pattern("mul", "x", "c", bind="mul"), "w"), _scaled_rows),
    Rule("add(gemm(a, b), c) => gemm(a, b, c)", Pattern("add", Pattern("gemm", bind="gemm"), "c"), _gemm_bias),
)


@register
@dataclass(frozen=True)
class FoldScales:
    """Applies the rules of this file."""

    name: ClassVar[str] = "fold-scales"

    def run(self, module: Module, ctx: Context) -> bool:
        changed = rewrite(module, RULES, ctx.log) > 0
        if changed:
            infer_module(module)
        return changed
