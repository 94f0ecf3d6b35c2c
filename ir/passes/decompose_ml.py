"""How the operators of ai.onnx.ml that compute with numbers are opened into simpler ones (`decompose.opens`).

Linear models and support vector machines become matrix products; a support vector machine computes in f64, as its reference does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core import Node, Value
from ..ops.categories import label_tables
from ..ops.classic import labels_of
from ..rewrite import Builder, Refusal, refuse
from ..types import F32, F64, I64
from .decompose import opens

Answer = Value | Refusal
MOST_KEYS = 64  # of a label_encoder, whose elements are compared with every key


def _as(b: Builder, x: Value, dtype: Any) -> Value:
    return x if x.tensor.dtype is dtype else b.op("cast", x, to=dtype)


def _constant(b: Builder, numbers: Any, like: Value) -> Value:
    return b.const(np.asarray(numbers).astype(like.tensor.dtype.np))


def _axis(b: Builder, axis: int) -> Value:
    return b.const(np.array([axis], np.int64))


# ---- features ---------------------------------------------------------------------------------------------------


@opens("scaler")
def _scaler(node: Node, b: Builder) -> Any:
    x, offset, scale = node.operands[0], node.attr("offset"), node.attr("scale")
    assert x is not None
    y = x if x.tensor.dtype in (F32, F64) else b.op("cast", x, to=F32)
    for name, numbers in (("sub", offset), ("mul", scale)):
        if numbers:
            y = b.op(name, y, _constant(b, np.array(numbers, np.float32), y))
    return _as(b, y, F32) if y is not x else refuse("nothing to do")


@opens("normalizer")
def _normalizer(node: Node, b: Builder) -> Any:
    x = _as(b, node.operands[0], F32)  # type: ignore[arg-type]
    if not x.tensor.rank:
        return refuse("the rank is not known, or there is no axis")
    last = _axis(b, -1)
    if node.attr("norm") == "MAX":
        by = b.op("reduce_max", x, last, keepdims=1)
    elif node.attr("norm") == "L1":
        by = b.op("reduce_sum", b.op("abs", x), last, keepdims=1)
    else:
        by = b.op("sqrt", b.op("reduce_sum", b.op("mul", x, x), last, keepdims=1))
    return b.op("div", x, b.op("where", b.op("equal", by, _constant(b, 0, by)), _constant(b, 1, by), by))


@opens("binarizer")
def _binarizer(node: Node, b: Builder) -> Any:
    x = node.operands[0]
    assert x is not None
    wide = x if x.tensor.dtype in (F32, F64) else b.op("cast", x, to=F64)
    above = b.op("greater", wide, _constant(b, np.float32(node.attr("threshold")), wide))
    return b.op("cast", above, to=x.tensor.dtype)


@opens("imputer")
def _imputer(node: Node, b: Builder) -> Any:
    x = node.operands[0]
    assert x is not None
    real = x.tensor.dtype.is_float
    values = node.attr("imputed_value_floats" if real else "imputed_value_int64s")
    replaced = np.float32(node.attr("replaced_value_float")) if real else np.int64(node.attr("replaced_value_int64"))
    if not real and np.array(replaced).astype(x.tensor.dtype.np) != replaced:
        return refuse("the replaced value does not fit the element type", value=replaced)
    missing = b.op("isnan", x) if np.isnan(replaced) else b.op("equal", x, _constant(b, replaced, x))
    return b.op("where", missing, _constant(b, values[0] if len(values) == 1 else values, x), x)


@opens("one_hot_encoder")
def _one_hot_encoder(node: Node, b: Builder) -> Any:
    x, cats = node.operands[0], node.attr("cats_int64s")
    if not cats or not node.attr("zeros") or len(set(cats)) < len(cats):
        return refuse("the categories are strings or not distinct, or unknown ones are errors")
    number = b.op("unsqueeze", _as(b, x, I64), _axis(b, -1))  # type: ignore[arg-type]
    return b.op("cast", b.op("equal", number, b.const(np.array(cats, np.int64))), to=F32)


@opens("label_encoder")
def _label_encoder(node: Node, b: Builder) -> Any:
    """The place of the element among the keys, counted from 1, picks from the values, which begin with the default."""
    x, (keys, values, default) = node.operands[0], label_tables(node.all_attrs())
    assert x is not None
    if keys.dtype == object or len(keys) > MOST_KEYS:
        return refuse(f"the keys are strings, or more than {MOST_KEYS}", keys=len(keys))
    places = {None if k != k else k: i for i, k in enumerate(keys.tolist())}  # of equal keys the last counts, NaN equals NaN
    kept = np.array(list(places.values()))
    number = np.arange(1, len(kept) + 1)
    same = b.op("equal", b.op("unsqueeze", x, _axis(b, -1)), b.const(keys[kept]))
    at = b.op("reduce_max", b.op("where", same, b.const(number), b.const(np.array(0))), _axis(b, -1), keepdims=0)
    if None in places:
        at = b.op("where", b.op("isnan", x), b.const(number[list(places).index(None)].reshape(())), at)
    return b.op("gather", b.const(np.concatenate([default[None], values[kept]])), at, axis=0)


@opens("tree_ensemble_classifier")
def _tree_ensemble_classifier(node: Node, b: Builder) -> Any:
    """Labels that are strings: the places of the labels, which pick from them."""
    labels = labels_of(node.attr("classlabels_strings"), None)
    if labels.dtype != object:
        return refuse("the labels are numbers already")
    attrs = node.attrs | {"classlabels_strings": None, "classlabels_int64s": tuple(range(len(labels)))}
    which, scores = b.op("tree_ensemble_classifier", node.operands[0], results=2, **attrs)
    return b.op("gather", b.const(labels), which, axis=0), scores


# ---- scores and labels ------------------------------------------------------------------------------------------


def _transformed(b: Builder, scores: Value, post: str) -> Answer:
    """What `post_transform` makes of f32 scores [n, k]."""
    if post == "SOFTMAX":
        return b.op("softmax", scores, axis=-1)
    if post == "SOFTMAX_ZERO":
        return _softmax_zero(b, scores)
    if post == "LOGISTIC":
        return b.op("sigmoid", scores)
    return scores if post == "NONE" else refuse("there is no operator for the transform", post_transform=post)


def _softmax_zero(b: Builder, x: Value) -> Value:
    last = _axis(b, -1)
    zero = _constant(b, 0, x)
    top = b.op("reduce_max", x, last, keepdims=1)
    large = b.op("greater", b.op("abs", x), _constant(b, 1e-7, x))
    e = b.op("where", large, b.op("exp", b.op("sub", x, top)), b.op("mul", x, b.op("exp", b.op("neg", top))))
    total = b.op("reduce_sum", e, last, keepdims=1)
    return b.op("div", e, b.op("where", b.op("equal", total, zero), _constant(b, 1, x), total))


def _two_columns(b: Builder, score: Value, positive: bool, post: str) -> Answer:
    """The scores of both classes from that of the second, [n, 1] (`classic.two_columns`)."""
    if post == "PROBIT":
        return refuse("there is no operator for the transform", post_transform=post)
    if post == "LOGISTIC":
        return b.op("sigmoid", b.op("concat", b.op("neg", score), score, axis=1))
    first = b.op("sub", _constant(b, 1, score), score) if positive else b.op("neg", score)
    return b.op("concat", first, score, axis=1)


def _second(b: Builder, score: Value) -> Value:
    """Which of two classes: 1 where the score [n, 1] is positive, else 0, [n]."""
    above = b.op("greater", score, _constant(b, 0, score))
    return b.op("squeeze", b.op("cast", above, to=I64), _axis(b, 1))


def _best(b: Builder, scores: Value) -> Value:
    return b.op("arg_max", scores, axis=1, keepdims=0)


def _classified(b: Builder, labels: np.ndarray, which: Value, scores: Answer) -> Any:
    if isinstance(scores, Refusal):
        return scores
    return b.op("gather", b.const(labels), which, axis=0), scores


def _rows(b: Builder, node: Node) -> tuple[Value, int] | Refusal:
    """The operand as [n, features] of f32, and how many features it has."""
    x = node.operands[0]
    assert x is not None
    if not x.tensor.shape or not isinstance(x.tensor.shape[-1], int) or x.tensor.shape[-1] == 0:
        return refuse("the number of features is not known, or there are none", type=x.type)
    y = _as(b, x, F32)
    return (y if len(x.tensor.shape) == 2 else b.op("unsqueeze", y, _axis(b, 0))), x.tensor.shape[-1]


# ---- linear models ----------------------------------------------------------------------------------------------


def _linear(b: Builder, x: Value, weights: np.ndarray, intercepts: Sequence[float] | None) -> Value:
    """x @ weights + intercepts in x's element type."""
    y = b.op("matmul", x, _constant(b, weights, x))
    return b.op("add", y, _constant(b, intercepts, x)) if intercepts else y


@opens("linear_regressor")
def _linear_regressor(node: Node, b: Builder) -> Any:
    rows, targets = _rows(b, node), node.attr("targets")
    if isinstance(rows, Refusal):
        return rows
    x, features = rows
    weights = np.array(node.attr("coefficients") or (), np.float32)
    if targets < 1 or weights.size != targets * features or len(node.attr("intercepts") or ()) not in (0, 1, targets):
        return refuse("the coefficients do not fit the features", coefficients=weights.size, features=features, targets=targets)
    y = _linear(b, x, weights.reshape(targets, features).T, node.attr("intercepts"))
    return _transformed(b, y, node.attr("post_transform"))


@opens("linear_classifier")
def _linear_classifier(node: Node, b: Builder) -> Any:
    rows, intercepts, post = _rows(b, node), node.attr("intercepts"), node.attr("post_transform")
    if isinstance(rows, Refusal):
        return rows
    x, features = rows
    weights = np.array(node.attr("coefficients"), np.float32)
    count = len(intercepts) if intercepts else len(weights) // features  # inference has seen that there are enough
    scores = _linear(b, x, weights[: count * features].reshape(count, features).T, intercepts)
    labels = labels_of(node.attr("classlabels_strings"), node.attr("classlabels_ints"), max(count, 2))
    if count == 1 and len(labels) == 2:
        return _classified(b, labels, _second(b, scores), _two_columns(b, scores, True, post))
    if len(labels) < count:
        return refuse("there are fewer labels than scores", labels=len(labels), scores=count)
    return _classified(b, labels, _best(b, scores), _transformed(b, scores, post))


# ---- support vector machines ------------------------------------------------------------------------------------


def _kernel(b: Builder, node: Node, x: Value, vectors: np.ndarray) -> Value:
    """K(x, v) of each row of x [n, f] with each of vectors [m, f], [n, m] in f64."""
    kind, params = node.attr("kernel_type"), node.attr("kernel_params")
    gamma, coef0, degree = tuple(params) if params else (0.0, 0.0, 3.0)
    x, v = b.op("cast", x, to=F64), vectors.astype(np.float64)
    dot = b.op("matmul", x, b.const(np.ascontiguousarray(v.T)))
    if kind == "LINEAR":
        return dot
    if kind == "RBF":
        # |x - v|^2 = x.x - 2 x.v + v.v: exact enough in f64 of products of f32, but inf - inf is not inf.
        squares = b.op("reduce_sum", b.op("mul", x, x), _axis(b, 1), keepdims=1)
        apart = b.op("add", b.op("sub", squares, b.op("mul", dot, _constant(b, 2, x))), b.const((v * v).sum(1)))
        infinite = b.op("equal", squares, _constant(b, np.inf, x))
        return b.op("exp", b.op("mul", b.op("where", infinite, squares, apart), _constant(b, -gamma, x)))
    inner = b.op("add", b.op("mul", dot, _constant(b, gamma, x)), _constant(b, coef0, x))
    return b.op("pow", inner, _constant(b, degree, x)) if kind == "POLY" else b.op("tanh", inner)


@opens("svm_regressor")
def _svm_regressor(node: Node, b: Builder) -> Any:
    rows, count = _rows(b, node), node.attr("n_supports")
    if isinstance(rows, Refusal):
        return rows
    x, features = rows
    w, vectors = np.array(node.attr("coefficients") or (), np.float64), np.array(node.attr("support_vectors") or (), np.float32)
    if (count and (vectors.size != count * features or w.size != count)) or (not count and w.size != features):
        return refuse("the coefficients do not fit the features", coefficients=w.size, features=features, vectors=count)
    if count:
        score = b.op("matmul", _kernel(b, node, x, vectors.reshape(count, features)), b.const(w.reshape(-1, 1)))
    else:
        score = _kernel(b, node, x, w.reshape(1, -1))
    score = b.op("cast", b.op("add", score, _constant(b, (node.attr("rho") or (0.0,))[0], score)), to=F32)
    if node.attr("one_class"):
        return b.op("where", b.op("greater", score, _constant(b, 0, score)), _constant(b, 1, score), _constant(b, -1, score))
    return _transformed(b, score, node.attr("post_transform"))


@opens("svm_classifier")
def _svm_classifier(node: Node, b: Builder) -> Any:
    rows, counts, post = _rows(b, node), node.attr("vectors_per_class") or (), node.attr("post_transform")
    if isinstance(rows, Refusal):
        return rows
    if node.attr("prob_a"):
        return refuse("probabilities of pairs are coupled by a loop of their own")
    x, features = rows
    classes, total, rho = len(counts), sum(counts), node.attr("rho") or ()
    labels = labels_of(node.attr("classlabels_strings"), node.attr("classlabels_ints"), classes)
    w, vectors = np.array(node.attr("coefficients") or (), np.float64), np.array(node.attr("support_vectors") or (), np.float32)
    if classes < 2 or len(labels) < classes or vectors.size != total * features or w.size != (classes - 1) * total:
        return refuse("fewer than two classes of vectors, or the sizes do not fit", classes=classes, features=features)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    if rho and len(rho) < len(pairs):
        return refuse("there are fewer rho than pairs of classes", rho=len(rho), pairs=len(pairs))
    k = _kernel(b, node, x, vectors.reshape(total, features))
    weights = _pair_weights(w.reshape(classes - 1, total), counts, pairs)
    scores = _as(b, _linear(b, k, weights, rho[: len(pairs)]), F32)
    if classes == 2:
        won = b.op("sub", _constant(b, 1, _second(b, scores)), _second(b, scores))
        return _classified(b, labels, won, _two_columns(b, scores, post != "NONE", post))
    return _classified(b, labels, _best(b, _votes(b, scores, pairs, classes)), _transformed(b, scores, post))


def _pair_weights(w: np.ndarray, counts: Sequence[int], pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """What each vector's kernel says in each pair of classes, [vectors, pairs], in libsvm's order."""
    ends = np.cumsum([0, *counts])
    out = np.zeros((w.shape[1], len(pairs)))
    for at, (i, j) in enumerate(pairs):
        a, c = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        out[a, at], out[c, at] = w[j - 1, a], w[i, c]
    return out


def _votes(b: Builder, scores: Value, pairs: Sequence[tuple[int, int]], classes: int) -> Value:
    """How many pairs each class wins, [n, classes]: the first of a pair where its score is positive, else the second."""
    first, second = np.zeros((len(pairs), classes)), np.zeros((len(pairs), classes))
    for at, (i, j) in enumerate(pairs):
        first[at, i] = second[at, j] = 1
    wins = b.op("cast", b.op("greater", scores, _constant(b, 0, scores)), to=F32)
    others = b.op("sub", _constant(b, 1, wins), wins)
    return b.op("add", _linear(b, wins, first, None), _linear(b, others, second, None))
