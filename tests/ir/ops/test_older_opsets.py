"""Shapes, movement and indexing as older opsets spell them: read, inferred and run, against ONNX Runtime or values by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphmill.frontends.onnx.reader import read
from graphmill.ir.infer import infer_module
from graphmill.ir.interp import run
from onnx import helper, numpy_helper

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
I64 = np.int64


def model(op_type: str, opset: int, inputs: list, n: int, attrs: dict[str, Any], domain: str = "") -> onnx.ModelProto:
    node = helper.make_node(op_type, [f"i{k}" for k in range(len(inputs))], [f"o{k}" for k in range(n)], domain=domain, **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("i0", helper.np_dtype_to_tensor_dtype(inputs[0].dtype), inputs[0].shape)],
        [onnx.ValueInfoProto(name=o) for o in node.output],
        [numpy_helper.from_array(x, f"i{k}") for k, x in enumerate(inputs) if k],
    )
    opsets = [helper.make_opsetid(domain, opset)] + ([helper.make_opsetid("", 17)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=7)


def ours(m: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    module = read(m)
    infer_module(module)
    got = list(run(module, {"i0": x}).values())
    for v, g in zip(module.main.outputs, got):
        assert v.tensor.rank == g.ndim and all(a == b for a, b in zip(v.tensor.shape, g.shape) if isinstance(a, int))
    return got


CASES = [
    ("Slice", 9, [X], 1, {"starts": [1, 0], "ends": [3, -1], "axes": [1, 2]}),
    ("Slice", 9, [X], 1, {"starts": [-1], "ends": [2**31 - 1]}),
    ("Pad", 10, [X], 1, {"pads": [0, 1, 0, 1, 0, 2], "value": 2.5}),
    ("Pad", 10, [X], 1, {"pads": [0, 1, 0, 0, 1, 2], "mode": "reflect"}),
    ("Split", 11, [X], 2, {"split": [1, 3], "axis": 2}),
    ("Split", 11, [X], 3, {"axis": 1}),
    ("Split", 13, [X], 2, {"axis": 2}),
    ("Squeeze", 11, [X[:1]], 1, {"axes": [0]}),
    ("Squeeze", 11, [X[:1]], 1, {}),
    ("Unsqueeze", 11, [X], 1, {"axes": [0, -1]}),
    ("TopK", 9, [X], 2, {"k": 2, "axis": -1}),
    ("TopK", 10, [X, np.array([2], I64)], 2, {"axis": 1}),
    ("Scatter", 9, [X, np.zeros((1, 3, 4), I64), -X[:1]], 1, {"axis": 0}),
    ("Flatten", 7, [X], 1, {"axis": 2}),
    ("Reshape", 7, [X, np.array([0, -1], I64)], 1, {}),
    ("Tile", 7, [X, np.array([1, 2, 1], I64)], 1, {}),
    ("DepthToSpace", 10, [np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)], 1, {"blocksize": 2}),
    ("Shape", 10, [X], 1, {}),
    ("OneHot", 9, [np.array([1, 0], I64), np.array([3], I64), np.array([0, 5], np.float32)], 1, {}),
]


@pytest.mark.parametrize("op_type, opset, inputs, n, attrs", CASES, ids=[f"{c[0]}-{c[1]}-{i}" for i, c in enumerate(CASES)])
def test_as_onnx_runtime(op_type: str, opset: int, inputs: list, n: int, attrs: dict[str, Any]) -> None:
    m = model(op_type, opset, inputs, n, attrs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    want = onnxruntime.InferenceSession(m.SerializeToString(), options).run(None, {"i0": inputs[0]})
    for g, w in zip(ours(m, inputs[0]), want, strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_array_equal(g, w)


def test_before_what_onnx_runtime_reads() -> None:
    assert ours(model("Reshape", 1, [X], 1, {"shape": [4, 6], "consumed_inputs": [0]}), X)[0].shape == (4, 6)
    assert ours(model("Concat", 1, [X, X], 1, {}), X)[0].shape == (2, 6, 4)
    assert ours(model("Pad", 1, [X], 1, {"paddings": [1, 0, 0, 0, 0, 0]}), X)[0].shape == (3, 3, 4)
    assert ours(model("Tile", 1, [X, np.array(3, I64), np.array(1, I64)], 1, {}), X)[0].shape == (2, 9, 4)
    assert [g.shape for g in ours(model("Split", 2, [X], 2, {"axis": 0}), X)] == [(1, 3, 4)] * 2


def test_scan_of_opset_8() -> None:
    info = helper.make_tensor_value_info
    f = onnx.TensorProto.FLOAT
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["t"]), helper.make_node("Identity", ["t"], ["y"])],
        "body",
        [info("s", f, [2]), info("x", f, [2])],
        [info("t", f, [2]), info("y", f, [2])],
    )
    node = helper.make_node("Scan", ["", "s0", "xs"], ["last", "ys"], body=body, num_scan_inputs=1, directions=[1])
    graph = helper.make_graph(
        [node],
        "g",
        [info("s0", f, ["B", 2]), info("xs", f, ["B", "T", 2])],
        [info("last", f, ["B", 2]), info("ys", f, ["B", "T", 2])],
    )
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=4)
    s0, xs = np.ones((2, 2), np.float32), np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    module = read(m)
    infer_module(module)
    assert module.main.outputs[1].tensor.rank == 3
    last, ys = run(module, {"s0": s0, "xs": xs}).values()
    np.testing.assert_array_equal(ys, 1 + np.cumsum(xs[:, ::-1], 1))
    np.testing.assert_array_equal(last, ys[:, -1])


def test_label_encoder_of_opset_1() -> None:
    words = np.array(["b", "x", "a"], object)
    m = model("LabelEncoder", 1, [np.zeros(3, np.float32)], 1, {"classes_strings": ["a", "b"]}, "ai.onnx.ml")
    m.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING
    assert ours(m, words)[0].tolist() == [1, -1, 0]
