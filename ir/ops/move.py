"""Data movement: the elements stay what they are and take other places."""

from __future__ import annotations

import numpy as np

from ..op import InferContext, Onnx, OnnxCall, attr_to_input, ex, op
from ..recording import greatest, least
from ..shapes import normalize_axes, permuted
from ..symbols import DimLike, bounds, ceildiv, dim_max, dim_min
from ..types import I64, TensorType, Type
from .contents import (
    COMMON,
    INDEX,
    MAX_CONTENTS,
    MOVABLE,
    agree,
    checked,
    contents,
    follow,
    known_ints,
    length,
    same_dtype,
    same_rank,
    symbols,
)
from .examples import rand

INT32_MAX = (1 << 31) - 1  # exporters write it, or more, for "to the end"


def _ints(*values: int, dtype: object = np.int64) -> np.ndarray:
    return np.array(values, dtype)  # type: ignore[call-overload]


# ---- transpose, concat, split


def _infer_transpose(c: InferContext) -> TensorType:
    x, perm = c.t(0), c.attr("perm")
    if x.shape is None:
        return x.with_(shape=None if perm is None else symbols(c, len(perm)))
    perm = tuple(reversed(range(len(x.shape)))) if perm is None else perm
    if sorted(perm) != list(range(len(x.shape))):
        raise c.error(f"perm = {list(perm)} is no permutation of the axes of {x}")
    return x.with_(shape=permuted(x.shape, perm))


def _transpose_examples() -> list:
    x = rand(2, 3, 4)
    return [
        ex(x),
        ex(x, perm=(0, 2, 1)),
        ex(x, perm=(0, 1, 2)),
        ex(np.float32(1)),
        ex(np.zeros((0, 3), np.int8), perm=(1, 0)),
        ex(np.array([["a", "b"]], object)),
        ex(rand(3)),
    ]


@op("transpose", onnx="Transpose", infer=_infer_transpose, dtypes={"data": MOVABLE}, examples=_transpose_examples)
def transpose(data, *, perm=None):
    """The axes in the order `perm`, reversed by default."""
    return np.transpose(data, perm)


def _concat_1(call: OnnxCall) -> None:
    call.attrs.setdefault("axis", 1)


def _infer_concat(c: InferContext) -> TensorType:
    n = len(c.types)
    if not n:
        raise c.error("no operands, expected at least one")
    dtype, rank = same_dtype(c, *range(n)), same_rank(c, *range(n))
    if rank is None:
        return TensorType(dtype, None)
    if rank == 0:
        raise c.error("scalars cannot be joined; expected rank >= 1")
    axis = c.axis(c.attr("axis"), rank)
    shapes = [c.shape(i) for i in range(n)]
    known = [s for s in shapes if s is not None]
    dims = list(known[0])
    for s in known[1:]:
        for i in range(rank):
            dims[i] = dims[i] + s[i] if i == axis else agree(c, dims[i], s[i], f"axis {i}")
    if len(known) < n:
        dims[axis] = c.symbol()
    return TensorType(dtype, checked(c, dims))


def _concat_dims(c: InferContext) -> np.ndarray | None:
    parts = []
    for i in range(len(c.types)):
        part = contents(c, i)
        if part is None:  # entries that are not known still take their places
            t = c.t(i)
            if not t.is_static or t.size > MAX_CONTENTS:  # type: ignore[operator]
                return None
            part = np.full(t.shape, None, object)  # type: ignore[arg-type]
        parts.append(part)
    return np.concatenate(parts, c.attr("axis"))


def _concat_examples() -> list:
    a, b = rand(2, 3), rand(2, 3, seed=1)
    return [
        ex(a, b, axis=0),
        ex(a, b, axis=-1),
        ex(a, axis=1),
        ex(a, np.zeros((0, 3), np.float32), b, axis=0),
        ex(_ints(1, 2), _ints(3), _ints(), axis=0),
        ex(np.array(["a"], object), np.array(["b"], object), axis=0),
    ]


@op(
    "concat",
    onnx=Onnx("Concat", before={4: _concat_1}),
    infer=_infer_concat,
    dims=_concat_dims,
    dtypes={"inputs": COMMON},
    examples=_concat_examples,
)
def concat(*inputs, axis):
    """The operands one behind the other along `axis`; the other sizes are equal."""
    return np.concatenate(inputs, axis)


def _adapt_split(call: OnnxCall) -> None:
    """How many parts there are is said by the number of outputs where nothing else says it."""
    if len(call.inputs) < 2 or call.inputs[1] is None:
        call.attrs.setdefault("num_outputs", call.n_outputs)


def _infer_split(c: InferContext) -> list[Type]:
    x, n = c.t(0), c.n_results
    if c.has(1) == (c.attr("num_outputs") is not None):
        raise c.error("expected either the operand split or the attribute num_outputs")
    if x.shape is None:
        return [x] * n
    axis = c.axis(c.attr("axis"), len(x.shape))
    if not x.shape:
        raise c.error("a scalar cannot be split")
    sizes = _split_given(c, x.shape[axis]) if c.has(1) else _split_evenly(c, x.shape[axis])
    return [x.with_(shape=checked(c, (*x.shape[:axis], s, *x.shape[axis + 1 :]))) for s in sizes]


def _split_given(c: InferContext, size: DimLike) -> list[DimLike]:
    count, sizes = length(c, 1), c.ints(1)
    if isinstance(count, int) and count != c.n_results:
        raise c.error(f"split has {count} entries for {c.n_results} results; expected as many")
    if sizes is None:
        return [c.symbol() for _ in range(c.n_results)]
    if all(isinstance(s, int) for s in [*sizes, size]) and sum(sizes) != size:  # type: ignore[arg-type]
        raise c.error(f"split {sizes} does not sum up to {size}")
    return [c.symbol() if s is None else s for s in sizes]


def _split_evenly(c: InferContext, size: DimLike) -> list[DimLike]:
    n = c.attr("num_outputs")
    if n < 1 or n != c.n_results:
        raise c.error(f"num_outputs = {n} for {c.n_results} results; expected as many")
    chunk = ceildiv(size, n)
    last = size - chunk * (n - 1)
    if isinstance(last, int) and last < 0:  # fails when it runs, but may stand in a branch that never does
        last = c.symbol()
    return [chunk] * (n - 1) + [last]


def _split_examples() -> list:
    x = rand(6, 4)
    return [
        ex(x, results=3, num_outputs=3),
        ex(x, _ints(1, 5), results=2),
        ex(x, _ints(3, 0, 1), axis=-1, results=3),
        ex(x, results=1, num_outputs=1),
        ex(rand(7), results=3, num_outputs=3),
        ex(np.zeros((0, 2), np.int32), _ints(0, 0), results=2),
    ]


@op(
    "split",
    onnx=Onnx("Split", before={13: attr_to_input("split", 1)}, adapt=_adapt_split),
    infer=_infer_split,
    results=None,
    dtypes={"input": COMMON, "split": {I64}},
    examples=_split_examples,
)
def split(input, split=None, *, axis=0, num_outputs=None):
    """Parts along `axis` of the sizes `split`, or `num_outputs` equal ones of which the last may be smaller."""
    size = input.shape[axis]
    sizes = [-(-size // num_outputs)] * (num_outputs - 1) if split is None else split.tolist()
    if (split is not None and (sum(sizes) != size or min(sizes, default=0) < 0)) or sum(sizes) > size:
        raise ValueError(f"{size} elements along axis {axis} cannot be split into {sizes}")
    ends = np.cumsum(sizes if split is None else sizes[:-1], dtype=np.int64)
    return tuple(np.split(input, ends, axis))


# ---- slice


def _infer_slice(c: InferContext) -> TensorType:
    x = c.t(0)
    if x.shape is None:
        return x
    axes = _slice_axes(c, len(x.shape))
    if axes is None:
        return x.with_(shape=symbols(c, len(x.shape)))
    columns = [c.ints(i) if c.has(i) else [1] * len(axes) for i in (1, 2, 4)]
    for i, column in zip((1, 2, 4), columns):
        if column is not None and len(column) != len(axes):
            raise c.error(f"{c.op.operand_name(i)} has {len(column)} entries for {len(axes)} axes")
    shape = list(x.shape)
    for k, axis in enumerate(axes):
        start, end, step = (None if column is None else column[k] for column in columns)
        if step == 0:
            raise c.error("a step is 0; expected steps that lead somewhere")
        shape[axis] = slice_size(c, shape[axis], start, end, step)
    return x.with_(shape=checked(c, shape))


def _slice_axes(c: InferContext, rank: int) -> tuple[int, ...] | None:
    if c.has(3):
        axes = known_ints(c, 3)
        return None if axes is None else normalize_axes(c, axes, rank)
    starts = c.ints(1)
    count = length(c, 1) if starts is None else len(starts)
    if isinstance(count, int) and count > rank:
        raise c.error(f"starts has {count} entries for data of rank {rank}")
    return tuple(range(count)) if isinstance(count, int) else None


def slice_ends(start: int, end: int, step: int, size: int) -> tuple[int, int]:
    """The first two of `slice(start, end, step).indices(size)`, in arithmetic that can be recorded (see `ir/recording.py`)."""
    if step == 0:
        raise ValueError("slice step cannot be zero")
    lo, hi = (0, size) if step > 0 else (-1, size - 1)
    first, last = (greatest(n + size, lo) if n < 0 else least(n, hi) for n in (start, end))
    return first, last


def slice_size(c: InferContext, size: DimLike, start: DimLike | None, end: DimLike | None, step: DimLike | None) -> DimLike:
    """How many elements start:end:step takes of `size`; a new symbol where signs or bounds cannot be settled."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int) and isinstance(step, int):
        begin, stop = slice_ends(start, end, step, size)
        return greatest(-((begin - stop) // step), 0)
    if start is None or end is None or not isinstance(step, int):
        return c.symbol()
    lo, hi = (0, size) if step > 0 else (-1, size - 1)
    first, last = _clamped(start, size, lo, hi), _clamped(end, size, lo, hi)
    if first is None or last is None:
        return c.symbol()
    return dim_max(ceildiv(last - first, step) if step > 0 else ceildiv(first - last, -step), 0)


def _clamped(at: DimLike, size: DimLike, lo: int, hi: DimLike) -> DimLike | None:
    """A slice's bound counted from the front and clamped into [lo, hi]; None where its sign is not known."""
    if isinstance(at, int) and abs(at) >= INT32_MAX:
        return hi if at > 0 else lo
    if bounds(at)[1] < 0:
        at = at + size
        return dim_max(dim_min(at, hi), lo)
    return dim_max(dim_min(at, hi), lo) if bounds(at)[0] >= 0 else None


def _slices(rank: int, starts, ends, axes, steps) -> tuple[slice, ...]:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(int(start), int(end), int(step))
    return tuple(index)


def _slice_dims(c: InferContext, data: np.ndarray) -> np.ndarray | None:
    columns = [known_ints(c, i) for i in (1, 2, 3, 4)]
    if any(column is None and c.has(i) for i, column in enumerate(columns, 1)):
        return None
    return data[_slices(data.ndim, *columns)]


def _slice_1(call: OnnxCall) -> None:
    """Before opset 10 the bounds were attributes."""
    for name, index in (("starts", 1), ("ends", 2), ("axes", 3)):
        attr_to_input(name, index)(call)


def _slice_examples() -> list:
    x = rand(5, 6)
    big, i32 = np.iinfo(np.int64), np.int32
    return [
        ex(x, _ints(1, 2), _ints(4, -1)),
        ex(x, _ints(1), _ints(big.max), _ints(1)),
        ex(x, _ints(-1), _ints(big.min), _ints(0), _ints(-1)),
        ex(x, _ints(4, 1, dtype=i32), _ints(0, 6, dtype=i32), _ints(-1, -2, dtype=i32), _ints(-2, 3, dtype=i32)),
        ex(x, _ints(3), _ints(1), _ints(0)),
        ex(x, _ints(-99), _ints(99), _ints(0), _ints(2)),
        ex(np.zeros((0, 3), np.int8), _ints(0), _ints(2)),
        ex(_ints(3, 4, 5), _ints(-2), _ints(INT32_MAX), _ints(0)),
        ex(x, _ints(9), _ints(-9), _ints(1), _ints(-4)),
    ]


@op(
    "slice",
    onnx=Onnx("Slice", before={10: _slice_1}),
    infer=_infer_slice,
    dims=follow(_slice_dims),
    dtypes={"data": COMMON, "starts": INDEX, "ends": INDEX, "axes": INDEX, "steps": INDEX},
    examples=_slice_examples,
)
def slice_(data, starts, ends, axes=None, steps=None):
    """data[starts:ends:steps] on `axes` (the first ones by default). Bounds count from the end where negative, and are clamped."""
    index = _slices(data.ndim, *(None if v is None else v.tolist() for v in (starts, ends, axes, steps)))
    return data[index]
