"""Data movement that needs no copy.

What a `Mover` copies is a list of boxes. Where all of a result is one box whose elements lie in the operand as they would in the
result, it is a *piece* of the operand's memory (a slice or split along the outermost axis, a transpose of axes of one element).
The other way round, an operand of which all elements lie in the result as they lie in the operand (of a concatenation along the
outermost axis) need not be copied if it is computed where the result wants it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..ir.core import Value
from ..kernels.boxes import Box
from .bound import Place
from .steps import Step, ViewStep


def kept_values(steps: Sequence[Step]) -> set[Value]:
    """What outlives the steps, and what that is a view of: it gets memory of its own, of its own size."""
    freed = {v for s in steps for v in s.frees}
    kept = {v for s in steps for v in s.node.results if v not in freed}
    for s in reversed(steps):
        if isinstance(s, ViewStep) and s.node.results[0] in kept:
            kept.add(s.node.operands[0])  # type: ignore[arg-type]  # a view has an operand
    return kept


def piece(boxes: Sequence[Box], operands: Sequence[Place], shape: tuple[int, ...], dtype: np.dtype) -> Place | None:
    """The place of a result that consists of these boxes, if it is a piece of an operand."""
    if len(boxes) != 1 or not isinstance(boxes[0].src, int):
        return None
    operand = operands[boxes[0].src]
    if (operand.buffer is None and operand.outer is None) or not _lies_alike(boxes[0]):
        return None
    return Place(shape, dtype, operand.buffer, operand.outer, at=operand.at + boxes[0].src_at * dtype.itemsize)


def compute_within(operand: Place, result: Place, box: Box) -> bool:
    """Gives an operand its place in the result that it is copied to by the box, if that is possible; whether it was."""
    buffer, whole = operand.buffer, result.buffer
    if buffer is None or whole is None or buffer.within is not None:
        return False
    nbytes = math.prod(box.dims) * operand.dtype.itemsize
    if not _lies_alike(box) or box.src_at != 0 or operand.at != 0 or not nbytes == operand.nbytes == buffer.nbytes:
        return False
    buffer.within, buffer.at = whole, box.dst_at * operand.dtype.itemsize
    whole.first = min(whole.first, buffer.first)
    return True


def _lies_alike(box: Box) -> bool:
    return all(s == d or n == 1 for n, s, d in zip(box.dims, box.src_strides, box.dst_strides, strict=True))
