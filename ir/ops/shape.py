"""Shapes: asking for them, and changing them without moving data."""

from __future__ import annotations

import math

import numpy as np

from ..op import InferContext, Onnx, attr_to_input, drop_attrs, ex, op
from ..shapes import normalize_axes
from ..symbols import Dim, DimLike, exact_quotient, floordiv, prove_ne
from ..types import I32, I64, TensorType
from .contents import (
    MOVABLE,
    checked,
    follow,
    known_ints,
    length,
    product,
    symbols,
)
from .examples import rand

I64S = {I64}


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# ---- shape, size, dims


def _span(c: InferContext) -> slice:
    return slice(c.attr("start"), c.attr("end"))


def _infer_shape(c: InferContext) -> TensorType:
    shape = c.shape(0)
    return TensorType(I64, (c.symbol() if shape is None else len(shape[_span(c)]),))


def _shape_dims(c: InferContext) -> np.ndarray | None:
    shape = c.shape(0)
    return None if shape is None else np.array([*shape[_span(c)], None], object)[:-1]


@op(
    "shape",
    onnx="Shape",
    infer=_infer_shape,
    dims=_shape_dims,
    dtypes={"data": MOVABLE},
    traits=("host",),
    examples=lambda: [
        ex(rand(2, 3, 4)),
        ex(rand(2, 3, 4), start=1),
        ex(rand(2, 3, 4), start=-2, end=-1),
        ex(rand(2, 3), start=-9, end=9),
        ex(rand(2, 3), start=2, end=1),
        ex(np.float32(1)),
        ex(np.zeros((0, 3), bool)),
        ex(np.array(["a", "b"], object)),
    ],
)
def shape(data, *, start=0, end=None):
    """The sizes of the axes [start, end) as a 1-D i64 tensor; both ends are clamped to the rank."""
    return np.array(data.shape[start:end], np.int64)


def _size_dims(c: InferContext) -> np.ndarray | None:
    shape = c.shape(0)
    return None if shape is None else np.array(product(c, shape), object)


@op(
    "size",
    onnx="Size",
    infer=lambda c: TensorType(I64, ()),
    dims=_size_dims,
    dtypes={"data": MOVABLE},
    traits=("host",),
    examples=lambda: [ex(rand(2, 3)), ex(np.float32(1)), ex(np.zeros((0, 3), np.int8)), ex(np.array(["a", "b"], object))],
)
def size(data):
    """The number of elements as an i64 scalar."""
    return np.array(data.size, np.int64)


def _infer_dims(c: InferContext) -> TensorType:
    value = c.attr("value")
    if c.attr("scalar") and len(value) != 1:
        raise c.error(f"value has {len(value)} entries, expected one for a scalar")
    return TensorType(c.attr("dtype"), () if c.attr("scalar") else (len(value),))


def _dims_dims(c: InferContext) -> np.ndarray:
    a = np.array([*c.attr("value"), None], object)[:-1]
    return a.reshape(()) if c.attr("scalar") else a


@op(
    "dims",
    infer=_infer_dims,
    dims=_dims_dims,
    traits=("host",),
    examples=lambda: [ex(value=(2, 3)), ex(value=(7,), scalar=True), ex(value=(), dtype=I32)],
)
def dims(*, value, dtype=I64, scalar=False):
    """Shape arithmetic made a tensor: `value` is a tuple of int | Dim. The engine evaluates Dims; here they raise ValueError."""
    loose = [str(v) for v in value if isinstance(v, Dim)]
    if loose:
        raise ValueError(f"the dimensions {', '.join(loose)} have no value here; substitute their symbols first")
    a = np.array(value, dtype.np)
    return a.reshape(()) if scalar else a


# ---- views


def _infer_reshape(c: InferContext) -> TensorType:
    x, target = c.t(0), c.ints(1)
    if target is None:
        return x.with_(shape=symbols(c, length(c, 1)))
    length(c, 1)
    given = [t for t in target if isinstance(t, int)]
    if any(t < -1 for t in given) or given.count(-1) > 1:
        raise c.error(f"shape is {target}; expected sizes, 0 or at most one -1")
    if c.attr("allowzero") and 0 in given and -1 in given:
        raise c.error(f"shape is {target}: with allowzero, 0 and -1 exclude each other")
    if not c.attr("allowzero"):
        target = [_copied(c, i) if t == 0 else t for i, t in enumerate(target)]
    return x.with_(shape=checked(c, _settle_sizes(c, x, [c.symbol() if t is None else t for t in target], None in target)))


def _copied(c: InferContext, i: int) -> DimLike | None:
    shape = c.shape(0)
    if shape is None:
        return None
    if i >= len(shape):
        raise c.error(f"shape copies axis {i} (a 0), but data has the type {c.t(0)}")
    return shape[i]


def _settle_sizes(c: InferContext, x: TensorType, target: list[DimLike], loose: bool) -> list[DimLike]:
    """`target` with its -1 replaced by what is left of the size of `x`. `loose`: some entry is not really known."""
    if x.shape is None or (loose and -1 in target):
        return [c.symbol() if t == -1 else t for t in target]
    if loose:
        return target
    if -1 not in target:
        if prove_ne(product(c, x.shape), product(c, target)):
            raise c.error(f"data of the type {x} cannot take the shape {target}")
        return target
    have, want = list(x.shape), [t for t in target if t != -1]
    for d in list(want):  # equal factors cancel, also where their product could not be divided, or is zero
        if d in have:
            have.remove(d)
            want.remove(d)
    total, known = product(c, have), product(c, want)
    if known == 0:
        raise c.error(f"shape {target}: -1 is not determined, as another size is 0")
    if isinstance(total, int) and isinstance(known, int) and total % known:
        raise c.error(f"data of the type {x} cannot take the shape {target}: {total} is no multiple of {known}")
    exact = exact_quotient(total, known)
    rest = floordiv(total, known) if exact is None else exact
    return [rest if t == -1 else t for t in target]


def _reshape_view(c: InferContext, data: np.ndarray) -> np.ndarray | None:
    target = known_ints(c, 1)
    return None if target is None else data.reshape(tuple(_concrete_shape(data.shape, target, c.attr("allowzero"))))


def _concrete_shape(shape: tuple[int, ...], target: list[int], allowzero: int) -> list[int]:
    """The shape that `target` asks for. Copied axes cancel out of what -1 stands for, so that (0, 3) -> (0, -1) is (0, 3)."""
    copied = {i for i, t in enumerate(target) if t == 0 and not allowzero}
    sizes = [shape[i] if i in copied else int(t) for i, t in enumerate(target)]
    if -1 not in target:
        return sizes
    left = math.prod(d for i, d in enumerate(shape) if i not in copied)
    known = math.prod(t for i, t in enumerate(target) if i not in copied and t != -1)
    if not known or left % known:
        raise ValueError(f"a tensor of the shape {list(shape)} cannot take the shape {[int(t) for t in target]}")
    return [left // known if t == -1 else t for t in sizes]


def _reshape_examples() -> list:
    x = rand(2, 3, 4)
    return [
        ex(x, _ints(4, 3, 2)),
        ex(x, _ints(-1)),
        ex(x, _ints(0, -1)),
        ex(x, _ints(2, 0, 2, -1)),
        ex(np.float32(3), _ints(1, 1)),
        ex(rand(1), _ints()),
        ex(np.zeros((0, 4), np.int32), _ints(4, 0), allowzero=1),
        ex(np.zeros((0, 4), bool), _ints(2, 0), allowzero=1),
    ]


@op(
    "reshape",
    onnx=Onnx("Reshape", before={5: attr_to_input("shape", 1), 6: drop_attrs("consumed_inputs")}),
    infer=_infer_reshape,
    dims=follow(_reshape_view),
    dtypes={"data": MOVABLE, "shape": I64S},
    traits=("view",),
    examples=_reshape_examples,
)
def reshape(data, shape, *, allowzero=0):
    """The same elements in another shape. -1 stands for what is left, 0 copies the size of that axis (with `allowzero` it is 0)."""
    return np.reshape(data, _concrete_shape(data.shape, shape.tolist(), allowzero))


def _infer_flatten(c: InferContext) -> TensorType:
    x, axis = c.t(0), c.attr("axis")
    if x.shape is None:
        return x.with_(shape=symbols(c, 2))
    r = len(x.shape)
    if not -r <= axis <= r:
        raise c.error(f"axis {axis} is out of range for rank {r}; expected {-r} <= axis <= {r}")
    at = axis + r if axis < 0 else axis
    return x.with_(shape=(product(c, x.shape[:at]), product(c, x.shape[at:])))


@op(
    "flatten",
    onnx="Flatten",
    infer=_infer_flatten,
    dtypes={"input": MOVABLE},
    traits=("view",),
    examples=lambda: (
        [ex(rand(2, 3, 4), axis=a) for a in (1, 0, 3, -1, -3)] + [ex(np.float32(2), axis=0), ex(np.zeros((2, 0, 3), np.int64))]
    ),
)
def flatten(input, *, axis=1):
    """A matrix: the axes before `axis` in its rows, the others in its columns."""
    at = axis + input.ndim if axis < 0 else axis
    return input.reshape(math.prod(input.shape[:at]), math.prod(input.shape[at:]))


def _infer_squeeze(c: InferContext) -> TensorType:
    x, axes = c.t(0), known_ints(c, 1)
    if x.shape is None:
        return x
    if not c.has(1):
        # Whether an axis of unknown size goes is known only at run time, and with it the rank.
        sure = all(isinstance(d, int) or prove_ne(d, 1) for d in x.shape)
        return x.with_(shape=tuple(d for d in x.shape if d != 1) if sure else None)
    if axes is None:
        count = length(c, 1)
        return x.with_(shape=symbols(c, len(x.shape) - count) if isinstance(count, int) else None)
    gone = normalize_axes(c, axes, len(x.shape)) if x.shape or axes else ()
    for a in gone:
        if a >= len(x.shape) or prove_ne(x.shape[a], 1):
            raise c.error(f"axis {a} of {x} is no single element; expected a size of 1")
    return x.with_(shape=tuple(d for i, d in enumerate(x.shape) if i not in gone))


def _squeeze_view(c: InferContext, data: np.ndarray) -> np.ndarray | None:
    if not c.has(1):
        return data.squeeze()
    axes = known_ints(c, 1)
    return None if axes is None else data.squeeze(tuple(axes))


@op(
    "squeeze",
    onnx=Onnx("Squeeze", before={13: attr_to_input("axes", 1)}),
    infer=_infer_squeeze,
    dims=follow(_squeeze_view),
    dtypes={"data": MOVABLE, "axes": I64S},
    traits=("view",),
    examples=lambda: [
        ex(rand(1, 3, 1), _ints(0)),
        ex(rand(1, 3, 1), _ints(-1, 0)),
        ex(rand(1, 3, 1)),
        ex(rand(2, 3)),
        ex(rand(1), _ints(0)),
        ex(np.zeros((1, 0), np.int8), _ints(0)),
        ex(np.float32(4)),
    ],
)
def squeeze(data, axes=None):
    """Without the given axes, whose size is 1; without all axes of size 1 where none are given."""
    return np.squeeze(data, None if axes is None else tuple(np.ravel(axes).tolist()))


def _infer_unsqueeze(c: InferContext) -> TensorType:
    x, axes = c.t(0), known_ints(c, 1)
    count = length(c, 1)
    if x.shape is None or not isinstance(count, int):
        return x.with_(shape=None)
    if axes is None:
        return x.with_(shape=symbols(c, len(x.shape) + count))
    new = normalize_axes(c, axes, len(x.shape) + len(axes))
    rest = iter(x.shape)
    return x.with_(shape=checked(c, (1 if i in new else next(rest) for i in range(len(x.shape) + len(axes)))))


def _unsqueeze_view(c: InferContext, data: np.ndarray) -> np.ndarray | None:
    axes = known_ints(c, 1)
    return None if axes is None else np.expand_dims(data, tuple(axes))


@op(
    "unsqueeze",
    onnx=Onnx("Unsqueeze", before={13: attr_to_input("axes", 1)}),
    infer=_infer_unsqueeze,
    dims=follow(_unsqueeze_view),
    dtypes={"data": MOVABLE, "axes": I64S},
    traits=("view",),
    examples=lambda: [
        ex(rand(2, 3), _ints(0)),
        ex(rand(2, 3), _ints(-1)),
        ex(rand(2, 3), _ints(2, 0)),
        ex(np.float32(4), _ints(0, 1)),
        ex(rand(2, 3), _ints()),
        ex(np.zeros((0,), bool), _ints(1)),
    ],
)
def unsqueeze(data, axes):
    """With axes of size 1 put in; `axes` counts in the result."""
    return np.expand_dims(data, tuple(np.ravel(axes).tolist()))
