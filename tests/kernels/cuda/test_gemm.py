"""Matrix products on CUDA: all examples, sizes at the edges of tiles, transposes, batches, epilogues."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, TensorType
from graphmill.kernels.cuda.target import select
from graphmill.kernels.products import refuse_epilogue
from graphmill.kernels.spec import KernelSource, Refusal

from ..cpu.harness import make_node, reference
from ..cpu.test_gemm import EPILOGUES, SHAPES, expect, fused, rand
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

CLOSE = {"float64": (1e-11, 1e-11), "float32": (1e-4, 1e-4), "float16": (4e-3, 4e-3), "bfloat16": (2e-2, 3e-2)}


def case(
    name: str, arrays: list, attrs: dict[str, Any] | None = None, constants: tuple[int, ...] = (), types: list | None = None
) -> Case:
    node = make_node(name, arrays, attrs, types=types, constants=constants)
    source = select(node)
    assert isinstance(source, KernelSource) and source.variant.split(".")[0] in (name, "integers"), source
    wide = [a.astype(np.float64) if a.dtype.kind in "fV" else a for a in arrays if a is not None]
    want = [reference(node.op, wide, dict(attrs or {}))[0].astype(node.results[0].tensor.dtype.np)]
    return Case(f"{name} {[a.shape for a in arrays]} {attrs} {arrays[0].dtype}", node, source, arrays, want,
                *CLOSE.get(arrays[0].dtype.name, (None, None)))  # fmt: skip


def products() -> list[Case]:
    """All shapes in f32; sizes around those of tiles and splits in all types of floats; transposes; integers."""
    cases = [case("matmul", [rand(*a), rand(*b, seed=1)]) for a, b in SHAPES]
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        for m, k, n in ((1, 40, 70), (7, 33, 65), (65, 17, 63), (9, 700, 30)):
            cases.append(case("matmul", [rand(m, k, dtype=dtype), rand(k, n, dtype=dtype, seed=1)]))
    rows = symbol("rows")
    for m in (3, 70):  # one text serves both
        x, w = rand(2, m, 24), rand(24, 130, seed=1)
        cases.append(case("matmul", [x, w], types=[TensorType(F32, (2, rows, 24)), TensorType(F32, w.shape)]))
    for m, k, n in ((64, 16, 64), (129, 40, 1500), (20, 2000, 20), (8, 300, 33), (1, 1, 1)):
        cases.append(case("matmul", [rand(m, k), rand(k, n, seed=1)]))
    for trans_a in (0, 1):
        for trans_b in (0, 1):
            for m, c in ((5, (35, 1)), (66, (37,)), (1, (1, 37))):
                a, b = rand(*((21, m) if trans_a else (m, 21))), rand(*((37, 21) if trans_b else (21, 37)), seed=1)
                c = (m, 1) if c == (35, 1) else c
                attrs = {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": 2.0}
                cases.append(case("gemm", [a, b, rand(*c, seed=2)], attrs))
    for dtype in (np.int8, np.uint16, np.int32, np.uint64):
        info = np.iinfo(dtype)
        x = [np.random.default_rng(i).integers(info.min, info.max, s, dtype) for i, s in enumerate(((2, 9, 20), (20, 70)))]
        cases.append(case("matmul", x))
    special = [rand(6, 8), rand(8, 30, seed=1)]
    special[0][2, 3], special[1][5, 7] = np.nan, np.inf
    return [*cases, case("matmul", special)]


def epilogues() -> list[Case]:
    cases = []
    for kind in EPILOGUES:
        for rows in (5, 9):
            a, b = rand(2, rows, 33), rand(33, 50, seed=1)
            a[0, 0, 0] = np.nan
            steps = EPILOGUES[kind](50, (2, rows, 50))
            node, extra = fused(make_node("matmul", [a, b], constants=(1,)), steps)
            source = select(node)
            assert isinstance(source, KernelSource), source
            cases.append(Case(f"{kind} of {rows} rows", node, source, [a, b, *extra], [expect(steps, a @ b)], 1e-4, 1e-4))
    return cases


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(["matmul", "gemm"])
    assert all("has no kernel" in r for r in refused), refused
    for c in cases:
        c.rtol, c.atol = 2e-3, 2e-3
    assert len(cases) >= 20
    check(cases)


@needs_shim
def test_products() -> None:
    check(products())


@needs_shim
def test_epilogues() -> None:
    check(epilogues())


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    texts = list(dict.fromkeys(c.source.text for c in [*products(), *epilogues()]))
    check_compiles(texts, arch)


def test_what_cannot_be_fused_says_why() -> None:
    anchor = make_node("matmul", [rand(4, 6), rand(6, 8)])
    concat = make_node("concat", [rand(4, 8)], {"axis": 0})
    assert isinstance(refuse_epilogue(anchor, concat, 0), Refusal)
