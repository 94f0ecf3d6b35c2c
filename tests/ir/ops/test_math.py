"""Arithmetic and activations: old opsets, inference errors, ranges where naive formulas overflow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from graphmill.ir.errors import GraphmillError, InferenceError
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BF16, F32, TensorType
from op_harness import infer_types, load_all, run_node

load_all()
A = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "op_type, fn", [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide), ("Pow", np.power)]
)
def test_broadcast_before_opset_7(op_type: str, fn: np.ufunc) -> None:
    b = np.float32([1, 2, 3])
    np.testing.assert_allclose(run_node(op_type, 6, A, b, constant=[1], broadcast=1, axis=1), fn(A, b[:, None]), rtol=1e-6)
    np.testing.assert_allclose(run_node(op_type, 6, A, A[0, 0], broadcast=1), fn(A, A[0, 0]), rtol=1e-6)
    # An axis that names the trailing dims asks for what numpy does anyway, so that the operand need not be constant.
    np.testing.assert_allclose(run_node(op_type, 6, A, A[0], broadcast=1, axis=1), fn(A, A[0]), rtol=1e-6)


def test_broadcast_before_opset_7_of_an_operand_that_is_not_constant_is_refused() -> None:
    with pytest.raises(GraphmillError, match="constant second operand; expected opset >= 7"):
        run_node("Add", 6, A, np.float32([1, 2, 3]), broadcast=1, axis=1)


@pytest.mark.parametrize("op_type", ["Relu", "Neg", "Exp", "Sigmoid", "Tanh", "Abs", "Elu", "LeakyRelu", "HardSigmoid"])
def test_consumed_inputs_mean_nothing(op_type: str) -> None:
    x = np.float32([-1, 2])
    np.testing.assert_array_equal(run_node(op_type, 1, x, consumed_inputs=[0]), run_node(op_type, 22, x))


def test_clip_before_opset_11() -> None:
    x = np.float32([-2, 0.5, 7])
    np.testing.assert_array_equal(run_node("Clip", 6, x, min=-1.0, max=1.0), [-1, 0.5, 1])
    np.testing.assert_array_equal(run_node("Clip", 6, x.astype(np.float16), max=1.0), [-2, 0.5, 1])
    np.testing.assert_array_equal(run_node("Clip", 1, x, min=0.0, consumed_inputs=[0]), [0, 0.5, 7])


def test_prelu_before_opset_7_runs_its_slope_along_the_channels() -> None:
    slope = np.float32([1, 2, 3])
    np.testing.assert_array_equal(run_node("PRelu", 6, -A, slope, constant=[1]), -A * slope[:, None])
    np.testing.assert_array_equal(run_node("PRelu", 6, -A, slope[1:2], constant=[1]), -A * 2)
    with pytest.raises(GraphmillError, match="opset >= 7"):
        run_node("PRelu", 6, A, slope)


def test_selu_of_opset_1_has_other_defaults() -> None:
    x = np.float32([-1, 1])
    want = [1.0507 * 1.6732 * math.expm1(-1), 1.0507]
    np.testing.assert_allclose(run_node("Selu", 1, x), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, BF16.np])
def test_nothing_overflows_far_from_zero(dtype: type) -> None:
    x = np.array([-1e4, 1e4]).astype(dtype)
    big = x[1].astype(np.float64)
    limits = {"softplus": (0, big), "sigmoid": (0, 1), "mish": (0, big), "gelu": (0, big), "swish": (0, big), "elu": (-1, big),
              "celu": (-1, big), "softsign": (-1, 1), "tanh": (-1, 1), "erf": (-1, 1)}  # fmt: skip
    for name, want in limits.items():
        attrs = {k: a.default for k, a in OPS[name].attrs.items()}
        got = OPS[name].reference(x, **attrs).astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=1e-2, err_msg=name)


def test_small_numbers_keep_their_digits() -> None:
    x = np.array([-1e-12, 1e-12])
    assert OPS["elu"].reference(x, alpha=1.0)[0] == pytest.approx(-1e-12, rel=1e-9)
    assert OPS["softplus"].reference(np.array([-40.0]))[0] == pytest.approx(math.exp(-40), rel=1e-12)


def test_half_precision_formulas_round_once() -> None:
    x = np.linspace(-4, 4, 101).astype(np.float16)
    exact = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(float)])
    got = OPS["gelu"].reference(x, approximate="none")
    np.testing.assert_allclose(got.astype(float), exact, rtol=6e-4, atol=1e-6)


def test_inference_of_symbolic_and_unknown_shapes() -> None:
    n = symbol("n", 1)
    assert infer_types("add", ("f32", (n, 1)), ("f32", (4,))) == TensorType(F32, (n, 4))
    assert infer_types("add", ("f32", None), ("f32", (4,))) == TensorType(F32, None)
    assert infer_types("pow", ("f32", (2,)), ("i64", ())).dtype is F32
    with pytest.raises(InferenceError, match=r"add: shapes \[2,3\] and \[4\] do not broadcast"):
        infer_types("add", ("f32", (2, 3)), ("f32", (4,)))
    with pytest.raises(InferenceError, match="add of f32 and f64: the element types must be equal"):
        infer_types("add", ("f32", (2,)), ("f64", (2,)))
    with pytest.raises(InferenceError, match='approximate = "x"; expected "none" or "tanh"'):
        infer_types("gelu", ("f32", (2,)), approximate="x")
