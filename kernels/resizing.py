"""Resize, as far as all targets see it alike: tables of indices and weights for each axis, made when the node is bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..ir.core import Node
from ..ir.ops import resize as rules
from ..ir.ops.sampling import narrow
from ..ir.types import FLOATS, INTEGERS, DType
from .operands import host_value, refuse_strings
from .spec import Call, Dims, Refusal


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


def taps_of(node: Node, host: set[int]) -> Callable[[Call], dict[int, Taps]]:
    """How `bind` finds the taps of each axis in memory that changes; operands that it reads are added to `host`."""
    x = node.operands[0].tensor  # type: ignore[union-attr]
    roi, scales, sizes = (host_value(node, i, host) for i in (1, 2, 3))

    def find(call: Call) -> dict[int, Taps]:
        shape = call.operands[0] or ()
        taps = axis_taps(node, shape, roi(call), scales(call), sizes(call))
        return {i: taps[a] for i, a in enumerate(x.layout.perm if x.layout else range(len(shape))) if a in taps}

    return find


def refuse_resize(node: Node) -> Refusal | None:
    """Why no kernel serves a resize."""
    x, y = node.operands[0].tensor, node.results[0].tensor  # type: ignore[union-attr]
    if x.layout != y.layout:
        return Refusal("operand and result lie in different layouts", {"x": x, "y": y})
    refusal = refuse_strings(node)
    if refusal or x.dtype.itemsize > 8:
        return refusal or Refusal("elements of 16 bytes have no kernel", {"x": x})
    if node.attr("mode") != "nearest" and (x.dtype not in FLOATS | INTEGERS or (x.dtype.is_integer and x.dtype.bits == 64)):
        return Refusal("there is no interpolating kernel for this type", {"x": x})
    return None


def real_of(node: Node) -> np.dtype:
    """The type that a resize interpolates in."""
    dtype = node.operands[0].tensor.dtype  # type: ignore[union-attr]
    return np.dtype(np.float64 if dtype.bits == 64 or dtype.is_integer else np.float32)


def fill_of(node: Node) -> bytes:
    """What stands outside of the operand: 8 bytes that begin with an element or, in interpolation, a number of `real_of`."""
    if node.attr("coordinate_transformation_mode") != "tf_crop_and_resize":
        return bytes(8)
    value, dtype = np.float64(node.attr("extrapolation_value")), node.operands[0].tensor.dtype  # type: ignore[union-attr]
    raw = narrow(value, dtype.np) if node.attr("mode") == "nearest" else value.astype(real_of(node))
    return raw.tobytes().ljust(8, b"\0")


def narrowed(dtype: DType) -> str:
    """What is stored for an interpolated `v`."""
    if not dtype.is_integer:
        return "v"
    info = np.iinfo(dtype.np)
    return f"to_{dtype}(minimum(maximum(trunc(v), f64({info.min})), f64({info.max})))"
