"""Reading and writing by index."""

from __future__ import annotations

import numpy as np

from ..op import InferContext, Onnx, ex, op
from ..symbols import DimLike
from ..types import BF16, I2, I64, NUMERIC, U2, TensorType
from .contents import (
    COMMON,
    INDEX,
    MOVABLE,
    agree,
    checked,
    choice,
    entry,
    follow,
    same_dtype,
    same_rank,
    symbols,
    tensor,
    want_rank,
)
from .examples import rand

REDUCTIONS = ("none", "add", "mul", "max", "min")


def _ints(*values: int, dtype: object = np.int64) -> np.ndarray:
    return np.array(values, dtype)  # type: ignore[call-overload]


# ---- gather


def _check_range(c: InferContext, size: DimLike, i: int = 1) -> None:
    """Raises InferenceError where a known index lies outside of an axis of known size."""
    index = c.data(i)
    if index is not None and index.dtype != object and index.size and isinstance(size, int):
        lo, hi = int(index.min()), int(index.max())
        if lo < -size or hi >= size:
            raise c.error(f"index {lo if lo < -size else hi} is out of range for {size} elements")


def _infer_gather(c: InferContext) -> TensorType:
    x, index = c.t(0), c.shape(1)
    if x.shape is None:
        return x
    if not x.shape:
        raise c.error("data is a scalar; expected rank >= 1")
    axis = c.axis(c.attr("axis"), len(x.shape))
    _check_range(c, x.shape[axis])
    return x.with_(shape=None if index is None else checked(c, x.shape[:axis] + index + x.shape[axis + 1 :]))


def _gather_dims(c: InferContext, data: np.ndarray) -> np.ndarray | None:
    index = c.data(1)
    if index is None or index.dtype == object:
        return None
    return np.asarray(np.take(data, index, c.attr("axis")), object)


def _gather_examples() -> list:
    x = rand(3, 4)
    return [
        ex(x, _ints(0, 2)),
        ex(x, np.array([[0, -1], [3, 1]], np.int32), axis=1),
        ex(x, np.int64(-1)),
        ex(x, _ints(), axis=-1),
        ex(_ints(5, 6, 7), np.int64(1)),
        ex(_ints(5, 6, 7), _ints(-1, 0)),
        ex(np.array(["a", "b"], object), _ints(1, 1)),
        ex(np.zeros((0, 3), bool), _ints(2), axis=1),
    ]


@op(
    "gather",
    onnx="Gather",
    infer=_infer_gather,
    dims=follow(_gather_dims),
    dtypes={"data": COMMON, "indices": INDEX},
    examples=_gather_examples,
)
def gather(data, indices, *, axis=0):
    """The slices of `data` along `axis` that `indices` (of any shape, negative ones from the end) name."""
    return np.take(data, indices, axis)


def _infer_gather_elements(c: InferContext) -> TensorType:
    rank = same_rank(c, 0, 1)
    if rank == 0:
        raise c.error("data is a scalar; expected rank >= 1")
    if rank is not None:
        axis = c.axis(c.attr("axis"), rank)
        if c.shape(0) is not None:
            _check_range(c, c.shape(0)[axis])  # type: ignore[index]
            _check_fits(c, axis)
    return c.t(0).with_(shape=c.shape(1) if c.shape(1) is not None else symbols(c, rank))


def _check_fits(c: InferContext, axis: int) -> None:
    """The other axes of `indices` may not be longer than those of `data`."""
    data, index = c.shape(0), c.shape(1)
    for i, (d, n) in enumerate(zip(data or (), index or ())):
        if i != axis and isinstance(d, int) and isinstance(n, int) and n > d:
            raise c.error(f"indices of the type {c.t(1)} reach beyond data of the type {c.t(0)} on axis {i}")


def _inside(data: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray:
    """The part of `data` that indices of this shape can reach: all of `axis`, the front of the others."""
    axis %= data.ndim
    return data[tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(shape))]


def _gather_elements_examples() -> list:
    x = rand(3, 4)
    index = np.array([[0, -1], [3, 1]], np.int64)
    return [
        ex(x, index, axis=1),
        ex(x, index[:, :1].astype(np.int32) - 1, axis=-1),
        ex(x, np.zeros((2, 4), np.int64)),
        ex(x, np.zeros((0, 4), np.int64)),
        ex(np.array(["a", "b"], object), _ints(1, 0, 1)),
    ]


@op(
    "gather_elements",
    onnx="GatherElements",
    infer=_infer_gather_elements,
    dtypes={"data": COMMON, "indices": INDEX},
    examples=_gather_elements_examples,
)
def gather_elements(data, indices, *, axis=0):
    """out[i, j, k] = data[indices[i, j, k], j, k] (for axis 0)."""
    return np.take_along_axis(_inside(data, indices.shape, axis), indices, axis)


def _infer_gather_nd(c: InferContext) -> TensorType:
    x, index, b = c.t(0), c.shape(1), c.attr("batch_dims")
    if index == ():
        raise c.error("indices is a scalar; expected rank >= 1")
    if x.shape is None or index is None or not isinstance(index[-1], int):
        return x.with_(shape=None)
    depth = index[-1]
    if not 0 <= b < len(index) or b > len(x.shape) or depth > len(x.shape) - b:
        raise c.error(f"indices of the type {c.t(1)} with batch_dims = {b} do not fit data of the type {x}")
    for i in range(b):
        agree(c, x.shape[i], index[i], f"batch axis {i}")
    return x.with_(shape=checked(c, index[:-1] + x.shape[b + depth :]))


def _gather_nd_examples() -> list:
    x = rand(2, 3, 4)
    return [
        ex(x, np.array([[0, 1], [1, -1]], np.int64)),
        ex(x, np.array([[[0, 1, 2]], [[1, 2, 3]]], np.int64)),
        ex(x, np.array([[1], [0]], np.int64), batch_dims=1),
        ex(x, np.array([[[0], [1]], [[2], [1]]], np.int64), batch_dims=1),
        ex(x, _ints(1)),
        ex(x, np.zeros((0, 2), np.int64)),
    ]


@op("gather_nd", onnx="GatherND", infer=_infer_gather_nd, dtypes={"data": COMMON, "indices": {I64}}, examples=_gather_nd_examples)
def gather_nd(data, indices, *, batch_dims=0):
    """The slices of `data` that the tuples in the last axis of `indices` name; the first `batch_dims` axes are shared."""
    lead = indices.shape[:-1]
    batch = [np.arange(n).reshape((-1,) + (1,) * (len(lead) - 1 - i)) for i, n in enumerate(lead[:batch_dims])]
    index = (*batch, *np.moveaxis(indices, -1, 0))
    return data[index] if index else np.broadcast_to(data, lead + data.shape)


# ---- scatter


def _write(out: np.ndarray, index: tuple, updates: np.ndarray, reduction: str) -> None:
    """out[index] = updates, or combined with them; of equal indices the last one wins."""
    if reduction == "none":
        out[index] = updates
        return
    fn: np.ufunc = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
    fn.at(out, index, updates)


def _infer_scatter_elements(c: InferContext) -> TensorType:
    choice(c, "reduction", REDUCTIONS)
    same_dtype(c, 0, 2)
    rank = same_rank(c, 0, 1, 2)
    if rank == 0:
        raise c.error("data is a scalar; expected rank >= 1")
    index, updates = c.shape(1), c.shape(2)
    if index is not None and updates is not None:
        for i in range(len(index)):
            agree(c, index[i], updates[i], f"axis {i} of indices and updates")
    if rank is not None:
        axis = c.axis(c.attr("axis"), rank)
        if c.shape(0) is not None:
            _check_range(c, c.shape(0)[axis])  # type: ignore[index]
            _check_fits(c, axis)
    return c.t(0).with_(shape=c.shape(0) if c.shape(0) is not None else symbols(c, rank))


def _scatter_elements_examples() -> list:
    x, u = rand(3, 3), np.array([[1, 1.5], [2, 2.5]], np.float32)
    index = np.array([[1, 0], [0, -1]], np.int64)
    again = np.array([[1, 1], [0, 0]], np.int32)
    cases = [
        ex(x, index, u),
        ex(x, index, u, axis=1),
        ex(x, again, u, axis=-1, reduction="add"),
        ex(x, again, u, axis=1, reduction="mul"),
        ex(x, again, u, axis=1, reduction="max"),
        ex(x, again, u, axis=1, reduction="min"),
        ex(x, np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32)),
        ex(np.array(["a", "b"], object), _ints(1), np.array(["z"], object)),
    ]
    return cases


@op(
    "scatter_elements",
    onnx=[Onnx("ScatterElements", since=11), Onnx("Scatter", since=9)],
    infer=_infer_scatter_elements,
    dtypes={"data": COMMON, "indices": INDEX, "updates": COMMON},
    examples=_scatter_elements_examples,
)
def scatter_elements(data, indices, updates, *, axis=0, reduction="none"):
    """`data` with data[indices[i, j, k], j, k] = updates[i, j, k] (for axis 0) written, or combined by `reduction`."""
    out = data.copy()
    axis %= data.ndim
    grid = [np.arange(n).reshape((-1,) + (1,) * (data.ndim - 1 - i)) for i, n in enumerate(indices.shape)]
    grid[axis] = indices
    _write(out, tuple(grid), updates, reduction)
    return out


def _infer_scatter_nd(c: InferContext) -> TensorType:
    choice(c, "reduction", REDUCTIONS)
    same_dtype(c, 0, 2)
    x, index, updates = c.t(0), c.shape(1), c.shape(2)
    if index == ():
        raise c.error("indices is a scalar; expected rank >= 1")
    if x.shape is not None and index is not None and isinstance(index[-1], int):
        if index[-1] > len(x.shape):
            raise c.error(f"indices of the type {c.t(1)} do not fit data of the type {x}")
        want = index[:-1] + x.shape[index[-1] :]
        if updates is not None and len(updates) != len(want):
            raise c.error(f"updates have the type {c.t(2)}; expected the shape {list(want)}")
        for i, (a, b) in enumerate(zip(want, updates or ())):
            agree(c, a, b, f"axis {i} of updates")
    return x


def _scatter_nd_examples() -> list:
    x, index = rand(4, 3), np.array([[1], [3], [1]], np.int64)
    u = rand(3, 3, seed=1)
    pairs = np.array([[0, 1], [-1, 2]], np.int64)
    return [
        ex(x, index[:2], u[:2]),
        ex(x, pairs, np.array([5, 6], np.float32)),
        *(ex(x, index, u, reduction=r) for r in REDUCTIONS[1:]),
        ex(x, np.zeros((0, 1), np.int64), np.zeros((0, 3), np.float32)),
        ex(np.arange(4, dtype=np.int32), index, np.array([7, 8, 9], np.int32), reduction="add"),
    ]


@op(
    "scatter_nd",
    onnx="ScatterND",
    infer=_infer_scatter_nd,
    dtypes={"data": COMMON, "indices": {I64}, "updates": COMMON},
    examples=_scatter_nd_examples,
)
def scatter_nd(data, indices, updates, *, reduction="none"):
    """`data` with `updates` written to the slices that the tuples in the last axis of `indices` name, or combined with them."""
    out = data.copy()
    index = tuple(np.moveaxis(indices, -1, 0))
    if updates.shape != indices.shape[:-1] + data.shape[len(index) :]:
        raise ValueError(f"updates have the shape {updates.shape}; expected {indices.shape[:-1] + data.shape[len(index) :]}")
    _write(out, index, updates, reduction)
    return out


def _infer_tensor_scatter(c: InferContext) -> TensorType:
    mode = choice(c, "mode", ("linear", "circular"))
    same_dtype(c, 0, 1)
    rank = same_rank(c, 0, 1)
    if rank is None or c.shape(0) is None:
        return c.t(0)
    axis = c.axis(c.attr("axis"), rank)
    if rank < 2 or axis == 0:
        raise c.error(f"axis {c.attr('axis')} of {c.t(0)} is the batch axis; expected another one")
    for i, (a, b) in enumerate(zip(c.shape(0) or (), c.shape(1) or ())):
        if i != axis:
            agree(c, a, b, f"axis {i} of past_cache and update")
        elif mode == "linear" and isinstance(a, int) and isinstance(b, int) and b > a:
            raise c.error(f"an update of {b} steps does not fit a cache of {a}")
    if c.has(2):
        want_rank(c, 2, 1)
    return c.t(0)


def _tensor_scatter_examples() -> list:
    past, new = rand(2, 3, 5, 2), rand(2, 3, 2, 2, seed=1)
    return [
        ex(past, new),
        ex(past, new, _ints(1, 3)),
        ex(past, new, _ints(4, 9), mode="circular"),
        ex(rand(2, 4), rand(2, 1, seed=1), _ints(3, 0), axis=1),
        ex(past, rand(2, 3, 0, 2), _ints(0, 5)),
    ]


@op(
    "tensor_scatter",
    onnx=Onnx("TensorScatter", since=24),
    infer=_infer_tensor_scatter,
    examples=_tensor_scatter_examples,
    dtypes={"past_cache": MOVABLE - {I2, U2}, "update": MOVABLE - {I2, U2}, "write_indices": {I64}},
)
def tensor_scatter(past_cache, update, write_indices=None, *, axis=-2, mode="linear"):
    """The cache with `update` written along `axis` from `write_indices[batch]` on; circular mode wraps around its end."""
    size, steps = past_cache.shape[axis], update.shape[axis]
    start = np.zeros(past_cache.shape[0], np.int64) if write_indices is None else write_indices
    at = start[:, None] + np.arange(steps)
    if mode == "circular":
        at %= max(size, 1)
    elif np.any(start < 0) or np.any(start + steps > size):
        raise ValueError(f"{steps} steps from {start.tolist()} on do not fit a cache of {size}")
    out = past_cache.copy()
    np.moveaxis(out, axis, 1)[np.arange(len(at))[:, None], at] = np.moveaxis(update, axis, 1)
    return out


# ---- one-hot

REAL = frozenset(d for d in NUMERIC if d is not BF16)


def _infer_one_hot(c: InferContext) -> TensorType:
    want_rank(c, 1, 0, 1)
    want_rank(c, 2, 1)
    shape, depth = c.shape(0), entry(c, 1)
    if shape is None:
        return c.t(2).with_(shape=None)
    at = c.axis(c.attr("axis"), len(shape) + 1)
    return tensor(c, (*shape[:at], c.symbol() if depth is None else depth, *shape[at:]), c.t(2).dtype)


def _one_hot_examples() -> list:
    off_on, index = np.array([2, 5], np.int32), _ints(1, -1, 7, -9)
    return [
        ex(index, np.int64(4), off_on),
        ex(index, _ints(4), off_on.astype(np.float32), axis=0),
        ex(index.reshape(2, 2), np.float32(3), np.array([False, True]), axis=1),
        ex(np.array([0, 2], np.uint8), np.int64(3), off_on, axis=-2),
        ex(np.int64(1), np.int64(3), off_on),
        ex(_ints(), np.int64(3), off_on),
        ex(np.array([1.0, 2.0], np.float32), np.int32(3), np.array(["", "x"], object)),
    ]


@op(
    "one_hot",
    onnx=Onnx("OneHot", since=9),
    infer=_infer_one_hot,
    dtypes={"indices": REAL, "depth": REAL, "values": COMMON},
    examples=_one_hot_examples,
)
def one_hot(indices, depth, values, *, axis=-1):
    """values[1] where the place along the new axis is the index (negative ones from the end), values[0] elsewhere."""
    n = int(depth.item())
    at = np.where(np.isfinite(indices), indices, n).astype(np.int64) if indices.dtype.kind == "f" else indices.astype(np.int64)
    at = np.where(at < 0, at + n, at)
    axis %= indices.ndim + 1
    hot = np.expand_dims(at, axis) == np.arange(n).reshape((n,) + (1,) * (indices.ndim - axis))
    return np.where(hot, values[1], values[0]).astype(values.dtype)
