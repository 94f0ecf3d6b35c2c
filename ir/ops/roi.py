"""Pooling over regions of interest."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..limits import claim, tick
from ..op import InferContext, Onnx, OnnxCall, ex, op
from ..symbols import DimLike
from ..types import FLOATS, I64, TensorType
from .common import expect_choice, expect_shape, same_dtype, wide
from .examples import rand


def _infer_rois(c: InferContext, columns: int, height: int, width: int) -> TensorType:
    same_dtype(c, 0, 1)
    x = expect_shape(c, 0, (None,) * 4, "N, C, H, W")
    rois = expect_shape(c, 1, (None, columns), f"one region of {columns} numbers a row")
    count: DimLike = c.symbol() if rois is None else rois[0]
    expect_shape(c, 2, (count,), "one image index a region")
    return c.t(0).with_(shape=(count, c.symbol() if x is None else x[1], height, width))


def _check_images(index: np.ndarray, count: int) -> None:
    if index.size and not 0 <= index.min() <= index.max() < count:
        raise ValueError(f"regions of the images {index.min()} to {index.max()}, expected 0 to {count - 1}")


# ---- max_roi_pool -----------------------------------------------------------------------------------------------


def infer_max_roi_pool(c: InferContext) -> TensorType:
    shape = c.attr("pooled_shape")
    if len(shape) != 2:
        raise c.error(f"pooled_shape = {list(shape)}, expected height and width")
    return _infer_rois(c, 5, *shape)


def _max_roi_examples() -> list:
    x = rand(2, 2, 6, 8)
    rois = np.array([[0, 0, 0, 7, 5], [1, 1.6, 2, 4.4, 3], [1, 6, 4, 12, 12], [0, 3, 3, 1, 1]], np.float32)
    return [
        ex(x, rois, pooled_shape=(2, 3), name="plain"),
        ex(x, rois * np.array([1, 2, 2, 2, 2], np.float32), pooled_shape=(1, 1), spatial_scale=0.5, name="scale"),
        ex(x.astype(np.float64), rois.astype(np.float64), pooled_shape=(2, 2), name="f64"),
        ex(x, rois[:0], pooled_shape=(2, 3), name="no_regions"),
    ]


@op("max_roi_pool", onnx="MaxRoiPool", infer=infer_max_roi_pool, dtypes={"x": FLOATS, "rois": FLOATS}, examples=_max_roi_examples)
def max_roi_pool(x, rois, *, pooled_shape, spatial_scale=1.0):
    """The maximum of x[N,C,H,W] in each cell of each region [image, x1, y1, x2, y2] -> [regions, C, pooled_shape].

    Corners are rounded (half away from zero) and inclusive, a cell without pixels is zero: the RoI pooling of Fast R-CNN
    (Girshick 2015), which ONNX's text leaves to the reader.
    """
    out = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
    _check_images(rois[:, 0], len(x))
    for r, (image, *corners) in enumerate(wide(rois)):
        x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in corners)
        rows = _cells(y1, y2, pooled_shape[0], x.shape[2])
        cols = _cells(x1, x2, pooled_shape[1], x.shape[3])
        for i, h in enumerate(rows):
            tick()
            for j, w in enumerate(cols):
                cell = x[int(image), :, h, w]
                if cell.size:
                    out[r, :, i, j] = cell.max(axis=(1, 2))
    return out


def _cells(lo: int, hi: int, count: int, size: int) -> list[slice]:
    """The pixels lo..hi cut into `count` overlapping cells, those outside of 0..size-1 left out."""
    step = max(hi - lo + 1, 1) / count
    edges = ((math.floor(i * step) + lo, math.ceil((i + 1) * step) + lo) for i in range(count))
    return [slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in edges]


BLOCK_BYTES = 32 << 20  # what the samples of one block of channels may take


# ---- roi_align --------------------------------------------------------------------------------------------------


def infer_roi_align(c: InferContext) -> TensorType:
    expect_choice(c, "coordinate_transformation_mode", "half_pixel", "output_half_pixel")
    expect_choice(c, "mode", "avg", "max")
    return _infer_rois(c, 4, c.attr("output_height"), c.attr("output_width"))


def _no_half_pixel(call: OnnxCall) -> None:
    """Before opset 16 regions were not moved by half a pixel."""
    call.attrs.setdefault("coordinate_transformation_mode", "output_half_pixel")


def _roi_align_examples() -> list:
    x, which = rand(2, 2, 6, 8), np.array([0, 1, 1], np.int64)
    rois = np.array([[0, 0, 7, 5], [1.3, 2, 4.2, 3], [-3, 4, 9.5, 12]], np.float32)
    return [
        ex(x, rois, which, output_height=2, output_width=3, sampling_ratio=2, name="ratio_2"),
        ex(x, rois, which, output_height=3, output_width=2, name="adaptive"),
        ex(x, rois, which, output_height=2, output_width=2, coordinate_transformation_mode="output_half_pixel", name="unmoved"),
        ex(x, rois * 2, which, output_height=2, output_width=2, spatial_scale=0.5, sampling_ratio=3, name="scale"),
        ex(x, rois, which, output_height=2, output_width=3, sampling_ratio=2, mode="max", name="max"),
        ex(x, rois[:0], which[:0], output_height=2, output_width=3, name="no_regions"),
        ex(x.astype(np.float64), rois.astype(np.float64), which, output_height=2, output_width=2, name="f64"),
    ]


@op("roi_align", onnx=Onnx("RoiAlign", since=10, before={16: _no_half_pixel}), infer=infer_roi_align,
    dtypes={"x": FLOATS, "rois": FLOATS, "batch_indices": {I64}}, examples=_roi_align_examples)  # fmt: skip
def roi_align(x, rois, batch_indices, *, coordinate_transformation_mode="half_pixel", mode="avg", output_height=1, output_width=1,
              sampling_ratio=0, spatial_scale=1.0):  # fmt: skip
    """Samples x[N,C,H,W] linearly in each region [x1, y1, x2, y2] and pools each of its cells -> [regions, C, height, width].

    Mask R-CNN's RoIAlign (He et al. 2017). Mode max takes the largest *weighted neighbour* of all samples, not the largest
    sample: so do ONNX's test data.
    """
    half_pixel = coordinate_transformation_mode == "half_pixel"
    _check_images(batch_indices, len(x))
    out = np.zeros((len(rois), x.shape[1], output_height, output_width), x.dtype)
    xw, regions = wide(x), wide(rois) * wide(rois).dtype.type(spatial_scale) - (0.5 if half_pixel else 0)
    for r, (x1, y1, x2, y2) in enumerate(regions):
        tick()
        ys = _samples(y1, y2, output_height, sampling_ratio, half_pixel)
        xs = _samples(x1, x2, output_width, sampling_ratio, half_pixel)
        if not ys.size or not xs.size:
            continue  # a region turned inside out has no samples
        image, each = xw[int(batch_indices[r])], 8 * xw.itemsize * ys.size * xs.size
        claim(each)
        step = max(1, BLOCK_BYTES // each)  # channels at a time
        for c in range(0, len(image), step):
            parts = _weighted_neighbours(image[c : c + step], ys.ravel(), xs.ravel())
            parts = parts.reshape(4, -1, *ys.shape, *xs.shape)
            out[r, c : c + step] = parts.max(axis=(0, 3, 5)) if mode == "max" else parts.sum(axis=0).mean(axis=(2, 4))
    return out


def _samples(lo: float, hi: float, cells: int, ratio: int, half_pixel: bool) -> np.ndarray:
    """The sample positions along one axis of a region: [cells, samples a cell]."""
    length = hi - lo if half_pixel else max(hi - lo, 1)
    n = ratio if ratio > 0 else max(math.ceil(length / cells), 0)
    claim(8 * n * cells)
    return lo + (np.arange(cells)[:, None] + (np.arange(n) + 0.5) / max(n, 1)) * (length / cells)


def _weighted_neighbours(image: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """The four neighbours of each position (ys x xs) times their linear weights: [4, C, ys, xs].

    Positions up to one pixel outside are moved to the edge, those further out give zero.
    """
    (y0, y1, fy, iny), (x0, x1, fx, inx) = (_neighbours(p, n) for p, n in ((ys, image.shape[1]), (xs, image.shape[2])))
    inside = iny[:, None] & inx
    corners = itertools.product(((y0, 1 - fy), (y1, fy)), ((x0, 1 - fx), (x1, fx)))
    return np.stack([
        image[:, a[:, None], b] * np.where(inside, wa[:, None] * wb, 0).astype(image.dtype) for (a, wa), (b, wb) in corners
    ])  # fmt: skip


def _neighbours(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    inside = (at >= -1) & (at <= size)
    at = np.clip(np.where(inside, at, 0), 0, size - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), at - low, inside
