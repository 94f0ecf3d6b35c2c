"""Selections on CUDA against the references: what is not zero, what a condition keeps."""

from __future__ import annotations

import numpy as np
import pytest
from graphmill.ir.errors import RunError
from graphmill.kernels.cuda import shim

from .cases import case
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim, run_kernel

OPS = ["non_zero", "compress"]


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
    assert cases and all("str" in r for r in refused), refused
    check(cases)


@needs_shim
def test_sizes() -> None:
    check(kept())


@needs_shim
def test_a_condition_that_is_true_behind_the_end_is_reported() -> None:
    c = case("compress", [np.arange(3), np.array([True, False, False, False])])
    c.operands = [c.operands[0], np.array([True, False, False, True])]
    with pytest.raises(RunError, match="compress"):
        run_kernel(c, shim.load([c.source.text]))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in cases_of(OPS)[0]], arch)
