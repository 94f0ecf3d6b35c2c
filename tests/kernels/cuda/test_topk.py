"""topk on CUDA: all examples, lines that are searched, ties, NaN and signed zeros, every element type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphmill.ir.types import DTYPES

from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim


def top(x: np.ndarray, k: int, axis: int = -1, largest: int = 1) -> Case:
    return case("topk", [x, np.array([k], np.int64)], {"axis": axis, "largest": largest}, 2, constants=(1,))


def rand(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(shape).standard_normal(shape) * 50).astype(dtype)


def several() -> list[Case]:
    special = np.tile(np.float32([0.0, -0.0, np.nan, np.inf, -np.inf, 1, -1, np.nan, 1e-45, -1e-45, 0.0]), (2, 3))
    few = np.random.default_rng(0).integers(-2, 3, (2, 9000)).astype(np.float32)
    long = rand(9000)
    long[[3, 77, 5000]] = np.nan
    types = ("f16", "bf16", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "f64")
    return [
        *(top(special, k, largest=side) for k in (1, 5, 33) for side in (0, 1)),
        *(top(rand(5, 40, 3), 7, 1, side) for side in (0, 1)),
        *(top(long, k, largest=side) for k in (1, 300) for side in (0, 1)),
        top(few, 2500),  # a search that ties lead through all digits
        top(np.zeros((1, 5000), np.float32), 17),
        top(rand(2, 9000), 5000),  # more than shared memory holds
        top(rand(4097), 4097),
        top(rand(4096), 100),
        top(rand(3, 1), 1),
        top(rand(4, 0), 0),
        top(rand(0, 4), 2),
        top(rand(3, 4), 0),
        *(top(np.abs(rand(3, 200)).astype(DTYPES[t].np), 20) for t in types),
        *(top(rand(3, 200).astype(DTYPES[t].np), 20, largest=0) for t in types if t[0] != "u"),
        top(np.array([[-(2**31), 2**31 - 1, 0, -1, 5]], np.int32), 5),
        top(np.array([[2**32 - 1, 0, 2**31, 7]], np.uint32), 4),
    ]


def wide() -> list[Case]:
    """Keys of 64 bits: values that differ in their low halves only, ties through all digits, all sizes of lists."""
    rng, (least, most) = np.random.default_rng(1), (-(2**63), 2**63 - 1)
    special = np.tile([0.0, -0.0, np.nan, np.inf, -np.inf, 1, np.nextafter(1, 2), -1, np.nan, 5e-324, -5e-324, 0.0], (2, 3))
    near = (1 << 40) + rng.integers(0, 1 << 20, (2, 5000))
    few = rng.integers(-2, 3, (2, 5000))
    ends = np.array([[least, most, 0, -1, 5, most - 1, least + 1]])
    return [
        *(top(special, k, largest=side) for k in (1, 5, 36) for side in (0, 1)),
        *(top(near, k, largest=side) for k in (1, 300) for side in (0, 1)),
        *(top(few.astype(t), 1500) for t in (np.int64, np.float64)),
        *(top(ends, 7, largest=side) for side in (0, 1)),
        *(top(ends.astype(np.uint64), 7, largest=side) for side in (0, 1)),
        top(1 + rng.random((1, 5000)) * 1e-12, 40),
        top(rng.standard_normal(4097), 4097),  # more than shared memory holds
        top(rng.standard_normal((3, 2049, 2)), 7, 1),
        *(top(rng.standard_normal((2, n)), n) for n in (1, 2, 2048)),
        top(np.zeros((1, 3000), np.uint64), 17),
    ]


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(["topk"])
    assert len(cases) >= 9 and not refused
    check(cases)


@needs_shim
def test_more_lines() -> None:
    cases = several() + wide()
    assert all(c.source.variant == "a block for each line" for c in cases)
    check(cases)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in several() + wide()], arch)
