"""Larger tensors from smaller ones, and tensors made from nothing but a shape."""

from __future__ import annotations

import math

import numpy as np

from ..op import InferContext, Onnx, OnnxCall, dtype_attrs, ex, op
from ..symbols import DimLike, broadcast, ceildiv, dim_max
from ..types import BF16, BOOL, F16, F32, F64, FLOATS, I16, I32, I64, NUMERIC, DType, TensorType, dtype_of
from .contents import (
    COMMON,
    INDEX,
    MAX_CONTENTS,
    checked,
    contents,
    entry,
    follow,
    known_ints,
    length,
    product,
    same_dtype,
    symbols,
    tensor,
    want_rank,
)
from .examples import rand


def _ints(*values: int, dtype: object = np.int64) -> np.ndarray:
    return np.array(values, dtype)  # type: ignore[call-overload]


# ---- larger tensors from smaller ones


def _infer_expand(c: InferContext) -> TensorType:
    x, target = c.t(0), c.ints(1)
    count = length(c, 1) if target is None else len(target)
    if x.shape is None or not isinstance(count, int):
        return x.with_(shape=None)
    target = [None] * count if target is None else target
    if any(isinstance(t, int) and t < 0 for t in target):
        raise c.error(f"shape is {target}; no size may be negative")
    rank = max(len(x.shape), len(target))
    have = (1,) * (rank - len(x.shape)) + x.shape
    want = [1] * (rank - len(target)) + target
    return x.with_(shape=checked(c, (_expanded(c, a, b) for a, b in zip(have, want))))


def _expanded(c: InferContext, a: DimLike, b: DimLike | None) -> DimLike:
    if b is None:
        return a if isinstance(a, int) and a != 1 else c.symbol()
    try:
        return broadcast(a, b)
    except ValueError as e:
        raise c.error(str(e)) from None


def _expand_dims(c: InferContext, data: np.ndarray) -> np.ndarray | None:
    return _filled(_infer_expand(c), lambda shape: np.broadcast_to(data, shape))


def _filled(t: TensorType, make) -> np.ndarray | None:
    """`make(shape)` where the shape is constant and small enough to follow."""
    return make(t.shape) if t.is_static and t.size <= MAX_CONTENTS else None  # type: ignore[operator]


@op(
    "expand",
    onnx="Expand",
    infer=_infer_expand,
    dims=follow(_expand_dims),
    dtypes={"input": COMMON, "shape": {I64}},
    examples=lambda: [
        ex(rand(3, 1), _ints(2, 1, 6)),
        ex(rand(3, 1), _ints(3, 4)),
        ex(rand(2, 3), _ints(1)),
        ex(np.float32(2), _ints(2, 2)),
        ex(rand(1, 3), _ints(0, 3)),
        ex(rand(2), _ints()),
        ex(np.array([["a"]], object), _ints(1, 2)),
    ],
)
def expand(input, shape):
    """`input` broadcast with `shape`, in both directions."""
    return np.array(np.broadcast_to(input, np.broadcast_shapes(input.shape, tuple(shape.tolist()))))


def _tile_1(call: OnnxCall) -> None:
    """Before opset 6: `tiles` copies along one `axis`."""
    rank = call.rank(call.inputs[0])
    tiles, axis = (None if v is None else call.array(v) for v in [*call.inputs, None][1:3])
    if rank is None or tiles is None or axis is None:
        raise ValueError("tiles and axis must be constants and the rank known; expected opset >= 6")
    repeats = np.ones(rank, np.int64)
    repeats[int(axis.item())] = int(tiles.item())
    call.inputs[1:] = [call.const(repeats)]


def _infer_tile(c: InferContext) -> TensorType:
    x, repeats = c.t(0), c.ints(1)
    count = length(c, 1) if repeats is None else len(repeats)
    if x.shape is None:
        return x.with_(shape=symbols(c, count))
    if isinstance(count, int) and count != len(x.shape):
        raise c.error(f"repeats has {count} entries for an input of rank {len(x.shape)}; expected as many")
    repeats = [None] * len(x.shape) if repeats is None else repeats
    if any(isinstance(r, int) and r < 0 for r in repeats):
        raise c.error(f"repeats are {repeats}; none may be negative")
    return x.with_(shape=checked(c, (c.symbol() if r is None else product(c, (d, r)) for d, r in zip(x.shape, repeats))))


def _tile_dims(c: InferContext, data: np.ndarray) -> np.ndarray | None:
    return _filled(_infer_tile(c), lambda shape: np.tile(data, known_ints(c, 1) or ()))


@op(
    "tile",
    onnx=Onnx("Tile", before={6: _tile_1}),
    infer=_infer_tile,
    dims=follow(_tile_dims),
    dtypes={"input": COMMON, "repeats": {I64}},
    examples=lambda: [
        ex(rand(2, 3), _ints(2, 2)),
        ex(rand(2, 3), _ints(1, 1)),
        ex(rand(2, 3), _ints(0, 2)),
        ex(np.float32(3), _ints()),
        ex(np.array(["a", "b"], object), _ints(2)),
        ex(np.zeros((0, 2), np.int32), _ints(3, 2)),
    ],
)
def tile(input, repeats):
    """`input` repeated along each axis."""
    if len(repeats) != input.ndim or np.any(repeats < 0):
        raise ValueError(f"repeats {repeats.tolist()} do not fit an input of rank {input.ndim}")
    return np.tile(input, repeats.tolist())


def _infer_range(c: InferContext) -> TensorType:
    dtype = same_dtype(c, 0, 1, 2)
    for i in range(3):
        want_rank(c, i, 0, 1)
    return TensorType(dtype, (_range_size(c, dtype),))


def _range_size(c: InferContext, dtype: DType) -> DimLike:
    if dtype.is_float:
        values = [c.data(i) for i in range(3)]
        if any(v is None or v.dtype == object for v in values):
            return c.symbol()
        try:
            return range_length(*(np.asarray(v).reshape(()) for v in values))
        except ValueError as e:
            raise c.error(str(e)) from None
    start, limit, delta = (entry(c, i) for i in range(3))
    if delta == 0:
        raise c.error("delta is 0; expected a step that leads somewhere")
    if start is None or limit is None or not isinstance(delta, int):
        return c.symbol()
    return dim_max(ceildiv(limit - start, delta) if delta > 0 else ceildiv(start - limit, -delta), 0)


def range_length(start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> int:
    """ceil((limit - start) / delta), at least 0. Raises ValueError for a delta of zero and for what is not finite."""
    if delta == 0:
        raise ValueError("delta is 0; expected a step that leads somewhere")
    if start.dtype.kind in "iu":
        a, b, d = int(start), int(limit), int(delta)
        return max(-((a - b) // d), 0)
    wide = np.float32 if start.dtype.itemsize == 2 else start.dtype  # the spec's stash_type
    with np.errstate(all="ignore"):
        steps = float(limit.astype(wide) - start.astype(wide)) / float(delta.astype(wide))
    if not math.isfinite(steps):
        raise ValueError(f"start {start}, limit {limit} and delta {delta} do not give a finite length")
    return max(math.ceil(steps), 0)


def _range_dims(c: InferContext) -> np.ndarray | None:
    parts = [contents(c, i) for i in range(3)]
    if any(p is None or p.size != 1 or p.item() is None for p in parts):
        return None
    start, _, delta = (p.item() for p in parts)  # type: ignore[union-attr]
    (n,) = _infer_range(c).shape  # type: ignore[misc]
    return (
        np.array([start + i * delta for i in range(n)] + [None], object)[:-1] if isinstance(n, int) and n <= MAX_CONTENTS else None
    )


def _range_examples() -> list:
    def case(dtype, *v: float):
        return ex(*(np.asarray(x, dtype) for x in v))

    return [
        case(np.int64, 3, 9, 3),
        case(np.int32, 10, 4, -2),
        case(np.int16, 1, 1, 1),
        case(np.int64, 5, 2, 1),
        case(np.float32, 0, 1, 0.25),
        case(np.float64, 1, -1, -0.5),
        case(np.float32, 2, 8.5, 2),
    ]


@op(
    "range",
    onnx="Range",
    infer=_infer_range,
    dims=_range_dims,
    examples=_range_examples,
    dtypes=dict.fromkeys(("start", "limit", "delta"), FLOATS | {I16, I32, I64}),
)
def range_(start, limit, delta, *, stash_type=1):
    """start + i * delta for i in [0, ceil((limit - start) / delta)). f16 and bf16 are computed in f32."""
    start, limit, delta = (np.asarray(v).reshape(()) for v in (start, limit, delta))
    dtype = start.dtype
    wide = np.dtype(np.float32) if dtype_of(dtype) in (F16, BF16) and stash_type == 1 else dtype
    steps = np.arange(range_length(start, limit, delta)).astype(wide)
    return (start.astype(wide) + steps * delta.astype(wide)).astype(dtype)


# ---- tensors made from a shape

ZERO = np.zeros(1, np.float32)


def _infer_constant_of_shape(c: InferContext) -> TensorType:
    value, target = np.asarray(c.attr("value")), c.ints(0)
    if value.size != 1:
        raise c.error(f"value has {value.size} elements, expected one")
    if target is None:
        return TensorType(dtype_of(value), symbols(c, length(c, 0)))
    return tensor(c, (c.symbol() if t is None else t for t in target), dtype_of(value))


def _constant_dims(c: InferContext) -> np.ndarray | None:
    value = np.asarray(c.attr("value"))
    if dtype_of(value) not in INDEX:
        return None
    return _filled(_infer_constant_of_shape(c), lambda shape: np.full(shape, int(value.item()), object))


@op(
    "constant_of_shape",
    onnx="ConstantOfShape",
    infer=_infer_constant_of_shape,
    dims=_constant_dims,
    dtypes={"input": {I64}},
    examples=lambda: [
        ex(_ints(2, 3)),
        ex(_ints(2, 3), value=np.array([7], np.int32)),
        ex(_ints(0, 2), value=np.array([True])),
        ex(_ints()),
        ex(_ints(3), value=np.array([-1], np.int64)),
    ],
)
def constant_of_shape(input, *, value=ZERO):
    """A tensor of the given shape filled with one value."""
    return np.full(tuple(input.tolist()), np.asarray(value).item(), np.asarray(value).dtype)


def _infer_eye_like(c: InferContext) -> TensorType:
    want_rank(c, 0, 2)
    dtype = c.attr("dtype") or c.t(0).dtype
    if dtype not in NUMERIC | {BOOL}:
        raise c.error(f"dtype is {dtype}; expected a number type or bool")
    return TensorType(dtype, c.shape(0) or symbols(c, 2))


@op(
    "eye_like",
    onnx=Onnx("EyeLike", adapt=dtype_attrs("dtype")),
    infer=_infer_eye_like,
    dtypes={"input": NUMERIC | {BOOL}},
    examples=lambda: [
        ex(rand(3, 3)),
        ex(rand(2, 4), k=1),
        ex(rand(4, 2), k=-2, dtype=F64),
        ex(rand(2, 2, dtype=np.int32), dtype=F32),
        ex(rand(2, 3), k=9),
        ex(np.zeros((0, 2), np.float32)),
        ex(rand(2, 2, dtype=np.int64)),
    ],
)
def eye_like(input, *, dtype=None, k=0):
    """Ones on the k-th diagonal, zeros elsewhere, in the shape of `input`."""
    rows, cols = input.shape
    return np.eye(rows, cols, max(-rows, min(cols, k)), (dtype or dtype_of(input)).np)
