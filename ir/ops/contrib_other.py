"""Operators of ONNX Runtime's domain com.microsoft over plain numbers that have no like in ONNX."""

from __future__ import annotations

import numpy as np

from ..op import InferContext, Onnx, ex, op
from ..symbols import prove_ne
from ..types import F16, F32, F64, I32, TensorType
from .common import expect_choice, expect_rank, expect_shape, same_dtype
from .examples import f32, rand

MICROSOFT = "com.microsoft"


def _infer_inverse(c: InferContext) -> TensorType:
    shape = c.shape(0)
    if shape is not None and (len(shape) < 2 or prove_ne(shape[-1], shape[-2])):
        raise c.error(f"the operand has type {c.t(0)}; expected [..., M, M]")
    return c.t(0)


def _inverses() -> list:
    x = rand(2, 3, 3, 3) + 4 * np.eye(3, dtype=np.float32)
    return [ex(x), ex(x[0, 0].astype(np.float64)), ex(x.astype(np.float16)), ex(x[:0])]


@op("inverse", onnx=Onnx("Inverse", MICROSOFT), infer=_infer_inverse, dtypes={"x": {F32, F64, F16}}, examples=_inverses)
def inverse(x: np.ndarray) -> np.ndarray:
    """The inverse of each matrix of the last two axes, computed in f64. A singular one gives NaN."""
    out = np.full(x.shape, np.nan)
    for at in np.ndindex(x.shape[:-2]):
        try:
            out[at] = np.linalg.inv(x[at].astype(np.float64))
        except np.linalg.LinAlgError:
            continue  # NaN stays
    return out.astype(x.dtype)


def _infer_crop(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1)
    expect_choice(c, "mode", "bilinear", "nearest")
    expect_rank(c, 0, 4)
    x, boxes = c.shape(0), expect_shape(c, 1, (None, 4), "boxes, (y1, x1, y2, x2)")
    expect_shape(c, 2, (boxes[0] if boxes else None,), "one image a box")
    expect_shape(c, 3, (2,), "height and width")
    size = c.ints(3) or [None, None]
    dims = (boxes[0] if boxes else None, x[1] if x is not None else None, *size)
    return c.t(0).with_(shape=tuple(c.symbol() if d is None else d for d in dims))


def _crops() -> list:
    x, where = rand(2, 3, 5, 6), np.array([0, 1, 1], np.int32)
    boxes, size = f32([[0, 0, 1, 1], [0.2, 0.1, 0.7, 0.9], [-0.3, 0.5, 1.2, 0.4]]), np.array([3, 4], np.int32)
    return [
        ex(x, boxes, where, size),
        ex(x, boxes, where, size, mode="nearest", extrapolation_value=-1.0),
        ex(x, boxes, where, np.array([1, 2], np.int32), extrapolation_value=0.5),
        ex(x, boxes[:0], where[:0], size),
    ]


@op("crop_and_resize", onnx=Onnx("CropAndResize", MICROSOFT), infer=_infer_crop, examples=_crops,
    dtypes={"x": {F32}, "rois": {F32}, "batch_indices": {I32}, "crop_size": {I32}})  # fmt: skip
def crop_and_resize(x, rois, batch_indices, crop_size, *, extrapolation_value=0.0, mode="bilinear"):
    """Boxes (y1, x1, y2, x2) of images x[N,C,H,W], sampled at crop_size points, corners included: [boxes, C, height, width].

    Box coordinates run from 0 at the first pixel to 1 at the last; points outside of the image give extrapolation_value.
    """
    height, width = (int(n) for n in crop_size)
    out = np.full((len(rois), x.shape[1], height, width), np.float32(extrapolation_value))
    for i, (box, image) in enumerate(zip(rois, batch_indices)):
        at_y, at_x = (_points(box[a], box[a + 2], n, size) for a, n, size in ((0, height, x.shape[2]), (1, width, x.shape[3])))
        rows, columns = (np.flatnonzero((p >= 0) & (p <= size - 1)) for p, size in ((at_y, x.shape[2]), (at_x, x.shape[3])))
        if len(rows) and len(columns):
            out[i][:, rows[:, None], columns] = _sampled(x[image], at_y[rows], at_x[columns], mode)
    return out


def _points(low: np.float32, high: np.float32, count: int, size: int) -> np.ndarray:
    """Where along an axis of `size` pixels the samples of a box lie; a single one lies in its middle."""
    last = np.float32(size - 1)
    if count == 1:
        return np.array([np.float32(0.5) * (low + high) * last])
    step = (high - low) * last / np.float32(count - 1)
    return low * last + np.arange(count, dtype=np.float32) * step


def _sampled(image: np.ndarray, y: np.ndarray, x: np.ndarray, mode: str) -> np.ndarray:
    if mode == "nearest":  # halves go up
        return image[:, np.floor(y + 0.5).astype(int)[:, None], np.floor(x + 0.5).astype(int)]
    (top, left), (bottom, right) = ([f(v).astype(int) for v in (y, x)] for f in (np.floor, np.ceil))
    down, along = (y - top).astype(np.float32)[:, None], (x - left).astype(np.float32)
    upper = image[:, top[:, None], left] + (image[:, top[:, None], right] - image[:, top[:, None], left]) * along
    lower = image[:, bottom[:, None], left] + (image[:, bottom[:, None], right] - image[:, bottom[:, None], left]) * along
    return upper + (lower - upper) * down
