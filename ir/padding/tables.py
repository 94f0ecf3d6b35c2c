"""Rules of the padding analysis for the operators of ai.onnx.ml, which work on tables: a row, an answer."""

from __future__ import annotations

from .site import Carried, Site, rule

BY_ROW = ("linear_classifier", "linear_regressor", "svm_classifier", "svm_regressor", "tree_ensemble", "tree_ensemble_classifier",
          "tree_ensemble_regressor", "normalizer", "scaler", "imputer", "one_hot_encoder")  # fmt: skip


@rule(*BY_ROW, "feature_vectorizer")
def by_row(site: Site) -> list[Carried]:
    """Operands of rank 2: a vector would be one row."""
    first = site.carried(0)
    for i in range(len(site.states)):
        if len(site.dims(i)) != 2 or set(site.carried(i)) - {0} or site.carried(i) != first:
            site.refuse(f"${site.name} is not the axis of its rows")
    return [first] * len(site.node.results)


@rule("label_encoder", "category_mapper", "binarizer")
def by_element(site: Site) -> list[Carried]:
    return [site.carried(0)]


@rule("array_feature_extractor")
def columns(site: Site) -> list[Carried]:
    site.others_free(0)
    rank = len(site.dims(0))
    if rank < 2:
        site.refuse(f"${site.name} is not the axis of its rows")
    site.apart(site.carried(0), [rank - 1], "picks columns of")
    return [site.carried(0)]
