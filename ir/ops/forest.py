"""The tree ensembles of ai.onnx.ml.

Where the specification is silent (two classes but one score, labels of binary models) these follow ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..op import InferContext, Onnx, ex, op
from ..types import F16, F32, F64, I64, STR, TensorType
from . import trees
from .classic import ML, NUMBERS, POST, labels_of, row_count, transformed, two_columns
from .contents import choice
from .examples import rand

# ---- tree ensembles


def _infer_tree_ensemble(c: InferContext) -> TensorType:
    if not 0 <= c.attr("post_transform") < len(POST) or not 0 <= c.attr("aggregate_function") < len(trees.AGGREGATES):
        raise c.error(
            f"post_transform = {c.attr('post_transform')}, aggregate_function = {c.attr('aggregate_function')} are not known"
        )
    return TensorType(c.t(0).dtype, (row_count(c), _targets(c.attr("n_targets"), c.attr("leaf_targetids"))))


def _targets(n_targets: int | None, ids: Sequence[int] | None) -> int:
    return max(ids or (0,)) + 1 if n_targets is None else n_targets


STUMP: dict[str, Any] = {
    "nodes_treeids": (0, 0, 0, 1, 1, 1),
    "nodes_nodeids": (0, 1, 2, 0, 1, 2),
    "nodes_featureids": (0, 0, 0, 1, 0, 0),
    "nodes_values": (0.5, 0.0, 0.0, -0.25, 0.0, 0.0),
    "nodes_modes": ("BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_GT", "LEAF", "LEAF"),
    "nodes_truenodeids": (1, 0, 0, 1, 0, 0),
    "nodes_falsenodeids": (2, 0, 0, 2, 0, 0),
}


def _ensemble_examples() -> list:
    x = np.array([[1.2, 3.4, -0.12], [1.66, 4.14, 1.77], [np.nan, 0.3, 1.2], [0.1, 1.2, 5.0]], np.float32)
    base: dict[str, Any] = {
        "n_targets": 2,
        "tree_roots": (0, 2),
        "nodes_featureids": (0, 2, 1),
        "nodes_splits": np.array([1.3, 1.2, 0.5], np.float32),
        "nodes_modes": np.array([0, 3, 2], np.uint8),
        "nodes_truenodeids": (1, 0, 3),
        "nodes_trueleafs": (0, 1, 1),
        "nodes_falsenodeids": (2, 1, 0),
        "nodes_falseleafs": (1, 1, 1),
        "leaf_targetids": (0, 1, 0, 1),
        "leaf_weights": np.array([5.23, 12.12, -12.23, 7.21], np.float32),
    }
    member: dict[str, Any] = base | {
        "nodes_modes": np.array([6, 1, 6], np.uint8),
        "membership_values": np.array([1.2, 0.1, np.nan, 4.14, np.nan], np.float32),
    }
    return [
        *(ex(x, aggregate_function=k, **base) for k in range(4)),
        ex(x, post_transform=1, nodes_missing_value_tracks_true=(1, 0, 0), **base),
        ex(x, **member),
        ex(x.astype(np.float64), **(base | {k: base[k].astype(np.float64) for k in ("nodes_splits", "leaf_weights")})),
        ex(x[:0], **base),
    ]


@op(
    "tree_ensemble",
    onnx=Onnx("TreeEnsemble", ML, since=5),
    infer=_infer_tree_ensemble,
    dtypes={"X": {F32, F64, F16}},
    examples=_ensemble_examples,
)
def tree_ensemble(
    X,
    *,
    leaf_targetids,
    leaf_weights,
    nodes_falseleafs,
    nodes_falsenodeids,
    nodes_featureids,
    nodes_modes,
    nodes_splits,
    nodes_trueleafs,
    nodes_truenodeids,
    tree_roots,
    aggregate_function=1,
    membership_values=None,
    n_targets=None,
    nodes_hitrates=None,
    nodes_missing_value_tracks_true=None,
    post_transform=0,
):
    """What the leaves of all trees say of each target, put together by average, sum, minimum or maximum. NaN goes to the false
    branch unless the node says otherwise."""
    wide = np.dtype(np.float64 if X.dtype == np.float64 else np.float32)
    forest = trees.remembered(trees.from_ensemble, dict(locals()), wide)
    scores, _ = forest.scores(trees.rows(X, wide), _targets(n_targets, leaf_targetids), trees.AGGREGATES[aggregate_function])
    return transformed(scores, POST[post_transform]).astype(X.dtype)


def _infer_tree_regressor(c: InferContext) -> TensorType:
    choice(c, "post_transform", POST)
    choice(c, "aggregate_function", trees.AGGREGATES)
    return TensorType(F32, (row_count(c), _targets(c.attr("n_targets"), c.attr("target_ids"))))


def _wide(x: np.ndarray, a: dict[str, Any]) -> np.dtype:
    """The element type of thresholds and weights: f64 for f64 rows, or where the tables are given as f64 tensors."""
    tensors = (v for k, v in a.items() if k.endswith("_as_tensor") and v is not None)
    return np.dtype(np.float64 if x.dtype == np.float64 or any(t.dtype == np.float64 for t in tensors) else np.float32)


def _tree_regressor_examples() -> list:
    x = rand(5, 2)
    a: dict[str, Any] = STUMP | {
        "n_targets": 2,
        "target_treeids": (0, 0, 0, 1, 1),
        "target_nodeids": (1, 2, 2, 1, 2),
        "target_ids": (0, 1, 0, 1, 0),
        "target_weights": (1.0, 2.0, 0.25, -3.0, 0.5),
    }
    return [
        *(ex(x, aggregate_function=k, **a) for k in trees.AGGREGATES),
        *(ex(x, post_transform=p, base_values=(0.5, 1.0), **a) for p in POST[:4]),
        ex(x.astype(np.float64), **a),
        ex(np.array([[0, 1], [1, -1]], np.int64), **a),
        ex(np.array([[np.nan, 0], [0, np.nan]], np.float32), nodes_missing_value_tracks_true=(0, 0, 0, 1, 0, 0), **a),
        ex(x, name="a leaf votes twice for the only target", **a | {"n_targets": 1, "target_ids": (0,) * 5}),
    ]


@op(
    "tree_ensemble_regressor",
    onnx=Onnx("TreeEnsembleRegressor", ML),
    infer=_infer_tree_regressor,
    dtypes={"X": NUMBERS},
    examples=_tree_regressor_examples,
)
def tree_ensemble_regressor(
    X,
    *,
    aggregate_function="SUM",
    base_values=None,
    base_values_as_tensor=None,
    n_targets=None,
    nodes_falsenodeids=None,
    nodes_featureids=None,
    nodes_hitrates=None,
    nodes_hitrates_as_tensor=None,
    nodes_missing_value_tracks_true=None,
    nodes_modes=None,
    nodes_nodeids=None,
    nodes_treeids=None,
    nodes_truenodeids=None,
    nodes_values=None,
    nodes_values_as_tensor=None,
    post_transform="NONE",
    target_ids=None,
    target_nodeids=None,
    target_treeids=None,
    target_weights=None,
    target_weights_as_tensor=None,
):
    """`tree_ensemble` in the older spelling of its tables, with base values."""
    a = dict(locals())
    wide = _wide(X, a)
    scores, _ = trees.remembered(trees.from_tables, a, "target", wide).scores(
        trees.rows(X, wide), _targets(n_targets, target_ids), aggregate_function
    )
    scores = trees.with_base(scores, base_values if base_values_as_tensor is None else base_values_as_tensor)
    return transformed(scores, post_transform).astype(np.float32)


def _infer_tree_classifier(c: InferContext) -> list[TensorType]:
    choice(c, "post_transform", POST)
    n, labels = row_count(c), labels_of(c.attr("classlabels_strings"), c.attr("classlabels_int64s"))
    if not len(labels):
        raise c.error("there are no class labels")
    return [TensorType(STR if labels.dtype == object else I64, (n,)), TensorType(F32, (n, len(labels)))]


def _tree_classifier_examples() -> list:
    x = rand(6, 2)
    three: dict[str, Any] = STUMP | {
        "class_treeids": (0, 0, 0, 1, 1),
        "class_nodeids": (1, 2, 2, 1, 2),
        "class_ids": (0, 1, 2, 1, 0),
        "class_weights": (1.0, 2.0, 0.25, -3.0, 0.5),
    }
    one: dict[str, Any] = STUMP | {"class_treeids": (0, 0, 1, 1), "class_nodeids": (1, 2, 1, 2), "class_ids": (0, 0, 0, 0)}
    mixed, positive = one | {"class_weights": (0.3, -0.8, 0.4, -0.2)}, one | {"class_weights": (0.1, 0.4, 0.3, 0.2)}
    return [
        *(ex(x, classlabels_int64s=(3, 4, 5), post_transform=p, results=2, **three) for p in POST[:4]),
        ex(x, classlabels_strings=("a", "b", "c"), base_values=(0.1, 0.2, 0.3), results=2, **three),
        *(ex(x, classlabels_int64s=(7, 8), post_transform=p, results=2, **mixed) for p in POST[:3]),
        *(ex(x, classlabels_int64s=(7, 8), post_transform=p, results=2, **positive) for p in POST[:3]),
        ex(x, classlabels_strings=("n", "y"), base_values=(0.25,), results=2, **mixed),
        ex(x, classlabels_int64s=(7, 8), results=2, **(positive | {"class_ids": (1, 1, 1, 1)})),
        ex(x.astype(np.float64), classlabels_int64s=(7, 8, 9), results=2, **three),
        ex(
            x,
            classlabels_int64s=(7, 8),
            results=2,
            **(one | {"class_ids": (0, 1, 1, 0), "class_weights": (0.5, 0.25, 0.125, 0.75)}),
        ),
    ]


@op(
    "tree_ensemble_classifier",
    onnx=Onnx("TreeEnsembleClassifier", ML),
    infer=_infer_tree_classifier,
    results=2,
    dtypes={"X": NUMBERS},
    examples=_tree_classifier_examples,
)
def tree_ensemble_classifier(
    X,
    *,
    base_values=None,
    base_values_as_tensor=None,
    class_ids=None,
    class_nodeids=None,
    class_treeids=None,
    class_weights=None,
    class_weights_as_tensor=None,
    classlabels_int64s=None,
    classlabels_strings=None,
    nodes_falsenodeids=None,
    nodes_featureids=None,
    nodes_hitrates=None,
    nodes_hitrates_as_tensor=None,
    nodes_missing_value_tracks_true=None,
    nodes_modes=None,
    nodes_nodeids=None,
    nodes_treeids=None,
    nodes_truenodeids=None,
    nodes_values=None,
    nodes_values_as_tensor=None,
    post_transform="NONE",
):
    """The label with the largest sum of votes, and the sums.

    Where only one of two classes is voted for, its sum s decides: the second label for s > 0.5 if all votes are positive (then
    they are probabilities), for s > 0 else.
    """
    a = dict(locals())
    wide, labels = _wide(X, a), labels_of(classlabels_strings, classlabels_int64s)
    forest = trees.remembered(trees.from_tables, a, "class", wide)
    scores, said = forest.scores(trees.rows(X, wide), len(labels), "SUM")
    base = np.asarray(() if base_values is None else base_values) if base_values_as_tensor is None else base_values_as_tensor
    voted, positive = set(class_ids or ()), bool(np.all(forest.weight >= 0))
    if len(labels) == 2 and len(voted) == 1 and len(base) < 2:
        (voted_for,) = voted
        score = scores[:, voted_for] + (wide.type(base[0]) if len(base) and voted_for == 0 else wide.type(0))
        label = labels[(score > (0.5 if positive else 0)).astype(np.int64)]
        both = two_columns(score, positive, post_transform) if voted_for == 0 else transformed(scores, post_transform)
        return label, both.astype(np.float32)
    best = np.argmax(trees.with_base(np.where(said | (len(base) > 0), scores, -np.inf), base), 1)
    return labels[best], transformed(trees.with_base(scores, base), post_transform).astype(np.float32)
