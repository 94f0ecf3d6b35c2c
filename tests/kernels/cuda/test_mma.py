"""Products and convolutions by the tensor cores: exact where the numbers are, by asynchronous copies and without."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.core import Node
from graphmill.ir.op import OPS
from graphmill.kernels.cuda import conv, gemm, tiles
from graphmill.kernels.cuda.cut import Tile
from graphmill.kernels.spec import KernelSource

from ..cpu.harness import make_node, reference
from ..cpu.test_conv import LAYOUTS, conv_node
from ..cpu.test_gemm import expect, fused, rand
from .harness import ARCHITECTURES, Case, check, check_compiles, needs_nvrtc, needs_shim

TYPES = [np.float16, ml_dtypes.bfloat16, np.float32]


def few_bits(*shape: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """Numbers whose products all types hold, and sums f32: quarters from -2 to 2."""
    return (np.random.default_rng(seed).integers(-8, 9, shape) / 4).astype(dtype)


def case(build: Any, node: Node, arrays: list, attrs: dict[str, Any], want: np.ndarray | None = None, exact: bool = True) -> Case:
    source = build(node, "tf32")
    assert isinstance(source, KernelSource) and ("mma_tile<" in source.text or "direct_tile<" in source.text), source
    if want is None:
        wide = [None if a is None else a.astype(np.float64) for a in arrays]
        want = reference(OPS[node.op.name], wide, attrs)[0].astype(arrays[0].dtype)
    what = f"{node.op.name} {[None if a is None else a.shape for a in arrays]} {attrs} {arrays[0].dtype}"
    return Case(what, node, source, arrays, [want], *((0, 0) if exact else (2e-2, 3e-2)))


SIZES = ((64, 32, 64), (70, 40, 72), (9, 8, 8), (67, 33, 65), (130, 72, 136), (20, 1000, 24), (9, 0, 8), (1500, 24, 1400))


def products() -> list[Case]:
    """Around tiles and parts; numbers that lie as copies of 16 bytes take them (multiples of 8), and not; cut reductions."""
    cases = []
    for dtype in TYPES:
        for m, k, n in SIZES:
            if m < 1000 or dtype is np.float16:
                arrays = [few_bits(m, k, dtype=dtype), few_bits(k, n, dtype=dtype, seed=1)]
                cases.append(case(gemm.build, make_node("matmul", arrays), arrays, {}))
        for trans_a, trans_b in ((0, 1), (1, 0), (1, 1)):
            for m, k, n in ((72, 40, 80), (67, 33, 65)):
                a, b = (k, m) if trans_a else (m, k), (n, k) if trans_b else (k, n)
                attrs = {"transA": trans_a, "transB": trans_b}
                arrays = [few_bits(*a, dtype=dtype), few_bits(*b, dtype=dtype, seed=1), few_bits(n, dtype=dtype, seed=2)]
                cases.append(case(gemm.build, make_node("gemm", arrays, attrs), arrays, attrs))
        for batch in ((2, 3), (3,)):
            arrays = [few_bits(2, 3, 16, 24, dtype=dtype), few_bits(*batch, 24, 40, dtype=dtype, seed=1)]
            cases.append(case(gemm.build, make_node("matmul", arrays), arrays, {}))
        arrays = [rand(70, 200, dtype=dtype), rand(200, 72, dtype=dtype, seed=1)]
        cases.append(case(gemm.build, make_node("matmul", arrays), arrays, {}, exact=False))
    return cases


CONVOLUTIONS = {
    "copies": ("conv", (2, 16, 9, 7), (24, 16, 3, 3), {"pads": (1, 1, 1, 1)}),
    "group": ("conv", (2, 16, 9, 7), (48, 8, 3, 3), {"pads": (1, 1, 1, 1), "group": 2, "strides": (2, 1)}),
    "image": ("conv", (1, 3, 12, 13), (20, 3, 3, 3), {"strides": (2, 2), "dilations": (1, 2)}),
    "pointwise": ("conv", (2, 72, 5, 5), (70, 72, 1, 1), {}),
    "cut": ("conv", (1, 64, 4, 4), (40, 64, 3, 3), {"pads": (1, 1, 1, 1)}),
    "one_axis": ("conv", (2, 8, 90), (72, 8, 5), {"pads": (4, 0)}),
    "three_axes": ("conv", (1, 8, 3, 4, 5), (8, 8, 2, 2, 2), {}),
    "transposed": ("conv_transpose", (1, 16, 5, 6), (16, 24, 3, 3), {"strides": (2, 3), "pads": (1, 0, 0, 1)}),
}


def convolutions() -> list[Case]:
    cases = []
    for dtype in TYPES:
        for name, x, w, attrs in CONVOLUTIONS.values():
            for last in LAYOUTS[:2] if dtype is not np.float16 else LAYOUTS:
                bias = few_bits(w[0] if name == "conv" else w[1], dtype=dtype, seed=2)
                arrays = [few_bits(*x, dtype=dtype), few_bits(*w, dtype=dtype, seed=1), bias]
                for constants in ((1, 2), ()) if dtype is np.float16 else ((1, 2),):
                    cases.append(case(conv.build, conv_node(name, arrays, attrs, last, constants), arrays, attrs))
    return cases


def epilogues() -> list[Case]:
    cases = []
    for dtype in TYPES:
        for last in LAYOUTS[:2]:
            x, w = few_bits(2, 16, 9, 7, dtype=dtype), few_bits(32, 16, 3, 3, dtype=dtype, seed=1)
            scale, residual = few_bits(32, 1, 1, dtype=dtype, seed=3), few_bits(2, 32, 9, 7, dtype=dtype, seed=4)
            steps = [("mul", [scale], 0), ("add", [residual], 1), ("relu", [], 0)]
            node, extra = fused(conv_node("conv", [x, w], {"pads": (1, 1, 1, 1)}, last), steps)
            sums = reference(OPS["conv"], [x.astype(np.float64), w.astype(np.float64)], {"pads": (1, 1, 1, 1)})[0]
            want = expect([(name, [a.astype(np.float64) for a in others], i) for name, others, i in steps], sums)
            cases.append(case(gemm.build_fused, node, [x, w, *extra], {}, want.astype(dtype)))
    return cases


@needs_shim
@pytest.mark.parametrize("family", [products, convolutions, epilogues])
def test_family(family: Any) -> None:
    check(family())


def cut_as(monkeypatch: Any, tile: Tile, wanted: int) -> None:
    """Makes builders take this tile, where they can, and reductions be cut into so many splits, where they are long enough."""

    def chosen(tensor: str, cut: Any, splits: bool = True, direct: bool = False) -> tuple[Tile, ...]:
        return (tile if direct or not tile.direct else Tile(64, 64),)

    def splits(given: Any, rows: int, columns: int, batches: int, depth: int, item: int, cut: bool) -> tuple[int, int]:
        parts = -(-depth // given[0].deep(item))
        each = -(-parts // (wanted if cut else 1))
        return 0, -(-parts // each) if each else 1

    monkeypatch.setattr(gemm, "tensor_tiles", chosen)
    monkeypatch.setattr(conv, "tensor_tiles", chosen)
    monkeypatch.setattr(tiles, "tensor_cut", splits)


@needs_shim
@pytest.mark.parametrize("tile", [*tiles.DIRECT_TILES, *tiles.TENSOR_TILES], ids=lambda t: "x".join(map(str, t)))
def test_each_way_of_cutting(tile: Tile, monkeypatch: Any) -> None:
    """Sizes below, at and beyond a tile; reductions of nothing, of a part that is not whole, of several splits; residuals."""
    for wanted in (1, 3):
        cut_as(monkeypatch, tile, wanted)
        cases = []
        for m, k, n in ((9, 712, 33), (70, 40, 72), (64, 256, 128)):
            arrays = [few_bits(m, k, dtype=np.float16), few_bits(k, n, dtype=np.float16, seed=1)]
            cases.append(case(gemm.build, make_node("matmul", arrays, constants=[1]), arrays, {}))
        arrays = [
            few_bits(33, 40, dtype=np.float16),
            few_bits(50, 40, dtype=np.float16, seed=1),
            few_bits(50, dtype=np.float16, seed=2),
        ]
        cases.append(case(gemm.build, make_node("gemm", arrays, {"transB": 1}, constants=[1]), arrays, {"transB": 1}))
        for name in ("copies", "group", "pointwise", "one_axis"):
            kind, x, w, attrs = CONVOLUTIONS[name]
            arrays = [
                few_bits(*x, dtype=np.float16),
                few_bits(*w, dtype=np.float16, seed=1),
                few_bits(w[0], dtype=np.float16, seed=2),
            ]
            cases.append(case(conv.build, conv_node(kind, arrays, attrs, (True, name != "group")), arrays, attrs))
        assert tile.direct == any("direct_tile<" in c.source.text for c in cases)
        check(cases)


def test_f32_is_not_rounded_unless_asked_for() -> None:
    source = gemm.build(make_node("matmul", [rand(70, 20), rand(20, 30)]))
    assert isinstance(source, KernelSource) and "mma_tile<" not in source.text


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    texts = list(dict.fromkeys(c.source.text for c in [*products(), *convolutions(), *epilogues()]))
    check_compiles(texts, arch)
