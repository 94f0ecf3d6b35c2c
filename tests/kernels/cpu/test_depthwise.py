"""Depthwise convolutions of both layouts against the reference."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.op import OPS
from graphmill.kernels.cpu.target import select

from .harness import assert_close, reference, run_kernel
from .test_conv import CLOSE, conv_node
from .test_gemm import expect, fused, rand

CASES = {
    "tail": ((2, 12, 7, 6), {"pads": (1, 1, 1, 1)}),
    "strided": ((2, 27, 9, 6), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    "dilated": ((1, 32, 9, 9), {"pads": (2, 0, 2, 1), "dilations": (2, 1)}),
    "whole_vectors": ((1, 40, 5, 14), {"pads": (1, 1, 1, 1)}),
    "no_pixel_inside": ((1, 8, 2, 2), {"pads": (1, 1, 1, 1)}),
    "one_axis": ((2, 12, 9), {"pads": (1, 1)}),
    "runs_of_lines": ((1, 24, 21, 9), {"pads": (1, 1, 1, 1)}),
    "runs_of_strided_lines": ((2, 16, 37, 10), {"pads": (0, 1, 1, 0), "strides": (2, 2)}),
    "shared_channels": ((1, 1000, 7, 7), {"pads": (1, 1, 1, 1)}),
    "shared_channels_of_short_lines": ((1, 1000, 20, 3), {"pads": (1, 1, 1, 1), "strides": (2, 1)}),
    "three_axes": ((1, 20, 4, 6, 5), {"pads": (1, 1, 1, 1, 1, 1), "strides": (2, 1, 1)}),
    "wide_pads": ((1, 16, 2, 3), {"pads": (4, 5, 3, 6), "dilations": (1, 2)}),
    "empty": ((0, 12, 7, 6), {}),
}


@pytest.mark.parametrize("last", [False, True], ids=["major", "last"])
@pytest.mark.parametrize("case", CASES)
def test_depthwise(case, last):
    shape, attrs = CASES[case]
    w, attrs = rand(shape[1], 1, *[3] * (len(shape) - 2), seed=1), attrs | {"group": shape[1]}
    arrays = [rand(*shape), w, rand(shape[1], seed=2)]
    node = conv_node("conv", arrays, attrs, (last, last))
    assert select(node).variant == "depthwise"
    assert_close(run_kernel(node, arrays)[0], reference(OPS["conv"], arrays, attrs)[0], **CLOSE)


@pytest.mark.parametrize("kernel", [(7, 7), (5, 1), (1, 5), (2, 4), (3, 17)])
def test_windows_of_other_sizes(kernel):
    arrays, attrs = [rand(1, 24, 19, 22), rand(24, 1, *kernel, seed=1), rand(24, seed=2)], {"group": 24, "auto_pad": "SAME_UPPER"}
    assert_close(
        run_kernel(conv_node("conv", arrays, attrs, (True, True)), arrays)[0], reference(OPS["conv"], arrays, attrs)[0], **CLOSE
    )


def test_what_is_no_number_stays_where_it_is_seen():
    x, w = rand(1, 16, 6, 9), rand(16, 1, 3, 3, seed=1)
    x[0, 3, 2, 4], x[0, 7, 0, 0], x[0, 8, 5, 8] = np.nan, np.inf, -np.inf
    attrs = {"group": 16, "pads": (1, 1, 1, 1)}
    got = run_kernel(conv_node("conv", [x, w, None], attrs, (True, True)), [x, w, None])[0]
    assert_close(got, reference(OPS["conv"], [x, w, None], attrs)[0], **CLOSE)
    assert not np.isfinite(got).all(axis=(2, 3))[0, [3, 7, 8]].any() and np.isfinite(got).sum() == got.size - 9 - 4 - 4


@pytest.mark.parametrize("last", [False, True], ids=["major", "last"])
def test_half_precision_with_an_epilogue(last):
    shape, attrs = (2, 19, 6, 5), {"group": 19, "pads": (1, 1, 1, 1)}
    arrays = [rand(*shape, dtype=np.float16), rand(19, 1, 3, 3, dtype=np.float16, seed=1), None]
    steps = [("mul", [rand(19, 1, 1, dtype=np.float16)], 0), ("relu", [], 0), ("add", [rand(*shape, dtype=np.float16)], 0)]
    node, extra = fused(conv_node("conv", arrays, attrs, (last, last)), steps)
    want = expect(steps, reference(OPS["conv"], arrays, attrs)[0])
    assert_close(run_kernel(node, [*arrays[:2], *extra])[0], want, 3e-3, 3e-2)


@pytest.mark.parametrize("last", [False, True], ids=["major", "last"])
def test_several_filters_a_channel(last):
    arrays, attrs = [rand(2, 4, 7, 6), rand(8, 1, 3, 3, seed=1), None], {"group": 4, "pads": (1, 1, 1, 1)}
    node = conv_node("conv", arrays, attrs, (last, last))
    assert_close(run_kernel(node, arrays)[0], reference(OPS["conv"], arrays, attrs)[0], **CLOSE)
