"""Resize against the reference: modes, coordinates, layouts, types, sizes known early and late."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.ops.examples import rand
from graphmill.ir.ops.resize import COORDINATES, NEAREST
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .cases import check_case
from .harness import check_native, make_node


def test_examples():
    share = check_native("resize", 2e-5, 2e-6)
    assert share.served and all("str" in r for r in share.refused), share


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_coordinates(mode, coordinates):
    r = np.random.default_rng(len(mode + coordinates))
    attrs = {"mode": mode, "coordinate_transformation_mode": coordinates}
    roi = None
    if coordinates == "tf_crop_and_resize":
        roi, attrs["extrapolation_value"] = np.array([0, 0, -0.2, 0.3, 1, 1, 0.9, 1.4], np.float32), 4.5
    for _ in range(4):
        x = rand(2, 2, *r.integers(1, 9, 2).tolist())
        scales = np.array([1, 1, *r.uniform(0.4, 2.6, 2)], np.float32)
        attrs["nearest_mode"] = str(r.choice(NEAREST))
        check_case("resize", [x, roi, scales], attrs, rtol=2e-5, atol=2e-6)
        check_case("resize", [x, roi, None, np.array([2, 2, *r.integers(1, 12, 2)])], attrs, constants=(1, 3), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("rank", [1, 3, 5])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_any_axes(mode, rank):
    shape, axes = (3, 4, 2, 5, 3)[:rank], (-1, 0, 2)[: max(1, rank - 2)]
    sizes = np.array([7, 5, 3])[: len(axes)]
    check_case("resize", [rand(*shape), None, None, sizes], {"mode": mode, "axes": axes}, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_channels_last(mode):
    layout = channels_last(4)
    for sizes in ((2, 3, 9, 4), (2, 5, 6, 7)):
        operands = [rand(2, 3, 4, 6), None, None, np.array(sizes)]
        check_case("resize", operands, {"mode": mode}, layouts=[layout], result_layout=layout, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.float64, np.float16])
def test_types(dtype):
    x = rand(1, 2, 5, 6, dtype=dtype, lo=-100, hi=100)
    for mode in ("nearest", "linear", "cubic"):
        check_case("resize", [x, None, np.array([1, 1, 1.6, 0.7], np.float32)], {"mode": mode}, rtol=2e-3, atol=1e-2)


def test_antialias_and_weights_outside():
    scales = np.array([1, 1, 0.4, 0.7], np.float32)
    for mode in ("linear", "cubic"):
        for attrs in ({"antialias": 1}, {"exclude_outside": 1}):
            check_case("resize", [rand(1, 3, 9, 8), None, scales], {"mode": mode, **attrs}, rtol=2e-5, atol=2e-6)


def test_nothing_to_do_and_nothing_at_all():
    check_case("resize", [rand(2, 3), None, np.ones(2, np.float32)], {"mode": "linear"})
    check_case("resize", [rand(2, 3), None, None, np.array([0, 3])], {"mode": "linear"})
    check_case("resize", [np.zeros((0, 3), np.float32), None, np.array([1, 2], np.float32)], {"mode": "nearest"})


def test_many_tiles():
    check_case("resize", [rand(2, 8, 60, 70), None, np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, rtol=2e-5, atol=2e-6)


def test_refusals():
    sizes = np.array([4, 4])
    for x in (rand(2, 2, dtype=np.int64), np.array([["a"]], object)):
        mode = "nearest" if x.dtype == object else "linear"
        assert isinstance(select(make_node("resize", [x, None, None, sizes], {"mode": mode})), Refusal)
