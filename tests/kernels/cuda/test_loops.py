"""Elementwise kernels on CUDA: all examples of elementwise operators, broadcasting, strides, in place."""

from __future__ import annotations

import pytest
from graphmill.ir.op import OPS

from .harness import ARCHITECTURES, cases_of, check, check_compiles, needs_nvrtc, needs_shim

ELEMENTWISE = sorted(name for name in OPS if OPS[name].is_elementwise)


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(ELEMENTWISE)
    assert len(cases) > 500
    assert not [r for r in refused if "do not compute with" not in r], refused
    check(cases)


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in cases_of(ELEMENTWISE)[0]], arch)
