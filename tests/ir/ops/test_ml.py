"""ai.onnx.ml: maps, encoders, and trees with broken tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import OPS, OnnxCall
from graphmill.ir.ops.forest import STUMP
from graphmill.ir.types import DTYPES, MapType, TensorType
from hypothesis import given, settings
from hypothesis import strategies as st
from inferring import N, infer, run, t

ML = "ai.onnx.ml"


def ort(op_type: str, x: Any, x_type: onnx.TypeProto, n_outputs: int = 1, **attrs: Any) -> list:
    """ONNX Runtime's answer for a model of one node."""
    h = onnx.helper
    node = h.make_node(op_type, ["x"], [f"y{i}" for i in range(n_outputs)], domain=ML, **attrs)
    outputs = [onnx.ValueInfoProto(name=n) for n in node.output]
    graph = h.make_graph([node], "g", [h.make_value_info("x", x_type)], outputs)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17), h.make_opsetid(ML, 3)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})


def tensor_type(x: np.ndarray) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)


def map_type(key: int, value: int) -> onnx.TypeProto:
    return onnx.helper.make_map_type_proto(key, onnx.helper.make_tensor_type_proto(value, ()))


T = onnx.TensorProto


def test_maps_as_onnx_runtime_has_them() -> None:
    x = {3: 1.5, 0: -2.0, 1: 0.0}
    for attrs in ({"cast_to": "TO_FLOAT"}, {"cast_to": "TO_FLOAT", "map_form": "SPARSE", "max_map": 5}):
        np.testing.assert_array_equal(run("cast_map", x, **attrs), ort("CastMap", x, map_type(T.INT64, T.FLOAT), **attrs)[0])
    words = {"b": 2.0, "a": 1.0}
    got = run("dict_vectorizer", {k: np.float32(v) for k, v in words.items()}, string_vocabulary=("a", "z", "b"))
    np.testing.assert_array_equal(
        got, ort("DictVectorizer", words, map_type(T.STRING, T.FLOAT), string_vocabulary=["a", "z", "b"])[0].reshape(1, -1)
    )
    p = np.array([[0.25, 0.75], [1, 0]], np.float32)
    assert run("zip_map", p, classlabels_strings=("n", "y")) == ort("ZipMap", p, tensor_type(p), classlabels_strings=["n", "y"])[0]


def test_map_types_and_errors() -> None:
    m = MapType(DTYPES["str"], TensorType(DTYPES["f32"], ()))
    assert infer("dict_vectorizer", m, string_vocabulary=("a", "b")) == t(1, 2)
    assert infer("zip_map", t(N, 2), classlabels_int64s=(1, 2)).elem.key is DTYPES["i64"]
    for name, x, attrs in (
        ("dict_vectorizer", m, {"int64_vocabulary": (1,)}),
        ("dict_vectorizer", t(2), {"int64_vocabulary": (1,)}),
        ("zip_map", t(N, 3), {"classlabels_int64s": (1, 2)}),
        ("zip_map", t(N, 3), {}),
    ):
        with pytest.raises(InferenceError):
            infer(name, x, **attrs)
    with pytest.raises(KeyError, match="vocabulary"):
        run("dict_vectorizer", {"x": 1.0}, string_vocabulary=("a",))
    with pytest.raises(ValueError, match="out of range"):
        run("cast_map", {7: 1.0}, map_form="SPARSE", max_map=3)


def test_encoders() -> None:
    assert run("label_encoder", np.array([1, 2]), keys_int64s=(1, 1), values_strings=("a", "b")).tolist() == ["b", "_Unused"]
    with pytest.raises(InferenceError):
        infer("label_encoder", t(2), keys_int64s=(1,), values_strings=("a",))
    with pytest.raises(ValueError, match="categories"):
        run("one_hot_encoder", np.array([3]), cats_int64s=(1, 2), zeros=0)
    with pytest.raises(IndexError):
        run("array_feature_extractor", np.zeros((2, 2)), np.array([2]))


@pytest.mark.parametrize("dtype, key", [("str", "keys_strings"), ("i64", "keys_int64s")])
def test_label_encoder_of_opset_1(dtype: str, key: str) -> None:
    call = OnnxCall(
        "LabelEncoder",
        ML,
        1,
        "n",
        ["x"],
        {"classes_strings": ("a", "b")},
        1,
        lambda a: a,
        lambda v: None,
        lambda v: 1,
        lambda v: DTYPES[dtype],
    )
    OPS["label_encoder"].onnx[0].before[2](call)
    assert call.attrs[key] == (("a", "b") if dtype == "str" else (0, 1)) and "classes_strings" not in call.attrs


VOTES = {
    "target_treeids": (0, 0, 1, 1),
    "target_nodeids": (1, 2, 1, 2),
    "target_ids": (0, 0, 0, 0),
    "target_weights": (1.0, 2.0, 3.0, 4.0),
}


@pytest.mark.parametrize(
    "broken, message",
    [
        ({"nodes_truenodeids": (0, 0, 0, 1, 0, 0)}, "root|cycle"),
        ({"nodes_truenodeids": (9, 0, 0, 1, 0, 0)}, "no node 9"),
        ({"nodes_nodeids": (0, 1, 1, 0, 1, 2)}, "twice"),
        ({"nodes_modes": ("BRANCH_NEVER", *STUMP["nodes_modes"][1:])}, "not known"),
        ({"nodes_featureids": (-1, 0, 0, 1, 0, 0)}, "feature -1"),
        ({"nodes_featureids": (2, 0, 0, 1, 0, 0)}, "feature 2"),
        ({"nodes_values": (0.5,)}, "entries"),
        ({"target_ids": (0, 0, 0, 5)}, "target 5"),
        ({"target_nodeids": (1, 2, 1, 7)}, "no node 7"),
        ({"nodes_treeids": ()}, "expected as many"),
    ],
)
def test_broken_trees_are_refused(broken: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run("tree_ensemble_regressor", np.zeros((2, 2), np.float32), n_targets=1, **(STUMP | VOTES | broken))


def test_broken_tree_ensembles_are_refused() -> None:
    good = {
        "tree_roots": (0,),
        "nodes_featureids": (0, 0),
        "nodes_splits": np.zeros(2, np.float32),
        "nodes_modes": np.zeros(2, np.uint8),
        "nodes_truenodeids": (1, 0),
        "nodes_trueleafs": (0, 1),
        "nodes_falsenodeids": (1, 0),
        "nodes_falseleafs": (1, 1),
        "leaf_targetids": (0, 0),
        "leaf_weights": np.ones(2, np.float32),
    }
    x = np.zeros((1, 1), np.float32)
    assert run("tree_ensemble", x, **good).tolist() == [[1.0]]
    for broken, message in (
        ({"nodes_truenodeids": (0, 0)}, "cycle"),
        ({"nodes_truenodeids": (1, 5)}, "do not exist"),
        ({"tree_roots": (2,)}, "tree_roots"),
        ({"nodes_modes": np.array([6, 0], np.uint8)}, "membership"),
        ({"nodes_modes": np.array([7, 0], np.uint8)}, "expected 0 to 6"),
        ({"leaf_targetids": (0,)}, "entries"),
    ):
        with pytest.raises(ValueError, match=message):
            run("tree_ensemble", x, **(good | broken))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3]), st.integers(2, 4))
def test_random_forests_as_onnx_runtime_has_them(seed: int, targets: int, depth: int) -> None:
    r = np.random.default_rng(seed)
    a: dict[str, list] = {k: [] for k in (*STUMP, *VOTES, "nodes_missing_value_tracks_true")}
    modes = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]
    for tree in range(3):
        inner = 2**depth - 1
        for node in range(2 * inner + 1):
            leaf = node >= inner
            row = (
                tree,
                node,
                int(r.integers(3)),
                float(r.integers(-2, 3)) / 2,
                "LEAF" if leaf else str(r.choice(modes)),
                0 if leaf else 2 * node + 1,
                0 if leaf else 2 * node + 2,
            )
            for key, value in zip(STUMP, row, strict=True):
                a[key].append(value)
            a["nodes_missing_value_tracks_true"].append(int(r.integers(2)))
            if leaf:
                for key, value in zip(VOTES, (tree, node, int(r.integers(targets)), float(np.float32(r.normal()))), strict=True):
                    a[key].append(value)
    x = (r.integers(-4, 5, (20, 3)) / 2).astype(np.float32)
    x[r.random(x.shape) < 0.1] = np.nan
    for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
        want = ort("TreeEnsembleRegressor", x, tensor_type(x), n_targets=targets, aggregate_function=aggregate, **a)[0]
        got = run(
            "tree_ensemble_regressor", x, n_targets=targets, aggregate_function=aggregate, **{k: tuple(v) for k, v in a.items()}
        )
        np.testing.assert_allclose(got, want, 1e-5, 1e-6)


def test_deep_trees_are_walked_and_checked_quickly() -> None:
    n = 20_000  # one chain: every inner node's true branch is a leaf
    ids = np.arange(2 * n + 1)
    inner = ids < n
    a = {
        "nodes_treeids": (0,) * len(ids),
        "nodes_nodeids": tuple(ids.tolist()),
        "nodes_featureids": (0,) * len(ids),
        "nodes_values": (0.0,) * len(ids),
        "nodes_modes": tuple("BRANCH_LEQ" if i else "LEAF" for i in inner),
        "nodes_truenodeids": tuple(np.where(inner, ids + n, 0).tolist()),
        "nodes_falsenodeids": tuple(np.where(inner, np.where(ids + 1 < n, ids + 1, 2 * n), 0).tolist()),
        "target_treeids": (0,),
        "target_nodeids": (2 * n,),
        "target_ids": (0,),
        "target_weights": (7.0,),
    }
    assert run("tree_ensemble_regressor", np.ones((4, 1), np.float32), n_targets=1, **a).tolist() == [[7.0]] * 4
