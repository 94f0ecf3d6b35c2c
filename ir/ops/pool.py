"""Pooling over sliding windows, and over whole spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..limits import claim
from ..op import InferContext, Onnx, OnnxCall, ex, op
from ..symbols import dim_max
from ..types import FLOATS, I8, I64, U8, TensorType, dtype_of
from .common import drop_empty, expect_rank, expect_shape, wide
from .examples import rand
from .windows import Windows, infer_windows, make_windows


def infer_pool(c: InferContext) -> TensorType:
    x = c.shape(0)
    if x is None:
        return c.t(0)
    expect_rank(c, 0, at_least=3)
    if c.attrs.get("p", 1) < 1:
        raise c.error(f"p = {c.attr('p')}, expected at least 1")
    win = infer_windows(c, x[2:], c.attr("kernel_shape"), bool(c.attrs.get("ceil_mode")))
    return c.t(0).with_(shape=(*x[:2], *win.out))


def _pool_examples(**attrs: Any) -> list:
    x = rand(2, 3, 7, 6)
    return [
        ex(x, kernel_shape=(3, 2), name="plain"),
        ex(x, kernel_shape=(3, 3), strides=(2, 3), pads=(1, 0, 2, 1), name="pads", **attrs),
        ex(x, kernel_shape=(2, 3), strides=(3, 2), pads=(1, 1, 1, 1), ceil_mode=1, name="ceil_mode", **attrs),
        ex(x, kernel_shape=(3, 2), strides=(2, 2), auto_pad="SAME_UPPER", name="same_upper"),
        ex(x, kernel_shape=(2, 2), strides=(2, 1), auto_pad="SAME_LOWER", name="same_lower"),
        ex(x, kernel_shape=(2, 3), dilations=(2, 2), name="dilations"),
        ex(rand(1, 2, 9, dtype=np.float64), kernel_shape=(4,), strides=(2,), name="one_axis_f64"),
        ex(rand(1, 1, 4, 4, 4, dtype=np.float16), kernel_shape=(2, 2, 2), strides=(2, 2, 2), name="three_axes_f16"),
        ex(rand(0, 3, 7, 6), kernel_shape=(2, 2), name="empty_batch"),
    ]


# ---- max_pool ---------------------------------------------------------------------------------------------------


def infer_max_pool(c: InferContext) -> list[TensorType]:
    y = infer_pool(c)
    return [y, y.with_(dtype=I64)]


def _max_pool_examples() -> list:
    nan = rand(1, 1, 4, 4)
    nan[0, 0, 1, 1] = np.nan
    return [
        *_pool_examples(),
        ex(rand(2, 2, 5, 4), kernel_shape=(2, 2), strides=(1, 2), pads=(1, 1, 1, 0), results=2, name="indices"),
        ex(rand(2, 2, 5, 4), kernel_shape=(2, 2), storage_order=1, results=2, name="column_major"),
        ex(rand(1, 2, 5, 5, dtype=np.int8, lo=-100, hi=100), kernel_shape=(3, 3), pads=(1, 1, 1, 1), name="i8"),
        ex(rand(1, 2, 5, 5, dtype=np.uint8, hi=255), kernel_shape=(2, 2), strides=(2, 2), ceil_mode=1, name="u8"),
        ex(nan, kernel_shape=(2, 2), name="nan"),
        ex(np.full((1, 1, 3, 3), -np.inf, np.float32), kernel_shape=(2, 2), pads=(1, 1, 0, 0), results=2, name="all_inf"),
    ]


@op("max_pool", onnx=Onnx("MaxPool", export=drop_empty), infer=infer_max_pool, results=None, dtypes={"x": FLOATS | {I8, U8}},
    traits=("anchor",), examples=_max_pool_examples)  # fmt: skip
def max_pool(x, *, auto_pad="NOTSET", ceil_mode=0, dilations=(), kernel_shape, pads=(), storage_order=0, strides=()):
    """The maximum of each window of x[N,C,...] -> [N,C,out...], and where in x it lies, as an index into x flattened.

    NaN counts as the largest. With storage_order 1 the index counts the spatial axes column-major.
    """
    win = make_windows(x.shape[2:], kernel_shape, auto_pad=auto_pad, pads=pads, strides=strides, dilations=dilations,
                       ceil_mode=bool(ceil_mode))  # fmt: skip
    lowest = np.array(-np.inf if dtype_of(x).is_float else np.iinfo(x.dtype).min).astype(x.dtype)
    padded = win.padded(x, lowest)
    return win.reduce(np.maximum, padded), _max_indices(x.shape, win, padded, storage_order)


def _max_indices(shape: tuple[int, ...], win: Windows, padded: np.ndarray, storage_order: int) -> np.ndarray:
    n, c, *spatial = shape
    where = np.arange(math.prod(spatial)).reshape(spatial, order="F" if storage_order else "C")
    where = win.padded(where, -1)
    best, index = win.view(padded, (0,) * len(spatial)).copy(), np.full((n, c, *win.out), -1)
    for tap in win.taps():
        value, at = win.view(padded, tap), win.view(where, tap)
        # The first element wins over padding however low it is, and the first NaN over all.
        better = (at >= 0) & ((index < 0) | (~(value <= best) & (best == best)))
        best, index = np.where(better, value, best), np.where(better, at, index)
    return index + np.arange(n * c).reshape(n, c, *(1,) * len(spatial)) * math.prod(spatial)


# ---- average_pool, lp_pool --------------------------------------------------------------------------------------


def _average_examples() -> list:
    return [*_pool_examples(), *_pool_examples(count_include_pad=1)[1:3]]


@op("average_pool", onnx=Onnx("AveragePool", export=drop_empty), infer=infer_pool, dtypes={"x": FLOATS}, traits=("anchor",),
    examples=_average_examples)  # fmt: skip
def average_pool(x, *, auto_pad="NOTSET", ceil_mode=0, count_include_pad=0, dilations=(), kernel_shape, pads=(), strides=()):
    """The mean of each window of x[N,C,...] -> [N,C,out...].

    Padding counts as elements with count_include_pad; what ceil_mode adds behind the padding never counts.
    """
    win = make_windows(x.shape[2:], kernel_shape, auto_pad=auto_pad, pads=pads, strides=strides, dilations=dilations,
                       ceil_mode=bool(ceil_mode))  # fmt: skip
    ones = np.ones(x.shape[2:])
    if count_include_pad:
        claim(16 * math.prod(win.span))
        ones = np.pad(ones, list(zip(win.begin, win.end, strict=True)), constant_values=1)
        padded = np.pad(ones, [(0, max(0, n - have)) for n, have in zip(win.span, ones.shape, strict=True)])
    else:
        padded = win.padded(ones)
    total = win.reduce(np.add, win.padded(wide(x)))
    return (total / win.reduce(np.add, padded).astype(total.dtype)).astype(x.dtype)


def _integer_p(call: OnnxCall) -> None:
    """Opset 1 gave p as a float."""
    if "p" in call.attrs:
        call.attrs["p"] = int(call.attrs["p"])


def _lp(p: int, x: np.ndarray, total: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """total(|x|**p)**(1/p) in x's type."""
    return (total(np.abs(wide(x)) ** p) ** (1 / p)).astype(x.dtype)


def _lp_examples() -> list:
    return [*_pool_examples(), ex(rand(2, 3, 7, 6), kernel_shape=(3, 3), pads=(1, 1, 1, 1), p=3, name="p_3"),
            ex(rand(2, 3, 7, 6), kernel_shape=(2, 2), p=1, name="p_1")]  # fmt: skip


@op("lp_pool", onnx=Onnx("LpPool", before={2: _integer_p}, export=drop_empty), infer=infer_pool, dtypes={"x": FLOATS},
    examples=_lp_examples)  # fmt: skip
def lp_pool(x, *, auto_pad="NOTSET", ceil_mode=0, dilations=(), kernel_shape, p=2, pads=(), strides=()):
    """The p-norm of each window of x[N,C,...] -> [N,C,out...]; padding counts as zero."""
    win = make_windows(x.shape[2:], kernel_shape, auto_pad=auto_pad, pads=pads, strides=strides, dilations=dilations,
                       ceil_mode=bool(ceil_mode))  # fmt: skip
    return _lp(p, x, lambda powers: win.reduce(np.add, win.padded(powers)))


# ---- global pools -----------------------------------------------------------------------------------------------


def infer_global_pool(c: InferContext) -> TensorType:
    x = c.shape(0)
    if x is None:
        return c.t(0)
    expect_rank(c, 0, at_least=2)
    if c.attrs.get("p", 1) < 1:
        raise c.error(f"p = {c.attr('p')}, expected at least 1")
    return c.t(0).with_(shape=(*x[:2], *(1 for _ in x[2:])))


def _global_examples() -> list:
    x = rand(2, 3, 5, 4)
    return [ex(x), ex(rand(1, 2, 7, dtype=np.float64)), ex(rand(2, 3, 2, 2, 2, dtype=np.float16)), ex(x[:0])]


def _spatial(x: np.ndarray) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@op("global_average_pool", onnx="GlobalAveragePool", infer=infer_global_pool, dtypes={"x": FLOATS}, traits=("reduction",),
    examples=_global_examples)  # fmt: skip
def global_average_pool(x):
    """The mean over the spatial axes of x[N,C,...] -> [N,C,1...]."""
    return wide(x).mean(axis=_spatial(x), keepdims=True).astype(x.dtype)


@op("global_max_pool", onnx="GlobalMaxPool", infer=infer_global_pool, dtypes={"x": FLOATS}, traits=("reduction",),
    examples=_global_examples)  # fmt: skip
def global_max_pool(x):
    """The maximum over the spatial axes of x[N,C,...] -> [N,C,1...]."""
    return x.max(axis=_spatial(x), keepdims=True)


def _global_lp_examples() -> list:
    return [*_global_examples(), ex(rand(2, 3, 5, 4), p=3), ex(rand(2, 3, 5, 4), p=1)]


@op("global_lp_pool", onnx=Onnx("GlobalLpPool", before={2: _integer_p}), infer=infer_global_pool, dtypes={"x": FLOATS},
    traits=("reduction",), examples=_global_lp_examples)  # fmt: skip
def global_lp_pool(x, *, p=2):
    """The p-norm over the spatial axes of x[N,C,...] -> [N,C,1...]."""
    return _lp(p, x, lambda powers: powers.sum(axis=_spatial(x), keepdims=True))


# ---- max_unpool -------------------------------------------------------------------------------------------------


def infer_max_unpool(c: InferContext) -> TensorType:
    x = c.shape(0)
    if x is None:
        rank = (c.shape(2) or (None,))[0] if c.has(2) else None
        return c.t(0).with_(shape=tuple(c.symbol() for _ in range(rank)) if isinstance(rank, int) else None)
    expect_rank(c, 0, at_least=3)
    expect_shape(c, 1, x, "one index an element")
    expect_shape(c, 2, (len(x),), "one size an axis")
    if c.has(2):
        sizes = c.ints(2) or [None] * len(x)
        return c.t(0).with_(shape=tuple(c.symbol() if d is None else d for d in sizes))
    infer_windows(c, x[2:], c.attr("kernel_shape"))  # only the attributes' lengths count here
    return c.t(0).with_(shape=(*x[:2], *_unpooled(x[2:], c.attr("kernel_shape"), c.attr("pads"), c.attr("strides"))))


def _unpooled(spatial: tuple, kernel: tuple, pads: tuple, strides: tuple) -> tuple:
    n = len(spatial)
    strides, pads = strides or (1,) * n, pads or (0,) * (2 * n)
    axes = zip(spatial, strides, kernel, pads[:n], pads[n:], strict=True)
    return tuple(dim_max((d - 1) * s + k - b - e, 0) for d, s, k, b, e in axes)


def _unpool_examples() -> list:
    x, i = np.array([[[[1, 2], [3, 4]]]], np.float32), np.array([[[[5, 7], [13, 15]]]], np.int64)
    return [
        ex(x, i, kernel_shape=(2, 2), strides=(2, 2), name="plain"),
        ex(x, i, np.array([1, 1, 5, 5], np.int64), kernel_shape=(2, 2), strides=(2, 2), name="output_shape"),
        ex(rand(1, 2, 2, dtype=np.float16), np.array([[[0, 3], [5, 6]]], np.int64), kernel_shape=(2,), strides=(2,), name="f16"),
        ex(np.zeros((0, 1, 2, 2), np.float32), np.zeros((0, 1, 2, 2), np.int64), kernel_shape=(2, 2), strides=(2, 2), name="empty"),
    ]


@op("max_unpool", onnx=Onnx("MaxUnpool", since=9, export=drop_empty), infer=infer_max_unpool, examples=_unpool_examples,
    dtypes={"x": FLOATS, "indices": {I64}, "output_shape": {I64}})  # fmt: skip
def max_unpool(x, indices, output_shape=None, *, kernel_shape, pads=(), strides=()):
    """Puts x[N,C,...] where max_pool found it; everything else is zero.

    The indices count in the shape that the attributes imply. A larger output_shape is filled from its start on, as ONNX's
    test data has it.
    """
    natural = (*x.shape[:2], *_unpooled(x.shape[2:], kernel_shape, pads, strides))
    out = np.zeros(math.prod(natural), x.dtype)
    if indices.size and not 0 <= indices.min() <= indices.max() < out.size:
        raise ValueError(f"indices from {indices.min()} to {indices.max()}, expected 0 to {out.size - 1}")
    out[indices.ravel()] = x.ravel()
    out = out.reshape(natural)
    if output_shape is None:
        return out
    full = np.zeros(tuple(map(int, output_shape)), x.dtype)
    common = tuple(slice(0, min(a, b)) for a, b in zip(natural, full.shape, strict=True))
    full[common] = out[common]
    return full
