"""Operators of the domain com.microsoft over quantized numbers.

QLinear operators work on the numbers that their operands stand for: dequantized, computed in f32, quantized once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.core import Value
from ...ir.types import F32, I32
from .contrib_site import Emitter, contrib


def _real(e: Emitter, x: Value, scale: Value, zero_point: Value | None) -> Value:
    return e("dequantize_linear", x, scale, zero_point)


def _quantized(e: Emitter, y: Value, scale: Value | np.float32, zero_point: Value | None, like: Value) -> Value:
    """y in the element type of `like`; a zero point that is left out is 0."""
    return e("quantize_linear", y, scale, zero_point if zero_point is not None else e.number(0, like, "zero point"))


@contrib("QuantizeLinear")
def quantize_linear(e: Emitter, x: Value, scale: Value, zero_point: Value | None = None, *, axis: int = 1) -> Value:
    return e("quantize_linear", x, scale, zero_point, axis=axis)


@contrib("DequantizeLinear")
def dequantize_linear(e: Emitter, x: Value, scale: Value, zero_point: Value | None = None, *, axis: int = 1) -> Value:
    return e("dequantize_linear", x, scale, zero_point, axis=axis)


# ---- element by element -----------------------------------------------------------------------------------------


def _binary(op_type: str, op: str) -> None:
    @contrib(op_type)
    def convert(e: Emitter, a: Value, a_scale: Value, a_zero_point: Value | None, b: Value, b_scale: Value,
                b_zero_point: Value | None, c_scale: Value, c_zero_point: Value | None = None) -> Value:  # fmt: skip
        y = e(op, _real(e, a, a_scale, a_zero_point), _real(e, b, b_scale, b_zero_point))
        return _quantized(e, y, c_scale, c_zero_point, a)


_binary("QLinearAdd", "add")
_binary("QLinearMul", "mul")


@contrib("QLinearSigmoid")
def qlinear_sigmoid(e: Emitter, x: Value, x_scale: Value, x_zero_point: Value | None, y_scale: Value,
                    y_zero_point: Value | None = None) -> Value:  # fmt: skip
    return _quantized(e, e("sigmoid", _real(e, x, x_scale, x_zero_point)), y_scale, y_zero_point, x)


@contrib("QLinearLeakyRelu")
def qlinear_leaky_relu(e: Emitter, x: Value, x_scale: Value, x_zero_point: Value | None, y_scale: Value,
                       y_zero_point: Value | None = None, *, alpha: float = float(np.float32(0.01))) -> Value:  # fmt: skip
    return _quantized(e, e("leaky_relu", _real(e, x, x_scale, x_zero_point), alpha=alpha), y_scale, y_zero_point, x)


@contrib("QLinearSoftmax")
def qlinear_softmax(e: Emitter, x: Value, x_scale: Value, x_zero_point: Value | None, y_scale: Value,
                    y_zero_point: Value | None = None, *, axis: int = -1, opset: int) -> Value:  # fmt: skip
    """Before opset 13 softmax runs over all axes from `axis` on."""
    y = e("softmax", _real(e, x, x_scale, x_zero_point), axis=axis, flatten=int(opset < 13))
    return _quantized(e, y, y_scale, y_zero_point, x)


@contrib("QLinearWhere")
def qlinear_where(e: Emitter, condition: Value, x: Value, x_scale: Value, x_zero_point: Value, y: Value, y_scale: Value,
                  y_zero_point: Value, z_scale: Value, z_zero_point: Value) -> Value:  # fmt: skip
    chosen = e("where", condition, _real(e, x, x_scale, x_zero_point), _real(e, y, y_scale, y_zero_point))
    return _quantized(e, chosen, z_scale, z_zero_point, x)


@contrib("QLinearConcat")
def qlinear_concat(e: Emitter, y_scale: Value, y_zero_point: Value, *inputs: Value, axis: int) -> Value:
    """The inputs come in threes: a tensor, its scale, its zero point."""
    if not inputs or len(inputs) % 3:
        raise ValueError(f"{len(inputs)} inputs follow y_zero_point; expected a tensor, a scale and a zero point each")
    parts = [_real(e, *inputs[i : i + 3]) for i in range(0, len(inputs), 3)]
    return _quantized(e, e("concat", *parts, axis=axis), y_scale, y_zero_point, inputs[0])


# ---- pooling, convolution ---------------------------------------------------------------------------------------


def _channels_first(e: Emitter, x: Value, channels_last: int, fn: Callable[[Value], Value]) -> Value:
    """fn(x), for an x with the channels last between two transpositions."""
    if not channels_last:
        return fn(x)
    rank = e.rank(x, "X")
    y = fn(e("transpose", x, perm=(0, rank - 1, *range(1, rank - 1))))
    return e("transpose", y, perm=(0, *range(2, rank), 1))


@contrib("QLinearAveragePool")
def qlinear_average_pool(e: Emitter, x: Value, x_scale: Value, x_zero_point: Value | None, y_scale: Value,
                         y_zero_point: Value | None = None, *, auto_pad: str = "NOTSET", ceil_mode: int = 0,
                         channels_last: int = 0, count_include_pad: int = 0, kernel_shape: tuple, pads: tuple = (),
                         strides: tuple = ()) -> Value:  # fmt: skip
    def pooled(v: Value) -> Value:
        y = e("average_pool", _real(e, v, x_scale, x_zero_point), auto_pad=auto_pad, ceil_mode=ceil_mode,
              count_include_pad=count_include_pad, kernel_shape=kernel_shape, pads=pads, strides=strides)  # fmt: skip
        return _quantized(e, y, y_scale, y_zero_point, x)

    return _channels_first(e, x, channels_last, pooled)


@contrib("QLinearGlobalAveragePool")
def qlinear_global_average_pool(e: Emitter, x: Value, x_scale: Value, x_zero_point: Value, y_scale: Value, y_zero_point: Value, *,
                                channels_last: int = 0) -> Value:  # fmt: skip
    def pooled(v: Value) -> Value:
        return _quantized(e, e("global_average_pool", _real(e, v, x_scale, x_zero_point)), y_scale, y_zero_point, x)

    return _channels_first(e, x, channels_last, pooled)


@contrib("QLinearReduceMean")
def qlinear_reduce_mean(e: Emitter, x: Value, x_scale: Value, x_zero_point: Value | None, y_scale: Value,
                        y_zero_point: Value | None = None, *, axes: tuple, keepdims: int) -> Value:  # fmt: skip
    y = e("reduce_mean", _real(e, x, x_scale, x_zero_point), np.array(axes, np.int64), keepdims=keepdims)
    return _quantized(e, y, y_scale, y_zero_point, x)


@contrib("QLinearConv")
def qlinear_conv(e: Emitter, x: Value, x_scale: Value, x_zero_point: Value, w: Value, w_scale: Value, w_zero_point: Value,
                 y_scale: Value, y_zero_point: Value, bias: Value | None = None, *, auto_pad: str = "NOTSET",
                 channels_last: int = 0, dilations: tuple = (), group: int = 1, kernel_shape: tuple = (), pads: tuple = (),
                 strides: tuple = ()) -> Value:  # fmt: skip
    def convolved(v: Value) -> Value:
        return e("qlinear_conv", v, x_scale, x_zero_point, w, w_scale, w_zero_point, y_scale, y_zero_point, bias, auto_pad=auto_pad,
                 dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides)  # fmt: skip

    return _channels_first(e, x, channels_last, convolved)


@contrib("NhwcMaxPool")
def nhwc_max_pool(e: Emitter, x: Value, *, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: tuple = (), kernel_shape: tuple,
                  pads: tuple = (), strides: tuple = ()) -> Value:  # fmt: skip
    def pooled(v: Value) -> Value:
        return e("max_pool", v, auto_pad=auto_pad, ceil_mode=ceil_mode, dilations=dilations, kernel_shape=kernel_shape, pads=pads,
                 strides=strides, n_results=1)  # fmt: skip

    return _channels_first(e, x, 1, pooled)


# ---- products ---------------------------------------------------------------------------------------------------


def _flat(e: Emitter, v: Value, name: str) -> Value:
    """A scale or zero point of one number as a scalar; one a column stays as it is."""
    return e("reshape", v, np.zeros(0, np.int64)) if e.shape(v, name) == (1,) else v


def integer_product(e: Emitter, a: Value, a_scale: Value, a_zero_point: Value | None, b: Value, b_scale: Value,
                    b_zero_point: Value | None, bias: Value | None) -> Value:  # fmt: skip
    """A B in f32, of integers: exact sums times both scales, plus bias. What belongs to B may be given for each column."""
    sums = e("cast", e("matmul_integer", a, b, a_zero_point, b_zero_point), to=F32)
    y = e("mul", sums, e("mul", a_scale, _flat(e, b_scale, "b_scale")))
    return y if bias is None else e("add", y, bias)


@contrib("MatMulIntegerToFloat")
def matmul_integer_to_float(e: Emitter, a: Value, b: Value, a_scale: Value, b_scale: Value, a_zero_point: Value | None = None,
                            b_zero_point: Value | None = None, bias: Value | None = None) -> Value:  # fmt: skip
    return integer_product(e, a, _flat(e, a_scale, "a_scale"), a_zero_point, b, b_scale, b_zero_point, bias)


@contrib("DynamicQuantizeMatMul")
def dynamic_quantize_matmul(e: Emitter, a: Value, b: Value, b_scale: Value, b_zero_point: Value | None = None,
                            bias: Value | None = None) -> Value:  # fmt: skip
    quantized, scale, zero_point = e("dynamic_quantize_linear", a)
    return integer_product(e, quantized, scale, zero_point, b, b_scale, b_zero_point, bias)


@contrib("MatMulInteger16")
def matmul_integer_16(e: Emitter, a: Value, b: Value) -> Value:
    return e("matmul", e("cast", a, to=I32), e("cast", b, to=I32))


@contrib("QGemm")
def qgemm(e: Emitter, a: Value, a_scale: Value, a_zero_point: Value, b: Value, b_scale: Value, b_zero_point: Value,
          c: Value | None = None, y_scale: Value | None = None, y_zero_point: Value | None = None, *, alpha: float = 1.0,
          transA: int = 0, transB: int = 0) -> Value:  # fmt: skip
    """C is added to the integer sums; without y_scale the result is f32."""
    a, b = (e.swapped(v, 2) if swap else v for v, swap in ((a, transA), (b, transB)))
    sums = e("matmul_integer", a, b, a_zero_point, b_zero_point)
    sums = sums if c is None else e("add", sums, c)
    factor = e("mul", e("mul", _flat(e, a_scale, "a_scale"), _flat(e, b_scale, "b_scale")), np.float32(alpha))
    if y_scale is None:
        return e("mul", e("cast", sums, to=F32), factor)
    y = e("mul", e("cast", sums, to=F32), e("div", factor, _flat(e, y_scale, "y_scale")))
    return _quantized(e, y, np.float32(1), y_zero_point, a)
