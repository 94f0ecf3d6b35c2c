"""Products and convolutions of 8-bit integers by the tensor cores: exact, whatever the operands hold, and which go there."""

from __future__ import annotations

import itertools
from typing import Any

import graphmill as gm
import numpy as np
import pytest
from graphmill.engine.steps import KernelStep
from graphmill.ir.layout import channels_last
from graphmill.ir.types import F32
from graphmill.kernels.cuda import quant, shim
from graphmill.kernels.cuda.cut import FEW_ROWS, Cut, Tile
from graphmill.kernels.cuda.target import select
from graphmill.kernels.cuda.tiles import TENSOR_TILES
from graphmill.kernels.spec import Call, KernelSource, Refusal
from onnx import numpy_helper
from onnx import parser as onnx_parser

from ..cpu.harness import aligned, aligned_empty, from_memory, make_node, reference, to_memory
from ..cpu.regions import apply, by_references, fused
from ..cpu.test_conv import conv_node
from .harness import ARCHITECTURES, Case, check, check_compiles, launch, needs_nvrtc, needs_shim

KINDS = list(itertools.product((np.uint8, np.int8), repeat=2))


def whole(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Numbers of the whole range, its ends among them."""
    info = np.iinfo(dtype)
    x = np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)
    if x.size > 1:
        x.reshape(-1)[:2] = info.min, info.max
    return x


def case(node: Any, arrays: list, attrs: dict[str, Any] | None = None, cut: Cut | None = None) -> Case:
    source = quant.build(node, cut=cut)
    assert isinstance(source, KernelSource) and ".tensor" in source.variant and "mma_tile<MmaBytes" in source.text, source.variant
    what = f"{node.op.name} {[None if a is None else (a.shape, a.dtype) for a in arrays]} {attrs}"
    return Case(what, node, source, arrays, reference(node.op, arrays, dict(attrs or {})), 0, 0)


def product(name: str, arrays: list) -> Case:
    arrays = [None if a is None else np.asarray(a) for a in arrays]
    w = 1 if name == "matmul_integer" else 3
    return case(make_node(name, arrays, constants=(w, 3 if w == 1 else 5)), arrays)


def exact_zero(dtype: Any, n: tuple[int, ...] = ()) -> np.ndarray:
    """Zero points that keep weights of the whole range bytes."""
    return np.full(n, 0 if dtype is np.int8 else 128, dtype)


def products() -> list[Case]:
    """Around tiles and parts of 128 steps, all signs; reductions of nothing and in several splits; zero points by row and column."""
    cases = []
    for a, b in KINDS:
        for m, k, n in ((1, 16, 7), (5, 48, 33), (70, 144, 65), (0, 32, 8), (9, 0, 8), (20, 2064, 24)):
            x, w = whole(m, k, dtype=a), whole(k, n, dtype=b, seed=1)
            cases.append(product("matmul_integer", [x, w, whole(dtype=a, seed=k), exact_zero(b)]))
        cases.append(product("matmul_integer", [whole(9, 80, dtype=a), whole(80, 33, dtype=b)]))
        zeros = whole(9, dtype=a, seed=3), exact_zero(b, (33,))
        cases.append(product("matmul_integer", [whole(9, 80, dtype=a), whole(80, 33, dtype=b), *zeros]))
    few = np.random.default_rng(0).integers(90, 130, (64, 40)).astype(np.uint8)  # that are bytes less any of these
    cases.append(product("matmul_integer", [whole(33, 64), few, np.uint8(9), np.arange(90, 130).astype(np.uint8)]))
    cases.append(product("matmul_integer", [whole(33, 64), few, np.uint8(9), np.uint8(7)]))
    for a, b in KINDS:  # weights less their zero points are no bytes
        for m, k, n in ((5, 48, 33), (70, 2064, 24)):
            zeros = whole(dtype=a, seed=k), whole(n, dtype=b, seed=2)
            cases.append(product("matmul_integer", [whole(m, k, dtype=a), whole(k, n, dtype=b), *zeros]))
    for k in (24, 108):  # in lines of 8 bytes and of 4
        for zero in (0, 99):
            arrays = [whole(2, 3, 7, k), whole(k, 33, dtype=np.int8), np.uint8(77), np.int8(zero)]
            cases.append(product("matmul_integer", arrays))
    for w in (whole(1, 1, 32, 17, dtype=np.int8), whole(32, dtype=np.int8)):
        cases.append(product("matmul_integer", [whole(2, 3, 5, 32), w, np.uint8(7), np.int8(0)]))
    cases.append(product("matmul_integer", [whole(32), whole(32, 5, dtype=np.int8), np.uint8(7), np.int8(0)]))
    cases.append(product("matmul_integer", [whole(2, 7, 80), whole(80, 33, dtype=np.int8), whole(7, 1), None]))
    ends = np.full((2, 70016), 255, np.uint8), np.full((70016, 3), 127, np.int8)
    return [*cases, product("matmul_integer", [*ends, np.uint8(255)]), product("matmul_integer", [*ends])]  # the last wraps


def requantized() -> list[Case]:
    scales = np.linspace(0.01, 0.2, 33).astype(np.float32)
    x = [
        whole(2, 9, 80),
        np.float32(0.02),
        np.uint8(200),
        whole(80, 33, dtype=np.int8),
        scales,
        np.zeros(33, np.int8),
        np.float32(8),
    ]
    by_row = [x[0], np.linspace(0.01, 0.1, 9).astype(np.float32)[:, None], whole(9, 1), *x[3:]]
    cases = [product("qlinear_matmul", [*p, np.uint8(3)]) for p in (x, by_row)]
    bias = np.random.default_rng(0).integers(-(2**31), 2**31, 33).astype(np.int32)
    for a, b in KINDS:
        x, w = whole(2, 32, 7, 9, dtype=a), whole(33, 32, 3, 3, dtype=b, seed=1)
        zeros = whole(dtype=a, seed=5), exact_zero(b, (33,)), np.asarray(3, a)
        arrays = [x, np.float32(0.02), zeros[0], w, scales, zeros[1], np.float32(8), zeros[2], bias]
        for last in ((True, True), (True, False)):
            cases.append(convolution("qlinear_conv", arrays, {"pads": (1, 1, 1, 1), "strides": (2, 2)}, last))
    return cases


CONVOLUTIONS = {
    "pads": ((2, 16, 9, 7), (24, 16, 3, 3), {"pads": (2, 1, 0, 1)}),
    "group": ((2, 48, 9, 7), (6, 16, 3, 2), {"pads": (1, 1, 1, 1), "group": 3, "strides": (2, 1)}),
    "dilations": ((1, 32, 12, 13), (20, 32, 3, 3), {"strides": (2, 2), "dilations": (1, 2), "auto_pad": "SAME_UPPER"}),
    "pointwise": ((2, 144, 5, 5), (70, 144, 1, 1), {}),
    "cut": ((1, 64, 4, 4), (40, 64, 3, 3), {"pads": (1, 1, 1, 1)}),
    "one_axis": ((2, 16, 90), (72, 16, 5), {"pads": (4, 0)}),
    "three_axes": ((1, 16, 3, 4, 5), (8, 16, 2, 2, 2), {"pads": (1, 0, 1, 0, 1, 0)}),
    "eight_bytes": ((2, 24, 9, 7), (10, 24, 3, 3), {"pads": (1, 1, 1, 1)}),
    "four_bytes": ((1, 24, 9, 7), (10, 12, 3, 3), {"pads": (1, 1, 1, 1), "group": 2, "strides": (1, 2)}),
    "empty": ((0, 16, 5, 5), (8, 16, 3, 3), {}),
}


def convolution(name: str, arrays: list, attrs: dict[str, Any], last: tuple[bool, bool] = (True, True)) -> Case:
    w = 1 if name == "conv_integer" else 3
    return case(conv_node(name, arrays, attrs, last, (w, 3 if w == 1 else 5)), arrays, attrs)


def convolutions() -> list[Case]:
    """What lies outside of an image counts as the zero point, whatever that is; results with their channels last and not."""
    cases = []
    for i, (shape, filters, attrs) in enumerate(CONVOLUTIONS.values()):
        for j, (a, b) in enumerate(KINDS):
            arrays = [
                whole(*shape, dtype=a),
                whole(*filters, dtype=b, seed=1),
                whole(dtype=a, seed=i + j),
                exact_zero(b, filters[:1]),
            ]
            arrays[3] = whole(filters[0], dtype=b, seed=3) if j % 2 == i % 2 else arrays[3]  # which is exact, or not
            cases.append(convolution("conv_integer", arrays, attrs, (True, j % 2 == 0)))
    arrays = [whole(2, 16, 9, 7, dtype=np.int8), whole(24, 16, 3, 3, dtype=np.int8), None, None]
    return [*cases, convolution("conv_integer", arrays, {"pads": (2, 1, 0, 1)})]


def epilogues() -> list[Case]:
    """A bias in i32, a scale that is computed, one a channel, a residual; channels last and not."""
    rng, cases = np.random.default_rng(1), []

    def product(g: Any, i: Any) -> list:
        y = apply(g, "mul", apply(g, "cast", apply(g, "matmul_integer", *i[:4]), to=F32), i[4])
        return [apply(g, "add", apply(g, "relu", apply(g, "add", y, i[5])), i[6])]

    def convolution(g: Any, i: Any) -> list:
        y = apply(g, "add", apply(g, "conv_integer", *i[:3], pads=(1, 1, 1, 1)), i[3])
        return [apply(g, "add", apply(g, "add", apply(g, "mul", apply(g, "cast", y, to=F32), i[4]), i[5]), i[6])]

    def case_of(build: Any, arrays: list, constants: tuple[int, ...]) -> Case:
        node = fused(build, *arrays, constants=constants, layout=channels_last(4), kernel="gemm")
        source = select(node)
        assert isinstance(source, KernelSource) and "_integer.tensor" in source.variant, source
        return Case(build.__name__, node, source, arrays, by_references(node, arrays), 1e-6, 1e-3)

    f32 = [rng.standard_normal(s).astype(np.float32) for s in ((), (40,), (2, 17, 40))]
    for zero in (np.int8(0), np.int8(99)):
        cases.append(case_of(product, [whole(2, 17, 48), whole(48, 40, dtype=np.int8), np.uint8(9), zero, *f32], (1, 3)))
    f32 = [rng.standard_normal(s).astype(np.float32) for s in ((), (24, 1, 1), (2, 24, 6, 9))]
    bias = rng.integers(-(2**20), 2**20, (24, 1, 1)).astype(np.int32)
    return [*cases, case_of(convolution, [whole(2, 16, 6, 9), whole(24, 16, 3, 3, seed=4), np.uint8(9), bias, *f32], (1,))]


@needs_shim
@pytest.mark.parametrize("family", [products, requantized, convolutions, epilogues])
def test_family(family: Any) -> None:
    check(family())


@needs_shim
@pytest.mark.parametrize("tile", TENSOR_TILES, ids=lambda t: f"{t.rows}x{t.columns}")
def test_each_way_of_cutting(tile: Tile) -> None:
    """All give the same bits, with and without what the sums of rows take off."""
    cases = []
    for splits, zero in ((1, 0), (3, 0), (3, 77)):
        for m, k, n in ((9, 1040, 33), (70, 272, 72)):
            arrays = [whole(m, k), whole(k, n, dtype=np.int8, seed=1), np.uint8(250), np.int8(zero)]
            cases.append(case(make_node("matmul_integer", arrays, constants=(1, 3)), arrays, cut=Cut(tile, splits)))
        arrays = [whole(2, 64, 9, 7, dtype=np.int8), whole(70, 32, 3, 3, dtype=np.int8), np.int8(-77), np.int8(zero)]
        attrs = {"pads": (1, 1, 1, 1), "group": 2}
        node = conv_node("conv_integer", arrays, attrs, (True, True), (1, 3))
        cases.append(case(node, arrays, attrs, Cut(tile, splits)))
    check(cases)


@needs_shim
def test_operands_at_any_address() -> None:
    """What is a piece of another tensor need not begin at a multiple of 16 bytes."""
    for c in (product("matmul_integer", [whole(9, 48), whole(48, 33, dtype=np.int8), np.uint8(7), np.int8(5)]), convolutions()[1]):
        source, arrays = c.source, list(c.operands)
        x = to_memory(arrays[0], c.node.operands[0].tensor)
        apart = aligned_empty((x.nbytes + 1,), np.dtype(np.uint8))[1:].view(x.dtype).reshape(x.shape)
        apart[...] = x
        packed = aligned(source.pack[1](np.asarray(arrays[1])))
        given = [apart, packed, *(aligned(np.asarray(a)) for a in arrays[2:])]
        result = aligned_empty(to_memory(c.want[0], c.node.results[0].tensor).shape, np.dtype(np.int32))
        call = Call([np.shape(a) for a in arrays], [c.want[0].shape])
        launch(source, call, given, [result], shim.load([source.text])[source.text])
        np.testing.assert_array_equal(from_memory(result, c.node.results[0].tensor), c.want[0])


def test_what_scalar_tiles_compute_says_why() -> None:
    x, w = whole(9, 48), whole(48, 33, dtype=np.int8)
    image, filters = whole(1, 16, 5, 5), whole(8, 16, 3, 3, dtype=np.int8)
    odd = whole(1, 6, 5, 5), whole(8, 6, 3, 3, dtype=np.int8)
    told = {
        "the weights are no constant": make_node("matmul_integer", [x, w]),
        "the weights' zero points are not known": make_node("matmul_integer", [x, w, None, np.int8(3)], constants=[1]),
        "has weights of its own": make_node("matmul_integer", [whole(2, 9, 48), whole(2, 48, 5)], constants=[1]),
        "30 steps of the reduction": make_node("matmul_integer", [x[:, :30].copy(), w[:30].copy()], constants=[1]),
        "channels are not last": conv_node("conv_integer", [image, filters], {}, (False, False), (1,)),
        "6 channels of a group": conv_node("conv_integer", [*odd], {}, (True, True), (1,)),
    }
    for why, node in told.items():
        source = select(node)
        assert isinstance(source, KernelSource) and why in source.variant and "mma_tile<" not in source.text, source
        assert isinstance(quant.build(node, cut=Cut(Tile(32, 32))), Refusal)
    node = make_node("matmul_integer", [x, w], constants=[1])
    assert select(node).variant == "matmul_integer.tensor" and select(node, rung="scalar").variant == "matmul_integer"  # type: ignore[union-attr]
    assert isinstance(quant.build(node, cut=Cut(Tile(32, 32, True))), Refusal) and isinstance(
        quant.build(node, cut=Cut(FEW_ROWS)), Refusal
    )


def network() -> Any:
    """An image of three channels, 16 and 32 channels with a residual, ten."""
    model = onnx_parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        m (uint8[1, 3, 12, 10] x) => (float[1, 10, 6, 5] y) {
            a = QLinearConv <pads = [1, 1, 1, 1]> (x, s, z, w0, s, zw, s, z)
            b = QLinearConv <pads = [1, 1, 1, 1], strides = [2, 2]> (a, s, z, w1, s, zw, s, z)
            c = QLinearConv (b, s, z, w2, s, zw, s, z)
            fb = DequantizeLinear (b, s, z)  fc = DequantizeLinear (c, s, z)  f = Add (fb, fc)  d = QuantizeLinear (f, s, z)
            e = QLinearConv (d, s, z, w3, s, zw, s, z)  y = DequantizeLinear (e, s, z) }""")
    given = {"s": np.float32(0.05), "z": np.uint8(131), "zw": np.int8(0)}
    given |= {f"w{i}": whole(*shape, dtype=np.int8, seed=i) for i, shape in
              enumerate(((16, 3, 3, 3), (32, 16, 3, 3), (32, 32, 1, 1), (10, 32, 1, 1)))}  # fmt: skip
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in given.items())
    return model


@needs_shim
def test_a_network() -> None:
    """Only its first convolution is computed in scalar tiles, and only its result is moved."""
    exe = gm.compile(network(), "cuda", device="shim")
    steps = [s for s in exe.plan.steps if isinstance(s, KernelStep)]
    found = [s.source.variant for s in steps if s.node.op.name == "qlinear_conv"]
    assert found[1:] == ["qlinear_conv.tensor"] * 3 and "3 channels of a group" in found[0]
    assert [s.node.op.name for s in steps].count("to_layout") == 1
    x = {"x": whole(1, 3, 12, 10)}
    np.testing.assert_array_equal(exe.run(x)["y"], gm.compile(network()).run(x)["y"])
    scalar = gm.compile(network(), "cuda", device="null", rung="scalar")
    assert not [s for s in scalar.plan.steps if isinstance(s, KernelStep) and "mma_tile<" in s.source.text]


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles(list(dict.fromkeys(c.source.text for c in [*products(), *requantized(), *convolutions(), *epilogues()])), arch)
