"""Convolutions on CUDA: all examples, layouts, element types, groups, strides, phases, epilogues."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.op import OPS
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import KernelSource, Refusal

from ..cpu.harness import reference
from ..cpu.test_conv import CONVS, LAYOUTS, TRANSPOSED, conv_node
from ..cpu.test_gemm import expect, fused, rand
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim
from .test_gemm import CLOSE


def case(name: str, arrays: list, attrs: dict[str, Any], last: tuple[bool, bool], constants: tuple[int, ...] = (1, 2)) -> Case:
    node = conv_node(name, arrays, attrs, last, constants)
    source = select(node)
    assert isinstance(source, KernelSource) and source.variant.split(".")[0] in (name, "depthwise"), source
    wide = [None if a is None else a.astype(np.float64) for a in arrays]
    want = reference(OPS[name], wide, attrs)[0].astype(arrays[0].dtype)
    rtol, atol = CLOSE[arrays[0].dtype.name]
    shapes = [None if a is None else a.shape for a in arrays]
    return Case(f"{name} {shapes} {attrs} {last} {arrays[0].dtype} {source.variant}", node, source, arrays, [want], rtol, 2 * atol)


def convolutions() -> list[Case]:
    cases = []
    for x, w, bias, attrs in CONVS.values():
        for last in LAYOUTS:
            cases.append(case("conv", [rand(*x), rand(*w, seed=1), rand(w[0], seed=2) if bias else None], attrs, last))
    for x, w, attrs in TRANSPOSED.values():
        for last in LAYOUTS:
            bias = rand(w[1] * attrs.get("group", 1), seed=2)
            cases.append(case("conv_transpose", [rand(*x), rand(*w, seed=1), bias], attrs, last, (1, 2) if last[0] else ()))
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        for last in LAYOUTS[:2]:
            for constants in ((), (1, 2)):
                arrays = [rand(2, 16, 7, 6, dtype=dtype), rand(40, 8, 3, 3, dtype=dtype, seed=1), rand(40, dtype=dtype, seed=2)]
                cases.append(case("conv", arrays, {"pads": (1, 1, 1, 1), "group": 2}, last, constants))
    for last in LAYOUTS[:2]:  # so long that the reduction is cut; so large that the large tile serves
        cases.append(case("conv", [rand(1, 130, 5, 5), rand(70, 130, 3, 3, seed=1)], {"pads": (1, 1, 1, 1)}, last))
        cases.append(case("conv", [rand(1, 2, 130, 131), rand(3, 2, 2, 2, seed=1)], {}, last))
    return cases


DEPTHWISE = {
    "plain": ("conv", (2, 8, 7, 9), (8, 1, 3, 3), {"group": 8, "pads": (1, 1, 1, 1)}),
    "strided": ("conv", (1, 16, 8, 9), (16, 1, 5, 3), {"group": 16, "strides": (2, 1), "dilations": (1, 2)}),
    "multiplier": ("conv", (1, 3, 8, 9), (6, 1, 3, 3), {"group": 3}),
    "odd": ("conv", (1, 5, 6, 7), (5, 1, 2, 2), {"group": 5}),
    "one_axis": ("conv", (2, 8, 40), (8, 1, 4), {"group": 8, "pads": (3, 0)}),
    "three_axes": ("conv", (1, 8, 3, 4, 5), (8, 1, 2, 2, 2), {"group": 8}),
    "transposed": ("conv_transpose", (1, 8, 4, 5), (8, 1, 3, 3), {"group": 8, "strides": (2, 3), "pads": (1, 0, 0, 1)}),
    "transposed_multiplier": ("conv_transpose", (1, 3, 4), (3, 2, 3), {"group": 3, "strides": (2,), "dilations": (2,)}),
}


def depthwise() -> list[Case]:
    cases = []
    for name, x, w, attrs in DEPTHWISE.values():
        for last in LAYOUTS:
            for dtype in (np.float32, np.float16):
                bias = rand(w[0] if name == "conv" else w[0] * w[1], seed=2, dtype=dtype)
                arrays = [rand(*x, dtype=dtype), rand(*w, seed=1, dtype=dtype), bias]
                cases.append(case(name, arrays, attrs, last))
                assert cases[-1].source.variant == "depthwise"
    x, w = rand(1, 8, 7, 9), rand(8, 1, 3, 3, seed=1)
    return [*cases, *(case("conv", [x, w], {"group": 8}, last, ()) for last in LAYOUTS[:2])]


def epilogues() -> list[Case]:
    cases = []
    for last in LAYOUTS:
        for group in (1, 2, 16):
            x, w, bias = rand(2, 16, 9, 7), rand(32, 16 // group, 3, 3, seed=1), rand(32, seed=2)
            attrs = {"pads": (1, 1, 1, 1), "group": group}
            steps = [("mul", [rand(32, 1, 1, seed=3)], 0), ("sigmoid", [], 0), ("add", [rand(2, 32, 9, 7, seed=4)], 1)]
            node, extra = fused(conv_node("conv", [x, w, bias], attrs, last), steps)
            source = select(node)
            assert isinstance(source, KernelSource), source
            want = expect(steps, reference(OPS["conv"], [x, w, bias], attrs)[0])
            cases.append(Case(f"epilogue {last} {group}", node, source, [x, w, bias, *extra], [want], 1e-4, 1e-4))
    return cases


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(["conv", "conv_transpose"])
    assert not refused, refused
    for c in cases:
        c.rtol, c.atol = 3e-3, 3e-2
    check(cases)


@needs_shim
@pytest.mark.parametrize("family", [convolutions, depthwise, epilogues])
def test_family(family: Any) -> None:
    check(family())


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    texts = list(dict.fromkeys(c.source.text for c in [*convolutions(), *depthwise(), *epilogues()]))
    check_compiles(texts, arch)


def test_too_many_phases_are_refused() -> None:
    arrays = [rand(1, 2, 3, 3), rand(2, 2, 3, 3)]
    refused = select(conv_node("conv_transpose", arrays, {"strides": (40, 9)}, (False, False)))
    assert isinstance(refused, Refusal) and "strides" in str(refused)
