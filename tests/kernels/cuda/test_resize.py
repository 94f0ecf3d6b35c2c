"""Resize on CUDA: modes, coordinates, layouts, types, sizes known early and late."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.ops.examples import rand
from graphmill.ir.ops.resize import COORDINATES, NEAREST
from graphmill.kernels.cuda.target import select

from ..cpu.harness import make_node
from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

MODES = ("nearest", "linear", "cubic")


def own(*args: object, **kw: object) -> Case:
    """A case that this family serves."""
    c = case("resize", *args, **({"rtol": 2e-5, "atol": 5e-6} | kw))  # type: ignore[arg-type]
    assert c.source.variant == "taps", c.what
    return c


def resized(x: np.ndarray, sizes: list[int], layout: Any = None, **attrs: Any) -> Case:
    given = [x, np.zeros(0, np.float32), None, np.array(sizes, np.int64)]
    layouts = [] if layout is None else [layout]
    return case("resize", given, attrs, constants=(1, 3), layouts=layouts, result_layout=layout, rtol=1e-5, atol=1e-5)


def wide_rand(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    x = np.random.default_rng(shape).uniform(-100, 100, shape)
    return x.astype(dtype)


def several() -> list[Case]:
    nhwc = channels_last(4)
    return [
        resized(wide_rand(2, 3, 20, 30), [2, 3, 41, 45], mode="linear"),
        resized(wide_rand(2, 3, 20, 30), [2, 3, 10, 61], mode="cubic"),
        resized(wide_rand(2, 3, 40, 31), [2, 3, 11, 9], mode="linear", antialias=1),
        resized(wide_rand(2, 3, 20, 30), [2, 3, 40, 60], mode="nearest"),
        resized(wide_rand(2, 3, 20, 30, dtype=np.float16), [2, 3, 40, 60], mode="nearest"),
        resized(wide_rand(2, 3, 20, 30, dtype=np.float64), [2, 3, 7, 60], mode="linear"),
        resized(wide_rand(2, 3, 20, 30, dtype=np.int8), [2, 3, 40, 60], mode="linear", coordinate_transformation_mode="asymmetric"),
        resized(wide_rand(1, 2, 5, 6, 7), [1, 2, 9, 13, 15], mode="linear", coordinate_transformation_mode="align_corners"),
        resized(wide_rand(3, 4, 5), [5, 4, 9], mode="linear"),
        resized(wide_rand(3, 7), [3, 7], mode="linear"),
        resized(wide_rand(1, 4, 9, 5), [1, 4, 20, 33], nhwc, mode="linear"),
        resized(wide_rand(1, 4, 9, 5), [1, 4, 20, 33], nhwc, mode="nearest"),
        case("resize", [rand(1, 1, 4, 4), np.float32([0, 0, -0.2, 0.3, 1, 1, 1.3, 0.8]), None, np.array([1, 1, 30, 30])],
             {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.5}, constants=(1, 3)),
    ]  # fmt: skip


@needs_shim
def test_more_sizes() -> None:
    check(several())


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(["resize"])
    assert all("str" in r for r in refused), refused
    assert len(cases) > 10
    assert all(c.source.variant == "taps" for c in cases)
    check(cases)


@needs_shim
@pytest.mark.parametrize("mode", MODES)
def test_coordinates(mode: str) -> None:
    r, cases = np.random.default_rng(len(mode)), []
    for coordinates in COORDINATES:
        attrs, roi, axes = {"mode": mode, "coordinate_transformation_mode": coordinates}, None, (2, 3)
        if coordinates == "tf_crop_and_resize":
            roi, attrs["extrapolation_value"] = np.array([-0.2, 0.3, 0.9, 1.4], np.float32), 4.5
        for _ in range(3):
            x = rand(2, 2, *r.integers(1, 9, 2).tolist())
            given = attrs | {"nearest_mode": str(r.choice(NEAREST)), "axes": axes}
            cases.append(own([x, roi, r.uniform(0.4, 2.6, 2).astype(np.float32)], given))
            cases.append(own([x, roi, None, r.integers(1, 12, 2)], given, constants=(1, 3)))
    check(cases)


@needs_shim
def test_axes_and_layouts() -> None:
    cases, last = [], channels_last(4)
    for mode in MODES:
        for rank in (1, 3, 5):
            shape, axes = (3, 4, 2, 5, 3)[:rank], (-1, 0, 2)[: max(1, rank - 2)]
            sizes = np.array([7, 5, 3])[: len(axes)]
            cases.append(own([rand(*shape), None, None, sizes], {"mode": mode, "axes": axes}))
        for c, sizes in ((3, (9, 4)), (3, (6, 7)), (16, (2, 13)), (40, (1, 1))):
            operands = [rand(2, c, 4, 6), None, None, np.array([2, c, *sizes])]
            cases.append(own(operands, {"mode": mode}, layouts=[last], result_layout=last, constants=(3,)))
    check(cases)


@needs_shim
def test_types() -> None:
    cases, scales, last = [], np.array([1, 1, 1.6, 0.7], np.float32), channels_last(4)
    for dtype in (np.uint8, np.int8, np.int32, np.float64, np.float16):
        x = rand(1, 8, 5, 6, dtype=dtype, lo=-100, hi=100)
        for mode in MODES:
            for layout in (None, last):
                attrs = {"mode": mode}
                cases.append(
                    own([x, None, scales], attrs, layouts=[layout], result_layout=layout, constants=(2,), rtol=2e-3, atol=1e-2)
                )
    cases.append(own([np.arange(30).reshape(5, 6), None, scales[2:]], {"mode": "nearest"}))
    cases.append(own([rand(4, 5) > 0, None, scales[2:]], {"mode": "nearest"}))
    check(cases)


@needs_shim
def test_weights_and_edges() -> None:
    scales, cases = np.array([1, 1, 0.4, 0.7], np.float32), []
    for mode in ("linear", "cubic"):
        for attrs in ({"antialias": 1}, {"exclude_outside": 1}, {"keep_aspect_ratio_policy": "not_larger", "axes": (2, 3)}):
            given = [None, np.array([5, 9])] if "axes" in attrs else [scales]
            cases.append(own([rand(1, 3, 9, 8), None, *given], {"mode": mode, **attrs}, constants=(2,) if len(given) == 1 else ()))
    cases += [own([rand(2, 3), None, np.ones(2, np.float32)], {"mode": "linear"}, constants=(2,))]
    cases += [own([rand(2, 3), None, None, np.array([0, 3])], {"mode": "linear"})]
    cases += [own([np.zeros((0, 3), np.float32), None, np.array([1, 2], np.float32)], {"mode": "nearest"})]
    cases += [own([rand(2, 8, 60, 70), None, np.array([1, 1, 2, 2], np.float32)], {"mode": m}, constants=(2,)) for m in MODES]
    check(cases)


def test_refused() -> None:
    source = select(make_node("resize", [rand(2, 2, dtype=np.int64), None, None, np.array([4, 4])], {"mode": "linear"}))
    assert "interpolating" in str(source)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    last = channels_last(4)
    operands = [rand(2, 3, 4, 6), None, None, np.array([2, 3, 9, 4])]
    cases = [own(operands, {"mode": m}, layouts=[v], result_layout=v, constants=(3,)) for m in MODES for v in (None, last)]
    check_compiles(list(dict.fromkeys(c.source.text for c in [*cases_of(["resize"])[0], *cases, *several()])), arch)
