"""Quantization: to and from few bits, and convolution and matrix products of quantized numbers.

The formulas are scalar expressions (`quantize`, `dequantize`), so that kernels are generated from what the references evaluate.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import ml_dtypes
import numpy as np

from ..op import Example, InferContext, Onnx, OnnxCall, dtype_attrs, ex, op
from ..scalar import Expr, call, cast, trace, where
from ..scalar_numpy import convert, evaluate
from ..symbols import ceildiv, prove_ne
from ..types import BF16, DTYPES, F16, F32, F64, I2, I4, I8, I16, I32, U2, U4, U8, U16, DType, TensorType, dtype_of
from .cast import cast_value
from .common import drop_empty, same_dtype, wide
from .compare import F8_WITH_NAN
from .conv import conv_reference, infer_conv
from .examples import f32, rand
from .linalg import BYTES, matmul_shape, per_column, per_row, shifted

E8M0 = DTYPES["f8e8m0"]
SMALL_FLOATS = F8_WITH_NAN | {DTYPES[n] for n in ("f4e2m1", "f6e2m3", "f6e3m2")}
SMALL_INTS = frozenset({U16, I16, U8, I8, U4, I4, U2, I2})
QUANTIZED = SMALL_FLOATS | SMALL_INTS
SCALES = frozenset({F32, F16, BF16})


# ---- the formulas -----------------------------------------------------------------------------------------------


def quantize(
    x: Expr, scale: Expr, zero_point: Expr | None = None, *, to: DType, saturate: int = 1, precision: DType | None = None
) -> Expr:
    """saturate(round(x / scale) + zero_point), rounding half to even; a float type takes x / scale + zero_point as a cast does.

    The division is done in `precision`, by default the scale's type (f32 for a scale of f8e8m0, f64 for integers). NaN gives the
    least integer.
    """
    p = precision or (F32 if scale.dtype is E8M0 else F64 if scale.dtype.is_integer else scale.dtype)
    ratio = cast(x, p) / cast(scale, p)
    if not to.is_integer:
        shift = ratio if zero_point is None else ratio + cast(zero_point, p)
        return cast_value(shift, to=to, saturate=saturate)
    lo, hi = int(ml_dtypes.iinfo(to.np).min), int(ml_dtypes.iinfo(to.np).max)
    y = cast(call("round", ratio), F64 if p is F64 else F32)
    y = y if zero_point is None else y + cast(zero_point, y.dtype)
    return cast(where(y >= lo, where(y > hi, hi, y), lo), to)


def dequantize(x: Expr, scale: Expr, zero_point: Expr | None = None, *, to: DType) -> Expr:
    """(x - zero_point) * scale, multiplied in f32."""
    middle = I32 if x.dtype.is_integer else F32
    y = cast(x, middle) if zero_point is None else cast(x, middle) - cast(zero_point, middle)
    return cast(cast(y, F32) * cast(scale, F32), to)


def apply(formula: object, operands: Sequence[np.ndarray | None], **attrs: object) -> np.ndarray:
    """A formula evaluated over numpy operands that broadcast to the first one's shape."""
    e = trace(formula, [None if x is None else dtype_of(x) for x in operands], attrs)  # type: ignore[arg-type]
    return np.broadcast_to(evaluate(e, operands), operands[0].shape).copy()  # type: ignore[union-attr]


def aligned(v: np.ndarray | None, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray | None:
    """A scale or zero point laid out to broadcast against `shape`: one number, or one an index of the axis, or one a block."""
    if v is None or v.size == 1:
        return None if v is None else v.reshape(())
    if not block:
        if v.ndim != 1 or not -len(shape) <= axis < len(shape) or v.shape[0] != shape[axis]:
            raise ValueError(f"scale or zero point of shape {v.shape} along axis {axis} of {shape}; expected one number an index")
        return v.reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    spread = np.repeat(v, block, axis)
    spread = np.take(spread, np.arange(min(shape[axis], spread.shape[axis])), axis)
    if spread.shape != shape:
        raise ValueError(f"scale or zero point of shape {v.shape} in blocks of {block} along axis {axis} does not cover {shape}")
    return spread


def check_scale(c: InferContext) -> None:
    """Raises InferenceError where the scale (operand 1) or the zero point (2) cannot fit x (0)."""
    x, block = c.shape(0), c.attr("block_size")
    if block < 0:
        raise c.error(f"block_size = {block}; expected 0 (none) or more")
    for i in (1, 2):
        s = c.shape(i) if c.has(i) else None
        if x is None or s is None or all(d == 1 for d in s):
            continue
        axis = c.axis(c.attr("axis"), len(x))
        if block:
            blocks = [ceildiv(d, block) if j == axis else d for j, d in enumerate(x)]
            fits = len(s) == len(x) and not any(prove_ne(a, b) for a, b in zip(s, blocks, strict=True))
        else:
            fits = len(s) == 1 and not prove_ne(s[0], x[axis])
        if not fits:
            raise c.error(f"{c.op.operand_name(i)} has type {c.t(i)}; expected one number, {x[axis]} of them for axis {axis}"
                          f"{f' or blocks of {block} along it' if block else ''} of {c.t(0)}")  # fmt: skip


def _types(call: OnnxCall) -> None:
    """Attributes that name an element type: 0 stands for none."""
    for name in ("output_dtype", "precision"):
        if call.attrs.get(name) == 0:
            del call.attrs[name]
    dtype_attrs("output_dtype", "precision")(call)


# ---- quantize_linear, dequantize_linear -------------------------------------------------------------------------


def _quantized_type(zero_point: DType | None, output_dtype: DType | None) -> DType:
    if zero_point is not None and output_dtype is not None and zero_point is not output_dtype:
        raise ValueError(f"output_dtype = {output_dtype} but the zero point has elements of {zero_point}; expected the same")
    return zero_point or output_dtype or U8


def _infer_quantize(c: InferContext) -> TensorType:
    check_scale(c)
    try:
        return c.t(0).with_(dtype=_quantized_type(c.t(2).dtype if c.has(2) else None, c.attr("output_dtype")))
    except ValueError as e:
        raise c.error(str(e)) from None


def _quantizations() -> list[Example]:
    x, per_axis = rand(2, 3, 4, lo=-300, hi=300), f32([1, 2, 0.5])
    f8 = [ex(x, np.float32(2), np.zeros((), d.np), saturate=s) for d in sorted(F8_WITH_NAN, key=str) for s in (1, 0)]
    kinds = [ex(x / 20, np.float32(3), output_dtype=d) for d in sorted(QUANTIZED - F8_WITH_NAN, key=str)]
    blocks = np.abs(rand(2, 2, 4, seed=3)) + 1
    return [
        ex(x, np.float32(2)),
        ex(x, np.float32(2), np.int8(-7)),
        ex(x, per_axis, np.array([1, 2, 128], np.uint8)),
        ex(x, f32([1, 2, 3, 4]), np.array([1, 2, 3, 4], np.uint16), axis=-1),
        ex(x, blocks, block_size=2, axis=1, output_dtype=I8),
        ex(f32([0.5, 1.5, 2.5, -0.5]), f32([1])),
        ex(f32([np.inf, -np.inf, 1e30]), np.float32(1), np.int8(3)),
        ex(x.astype(np.float16), np.float16(2)),
        ex(x, np.float16(2), precision=F32),
        ex(np.array([100, -3, 7], np.int32), np.float32(2), np.int8(1)),
        ex(np.zeros((0, 3), np.float32), per_axis),
        *f8,
        *kinds,
    ]


@op("quantize_linear", onnx=Onnx("QuantizeLinear", since=10, adapt=_types), infer=_infer_quantize, examples=_quantizations,
    dtypes={"x": SCALES | {I32}, "scale": SCALES | {E8M0, I32}, "zero_point": QUANTIZED})  # fmt: skip
def quantize_linear(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None, *, axis: int = 1, block_size: int = 0,
                    output_dtype: DType | None = None, precision: DType | None = None,
                    saturate: int = 1) -> np.ndarray:  # fmt: skip
    """`quantize` with one scale and zero point in all, one an index of `axis`, or one a block of `block_size` along it.

    The result has the zero point's element type, else `output_dtype`, else u8.
    """
    to = _quantized_type(None if zero_point is None else dtype_of(zero_point), output_dtype)
    parts = [x, *(aligned(v, x.shape, axis, block_size) for v in (scale, zero_point))]
    return apply(quantize, parts, to=to, saturate=saturate, precision=precision)


def _infer_dequantize(c: InferContext) -> TensorType:
    same_dtype(c, 0, 2)
    check_scale(c)
    dtype = c.attr("output_dtype") or c.t(1).dtype
    if dtype not in SCALES:
        raise c.error(f"the result would have elements of {dtype}; expected output_dtype to name one of f32, f16, bf16")
    return c.t(0).with_(dtype=dtype)


def _dequantizations() -> list[Example]:
    x, per_axis = rand(2, 3, 4, dtype=np.uint8, hi=255), f32([1, 2, 0.5])
    kinds = [ex(convert(rand(3, 4, lo=0, hi=4).round(), d), np.float32(3)) for d in sorted(QUANTIZED | {I32}, key=str)]
    signed = [ex(convert(np.array([-2, -1, 0, 1]), d), np.float32(0.5), convert(np.array(1), d)) for d in (I4, I2, I16)]
    return [
        ex(x, np.float32(2)),
        ex(x, np.float32(2), np.uint8(128)),
        ex(x, per_axis, np.array([1, 2, 128], np.uint8)),
        ex(x, f32([1, 2, 3, 4]), np.array([1, 2, 3, 4], np.uint8), axis=-1),
        ex(x, np.abs(rand(2, 2, 4)), rand(2, 2, 4, dtype=np.uint8, hi=255), block_size=2),
        ex(x, np.float16(0.3), np.uint8(7)),
        ex(x, np.float32(0.3), output_dtype=F16),
        ex(x, np.array(0.25, E8M0.np), output_dtype=F32),
        ex(np.array([2**31 - 1, -5], np.int32), np.float32(0.1)),
        ex(np.zeros((0, 3), np.uint8), per_axis),
        *kinds,
        *signed,
    ]


@op("dequantize_linear", onnx=Onnx("DequantizeLinear", since=10, adapt=_types), infer=_infer_dequantize, examples=_dequantizations,
    dtypes={"x": QUANTIZED | {I32}, "scale": SCALES | {E8M0}, "zero_point": QUANTIZED | {I32}})  # fmt: skip
def dequantize_linear(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None, *, axis: int = 1, block_size: int = 0,
                      output_dtype: DType | None = None) -> np.ndarray:  # fmt: skip
    """`dequantize` with one scale and zero point in all, one an index of `axis`, or one a block of `block_size` along it.

    The result has the element type `output_dtype`, else the scale's.
    """
    parts = [x, *(aligned(v, x.shape, axis, block_size) for v in (scale, zero_point))]
    return apply(dequantize, parts, to=output_dtype or dtype_of(scale))


def _infer_dynamic(c: InferContext) -> list[TensorType]:
    return [c.t(0).with_(dtype=U8), TensorType(F32, ()), TensorType(U8, ())]


def _dynamics() -> list[Example]:
    values = ([0, 2, -3, -2.5, 1.34, 0.5], [-1, -2.1, -1.3, -2.5, -3.34, -4], [1, 2.1, 1.3, 2.5, 3.34, 4], [0, 0])
    return [*(ex(f32(v), results=3) for v in values), ex(rand(3, 4), results=3)]


@op("dynamic_quantize_linear", onnx=Onnx("DynamicQuantizeLinear", since=11), infer=_infer_dynamic, dtypes={"x": {F32}}, results=3,
    examples=_dynamics)  # fmt: skip
def dynamic_quantize_linear(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x in u8, with the f32 scale and the zero point that make its range (widened to hold 0) fill 0..255.

    A scale of 1 serves where x holds nothing but zeros.
    """
    zero = np.float32(0)
    lo, hi = np.min(x, initial=zero), np.max(x, initial=zero)
    scale = np.float32(1) if lo == hi else (hi - lo) / np.float32(255)
    zero_point = np.asarray(np.clip(np.rint(-lo / scale), 0, 255)).astype(np.uint8)
    return apply(quantize, [x, np.asarray(scale), zero_point], to=U8), np.asarray(scale), zero_point


# ---- products of quantized numbers ------------------------------------------------------------------------------


def requantize(acc: np.ndarray, factor: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """saturate(round(acc * factor) + zero_point) in the zero point's type; the product is rounded to f32."""
    scaled = np.asarray(acc, np.float32) * np.asarray(factor, np.float32)
    return apply(quantize, [scaled, np.ones((), np.float32), zero_point], to=dtype_of(zero_point))


def _infer_qlinear_matmul(c: InferContext) -> TensorType:
    same_dtype(c, 0, 2)
    same_dtype(c, 3, 5)
    return TensorType(c.t(7).dtype, matmul_shape(c, c.shape(0), c.shape(3)))


def _qlinear_matmuls() -> list[Example]:
    a, b = rand(2, 3, dtype=np.uint8, hi=255), rand(3, 4, dtype=np.uint8, hi=255)
    one, zero = np.float32(0.01), np.uint8(113)
    signed = [v.astype(np.int8) for v in (a, b, zero)]
    return [
        ex(a, one, zero, b, f32([0.02]), np.array([114], np.uint8), np.float32(0.03), np.uint8(118)),
        ex(signed[0], one, np.int8(3), signed[1], one, np.int8(-4), np.float32(0.03), np.int8(5)),
        ex(np.stack([a, a]), one, zero, np.stack([b, b]), one, zero, np.float32(0.03), zero),
        ex(a, one, zero, b, f32([1, 2, 3, 4]) * one, np.array([1, 2, 3, 4], np.uint8), np.float32(0.1), zero),
        ex(a, one, zero, signed[1], one, np.int8(0), np.float32(1e-6), zero),
        ex(np.zeros((0, 3), np.uint8), one, zero, b, one, zero, one, zero),
        ex(a, np.float16(0.5), zero, b, np.float16(0.5), zero, np.float16(64), zero),
    ]


_FACTORS = F8_WITH_NAN | BYTES


@op("qlinear_matmul", onnx=Onnx("QLinearMatMul", since=10), infer=_infer_qlinear_matmul, traits=("anchor",),
    examples=_qlinear_matmuls,
    dtypes={"a": _FACTORS, "a_scale": SCALES, "a_zero_point": _FACTORS, "b": _FACTORS, "b_scale": SCALES, "b_zero_point": _FACTORS,
            "y_scale": SCALES, "y_zero_point": _FACTORS})  # fmt: skip
def qlinear_matmul(a: np.ndarray, a_scale: np.ndarray, a_zero_point: np.ndarray, b: np.ndarray, b_scale: np.ndarray,
                   b_zero_point: np.ndarray, y_scale: np.ndarray, y_zero_point: np.ndarray) -> np.ndarray:  # fmt: skip
    """The matrix product of two quantized tensors, quantized; scales and zero points for all, a row of A, or a column of B."""
    acc = np.matmul(shifted(a, per_row(a_zero_point)), shifted(b, per_column(b_zero_point)))
    factor = per_row(wide(a_scale)) * per_column(wide(b_scale)) / per_row(wide(y_scale))
    return requantize(acc, factor, per_row(y_zero_point))


def _infer_integer_conv(c: InferContext, w: int, dtype: DType) -> TensorType:
    """The type of a convolution of x (operand 0) and w (operand `w`)."""
    as_conv = copy.copy(c)
    as_conv.types = [c.t(0).with_(dtype=F32), c.t(w).with_(dtype=F32)]
    return infer_conv(as_conv).with_(dtype=dtype)


def _by_channel(v: np.ndarray, rank: int) -> np.ndarray:
    """One number an output channel (or one in all), laid out against w[M, ...] of the given rank."""
    return v.reshape(()) if v.size == 1 else v.reshape((-1,) + (1,) * (rank - 1))


def _centered(x: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
    """x - zero_point in i16, which holds every difference of bytes."""
    return x.astype(np.int16) if zero_point is None else x.astype(np.int16) - zero_point.astype(np.int16)


def _integer_convs() -> list[Example]:
    x, w = rand(1, 2, 5, 5, dtype=np.uint8, hi=255), rand(4, 2, 3, 3, dtype=np.uint8, hi=255)
    return [
        ex(x, w),
        ex(x, w, np.uint8(7), pads=(1, 1, 1, 1)),
        ex(x, w.astype(np.int8), np.uint8(7), np.array([1, -2, 3, -4], np.int8), strides=(2, 2)),
        ex(x, w[:, :1].copy(), np.uint8(7), np.uint8(3), group=2, dilations=(2, 1)),
        ex(x, w, None, np.array([3], np.uint8), auto_pad="SAME_UPPER"),
    ]


@op("conv_integer", onnx=Onnx("ConvInteger", since=10, export=drop_empty), infer=lambda c: _infer_integer_conv(c, 1, I32),
    dtypes=dict.fromkeys(("x", "w", "x_zero_point", "w_zero_point"), BYTES), traits=("anchor",),
    examples=_integer_convs)  # fmt: skip
def conv_integer(x: np.ndarray, w: np.ndarray, x_zero_point: np.ndarray | None = None, w_zero_point: np.ndarray | None = None, *,
                 auto_pad: str = "NOTSET", dilations: Sequence[int] = (), group: int = 1, kernel_shape: Sequence[int] = (),
                 pads: Sequence[int] = (), strides: Sequence[int] = ()) -> np.ndarray:  # fmt: skip
    """The convolution of x - x_zero_point and w - w_zero_point in i32; the padding counts as x_zero_point."""
    weight = _centered(w, None if w_zero_point is None else _by_channel(w_zero_point, w.ndim))
    return conv_reference(_centered(x, x_zero_point), weight, auto_pad=auto_pad, dilations=dilations, group=group,
                          kernel_shape=kernel_shape, pads=pads, strides=strides)  # fmt: skip


def _qlinear_convs() -> list[Example]:
    x, w = rand(1, 2, 5, 5, dtype=np.uint8, hi=255), rand(4, 2, 3, 3, dtype=np.int8, lo=-64, hi=63)
    s, zp = np.float32(0.02), np.uint8(128)
    scales, bias = f32([0.01, 0.02, 0.03, 0.04]), np.array([100, -2000, 3, 0], np.int32)
    return [
        ex(x, s, zp, w, s, np.int8(0), np.float32(0.5), zp),
        ex(x, s, zp, w, scales, np.zeros(4, np.int8), np.float32(0.5), zp, bias, pads=(1, 1, 1, 1)),
        ex(x, s, zp, w.astype(np.uint8), s, np.uint8(7), np.float32(0.5), zp, strides=(2, 1)),
        ex(x, s, zp, w[:, :1].copy(), scales, np.array([1, -2, 3, -4], np.int8), np.float32(0.01), zp, bias, group=2),
        ex(x.astype(np.int8), s, np.int8(-3), w, s, np.int8(0), np.float32(0.5), np.int8(9), auto_pad="SAME_LOWER"),
    ]


@op("qlinear_conv", onnx=Onnx("QLinearConv", since=10, export=drop_empty), infer=lambda c: _infer_integer_conv(c, 3, c.t(7).dtype),
    dtypes={"x": BYTES, "x_scale": {F32}, "x_zero_point": BYTES, "w": BYTES, "w_scale": {F32}, "w_zero_point": BYTES,
            "y_scale": {F32}, "y_zero_point": BYTES, "bias": {I32}}, traits=("anchor",), examples=_qlinear_convs)  # fmt: skip
def qlinear_conv(x: np.ndarray, x_scale: np.ndarray, x_zero_point: np.ndarray, w: np.ndarray, w_scale: np.ndarray,
                 w_zero_point: np.ndarray, y_scale: np.ndarray, y_zero_point: np.ndarray, bias: np.ndarray | None = None, *,
                 auto_pad: str = "NOTSET", dilations: Sequence[int] = (), group: int = 1, kernel_shape: Sequence[int] = (),
                 pads: Sequence[int] = (), strides: Sequence[int] = ()) -> np.ndarray:  # fmt: skip
    """The convolution of quantized x and w, quantized. `bias` is in units of x_scale * w_scale; w's scale and zero point may be
    given for each output channel."""
    weight = _centered(w, _by_channel(w_zero_point, w.ndim))
    acc = conv_reference(_centered(x, x_zero_point), weight, bias, auto_pad=auto_pad, dilations=dilations, group=group,
                         kernel_shape=kernel_shape, pads=pads, strides=strides)  # fmt: skip
    factor = x_scale.reshape(()) * _by_channel(w_scale, x.ndim - 1) / y_scale.reshape(())
    return requantize(acc, factor, y_zero_point.reshape(()))
