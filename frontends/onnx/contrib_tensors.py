"""Operators of the domain com.microsoft that move, choose or generate numbers."""

from __future__ import annotations

import numpy as np

from ...ir.core import Value
from ...ir.types import I64
from .contrib_site import Emitter, contrib, only


@contrib("Pad")
def pad(e: Emitter, data: Value, pads: Value, value: Value | None = None, *, mode: str = "constant") -> Value:
    """pads may be given as one row; the value may be one number in a vector."""
    flat = e("reshape", pads, np.array([-1])) if e.rank(pads, "pads") == 2 else pads
    return e("pad", data, flat, None if value is None else e("reshape", value, np.zeros(0, np.int64)), mode=mode)


@contrib("Trilu")
def trilu(e: Emitter, x: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    return e("trilu", x, k, upper=upper)


@contrib("Range")
def range_(e: Emitter, start: Value, limit: Value, delta: Value | None = None) -> Value:
    """Each operand is a scalar or holds one number."""
    step = e.number(1, start, "start") if delta is None else delta
    return e("range", *(e("reshape", v, np.zeros(0, np.int64)) if isinstance(v, Value) else v for v in (start, limit, step)))


@contrib("GatherND")
def gather_nd(e: Emitter, data: Value, indices: Value) -> Value:
    return e("gather_nd", data, indices)


@contrib("ExpandDims")
def expand_dims(e: Emitter, x: Value, axis: Value) -> Value:
    return e("unsqueeze", x, e("reshape", e("cast", axis, to=I64), np.array([1])))


@contrib("Unique")
def unique(e: Emitter, x: Value) -> list:
    """The distinct numbers in the order of their first appearance, where each is found among them, and how often."""
    y, _, inverse, counts = e("unique", x, sorted=0, n_results=4)
    return [y, inverse, counts]


@contrib("GridSample")
def grid_sample(e: Emitter, x: Value, grid: Value, *, align_corners: int = 0, mode: str = "bilinear",
                padding_mode: str = "zeros") -> Value:  # fmt: skip
    """The modes have the names of the first opset that had this operator."""
    modes = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
    only("mode", mode, *modes)
    return e("grid_sample", x, grid, align_corners=align_corners, mode=modes[mode], padding_mode=padding_mode)


@contrib("CDist")
def cdist(e: Emitter, a: Value, b: Value, *, metric: str = "sqeuclidean") -> Value:
    """Distances of the rows of A[M,N] and B[K,N], from their differences: exact where rows are close."""
    only("metric", metric, "sqeuclidean", "euclidean")
    difference = e("sub", e("unsqueeze", a, np.array([1])), e("unsqueeze", b, np.array([0])))
    total = e("reduce_sum", e("mul", difference, difference), np.array([2]), keepdims=0)
    return total if metric == "sqeuclidean" else e("sqrt", total)
