"""What a reduction computes, as data: the numpy reference and the kernels of every target come from one record.

    result = finish(combine over all reduced elements of map(x), count)

The accumulator has the element type of `accumulator(dtype)`: f32 for f16 and bf16, else the operand's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .scalar import Expr, arg, cast
from .scalar_numpy import evaluate
from .types import BF16, BOOL, F16, F32, F64, DType, dtype_of


def _same(x: Expr) -> Expr:
    return x


def _first(acc: Expr, count: Expr) -> Expr:
    return acc


@dataclass(frozen=True)
class Reduction:
    """One reduction. `map` is applied to each element (as the accumulator's type), `combine` is a scalar primitive (add, mul, max,
    min), `finish` takes the accumulator and the number of reduced elements as expressions of the accumulator's type.

    With `shift` the greatest element (0 where that is not finite) is subtracted from every element before `map`, and added to
    what `finish` gives: log-sum-exp without overflow.
    """

    combine: str
    map: Callable[[Expr], Expr] = _same
    finish: Callable[[Expr, Expr], Expr] = _first
    shift: bool = False

    @staticmethod
    def accumulator(dtype: DType) -> DType:
        """The element type in which operands of `dtype` are accumulated."""
        return F32 if dtype in (F16, BF16) else dtype

    def identity(self, dtype: DType) -> Any:
        """What `combine` starts from, and what it gives for no elements at all, for an accumulator of `dtype`."""
        if self.combine in ("add", "mul"):
            return 0 if self.combine == "add" else 1
        least = self.combine == "max"
        if dtype is BOOL:
            return not least
        if dtype.is_float:
            return -np.inf if least else np.inf
        info = ml_dtypes.iinfo(dtype.np)
        return info.min if least else info.max


_REDUCE: dict[str, Any] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def reduce_array(r: Reduction, x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
    """The numpy reference of a reduction over normalized axes. Sums of f32 are accumulated in f64."""
    dtype = dtype_of(x)
    acc = r.accumulator(dtype)
    wide = x.astype(acc.np, copy=False)
    peak = _peak(wide, axes) if r.shift else None
    mapped = evaluate(r.map(arg(0, acc)), [wide if peak is None else wide - peak])
    exact = F64 if acc is F32 and r.combine in ("add", "mul") else acc
    out = _REDUCE[r.combine].reduce(mapped, axis=axes, keepdims=keepdims, dtype=exact.np, initial=r.identity(acc))
    count = np.asarray(int(np.prod([x.shape[a] for a in axes]))).astype(exact.np)
    result = np.asarray(evaluate(r.finish(arg(0, exact), arg(1, exact)), [np.asarray(out), count]))
    if peak is not None:
        result = result + (peak if keepdims else np.squeeze(peak, axes))
    return np.asarray(evaluate(cast(arg(0, exact), dtype), [result]))


def _peak(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    top = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    return np.where(np.isfinite(top), top, np.zeros((), x.dtype))
