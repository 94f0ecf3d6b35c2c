"""Products and convolutions of 8-bit integers on CUDA in scalar tiles: exact, whatever the operands hold. For the tensor cores see
test_quant_tensor.py."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from graphmill.ir.types import F32
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import KernelSource

from ..cpu.harness import make_node, reference
from ..cpu.regions import apply, by_references, fused
from ..cpu.test_quant import CONVOLUTIONS, weights, whole
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

NAMES = ["matmul_integer", "qlinear_matmul", "conv_integer", "qlinear_conv"]


def case(name: str, arrays: list, attrs: dict[str, Any] | None = None, constants: tuple[int, ...] = ()) -> Case:
    arrays = [None if a is None else np.asarray(a) for a in arrays]
    node = make_node(name, arrays, attrs, constants=constants)
    source = select(node)
    assert isinstance(source, KernelSource) and source.variant.split(",")[0] == name, source
    what = f"{name} {[None if a is None else a.shape for a in arrays]} {attrs} {constants}"
    return Case(what, node, source, arrays, reference(node.op, arrays, dict(attrs or {})), 0, 0)


def products() -> list[Case]:
    cases = []
    for a, b in itertools.product((np.uint8, np.int8), repeat=2):
        for rows, depth, columns in ((0, 3, 5), (1, 0, 7), (5, 7, 33), (70, 130, 65)):
            x, w = whole(rows, depth, dtype=a), weights(depth, columns, dtype=b)
            cases.append(case("matmul_integer", [x, w, whole(dtype=a), whole(dtype=b)]))
        x, w = whole(9, 70, dtype=a), weights(70, 33, dtype=b)
        cases.append(case("matmul_integer", [x, w, whole(9, dtype=a), whole(33, dtype=b)], constants=(1, 3)))
    x = whole(2, 1, 5, 30)
    for w in (whole(3, 30, 17, dtype=np.int8), whole(1, 1, 30, 17, dtype=np.int8), whole(30, dtype=np.int8)):
        cases.append(case("matmul_integer", [x, w, np.uint8(7), np.int8(-3)]))
    cases.append(case("matmul_integer", [whole(3, 7, 70), weights(70, 33), np.uint8(9), whole(33, dtype=np.int8)]))
    cases.append(case("matmul_integer", [np.full((2, 70000), 255, np.uint8), np.full((70000, 3), 127, np.int8)]))  # wraps
    scales = np.linspace(0.01, 0.2, 33).astype(np.float32)
    x = [whole(2, 9, 70), np.float32(0.02), np.uint8(200), weights(70, 33), scales, np.int8(3), np.float32(8), np.uint8(3)]
    cases.append(case("qlinear_matmul", x))
    x[1], x[2] = np.linspace(0.01, 0.1, 9).astype(np.float32)[:, None], whole(9, 1)
    return [*cases, case("qlinear_matmul", x)]


def convolutions() -> list[Case]:
    cases = []
    for shape, filters, attrs in CONVOLUTIONS:
        for a, b in ((np.uint8, np.int8), (np.int8, np.uint8)):
            for constants in ((), (1, 3)):
                x, w = whole(*shape, dtype=a), whole(*filters, dtype=b)
                cases.append(case("conv_integer", [x, w, whole(dtype=a), whole(filters[0], dtype=b)], attrs, constants))
    x, w = whole(2, 32, 14, 14), whole(24, 32, 3, 3, dtype=np.int8)
    bias = np.random.default_rng(0).integers(-9999, 9999, 24).astype(np.int32)
    scales = np.linspace(0.01, 0.2, 24).astype(np.float32)
    arrays = [x, np.float32(0.02), np.uint8(200), w, scales, np.zeros(24, np.int8), np.float32(8), np.uint8(3), bias]
    return [*cases, *(case("qlinear_conv", arrays, {"pads": (1, 1, 1, 1), "strides": (2, 2)}, c) for c in ((), (3, 5)))]


def epilogues() -> list[Case]:
    rng, cases = np.random.default_rng(1), []

    def product(g: Any, i: Any) -> list:
        y = apply(g, "cast", apply(g, "matmul_integer", *i[:4]), to=F32)
        y = apply(g, "relu", apply(g, "add", apply(g, "mul", y, i[4]), i[5]))
        return [apply(g, "add", y, i[6])]

    def convolution(g: Any, i: Any) -> list:
        y = apply(g, "add", apply(g, "conv_integer", *i[:3], pads=(1, 1, 1, 1)), i[3])
        y = apply(g, "mul", apply(g, "cast", y, to=F32), i[4])
        return [apply(g, "add", apply(g, "add", y, i[5]), i[6])]

    f32 = [rng.standard_normal(s).astype(np.float32) for s in ((), (40,), (2, 17, 40))]
    arrays = [whole(2, 17, 37), weights(37, 40), np.uint8(9), np.int8(1), *f32]
    cases += [(product, arrays, c) for c in ((), (1, 3))]
    f32 = [rng.standard_normal(s).astype(np.float32) for s in ((), (5, 1, 1), (2, 5, 6, 9))]
    bias = rng.integers(-(2**31), 2**31, (5, 1, 1)).astype(np.int32)
    cases += [(convolution, [whole(2, 4, 6, 9), whole(5, 4, 3, 3), np.uint8(9), bias, *f32], c) for c in ((), (1,))]
    out = []
    for build, arrays, constants in cases:
        node = fused(build, *arrays, constants=constants, kernel="gemm")
        source = select(node)
        assert isinstance(source, KernelSource) and "_integer, scalar: " in source.variant, source
        out.append(Case(build.__name__, node, source, arrays, by_references(node, arrays), 1e-6, 1e-4))
    return out


@needs_shim
@pytest.mark.parametrize("rung", ["scalar", "tensor"])
def test_examples(rung: str) -> None:
    cases, refused = cases_of(NAMES, rung)
    assert len(refused) <= 1, refused
    check(cases)


@needs_shim
@pytest.mark.parametrize("family", [products, convolutions, epilogues])
def test_family(family: Any) -> None:
    check(family())


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    texts = list(dict.fromkeys(c.source.text for c in [*products(), *convolutions(), *epilogues()]))
    check_compiles(texts, arch)
