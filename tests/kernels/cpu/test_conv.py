"""Convolutions of both layouts against the references."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.core import Node
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.types import I32, TensorType, dtype_of
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import Refusal

from .harness import assert_close, check_native, make_node, reference, run_kernel
from .test_gemm import expect, fused, rand

CLOSE = {"rtol": 1e-4, "atol": 2e-4}


def conv_node(name: str, arrays: list, attrs: dict, last: tuple[bool, bool], constants: tuple[int, ...] = (1, 2)) -> Node:
    """A convolution whose input and result are channels-last where `last` says so."""
    types = [None if a is None else TensorType(dtype_of(a), a.shape) for a in arrays]
    layout = channels_last(arrays[0].ndim)
    if last[0]:
        types[0] = types[0].with_(layout=layout)
    node = make_node(
        name, arrays, attrs, types=types, constants=[i for i in constants if i < len(arrays) and arrays[i] is not None]
    )
    node.results[0].type = node.results[0].type.with_(layout=layout if last[1] else None)
    return node


def check(
    name: str, arrays: list, attrs: dict, last: tuple[bool, bool], constants: tuple[int, ...] = (1, 2), **close: float
) -> None:
    node = conv_node(name, arrays, attrs, last, constants)
    assert_close(run_kernel(node, arrays)[0], reference(OPS[name], arrays, attrs)[0], **(close or CLOSE))


CONVS = {
    "pads": ((2, 4, 7, 6), (6, 4, 3, 2), True, {"pads": (1, 0, 1, 1)}),
    "group": ((2, 4, 7, 6), (6, 2, 3, 3), False, {"group": 2, "strides": (2, 1), "auto_pad": "SAME_UPPER"}),
    "wide": ((2, 16, 7, 6), (40, 16, 3, 3), True, {"pads": (1, 1, 1, 1)}),
    "wide_strided": ((2, 16, 7, 6), (40, 16, 3, 3), True, {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    "pointwise": ((2, 16, 7, 6), (40, 16, 1, 1), True, {}),
    "pointwise_strided": ((2, 16, 7, 6), (40, 16, 1, 1), True, {"strides": (2, 2)}),
    "dilated": ((2, 4, 7, 6), (6, 4, 3, 2), True, {"auto_pad": "VALID", "dilations": (2, 3)}),
    "one_axis": ((1, 3, 9), (2, 3, 4), False, {"strides": (2,)}),
    "three_axes": ((1, 20, 4, 5, 3), (3, 20, 2, 2, 2), True, {"pads": (1, 1, 1, 1, 0, 1)}),
    "empty_batch": ((0, 4, 7, 6), (6, 4, 3, 2), True, {}),
    "ends_of_lines": ((2, 12, 9, 5), (20, 12, 2, 4), True, {"pads": (1, 6, 0, 7), "strides": (1, 3)}),
    "long_lines": ((1, 10, 3, 300), (20, 10, 3, 7), False, {"pads": (1, 3, 1, 3)}),
    "many_short_lines": ((3, 9, 70, 2), (24, 9, 3, 3), False, {"pads": (1, 1, 1, 1)}),
    "no_result": ((2, 9, 3, 2), (24, 9, 3, 3), False, {}),
    "window_wider_than_image": ((1, 16, 5, 5), (32, 16, 9, 9), False, {"pads": (4, 4, 4, 4)}),
}
LAYOUTS = [(False, False), (True, True), (False, True), (True, False)]


@pytest.mark.parametrize("last", LAYOUTS, ids=["major", "last", "to_last", "to_major"])
@pytest.mark.parametrize("case", CONVS)
def test_conv(case, last):
    x, w, bias, attrs = CONVS[case]
    check("conv", [rand(*x), rand(*w, seed=1), rand(w[0], seed=2) if bias else None], attrs, last)


@pytest.mark.parametrize("last", LAYOUTS[:2], ids=["major", "last"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("constants", [(), (1, 2)], ids=["dynamic", "constant"])
def test_conv_dtypes_and_weights_at_run_time(last, dtype, constants):
    arrays = [rand(2, 16, 7, 6, dtype=dtype), rand(40, 8, 3, 3, dtype=dtype, seed=1), rand(40, dtype=dtype, seed=2)]
    close = {"rtol": 3e-3, "atol": 3e-2} if dtype is np.float16 else {"rtol": 1e-10, "atol": 1e-10}
    check("conv", arrays, {"pads": (1, 1, 1, 1), "group": 2}, last, constants, **close)


TRANSPOSED = {
    "pads": ((1, 4, 3, 4), (4, 2, 3, 3), {"strides": (3, 2), "pads": (1, 2, 1, 2)}),
    "output_padding": ((1, 4, 3, 4), (4, 2, 3, 3), {"strides": (3, 2), "output_padding": (1, 1)}),
    "output_shape": ((1, 4, 3, 4), (4, 2, 3, 3), {"strides": (3, 2), "output_shape": (10, 8)}),
    "same_lower": ((2, 4, 3, 4), (4, 2, 3, 3), {"strides": (2, 2), "auto_pad": "SAME_LOWER"}),
    "group": ((2, 4, 3, 4), (4, 2, 3, 3), {"group": 2, "dilations": (2, 1)}),
    "wide": ((2, 32, 9, 8), (32, 20, 2, 2), {"strides": (2, 2)}),
    "stride_beyond_kernel": ((2, 32, 9, 8), (32, 20, 1, 1), {"strides": (2, 2)}),
    "one_axis": ((1, 4, 6), (4, 2, 3), {"strides": (2,)}),
    "three_axes": ((1, 4, 3, 3, 3), (4, 2, 3, 2, 2), {"strides": (2, 1, 2)}),
}


@pytest.mark.parametrize("last", LAYOUTS[:2], ids=["major", "last"])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose(case, last):
    x, w, attrs = TRANSPOSED[case]
    check("conv_transpose", [rand(*x), rand(*w, seed=1), rand(w[1] * attrs.get("group", 1), seed=2)], attrs, last)


def test_examples():
    for name in ("conv", "conv_transpose"):
        share = check_native(name, 3e-3, 3e-2)
        assert not share.refused, str(share)


@pytest.mark.parametrize("last", LAYOUTS[:2], ids=["major", "last"])
def test_fused(last):
    x, w, bias = rand(2, 16, 9, 7), rand(30, 16, 3, 3, seed=1), rand(30, seed=2)
    attrs = {"pads": (1, 1, 1, 1)}
    steps = [("mul", [rand(30, 1, 1, seed=3)], 0), ("sigmoid", [], 0), ("add", [rand(2, 30, 9, 7, seed=4)], 1)]
    node, extra = fused(conv_node("conv", [x, w, bias], attrs, last), steps)
    want = expect(steps, reference(OPS["conv"], [x, w, bias], attrs)[0])
    assert_close(run_kernel(node, [x, w, bias, *extra])[0], want, **CLOSE)


FEW = {
    "image": ((2, 3, 9, 30), (20, 3, 3, 3), {"pads": (1, 1, 1, 1), "strides": (2, 2)}),
    "whole_vectors": ((1, 7, 8, 17), (40, 7, 3, 2), {"pads": (0, 1, 2, 0), "dilations": (1, 2)}),
    "three_axes": ((1, 2, 3, 4, 9), (5, 2, 2, 2, 2), {"pads": (0, 1, 1, 1, 0, 0)}),
}


@pytest.mark.parametrize("x_last", [False, True], ids=["from_major", "last"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("case", FEW)
def test_few_channels(case, dtype, x_last):
    x, w, attrs = FEW[case]
    arrays = [rand(*x, dtype=dtype), rand(*w, seed=1, dtype=dtype), rand(w[0], seed=2, dtype=dtype)]
    assert select(conv_node("conv", arrays, attrs, (x_last, True))).variant == "conv.direct"
    close = {"rtol": 3e-3, "atol": 3e-2} if dtype is np.float16 else CLOSE
    check("conv", arrays, attrs, (x_last, True), **close)


def test_few_channels_with_an_epilogue():
    """Heavy enough to be emitted as a loop; `full` operands lie as the result does."""
    x, w, attrs = rand(1, 3, 6, 15), rand(20, 3, 3, 3, seed=1), {"pads": (1, 1, 1, 1)}
    steps = [("mul", [rand(20, 1, 1, seed=3)], 0), ("swish", [], 0), ("add", [rand(1, 20, 6, 15, seed=4)], 1)]
    node, extra = fused(conv_node("conv", [x, w, None], attrs, (False, True)), steps)
    want = expect(steps, reference(OPS["conv"], [x, w, None], attrs)[0])
    assert_close(run_kernel(node, [x, w, *extra])[0], want, **CLOSE)


NARROW = {
    "plain": ("conv", (2, 8, 9, 30), (1, 8, 3, 3), {"pads": (1, 1, 1, 1)}),
    "channels_past_a_vector": ("conv", (1, 11, 5, 23), (2, 11, 3, 2), {"pads": (0, 1, 1, 0), "strides": (1, 2)}),
    "window_wider_than_image": ("conv", (1, 5, 4, 6), (3, 5, 5, 15), {"pads": (2, 9, 2, 5)}),
    "long_window": ("conv", (2, 1, 700), (1, 1, 65), {"strides": (2,), "pads": (3, 4)}),
    "dilated": ("conv", (1, 9, 8, 31), (4, 9, 3, 3), {"dilations": (2, 3), "auto_pad": "SAME_UPPER"}),
    "several_chunks": ("conv", (1, 9, 2, 530), (1, 9, 1, 3), {}),
    "three_axes": ("conv", (1, 10, 3, 4, 12), (1, 10, 2, 3, 3), {"pads": (1, 0, 1, 0, 1, 2)}),
    "only_padding": ("conv", (1, 8, 2, 3), (1, 8, 1, 1), {"pads": (2, 3, 1, 1)}),
    "empty_batch": ("conv", (0, 8, 9, 9), (1, 8, 3, 3), {}),
    "transposed": ("conv_transpose", (2, 24, 5, 19), (24, 1, 2, 2), {"strides": (2, 2)}),
    "transposed_overlapping": ("conv_transpose", (1, 9, 5, 20), (9, 3, 4, 5), {"strides": (2, 3), "pads": (1, 2, 0, 1)}),
    "transposed_stride_beyond_kernel": ("conv_transpose", (1, 8, 3, 300), (8, 2, 1, 1), {"strides": (3, 2)}),
    "transposed_three_axes": ("conv_transpose", (1, 8, 3, 3, 9), (8, 1, 3, 2, 2), {"strides": (2, 1, 2), "dilations": (1, 2, 3)}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, "bfloat16"], ids=str)
@pytest.mark.parametrize("case", NARROW)
def test_few_output_channels(case, dtype):
    import ml_dtypes  # noqa: F401  (numpy's bfloat16)

    name, x, w, attrs = NARROW[case]
    outputs = w[0] if name == "conv" else w[1]
    arrays = [rand(*x).astype(dtype), rand(*w, seed=1).astype(dtype), rand(outputs, seed=2).astype(dtype)]
    last = (True, True)
    assert select(conv_node(name, arrays, attrs, last)).variant == "conv.narrow"
    close = {np.float32: CLOSE, np.float64: {"rtol": 1e-10, "atol": 1e-10}}.get(dtype, {"rtol": 2e-2, "atol": 6e-2})
    check(name, arrays, attrs, last, **close)


def test_one_output_channel_of_any_layout():
    arrays = [rand(1, 8, 6, 9), rand(1, 8, 3, 3, seed=1)]
    assert select(conv_node("conv", arrays, {}, (True, False))).variant == "conv.narrow"
    check("conv", arrays, {}, (True, False))
    assert select(conv_node("conv", arrays, {}, (False, False))).variant == "conv.planes"


@pytest.mark.parametrize("outputs", [1, 3])
def test_few_output_channels_with_an_epilogue(outputs):
    x, w, bias, attrs = rand(2, 9, 6, 31), rand(outputs, 9, 3, 3, seed=1), rand(outputs, seed=2), {"pads": (1, 1, 1, 1)}
    scale, residual = rand(outputs, 1, 1, seed=3), rand(2, outputs, 6, 31, seed=4)
    steps = [("mul", [scale], 0), ("sigmoid", [], 0), ("add", [residual], 1), ("clip", [np.float32(0.1), np.float32(0.9)], 0)]
    node, extra = fused(conv_node("conv", [x, w, bias], attrs, (True, True)), steps)
    assert select(node).variant == "conv.narrow"
    want = expect(steps, reference(OPS["conv"], [x, w, bias], attrs)[0])
    assert_close(run_kernel(node, [x, w, bias, *extra])[0], want, **CLOSE)


@pytest.mark.parametrize("outputs", [1, 9])
def test_borders_do_not_read_what_no_window_sees(outputs):
    """NaN and infinity reach just the results whose windows hold them."""
    x, w, attrs = rand(1, 8, 4, 40), rand(outputs, 8, 3, 3, seed=1), {"pads": (1, 1, 1, 1)}
    x[0, 2, 1, 0], x[0, 5, 3, 20] = np.nan, np.inf
    check("conv", [x, w], attrs, (True, True))


def test_integer_input_is_refused():
    x, w = rand(1, 2, 4, 4), rand(2, 2, 3, 3)
    node = make_node("conv", [x, w])
    node.operands[0].type = node.operands[0].type.with_(dtype=I32)
    assert isinstance(select(node), Refusal)
