"""Tree ensembles against the references: random forests with all comparisons, missing values, many rows."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.ops.classic import POST
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .cases import check_case
from .harness import check_native, make_node

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def forest(prefix: str, trees: int, depth: int, features: int, targets: int, modes: tuple[str, ...] = MODES) -> dict:
    """Attributes of complete trees: node k has the children 2k + 1 and 2k + 2."""
    r, inner, n = np.random.default_rng(trees + depth), 2**depth - 1, 2 ** (depth + 1) - 1
    ids = np.tile(np.arange(n), trees)
    is_inner = ids < inner
    leaves = np.flatnonzero(~is_inner)
    a = {
        "nodes_treeids": np.repeat(np.arange(trees), n), "nodes_nodeids": ids,
        "nodes_featureids": r.integers(0, features, len(ids)),
        "nodes_values": r.integers(-3, 3, len(ids)) / 2, "nodes_truenodeids": np.where(is_inner, 2 * ids + 1, 0),
        "nodes_falsenodeids": np.where(is_inner, 2 * ids + 2, 0), "nodes_missing_value_tracks_true": r.integers(0, 2, len(ids)),
        f"{prefix}_treeids": leaves // n, f"{prefix}_nodeids": leaves % n, f"{prefix}_ids": r.integers(0, targets, len(leaves)),
        f"{prefix}_weights": r.normal(size=len(leaves)).astype(np.float32),
    }  # fmt: skip
    a = {k: tuple(v.tolist()) for k, v in a.items()}
    return a | {"nodes_modes": tuple(str(r.choice(modes)) if k else "LEAF" for k in is_inner)}


def rows(n: int, features: int, dtype: object = np.float32) -> np.ndarray:
    x = np.random.default_rng(n).integers(-4, 4, (n, features)) / 2
    if np.dtype(dtype).kind == "f":
        x[::7, 0] = np.nan
    return x.astype(dtype)


@pytest.mark.parametrize("name", ["tree_ensemble", "tree_ensemble_regressor", "tree_ensemble_classifier"])
def test_examples(name):
    share = check_native(name, 2e-6, 1e-7)
    assert share.served and all("str" in r or "MEMBER" in r for r in share.refused), share


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
def test_regressors(aggregate, dtype):
    a = forest("target", 5, 4, 3, 2) | {"n_targets": 2, "aggregate_function": aggregate, "base_values": (0.5, -1.0)}
    check_case("tree_ensemble_regressor", [rows(50, 3, dtype)], a)


@pytest.mark.parametrize("post", POST[:4])
@pytest.mark.parametrize("base", [None, (0.1, 0.0, -0.2)])
def test_classifiers(post, base):
    a = forest("class", 7, 3, 4, 3) | {"classlabels_int64s": (10, 20, 30), "post_transform": post, "base_values": base}
    check_case("tree_ensemble_classifier", [rows(40, 4)], a, 2, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("post", POST[:4])
@pytest.mark.parametrize("voted", [0, 1])
def test_two_classes_but_one_score(post, voted):
    a = forest("class", 4, 3, 4, 1) | {"classlabels_int64s": (10, 20), "post_transform": post}
    a["class_ids"] = tuple(voted for _ in a["class_ids"])
    for weights in (a["class_weights"], tuple(abs(w) for w in a["class_weights"])):
        check_case("tree_ensemble_classifier", [rows(30, 4)], a | {"class_weights": weights}, 2, rtol=2e-6, atol=1e-7)


def test_one_comparison_and_many_rows():
    a = forest("target", 60, 5, 8, 1, modes=("BRANCH_LEQ",)) | {"n_targets": 1}
    check_case("tree_ensemble_regressor", [rows(3000, 8)], a)
    check_case("tree_ensemble_regressor", [rows(1, 8)[0]], a)
    check_case("tree_ensemble_regressor", [rows(0, 8)], a)


@pytest.mark.parametrize("depths", [(3,), (0, 4), (1, 0, 5, 2, 0, 0, 3), (4, 1, 1, 0, 2, 6, 3, 1), (2, 0, 1, 5, 0, 3, 1, 4, 1)])
@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN"])
def test_trees_of_other_depths_are_walked_together(depths, aggregate):
    parts = [forest("target", 1, depth, 3, 2) for depth in depths]
    a = {k: tuple(v for part in parts for v in part[k]) for k in parts[0]}
    for k in ("nodes_treeids", "target_treeids"):
        a[k] = tuple(i for i, part in enumerate(parts) for _ in part[k])
    check_case("tree_ensemble_regressor", [rows(50, 3)], a | {"n_targets": 2, "aggregate_function": aggregate})


def test_refusals():
    a = forest("target", 1, 2, 2, 1) | {"n_targets": 1}
    for wrong in ({"post_transform": "PROBIT"}, {"target_weights": (float("nan"),) * 4}, {"nodes_truenodeids": (99,) * 7}):
        assert isinstance(select(make_node("tree_ensemble_regressor", [rows(3, 2)], a | wrong)), Refusal)


def test_a_feature_that_rows_lack_is_an_error():
    node = make_node("tree_ensemble_regressor", [rows(3, 8)], forest("target", 3, 3, 8, 1) | {"n_targets": 1})
    with pytest.raises(ValueError, match="asks for feature"):
        from graphmill.kernels.spec import Call

        select(node).bind(Call([(3, 1)], [(3, 1)]))
