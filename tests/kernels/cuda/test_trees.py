"""Tree ensembles on CUDA against the references: all comparisons, missing values, many rows, more trees and targets than a block has
threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphmill.ir.ops.classic import POST
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call, KernelSource, Refusal

from ..cpu.harness import make_node
from ..cpu.test_trees import forest, rows
from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

NAMES = ["tree_ensemble", "tree_ensemble_regressor", "tree_ensemble_classifier"]
CLOSE = {"rtol": 2e-6, "atol": 1e-7}


def regressor(x: np.ndarray, trees: dict, targets: int = 1, **attrs: Any) -> Case:
    return case("tree_ensemble_regressor", [x], trees | {"n_targets": targets, **attrs})


def joined(depths: tuple[int, ...], features: int, targets: int) -> dict:
    """Trees of these depths."""
    parts = [forest("target", 1, depth, features, targets) for depth in depths]
    a = {k: tuple(v for part in parts for v in part[k]) for k in parts[0]}
    for k in ("nodes_treeids", "target_treeids"):
        a[k] = tuple(i for i, part in enumerate(parts) for _ in part[k])
    return a


def several_votes(trees: dict, times: int) -> dict:
    """Each leaf votes several times: for the same target, and for others."""
    many = {k: v * times for k, v in trees.items() if k.startswith("target_")}
    many["target_ids"] = tuple((t + i // len(trees["target_ids"])) % 5 for i, t in enumerate(many["target_ids"]))
    many["target_weights"] = tuple(np.random.default_rng(0).normal(size=len(many["target_weights"])).astype(np.float32).tolist())
    return trees | many


def regressors() -> list[Case]:
    both = {"base_values": (0.5, -1.0)}
    found = [
        regressor(rows(20, 3, dtype), forest("target", 5, 4, 3, 2), 2, aggregate_function=how, **both)
        for dtype in (np.float32, np.float64, np.int64, np.int32)
        for how in ("SUM", "AVERAGE", "MIN", "MAX")
    ]
    one = forest("target", 60, 5, 8, 1, modes=("BRANCH_LEQ",))
    found += [regressor(x, one) for x in (rows(300, 8), rows(1, 8)[0], rows(0, 8))]
    found += [regressor(rows(9, 3), joined(d, 3, 2), 2, aggregate_function=how)
              for d in ((3,), (0, 4), (2, 0, 1, 5, 0, 3, 1, 4, 1)) for how in ("SUM", "MIN")]  # fmt: skip
    for how in ("SUM", "MAX"):
        found.append(regressor(rows(5, 4), forest("target", 600, 2, 4, 3), 3, aggregate_function=how))  # several rounds of trees
        found.append(regressor(rows(5, 4), forest("target", 20, 3, 4, 700), 700, aggregate_function=how))  # and of targets
        found.append(regressor(rows(5, 4), several_votes(forest("target", 300, 2, 4, 5), 3), 5, aggregate_function=how))
    return found


def classifiers() -> list[Case]:
    found = []
    for post in POST[:4]:
        for base in (None, (0.1, 0.0, -0.2)):
            a = forest("class", 7, 3, 4, 3) | {"classlabels_int64s": (10, 20, 30), "post_transform": post, "base_values": base}
            found.append(case("tree_ensemble_classifier", [rows(40, 4)], a, 2, **CLOSE))
        for voted in (0, 1):
            a = forest("class", 4, 3, 4, 1) | {"classlabels_int64s": (10, 20), "post_transform": post}
            a["class_ids"] = tuple(voted for _ in a["class_ids"])
            for weights in (a["class_weights"], tuple(abs(w) for w in a["class_weights"])):
                found.append(case("tree_ensemble_classifier", [rows(30, 4)], a | {"class_weights": weights}, 2, **CLOSE))
    return found


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(NAMES)
    assert len(cases) > 20 and all("str" in r or "MEMBER" in r for r in refused), refused
    for c in cases:
        c.rtol, c.atol = CLOSE["rtol"], CLOSE["atol"]
    check(cases)


@needs_shim
@pytest.mark.parametrize("make", [regressors, classifiers])
def test_forests(make: Any) -> None:
    cases = make()
    assert all(c.source.variant == "a block for each row" for c in cases)
    check(cases)


def test_refusals() -> None:
    a = forest("target", 1, 2, 2, 1) | {"n_targets": 1}
    for wrong in ({"post_transform": "PROBIT"}, {"target_weights": (float("nan"),) * 4}, {"nodes_truenodeids": (99,) * 7}):
        assert isinstance(select(make_node("tree_ensemble_regressor", [rows(3, 2)], a | wrong)), Refusal)


def test_a_feature_that_rows_lack_is_an_error() -> None:
    source = select(make_node("tree_ensemble_regressor", [rows(3, 8)], forest("target", 3, 3, 8, 1) | {"n_targets": 1}))
    assert isinstance(source, KernelSource)
    with pytest.raises(ValueError, match="asks for feature"):
        source.bind(Call([(3, 1)], [(3, 1)]))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in regressors() + classifiers()], arch)
