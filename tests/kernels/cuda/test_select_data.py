"""Selections on CUDA against the references: the largest elements, what is not zero, what a condition keeps."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.kernels.cuda import shim

from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim, run_kernel

OPS = ["topk", "non_zero", "compress"]


def topks() -> list[Case]:
    r, found = np.random.default_rng(1), []
    dtypes = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.uint16, np.int32, np.int64, np.uint64)
    for dtype in dtypes:
        for shape, axis, k in [((5,), 0, 5), ((3, 700), 1, 9), ((4, 30, 3), 1, 1), ((2, 2000), 1, 1300), ((2, 0), 1, 0)]:
            x = r.integers(0, 90, shape).astype(dtype)  # many are equal
            for largest in (0, 1):
                found.append(case("topk", [x, np.array([k])], {"axis": axis, "largest": largest}, 2, constants=(1,)))
    x = np.array([3, np.nan, -0.0, 0.0, np.inf, -np.inf, np.nan, -1e-45, 1e-45], np.float32)
    for largest in (0, 1):
        found.append(case("topk", [x, np.array([9])], {"largest": largest}, 2, constants=(1,)))
    x = r.integers(-(2**63), 2**63 - 1, 900)
    x[::3] = x[0]
    return [*found, case("topk", [x, np.array([500])], {}, 2, constants=(1,))]


def kept() -> list[Case]:
    r, found = np.random.default_rng(2), []
    for shape in [(), (0,), (1,), (7, 5), (3, 4, 5), (9000,), (130, 70)]:
        for dtype in (np.bool_, np.float32, np.int64, np.float16):
            found.append(case("non_zero", [r.integers(0, 2, shape).astype(dtype)]))
    found.append(case("non_zero", [np.array([0.0, -0.0, np.nan, 1e-45], np.float32)]))
    for dtype in (np.int8, np.float32, np.complex128):
        x = r.integers(0, 99, (6, 50, 4)).astype(dtype)
        for axis in (0, 1, -1):
            for n in (x.shape[axis], x.shape[axis] // 2):
                found.append(case("compress", [x, r.integers(0, 2, n).astype(bool)], {"axis": axis}))
        found.append(case("compress", [x, r.integers(0, 2, x.size).astype(bool)]))
    found.append(case("compress", [r.integers(0, 99, (9000, 3)), r.integers(0, 2, 9000).astype(bool)], {"axis": 0}))
    return found


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(OPS)
    assert cases and all("str" in r or "values and indices" in r for r in refused), refused
    check(cases)


@needs_shim
@pytest.mark.parametrize("make", [topks, kept])
def test_sizes(make) -> None:
    check(make())


@needs_shim
def test_a_condition_that_is_true_behind_the_end_is_reported() -> None:
    c = case("compress", [np.arange(3), np.array([True, False, False, False])])
    c.operands = [c.operands[0], np.array([True, False, False, True])]
    with pytest.raises(RunError, match="compress"):
        run_kernel(c, shim.load([c.source.text]))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in [*cases_of(OPS)[0], *topks()[::10]]], arch)
