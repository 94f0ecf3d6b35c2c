"""Comparison, logic and casts: old opsets, inference errors, the corners of the cast tables."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import GraphmillError, InferenceError
from graphmill.ir.op import OPS
from graphmill.ir.types import DTYPES, F32, I32, I64, STR, TensorType
from op_harness import infer_types, load_all, run_node

load_all()
A = np.arange(6, dtype=np.int32).reshape(2, 3)


@pytest.mark.parametrize("op_type, fn", [("Equal", np.equal), ("Greater", np.greater), ("Less", np.less)])
def test_comparison_before_opset_7(op_type: str, fn: np.ufunc) -> None:
    a = A if op_type == "Equal" else A.astype(np.float32)
    b = a[:, 1].copy()
    np.testing.assert_array_equal(run_node(op_type, 1, a, b, constant=[1], broadcast=1, axis=0), fn(a, b[:, None]))


def test_logic_before_opset_7() -> None:
    a, b = A % 2 == 0, np.array([True, False])
    for op_type, fn in (("And", np.logical_and), ("Or", np.logical_or), ("Xor", np.logical_xor)):
        np.testing.assert_array_equal(run_node(op_type, 1, a, b, constant=[1], broadcast=1, axis=0), fn(a, b[:, None]))


def test_errors_of_attributes() -> None:
    with pytest.raises(InferenceError, match='direction = "UP"; expected "LEFT" or "RIGHT"'):
        infer_types("bit_shift", ("u8", (2,)), ("u8", (2,)), direction="UP")
    with pytest.raises(InferenceError, match="expected types of equal width, got 32 and 16 bits"):
        infer_types("bit_cast", ("f32", (2,)), to=DTYPES["f16"])
    with pytest.raises(InferenceError, match='round_mode = "odd"'):
        infer_types("cast", ("f32", (2,)), to=DTYPES["f8e8m0"], round_mode="odd")


def test_cast_of_opset_1_names_its_type() -> None:
    got = run_node("Cast", 1, np.float32([1.5, -2.5]), to="INT32")
    assert got.dtype == np.int32 and got.tolist() == [1, -2]
    with pytest.raises(GraphmillError, match="expected one of FLOAT, DOUBLE"):
        run_node("Cast", 1, np.float32([1]), to="QUAD")


def test_cast_to_an_unknown_type_is_refused() -> None:
    with pytest.raises(GraphmillError, match="to = 99"):
        run_node("Cast", 13, np.float32([1]), to=99)


def cast(x: np.ndarray, to: str, **attrs: object) -> np.ndarray:
    return OPS["cast"].reference(x, to=DTYPES[to], **({"saturate": 1, "round_mode": "up"} | attrs))


def test_cast_to_powers_of_two() -> None:
    """The two columns of ONNX's table, and numbers around 2^-127, the least that the format has."""
    x = np.float32([0, np.nan, np.inf, 3e38, 2.0**-130, 2.0**-127, 1.2 * 2.0**-127, 1.6 * 2.0**-127])
    up = cast(x, "f8e8m0").view(np.uint8).tolist()
    assert up == [0, 255, 254, 254, 0, 0, 1, 1]
    nearest = cast(x, "f8e8m0", saturate=0, round_mode="nearest").view(np.uint8).tolist()
    assert nearest == [255, 255, 255, 255, 255, 0, 0, 1]
    assert cast(x[3:], "f8e8m0", round_mode="down").view(np.uint8).tolist() == [254, 0, 0, 0, 0]


def test_cast_to_float8_rounds_before_it_saturates() -> None:
    x = np.float32([448, 463, 464, 465, 1e9])
    assert cast(x, "f8e4m3fn").astype(float).tolist() == [448] * 5
    assert np.isnan(cast(x, "f8e4m3fn", saturate=0).astype(float)).tolist() == [False, False, False, True, True]
    assert cast(np.int64([1000, -1000]), "f8e4m3fn").astype(float).tolist() == [448, -448]


def test_cast_of_text() -> None:
    text = np.array([["3.5", "1e-5"], ["+INF", "nan"]], object)
    np.testing.assert_array_equal(cast(text, "f32"), np.float32([[3.5, 1e-5], [np.inf, np.nan]]))
    assert cast(np.array(["9223372036854775807", "-12", "7.0"], object), "i64").tolist() == [2**63 - 1, -12, 7]
    assert cast(np.array(["300"], object), "f8e5m2").astype(float).tolist() == [320]
    assert cast(np.array(["1", "0"], object), "bool").tolist() == [True, False]
    for bad, to in (("Hello", "f32"), ("Hello", "i32"), ("inf", "i64")):
        with pytest.raises(ValueError):
            cast(np.array([bad], object), to)
    assert cast(np.array(["300"], object), "i8").tolist() == [44]
    with pytest.raises(OverflowError):
        cast(np.array(["9223372036854775808"], object), "i64")


def test_numbers_as_text_read_back() -> None:
    x = np.float32([0.1, 314.15926, 1e-5, np.inf, -np.inf, np.nan])
    text = cast(x, "str")
    assert text.dtype == object and text[3:].tolist() == ["INF", "-INF", "NaN"]
    np.testing.assert_array_equal(cast(text, "f32"), x)
    assert cast(np.uint64([2**64 - 1]), "str").tolist() == [str(2**64 - 1)]
    assert cast(np.array([True, False]), "str").tolist() == ["1", "0"]


def test_cast_like_takes_the_shape_of_the_first_and_the_type_of_the_second() -> None:
    assert infer_types("cast_like", ("f32", (2, 3)), ("i32", (7,))) == TensorType(I32, (2, 3))
    assert infer_types("cast_like", ("i64", None), ("str", ())) == TensorType(STR, None)
    assert infer_types("identity", ("i64", (2,))) == TensorType(I64, (2,))
    assert infer_types("dropout", ("f32", (2,)), results=2)[0] == TensorType(F32, (2,))


def test_dropout() -> None:
    x = np.float32(np.arange(1, 13)).reshape(3, 4)
    for opset, attrs in ((1, {"is_test": 1}), (6, {"ratio": 0.9}), (7, {"ratio": 0.9}), (10, {}), (12, {}), (22, {})):
        np.testing.assert_array_equal(run_node("Dropout", opset, x, **attrs), x)
    ratio, training = np.float32(0.25), np.bool_(True)
    y, mask = run_node("Dropout", 22, x, ratio, training, results=2, seed=7)
    assert mask.dtype == bool and 0 < mask.sum() < mask.size
    np.testing.assert_allclose(y, np.where(mask, x / 0.75, 0), rtol=1e-6)
    np.testing.assert_array_equal(mask, np.random.RandomState(7).uniform(0, 1, x.shape) >= 0.25)
    with pytest.raises(GraphmillError, match="0 <= ratio < 1"):
        run_node("Dropout", 22, x, np.float32(1.5), training)
