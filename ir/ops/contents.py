"""Known contents of small integer tensors (shape arithmetic), and checks that the `infer` functions of several families share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..op import InferContext
from ..symbols import DimLike, prove_ne
from ..symbols import product as exact_product
from ..types import ANY, BF16, BOOL, COMPLEX, I32, I64, NUMERIC, STR, DType, Shape, TensorType

MAX_CONTENTS = 1024  # entries that shape arithmetic follows; real shapes have few
MAX_RANK = 64  # numpy's
MAX_ELEMENTS = (1 << 63) - 1

COMMON = NUMERIC | COMPLEX | {BOOL, STR}  # the sixteen element types that most data movement takes
COMMON_BUT_BF16 = COMMON - {BF16}
MOVABLE = frozenset(d for d in ANY if d.bits != 6)  # and all that views, shapes and padding take
INDEX = frozenset({I64, I32})


def contents(c: InferContext, i: int) -> np.ndarray | None:
    """The contents of the integer operand i as an object array of int | Dim | None; None where unknown or too large to follow."""
    d = c.data(i)
    if d is None or d.size > MAX_CONTENTS or c.t(i).dtype not in INDEX:
        return None
    return d if d.dtype == object else d.astype(object)


def follow(fn: Callable[[InferContext, np.ndarray], np.ndarray | None]) -> Callable[[InferContext], np.ndarray | None]:
    """A `dims` function that moves the entries of operand 0 about: `fn` is called only where those are known."""

    def dims(c: InferContext) -> np.ndarray | None:
        data = contents(c, 0)
        return None if data is None else fn(c, data)

    return dims


def checked(c: InferContext, shape: Iterable[DimLike]) -> Shape:
    """`shape`, after checking what is known of it. Raises InferenceError for a negative size, or for more elements than 2**63."""
    shape = tuple(shape)
    if len(shape) > MAX_RANK:
        raise c.error(f"the result would have rank {len(shape)}; at most {MAX_RANK} is supported")
    count = 1
    for d in shape:
        if isinstance(d, int):
            if d < 0:
                raise c.error(f"the result would have the shape {list(shape)}; no size may be negative")
            count *= d
    if count > MAX_ELEMENTS:
        raise c.error(f"the result would have the shape {list(shape)}, more elements than can be counted")
    return shape


def product(c: InferContext, dims: Iterable[DimLike]) -> DimLike:
    """The product of dims; a new symbol where it has too many terms to be written down."""
    dims = list(dims)
    try:
        return exact_product(dims)
    except OverflowError:
        return c.symbol()


def symbols(c: InferContext, count: DimLike | None) -> Shape | None:
    """A shape of that many new symbols, None where the count is not known."""
    if not isinstance(count, int):
        return None
    if count > MAX_RANK:
        raise c.error(f"the result would have rank {count}; at most {MAX_RANK} is supported")
    return tuple(c.symbol() for _ in range(count))


def length(c: InferContext, i: int) -> DimLike | None:
    """The number of elements of the 1-D operand i (a scalar counts as one); None where unknown. Raises for a higher rank."""
    shape = c.shape(i)
    if shape is None:
        return None
    if len(shape) > 1:
        raise c.error(f"{c.op.operand_name(i)} has the type {c.t(i)}, expected a 1-D tensor")
    return shape[0] if shape else 1


def same_dtype(c: InferContext, *indices: int) -> DType:
    """The element type that the present ones of these operands share. Raises InferenceError where they differ."""
    first = indices[0]
    for i in indices[1:]:
        if c.has(i) and c.t(i).dtype != c.t(first).dtype:
            a, b = c.op.operand_name(first), c.op.operand_name(i)
            raise c.error(f"{a} is {c.t(first).dtype} and {b} is {c.t(i).dtype}; expected the same element type")
    return c.t(first).dtype


def same_rank(c: InferContext, *indices: int) -> int | None:
    """The rank that the operands share, None where none of them is known. Raises InferenceError where known ranks differ."""
    ranks = {c.rank(i) for i in indices} - {None}
    if len(ranks) > 1:
        types = ", ".join(str(c.t(i)) for i in indices)
        raise c.error(f"operands of the types {types}; expected one rank")
    return ranks.pop() if ranks else None


def want_rank(c: InferContext, i: int, *ranks: int) -> None:
    """Raises InferenceError where the rank of operand i is known and is none of `ranks`."""
    if c.rank(i) is not None and c.rank(i) not in ranks:
        raise c.error(f"{c.op.operand_name(i)} has the type {c.t(i)}; expected rank {' or '.join(map(str, ranks))}")


def agree(c: InferContext, a: DimLike, b: DimLike, what: str) -> DimLike:
    """One of two sizes that must be equal, the constant one if there is one. Raises InferenceError where they surely differ."""
    if prove_ne(a, b):
        raise c.error(f"{what}: sizes {a} and {b} differ")
    return b if isinstance(b, int) else a


def choice(c: InferContext, name: str, allowed: Sequence[object]) -> object:
    """The attribute, which must be one of `allowed`."""
    value = c.attr(name)
    if value not in allowed:
        raise c.error(f"{name} = {value!r}; expected one of {', '.join(map(repr, allowed))}")
    return value


def entry(c: InferContext, i: int) -> DimLike | None:
    """The only entry of a scalar or one-element integer operand, None where unknown or absent."""
    ints = c.ints(i)
    if ints is None:
        return None
    if len(ints) != 1:
        raise c.error(f"{c.op.operand_name(i)} has {len(ints)} elements, expected one")
    return ints[0]


def tensor(c: InferContext, shape: Iterable[DimLike] | None, dtype: DType) -> TensorType:
    """A tensor type whose shape has been checked."""
    return TensorType(dtype, None if shape is None else checked(c, shape))


def known_ints(c: InferContext, i: int) -> list[int] | None:
    """The contents of the integer operand i where every entry is a number; None where any is not, or the operand is absent."""
    found = c.ints(i)
    return None if found is None or not all(isinstance(x, int) for x in found) else found  # type: ignore[return-value]
