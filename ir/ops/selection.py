"""Selections whose size, or whose order, depends on the data."""

from __future__ import annotations

import numpy as np

from ..limits import tick
from ..op import InferContext, Onnx, OnnxCall, attr_to_input, ex, op
from ..symbols import INF, DimLike, dim_max, dim_min, prove_ne
from ..types import BOOL, F32, I64, NUMERIC, TensorType
from .contents import COMMON, checked, entry, length, product, want_rank
from .examples import rand


def _infer_non_zero(c: InferContext) -> TensorType:
    rank = c.rank(0)
    return TensorType(I64, (c.symbol() if rank is None else rank, c.symbol()))


def _non_zero_examples() -> list:
    return [
        ex(np.array([[1, 0], [2, 3]], np.float32)),
        ex(np.array([True, False, True])),
        ex(np.array([0.0, -0.0, np.nan], np.float32)),
        ex(np.zeros((2, 0), np.int64)),
        ex(np.int64(3)),
        ex(np.int32(0)),
        ex(np.zeros((2, 2), np.uint8)),
    ]


@op("non_zero", onnx="NonZero", infer=_infer_non_zero, dtypes={"X": COMMON}, examples=_non_zero_examples)
def non_zero(X):
    """The indices of the elements that are not zero (strings: not empty), one column each, in row-major order."""
    found = X != "" if X.dtype == object else X
    if X.ndim == 0:
        return np.zeros((0, int(bool(found))), np.int64)
    return np.array(np.nonzero(found), np.int64).reshape(X.ndim, -1)


def _infer_compress(c: InferContext) -> TensorType:
    x, axis, keep = c.t(0), c.attr("axis"), c.data(1)
    want_rank(c, 1, 1)
    count = c.symbol() if keep is None or keep.dtype == object else int(np.count_nonzero(keep))
    if axis is None:
        return x.with_(shape=(count,))
    if x.shape is None:
        return x
    if not x.shape:
        raise c.error("input is a scalar; expected rank >= 1")
    axis = c.axis(axis, len(x.shape))
    return x.with_(shape=(*x.shape[:axis], count, *x.shape[axis + 1 :]))


def _compress_examples() -> list:
    x = rand(3, 2)
    return [
        ex(x, np.array([False, True, True]), axis=0),
        ex(x, np.array([False, True]), axis=-1),
        ex(x, np.array([False, True, False, False, True])),
        ex(x, np.array([True]), axis=0),
        ex(x, np.array([False] * 3), axis=0),
        ex(np.array(["a", "b"], object), np.array([False, True])),
    ]


@op(
    "compress",
    onnx="Compress",
    infer=_infer_compress,
    dtypes={"input": COMMON, "condition": {BOOL}},
    examples=_compress_examples,
)
def compress(input, condition, *, axis=None):
    """The slices along `axis` (the elements, without one) where `condition` is true; what it does not reach is left out."""
    return np.compress(condition, input, axis)


def _infer_unique(c: InferContext) -> list[TensorType]:
    x, axis, count = c.t(0), c.attr("axis"), c.symbol()
    if axis is None:
        y, inverse = x.with_(shape=(count,)), c.symbol() if x.shape is None else product(c, x.shape)
    elif x.shape is None:
        y, inverse = x, c.symbol()
    else:
        axis = c.axis(axis, len(x.shape))
        y, inverse = x.with_(shape=(*x.shape[:axis], count, *x.shape[axis + 1 :])), x.shape[axis]
    index = TensorType(I64, (count,))
    return [y, index, TensorType(I64, (inverse,)), index]


def _unique_examples() -> list:
    x = np.array([2, 1, 1, 3, 4, 3], np.float32)
    m = np.array([[1, 0, 0], [1, 0, 0], [2, 3, 4]], np.float32)
    return [
        ex(x, sorted=0, results=4),
        ex(x, results=4),
        ex(m, axis=0, results=4),
        ex(m, axis=-1, results=4),
        ex(m[::-1], axis=0, sorted=0, results=4),
        ex(m, results=2),
        ex(np.array(["b", "a", "b"], object), results=4),
        ex(np.array([3, 1], np.int64)),
        ex(np.zeros((0,), np.float32), results=4),
    ]


@op("unique", onnx="Unique", infer=_infer_unique, results=None, dtypes={"X": COMMON}, examples=_unique_examples)
def unique(X, *, axis=None, sorted=1):
    """The distinct elements (slices along `axis`), where each occurs first, the way back, and how often each occurs.

    In ascending order, or in that of the first occurrence. NaNs count as equal.
    """
    if axis is None:
        y, first, inverse, counts = np.unique(X, return_index=True, return_inverse=True, return_counts=True)
    else:
        # Codes that keep the order let slices of any element type be compared.
        codes = np.unique(X, return_inverse=True)[1].reshape(X.shape)
        _, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True, axis=axis)
        y = np.take(X, first, axis)
    inverse = inverse.reshape(-1)
    if not sorted:
        order = np.argsort(first, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        y, first, counts, inverse = np.take(y, order, 0 if axis is None else axis), first[order], counts[order], place[inverse]
    return y, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


# ---- the largest, and boxes


def _infer_topk(c: InferContext) -> list[TensorType]:
    x, k = c.t(0), entry(c, 1)
    length(c, 1)
    if isinstance(k, int) and k < 0:
        raise c.error(f"K is {k}; expected at least 0")
    if x.shape is None:
        return [x, TensorType(I64, None)]
    if not x.shape:
        raise c.error("X is a scalar; expected rank >= 1")
    axis = c.axis(c.attr("axis"), len(x.shape))
    size = x.shape[axis]
    if isinstance(k, int) and isinstance(size, int) and k > size:
        raise c.error(f"K is {k}, but axis {axis} has {size} elements")
    shape = checked(c, (*x.shape[:axis], c.symbol() if k is None else k, *x.shape[axis + 1 :]))
    return [x.with_(shape=shape), TensorType(I64, shape)]


def _k_attribute(call: OnnxCall) -> None:
    """Before opset 10 K was an attribute."""
    if "k" in call.attrs:
        call.attrs["k"] = (call.attrs["k"],)
    attr_to_input("k", 1)(call)


def _topk_examples() -> list:
    x, k = rand(3, 5), np.array([2], np.int64)
    ties = np.array([[1, 3, 3, 1, 3]], np.int32)
    return [
        ex(x, k, results=2),
        ex(x, k, axis=0, results=2),
        ex(x, k, largest=0, results=2),
        ex(ties, k, results=2),
        ex(ties, np.array([4], np.int64), largest=0, results=2),
        ex(x, np.array([5], np.int64), axis=-1, results=2),
        ex(x, np.array([0], np.int64), results=2),
        ex(np.array([3, 1, 2], np.uint8), k, results=2),
        ex(np.zeros((0, 4), np.float32), k, results=2),
    ]


@op(
    "topk",
    onnx=Onnx("TopK", before={10: _k_attribute}),
    infer=_infer_topk,
    results=2,
    dtypes={"X": NUMERIC, "K": {I64}},
    examples=_topk_examples,
)
def topk(X, K, *, axis=-1, largest=1, sorted=1):
    """The K largest (or smallest) elements along `axis` in their order, and where they were.

    Of equal elements the one with the lower index comes first. NaN counts as larger than every number, and NaNs as equal.
    """
    k, n = int(K.item()), X.shape[axis]
    if not 0 <= k <= n:
        raise ValueError(f"K is {k}, but axis {axis} has {n} elements")
    keys = X.astype(np.float32) if X.dtype.kind not in "iuf" else X
    if largest:  # a stable ascending sort from the far end, read backwards
        order = np.flip(n - 1 - np.argsort(np.flip(keys, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(keys, axis, kind="stable")
    index = np.take(order, np.arange(k), axis)
    return np.take_along_axis(X, index, axis), index.astype(np.int64)


def _infer_nms(c: InferContext) -> TensorType:
    want_rank(c, 0, 3)
    want_rank(c, 1, 3)
    boxes, scores, most = c.shape(0), c.shape(1), entry(c, 2)
    if boxes is not None and prove_ne(boxes[2], 4):
        raise c.error(f"boxes have the type {c.t(0)}; expected four numbers a box")
    hi: DimLike = INF
    if scores is not None and all(isinstance(d, int) for d in scores):
        batch, classes, n = scores
        hi = batch * classes * (dim_min(n, dim_max(most, 0)) if most is not None else n)
    return TensorType(I64, (c.symbol(0, hi if isinstance(hi, int) else INF) if hi != 0 else 0, 3))


def _corners(boxes: np.ndarray, center: int) -> np.ndarray:
    """The rows y1, x1, y2, x2 with y1 <= y2 and x1 <= x2 of boxes [n, 4] in either form."""
    a, b, p, q = np.moveaxis(boxes, -1, 0)
    if center:  # x and y of the center, width and height
        return np.stack([b - q / 2, a - p / 2, b + q / 2, a + p / 2])
    return np.stack([np.minimum(a, p), np.minimum(b, q), np.maximum(a, p), np.maximum(b, q)])


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of one box [4] with the others [4, n]; 0 where an area is not positive."""
    y1, x1 = np.maximum(box[0], boxes[0]), np.maximum(box[1], boxes[1])
    y2, x2 = np.minimum(box[2], boxes[2]), np.minimum(box[3], boxes[3])
    common = np.maximum(y2 - y1, 0) * np.maximum(x2 - x1, 0)
    area, areas = (box[2] - box[0]) * (box[3] - box[1]), (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])
    union = area + areas - common
    return np.where((area > 0) & (areas > 0) & (union > 0), common / np.where(union > 0, union, 1), 0)


def _kept(corners: np.ndarray, scores: np.ndarray, most: int, iou: float, least: float | None) -> list[int]:
    """The boxes of one class that are kept, best first. Each one kept strikes out what overlaps it, all at once."""
    order = np.argsort(-scores, kind="stable")
    left = order if least is None else order[scores[order] > np.float32(least)]
    kept: list[int] = []
    while len(left) and len(kept) < most:
        tick()
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[~(_overlap(corners[:, best], corners[:, left]) > np.float32(iou))]
    return kept


def _nms_examples() -> list:
    boxes = np.array(
        [[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, -0.1, 1, 0.9], [0, 10, 1, 11], [0, 10.1, 1, 11.1], [0, 100, 1, 101]]], np.float32
    )
    scores = np.array([[[0.9, 0.75, 0.6, 0.95, 0.5, 0.3]]], np.float32)
    most, iou, least = np.array([3], np.int64), np.array([0.5], np.float32), np.array([0.4], np.float32)
    return [
        ex(boxes, scores, most, iou, np.array([0.0], np.float32)),
        ex(boxes, scores, most, iou, least),
        ex(boxes, scores),
        ex(boxes[..., [2, 3, 0, 1]], np.repeat(scores, 2, 1), most, iou),
        ex(np.abs(boxes) + 0.5, scores, most, np.array([0.2], np.float32), least, center_point_box=1),
        ex(np.repeat(boxes[:, :1], 4, 1), np.full((1, 1, 4), 0.5, np.float32), most, np.array(0.3, np.float32)),
        ex(boxes[:, :0], scores[:, :, :0], most, iou),
    ]


@op(
    "non_max_suppression",
    onnx=Onnx("NonMaxSuppression", since=10),
    infer=_infer_nms,
    examples=_nms_examples,
    dtypes={"boxes": {F32}, "scores": {F32}, "max_output_boxes_per_class": {I64}, "iou_threshold": {F32}, "score_threshold": {F32}},
)
def non_max_suppression(
    boxes, scores, max_output_boxes_per_class=None, iou_threshold=None, score_threshold=None, *, center_point_box=0
):
    """(batch, class, box) of the boxes kept, best first within each class; equal scores keep the order of the boxes.

    A box goes where its overlap with a kept one is above `iou_threshold`, or its score not above `score_threshold`.
    """
    most = 0 if max_output_boxes_per_class is None else int(max_output_boxes_per_class.item())
    iou = 0.0 if iou_threshold is None else float(iou_threshold.item())
    least = None if score_threshold is None else float(score_threshold.item())
    found = [np.zeros((0, 3), np.int64)]
    for b in range(len(scores)):
        corners = _corners(boxes[b], center_point_box)
        for cls in range(scores.shape[1]):
            kept = _kept(corners, scores[b, cls], most, iou, least)
            found.append(np.stack([np.full(len(kept), b), np.full(len(kept), cls), np.array(kept, np.int64)], axis=1))
    return np.concatenate(found)
