"""Losses of classifiers."""

from __future__ import annotations

import numpy as np

from ..op import InferContext, Onnx, ex, op
from ..types import FLOATS, I32, I64, TensorType
from .common import expect_choice, expect_rank, expect_shape, same_dtype, wide
from .examples import rand


def _infer_loss(c: InferContext) -> TensorType:
    """The loss of x[N,C,...], target[N,...], weight[C]: a scalar, or one number a target."""
    same_dtype(c, 0, 2)
    expect_choice(c, "reduction", "none", "mean", "sum")
    expect_rank(c, 0, at_least=2)
    x = c.shape(0)
    if x is not None:
        expect_shape(c, 1, (x[0], *x[2:]), "x without its classes")
    expect_shape(c, 2, (x[1] if x is not None else None,), "one weight a class")
    shape = () if c.attr("reduction") != "none" else c.shape(1) if x is None else (x[0], *x[2:])
    return c.t(0).with_(shape=shape)


def _reduced_loss(log_prob: np.ndarray, target: np.ndarray, weight: np.ndarray | None, ignore: int | None,
                  reduction: str) -> np.ndarray:  # fmt: skip
    """The loss -weight[target] * log_prob[N, target, ...], where the target is not `ignore`, reduced."""
    kept = np.ones(target.shape, bool) if ignore is None else target != ignore
    safe, classes = np.where(kept, target, 0), log_prob.shape[1]
    if safe.size and (safe.min() < 0 or safe.max() >= classes):
        raise ValueError(f"targets from {safe.min()} to {safe.max()}, expected classes 0 to {classes - 1} or ignore_index")
    weights = np.where(kept, 1 if weight is None else wide(weight)[safe], 0).astype(log_prob.dtype)
    picked = np.take_along_axis(log_prob, np.expand_dims(safe, 1), 1)[:, 0] if classes else np.zeros(target.shape, log_prob.dtype)
    loss = np.where(kept, -picked * weights, 0).astype(log_prob.dtype)
    if reduction == "none":
        return loss
    total = loss.sum()
    return total if reduction == "sum" else total / weights.sum()


def _loss_examples(results: int) -> list:
    one = np.array([[1, 2]], np.float32), np.array([-1], np.int64)
    x, t, w = rand(3, 5, 2), np.array([[0, 4], [2, 2], [1, 3]], np.int64), rand(5, lo=0.1, hi=1)
    return [
        ex(x, t, results=results, name="mean"),
        ex(x, t, w, results=results, name="weighted_mean"),
        ex(x, t, w, reduction="none", ignore_index=2, results=results, name="none_ignored"),
        ex(x, t, w, reduction="sum", results=results, name="sum"),
        ex(x, t, w, ignore_index=4, results=results, name="mean_ignored"),
        ex(x[:, :, 0], t[:, 0].astype(np.int32), reduction="sum", results=results, name="matrix_i32"),
        ex(x.astype(np.float64), t, reduction="none", results=results, name="f64"),
        ex(*one, ignore_index=-1, reduction="sum", results=results, name="negative"),
    ]


@op("nll_loss", onnx=Onnx("NegativeLogLikelihoodLoss", since=12), infer=_infer_loss, examples=lambda: _loss_examples(1),
    dtypes={"x": FLOATS, "target": {I32, I64}, "weight": FLOATS})  # fmt: skip
def nll_loss(x, target, weight=None, *, ignore_index=None, reduction="mean"):
    """-weight[t] * x[N, t, ...] for each target t: each, their sum, or their mean weighted by weight[t].

    Raises ValueError for a target that is no class and not ignored.
    """
    return np.asarray(_reduced_loss(wide(x), target, weight, ignore_index, reduction)).astype(x.dtype)


def infer_cross_entropy(c: InferContext) -> list[TensorType]:
    return [_infer_loss(c), c.t(0)]


@op("softmax_cross_entropy_loss", onnx=Onnx("SoftmaxCrossEntropyLoss", since=12), infer=infer_cross_entropy, results=None,
    examples=lambda: _loss_examples(2), dtypes={"x": FLOATS, "target": {I32, I64}, "weight": FLOATS})  # fmt: skip
def softmax_cross_entropy_loss(x, target, weight=None, *, ignore_index=None, reduction="mean"):
    """nll_loss of log_softmax(x) along the classes (axis 1), and log_softmax(x)."""
    xw = wide(x)
    shifted = xw - xw.max(axis=1, keepdims=True, initial=-np.inf)
    log_prob = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = np.asarray(_reduced_loss(log_prob, target, weight, ignore_index, reduction)).astype(x.dtype)
    return loss, log_prob.astype(x.dtype)
