"""Shape arithmetic that the `infer` functions of several families share."""

from __future__ import annotations

from collections.abc import Sequence

from .op import InferContext
from .symbols import DimLike, ceildiv, dim_max, floordiv
from .types import Shape


def normalize_axes(c: InferContext, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """`axes` counted from the front, in their own order. Raises InferenceError for one out of range or given twice."""
    out = tuple(c.axis(a, rank) for a in axes)
    if len(set(out)) != len(out):
        raise c.error(f"axes {list(axes)} name an axis twice")
    return out


def reduced_shape(shape: Shape, axes: Sequence[int], keepdims: bool) -> Shape:
    """`shape` after reducing the (normalized) axes."""
    if keepdims:
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def permuted(shape: Shape, perm: Sequence[int]) -> Shape:
    return tuple(shape[p] for p in perm)


def window_out(size: DimLike, kernel: DimLike, stride: int, dilation: int, pad: DimLike, ceil_mode: bool = False) -> DimLike:
    """How many windows fit into one spatial axis of `size` padded by `pad` in all. Never below zero."""
    span = size + pad - ((kernel - 1) * dilation + 1)
    out = (ceildiv(span, stride) if ceil_mode else floordiv(span, stride)) + 1
    return dim_max(out, 0)
