"""Resize on random modes, against ONNX Runtime; the forms of older opsets."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import InferenceError
from graphmill.ir.op import OPS, Example, InferContext, OnnxCall
from graphmill.ir.ops.resize import resize
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, TensorType
from ort_peer import agrees

COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"]


def resize_case(rng: np.random.Generator) -> Example:
    mode, coordinates = str(rng.choice(["nearest", "linear", "cubic"])), str(rng.choice(COORDINATES))
    if (mode, coordinates) == ("nearest", "half_pixel_symmetric"):
        mode = "linear"  # the middle of the axis lies at a tie, which rounding errors decide
    x = rng.normal(size=(1, 2, *rng.integers(3, 8, 2))).astype(np.float32)
    attrs: dict = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attrs["nearest_mode"] = str(rng.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
    elif coordinates != "tf_crop_and_resize":
        attrs["antialias"] = int(rng.integers(2))
    if mode == "cubic" and not attrs.get("antialias"):
        attrs["exclude_outside"] = int(rng.integers(2))
    roi = np.array([0, 0, *rng.uniform(0, 0.4, 2), 1, 1, *rng.uniform(0.6, 1.2, 2)], np.float32)
    crop = coordinates == "tf_crop_and_resize"
    # ONNX Runtime copies an axis whose length stays, whatever its scale and region.
    if crop or rng.random() < 0.5:
        sizes = np.array([1, 2, *(int(rng.choice([n for n in range(1, 12) if n != size])) for size in x.shape[2:])], np.int64)
        return Example((x, roi if crop else None, None, sizes), attrs)
    scales = np.array([1, 1, *(rng.uniform(*rng.choice([(0.4, 0.95), (1.4, 3)])) for _ in range(2))], np.float32)
    return Example((x, None, scales), attrs)


def test_random_modes() -> None:
    rng = np.random.default_rng(6)
    assert sum(agrees("resize", resize_case(rng)) for _ in range(250)) >= 150


def upgraded(op_type: str, opset: int, x: np.ndarray, inputs: list, attrs: dict, known: bool = True) -> np.ndarray:
    """The result of an old node on x, brought to the newest form as the reader does it."""
    form = next(f for f in resize.onnx if f.op_type == op_type)
    call = OnnxCall(op_type, "", opset, "n", [x, *inputs], dict(attrs), 1, lambda a: a, lambda h: h if known else None,
                    np.ndim, lambda h: F32)  # fmt: skip
    for version, change in sorted(form.before.items()):
        if opset < version:
            change(call)
    if form.adapt:
        form.adapt(call)
    return resize.reference(*call.inputs, **{k: a.default for k, a in resize.attrs.items()} | call.attrs)


X = np.array([[[[1, 2, 3, 4], [5, 6, 7, 8]]]], np.float32)
UP, DOWN = np.array([1, 1, 2, 2], np.float32), np.array([1, 1, 0.6, 0.6], np.float32)


@pytest.mark.parametrize("op_type, opset, inputs, attrs", [
    ("Upsample", 1, [], {"height_scale": 2.0, "width_scale": 2.0}),
    ("Upsample", 7, [], {"scales": (1.0, 1.0, 2.0, 2.0)}),
    ("Upsample", 9, [UP], {"mode": "nearest"}),
    ("Resize", 10, [UP], {}),
])  # fmt: skip
def test_old_upsampling_repeats(op_type: str, opset: int, inputs: list, attrs: dict) -> None:
    np.testing.assert_array_equal(upgraded(op_type, opset, X, inputs, attrs), X.repeat(2, 2).repeat(2, 3))


@pytest.mark.parametrize("known", [True, False])
def test_resize_10_rounds_up_where_it_shrinks(known: bool) -> None:
    """The output that ONNX's test data gave for opset 10."""
    np.testing.assert_array_equal(upgraded("Resize", 10, X, [DOWN], {}, known), [[[[1, 3]]]])


def test_upsample_linear_is_asymmetric() -> None:
    y = upgraded("Upsample", 9, X, [UP], {"mode": "linear"})
    np.testing.assert_array_equal(y[0, 0, 0], [1, 1.5, 2, 2.5, 3, 3.5, 4, 4])


def infer(shape: tuple, *known: np.ndarray | None, **attrs: object) -> tuple:
    types = [TensorType(F32, shape), None, *(None if k is None else TensorType(F32, k.shape) for k in known)]
    c = InferContext(resize, types, {k: a.default for k, a in resize.attrs.items()} | attrs, 1, [None, None, *known])
    return resize.infer(c).shape


def test_symbolic_sizes_scale() -> None:
    n = symbol("n")
    assert infer((n, 3, n, 8), np.array([1, 1, 2, 0.5], np.float32)) == (n, 3, 2 * n, 4)
    assert infer((n, 3, n, 8), np.array([1, 1, 1.5, 1], np.float32))[2] == (3 * n) // 2


def test_one_of_scales_and_sizes() -> None:
    with pytest.raises(InferenceError, match="none of scales and sizes given, expected one of them"):
        infer((1, 1, 4, 4))
    with pytest.raises(InferenceError, match=r"a scale of -1\.0, expected a positive number"):
        infer((1, 1, 4, 4), np.array([1, 1, 2, -1], np.float32))
    assert OPS["resize"] is resize
