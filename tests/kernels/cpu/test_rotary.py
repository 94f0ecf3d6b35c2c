"""Rotary positions against their reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import RunError

from .cases import check_case
from .harness import check_native, make_node, run_kernel


def rand(*shape: int, seed: int = 0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(-2, 2, shape).astype(dtype)


def test_examples():
    share = check_native("rotary_embedding")
    assert share.served and not share.refused, share


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotated", [0, 4, 32])
def test_pairs(dtype, interleaved, rotated):
    x, half = rand(2, 3, 7, 64, dtype=dtype), (rotated or 64) // 2
    cos, sin = rand(50, half, seed=1, dtype=dtype), rand(50, half, seed=2, dtype=dtype)
    places = np.random.default_rng(3).integers(0, 50, (2, 7))
    attrs = {"interleaved": interleaved, "rotary_embedding_dim": rotated}
    atol = 1e-5 if dtype is np.float32 else 3e-2
    check_case("rotary_embedding", [x, cos, sin, places], attrs, atol=atol)
    flat = np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(2, 7, 192)
    rows = [c[places] for c in (cos, sin)]
    check_case("rotary_embedding", [flat, *rows], attrs | {"num_heads": 3}, atol=atol)


def test_a_position_outside_of_the_caches():
    x, cache = rand(1, 1, 2, 4), rand(3, 2)
    for wrong in (3, -1):
        operands = [x, cache, cache, np.array([[0, wrong]])]
        with pytest.raises(RunError, match="position"):
            run_kernel(make_node("rotary_embedding", operands), operands)
