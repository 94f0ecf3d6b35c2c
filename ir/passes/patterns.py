"""Whole operators put together again from the small ones that exporters spell them with: gelu, swish, layer and rms normalization.

The spellings are those of torch's TorchScript and dynamo exporters and of tf2onnx and Keras. Constants are recognised to 1e-3, for
exporters round them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..core import Module, Node, Value
from ..infer import contents, infer_module
from ..rewrite import Builder, Match, Rule, refuse, rewrite, scalar_constant
from ..rewrite import Pattern as P
from ..types import F32, FLOATS
from . import attention
from .manager import Context, register

# ---- gelu -------------------------------------------------------------------------------------------------------

_ERF = (P("erf", P("div", "x", math.sqrt(2))), P("erf", P("mul", "x", math.sqrt(0.5))))


def _tanh_argument() -> list[P]:
    """sqrt(2/pi) * (x + 0.044715 x^3), in the ways that it is written."""
    cubes = [P("pow", "x", 3), P("mul", "x", P("mul", "x", "x")), P("mul", P("mul", "x", "x"), "x")]
    inner = [P("add", "x", P("mul", cube, 0.044715)) for cube in cubes]
    inner += [P("add", "x", P("mul", P("mul", P("mul", "x", 0.044715), "x"), "x"))]
    inner += [P("mul", "x", P("add", P("mul", P("mul", "x", "x"), 0.044715), 1))]
    return [P("mul", i, math.sqrt(2 / math.pi)) for i in inner]


_TANH = tuple(P("tanh", a) for a in _tanh_argument())


def _gelu(form: str) -> Callable[[Match, Builder], Any]:
    def build(m: Match, b: Builder) -> Any:
        if m["x"].tensor.dtype not in FLOATS or m.root.result.type != m["x"].type:
            return refuse("types", x=m["x"].type, result=m.root.result.type)
        return b.op("gelu", m["x"], approximate=form)

    return build


def _gelu_rules(form: str, gates: tuple[P, ...]) -> list[Rule]:
    """x * (1 + g) * 0.5 for each spelling of the gate g, in each order of the two products."""
    rules = []
    for i, gate in enumerate(gates):
        plus = P("add", gate, 1)
        orders = {
            "(x * (1 + g)) * 0.5": P("mul", P("mul", "x", plus), 0.5),
            "(x * 0.5) * (1 + g)": P("mul", P("mul", "x", 0.5), plus),
            "x * ((1 + g) * 0.5)": P("mul", "x", P("mul", plus, 0.5)),
            "(x / 2) * (1 + g)": P("mul", P("div", "x", 2), plus),
        }
        rules += [Rule(f"{text} => gelu(x), g = {gate.ops[0]} form {i + 1}", p, _gelu(form)) for text, p in orders.items()]
    return rules


def _swish(m: Match, b: Builder) -> Any:
    return b.op("swish", m["x"]) if m.root.result.type == m["x"].type else None


# ---- normalizations ---------------------------------------------------------------------------------------------


def mean_axes(node: Node) -> tuple[int, ...] | None:
    """The axes, counted from the front, of a mean that keeps its dims; None where it is another reduction."""
    rank, axes = node.operands[0].tensor.rank, contents(node.operand(1))  # type: ignore[union-attr]
    if rank is None or axes is None or not node.attr("keepdims"):
        return None
    return tuple(sorted(int(a) % rank for a in np.asarray(axes).ravel()))


def _trailing(axes: tuple[int, ...] | None, rank: int | None) -> int | None:
    """The first of axes that are the last ones, else None."""
    if not axes or rank is None or axes != tuple(range(axes[0], rank)):
        return None
    return axes[0]


def _vector(v: Value, x: Value, axis: int) -> np.ndarray | None:
    """A constant scale or bias that spans exactly the normalized axes."""
    shape = x.tensor.shape
    if not v.is_const or shape is None or v.tensor.dtype is not x.tensor.dtype:
        return None
    want, a = shape[axis:], v.const.array  # type: ignore[union-attr]
    while a.ndim > len(want) and a.shape[0] == 1:
        a = a[0]
    if a.shape == want:
        return a
    spread = a.size == 1 and all(isinstance(d, int) for d in want)
    return np.broadcast_to(a, want) if spread else None  # type: ignore[arg-type]


def _layer_norm(m: Match, b: Builder) -> Any:
    x = m["x"]
    axes = mean_axes(m.node("mean"))
    axis, epsilon = _trailing(axes, x.tensor.rank), scalar_constant(m["eps"])
    if axis is None or epsilon is None or axes != mean_axes(m.node("var")):
        return refuse("the means are not over the same last axes", axes=axes)
    scale, bias = (_vector(m[k], x, axis) if k in m.values else None for k in ("g", "b"))
    if ("g" in m.values and scale is None) or ("b" in m.values and bias is None):
        return refuse("scale or bias is no constant over the normalized axes")
    if x.tensor.dtype not in FLOATS or m.root.result.type != x.type:
        return refuse("types", x=x.type, result=m.root.result.type)
    if scale is None:
        dims = x.tensor.shape[axis:]  # type: ignore[index]
        if not all(isinstance(d, int) for d in dims):
            return refuse("the normalized sizes are not known", sizes=dims)
        scale = np.ones(dims, x.tensor.dtype.np)  # type: ignore[arg-type]
    operands = [x, b.const(np.array(scale), f"{m.root.name}.scale")]
    if bias is not None:
        operands.append(b.const(np.array(bias), f"{m.root.name}.bias"))
    return b.op("layer_norm", *operands, axis=axis - x.tensor.rank, epsilon=epsilon, stash_type=F32)  # type: ignore[operator]


def _norm_parameter(m: Match, v: Value) -> np.ndarray | None:
    """A constant over the normalized axes of a layer_norm that may take it."""
    node = m.node("norm")
    x = node.operands[0]
    if len(node.results) > 1 or node.operand(2) is not None or m.root.result.type != x.type:  # type: ignore[union-attr]
        return None
    return _vector(v, x, node.attr("axis") % x.tensor.rank)  # type: ignore[arg-type, operator, union-attr]


def _norm_scale(m: Match, b: Builder) -> Any:
    node, g = m.node("norm"), _norm_parameter(m, m["g"])
    ones = node.operands[1]
    if g is None or not ones.is_const or not np.all(ones.const.array == 1):  # type: ignore[union-attr]
        return refuse("no constant over the normalized axes, or there is a scale or bias already", g=m["g"].type)
    return b.op("layer_norm", m["x"], b.const(np.array(g), f"{m.root.name}.scale"), **node.attrs)


def _norm_bias(m: Match, b: Builder) -> Any:
    node, bias = m.node("norm"), _norm_parameter(m, m["b"])
    if bias is None:
        return refuse("no constant over the normalized axes, or there is a bias already", b=m["b"].type)
    return b.op("layer_norm", m["x"], node.operands[1], b.const(np.array(bias), f"{m.root.name}.bias"), **node.attrs)


def _rms_norm(m: Match, b: Builder) -> Any:
    x = m["x"]
    axis, epsilon = _trailing(mean_axes(m.node("var")), x.tensor.rank), scalar_constant(m["eps"])
    if axis is None or epsilon is None:
        return refuse("the mean is not over the last axes")
    scale = _vector(m["g"], x, axis)
    if scale is None or x.tensor.dtype not in FLOATS or m.root.result.type != x.type:
        return refuse("scale is no constant over the normalized axes, or types differ", x=x.type, result=m.root.result.type)
    weights = b.const(np.array(scale), f"{m.root.name}.scale")
    return b.op("rms_norm", x, weights, axis=axis - x.tensor.rank, epsilon=epsilon, stash_type=F32)  # type: ignore[operator]


def _norm_rules() -> list[Rule]:
    mean = P("reduce_mean", "x", bind="mean")
    centred = P("sub", "x", mean, bind="centred")
    squares = (P("pow", centred, 2), P("mul", centred, centred))
    roots = [P("sqrt", P("add", P("reduce_mean", sq, bind="var"), "eps")) for sq in squares]
    normalized = [form for r in roots for form in (P("div", centred, r), P("mul", centred, P("reciprocal", r)))]
    norm = P("layer_norm", "x", bind="norm")
    rules = [
        Rule("layer_norm(x) * g => layer_norm(x, g)", P("mul", norm, "g"), _norm_scale),
        Rule("layer_norm(x, g) + b => layer_norm(x, g, b)", P("add", norm, "b"), _norm_bias),
    ]
    for n in normalized:
        rules.append(Rule("(x - mean) / sqrt(var + eps) => layer_norm(x)", n, _layer_norm))
    # Keras: x * s + (b - mean * s) with s = g / sqrt(var + eps)
    for r in roots:
        s = P("mul", P("reciprocal", r), "g", bind="s")
        keras = P("add", P("mul", "x", s), P("sub", "b", P("mul", mean, s)))
        rules.append(Rule("x * s + (b - mean * s) => layer_norm(x)", keras, _layer_norm))
    for sq in (P("pow", "x", 2), P("mul", "x", "x")):
        root = P("sqrt", P("add", P("reduce_mean", sq, bind="var"), "eps"))
        for n in (P("div", "x", root), P("mul", "x", P("reciprocal", root)), P("mul", "x", P("div", 1, root))):
            rules.append(Rule("x / sqrt(mean(x^2) + eps) * g => rms_norm(x)", P("mul", n, "g"), _rms_norm))
    return rules


RULES = (
    *_gelu_rules("none", _ERF),
    *_gelu_rules("tanh", _TANH),
    Rule("x * sigmoid(x) => swish(x)", P("mul", "x", P("sigmoid", "x")), _swish),
    *_norm_rules(),
)


@register
@dataclass(frozen=True)
class Recognize:
    """Applies the rules of this file and of attention.py."""

    name: ClassVar[str] = "recognize"

    def run(self, module: Module, ctx: Context) -> bool:
        changed = rewrite(module, (*RULES, attention.rule(ctx.target)), ctx.log) > 0
        if changed:
            infer_module(module)
        return changed
