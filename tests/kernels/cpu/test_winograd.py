"""Convolutions by Winograd's method against the reference, and the choice between them and the direct kernel."""

from __future__ import annotations

import graphmill as gm
import numpy as np
import onnx
import pytest
from graphmill.ir.core import Node
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, TensorType
from graphmill.kernels.cpu import winograd
from graphmill.kernels.cpu.target import select, selector
from graphmill.kernels.cpu.tiling import tiling
from graphmill.kernels.spec import Call, KernelSource

from .harness import aligned_empty, assert_close, from_memory, launch_kernel, make_node, reference, run_kernel, to_memory
from .test_conv import conv_node
from .test_gemm import rand

CLOSE = {"rtol": 1e-4, "atol": 5e-5}
LAST = (True, True)


def arrays_of(n: int, inputs: int, outputs: int, h: int, w: int) -> list[np.ndarray]:
    return [rand(n, inputs, h, w), rand(outputs, inputs, 3, 3) / np.float32(3 * inputs**0.5), rand(outputs)]


def chosen(node: Node) -> str:
    source = select(node)
    assert isinstance(source, KernelSource)
    return source.variant


def test_stages_are_a_convolution():
    """A' [(G w) * (B' d)] is the correlation of 6 inputs with 3 weights, along one axis."""
    d, w = np.random.default_rng(0).standard_normal((2, 6))
    g = winograd._filter_matrix(winograd._P, winograd._Q)
    to = np.array(winograd.TO_FREQUENCIES[1]) @ np.array(winograd.TO_FREQUENCIES[0])
    back = np.array(winograd.FROM_FREQUENCIES[1]) @ np.array(winograd.FROM_FREQUENCIES[0])
    np.testing.assert_allclose(back @ ((g @ w[:3]) * (to @ d)), np.correlate(d, w[:3]), rtol=1e-12)


CASES = {
    "whole_patches": ((1, 16, 16, 8, 8), {"pads": (1, 1, 1, 1)}),
    "part_of_patches": ((2, 16, 48, 7, 13), {"pads": (1, 1, 1, 1)}),
    "no_padding": ((1, 32, 16, 10, 9), {}),
    "uneven_padding": ((1, 16, 16, 9, 6), {"pads": (2, 0, 1, 5)}),
    "padding_wider_than_a_patch": ((1, 16, 16, 5, 3), {"pads": (7, 9, 6, 8)}),
    "auto_pad": ((3, 16, 32, 6, 7), {"auto_pad": "SAME_UPPER"}),
    "several_chunks_of_channels": ((1, 144, 80, 8, 8), {"pads": (1, 1, 1, 1)}),
    "several_blocks": ((3, 16, 16, 23, 17), {"pads": (1, 1, 1, 1)}),
    "columns_cut": ((1, 128, 208, 8, 8), {"pads": (1, 1, 1, 1)}),
    "channels_in_eights": ((1, 40, 24, 9, 8), {"pads": (1, 1, 1, 1)}),
    "dilated": ((2, 16, 32, 17, 22), {"pads": (3, 2, 3, 2), "dilations": (3, 2)}),
    "dilated_along_one_axis": ((1, 16, 16, 11, 14), {"pads": (0, 4, 0, 4), "dilations": (1, 4)}),
    "patches_with_few_results": ((1, 16, 16, 33, 37), {"pads": (5, 5, 5, 5), "dilations": (5, 5)}),
}


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("case", CASES)
def test_winograd(case, bias):
    sizes, attrs = CASES[case]
    arrays = arrays_of(*sizes)[: 3 if bias else 2]
    node = conv_node("conv", arrays, attrs, LAST)
    if sizes[1] % tiling(4).lanes or sizes[2] % tiling(4).lanes:
        pytest.skip("channels are no whole vectors on this host")
    assert chosen(node) == "conv.winograd"
    assert_close(run_kernel(node, arrays)[0], reference(OPS["conv"], arrays, attrs)[0], **CLOSE)


def test_errors_are_small():
    """Results of order 1 from 256 channels."""
    arrays = arrays_of(1, 256, 32, 16, 16)
    attrs = {"pads": (1, 1, 1, 1)}
    node = conv_node("conv", arrays, attrs, LAST)
    exact = reference(OPS["conv"], [a.astype(np.float64) for a in arrays], attrs)[0]
    assert np.abs(run_kernel(node, arrays)[0] - exact).max() < 4e-5


def test_bits_do_not_depend_on_tiles():
    arrays = arrays_of(2, 128, 96, 13, 13)
    node = conv_node("conv", arrays, {"pads": (1, 1, 1, 1)}, LAST)
    source = select(node)
    want = run_kernel(node, arrays, source=source)[0]

    def one_tile(call: Call):
        launch = source.bind(call)
        assert launch.tiles > 1
        return type(launch)(launch.ints, 1, launch.scratch)

    alone = KernelSource(source.text, one_tile, pack=source.pack)
    np.testing.assert_array_equal(run_kernel(node, arrays, source=alone)[0], want)


@pytest.mark.parametrize("attrs", [{"pads": (1, 1, 1, 1)}, {"pads": (3, 2, 3, 2), "dilations": (3, 2)}], ids=["plain", "dilated"])
def test_one_text_serves_all_sizes(attrs):
    """Symbolic batch, height and width: the kernel is bound, not compiled anew; empty results, and patches without any, too."""
    n, h, w = symbol("n", 0), symbol("h", 0), symbol("w", 0)
    weight = rand(32, 16, 3, 3)
    types = [TensorType(F32, (n, 16, h, w), channels_last(4)), TensorType(F32, weight.shape)]
    arrays = [rand(1, 16, 4, 4), weight]
    node = make_node("conv", arrays, attrs, types=types, constants=[1])
    node.results[0].type = node.results[0].type.with_(layout=channels_last(4))
    source = select(node)
    assert source.variant == "conv.winograd"
    for shape in ((1, 16, 1, 1), (2, 16, 5, 9), (5, 16, 12, 12), (0, 16, 8, 8)):
        x = rand(*shape)
        want = reference(OPS["conv"], [x, weight], attrs)[0]
        result = aligned_empty((want.shape[0], *want.shape[2:], 32), want.dtype)
        operands = [to_memory(x, node.operands[0].tensor), source.pack[1](weight)]
        launch_kernel(source, Call([x.shape, weight.shape], [want.shape]), operands, [result])
        got = from_memory(result, node.results[0].tensor)
        assert_close(got, want, rtol=1e-4, atol=5e-4, what=str(shape))


@pytest.mark.parametrize(
    ("sizes", "attrs", "why"),
    [
        ((1, 16, 16, 3, 3), {"pads": (1, 1, 1, 1)}, "few results"),
        ((1, 16, 16, 12, 3), {"pads": (1, 0, 1, 0)}, "a quarter of the patches' results is wanted"),
        ((1, 36, 18, 8, 8), {"pads": (1, 1, 1, 1)}, "channels are no whole vectors"),
        ((1, 16, 8, 8, 8), {"pads": (1, 1, 1, 1)}, "few channels"),
        ((1, 16, 16, 24, 24), {"pads": (1, 1, 1, 1), "strides": (2, 2)}, "strides"),
        ((1, 16, 16, 13, 13), {"pads": (3, 3, 3, 3), "dilations": (10, 10)}, "a dilation leaves most of each patch empty"),
        ((0, 16, 16, 8, 8), {"pads": (1, 1, 1, 1)}, "empty"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_left_to_the_direct_kernel(sizes, attrs, why):
    assert chosen(conv_node("conv", arrays_of(*sizes), attrs, LAST)) == "conv.rows", why


def test_strict_accuracy_takes_the_direct_kernel():
    arrays = arrays_of(1, 16, 16, 8, 8)
    node = conv_node("conv", arrays, {"pads": (1, 1, 1, 1)}, LAST)
    assert (chosen(node), selector("strict")(node).variant) == ("conv.winograd", "conv.rows")
    assert chosen(conv_node("conv", arrays, {"pads": (1, 1, 1, 1)}, LAST, constants=())) == "conv.rows"  # the weight is no constant


EPILOGUES = {
    "relu": "y = Relu(c)",
    "residual": "s = Add(c, r) y = Relu(s)",
    "silu": "g = Sigmoid(c) y = Mul(c, g)",
    "clip": "y = Clip(c, low, high)",
    "gelu_and_residual": "g = Gelu(c) y = Add(g, r)",
}


def model_of(epilogue: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> m (float[N,32,H,W] x, float[N,48,H,W] r) => (float[N,48,H,W] y)'
        f"<float low = {{-0.5}}, float high = {{0.75}}> {{ c = Conv<pads=[1,1,1,1]>(x, w, b) {epilogue} }}"
    )
    weights = {"w": rand(48, 32, 3, 3) / np.float32(17), "b": rand(48)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in weights.items())
    return model


@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues(epilogue):
    """Applied to the patches' results where they are stored; patches that stick out of the image store nothing there."""
    model = model_of(EPILOGUES[epilogue])
    fast, strict = gm.compile(model, strict_native=True), gm.compile(model, strict_native=True, accuracy="strict")
    for n, h, w in ((2, 9, 7), (1, 16, 21)):
        x, r = rand(n, 32, h, w), rand(n, 48, h, w)
        a, b = np.asarray(fast(x, r)), np.asarray(strict(x, r))
        assert not np.array_equal(a, b)  # two kernels
        np.testing.assert_allclose(a, b, **CLOSE)


def test_bits_do_not_depend_on_threads():
    x, r = rand(1, 32, 40, 40), rand(1, 48, 40, 40)
    model = model_of(EPILOGUES["residual"])
    one, two = (np.asarray(gm.compile(model, threads=n)(x, r)) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_nan_spreads_within_its_patches_only():
    arrays = arrays_of(1, 16, 16, 12, 12)
    arrays[0][0, 3, 0, 0] = np.nan
    node = conv_node("conv", arrays, {"pads": (1, 1, 1, 1)}, LAST)
    got, want = run_kernel(node, arrays)[0], reference(OPS["conv"], arrays, {"pads": (1, 1, 1, 1)})[0]
    assert np.isnan(got[:, :, :2, :2]).all() and np.isnan(want[:, :, :2, :2]).all()
    assert not np.isnan(got[:, :, 4:]).any() and not np.isnan(got[:, :, :, 4:]).any()


def test_an_unknown_accuracy_is_refused():
    with pytest.raises(gm.errors.InputError, match="accuracy = 'exact', expected one of fast, strict"):
        gm.compile(model_of("y = Relu(c)"), accuracy="exact")
