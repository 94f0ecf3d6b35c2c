"""Quantization: rounding, saturation, granularities, inference and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import GraphmillError, InferenceError
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import DTYPES, F16, F32, I8, U8, TensorType
from op_harness import infer_types, load_all, run_node

load_all()
N = symbol("n", 1)
quantize, dequantize = OPS["quantize_linear"].reference, OPS["dequantize_linear"].reference


def test_halves_round_to_even_before_the_zero_point() -> None:
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5])
    assert quantize(x, np.float32(1), np.int8(1)).tolist() == [1, 3, 3, 1, -1]


def test_saturation() -> None:
    x = np.float32([1e30, -1e30, np.inf, -np.inf, np.nan])
    assert quantize(x, np.float32(1), np.uint8(7)).tolist() == [255, 0, 255, 0, 0]
    assert quantize(x[:4], np.float32(1), output_dtype=DTYPES["i4"]).astype(int).tolist() == [7, -8, 7, -8]
    assert quantize(x[:2], np.float32(1e-30), np.uint16(7)).tolist() == [65535, 0]
    f8 = np.zeros((), DTYPES["f8e5m2"].np)
    assert quantize(x[:1], np.float32(1), f8).astype(float).tolist() == [57344]
    assert quantize(x[:1], np.float32(1), f8, saturate=0).astype(float).tolist() == [np.inf]


def test_precision_of_the_division() -> None:
    x, scale = np.float32([1000.6]), np.float16(2)
    assert quantize(x, scale, np.uint16(0)).tolist() == [500]  # 1000.6 is 1000.5 in f16, 500.25 after the division
    assert quantize(np.float32([2049]), scale, np.uint16(0)).tolist() == [1024]  # 2049 has no f16
    assert quantize(np.float32([2051]), scale, np.uint16(0), precision=F32).tolist() == [1026]


def test_blocks_that_do_not_divide_the_axis() -> None:
    x = np.float32([[1, 2, 3, 4, 5]])
    scale = np.float32([[1, 2, 4]])
    assert quantize(x, scale, axis=1, block_size=2).tolist() == [[1, 2, 2, 2, 1]]
    assert dequantize(np.uint8([[1, 2, 2, 2, 1]]), scale, axis=1, block_size=2).tolist() == [[1, 2, 4, 4, 4]]


def test_the_axis_means_nothing_for_one_scale() -> None:
    assert run_node("QuantizeLinear", 13, np.float32([4]), np.float32([2])).tolist() == [2]
    assert run_node("QuantizeLinear", 10, np.float32([4, 6]), np.float32(2), np.uint8(1)).tolist() == [3, 4]
    assert run_node("DequantizeLinear", 10, np.uint8([4, 6]), np.float32(2)).tolist() == [8, 12]


def test_types() -> None:
    assert infer_types("quantize_linear", ("f32", (N,)), ("f32", ())) == TensorType(U8, (N,))
    assert infer_types("quantize_linear", ("f32", None), ("f32", ()), ("i8", ())) == TensorType(I8, None)
    assert infer_types("quantize_linear", ("f32", (2,)), ("f32", ()), output_dtype=I8).dtype is I8
    assert infer_types("dequantize_linear", ("u8", (2,)), ("f16", ())).dtype is F16
    with pytest.raises(InferenceError, match="output_dtype = i8 but the zero point has elements of u8"):
        infer_types("quantize_linear", ("f32", (2,)), ("f32", ()), ("u8", ()), output_dtype=I8)
    with pytest.raises(InferenceError, match="expected output_dtype to name one of f32, f16, bf16"):
        infer_types("dequantize_linear", ("u8", (2,)), ("f8e8m0", ()))
    with pytest.raises(InferenceError, match="expected elements of u8"):
        infer_types("dequantize_linear", ("u8", (2,)), ("f32", ()), ("i8", ()))


def test_scales_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InferenceError, match=r"scale has type f32\[4\]; expected one number, 3 of them for axis 1"):
        infer_types("quantize_linear", ("f32", (2, 3)), ("f32", (4,)))
    with pytest.raises(InferenceError, match="blocks of 2 along it"):
        infer_types("quantize_linear", ("f32", (2, 5)), ("f32", (2, 2)), block_size=2)
    assert infer_types("quantize_linear", ("f32", (2, N)), ("f32", (2, 2)), block_size=2).shape == (2, N)
    with pytest.raises(GraphmillError, match="along axis 1"):
        run_node("QuantizeLinear", 13, np.ones((2, 3), np.float32), np.ones(4, np.float32))


def test_a_round_trip_is_within_half_a_step() -> None:
    x = np.linspace(-3, 5, 101).astype(np.float32)
    q, scale, zero = run_node("DynamicQuantizeLinear", 11, x, results=3)
    assert q.dtype == np.uint8 and scale.shape == zero.shape == ()
    np.testing.assert_allclose(dequantize(q, scale, zero), x, atol=scale / 2 * 1.01)


def test_dynamic_quantization_of_nothing_and_of_zeros() -> None:
    for x in (np.zeros(3, np.float32), np.zeros(0, np.float32)):
        q, scale, zero = OPS["dynamic_quantize_linear"].reference(x)
        assert q.tolist() == [0] * x.size and scale == 1 and zero == 0


def test_quantized_convolution_pads_with_the_zero_point() -> None:
    x, w = np.full((1, 1, 2, 2), 9, np.uint8), np.full((1, 1, 3, 3), 1, np.int8)
    assert not OPS["conv_integer"].reference(x, w, np.uint8(9), pads=(1, 1, 1, 1)).any()
    one = np.float32(1)
    got = OPS["qlinear_conv"].reference(x, one, np.uint8(9), w, one, np.int8(0), one, np.uint8(4), np.int32([3]), pads=(1, 1, 1, 1))
    assert np.all(got == 7) and got.dtype == np.uint8


def test_quantized_products_infer_the_type_of_the_result() -> None:
    u8, i8, f32 = ("u8", ()), ("i8", ()), ("f32", ())
    t = infer_types("qlinear_matmul", ("u8", (N, 3)), f32, u8, ("i8", (3, 4)), f32, i8, f32, i8)
    assert t == TensorType(I8, (N, 4))
    t = infer_types("qlinear_conv", ("u8", (N, 2, 5, 5)), f32, u8, ("i8", (4, 2, 3, 3)), f32, i8, f32, u8)
    assert t == TensorType(U8, (N, 4, 3, 3))
    with pytest.raises(InferenceError, match=r"qlinear_conv: .*channels"):
        infer_types("qlinear_conv", ("u8", (N, 3, 5, 5)), f32, u8, ("i8", (4, 2, 3, 3)), f32, i8, f32, u8)
    assert infer_types("qlinear_matmul", ("u8", None), f32, u8, ("u8", (3, 4)), f32, u8, f32, u8).shape is None
    assert F32 is infer_types("dynamic_quantize_linear", ("f32", (N,)), results=3)[1].dtype
