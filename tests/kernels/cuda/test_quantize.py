"""Casts like another operand and linear quantization on CUDA: all examples, scales for axes and blocks, ranges found on the way."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.kernels.formulas import FORMULAS

from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

NAMES = [*FORMULAS, "dynamic_quantize_linear"]


def rand(*shape: int) -> np.ndarray:
    return (np.random.default_rng(shape).standard_normal(shape) * 20).astype(np.float32)


def zeros(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 255, shape, np.uint8)


def several() -> list[Case]:
    scales = [np.abs(rand(70)) * 0.01 + 0.01, zeros(70)]
    sizes = (0, 1, 3, 255, 4096, 4097, 70_000)
    ranges = [rand(*s) for s in ((0,), (1,), (17, 30), (50_000,))] + [
        np.abs(rand(100)),
        -np.abs(rand(100)),
        np.zeros(9, np.float32),
    ]
    ranges += [np.float32([1, np.inf, -3]), np.float32([0.5] * 300 + [np.nan] + [2.5] * 300)]
    return [
        *(case("quantize_linear", [rand(n), np.float32(0.3), np.uint8(120)]) for n in sizes),
        *(case("dequantize_linear", [zeros(n), np.float32(0.3), np.uint8(120)]) for n in sizes),
        case("quantize_linear", [rand(150, 70), *scales], {"axis": 1}, constants=(1, 2)),
        case("quantize_linear", [rand(3, 70, 5), *scales], {"axis": 1}, constants=(1, 2)),
        case("dequantize_linear", [zeros(3, 70, 5), *scales], {"axis": -2}),
        case("dequantize_linear", [zeros(6, 64), np.abs(rand(6, 2)), zeros(6, 2)], {"axis": 1, "block_size": 32}),
        case("cast_like", [rand(3, 1000), np.float16(0)]),
        *(case("dynamic_quantize_linear", [x], results=3) for x in ranges),
    ]


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(NAMES)
    assert len(cases) > 70
    for r in refused:
        assert "strings are" in r or "blocks that do not divide" in r, r
    check(cases)


@needs_shim
def test_sizes_axes_and_blocks() -> None:
    check(several())


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in [*cases_of(NAMES)[0], *several()]], arch)
