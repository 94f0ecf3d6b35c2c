"""Rotary positions on CUDA against the reference: pairs side by side and halves apart, heads of any size, positions given or not,
element types, several blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.kernels.cuda import shim

from .cases import case
from .harness import ARCHITECTURES, Case, check, check_compiles, needs_nvrtc, needs_shim, run_kernel


def rand(*shape: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(-2, 2, shape).astype(dtype)


def turned(dtype: type, interleaved: int, rotated: int) -> list[Case]:
    half, places = (rotated or 64) // 2, np.random.default_rng(3).integers(0, 50, (2, 7))
    x, (cos, sin) = rand(2, 3, 7, 64, dtype=dtype), (rand(50, half, seed=s, dtype=dtype) for s in (1, 2))
    attrs = {"interleaved": interleaved, "rotary_embedding_dim": rotated}
    flat, close = np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(2, 7, 192), 1e-5 if dtype is np.float32 else 3e-2
    found = [case("rotary_embedding", [x, cos, sin, places], attrs, atol=close)]
    return [*found, case("rotary_embedding", [flat, cos[places], sin[places]], attrs | {"num_heads": 3}, atol=close)]


def shapes() -> list[Case]:
    """Several blocks, one pair, nothing."""
    found = []
    for batch, heads, length, size in [(3, 5, 41, 18), (1, 1, 1, 2), (0, 2, 3, 4), (2, 1, 0, 4), (1, 2, 300, 80)]:
        caches = [rand(length + 1, size // 2, seed=s) for s in (1, 2)]
        places = np.random.default_rng(length).integers(0, length + 1, (batch, length))
        found.append(case("rotary_embedding", [rand(batch, heads, length, size), *caches, places], atol=1e-5))
    return found


@needs_shim
@pytest.mark.parametrize("interleaved", [0, 1])
def test_pairs(interleaved: int) -> None:
    types = (np.float32, np.float16, ml_dtypes.bfloat16)
    check([c for dtype in types for rotated in (0, 4, 32) for c in turned(dtype, interleaved, rotated)])


@needs_shim
def test_sizes() -> None:
    check(shapes())


@needs_shim
def test_a_position_outside_of_the_caches_is_reported() -> None:
    x, cache = rand(1, 1, 2, 4), rand(3, 2)
    c = case("rotary_embedding", [x, cache, cache, np.array([[0, 1]])])
    for wrong in (3, -1):
        c.operands = [x, cache, cache, np.array([[0, wrong]])]
        with pytest.raises(RunError, match="position"):
            run_kernel(c, shim.load([c.source.text]))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for i in (0, 1) for c in turned(np.float16, i, 0)] + [c.source.text for c in shapes()], arch)
