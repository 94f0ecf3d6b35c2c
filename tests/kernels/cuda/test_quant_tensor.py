"""Products and convolutions of 8-bit integers by the tensor cores: exact, whatever the operands hold, and which go there."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from graphmill.kernels.cuda import quant
from graphmill.kernels.spec import KernelSource, Refusal

from ..cpu.harness import make_node, reference
from ..cpu.test_conv import conv_node
from .harness import ARCHITECTURES, Case, check, check_compiles, needs_nvrtc, needs_shim

KINDS = list(itertools.product((np.uint8, np.int8), repeat=2))


def whole(*shape: int, dtype: Any = np.uint8, seed: int = 0) -> np.ndarray:
    """Numbers of the whole range, its ends among them."""
    info = np.iinfo(dtype)
    x = np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)
    x.reshape(-1)[:2] = (info.min, info.max)[: x.size]
    return x


def case(node: Any, arrays: list, attrs: dict[str, Any] | None = None) -> Case:
    source = quant.build(node)
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
    cases = []
    for a, b in KINDS:
        for m, k, n in ((1, 16, 7), (5, 48, 33), (70, 144, 65), (0, 32, 8), (9, 0, 8), (20, 2064, 24)):
            x, w = whole(m, k, dtype=a), whole(k, n, dtype=b, seed=1)
            cases.append(product("matmul_integer", [x, w, whole(dtype=a, seed=m), exact_zero(b)]))
        cases.append(product("matmul_integer", [x, w]))
        cases.append(product("matmul_integer", [whole(9, 80, dtype=a), whole(80, 33, dtype=b), whole(9, dtype=a, seed=3), exact_zero(b, (33,))]))
    return cases


@needs_shim
@pytest.mark.parametrize("family", [products])
def test_family(family: Any) -> None:
    check(family())
