"""Arithmetic and the elementary functions, element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from ..op import Example, Onnx, OnnxCall, OpDef, drop_attrs, elementwise, ex
from ..scalar import Expr, call, cast, maximum, minimum, where, widen
from ..scalar import fmod as fmod_of
from ..types import BF16, FLOATS, I32, I64, NUMERIC, SIGNED
from .examples import f32, rand


def legacy_broadcast(call: OnnxCall) -> None:
    """Before opset 7 a binary operator broadcast only its second operand, aligned at `axis`: give it trailing dims instead."""
    axis = call.attrs.pop("axis", None)
    call.attrs.pop("broadcast", None)
    call.attrs.pop("consumed_inputs", None)
    if axis is None:
        return
    ra, rb = call.rank(call.inputs[0]), call.rank(call.inputs[1])
    if ra is None or rb is None:
        raise ValueError(f"axis = {axis} needs operands of known rank; expected opset >= 7")
    trailing = ra - (axis % ra if ra else 0) - rb
    if trailing <= 0:
        return
    array = call.array(call.inputs[1])
    if array is None:
        raise ValueError(f"axis = {axis} needs a constant second operand; expected opset >= 7")
    call.inputs[1] = call.const(array.reshape(array.shape + (1,) * trailing))


def arithmetic(op_type: str) -> Onnx:
    """A binary operator that older opsets had."""
    return Onnx(op_type, before={7: legacy_broadcast})


def old(op_type: str) -> Onnx:
    """An operator whose first opset had `consumed_inputs`."""
    return Onnx(op_type, before={6: drop_attrs("consumed_inputs")})


# ---- two operands and more --------------------------------------------------------------------------------------


def _pairs() -> list[Example]:
    a = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
    return [
        ex(a, a[:1] + 1),
        ex(a, np.float32(3)),
        ex(np.zeros((0, 3), np.float32), a[:1]),
        ex(np.array([7, -7, 7], np.int32), np.array([2, 2, -2], np.int32)),
        ex(np.array([250, 3], np.uint8), np.array([9, 7], np.uint8)),
        ex(rand(2, 1, 3, dtype=np.float64), rand(4, 1, dtype=np.float64)),
        ex(rand(3, dtype=np.float16), rand(2, 1, dtype=np.float16)),
        ex(rand(3, dtype=BF16.np), rand(2, 3, dtype=BF16.np)),
        ex(np.array([2**40, -(2**63)], np.int64), np.array([3, -1], np.int64)),
        ex(f32([np.inf, np.nan, -0.0, 1e38]), f32([np.inf, 1, 0.0, 3e38])),
    ]


@elementwise("add", onnx=arithmetic("Add"), dtypes=NUMERIC, examples=_pairs)
def add(a: Expr, b: Expr) -> Expr:
    """a + b; integers wrap."""
    return a + b


@elementwise("sub", onnx=arithmetic("Sub"), dtypes=NUMERIC, examples=_pairs)
def sub(a: Expr, b: Expr) -> Expr:
    """a - b; integers wrap."""
    return a - b


@elementwise("mul", onnx=arithmetic("Mul"), dtypes=NUMERIC, examples=_pairs)
def mul(a: Expr, b: Expr) -> Expr:
    """a * b; integers wrap."""
    return a * b


def _quotients() -> list[Example]:
    return [e for e in _pairs() if e.operands[0].dtype != np.int64] + [
        ex(np.array([[7], [-7]], np.int64), np.array([2, -2], np.int64)),
        ex(f32([1, -1, 0]), f32([0, 0, 0])),
    ]


@elementwise("div", onnx=arithmetic("Div"), dtypes=NUMERIC, examples=_quotients)
def div(a: Expr, b: Expr) -> Expr:
    """a / b; integers truncate towards zero, and give 0 for a zero divisor."""
    return a / b


def _moduli() -> list[Example]:
    a, b = np.array([[7], [-7], [0]]), np.array([3, -3])
    f = f32([5.3, -5.3, 0.0, -1, 2, np.nan, 3])
    g = f32([2, 2, -2, np.inf, -np.inf, 1, 0])
    return [
        ex(a.astype(np.int64), b.astype(np.int64)),
        ex(a.astype(np.int32), b.astype(np.int32), fmod=1),
        ex(a.astype(np.int8), b.astype(np.int8)),
        ex(np.array([7, 200], np.uint8), np.uint8(3)),
        ex(f, g),
        ex(f, g, fmod=1),
        ex(f[:2].astype(np.float16), g[:2].astype(np.float16), fmod=1),
        ex(np.zeros((0, 2), np.int32), b.astype(np.int32)),
    ]


@elementwise("mod", onnx=Onnx("Mod", since=10), dtypes=NUMERIC, examples=_moduli)
def mod(a: Expr, b: Expr, *, fmod: int = 0) -> Expr:
    """The remainder with the sign of b, or of a where fmod = 1; integers give 0 for a zero divisor."""
    return fmod_of(a, b) if fmod else a % b


def _powers() -> list[Example]:
    x = f32([[-2, 0.5], [3, 0]])
    return [
        ex(x, f32([2, 3])),
        ex(x, np.float32(0)),
        ex(f32([1, 4, -8]), f32([0.5, -0.5, 0.5])),
        ex(x, np.int64(3)),
        ex(np.array([2, -3, 1, 0], np.int32), np.array([3, 3, -2, 0], np.int32)),
        ex(np.array([2, 3], np.int64), f32([3, 2])),
        ex(x.astype(np.float64), np.array([2, 3], np.int32)),
        ex(x.astype(np.float16), np.float32(2)),
        ex(x.astype(BF16.np), np.array([2, 3], np.uint8)),
        ex(np.zeros((0,), np.float32), np.float32(2)),
    ]


@elementwise("pow", onnx=arithmetic("Pow"), dtypes={"x": FLOATS | {I32, I64}, "y": NUMERIC}, examples=_powers)
def pow(x: Expr, y: Expr) -> Expr:
    """x to the power of y, in x's element type; integers wrap, and truncate for a negative exponent."""
    return x**y


def _lists() -> list[Example]:
    a, b, c = rand(3, 1), rand(4, seed=1), rand(2, 1, 1, seed=2)
    nan = f32([np.nan, 1, np.inf])
    return [
        ex(a),
        ex(a, b),
        ex(a, b, c),
        ex(nan, nan[::-1].copy()),
        ex(a.astype(np.float64), b.astype(np.float64)),
        ex(a.astype(np.float16), b.astype(np.float16)),
        ex(a.astype(BF16.np), b.astype(BF16.np)),
        ex(np.zeros((0, 4), np.float32), b),
    ]


def _numeric_lists() -> list[Example]:
    ints = [ex(np.array([3, 1], t), np.array([[2], [1]], t)) for t in (np.int64, np.int8, np.uint16, np.uint64)]
    return _lists() + ints


def _several(op_type: str) -> Onnx:
    return Onnx(op_type, before={6: drop_attrs("consumed_inputs")})


@elementwise("min", onnx=_several("Min"), dtypes=NUMERIC, examples=_numeric_lists)
def min(*data: Expr) -> Expr:
    """The least of the operands; NaN where any is NaN."""
    return reduce(minimum, data)


@elementwise("max", onnx=_several("Max"), dtypes=NUMERIC, examples=_numeric_lists)
def max(*data: Expr) -> Expr:
    """The greatest of the operands; NaN where any is NaN."""
    return reduce(maximum, data)


@elementwise("sum", onnx=_several("Sum"), dtypes=FLOATS, examples=_lists)
def sum(*data: Expr) -> Expr:
    """The sum of the operands, added from left to right; f16 and bf16 in f32."""
    return cast(reduce(Expr.__add__, map(widen, data)), data[0].dtype)


@elementwise("mean", onnx=_several("Mean"), dtypes=FLOATS, examples=_lists)
def mean(*data: Expr) -> Expr:
    """The mean of the operands, added from left to right; f16 and bf16 in f32."""
    return cast(reduce(Expr.__add__, map(widen, data)) / len(data), data[0].dtype)


# ---- one operand ------------------------------------------------------------------------------------------------


def floats(values: Sequence[float]) -> Callable[[], list[Example]]:
    """Examples of a function of floats: these values in every float type, beside a matrix, a scalar and an empty tensor."""

    def examples() -> list[Example]:
        x = f32(values)
        return [
            ex(x),
            ex(f32([-np.inf, np.inf, np.nan, 0.0, -0.0])),
            ex(rand(2, 3)),
            ex(np.float32(0.5)),
            ex(np.zeros((2, 0), np.float32)),
            ex(x.astype(np.float64)),
            ex(x.astype(np.float16)),
            ex(x.astype(BF16.np)),
        ]

    return examples


def _signed() -> list[Example]:
    return [*floats([-1.5, 0.5, 2])(), ex(np.array([-128, 0, 5], np.int8)), ex(np.array([-(2**62), 7], np.int64))]


def _numeric() -> list[Example]:
    return [*_signed(), ex(np.array([0, 255], np.uint8)), ex(np.array([0, 2**63], np.uint64))]


@elementwise("neg", onnx=old("Neg"), dtypes=FLOATS | SIGNED, examples=_signed)
def neg(x: Expr) -> Expr:
    """-x; the least integer stays itself."""
    return -x


@elementwise("abs", onnx=old("Abs"), dtypes=NUMERIC, examples=_numeric)
def abs(x: Expr) -> Expr:
    """The absolute value; the least integer stays itself."""
    return Expr.__abs__(x)


@elementwise("sign", onnx=Onnx("Sign", since=9), dtypes=NUMERIC, examples=_numeric)
def sign(x: Expr) -> Expr:
    """-1, 0 or 1; NaN stays NaN."""
    return call("sign", x)


@elementwise("reciprocal", onnx=old("Reciprocal"), dtypes=FLOATS, examples=floats([-2, 0.1, 3e38]))
def reciprocal(x: Expr) -> Expr:
    """1 / x."""
    return 1 / x


def _function(name: str, op_type: str, since: int, doc: str, values: Sequence[float]) -> OpDef:
    """An operator that is one primitive of the scalar language."""

    def fn(x: Expr) -> Expr:
        return call(name, x)

    fn.__doc__ = doc
    form = old(op_type) if since == 1 else Onnx(op_type, since=since)
    return elementwise(name, onnx=form, dtypes=FLOATS, examples=floats(values))(fn)


sqrt = _function("sqrt", "Sqrt", 1, "The square root; NaN below zero.", [4, 2, 1e-30, -1])
exp = _function("exp", "Exp", 1, "e to the power of x.", [-1, 1, 80, -80])
log = _function("log", "Log", 1, "The natural logarithm; NaN below zero.", [1, 2, 1e-30, -1])
sin = _function("sin", "Sin", 7, "The sine of x radians.", [-1, 3.14, 100])
cos = _function("cos", "Cos", 7, "The cosine of x radians.", [-1, 3.14, 100])
tan = _function("tan", "Tan", 7, "The tangent of x radians.", [-1, 3, 100])
asin = _function("asin", "Asin", 7, "The inverse sine; NaN outside [-1, 1].", [-1, 0.3, 1, 2])
acos = _function("acos", "Acos", 7, "The inverse cosine; NaN outside [-1, 1].", [-1, 0.3, 1, 2])
atan = _function("atan", "Atan", 7, "The inverse tangent.", [-1, 0.3, 1e10])
sinh = _function("sinh", "Sinh", 9, "The hyperbolic sine.", [-1, 0.3, 10])
cosh = _function("cosh", "Cosh", 9, "The hyperbolic cosine.", [-1, 0.3, 10])
tanh = _function("tanh", "Tanh", 1, "The hyperbolic tangent.", [-1, 0.3, 10, 100])
asinh = _function("asinh", "Asinh", 9, "The inverse hyperbolic sine.", [-1, 0.3, 100])
acosh = _function("acosh", "Acosh", 9, "The inverse hyperbolic cosine; NaN below 1.", [1, 1.3, 100, 0.5])
atanh = _function("atanh", "Atanh", 9, "The inverse hyperbolic tangent; NaN outside [-1, 1].", [-0.5, 0.3, 1, 2])
erf = _function("erf", "Erf", 9, "The error function.", [-0.2, 0.3, 1.5, 4.5, -7])
floor = _function("floor", "Floor", 1, "The greatest whole number that is not above x.", [-1.5, 1.5, 2])
ceil = _function("ceil", "Ceil", 1, "The least whole number that is not below x.", [-1.5, 1.5, 2, -0.2])
round = _function("round", "Round", 11, "The nearest whole number, the even one of two.", [0.5, 1.5, 2.5, -2.5, 2.3, -0.2])


def clip_bounds(call: OnnxCall) -> None:
    """Before opset 11 the bounds of Clip were attributes; they become constants of the operand's type."""
    call.attrs.pop("consumed_inputs", None)
    dtype = call.dtype(call.inputs[0])
    for i, name in enumerate(("min", "max"), 1):
        value = call.attrs.pop(name, None)
        if value is not None:
            if dtype is None:
                raise ValueError(f"the attribute {name} of Clip needs an operand of known element type; expected opset >= 11")
            call.inputs += [None] * (i + 1 - len(call.inputs))
            call.inputs[i] = call.const(np.asarray(value, dtype.np))


def _clips() -> list[Example]:
    x, lo, hi = f32([-2, 0.5, 7, np.nan, np.inf]), np.float32(-1), np.float32(1)
    return [
        ex(x, lo, hi),
        ex(x, None, hi),
        ex(x[:4], lo),
        ex(x),
        ex(x[:3], hi, lo),
        ex(np.zeros((0, 2), np.float32), lo, hi),
        ex(np.array([-5, 5, 100], np.int8), np.int8(-3), np.int8(10)),
        ex(np.array([1, 2**40], np.int64), None, np.int64(9)),
        ex(x.astype(np.float16), np.float16(-1), np.float16(1)),
        ex(x.astype(BF16.np), np.float32(-1).astype(BF16.np)),
    ]


@elementwise("clip", onnx=Onnx("Clip", before={11: clip_bounds}), dtypes=NUMERIC, examples=_clips)
def clip(x: Expr, min: Expr | None = None, max: Expr | None = None) -> Expr:
    """x between min and max, max where min > max; a bound left out bounds nothing, NaN stays NaN."""
    x = x if min is None else where(x < min, min, x)
    return x if max is None else where(x > max, max, x)
