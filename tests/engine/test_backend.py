"""The interface of onnx.backend: prepare, run_model, run_node, supports_device."""

from __future__ import annotations

import graphmill.engine.backend as backend
import numpy as np
import onnx
import pytest
from graphmill.ir.errors import GraphmillError, InputError
from onnx import helper

MODEL = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
    g (float[N] x, float[N] w) => (float[N] sum, float[N] diff) { sum = Add(x, w) diff = Sub(x, w) }""")
X, W = np.float32([1, 2]), np.float32([3, 5])


def test_devices() -> None:
    assert all(backend.supports_device(name) for name in ("CPU", "CPU:0", "CUDA", "CUDA:shim"))
    assert backend.is_compatible(MODEL, "CUDA") and not backend.is_compatible(MODEL, "TPU")
    with pytest.raises(ValueError, match="no device 'TPU'; expected one of CPU, CUDA"):
        backend.prepare(MODEL, "TPU")
    assert backend.prepare(MODEL, "CUDA:null").executable.options.device == "null"


def test_run_by_position_and_by_name() -> None:
    rep = backend.prepare(MODEL)
    for given in ([X, W], (X, W), {"x": X, "w": W}):
        out = rep.run(given)
        assert out.sum.tolist() == [4, 7] and out["diff"].tolist() == [-2, -3] and len(out) == 2
    with pytest.raises(InputError, match=r"takes 2 inputs \(x, w\), 3 were given"):
        rep.run([X, W, X])
    with pytest.raises(InputError, match="missing"):
        rep.run([X])
    assert backend.run_model(MODEL, [X, W], strict_native=True)[0].tolist() == [4, 7]


def test_names_that_are_no_identifiers() -> None:
    node = helper.make_node("Neg", ["x"], ["/scope/out:0"])
    assert backend.run_node(node, [X])["/scope/out:0"].tolist() == [-1, -2]


def test_run_node() -> None:
    clip = helper.make_node("Clip", ["x", "", "high"], ["y"])  # an optional input left out
    assert backend.run_node(clip, [X, np.float32(1.5)])[0].tolist() == [1, 1.5]
    split = helper.make_node("Split", ["x"], ["a", "b"], num_outputs=2)
    assert [y.tolist() for y in backend.run_node(split, [X])] == [[1], [2]]
    old = helper.make_node("Upsample", ["x"], ["y"], scales=[2.0], mode="nearest")
    assert backend.run_node(old, [X], opset_version=7)[0].tolist() == [1, 1, 2, 2]
    labels = helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=1.5)
    assert backend.run_node(labels, [X])[0].tolist() == [0, 1]
    with pytest.raises(GraphmillError, match="Nothing"):
        backend.run_node(helper.make_node("Nothing", ["x"], ["y"]), [X])
