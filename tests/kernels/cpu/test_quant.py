"""Products and convolutions of 8-bit integers: exact, whatever the operands hold."""

from __future__ import annotations

import itertools

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.types import F32
from graphmill.kernels.cpu import quant_panels
from graphmill.kernels.cpu.target import select
from graphmill.kernels.quantized import refuse_step
from graphmill.kernels.spec import KernelSource

from .cases import check_case
from .harness import assert_close, check_native, make_node, run_kernel
from .regions import apply, by_references, fused

HAS_QUADS = quant_panels.takes_quads(np.zeros((4, 1), np.int8))
rng = np.random.default_rng(0)


def whole(*shape: int, dtype: object = np.uint8) -> np.ndarray:
    """Numbers of the whole range."""
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def weights(*shape: int, dtype: object = np.int8) -> np.ndarray:
    """Numbers as those of trained weights: few are large."""
    info = np.iinfo(dtype)
    return np.clip(np.rint(rng.standard_normal(shape) * 15 + (120 if info.min == 0 else 0)), info.min, info.max).astype(dtype)


@pytest.mark.parametrize("name, refused", [("matmul_integer", 1), ("qlinear_matmul", 0), ("conv_integer", 0), ("qlinear_conv", 0)])
def test_examples(name, refused):
    share = check_native(name)
    assert len(share.refused) <= refused and share.served >= 5, str(share)


def check(name: str, arrays: list, attrs: dict | None = None, constants: tuple[int, ...] = ()) -> KernelSource:
    return check_case(name, arrays, attrs, constants=constants, rtol=0, atol=0)


def test_the_largest_numbers_do_not_saturate():
    for constants in ((), (1,)):
        check("matmul_integer", [np.full((3, 100), 255, np.uint8), np.full((100, 9), -128, np.int8)], constants=constants)
        check("conv_integer", [np.full((1, 40, 5, 5), 255, np.uint8), np.full((3, 40, 3, 3), -128, np.int8)], constants=constants)


def test_sums_wrap():
    check("matmul_integer", [np.full((2, 70000), 255, np.uint8), np.full((70000, 3), 127, np.int8)], constants=(1,))


@pytest.mark.parametrize("constants", [(), (1, 3)], ids=["computed", "constant"])
@pytest.mark.parametrize(
    "types", list(itertools.product((np.uint8, np.int8), repeat=2)), ids=lambda t: "-".join(x.__name__ for x in t)
)
def test_sizes(types, constants):
    for rows, depth, columns in itertools.product((0, 1, 2, 5, 8, 11), (0, 1, 2, 3, 7, 64), (0, 1, 15, 16, 33)):
        x, w = whole(rows, depth, dtype=types[0]), weights(depth, columns, dtype=types[1])
        check("matmul_integer", [x, w, whole(dtype=types[0]), whole(dtype=types[1])], constants=constants)


@pytest.mark.parametrize("constants", [(), (1, 3)], ids=["computed", "constant"])
def test_zero_points_by_row_and_column(constants):
    for dtype in (np.uint8, np.int8):
        x, w = whole(9, 70, dtype=dtype), weights(70, 33, dtype=dtype)
        check("matmul_integer", [x, w, whole(9, dtype=dtype), whole(33, dtype=dtype)], constants=constants)
        check("matmul_integer", [x, w, None, None], constants=constants[:1])


def test_batches_and_vectors():
    x = whole(2, 1, 5, 30)
    for w in (whole(3, 30, 17, dtype=np.int8), whole(1, 1, 30, 17, dtype=np.int8), whole(30, dtype=np.int8)):
        for constants in ((), (1,)):
            check("matmul_integer", [x, w, np.uint8(7), np.int8(-3)], constants=constants)
    check("matmul_integer", [whole(30), whole(30, 5), np.uint8(7), whole(5)], constants=(1, 3))
    check("matmul_integer", [whole(3, 7, 70), weights(70, 33), np.uint8(9), whole(33, dtype=np.int8)])


@pytest.mark.skipif(not HAS_QUADS, reason="quads take AVX2")
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_weights_that_could_saturate_among_others(dtype):
    """The largest products meet in one pair, in either half of a quad, at either end, in neighbouring columns."""
    info = np.iinfo(dtype)
    for depth in (38, 512):
        w = weights(depth, 50, dtype=dtype)
        for k, j in ((0, 0), (2, 1), (depth - 2, 49), (12, 17), (12, 18)):
            w[k : k + 2, j] = info.max if j % 2 else info.min
        x = whole(13, depth)
        x[:6] = 255
        source = check("matmul_integer", [x, w, np.uint8(0), np.asarray(info.min, dtype)], constants=(1, 3))
        assert source.variant == "matmul.i32.quads"


@pytest.mark.skipif(not HAS_QUADS, reason="quads take AVX2")
def test_weights_of_the_whole_range_are_pairs():
    assert not quant_panels.takes_quads(whole(64, 32, dtype=np.int8)) and quant_panels.takes_quads(weights(64, 32))
    source = check("matmul_integer", [whole(7, 64), whole(64, 32, dtype=np.int8)], constants=(1,))
    assert source.variant == "matmul.i32"


@pytest.mark.skipif(not HAS_QUADS, reason="quads take AVX2")
def test_quads_hold_any_weights():
    """Packing does not rely on the sample that chose quads."""
    for w in (whole(9, 20, dtype=np.int8), np.full((8, 3), -128, np.int8), np.full((5, 17), 127, np.int8)):
        node = make_node("matmul_integer", [whole(4, len(w)), np.zeros_like(w)], constants=(1,))
        x = whole(4, len(w))
        got = run_kernel(node, [x, w], [(4, w.shape[1])], select(node))[0]
        np.testing.assert_array_equal(got, x.astype(np.int32) @ w.astype(np.int32))


def test_a_whole_convolution():
    x, w = whole(2, 32, 14, 14), whole(24, 32, 3, 3, dtype=np.int8)
    scales = np.linspace(0.01, 0.2, 24).astype(np.float32)
    bias = rng.integers(-9999, 9999, 24).astype(np.int32)
    arrays = [x, np.float32(0.02), np.uint8(200), w, scales, np.zeros(24, np.int8), np.float32(8), np.uint8(3), bias]
    for constants in ((), (3, 5)):
        check("qlinear_conv", arrays, {"pads": (1, 1, 1, 1), "strides": (2, 2)}, constants)


CONVOLUTIONS = [
    ((1, 3, 9, 37), (5, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 4, 8, 8), (6, 2, 3, 2), {"group": 2, "strides": (2, 1)}),
    ((1, 6, 7, 7), (6, 1, 3, 3), {"group": 6, "pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    ((1, 40, 20, 21), (17, 40, 1, 1), {}),
    ((2, 3, 50), (4, 3, 5), {"pads": (4, 0)}),
    ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2), {}),
    ((0, 3, 5, 5), (2, 3, 3, 3), {}),
]


@pytest.mark.parametrize("constants", [(), (1, 3)], ids=["computed", "constant"])
def test_convolutions(constants):
    for shape, filters, attrs in CONVOLUTIONS:
        for a, b in ((np.uint8, np.int8), (np.int8, np.uint8)):
            x, w = whole(*shape, dtype=a), whole(*filters, dtype=b)
            check("conv_integer", [x, w, whole(dtype=a), whole(dtype=b)], attrs, constants)
            check("conv_integer", [x, w, whole(dtype=a), whole(filters[0], dtype=b)], attrs, constants)


# ---- what follows in the same kernel ------------------------------------------------------------------------------------


def check_fused(build, *arrays, constants=()):
    node = fused(build, *arrays, constants=constants, kernel="gemm")
    source = select(node)
    assert isinstance(source, KernelSource), source
    got = run_kernel(node, arrays, source=source)[0]
    assert_close(got, by_references(node, arrays)[0], 1e-6, 1e-4)


@pytest.mark.parametrize("rows", [1, 3, 4, 17])
@pytest.mark.parametrize("columns", [1, 16, 40])
def test_a_product_with_scales_bias_and_residual(rows, columns):
    def build(g, i):
        y = apply(g, "cast", apply(g, "matmul_integer", *i[:4]), to=F32)
        y = apply(g, "relu", apply(g, "add", apply(g, "mul", y, i[4]), i[5]))
        return [apply(g, "add", y, i[6])]

    f32 = [rng.standard_normal(s).astype(np.float32) for s in ((), (columns,), (2, rows, columns))]
    arrays = [whole(2, rows, 37), weights(37, columns), np.uint8(9), np.int8(1), *f32]
    check_fused(build, *arrays, constants=(1, 3))
    check_fused(build, *arrays)


@pytest.mark.parametrize("channels", [2, 5, 13])
def test_a_convolution_with_an_integer_bias(channels):
    def build(g, i):
        y = apply(g, "add", apply(g, "conv_integer", *i[:3], pads=(1, 1, 1, 1)), i[3])
        y = apply(g, "mul", apply(g, "cast", y, to=F32), i[4])
        return [apply(g, "add", apply(g, "add", y, i[5]), i[6])]

    bias = rng.integers(-(2**31), 2**31, (channels, 1, 1)).astype(np.int32)
    f32 = [rng.standard_normal(s).astype(np.float32) for s in ((), (channels, 1, 1), (2, channels, 6, 9))]
    check_fused(build, whole(2, 4, 6, 9), whole(channels, 4, 3, 3), np.uint8(9), bias, *f32, constants=(1,))
    check_fused(build, whole(2, 4, 6, 9), whole(channels, 4, 3, 3), np.uint8(9), bias, *f32)


def test_what_cannot_follow_says_why():
    anchor = make_node("matmul_integer", [whole(4, 8), whole(8, 3)])
    sums = anchor.results[0]

    def step(name, *others, **attrs):
        return apply(anchor.graph, name, sums, *[anchor.graph.module.main.add_input("o", o) for o in others], **attrs).node

    assert refuse_step(anchor, step("cast", to=F32), 0) is None
    assert "before they are cast" in str(refuse_step(anchor, step("neg"), 0))
    assert "before they are cast" in str(refuse_step(anchor, step("add", sums.type), 0))
