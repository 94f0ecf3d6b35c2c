"""Resize: where the elements of each resized axis come from, found when the node is bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.core import Node
from ..ir.ops import resize as rules
from ..ir.ops.sampling import narrow
from ..ir.recording import opaque
from ..ir.types import FLOATS, INTEGERS
from .operands import host_value, refuse_strings
from .spec import Call, Dims, Refusal

Bits = tuple[str, bytes] | None  # an array's element type and contents


@dataclass(frozen=True)
class Taps:
    """Where the elements of a resized axis come from, [out, taps] each; index -1 stands for the extrapolation value."""

    index: np.ndarray
    weight: np.ndarray | None = None  # None: nearest


def axis_taps(
    node: Node, shape: Dims, roi: np.ndarray | None, scales: np.ndarray | None, sizes: np.ndarray | None
) -> dict[int, Taps]:
    """The taps of each logical axis that changes."""
    mode, coordinates = node.attr("mode"), node.attr("coordinate_transformation_mode")
    axes = [a % len(shape) for a in node.attr("axes")] or list(range(len(shape)))
    crop, out = coordinates == "tf_crop_and_resize", {}
    plan = rules._plan([shape[a] for a in axes], roi if crop else None, scales, sizes, node.attr("keep_aspect_ratio_policy"))
    for axis, a in zip(axes, plan, strict=True):
        if a.out == a.size and a.scale == 1 and not crop:
            continue
        at = rules._source(a, coordinates)
        if mode == "nearest":
            index, weight = np.clip(rules._nearest(at, node.attr("nearest_mode"), a.scale), 0, a.size - 1)[:, None], None
        else:
            cubic, coeff, antialias = mode == "cubic", node.attr("cubic_coeff_a"), node.attr("antialias")
            index, weight = rules._filter(at, a, cubic, coeff, antialias, node.attr("exclude_outside"))
        if crop:
            index = np.where(((at < 0) | (at > a.size - 1))[:, None], -1, index)
        out[axis] = Taps(index, weight)
    return out


def _table(node: Node, axis: int, real: str, size: int, roi: Bits, scales: Bits, rank: int, *sizes: int) -> tuple[Any, ...]:
    """How many taps each of the `size` elements of a logical axis has, their indices (i32) and their weights (nothing of use where
    the nearest is taken). `sizes`: those of the operand, then those asked for, if any are."""
    given = [None if x is None else np.frombuffer(x[1], x[0]) for x in (roi, scales)]
    taps = axis_taps(node, sizes[:rank], *given, np.array(sizes[rank:]) if sizes[rank:] else None) if size else {}
    found = taps.get(axis) or Taps(np.arange(size)[:, None], None if node.attr("mode") == "nearest" else np.ones((size, 1)))
    weight = np.zeros(1) if found.weight is None else found.weight
    return found.index.shape[1], found.index.astype(np.int32), weight.astype(real)


@dataclass(frozen=True)
class Resize:
    """What is known of a node before its sizes are: `real`, the type that is computed in; the 8 bytes of the number that stands for
    what lies outside of the input; the operands whose contents `taps` reads."""

    nearest: bool
    real: np.dtype
    fill: bytes
    host: frozenset[int]
    taps: Callable[[Call], dict[int, Taps]]  # of each physical axis that changes
    table: Callable[[Call, int, int], tuple[Any, Any, Any]]  # of a physical axis, which has so many elements, as `_table` gives it
    narrow: str  # the text of a result `v` of the computing type as one of the operand's


def resize_of(node: Node) -> Resize | Refusal:
    """The node taken apart."""
    assert node.operands[0] is not None
    x, y, host = node.operands[0].tensor, node.results[0].tensor, set[int]()
    if x.layout != y.layout:
        return Refusal("operand and result lie in different layouts", {"x": x, "y": y})
    nearest, crop = node.attr("mode") == "nearest", node.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    refusal = refuse_strings(node)
    if refusal or x.dtype.itemsize > 8:
        return refusal or Refusal("elements of 16 bytes have no kernel", {"x": x})
    if not nearest and (x.dtype not in FLOATS | INTEGERS or (x.dtype.is_integer and x.dtype.bits == 64)):
        return Refusal("there is no interpolating kernel for this type", {"x": x})
    roi, scales, sizes = (host_value(node, i, host) for i in (1, 2, 3))
    wide = x.dtype.bits == 64 or x.dtype.is_integer
    real = np.dtype(np.float64 if wide else np.float32)
    value = np.float64(node.attr("extrapolation_value"))
    fill = (narrow(value, x.dtype.np) if nearest else value.astype(real)).tobytes().ljust(8, b"\0") if crop else bytes(8)

    def taps(call: Call) -> dict[int, Taps]:
        shape = call.operands[0]
        assert shape is not None
        found = axis_taps(node, shape, roi(call), scales(call), sizes(call))
        perm = x.layout.perm if x.layout else range(len(shape))
        return {i: found[a] for i, a in enumerate(perm) if a in found}

    def table(call: Call, axis: int, size: int) -> tuple[Any, Any, Any]:
        shape = call.operands[0]
        assert shape is not None
        logical, to = x.layout.perm[axis] if x.layout else axis, sizes(call)
        given = [None if a is None else (a.dtype.str, a.tobytes()) for a in (roi(call), scales(call))]
        wanted = () if to is None else to.ravel().tolist()
        return opaque(_table, node, logical, real.str, size, *given, len(shape), *shape, *wanted)

    info = np.iinfo(x.dtype.np) if x.dtype.is_integer and not nearest else None
    text = f"to_{x.dtype}(minimum(maximum(trunc(v), f64({info.min})), f64({info.max})))" if info else "v"
    return Resize(nearest, real, fill, frozenset(host), taps, table, text)
