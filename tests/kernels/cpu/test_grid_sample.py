"""Grid sampling against the reference: modes, padding, corners, types, positions that are no numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from graphmill.ir.ops.examples import rand
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .cases import check_case
from .harness import check_native, make_node


def test_examples():
    share = check_native("grid_sample", 2e-5, 5e-6)
    assert share.served and all("two axes only" in r for r in share.refused), share


@pytest.mark.parametrize(
    "mode, padding, corners", itertools.product(("linear", "nearest"), ("zeros", "border", "reflection"), (0, 1))
)
def test_modes(mode, padding, corners):
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    for shape, size in [((2, 3, 9, 7), (20, 31)), ((1, 2, 1, 4), (1, 5)), ((3, 1, 5, 1), (3, 3))]:
        grid = rand(shape[0], *size, 2, lo=-3.5, hi=3.5)
        check_case("grid_sample", [rand(*shape), grid], attrs, rtol=2e-5, atol=5e-6)


def test_types():
    grid = rand(1, 4, 5, 2, lo=-1.3, hi=1.3)
    for dtype in (np.float64, np.float16):
        x = rand(1, 2, 6, 5, dtype=dtype)
        check_case("grid_sample", [x, grid], {}, rtol=2e-3, atol=2e-3)
        check_case("grid_sample", [x, grid.astype(dtype)], {"padding_mode": "border"}, rtol=2e-3, atol=2e-3)
    for dtype in (np.uint8, np.int64, np.bool_):
        check_case("grid_sample", [rand(1, 2, 6, 5, dtype=dtype, hi=2), grid], {"mode": "nearest"})


def test_no_numbers_and_nothing():
    grid = np.array([[[[np.nan, 0], [np.inf, 0], [0, -np.inf], [1e30, -1e30]]]], np.float32)
    for mode, padding in itertools.product(("linear", "nearest"), ("zeros", "border")):
        with np.errstate(invalid="ignore"):
            check_case("grid_sample", [rand(1, 2, 3, 4), grid], {"mode": mode, "padding_mode": padding})
    check_case("grid_sample", [rand(1, 2, 0, 4), rand(1, 2, 2, 2)], {})
    check_case("grid_sample", [rand(1, 0, 3, 4), rand(1, 2, 2, 2)], {})


def test_refused():
    node = make_node("grid_sample", [rand(1, 2, 3, 4), rand(1, 2, 2, 2)], {"mode": "cubic"})
    assert isinstance(select(node), Refusal)
