"""Pools on CUDA: all examples in both layouts, padding, dilations, ceil_mode, types, whole axes of many sizes."""

from __future__ import annotations

from typing import Any

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.types import BF16, TensorType, dtype_of
from graphmill.kernels.cuda.target import select
from graphmill.kernels.pools import POOLS
from graphmill.kernels.spec import Call, Refusal

from ..cpu.harness import make_node, reference
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).uniform(-2, 2, shape).astype(np.float32)


def pool(name: str, x: np.ndarray, attrs: dict[str, Any] | None = None, last: bool = False, rtol: float = 1e-5, atol: float = 1e-6,
         results: int = 1) -> Case:  # fmt: skip
    layout = channels_last(x.ndim) if last else None
    node = make_node(name, [x], attrs, results, types=[TensorType(dtype_of(x), x.shape, layout)])
    node.results[0].type = node.results[0].tensor.with_(layout=layout)
    source = select(node)
    assert not isinstance(source, Refusal), source
    what = f"{name} {x.dtype}{list(x.shape)} {attrs} {layout}"
    return Case(what, node, source, [x], reference(OPS[name], [x], attrs or {}, results), rtol, atol)


def examples_last() -> list[Case]:
    """All examples with one result, their channels last."""
    return [
        pool(name, np.asarray(e.operands[0]), dict(e.attrs), True, 2e-3, 1e-5)
        for name in POOLS for e in OPS[name].examples() if np.ndim(e.operands[0]) > 2 and e.results == 1
    ]  # fmt: skip


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(POOLS)
    assert len(cases) > 40
    assert not refused
    for c in cases:
        c.rtol, c.atol = 2e-3, 1e-5
    check([*cases, *examples_last()])


WINDOWS = [
    {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    {"kernel_shape": (2, 3), "dilations": (2, 1), "pads": (1, 0, 1, 2), "ceil_mode": 1, "strides": (2, 3)},
    {"kernel_shape": (7, 7), "strides": (3, 2), "auto_pad": "SAME_LOWER"},
    {"kernel_shape": (1, 5), "strides": (1, 2), "auto_pad": "SAME_UPPER"},
    {"kernel_shape": (5, 5), "pads": (2, 2, 2, 2)},
    {"kernel_shape": (9, 11)},
]


@needs_shim
@pytest.mark.parametrize("last", [False, True])
def test_windows(last: bool) -> None:
    cases = []
    for attrs in WINDOWS:
        for shape in ((2, 5, 19, 23), (1, 8, 12, 16), (0, 3, 12, 12)):
            x = rand(*shape)
            cases += [pool(name, x, attrs, last) for name in ("max_pool", "average_pool", "lp_pool")]
            cases.append(pool("average_pool", x, attrs | {"count_include_pad": 1}, last))
        cases.append(pool("average_pool", rand(1, 16, 14, 14).astype(np.float16), attrs, last, 2e-3, 1e-3))
        cases.append(pool("max_pool", rand(1, 16, 14, 14).astype(BF16.np), attrs, last, 0, 0))
        cases.append(pool("max_pool", (rand(1, 33, 14, 14) * 60).astype(np.int8), attrs, last))
        cases.append(pool("lp_pool", rand(1, 3, 14, 14).astype(np.float64), attrs | {"p": 3}, last, 1e-12, 1e-12))
    check(cases)


@needs_shim
def test_places_of_maxima() -> None:
    x = np.random.default_rng(0).integers(0, 9, (2, 3, 14, 15)).astype(np.float32)
    x[0, 0, 5, 5] = x[1, 2, 0, 0] = np.nan
    check([pool("max_pool", x, attrs | {"storage_order": order}, results=2) for attrs in WINDOWS for order in (0, 1)])


@needs_shim
def test_nan_and_infinity() -> None:
    x = rand(1, 4, 9, 9)
    x[0, 0, 3, 3], x[0, 1, 4, 4], x[0, 2, 5, 5] = np.nan, np.inf, -np.inf
    check([pool(name, x, {"kernel_shape": (3, 3)}, last) for name in ("max_pool", "average_pool") for last in (False, True)])
    check([pool(name, x, {}, last) for name in ("global_max_pool", "global_average_pool") for last in (False, True)])


@needs_shim
def test_whole_axes() -> None:
    names = [name for name in POOLS if name.startswith("global")]
    shapes = ((2, 3, 7, 7), (1, 130, 1, 1), (2, 64, 56, 56), (1, 2, 301, 301), (3, 5, 40), (1, 2, 3, 4, 5))
    cases = [pool(name, rand(*s), {}, last, 1e-5, 1e-5) for name in names for s in shapes for last in (False, True)]
    assert {len(c.source.bind(Call([x.shape for x in c.operands], [w.shape for w in c.want])).passes) for c in cases} == {1, 2}
    half = rand(1, 64, 56, 56).astype(np.float16)
    check([*cases, *(pool("global_average_pool", half, {}, last, 2e-3, 1e-4) for last in (False, True))])


def test_refused() -> None:
    x = np.zeros((1, 2, 4, 4), np.float32)
    t = TensorType(dtype_of(x), x.shape, channels_last(4))
    node = make_node("max_pool", [x], {"kernel_shape": (2, 2)}, 2, types=[t])
    node.results[0].type = node.results[0].tensor.with_(layout=t.layout)
    assert "row-major" in str(select(node))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles(list(dict.fromkeys(c.source.text for c in [*cases_of(POOLS)[0], *examples_last()])), arch)
