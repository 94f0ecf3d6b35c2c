"""Activations, element by element. Compound formulas on f16 and bf16 are computed in f32 and rounded once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..op import Example, Onnx, OnnxCall, OpDef, elementwise, ex
from ..scalar import Expr, call, cast, maximum, minimum, where, widen
from ..types import BF16, F64, FLOATS, I32, I64, NUMERIC, SIGNED, U32, U64
from .examples import f32, rand
from .math import floats, old


def _nearest(value: float) -> float:
    """The float32 nearest to `value`: what ONNX's attributes hold."""
    return float(np.float32(value))


def _wide(fn: Callable) -> Callable:
    """The formula computed in f32 where the operands are f16 or bf16, and rounded at its end."""

    @functools.wraps(fn)
    def run(x: Expr, *rest: Expr, **attrs: float) -> Expr:
        return cast(fn(widen(x), *(widen(r) for r in rest), **attrs), x.dtype)

    return run


def _with(*attrs: dict[str, Any]) -> Callable[[], list[Example]]:
    """Examples over the whole range of floats, and one for each set of attributes."""
    base = floats([-100, -3, -1, -0.1, 0.1, 1, 3, 100])
    return lambda: [*base(), *(ex(rand(3, 4, lo=-4, hi=4), **a) for a in attrs)]


def _activation(name: str, onnx: str | Onnx, *attrs: dict[str, Any]) -> Callable[[Callable], OpDef]:
    return lambda fn: elementwise(name, onnx=onnx, dtypes=FLOATS, examples=_with(*attrs))(_wide(fn))


def _relus() -> list[Example]:
    return [*_with()(), *(ex(np.array([-3, 0, 5], t)) for t in (np.int8, np.int32, np.int64))]


@elementwise("relu", onnx=old("Relu"), dtypes=FLOATS | SIGNED, examples=_relus)
def relu(x: Expr) -> Expr:
    """x where it is positive, else 0; NaN stays NaN."""
    return where(x < 0, 0, x)


@_activation("leaky_relu", old("LeakyRelu"), {"alpha": 0.5})
def leaky_relu(x: Expr, *, alpha: float = _nearest(0.01)) -> Expr:
    """alpha * x below zero, else x."""
    return where(x < 0, alpha * x, x)


def legacy_slope(call: OnnxCall) -> None:
    """Before opset 7 a slope of one dim ran along the channels (axis 1), however many axes followed."""
    call.attrs.pop("consumed_inputs", None)
    rank, slope = call.rank(call.inputs[0]), call.array(call.inputs[1])
    if slope is not None and slope.size == 1:
        call.inputs[1] = call.const(slope.reshape(()))
    elif rank is None or (slope is None and rank > 2):
        raise ValueError("a slope that is no constant, or an operand of unknown rank; expected opset >= 7")
    elif slope is not None and slope.ndim == 1 and rank > 2:
        call.inputs[1] = call.const(slope.reshape(slope.shape + (1,) * (rank - 2)))


def _slopes() -> list[Example]:
    x = rand(2, 3, 4)
    return [
        ex(x, rand(3, 1, seed=1)),
        ex(x, np.float32(0.25)),
        ex(x.astype(np.float64), rand(2, 3, 4, dtype=np.float64, seed=1)),
        ex(x.astype(np.float16), rand(4, dtype=np.float16, seed=1)),
        ex(np.array([-3, 4], np.int64), np.array([2], np.int64)),
        ex(np.zeros((0, 3), np.float32), rand(3)),
        ex(f32([np.nan, -np.inf, np.inf]), f32([0.5])),
    ]


@elementwise("prelu", onnx=Onnx("PRelu", before={7: legacy_slope}), dtypes=FLOATS | {I32, I64, U32, U64}, examples=_slopes)
def prelu(x: Expr, slope: Expr) -> Expr:
    """slope * x below zero, else x; slope broadcasts to x's shape."""
    return where(x < 0, slope * x, x)


@_activation("elu", old("Elu"), {"alpha": 2.0})
def elu(x: Expr, *, alpha: float = 1.0) -> Expr:
    """alpha * (exp(x) - 1) below zero, else x."""
    return where(x < 0, alpha * call("expm1", x), x)


@_activation("celu", Onnx("Celu", since=12), {"alpha": 2.0})
def celu(x: Expr, *, alpha: float = 1.0) -> Expr:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return maximum(x, 0) + minimum(alpha * call("expm1", x / alpha), 0)


def _first_selu(call: OnnxCall) -> None:
    call.attrs.pop("consumed_inputs", None)
    call.attrs.setdefault("alpha", 1.6732)
    call.attrs.setdefault("gamma", 1.0507)


@_activation("selu", Onnx("Selu", before={6: _first_selu}), {"alpha": 2.0, "gamma": 3.0})
def selu(x: Expr, *, alpha: float = _nearest(1.6732631921768188), gamma: float = _nearest(1.0507010221481323)) -> Expr:
    """gamma * alpha * (exp(x) - 1) up to zero, else gamma * x."""
    return gamma * where(x <= 0, alpha * call("expm1", x), x)


@_activation("sigmoid", old("Sigmoid"))
def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x))."""
    return _sigmoid(x)


def _sigmoid(x: Expr) -> Expr:
    return 1 / (1 + call("exp", -x))


@_activation("swish", Onnx("Swish", since=24), {"alpha": 0.5})
def swish(x: Expr, *, alpha: float = 1.0) -> Expr:
    """x * sigmoid(alpha * x)."""
    return x * _sigmoid(alpha * x)


def _gates() -> list[Example]:
    a, b = rand(2, 3), rand(2, 3, seed=1)
    return [
        ex(a, b),
        ex(a, b, alpha=1.702),
        ex(f32([-1e4, 1e4, np.nan]), f32([2, 2, 2])),
        ex(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)),
        *(ex(a.astype(t), b.astype(t)) for t in (np.float64, np.float16, BF16.np)),
    ]


@elementwise("swiglu", onnx=Onnx("SwiGLU", since=28), dtypes=FLOATS, examples=_gates)
@_wide
def swiglu(a: Expr, b: Expr, *, alpha: float = 1.0) -> Expr:
    """swish(a) * b: a is the gate; both have the same shape."""
    return a * _sigmoid(alpha * a) * b


@_activation("softplus", "Softplus")
def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)), without overflow."""
    return _softplus(x)


def _softplus(x: Expr) -> Expr:
    return maximum(x, 0) + call("log1p", call("exp", -abs(x)))


@_activation("mish", Onnx("Mish", since=18))
def mish(x: Expr) -> Expr:
    """x * tanh(softplus(x))."""
    return x * call("tanh", _softplus(x))


@_activation("softsign", "Softsign")
def softsign(x: Expr) -> Expr:
    """x / (1 + |x|)."""
    return x / (1 + abs(x))


@_activation("gelu", Onnx("Gelu", since=20), {"approximate": "tanh"})
def gelu(x: Expr, *, approximate: str = "none") -> Expr:
    """0.5 x (1 + erf(x / sqrt 2)), or with approximate = "tanh" 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    if approximate not in ("none", "tanh"):
        raise TypeError(f'approximate = "{approximate}"; expected "none" or "tanh"')
    if approximate == "tanh":
        return 0.5 * x * (1 + call("tanh", math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + call("erf", x * math.sqrt(0.5)))


@_activation("hard_sigmoid", old("HardSigmoid"), {"alpha": 0.5, "beta": 0.6})
def hard_sigmoid(x: Expr, *, alpha: float = _nearest(0.2), beta: float = 0.5) -> Expr:
    """alpha * x + beta, clipped to [0, 1]."""
    return maximum(minimum(alpha * x + beta, 1), 0)


@_activation("hard_swish", Onnx("HardSwish", since=14))
def hard_swish(x: Expr) -> Expr:
    """x * (x / 6 + 0.5 clipped to [0, 1])."""
    return x * maximum(minimum(x * (1 / 6) + 0.5, 1), 0)


@_activation("thresholded_relu", Onnx("ThresholdedRelu", since=10), {"alpha": 2.0})
def thresholded_relu(x: Expr, *, alpha: float = 1.0) -> Expr:
    """x where it is above alpha, else 0."""
    return where(x > alpha, x, 0)


def _shrinks() -> list[Example]:
    ints = np.array([-3, -1, 0, 2, 5])
    return [
        *_with({"lambd": 1.5, "bias": 1.5}, {"bias": 0.25})()[:-3],
        ex(ints.astype(np.int32), lambd=1.5, bias=1.5),
        ex(ints.astype(np.int8)),
        ex(np.array([0, 1, 200], np.uint8), lambd=1.0, bias=1.0),
    ]


@elementwise("shrink", onnx=Onnx("Shrink", since=9), dtypes=NUMERIC - {BF16}, examples=_shrinks)
def shrink(x: Expr, *, lambd: float = 0.5, bias: float = 0.0) -> Expr:
    """x + bias below -lambd, x - bias above lambd, else 0. Integers are computed in f64 and truncated."""
    w = cast(x, F64) if x.dtype.is_integer else widen(x)
    return cast(where(w < -lambd, w + bias, where(w > lambd, w - bias, 0)), x.dtype)
