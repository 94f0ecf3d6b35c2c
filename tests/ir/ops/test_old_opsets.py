"""Forms of older opsets through the reader, against ONNX Runtime at that opset, or against the formula where it is too new."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401
import numpy as np
import onnxruntime
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir.interp import run
from graphmill.ir.ops.examples import rand
from onnx import ModelProto, TensorProto, helper, numpy_helper

Case = tuple[str, int, list[np.ndarray], dict, int]


def model(op_type: str, opset: int, inputs: list[np.ndarray], attrs: dict, results: int, constant: bool = False) -> ModelProto:
    """One node; with `constant` all inputs but the first are initializers."""
    kinds = [helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs]
    infos = [helper.make_tensor_value_info(f"i{i}", kind, x.shape) for i, (kind, x) in enumerate(zip(kinds, inputs, strict=True))]
    held = [numpy_helper.from_array(x, f"i{i}") for i, x in enumerate(inputs) if constant and i]
    outs = [helper.make_tensor_value_info(f"o{i}", TensorProto.INT64 if i and op_type == "MaxPool" else TensorProto.FLOAT, None)
            for i in range(results)]  # fmt: skip
    node = helper.make_node(op_type, [v.name for v in infos], [v.name for v in outs], **attrs)
    graph = helper.make_graph([node], "g", infos[:1] if constant else infos, outs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ours(m: ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    module = read(m)
    return list(run(module, {v.name: x for v, x in zip(module.main.inputs, inputs, strict=False)}).values())


X = rand(2, 3, 4, 5)
STATS = [rand(3, seed=1), rand(3, seed=2), rand(3, seed=3), rand(3, seed=4, lo=0.5)]
CASES: list[Case] = [
    *((name, 11, [X], {"axis": axis}, 1) for name in ("Softmax", "LogSoftmax", "Hardmax") for axis in (0, 1, 2, 3, -2)),
    ("Softmax", 9, [X], {}, 1),
    ("BatchNormalization", 7, [X, *STATS], {}, 1),
    ("BatchNormalization", 9, [X, *STATS], {"epsilon": 0.1}, 1),
    ("RoiAlign", 10, [X, np.array([[0, 0, 3, 3]], np.float32), np.zeros(1, np.int64)], {"output_height": 2, "output_width": 2}, 1),
    *(("GridSample", 16, [X, rand(2, 3, 3, 2)], {"mode": mode}, 1) for mode in ("bilinear", "nearest", "bicubic")),
    ("DFT", 17, [rand(2, 6, 3, 1)], {"onesided": 1}, 1),
    ("MaxPool", 8, [X], {"kernel_shape": [2, 2], "storage_order": 1}, 2),
    ("AveragePool", 7, [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, 1),
    ("LpPool", 2, [X], {"kernel_shape": [2, 2], "p": 1}, 1),
    ("Upsample", 7, [X], {"scales": [1.0, 1.0, 2.0, 3.0]}, 1),
    ("Upsample", 9, [X, np.array([1, 1, 2, 3], np.float32)], {"mode": "linear"}, 1),
    ("Resize", 10, [X, np.array([1, 1, 2, 0.6], np.float32)], {}, 1),
    ("Resize", 10, [X, np.array([1, 1, 0.7, 0.6], np.float32)], {"mode": "linear"}, 1),
    ("Resize", 11, [X, np.zeros(0, np.float32), np.zeros(0, np.float32), np.array([2, 3, 7, 3], np.int64)], {"mode": "cubic"}, 1),
    ("Resize", 11, [X, np.zeros(0, np.float32), np.array([1, 1, 1.5, 2], np.float32)],
     {"coordinate_transformation_mode": "tf_half_pixel_for_nn", "nearest_mode": "floor"}, 1),
    ("GRU", 7, [rand(4, 2, 3), rand(1, 6, 3), rand(1, 6, 2)], {"hidden_size": 2}, 2),
    ("MeanVarianceNormalization", 9, [X], {}, 1),
]  # fmt: skip


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(CASES)])
def test_against_onnx_runtime(case: Case, constant: bool) -> None:
    op_type, opset, inputs, attrs, results = case
    m = model(op_type, opset, inputs, attrs, results, constant)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(m.SerializeToString(), options, ["CPUExecutionProvider"])
    want = session.run(None, {v.name: x for v, x in zip(session.get_inputs(), inputs, strict=False)})
    for got, w in zip(ours(m, inputs), want, strict=True):
        assert (got.dtype, got.shape) == (w.dtype, w.shape)
        np.testing.assert_allclose(got, w, rtol=1e-4, atol=1e-5)


def test_group_norm_18_scales_by_group() -> None:
    x, s, b = rand(2, 4, 3), np.array([2, 3], np.float32), np.array([1, -1], np.float32)
    (y,) = ours(model("GroupNormalization", 18, [x, s, b], {"num_groups": 2}, 1), [x, s, b])
    g = x.reshape(2, 2, 6)
    want = (g - g.mean(2, keepdims=True)) / np.sqrt(g.var(2, keepdims=True) + 1e-5) * s[:, None] + b[:, None]
    np.testing.assert_allclose(y, want.reshape(x.shape), rtol=1e-5, atol=1e-6)


def test_batch_norm_non_spatial() -> None:
    """Before opset 9 spatial = 0 had statistics for every element of an image."""
    x, stats = rand(2, 3, 4), [rand(3, 4, seed=i, lo=0.5) for i in range(4)]
    (y,) = ours(model("BatchNormalization", 7, [x, *stats], {"spatial": 0}, 1), [x, *stats])
    s, b, m, v = stats
    np.testing.assert_allclose(y, (x - m) / np.sqrt(v + 1e-5) * s + b, rtol=1e-5, atol=1e-6)


def test_batch_norm_6_with_is_test_and_consumed_inputs() -> None:
    (y,) = ours(model("BatchNormalization", 6, [X, *STATS], {"is_test": 1}, 1), [X, *STATS])
    (new,) = ours(model("BatchNormalization", 15, [X, *STATS], {}, 1), [X, *STATS])
    np.testing.assert_array_equal(y, new)
    attrs = {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]}
    (old,) = ours(model("BatchNormalization", 1, [X, *STATS], attrs, 1), [X, *STATS])
    np.testing.assert_array_equal(old, new)


def test_global_lp_pool_1_takes_a_float() -> None:
    (y,) = ours(model("GlobalLpPool", 1, [X], {"p": 2.0}, 1), [X])
    np.testing.assert_allclose(y[..., 0, 0], np.sqrt((X * X).sum((2, 3))), rtol=1e-5)


def test_gru_1_spells_forward_its_own_way() -> None:
    inputs = [rand(4, 2, 3), rand(1, 6, 3), rand(1, 6, 2)]
    old = ours(model("GRU", 1, inputs, {"hidden_size": 2, "direction": "foward", "output_sequence": 1}, 2), inputs)
    for a, b in zip(old, ours(model("GRU", 14, inputs, {"hidden_size": 2}, 2), inputs), strict=True):
        np.testing.assert_array_equal(a, b)
