"""What the operators over windows, sequences and heads share: checks of operand shapes and the type that sums are held in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..op import InferContext, OnnxCall
from ..symbols import DimLike, prove_ne
from ..types import Shape, dtype_of


def wide(x: np.ndarray) -> np.ndarray:
    """`x` in the type that its sums are held in: f16, bf16 and smaller floats in f32, all others in their own."""
    d = dtype_of(x)
    return x.astype(np.float32) if d.is_float and d.bits < 32 else x


def same_dtype(c: InferContext, *operands: int) -> None:
    """Raises InferenceError unless the operands (those that are present) have one element type."""
    present = [i for i in operands if c.has(i)]
    for i in present[1:]:
        if c.t(i).dtype is not c.t(present[0]).dtype:
            raise c.error(f"input {c.op.operand_name(i)} has type {c.t(i)}, expected elements of {c.t(present[0]).dtype} "
                          f"as in input {c.op.operand_name(present[0])}")  # fmt: skip


def expect_shape(c: InferContext, i: int, expected: Sequence[DimLike | None], why: str = "") -> Shape | None:
    """The shape of operand i if it is present. Raises InferenceError where it surely differs from `expected` (None: any size)."""
    shape = c.shape(i) if c.has(i) else None
    if shape is None:
        return None
    t = c.t(i)
    clash = len(shape) != len(expected) or any(e is not None and prove_ne(d, e) for d, e in zip(shape, expected, strict=True))
    if clash:
        want = ",".join("?" if e is None else str(e) for e in expected)
        raise c.error(f"input {c.op.operand_name(i)} has shape {t}, expected {t.dtype}[{want}]{f' ({why})' if why else ''}")
    return shape


def expect_rank(c: InferContext, i: int, *ranks: int, at_least: int | None = None) -> int | None:
    """The rank of operand i where known. Raises InferenceError where it is not one of `ranks`, or below `at_least`."""
    rank = c.rank(i) if c.has(i) else None
    if rank is None or rank in ranks or (at_least is not None and rank >= at_least):
        return rank
    want = f"at least {at_least}" if at_least is not None else " or ".join(map(str, ranks))
    raise c.error(f"input {c.op.operand_name(i)} has shape {c.t(i)} of rank {rank}, expected rank {want}")


def expect_choice(c: InferContext, name: str, *choices: object) -> None:
    """Raises InferenceError unless the attribute has one of the values."""
    if c.attr(name) not in choices:
        raise c.error(f"{name} = {c.attr(name)!r}, expected one of {', '.join(map(repr, choices))}")


def drop_empty(call: OnnxCall) -> None:
    """An `export` function: an empty list stands for ONNX's default, which only leaving it out says."""
    for name in [k for k, v in call.attrs.items() if isinstance(v, tuple) and not v]:
        del call.attrs[name]
