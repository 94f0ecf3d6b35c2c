"""Selections whose length the data decide, against their references."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.kernels.cpu.target import select

from .cases import check_case
from .harness import check_native, make_node, run_kernel


@pytest.mark.parametrize("name", ["non_zero", "compress", "non_max_suppression"])
def test_examples(name):
    share = check_native(name)
    assert share.served
    assert all("strings" in r for r in share.refused), share


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, bool, np.int8, np.int64, np.uint16])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0, 2), (3, 4), (2, 3, 5)])
def test_non_zero(shape, dtype):
    x = np.random.default_rng(0).integers(0, 3, shape)
    check_case("non_zero", [np.asarray(x * (x > 1)).astype(dtype)])


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.complex128, bool])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis, dtype):
    x = np.random.default_rng(1).integers(0, 9, (3, 4, 5)).astype(dtype)
    for n in (0, 1, 3):
        check_case("compress", [x, np.random.default_rng(n).random(n) > 0.4], {} if axis is None else {"axis": axis})


def test_a_condition_that_is_too_long():
    x = np.arange(3.0)
    for tail, wrong in ((False, False), (True, True)):
        condition = np.array([True, False, True, tail])
        node = make_node("compress", [x, condition])
        if wrong:
            with pytest.raises(RunError, match="condition"):
                run_kernel(node, [x, condition], source=select(node))
        else:
            assert run_kernel(node, [x, condition], [(2,)])[0].tolist() == [0, 2]


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("n", [0, 1, 40, 300, 900])  # the last one makes rows of bits
def test_boxes(n, center):
    random = np.random.default_rng(n)
    boxes, scores = random.uniform(0, 4, (2, n, 4)).astype(np.float32), random.uniform(0, 1, (2, 3, n)).astype(np.float32)
    scores = np.round(scores, 1)  # many are equal
    if n > 3:
        scores[0, 0, 2] = np.nan
        boxes[1, 3] = np.inf
    for most, iou, least in ((5, 0.3, 0.4), (1000, 0.0, None), (0, 0.5, 0.1), (7, 0.9, None), (1000, 0.9, None), (1000, 0.5, 0.3)):
        operands = [boxes, scores, np.array([most]), np.float32(iou), None if least is None else np.float32(least)]
        check_case("non_max_suppression", operands, {"center_point_box": center})
