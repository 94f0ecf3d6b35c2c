"""topk and hardmax against the references: ties, NaN, every axis, all k."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from .cases import check_case
from .harness import check_native


@pytest.mark.parametrize("name", ["topk", "hardmax"])
def test_examples(name):
    share = check_native(name)
    assert share.served and not share.refused, share


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint64])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(dtype, largest):
    r = np.random.default_rng(1)
    for _ in range(15):
        shape = tuple(r.integers(1, 9, r.integers(1, 4)).tolist())
        axis = int(r.integers(-len(shape), len(shape)))
        x = r.integers(0, 5, shape).astype(dtype)  # many ties
        k = int(r.integers(0, shape[axis] + 1))
        check_case("topk", [x, np.array([k])], {"axis": axis, "largest": largest}, 2, constants=(1,))


def test_top_k_of_long_rows():
    x = np.random.default_rng(2).normal(size=(3, 5000)).astype(np.float32)
    for k in (1, 7, 5000):
        check_case("topk", [x, np.array([k])], {}, 2)


def test_top_k_of_nan_and_infinity():
    x = np.array([[1, np.nan, np.inf, -np.inf, np.nan, 2]], np.float32)
    for largest in (0, 1):
        check_case("topk", [x, np.array([6])], {"largest": largest}, 2)


def test_hardmax():
    r = np.random.default_rng(3)
    x = r.integers(0, 4, (3, 4, 5)).astype(np.float32)
    for axis in range(-3, 3):
        for flatten in (0, 1):
            check_case("hardmax", [x], {"axis": axis, "flatten": flatten})
    check_case("hardmax", [np.array([[1, np.nan, 9, np.nan]], np.float32)])
    check_case("hardmax", [np.zeros((3, 0), np.float32)])
