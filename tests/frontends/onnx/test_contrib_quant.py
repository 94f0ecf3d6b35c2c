"""Quantized operators of the domain com.microsoft against ONNX Runtime, and the operators that move and choose numbers.

Where a result is rounded to an integer, ONNX Runtime's order of scaling may round a tie to the other side: a few elements may be
one apart.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir.errors import ImportProblem

sys.path.insert(0, str(Path(__file__).parent))
from contrib_peer import check, model, ours

RNG = np.random.default_rng(11)
F, U8, I8 = np.float32, np.uint8, np.int8


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test has the same numbers whichever ran before it."""
    RNG.bit_generator.state = np.random.default_rng(11).bit_generator.state


def rand(*shape: int, lo: float = -2.0, hi: float = 2.0) -> np.ndarray:
    return RNG.uniform(lo, hi, shape).astype(F)


def ints(*shape: int, dtype: type = U8) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("shapes", [((3, 40), (3, 40)), ((3, 40), (40,)), ((2, 1, 5), (4, 1)), ((3, 4), ())])
def test_binary(dtype: type, op_type: str, shapes: tuple) -> None:
    a, b = (ints(*s, dtype=dtype) for s in shapes)
    zeros = [dtype(z) for z in (3, 9, 100)]
    inputs = [a, F(0.03), np.asarray(zeros[0]), b, F(0.02), np.asarray(zeros[1]), F(0.05), np.asarray(zeros[2])]
    check(op_type, [np.asarray(x) for x in inputs], constant=(1, 2, 4, 5, 6, 7), off=0.03)


def test_binary_without_zero_points():
    """Which ONNX Runtime's own type check refuses: against the formula."""
    inputs = [ints(64), np.asarray(F(0.5)), None, ints(64), np.asarray(F(0.25)), None, np.asarray(F(0.75))]
    (y,) = ours(model("QLinearAdd", inputs, {}), inputs)
    assert y.dtype == U8 and np.array_equal(y, np.rint((inputs[0] * F(0.5) + inputs[3] * F(0.25)) / F(0.75)))


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize("op_type, attrs", [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {"alpha": 0.2}), ("QLinearLeakyRelu", {})])
def test_unary(dtype: type, op_type: str, attrs: dict) -> None:
    info = np.iinfo(dtype)
    inputs = [np.arange(info.min, info.max + 1).astype(dtype), *map(np.asarray, (F(0.04), dtype(20), F(0.004), dtype(7)))]
    check(op_type, inputs, attrs, constant=(1, 2, 3, 4), off=0.02)


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize("attrs", [{"opset": 13}, {"opset": 13, "axis": 1}, {"opset": 12, "axis": 1}])
def test_softmax(dtype: type, attrs: dict) -> None:
    zero = dtype(0 if dtype is U8 else -128)
    inputs = [ints(3, 4, 5, dtype=dtype), *map(np.asarray, (F(0.02), dtype(10), F(1 / 256), zero))]
    check("QLinearSoftmax", inputs, attrs, constant=(1, 2, 3, 4), off=0.1)


@pytest.mark.parametrize("channels_last", [0, 1])
@pytest.mark.parametrize("attrs", [
    {"kernel_shape": [3, 2]}, {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"},
])  # fmt: skip
def test_average_pool(attrs: dict, channels_last: int) -> None:
    x = ints(2, 6, 7, 3) if channels_last else ints(2, 3, 6, 7)
    scales = [np.asarray(v) for v in (F(0.1), U8(9), F(0.08), U8(30))]
    check("QLinearAveragePool", [x, *scales], {**attrs, "channels_last": channels_last}, off=0.06)


@pytest.mark.parametrize("channels_last", [0, 1])
def test_global_average_pool(channels_last: int) -> None:
    scales = [np.asarray(v) for v in (F(0.1), U8(9), F(0.08), U8(30))]
    check("QLinearGlobalAveragePool", [ints(2, 5, 6, 7), *scales], {"channels_last": channels_last}, off=0.05)


def test_concat_and_where():
    parts = [[ints(2, n), np.asarray(F(s)), np.asarray(U8(z))] for n, s, z in ((3, 0.1, 5), (4, 0.2, 77), (1, 0.05, 0))]
    inputs = [np.asarray(F(0.1)), np.asarray(U8(5)), *(x for p in parts for x in p)]
    check("QLinearConcat", inputs, {"axis": 1}, constant=tuple(i for i in range(11) if i not in (2, 5, 8)), off=0.05)
    with pytest.raises(ImportProblem, match="4 inputs follow y_zero_point; expected a tensor, a scale and a zero point each"):
        read(model("QLinearConcat", inputs[:6], {"axis": 1}))
    rest = [np.asarray(v) for v in (F(0.2), U8(77), F(0.15), U8(50))]
    inputs = [RNG.random((4, 5)) > 0.5, ints(4, 5), np.asarray(F(0.1)), np.asarray(U8(5)), ints(5), *rest]
    check("QLinearWhere", inputs, constant=(2, 3, 5, 6, 7, 8), off=0.05)


@pytest.mark.parametrize("channels_last", [0, 1])
def test_convolution(channels_last: int) -> None:
    x = ints(1, 6, 7, 4) if channels_last else ints(1, 4, 6, 7)
    w = (ints(5, 4, 3, 3, dtype=I8) // 4).astype(I8)
    scalars = [np.asarray(v) for v in (F(0.02), U8(120), F(0.5), U8(100))]
    inputs = [x, *scalars[:2], w, rand(5, lo=0.01, hi=0.03), np.zeros(5, I8), *scalars[2:], ints(5, dtype=I8).astype(np.int32)]
    constant = tuple(range(1, 9))
    check("QLinearConv", inputs, {"channels_last": channels_last, "pads": [1, 0, 1, 2], "strides": [1, 2], "kernel_shape": [3, 3]},
          constant=constant, off=0.02)  # fmt: skip


def test_max_pool_of_channels_last():
    check("NhwcMaxPool", [ints(2, 6, 7, 3)], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]})


def test_mean():
    """ONNX Runtime has this one elsewhere alone: against its formula."""
    x, scales = ints(3, 8), [np.asarray(v) for v in (F(0.1), U8(9), F(0.08), U8(30))]
    (y,) = ours(model("QLinearReduceMean", [x, *scales], {"axes": [1], "keepdims": 0}), [x, *scales])
    assert np.abs(y - np.rint((x - 9.0).mean(1) * 0.1 / 0.08 + 30)).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, U8, I8])
def test_quantize_and_dequantize(dtype: type) -> None:
    x, zero = rand(3, 4, lo=-200, hi=200), np.full(4, 9, dtype)
    check("QuantizeLinear", [x, rand(4, lo=0.01, hi=2), zero], {"axis": 1}, constant=(1, 2))
    check("QuantizeLinear", [x, np.asarray(F(0.3)), np.asarray(zero[0])], constant=(1, 2))
    check("DequantizeLinear", [ints(3, 4, dtype=dtype), rand(3), np.full(3, 9, dtype)], {"axis": 0}, constant=(1, 2))


# ---- products ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_products(dtype: type, columns: bool, bias: bool) -> None:
    b = ints(16, 6) if dtype is U8 else (ints(16, 6, dtype=I8) // 2).astype(I8)  # what no host saturates
    scale, zero = (rand(6, lo=0.01, hi=0.1), ints(6, dtype=dtype) // 2) if columns else (np.asarray(F(0.05)), np.asarray(dtype(7)))
    tail = [rand(6)] if bias else []
    check("DynamicQuantizeMatMul", [rand(2, 3, 16), b, scale, zero.astype(dtype), *tail], constant=(1, 2, 3), atol=1e-3)
    a_scale, a_zero = np.asarray(F(0.02)), np.asarray(U8(100))
    inputs = [ints(2, 3, 16), b, a_scale, scale, a_zero, zero.astype(dtype), *tail]
    check("MatMulIntegerToFloat", inputs, constant=(1, 2, 3, 4, 5), atol=1e-3)


def test_product_without_zero_points():
    check("DynamicQuantizeMatMul", [rand(3, 4), ints(4, 2), np.array([0.1], F)], constant=(1, 2), atol=1e-3)
    check("MatMulIntegerToFloat", [ints(3, 4), ints(4, 2), np.asarray(F(0.1)), np.asarray(F(0.2))], constant=(1,), atol=1e-3)


def test_product_of_16_bits():
    check("MatMulInteger16", [ints(3, 8, dtype=np.int16), (ints(8, 4, dtype=np.int16) // 64).astype(np.int16)])


@pytest.mark.parametrize("attrs", [{}, {"transA": 1, "transB": 1, "alpha": 1.5}, {"transB": 1}])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("c", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_gemm(attrs: dict, columns: bool, c: bool, quantized: bool) -> None:
    a, b = ints(3, 8), (ints(8, 4, dtype=I8) // 2).astype(I8)
    a, b = (x.T.copy() if attrs.get(t) else x for x, t in ((a, "transA"), (b, "transB")))
    scale, zero = (rand(4, lo=0.01, hi=0.1), np.arange(4, dtype=I8)) if columns else (np.asarray(F(0.05)), np.asarray(I8(7)))
    added = RNG.integers(-900, 900, 4).astype(np.int32) if c else None
    inputs = [a, np.asarray(F(0.02)), np.asarray(U8(100)), b, scale, zero, added]
    inputs += [np.asarray(F(0.2)), np.asarray(U8(90))] if quantized else []
    check("QGemm", inputs, attrs, constant=tuple(i for i in (1, 2, 3, 4, 5, 7, 8) if i < len(inputs)), off=0.1, atol=1e-3)


# ---- operators that move and choose -----------------------------------------------------------------------------


def test_pad():
    x, pads = rand(2, 3), np.array([0, 1, 2, -1], np.int64)
    check("Pad", [x, pads, np.asarray(F(7))])
    check("Pad", [x, pads[None], np.array([7], F)])
    check("Pad", [x, np.array([0, 1, 0, 2], np.int64)], {"mode": "reflect"})


def test_ranges_and_shapes():
    check("Range", [np.asarray(np.int32(3)), np.array([11], np.int32), np.asarray(np.int32(2))])
    check("Range", [np.array([0.5], F), np.array([3], F)])
    for axis in (0, 1, -1):
        check("ExpandDims", [rand(2, 3), np.asarray(np.int32(axis))], constant=(1,))
    check("Trilu", [rand(4, 5), np.asarray(np.int64(-1))], {"upper": 0})
    check("GatherND", [rand(3, 4, 5), np.array([[[0, 1]], [[2, -1]]], np.int64)])


def test_unique():
    check("Unique", [np.array([2, 1, 1, 3, 4, 3], F)], {}, (0, 1, 2))


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
@pytest.mark.parametrize("dtype", [F, np.float64])
def test_cdist(metric: str, dtype: type) -> None:
    check("CDist", [rand(4, 3).astype(dtype), rand(5, 3).astype(dtype)], {"metric": metric}, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_grid_sample(mode: str, padding_mode: str) -> None:
    grid = rand(2, 4, 3, 2, lo=-1.3, hi=1.3)
    check("GridSample", [rand(2, 3, 5, 6), grid], {"mode": mode, "padding_mode": padding_mode, "align_corners": 1}, atol=1e-4)


def test_other_metrics_are_refused():
    with pytest.raises(ImportProblem, match="metric = 'cosine' is not supported; expected 'sqeuclidean' or 'euclidean'"):
        read(model("CDist", [rand(2, 2), rand(2, 2)], {"metric": "cosine"}))
