"""Sequences (lists of tensors) and optionals (a value, or None)."""

from __future__ import annotations

import numpy as np

from ..op import InferContext, Onnx, OnnxCall, dtype_attrs, ex, op
from ..symbols import DimLike
from ..types import ANY, BOOL, F32, I64, OptionalType, SequenceType, TensorType, Type
from .contents import COMMON, COMMON_BUT_BF16, INDEX, checked, entry, want_rank
from .control import join, refreshed
from .examples import rand


def _elem(c: InferContext, i: int = 0) -> Type:
    """The element type of operand i, which must be a sequence."""
    t = c.types[i] if i < len(c.types) else None
    if not isinstance(t, SequenceType):
        raise c.error(f"{c.op.operand_name(i)} has the type {t}, expected a sequence")
    return t.elem


def _tensor_elem(c: InferContext) -> TensorType:
    """A type that every element of the sequence has: dims that are no constants may differ from one to the next."""
    t = refreshed(c, _elem(c))
    if not isinstance(t, TensorType):
        raise c.error(f"the elements have the type {t}, expected tensors")
    return t


def _place(position: np.ndarray, size: int) -> int:
    """`position` counted from the front. Raises IndexError when it lies outside [-size, size)."""
    at = int(position.item())
    if not -size <= at < size:
        raise IndexError(f"position {at} is out of range for a sequence of {size}")
    return at % size


def _infer_construct(c: InferContext) -> Type:
    t: Type | None = c.types[0] if c.types else None
    if t is None:
        raise c.error("no operands, expected at least one")
    for other in c.types[1:]:
        t = join(c, t, other)
    return SequenceType(t)  # type: ignore[arg-type]


@op(
    "sequence_construct",
    onnx="SequenceConstruct",
    infer=_infer_construct,
    dtypes={"inputs": COMMON_BUT_BF16},
    traits=("host",),
    examples=lambda: [ex(rand(2, 3), rand(1, 3)), ex(rand(2)), ex(np.int64(1), np.array([2], np.int64))],
)
def sequence_construct(*inputs):
    """The operands as a sequence."""
    return list(inputs)


@op(
    "sequence_empty",
    onnx=Onnx("SequenceEmpty", adapt=dtype_attrs("dtype")),
    traits=("host",),
    infer=lambda c: SequenceType(TensorType(c.attr("dtype"), None)),
    examples=lambda: [ex(), ex(dtype=I64)],
)
def sequence_empty(*, dtype=F32):
    """A sequence without elements."""
    return []


def _infer_insert(c: InferContext) -> Type:
    if c.has(2):
        want_rank(c, 2, 0, 1)
    return SequenceType(join(c, _elem(c), c.types[1]))  # type: ignore[arg-type]


def _insert_examples() -> list:
    seq = [rand(2), rand(3)]
    return [ex(seq, rand(1)), ex(seq, rand(2), np.int64(0)), ex(seq, rand(2), np.int32(-1)), ex(seq, rand(2), np.int64(2))]


@op(
    "sequence_insert",
    onnx="SequenceInsert",
    infer=_infer_insert,
    dtypes={"tensor": COMMON_BUT_BF16, "position": INDEX},
    traits=("host",),
    examples=_insert_examples,
)
def sequence_insert(input_sequence, tensor, position=None):
    """The sequence with `tensor` put in before `position`, at the end by default."""
    n = len(input_sequence)
    at = n if position is None else int(position.item())
    if not -n <= at <= n:
        raise IndexError(f"position {at} is out of range for an insertion into a sequence of {n}")
    at = at + n if at < 0 else at
    return [*input_sequence[:at], tensor, *input_sequence[at:]]


@op(
    "sequence_erase",
    onnx="SequenceErase",
    infer=lambda c: SequenceType(_elem(c)),
    dtypes={"position": INDEX},
    traits=("host",),
    examples=lambda: [ex([rand(2), rand(3)]), ex([rand(2), rand(3)], np.int64(0)), ex([rand(2), rand(3)], np.int32(-2))],
)
def sequence_erase(input_sequence, position=None):
    """The sequence without the element at `position`, the last one by default."""
    at = _place(np.array(-1) if position is None else position, len(input_sequence))
    return [*input_sequence[:at], *input_sequence[at + 1 :]]


@op(
    "sequence_at",
    onnx="SequenceAt",
    infer=lambda c: [refreshed(c, _elem(c))],
    dtypes={"position": INDEX},
    traits=("host",),
    examples=lambda: [
        ex([rand(2), rand(3)], np.int64(0)),
        ex([rand(2), rand(2, seed=1)], np.int32(-1)),
        ex([rand(2, 2)], np.int64(0)),
    ],
)
def sequence_at(input_sequence, position):
    """One element; negative positions count from the end."""
    return input_sequence[_place(position, len(input_sequence))]


def _infer_length(c: InferContext) -> Type:
    _elem(c)
    return TensorType(I64, ())


@op(
    "sequence_length",
    onnx="SequenceLength",
    infer=_infer_length,
    traits=("host",),
    examples=lambda: [ex([rand(2), rand(3)]), ex([])],
)
def sequence_length(input_sequence):
    """How many elements there are, as an i64 scalar."""
    return np.array(len(input_sequence), np.int64)


def _infer_concat(c: InferContext) -> Type:
    t = _tensor_elem(c)
    if t.shape is None:
        return t
    new = c.attr("new_axis")
    axis = c.axis(c.attr("axis"), len(t.shape) + (1 if new else 0))
    rest = t.shape[axis if new else axis + 1 :]
    return t.with_(shape=(*t.shape[:axis], c.symbol(), *rest))


@op(
    "concat_from_sequence",
    onnx="ConcatFromSequence",
    infer=_infer_concat,
    traits=("host",),
    examples=lambda: [
        ex([rand(2, 3), rand(1, 3)], axis=0),
        ex([rand(2, 3), rand(2, 3)], axis=-1),
        ex([rand(2, 3), rand(2, 3)], axis=1, new_axis=1),
        ex([rand(2), rand(2)], axis=-1, new_axis=1),
    ],
)
def concat_from_sequence(input_sequence, *, axis, new_axis=0):
    """All elements in one tensor, joined along `axis`, or along a new axis there."""
    if not input_sequence:
        raise ValueError("the sequence is empty, expected at least one element")
    return (np.stack if new_axis else np.concatenate)(input_sequence, axis)


def _infer_split(c: InferContext) -> Type:
    x = c.t(0)
    want_rank(c, 1, 0, 1) if c.has(1) else None
    if x.shape is None:
        return SequenceType(x)
    axis = c.axis(c.attr("axis"), len(x.shape))
    if not x.shape:
        raise c.error("a scalar cannot be split")
    if not c.has(1):
        middle: tuple[DimLike, ...] = (1,) if c.attr("keepdims") else ()
    else:
        middle = (_common_size(c, x.shape[axis]),)
    return SequenceType(x.with_(shape=checked(c, (*x.shape[:axis], *middle, *x.shape[axis + 1 :]))))


def _common_size(c: InferContext, size: DimLike) -> DimLike:
    """The size of every part where they share one, else a new symbol."""
    sizes = c.ints(1)
    if c.rank(1) == 0:
        chunk = entry(c, 1)
        if isinstance(chunk, int) and chunk <= 0:
            raise c.error(f"split is {chunk}, expected at least 1")
        return chunk if isinstance(chunk, int) and isinstance(size, int) and size % chunk == 0 else c.symbol()
    if sizes is None or not sizes or any(s != sizes[0] for s in sizes):
        return c.symbol()
    return c.symbol() if sizes[0] is None else sizes[0]


def _split_examples() -> list:
    x = rand(5, 2)
    return [
        ex(x),
        ex(x, keepdims=0),
        ex(x, np.int64(2)),
        ex(x, np.array([1, 4], np.int32)),
        ex(x, np.int64(1), axis=-1, keepdims=0),
        ex(x, axis=1, keepdims=0),
    ]


@op(
    "split_to_sequence",
    onnx="SplitToSequence",
    infer=_infer_split,
    dtypes={"input": COMMON, "split": INDEX},
    traits=("host",),
    examples=_split_examples,
)
def split_to_sequence(input, split=None, *, axis=0, keepdims=1):
    """Parts along `axis`: of one element each by default (without the axis if not `keepdims`), of the size `split` (the last may
    be smaller) where it is a scalar, of the sizes `split` where it is a list."""
    size = input.shape[axis]
    if split is not None and split.ndim == 0 and split < 1:
        raise ValueError(f"split is {split}, expected at least 1")
    if split is None or split.ndim == 0:
        ends = np.arange(1 if split is None else int(split), size, 1 if split is None else int(split))
    elif split.sum() != size or np.any(split < 0):
        raise ValueError(f"split {split.tolist()} does not sum up to {size}")
    else:
        ends = np.cumsum(split)[:-1]
    parts = np.split(input, ends, axis) if size or split is not None else []
    return [np.squeeze(p, axis) for p in parts] if split is None and not keepdims else list(parts)


# ---- optionals


def _optional_type(call: OnnxCall) -> None:
    """The attribute `type` of ONNX becomes the element's type; readers may give it as the optional type itself."""
    t = call.attrs.get("type")
    if isinstance(t, OptionalType):
        call.attrs["type"] = t.elem


def _infer_optional(c: InferContext) -> Type:
    if c.types and c.types[0] is not None:
        return OptionalType(c.types[0])
    if c.attr("type") is None:
        raise c.error("neither a value nor a type is given, expected one of them")
    return OptionalType(c.attr("type"))


@op(
    "optional",
    onnx=Onnx("Optional", since=15, adapt=_optional_type),
    infer=_infer_optional,
    traits=("host",),
    dtypes={"input": ANY},
)
def optional(input=None, *, type=None):
    """An optional that holds the operand; an absent one of the element type `type` without an operand."""
    return input


def _infer_get_element(c: InferContext) -> list[Type | None]:
    t = c.types[0]
    return [refreshed(c, t.elem) if isinstance(t, OptionalType) else t]


@op(
    "optional_get_element",
    onnx=Onnx("OptionalGetElement", since=15),
    traits=("host",),
    infer=_infer_get_element,
)
def optional_get_element(input):
    """The value in an optional; a tensor or a sequence stands for itself. Raises ValueError for an absent one."""
    if input is None:
        raise ValueError("the optional is absent, expected a value")
    return input


@op("optional_has_element", onnx=Onnx("OptionalHasElement", since=15), infer=lambda c: TensorType(BOOL, ()), traits=("host",))
def optional_has_element(input=None):
    """Whether there is a value."""
    return np.array(input is not None)
