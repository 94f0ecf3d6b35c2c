"""Reductions over axes, the place of an extreme, and running sums and products."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce as fold

import numpy as np

from ..op import Example, InferContext, Onnx, OpDef, attr_to_input, ex, op
from ..reduction import Reduction, reduce_array
from ..scalar import Expr, call, cast
from ..shapes import normalize_axes, reduced_shape
from ..symbols import Dim, DimLike, dim_max, dim_min
from ..types import BF16, BOOL, F64, FLOATS, I8, I32, I64, NUMERIC, U8, U32, U64, TensorType, dtype_of
from .examples import f32, rand

SUMMABLE = FLOATS | {I32, I64, U32, U64}


def _axes_of(c: InferContext, rank: int) -> tuple[int, ...] | None:
    """The normalized axes that a reduction works on; None where they are not known before the model runs."""
    everything = () if c.attr("noop_with_empty_axes") else tuple(range(rank))
    if not c.has(1) or c.shape(1) == (0,):
        return everything
    given = c.ints(1)
    axes = [a for a in given or () if isinstance(a, int)]
    if given is None or len(axes) != len(given):
        return None
    return normalize_axes(c, axes, rank) if axes else everything


def _infer_reduce(c: InferContext) -> TensorType:
    x = c.t(0)
    if x.shape is None:
        return TensorType(x.dtype, None)
    axes = _axes_of(c, len(x.shape))
    keepdims = bool(c.attr("keepdims"))
    if axes is not None:
        return TensorType(x.dtype, reduced_shape(x.shape, axes, keepdims))
    if keepdims:
        return TensorType(x.dtype, tuple(1 if d == 1 else c.symbol() for d in x.shape))
    length = (c.shape(1) or (None,))[0]
    if not isinstance(length, int):
        return TensorType(x.dtype, None)
    return TensorType(x.dtype, tuple(c.symbol() for _ in range(len(x.shape) - length)))


_DIM_COMBINE: dict[str, Callable[[DimLike, DimLike], DimLike]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "max": dim_max,
    "min": dim_min,
}


def _reduce_dims(combine: str) -> Callable[[InferContext], np.ndarray | None]:
    """Known contents of the reduction of a vector of dims (the number of elements of a shape, say)."""

    def dims(c: InferContext) -> np.ndarray | None:
        data = c.data(0)
        if data is None or data.dtype != object or data.ndim > 1 or _axes_of(c, data.ndim) != tuple(range(data.ndim)):
            return None
        entries = data.ravel().tolist()
        if not entries or not all(isinstance(x, (int, Dim)) for x in entries):
            return None
        out = np.empty((1,) * data.ndim if c.attr("keepdims") else (), object)
        out[...] = fold(_DIM_COMBINE[combine], entries)
        return out

    return dims


def _reference(r: Reduction) -> Callable[..., np.ndarray]:
    def reference(x: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> np.ndarray:
        given = () if axes is None else tuple(int(a) for a in np.asarray(axes).ravel())
        if any(not -x.ndim <= a < x.ndim for a in given) or len({a % x.ndim for a in given}) != len(given):
            raise ValueError(f"axes {given} of a tensor of rank {x.ndim}; expected distinct axes in [{-x.ndim}, {x.ndim})")
        chosen = tuple(a % x.ndim for a in given) or (() if noop_with_empty_axes else tuple(range(x.ndim)))
        return reduce_array(r, x, chosen, bool(keepdims))

    return reference


def _examples(dtypes: frozenset, *extra: Example) -> Callable[[], list[Example]]:
    def examples() -> list[Example]:
        x, axes = rand(2, 3, 4, lo=0.5), np.array([-1, 0])
        others = [t for t in sorted(dtypes, key=str) if t.name != "f32"]
        return [
            ex(x),
            ex(x, axes),
            ex(x, np.array([1]), keepdims=0),
            ex(x, np.zeros(0, np.int64)),
            ex(x, None, noop_with_empty_axes=1),
            ex(x, np.zeros(0, np.int64), noop_with_empty_axes=1, keepdims=0),
            ex(np.float32(0.5)),
            *(ex(rand(3, 4, lo=0, hi=5, dtype=t.np), np.array([0])) for t in others),
            *extra,
        ]

    return examples


_NONE = np.zeros((2, 0, 3), np.float32)
_EMPTY = ex(_NONE, np.array([1]))
_SPECIAL = ex(f32([[1, np.inf, 2], [np.nan, 1, 2], [-np.inf, np.inf, 0]]), np.array([1]))


def _reduction(name: str, op_type: str, doc: str, r: Reduction, dtypes: frozenset, *extra: Example, axes_since: int = 18) -> OpDef:
    """A reduction operator: operands data and axes, attributes keepdims and noop_with_empty_axes."""
    fn = _reference(r)
    fn.__doc__, fn.__module__ = doc, __name__
    form = Onnx(op_type, before={axes_since: attr_to_input("axes", 1)})
    plain = r == Reduction(r.combine)
    return op(name, onnx=form, infer=_infer_reduce, dtypes={"x": dtypes, "axes": {I64}}, reduction=r,
              dims=_reduce_dims(r.combine) if plain else None, examples=_examples(dtypes, *extra))(fn)  # fmt: skip


def _root(acc: Expr, count: Expr) -> Expr:
    return cast(call("sqrt", cast(acc, F64)), acc.dtype) if acc.dtype.is_integer else call("sqrt", acc)


EXTREMES = FLOATS | {BOOL, I8, I32, I64, U8, U32, U64}
_HUGE = ex(f32([[1000, 1001], [-1000, -1001], [-np.inf, -np.inf], [np.inf, 1], [np.nan, 1]]), np.array([1]))

reduce_sum = _reduction(
    "reduce_sum", "ReduceSum", "The sum over axes.", Reduction("add"), SUMMABLE, _EMPTY, _SPECIAL, axes_since=13
)
reduce_prod = _reduction("reduce_prod", "ReduceProd", "The product over axes.", Reduction("mul"), SUMMABLE, _EMPTY, _SPECIAL)
reduce_max = _reduction("reduce_max", "ReduceMax", "The greatest over axes; NaN where any is NaN, -inf (the least) of nothing.",
                        Reduction("max"), EXTREMES, _EMPTY, _SPECIAL, ex(np.zeros((0, 2), np.int8), np.array([0])))  # fmt: skip
reduce_min = _reduction("reduce_min", "ReduceMin", "The least over axes; NaN where any is NaN, inf (the greatest) of nothing.",
                        Reduction("min"), EXTREMES, _EMPTY, _SPECIAL, ex(np.zeros((0, 2), np.uint8), np.array([0])))  # fmt: skip
reduce_mean = _reduction("reduce_mean", "ReduceMean", "The mean over axes; NaN of nothing. Integers truncate.",
                         Reduction("add", finish=lambda acc, n: acc / n), SUMMABLE, _EMPTY, _SPECIAL)  # fmt: skip
reduce_l1 = _reduction(
    "reduce_l1", "ReduceL1", "The sum of absolute values over axes.", Reduction("add", map=abs), SUMMABLE, _EMPTY, _SPECIAL
)
reduce_l2 = _reduction("reduce_l2", "ReduceL2", "The square root of the sum of squares over axes.",
                       Reduction("add", map=lambda x: x * x, finish=_root), SUMMABLE, _EMPTY, _SPECIAL)  # fmt: skip
reduce_sum_square = _reduction("reduce_sum_square", "ReduceSumSquare", "The sum of squares over axes.",
                               Reduction("add", map=lambda x: x * x), SUMMABLE, _EMPTY, _SPECIAL)  # fmt: skip
reduce_log_sum = _reduction("reduce_log_sum", "ReduceLogSum", "The logarithm of the sum over axes.",
                            Reduction("add", finish=lambda acc, n: call("log", acc)), FLOATS, _EMPTY, _SPECIAL)  # fmt: skip
reduce_log_sum_exp = _reduction("reduce_log_sum_exp", "ReduceLogSumExp", "The logarithm of the sum of exponentials over axes.",
                                Reduction("add", map=lambda x: call("exp", x), finish=lambda acc, n: call("log", acc), shift=True),
                                FLOATS, _EMPTY, _HUGE)  # fmt: skip


# ---- the place of an extreme ------------------------------------------------------------------------------------


def _infer_arg(c: InferContext) -> TensorType:
    shape = c.shape(0)
    if shape is None:
        return TensorType(I64, None)
    return TensorType(I64, reduced_shape(shape, (c.axis(c.attr("axis"), len(shape)),) if shape else (), bool(c.attr("keepdims"))))


def _place(find: Callable, x: np.ndarray, axis: int, keepdims: int, last: int) -> np.ndarray:
    x = x.astype(np.float32) if dtype_of(x) is BF16 else x
    if x.ndim == 0:
        return np.zeros((), np.int64)
    if last:
        return x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis, keepdims=bool(keepdims)).astype(np.int64)
    return np.asarray(find(x, axis=axis, keepdims=bool(keepdims)), np.int64)


def _args() -> list[Example]:
    x = f32([[2, 1, 2], [3, 3, 1]])
    kinds = (np.float64, np.float16, BF16.np, np.int8, np.int64, np.uint8, np.uint64)
    return [
        ex(x),
        ex(x, axis=1),
        ex(x, axis=-1, keepdims=0),
        ex(x, axis=1, select_last_index=1),
        ex(np.zeros((0, 2), np.float32), axis=1),
        *(ex(x.astype(k), axis=1) for k in kinds),
    ]


@op("arg_max", onnx="ArgMax", infer=_infer_arg, dtypes={"x": NUMERIC}, examples=_args)
def arg_max(x: np.ndarray, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> np.ndarray:
    """Where along the axis the greatest element stands (the first or the last of equal ones), as i64."""
    return _place(np.argmax, x, axis, keepdims, select_last_index)


@op("arg_min", onnx="ArgMin", infer=_infer_arg, dtypes={"x": NUMERIC}, examples=_args)
def arg_min(x: np.ndarray, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> np.ndarray:
    """Where along the axis the least element stands (the first or the last of equal ones), as i64."""
    return _place(np.argmin, x, axis, keepdims, select_last_index)


# ---- running sums and products ----------------------------------------------------------------------------------


def _infer_running(c: InferContext) -> TensorType:
    axis, rank = c.ints(1), c.rank(0)
    if axis is not None and rank is not None and len(axis) == 1 and isinstance(axis[0], int):
        c.axis(axis[0], rank)
    return c.t(0).with_(layout=None)


def _running(accumulate: Callable, first: int, x: np.ndarray, axis: np.ndarray, exclusive: int, reverse: int) -> np.ndarray:
    """The running combination along an axis. f16 and bf16 are accumulated in f32."""
    at = int(np.asarray(axis).item())
    wide = x.astype(np.float32) if dtype_of(x).is_float and x.dtype.itemsize < 4 else x
    wide = np.flip(wide, at) if reverse else wide
    if exclusive and wide.shape[at]:
        head = np.full_like(np.take(wide, [0], at), first)
        wide = np.concatenate([head, np.take(wide, np.arange(wide.shape[at] - 1), at)], at)
    out = accumulate(wide, axis=at, dtype=wide.dtype)
    return (np.flip(out, at) if reverse else out).astype(x.dtype)


def _runs() -> list[Example]:
    x, axis = rand(2, 3, lo=1), np.int64(1)
    return [
        ex(x, axis),
        ex(x, np.int32(-2)),
        ex(x, axis, exclusive=1),
        ex(x, axis, reverse=1),
        ex(x, axis, exclusive=1, reverse=1),
        ex(np.zeros((2, 0), np.float32), axis, exclusive=1),
        *(ex(x.astype(t.np), axis) for t in sorted(SUMMABLE, key=str) if t.name != "f32"),
    ]


@op("cum_sum", onnx=Onnx("CumSum", since=11), infer=_infer_running, dtypes={"x": SUMMABLE, "axis": {I32, I64}}, examples=_runs)
def cum_sum(x: np.ndarray, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> np.ndarray:
    """The sum of the elements up to each one along the axis, without it where `exclusive`, from the end where `reverse`."""
    return _running(np.add.accumulate, 0, x, axis, exclusive, reverse)


@op("cum_prod", onnx=Onnx("CumProd", since=26), infer=_infer_running, dtypes={"x": SUMMABLE, "axis": {I32, I64}}, examples=_runs)
def cum_prod(x: np.ndarray, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> np.ndarray:
    """The product of the elements up to each one along the axis, without it where `exclusive`, from the end where `reverse`."""
    return _running(np.multiply.accumulate, 1, x, axis, exclusive, reverse)
