"""Resizing by interpolation along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..limits import claim
from ..op import InferContext, Onnx, OnnxCall, attr_to_input, ex, op
from ..recording import opaque
from ..shapes import normalize_axes
from ..symbols import DimLike, floordiv
from ..types import BOOL, COMPLEX, F16, F32, F64, I64, NUMERIC, STR, TensorType
from .common import drop_empty, expect_choice, expect_shape
from .examples import rand
from .sampling import cubic_filter, narrow, real

COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
               "tf_half_pixel_for_nn")  # fmt: skip
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "floor_up_ceil_down")


# ---- sizes ------------------------------------------------------------------------------------------------------


def _scaled(size: int, scale: float) -> int:
    """floor(size * scale) in f32, as ONNX's own shape inference computes it."""
    return opaque(_floored, size, float(scale))


def _floored(size: int, scale: float) -> int:
    return int(np.floor(np.float32(size) * np.float32(scale)))


def _common_scale(in_sizes: Sequence[int], sizes: Sequence[int], policy: str) -> float:
    scales = [s / d for s, d in zip(sizes, in_sizes, strict=True)]
    return min(scales) if policy == "not_larger" else max(scales)


def infer_resize(c: InferContext) -> TensorType:
    expect_choice(c, "mode", "nearest", "linear", "cubic")
    expect_choice(c, "coordinate_transformation_mode", *COORDINATES)
    expect_choice(c, "nearest_mode", *NEAREST)
    expect_choice(c, "keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller")
    if c.attr("mode") != "nearest" and c.t(0).dtype in (STR, BOOL):
        raise c.error(f"mode = {c.attr('mode')!r} on {c.t(0)}, expected 'nearest' for {c.t(0).dtype}")
    x = c.shape(0)
    if x is None:
        return c.t(0)
    axes = normalize_axes(c, c.attr("axes"), len(x)) or tuple(range(len(x)))
    given = [i for i in (2, 3) if c.has(i) and c.shape(i) != (0,)]
    if not given or (len(given) == 2 and c.shape(2) is not None and c.shape(3) is not None):
        raise c.error(f"{'both' if given else 'none'} of scales and sizes given, expected one of them")
    new = _resized(c, [x[a] for a in axes], given[-1]) if len(given) == 1 else [c.symbol() for _ in axes]
    out = list(x)
    for a, d in zip(axes, new, strict=True):
        out[a] = d
    return c.t(0).with_(shape=tuple(out))


def _resized(c: InferContext, dims: list[DimLike], i: int) -> list[DimLike]:
    """The new sizes of the axes that are resized, from scales (i = 2) or sizes (i = 3)."""
    expect_shape(c, i, (len(dims),), "one entry an axis")
    scales, data = (c.data(i), None) if i == 2 else (None, c.ints(i))
    if scales is not None:
        return [_scaled_dim(c, d, float(s)) for d, s in zip(dims, scales, strict=True)]
    if data is None:
        return [c.symbol() for _ in dims]
    if any(isinstance(s, int) and s < 0 for s in data):
        raise c.error(f"sizes = {data}, expected none below zero")
    policy = c.attr("keep_aspect_ratio_policy")
    if policy == "stretch":
        return [c.symbol() if s is None else s for s in data]
    old, new = [d for d in dims if isinstance(d, int)], [s for s in data if isinstance(s, int)]
    if len(old) != len(dims) or len(new) != len(dims) or 0 in old:
        return [c.symbol() for _ in dims]
    scale = _common_scale(old, new, policy)
    return [int(scale * d + 0.5) for d in old]


def _scaled_dim(c: InferContext, d: DimLike, scale: float) -> DimLike:
    if not scale > 0 or scale == float("inf"):
        raise c.error(f"a scale of {scale}, expected a positive number")
    if isinstance(d, int):
        return _scaled(d, scale)
    exact = Fraction(scale)
    return floordiv(d * exact.numerator, exact.denominator) if exact.denominator <= 64 else c.symbol()


# ---- one axis ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axis:
    """How one axis is resized. `width` is the length asked for, a fraction where it comes from a scale."""

    size: int
    out: int
    scale: np.float32
    width: float
    roi: tuple[float, float]


def _source(a: _Axis, mode: str) -> np.ndarray:
    """Where the elements of the resized axis lie in the original one (f32 throughout, as in ONNX Runtime)."""
    x, one, half = np.arange(a.out, dtype=np.float32), np.float32(1), np.float32(0.5)
    if mode == "asymmetric":
        return x / a.scale
    if mode == "align_corners":
        # The length of the resized tensor, as the standard's text, torch and ONNX Runtime have it; two of its test cases do not.
        return x * np.float32(a.size - 1) / np.float32(a.out - 1) if a.out != 1 else np.zeros_like(x)
    if mode == "tf_crop_and_resize":
        start, end, last = np.float32(a.roi[0]), np.float32(a.roi[1]), np.float32(a.size - 1)
        if a.out > 1:
            return start * last + x * (end - start) * last / np.float32(a.out - 1)
        return np.full_like(x, half * (start + end) * last)
    if mode == "tf_half_pixel_for_nn":
        return (x + half) / a.scale
    if mode == "pytorch_half_pixel" and a.out <= 1:
        return np.zeros_like(x)
    offset = np.float32(0)
    if mode == "half_pixel_symmetric":
        offset = np.float32(a.size / 2) * (one - np.float32(a.out / a.width))
    return offset + (x + half) / a.scale - half


def _nearest(at: np.ndarray, mode: str, scale: float) -> np.ndarray:
    if mode == "round_prefer_floor":
        at = np.ceil(at - np.float32(0.5))
    elif mode == "round_prefer_ceil":
        at = np.floor(at + np.float32(0.5))
    else:
        at = np.floor(at) if mode == "floor" or (mode == "floor_up_ceil_down" and scale >= 1) else np.ceil(at)
    return at.astype(np.int64)


def _filter(at: np.ndarray, a: _Axis, cubic: bool, coeff: float, antialias: int, exclude: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights [out, taps] of the elements that make up each one of the resized axis.

    Antialiasing stretches the filter by 1 / scale. Indices beyond the edge are those of the edge; `exclude` gives them no weight.
    """
    shrink = min(float(a.scale), 1.0) if antialias else 1.0
    reach = int(np.ceil((2 if cubic else 1) / shrink))
    claim(6 * 8 * 2 * reach * len(at))
    low = np.floor(at).astype(np.int64)
    index = low[:, None] + np.arange(1 - reach, reach + 1)
    distance = (index - at[:, None].astype(np.float64)) * shrink
    weight = cubic_filter(distance, coeff) if cubic else np.maximum(1 - np.abs(distance), 0)
    if exclude:
        weight = np.where((index >= 0) & (index < a.size), weight, 0)
    if exclude or shrink < 1:
        total = weight.sum(axis=1, keepdims=True)
        weight = weight / np.where(total == 0, 1, total)
    return np.clip(index, 0, a.size - 1), weight


def _interpolate(x: np.ndarray, axis: int, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    shape = (-1,) + (1,) * (x.ndim - axis - 1)
    real = np.float64 if x.dtype in (np.float64, np.complex128) else np.float32
    out = np.zeros((), x.dtype)
    for i, w in zip(index.T, weight.astype(real).T, strict=True):
        out = out + np.take(x, i, axis) * w.reshape(shape)
    return out


# ---- resize -----------------------------------------------------------------------------------------------------


def _before_11(call: OnnxCall) -> None:
    """Opset 10 had no roi, no coordinate modes, and rounded up where it shrank."""
    call.inputs.insert(1, None)
    call.attrs.setdefault("coordinate_transformation_mode", "asymmetric")
    scales = call.array(call.inputs[2])
    call.attrs["nearest_mode"] = "floor_up_ceil_down"
    if scales is not None and (np.all(scales >= 1) or np.all(scales <= 1)):
        call.attrs["nearest_mode"] = "floor" if np.all(scales >= 1) else "ceil"


def _upsample_before_7(call: OnnxCall) -> None:
    height, width = call.attrs.pop("height_scale"), call.attrs.pop("width_scale")
    call.attrs["scales"] = (1.0, 1.0, height, width)


def _upsample(call: OnnxCall) -> None:
    call.inputs.insert(1, None)
    mode = call.attrs.get("mode", "nearest")
    call.attrs.update(mode="linear" if mode in ("bilinear", "trilinear") else mode, coordinate_transformation_mode="asymmetric",
                      nearest_mode="floor")  # fmt: skip


def _export(call: OnnxCall) -> None:
    drop_empty(call)
    gone = ("nearest_mode", "floor_up_ceil_down", 10), ("coordinate_transformation_mode", "tf_half_pixel_for_nn", 12)
    for name, old, last in gone:
        if call.attrs.get(name) == old and call.opset > last:
            raise ValueError(f"{name} = {old!r} has no form in opset {last + 1} and above")


def _forms() -> tuple[Onnx, ...]:
    upsample = {7: _upsample_before_7, 9: attr_to_input("scales", 1, np.float32)}
    return Onnx("Resize", since=10, before={11: _before_11}, export=_export), Onnx("Upsample", before=upsample, adapt=_upsample)


def _scales(*v: float) -> np.ndarray:
    return np.array(v, np.float32)


def _sizes(*v: int) -> np.ndarray:
    return np.array(v, np.int64)


def _examples() -> list:
    x, up = rand(1, 2, 4, 5), _scales(1, 1, 2, 1.5)
    words = np.array([["a", "b"], ["c", "d"]], object)
    crop = np.array([0, 0, 0.4, 0.6, 1, 1, 0.6, 1.2], np.float32)
    return [
        ex(x, None, up, name="nearest"),
        ex(x, None, up, mode="linear", name="linear"),
        ex(x, None, up, mode="cubic", name="cubic"),
        ex(x, None, _scales(1, 1, 0.5, 0.8), mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5, name="exclude_outside"),
        ex(x, None, _scales(1, 1, 0.5, 0.6), mode="linear", antialias=1, name="antialias"),
        ex(x, None, _scales(1, 1, 0.5, 0.6), mode="cubic", antialias=1, name="antialias_cubic"),
        ex(x, None, None, _sizes(7, 3), mode="linear", axes=(-2, -1), coordinate_transformation_mode="align_corners",
           name="align"),
        ex(x, None, None, _sizes(1, 2, 9, 9), nearest_mode="floor", coordinate_transformation_mode="asymmetric", name="floor"),
        ex(x, None, None, _sizes(9, 8), axes=(3, 2), keep_aspect_ratio_policy="not_larger", name="not_larger"),
        ex(x, None, None, _sizes(9, 8), axes=(2, 3), keep_aspect_ratio_policy="not_smaller", name="not_smaller"),
        ex(x, crop, None, _sizes(1, 2, 3, 3), mode="linear", coordinate_transformation_mode="tf_crop_and_resize",
           extrapolation_value=10.0, name="crop"),
        ex(x, None, None, _sizes(1, 2, 1, 3), mode="linear", coordinate_transformation_mode="pytorch_half_pixel", name="to_one"),
        ex(x, None, _scales(1, 1, 0.7, 2.3), mode="linear", coordinate_transformation_mode="half_pixel_symmetric",
           name="symmetric"),
        ex(words, None, _scales(2, 1.5), nearest_mode="ceil", name="strings"),
        ex(rand(1, 1, 4, 4, dtype=np.uint8, hi=200), None, _scales(1, 1, 2, 2), name="u8"),
        ex(x.astype(np.float16), None, _scales(1, 1, 2, 2), mode="linear", name="f16"),
        ex(x[:0], None, up, mode="linear", name="empty_batch"),
    ]  # fmt: skip


@op("resize", onnx=_forms(), infer=infer_resize, examples=_examples,
    dtypes={"x": NUMERIC | COMPLEX | {BOOL, STR}, "roi": {F16, F32, F64}, "scales": {F32}, "sizes": {I64}},
    tolerance=(2e-5, 5e-6))  # fmt: skip
def resize(x, roi=None, scales=None, sizes=None, *, antialias=0, axes=(), coordinate_transformation_mode="half_pixel",
           cubic_coeff_a=-0.75, exclude_outside=0, extrapolation_value=0.0, keep_aspect_ratio_policy="stretch",
           mode="nearest", nearest_mode="round_prefer_floor"):  # fmt: skip
    """x resized to `sizes` or by `scales` (one of them; empty counts as absent) along `axes`, all by default.

    Kept from older opsets: the coordinates tf_half_pixel_for_nn (opset 11), and floor_up_ceil_down (opset 10), nearest
    indices that are rounded down where the axis grows and up where it shrinks. Integers are cut off after interpolation.
    """
    which = [a % x.ndim for a in axes] or list(range(x.ndim))
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    plan = _plan([x.shape[a] for a in which], roi if crop else None, scales, sizes, keep_aspect_ratio_policy)
    out, outside = x if mode == "nearest" else real(x), []
    for axis, a in zip(which, plan, strict=True):
        if a.out == a.size and a.scale == 1 and not crop:
            continue
        at = _source(a, coordinate_transformation_mode)
        if crop:
            outside.append((axis, (at < 0) | (at > a.size - 1)))
        if mode == "nearest":
            out = np.take(out, np.clip(_nearest(at, nearest_mode, a.scale), 0, a.size - 1), axis)
        else:
            out = _interpolate(out, axis, *_filter(at, a, mode == "cubic", cubic_coeff_a, antialias, exclude_outside))
    for axis, mask in outside:
        out = np.where(mask.reshape((-1,) + (1,) * (x.ndim - axis - 1)), extrapolation_value, out)
    return narrow(out, x.dtype)


def _plan(dims: list[int], roi: np.ndarray | None, scales: np.ndarray | None, sizes: np.ndarray | None, policy: str) -> list[_Axis]:
    n = len(dims)
    regions = [(float(roi[i]), float(roi[n + i])) for i in range(n)] if roi is not None and roi.size else [(0.0, 1.0)] * n
    if scales is not None and scales.size:
        if not np.all(scales > 0):
            raise ValueError(f"scales = {scales.tolist()}, expected positive numbers")
        axes = zip(dims, scales, regions, strict=True)
        return [_Axis(d, _scaled(d, s), s, float(s * np.float32(d)), r) for d, s, r in axes]
    if sizes is None or not sizes.size:
        raise ValueError("none of scales and sizes given, expected one of them")
    out = [int(s) for s in sizes]
    if policy == "stretch" or 0 in dims:
        return [_Axis(d, s, np.float32(s / d if d else 1), s, r) for d, s, r in zip(dims, out, regions, strict=True)]
    scale = _common_scale(dims, out, policy)
    return [_Axis(d, int(scale * d + 0.5), np.float32(scale), scale * d, r) for d, r in zip(dims, regions, strict=True)]
