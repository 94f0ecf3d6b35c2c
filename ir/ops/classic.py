"""Classifiers and regressors of ai.onnx.ml: linear models and support vector machines.

Where the specification is silent (two classes but one score, ties, labels of binary models) these follow ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..limits import claim
from ..op import InferContext, Onnx, ex, op
from ..types import F32, F64, I32, I64, STR, TensorType
from .contents import checked, choice, want_rank
from .examples import rand

ML = "ai.onnx.ml"
NUMBERS = frozenset({F32, F64, I64, I32})
POST = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


# ---- post transforms


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e / (1 + e), 1 / (1 + e)).astype(x.dtype)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True, initial=-np.inf))
    return e / e.sum(-1, keepdims=True)


def softmax_zero(x: np.ndarray) -> np.ndarray:
    """softmax that leaves scores of zero (at most 1e-7 large) at zero."""
    top = x.max(-1, keepdims=True, initial=-np.inf)
    e = np.where(np.abs(x) > 1e-7, np.exp(x - top), x * np.exp(-top))
    total = e.sum(-1, keepdims=True)
    return np.where(total == 0, e, e / np.where(total == 0, 1, total)).astype(x.dtype)


def probit(x: np.ndarray) -> np.ndarray:
    """The quantile of the normal distribution by Winitzki's approximation of the inverse error function (2008, a = 0.147)."""
    y = 2 * x - 1
    log = np.log((1 - y) * (1 + y))
    v = 2 / (np.pi * 0.147) + 0.5 * log
    return (np.sqrt(2.0) * np.sign(y) * np.sqrt(-v + np.sqrt(v * v - log / 0.147))).astype(x.dtype)


_TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NONE": np.asarray,
    "SOFTMAX": softmax,
    "LOGISTIC": logistic,
    "SOFTMAX_ZERO": softmax_zero,
    "PROBIT": probit,
}


def transformed(scores: np.ndarray, post_transform: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return _TRANSFORMS[post_transform](scores)


def two_columns(score: np.ndarray, positive: bool, post_transform: str) -> np.ndarray:
    """The scores of both classes from the one of the second: 1 - s and s for probabilities (`positive`), -s and s else."""
    if post_transform == "LOGISTIC":
        return np.stack([logistic(-score), logistic(score)], 1)
    both = np.stack([1 - score if positive else -score, score], 1)
    return transformed(both, post_transform) if post_transform == "PROBIT" else both


# ---- types


def row_count(c: InferContext) -> Any:
    """The number of rows of operand 0, [n, features] or one row alone."""
    want_rank(c, 0, 1, 2)
    shape = c.shape(0)
    return c.symbol() if shape is None else shape[0] if len(shape) == 2 else 1


def labels_of(strings: Sequence[str] | None, ints: Sequence[int] | None, count: int = 0) -> np.ndarray:
    """The classes' labels; 0, 1, ... where none are given."""
    if strings:
        return np.array(list(strings), object)
    return np.array(list(ints) if ints else range(count), np.int64)


def _infer_regressor(c: InferContext) -> TensorType:
    choice(c, "post_transform", POST)
    return TensorType(F32, checked(c, (row_count(c), c.attr("targets"))))


def _matrix(x: np.ndarray) -> np.ndarray:
    """`x` as [n, features] of f32."""
    return (x if x.ndim == 2 else x.reshape(1, -1)).astype(np.float32)


# ---- linear models


def _scores(coefficients: Sequence[float], intercepts: Sequence[float] | None, features: int) -> int:
    """How many scores a linear classifier gives: one an intercept, or as many as the coefficients make. Raises ValueError where
    there are too few coefficients. More than are asked for are left alone, as ONNX Runtime does and a published model needs."""
    count = len(intercepts) if intercepts else len(coefficients) // max(features, 1)
    if not count or count * features > len(coefficients):
        raise ValueError(
            f"{len(coefficients)} coefficients for {features} features and {max(count, 1)} scores; expected their product"
        )
    return count


def _infer_linear_classifier(c: InferContext) -> list[TensorType]:
    choice(c, "post_transform", POST)
    n = row_count(c)
    labels = labels_of(c.attr("classlabels_strings"), c.attr("classlabels_ints"))
    features = None if c.shape(0) is None else c.shape(0)[-1]  # type: ignore[index]
    scores = _scores(c.attr("coefficients"), c.attr("intercepts"), features) if isinstance(features, int) else None
    width = 2 if scores == 1 and len(labels) in (0, 2) else c.symbol() if scores is None else scores
    return [TensorType(STR if labels.dtype == object else I64, (n,)), TensorType(F32, (n, width))]


def _linear_classifier_examples() -> list:
    x = rand(4, 3)
    w = tuple(rand(9, seed=3).tolist())
    three: dict[str, Any] = {"coefficients": w, "intercepts": (0.1, -0.2, 0.3), "results": 2}
    return [
        *(ex(x, classlabels_ints=(5, 6, 7), post_transform=p, **three) for p in POST[:4]),
        ex(x, classlabels_strings=("a", "b", "c"), **three),
        ex(rand(4, 3, dtype=np.int64), classlabels_ints=(0, 1, 2), **three),
        ex(x, coefficients=w[:6], intercepts=(0.1, 0.2), classlabels_ints=(3, 4), post_transform="LOGISTIC", results=2),
        ex(x, coefficients=w[:3], intercepts=(0.1,), classlabels_ints=(3, 4), results=2),
    ]


@op(
    "linear_classifier",
    onnx=Onnx("LinearClassifier", ML),
    infer=_infer_linear_classifier,
    results=2,
    dtypes={"X": NUMBERS},
    examples=_linear_classifier_examples,
)
def linear_classifier(
    X, *, coefficients, intercepts=None, classlabels_ints=None, classlabels_strings=None, multi_class=0, post_transform="NONE"
):
    """The label of the largest of the linear scores, and the scores. One score for two classes: the second where it is positive."""
    x = _matrix(X)
    count = _scores(coefficients, intercepts, x.shape[1])
    scores = x @ np.array(coefficients[: count * x.shape[1]], np.float32).reshape(count, -1).T
    if intercepts:
        scores = scores + np.array(intercepts, np.float32)
    labels = labels_of(classlabels_strings, classlabels_ints, max(scores.shape[1], 2))
    if scores.shape[1] == 1 and len(labels) == 2:
        return labels[(scores[:, 0] > 0).astype(np.int64)], two_columns(scores[:, 0], True, post_transform)
    return labels[np.argmax(scores, 1)], transformed(scores, post_transform)


@op(
    "linear_regressor",
    onnx=Onnx("LinearRegressor", ML),
    infer=_infer_regressor,
    dtypes={"X": NUMBERS},
    examples=lambda: [
        ex(rand(4, 3), coefficients=(1.0, -2.0, 0.5), intercepts=(0.25,)),
        ex(rand(4, 2), coefficients=(1.0, -2.0, 0.5, 3.0), targets=2),
        ex(rand(0, 2), coefficients=(1.0, -2.0)),
        *(ex(rand(4, 2), coefficients=(1.0, -2.0, 0.5, 3.0), targets=2, post_transform=p) for p in POST[1:4]),
    ],
)
def linear_regressor(X, *, coefficients=None, intercepts=None, targets=1, post_transform="NONE"):
    """X @ coefficients + intercepts; the coefficients of one target lie side by side."""
    x = _matrix(X)
    scores = x @ np.array(coefficients or (), np.float32).reshape(targets, x.shape[1]).T
    return transformed(scores + np.array(intercepts, np.float32) if intercepts else scores, post_transform)


# ---- support vector machines

BLOCK_BYTES = 32 << 20  # what the products of one block of rows with all vectors may take


def kernel(x: np.ndarray, vectors: np.ndarray, kind: str, params: Sequence[float] | None) -> np.ndarray:
    """K(x, v) of each row of x [n, f] with each vector [m, f], [n, m]; `params` are gamma, coef0 and degree."""
    gamma, coef0, degree = tuple(params) if params else (0.0, 0.0, 3.0)
    claim(3 * 8 * len(x) * len(vectors))
    if kind == "RBF":
        # |x - v|^2 of single differences: the expanded square loses what the exponential needs
        out = np.zeros((len(x), len(vectors)), np.float64)
        for column in range(x.shape[1]):
            out += (x[:, column, None].astype(np.float64) - vectors[None, :, column]) ** 2
        return np.exp(-gamma * out)
    dot = x.astype(np.float64) @ vectors.astype(np.float64).T
    if kind == "LINEAR":
        return dot
    return (gamma * dot + coef0) ** degree if kind == "POLY" else np.tanh(gamma * dot + coef0)


KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")


def _infer_svm_regressor(c: InferContext) -> TensorType:
    choice(c, "post_transform", POST)
    choice(c, "kernel_type", KERNELS)
    return TensorType(F32, (row_count(c), 1))


def _svm_examples() -> list:
    x, sv = rand(5, 3), tuple(rand(12, seed=4).tolist())
    a: dict[str, Any] = {
        "coefficients": (0.5, -1.0, 0.25, 2.0),
        "support_vectors": sv,
        "n_supports": 4,
        "rho": (0.3,),
        "kernel_params": (0.4, 0.1, 3.0),
    }
    return [
        *(ex(x, kernel_type=k, **a) for k in KERNELS),
        ex(x, kernel_type="RBF", one_class=1, **a),
        ex(x, coefficients=(1.0, 2.0, -1.0), rho=(0.5,)),
    ]


@op("svm_regressor", onnx=Onnx("SVMRegressor", ML), infer=_infer_svm_regressor, dtypes={"X": NUMBERS}, examples=_svm_examples)
def svm_regressor(
    X,
    *,
    coefficients=None,
    kernel_params=None,
    kernel_type="LINEAR",
    n_supports=0,
    one_class=0,
    post_transform="NONE",
    rho=None,
    support_vectors=None,
):
    """sum of coefficients * K(x, support vectors) + rho; with `one_class` 1 where that is positive, else -1."""
    x, w = _matrix(X), np.array(coefficients or (), np.float64)
    if n_supports:
        vectors = np.array(support_vectors or (), np.float32).reshape(n_supports, x.shape[1])
        step = max(1, BLOCK_BYTES // (24 * n_supports))
        blocks = [kernel(x[i : i + step], vectors, kernel_type, kernel_params) @ w for i in range(0, len(x), step)]
        score = np.concatenate(blocks or [np.zeros(0)])
    else:
        score = kernel(x, w.reshape(1, -1), kernel_type, kernel_params)[:, 0]
    score = (score + (rho[0] if rho else 0.0)).astype(np.float32)[:, None]
    return np.where(score > 0, 1, -1).astype(np.float32) if one_class else transformed(score, post_transform)


def _infer_svm_classifier(c: InferContext) -> list[TensorType]:
    choice(c, "post_transform", POST)
    choice(c, "kernel_type", KERNELS)
    n, classes = row_count(c), len(c.attr("vectors_per_class") or ())
    labels = labels_of(c.attr("classlabels_strings"), c.attr("classlabels_ints"))
    pairs = classes * (classes - 1) // 2
    width = classes if c.attr("prob_a") or not pairs else 2 if pairs == 1 else pairs
    return [TensorType(STR if labels.dtype == object else I64, (n,)), TensorType(F32, (n, width or len(labels)))]


def _pair_scores(k: np.ndarray, coefficients: np.ndarray, counts: Sequence[int], rho: Sequence[float]) -> np.ndarray:
    """libsvm's decision values of class i against class j, i < j, in that order, [n, pairs]."""
    ends = np.cumsum([0, *counts])
    columns: list[np.ndarray] = []
    for i in range(len(counts)):
        for j in range(i + 1, len(counts)):
            a, b = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            columns.append(k[:, a] @ coefficients[j - 1, a] + k[:, b] @ coefficients[i, b] + rho[len(columns)])
    return np.stack(columns, 1)


def _coupled(pairs: np.ndarray) -> np.ndarray:
    """Class probabilities [n, c] from pairwise ones [n, c, c]: Wu, Lin and Weng (2004), their second method, as in libsvm.

    A row stops at the bound at which libsvm stops, whatever the others need.
    """
    n, c, _ = pairs.shape
    other = pairs.transpose(0, 2, 1)
    q = -other * pairs
    q[:, range(c), range(c)] = (other**2).sum(2)
    p = np.full((n, c), 1.0 / c)
    left = np.arange(n)
    for _ in range(max(100, c)):
        qp = np.einsum("nij,nj->ni", q[left], p[left])
        pqp = np.einsum("ni,ni->n", p[left], qp)
        open_ = np.abs(qp - pqp[:, None]).max(1, initial=0) >= 0.005 / c
        left, qp, pqp = left[open_], qp[open_], pqp[open_]
        if not left.size:
            break
        for t in range(c):
            own = q[left, t, t]
            diff = (pqp - qp[:, t]) / own
            p[left, t] += diff
            pqp = (pqp + diff * (diff * own + 2 * qp[:, t])) / (1 + diff) ** 2
            qp = (qp + diff[:, None] * q[left, t]) / (1 + diff)[:, None]
            p[left] /= (1 + diff)[:, None]
    return p


def _probabilities(scores: np.ndarray, classes: int, a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    """Platt's sigmoid of each decision value, then the coupling."""
    pairs = np.zeros((len(scores), classes, classes))
    at = 0
    for i in range(classes):
        for j in range(i + 1, classes):
            p = np.clip(1 - logistic(scores[:, at] * a[at] + b[at]), 1e-7, 1 - 1e-7)
            pairs[:, i, j], pairs[:, j, i] = p, 1 - p
            at += 1
    return _coupled(pairs)


def _svc_examples() -> list:
    x, sv = rand(6, 2), tuple(rand(10, seed=5).tolist())
    three: dict[str, Any] = {
        "support_vectors": sv,
        "vectors_per_class": (2, 1, 2),
        "coefficients": tuple(rand(10, seed=6).tolist()),
        "rho": (0.1, -0.2, 0.3),
    }
    two: dict[str, Any] = {
        "support_vectors": sv,
        "vectors_per_class": (2, 3),
        "coefficients": (1.0, 0.5, -0.7, -0.6, -0.2),
        "rho": (0.1,),
    }
    rbf: dict[str, Any] = {"kernel_type": "RBF", "kernel_params": (0.5, 0.0, 3.0), "results": 2}
    prob: dict[str, Any] = {"prob_a": (-1.5, -1.0, -2.0), "prob_b": (0.1, 0.0, -0.1)}
    return [
        ex(x, classlabels_ints=(3, 4, 5), **three, **rbf),
        ex(x, classlabels_strings=("a", "b", "c"), **three, **prob, **rbf),
        ex(x, classlabels_ints=(0, 1), **two, **rbf),
        ex(x, classlabels_ints=(0, 1), prob_a=(-1.5,), prob_b=(0.1,), **two, **rbf),
        ex(x, classlabels_ints=(0, 1, 2), coefficients=tuple(rand(6, seed=7).tolist()), rho=(0.5,), results=2),
    ]


@op(
    "svm_classifier",
    onnx=Onnx("SVMClassifier", ML),
    infer=_infer_svm_classifier,
    results=2,
    dtypes={"X": NUMBERS},
    examples=_svc_examples,
)
def svm_classifier(
    X,
    *,
    classlabels_ints=None,
    classlabels_strings=None,
    coefficients=None,
    kernel_params=None,
    kernel_type="LINEAR",
    post_transform="NONE",
    prob_a=None,
    prob_b=None,
    rho=None,
    support_vectors=None,
    vectors_per_class=None,
):
    """The label of the class that wins most pairs, and the decision values of the pairs, or probabilities (with `prob_a`)."""
    x, counts = _matrix(X), tuple(vectors_per_class or ())
    if not counts:
        labels = labels_of(classlabels_strings, classlabels_ints)
        w = np.array(coefficients or (), np.float32).reshape(len(labels), x.shape[1])
        scores = (kernel(x, w, kernel_type, kernel_params) + (rho[0] if rho else 0.0)).astype(np.float32)
        return labels[np.argmax(scores, 1)], transformed(scores, post_transform)
    classes = len(counts)
    vectors = np.array(support_vectors or (), np.float32).reshape(sum(counts), x.shape[1])
    w = np.array(coefficients or (), np.float64).reshape(classes - 1, sum(counts))
    scores = _pair_scores(kernel(x, vectors, kernel_type, kernel_params), w, counts, rho or (0.0,) * (classes * classes))
    labels = labels_of(classlabels_strings, classlabels_ints, classes)
    label = labels[_most_votes(scores, classes)]
    if prob_a:
        return label, transformed(_probabilities(scores, classes, prob_a, prob_b).astype(np.float32), post_transform)
    scores = scores.astype(np.float32)
    return label, two_columns(scores[:, 0], post_transform != "NONE", post_transform) if classes == 2 else transformed(
        scores, post_transform
    )


def _most_votes(scores: np.ndarray, classes: int) -> np.ndarray:
    """The class that wins most of its pairs, the first of equal ones."""
    votes = np.zeros((len(scores), classes), np.int64)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    for at, (i, j) in enumerate(pairs):
        votes[:, i] += scores[:, at] > 0
        votes[:, j] += scores[:, at] <= 0
    return np.argmax(votes, 1)
