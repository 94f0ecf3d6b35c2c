"""Convolution: the reference that other operators call as well, and the checks of its operands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..op import InferContext, Onnx, ex, op
from ..symbols import DimLike, prove_ne
from ..types import FLOATS, TensorType, dtype_of
from .common import drop_empty, expect_shape, same_dtype, wide
from .examples import rand
from .windows import Windows, infer_windows, make_windows

COLUMN_BYTES = 64 << 20  # what one block of im2col columns may take


# ---- conv -------------------------------------------------------------------------------------------------------


def conv_reference(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, *, auto_pad: str = "NOTSET",
                   dilations: Sequence[int] = (), group: int = 1, kernel_shape: Sequence[int] = (), pads: Sequence[int] = (),
                   strides: Sequence[int] = ()) -> np.ndarray:  # fmt: skip
    """x[N,C,spatial...] convolved with w[M,C/group,kernel...] (+ b[M]) -> [N,M,out...], by im2col and matmul.

    Floats give x's type, f16 and bf16 summed in f32. Integers are exact: i32 from types below 32 bits, else the common type of x
    and w, wrapping. Raises ValueError where the shapes do not fit.
    """
    check_weight(x.shape, w.shape, group, kernel_shape)
    win = make_windows(x.shape[2:], w.shape[2:], auto_pad=auto_pad, pads=pads, strides=strides, dilations=dilations)
    x, w, result = _computing(x, w)
    return finished(grouped(win.padded(x), w, group, win), b, result)


def check_weight(x: Sequence[DimLike], w: Sequence[DimLike], group: int, kernel_shape: Sequence[int]) -> None:
    if group < 1:
        raise ValueError(f"group = {group}, expected at least 1")
    if len(x) < 3 or len(w) != len(x):
        raise ValueError(f"ranks {len(x)} and {len(w)} of X and W, expected the same rank of at least 3")
    if prove_ne(x[1], w[1] * group):
        raise ValueError(f"X has {x[1]} channels, expected {w[1]} (W's second dimension) * {group} (group)")
    if isinstance(w[0], int) and w[0] % group:
        raise ValueError(f"W has {w[0]} output channels, expected a multiple of group = {group}")
    if kernel_shape and (len(kernel_shape) != len(w) - 2 or any(prove_ne(a, b) for a, b in zip(kernel_shape, w[2:], strict=True))):
        raise ValueError(f"kernel_shape = {list(kernel_shape)}, expected {[str(d) for d in w[2:]]} as in W")


def _computing(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.dtype]:
    """x and w in the type that products are summed in, and the type of the result."""
    if dtype_of(x).is_float:
        return wide(x), wide(w), x.dtype
    common = np.result_type(x, w)
    result = np.dtype(np.int32) if common.itemsize < 4 else common
    # Floating point matmul has BLAS, and is exact as long as no partial sum passes the mantissa.
    bound = math.prod(w.shape[1:]) * _magnitude(x) * _magnitude(w)
    exact = np.float32 if bound < 1 << 24 else np.float64 if bound < 1 << 53 else np.result_type(common, np.int64)
    return x.astype(exact), w.astype(exact), result


def _magnitude(x: np.ndarray) -> int:
    return max(abs(int(x.min())), abs(int(x.max()))) if x.size else 0


def finished(y: np.ndarray, b: np.ndarray | None, result: np.dtype) -> np.ndarray:
    """y[N,M,...] + b[M], in the result's type."""
    if result.kind in "iu":
        y = y.astype(np.result_type(result, np.int64))
    if b is not None:
        y = y + b.astype(y.dtype).reshape((-1,) + (1,) * (y.ndim - 2))
    return y.astype(result, copy=False)


def grouped(padded: np.ndarray, w: np.ndarray, group: int, win: Windows) -> np.ndarray:
    """Windows of padded[N,C,...] times w[M,C/group,...] -> [N,M,out...], in blocks of at most COLUMN_BYTES."""
    n, m, (rows, *rest) = padded.shape[0], w.shape[0], win.out
    y = np.empty((n, m, *win.out), padded.dtype)
    kernel = w.reshape(group, m // group, math.prod(w.shape[1:]))
    row_bytes = padded.shape[1] * math.prod(win.kernel) * math.prod(rest) * padded.itemsize
    step = max(1, COLUMN_BYTES // max(row_bytes, 1))
    for i in range(n):
        for first in range(0, rows, step):
            count = min(step, rows - first)
            cols = win.columns(padded[i], first, count).reshape(group, kernel.shape[2], count * math.prod(rest))
            y[i, :, first : first + count] = np.matmul(kernel, cols).reshape(m, count, *rest)
    return y


def infer_conv(c: InferContext) -> TensorType:
    same_dtype(c, 0, 1, 2)
    spatial_kernel = kernel_of(c)
    x, w = c.shape(0), c.shape(1)
    if x is None or spatial_kernel is None:
        return c.t(0).with_(shape=None)
    if w is not None:
        try:
            check_weight(x, w, c.attr("group"), c.attr("kernel_shape"))
        except ValueError as e:
            raise c.error(str(e)) from None
    channels = w[0] if w is not None else c.symbol()
    expect_shape(c, 2, (channels,), "one number an output channel")
    return c.t(0).with_(shape=(x[0], channels, *infer_windows(c, x[2:], spatial_kernel).out))


def kernel_of(c: InferContext) -> Sequence[DimLike] | None:
    """The spatial sizes of the weight, from W or from kernel_shape."""
    w = c.shape(1)
    return w[2:] if w is not None else c.attr("kernel_shape") or None


def _conv_examples() -> list:
    x, w = rand(2, 4, 7, 6), rand(6, 4, 3, 2)
    return [
        ex(x, w, rand(6), pads=(1, 0, 1, 1), name="pads"),
        ex(x, rand(6, 2, 3, 3), group=2, strides=(2, 1), auto_pad="SAME_UPPER", name="same_upper"),
        ex(x, w, auto_pad="SAME_LOWER", strides=(3, 2), name="same_lower"),
        ex(x, w, auto_pad="VALID", dilations=(2, 3), kernel_shape=(3, 2), name="dilated"),
        ex(x, rand(4, 1, 3, 3), group=4, pads=(1, 1, 1, 1), name="depthwise"),
        ex(rand(1, 3, 9), rand(2, 3, 4), strides=(2,), name="one_axis"),
        ex(rand(1, 2, 4, 5, 3), rand(3, 2, 2, 2, 2), rand(3), name="three_axes"),
        ex(rand(0, 4, 7, 6), w, rand(6), name="empty_batch"),
        ex(rand(1, 2, 5, 5, dtype=np.float16), rand(3, 2, 3, 3, dtype=np.float16), name="f16"),
        ex(rand(1, 2, 5, 5, dtype=np.float64), rand(3, 2, 3, 3, dtype=np.float64), name="f64"),
    ]


conv = op("conv", onnx=Onnx("Conv", export=drop_empty), infer=infer_conv, dtypes=dict.fromkeys("xwb", FLOATS),
          traits=("anchor",), examples=_conv_examples)(conv_reference)  # fmt: skip
