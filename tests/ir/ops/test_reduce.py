"""Reductions: old opsets, inference where axes are unknown, shape arithmetic, accuracy, and the records that kernels use."""

from __future__ import annotations

import math

import numpy as np
import pytest
from graphmill.ir.errors import GraphmillError, InferenceError
from graphmill.ir.op import OPS, InferContext
from graphmill.ir.reduction import Reduction, reduce_array
from graphmill.ir.symbols import symbol
from graphmill.ir.types import BF16, BOOL, F16, F32, I8, I64, U8, TensorType
from op_harness import infer_types, load_all, run_node

load_all()
X = np.float32(np.arange(1, 25)).reshape(2, 3, 4)
N = symbol("n", 1)


@pytest.mark.parametrize("op_type", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceProd", "ReduceL2", "ReduceLogSumExp"])
def test_axes_were_an_attribute(op_type: str) -> None:
    before = 11 if op_type == "ReduceSum" else 13
    axes = np.array([0, 2])
    want = run_node(op_type, 18, X, axes)
    assert want.shape == (1, 3, 1)
    np.testing.assert_array_equal(run_node(op_type, before, X, axes=[0, 2]), want)
    np.testing.assert_array_equal(run_node(op_type, 1, X, axes=[0, 2], keepdims=0), want.reshape(3))
    assert run_node(op_type, before, X).shape == (1, 1, 1)


def test_axes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InferenceError, match="axis 3 is out of range for rank 3"):
        infer_types("reduce_sum", ("f32", (2, 3, 4)), ("i64", (1,)), contents=(None, np.array([3])))
    with pytest.raises(InferenceError, match="name an axis twice"):
        infer_types("reduce_sum", ("f32", (2, 3, 4)), ("i64", (2,)), contents=(None, np.array([0, -3])))
    with pytest.raises(GraphmillError, match="distinct axes"):
        run_node("ReduceSum", 13, X, np.array([5]))


def test_inference_with_unknown_axes() -> None:
    kept = infer_types("reduce_sum", ("f32", (2, N, 1)), ("i64", (1,)))
    assert kept.rank == 3 and kept.shape[2] == 1
    assert infer_types("reduce_sum", ("f32", (2, N, 1)), ("i64", (1,)), keepdims=0).rank == 2
    assert infer_types("reduce_sum", ("f32", (2, N, 1)), ("i64", (N,)), keepdims=0).shape is None
    assert infer_types("reduce_sum", ("f32", (2, N)), ("i64", (0,)), noop_with_empty_axes=1).shape == (2, N)
    assert infer_types("reduce_max", ("f32", (2, N)), contents=(None,), keepdims=0).shape == ()
    assert infer_types("arg_max", ("f32", (2, N)), axis=-1, keepdims=0) == TensorType(I64, (2,))


@pytest.mark.parametrize("name, want", [("reduce_sum", N + 6), ("reduce_prod", 8 * N), ("reduce_max", None), ("reduce_l1", None)])
def test_reductions_of_a_shape(name: str, want: object) -> None:
    d = OPS[name]
    if d.dims is None:
        assert want is None
        return
    attrs = {"keepdims": 0, "noop_with_empty_axes": 0}
    data = np.array([N, 2, 4], object)
    out = d.dims(InferContext(d, [TensorType(I64, (3,))], attrs, 1, [data]))
    assert out.shape == () and (want is None or out.item() == want)


def test_sums_of_many_numbers_stay_exact() -> None:
    x = np.full((100000, 2), 0.1, np.float32)
    want = np.float32(math.fsum(x[:, 0].tolist()))
    assert OPS["reduce_sum"].reference(x, np.array([0])).ravel().tolist() == [want, want]
    half = np.full((5000,), 0.1, np.float16)
    assert OPS["reduce_mean"].reference(half).item() == np.float16(0.1)


def test_log_sum_exp_does_not_overflow() -> None:
    for dtype in (np.float16, BF16.np, np.float32, np.float64):
        x = np.array([[1000, 1000], [-1000, -1000]]).astype(dtype)
        got = OPS["reduce_log_sum_exp"].reference(x, np.array([1]), keepdims=0).astype(float)
        np.testing.assert_allclose(got, [1000 + math.log(2), -1000 + math.log(2)], rtol=5e-3)


def test_reductions_of_nothing() -> None:
    nothing = np.zeros((0, 2), np.float32)
    want = {"sum": 0, "prod": 1, "max": -np.inf, "min": np.inf, "l1": 0, "l2": 0, "sum_square": 0, "log_sum": -np.inf,
            "log_sum_exp": -np.inf, "mean": np.nan}  # fmt: skip
    with np.errstate(all="ignore"):
        for name, value in want.items():
            np.testing.assert_array_equal(
                OPS[f"reduce_{name}"].reference(nothing, np.array([0]), keepdims=0), [value, value], err_msg=name
            )


def test_identity_and_accumulator() -> None:
    assert Reduction("max").identity(I8) == -128 and Reduction("min").identity(U8) == 255
    assert Reduction("max").identity(BOOL) is False and Reduction("min").identity(BOOL) is True
    assert Reduction("min").identity(F32) == math.inf
    assert Reduction.accumulator(F16) is F32 and Reduction.accumulator(BF16) is F32 and Reduction.accumulator(I8) is I8


def test_a_users_reduction() -> None:
    spread = Reduction("max", map=lambda x: abs(x), finish=lambda acc, count: acc * count)
    np.testing.assert_array_equal(reduce_array(spread, np.float32([[-3, 2], [1, 0]]), (1,), False), [6, 2])


def test_arg_max_of_old_opsets_and_errors() -> None:
    np.testing.assert_array_equal(run_node("ArgMax", 1, X, axis=2, keepdims=0), np.full((2, 3), 3))
    with pytest.raises(GraphmillError, match="axis 3"):
        run_node("ArgMin", 13, X, axis=3)
    with pytest.raises(InferenceError, match="axis 4"):
        infer_types("cum_sum", ("f32", (2, 3)), ("i64", ()), contents=(None, np.array(4)))
