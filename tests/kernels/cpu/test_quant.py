"""Products and convolutions of 8-bit integers: exact, whatever the operands hold."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.op import OPS

from .harness import check_native, make_node, reference, run_kernel


@pytest.mark.parametrize("name, refused", [("matmul_integer", 1), ("qlinear_matmul", 0), ("conv_integer", 0), ("qlinear_conv", 0)])
def test_examples(name, refused):
    share = check_native(name)
    assert len(share.refused) <= refused and share.served >= 5, str(share)


def check(name: str, arrays: list, attrs: dict | None = None) -> None:
    got = run_kernel(make_node(name, arrays, attrs), arrays)[0]
    np.testing.assert_array_equal(got, reference(OPS[name], arrays, attrs or {})[0])


def test_the_largest_numbers_do_not_saturate():
    check("matmul_integer", [np.full((3, 100), 255, np.uint8), np.full((100, 9), -128, np.int8)])
    check("conv_integer", [np.full((1, 40, 5, 5), 255, np.uint8), np.full((3, 40, 3, 3), -128, np.int8)])


def test_a_whole_convolution():
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, (2, 32, 14, 14)).astype(np.uint8), rng.integers(-128, 128, (24, 32, 3, 3)).astype(np.int8)
    scales = np.linspace(0.01, 0.2, 24).astype(np.float32)
    bias = rng.integers(-9999, 9999, 24).astype(np.int32)
    arrays = [x, np.float32(0.02), np.uint8(200), w, scales, np.zeros(24, np.int8), np.float32(8), np.uint8(3), bias]
    check("qlinear_conv", [np.asarray(a) for a in arrays], {"pads": (1, 1, 1, 1), "strides": (2, 2)})


def test_a_whole_product():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (3, 7, 70)).astype(np.uint8), rng.integers(-128, 128, (70, 33)).astype(np.int8)
    zero = rng.integers(-128, 128, 33).astype(np.int8)
    check("matmul_integer", [a, b, np.asarray(np.uint8(9)), zero])
