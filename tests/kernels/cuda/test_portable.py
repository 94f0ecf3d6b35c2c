"""Scalar kernels of the CPU as CUDA kernels: every example of the operators that have them, against the reference."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import graphmill.ir.ops  # noqa: F401  # registers the operators
import pytest
from graphmill.ir.errors import GraphmillError
from graphmill.ir.op import OPS
from graphmill.kernels.cpu import target as cpu
from graphmill.kernels.cuda import shim
from graphmill.kernels.cuda.portable import portable
from graphmill.kernels.spec import KernelSource, Refusal

from ..cpu.harness import make_node, reference
from .harness import ARCHITECTURES, Case, check, check_compiles, needs_nvrtc, needs_shim

# Operators whose texts are scalar in every case.
SERVED = """array_feature_extractor batch_norm cast_like compress cum_prod cum_sum dequantize_linear gather gather_elements gather_nd
grid_sample hardmax non_max_suppression non_zero one_hot quantize_linear range resize reverse_sequence rotary_embedding scatter_elements
scatter_nd tensor_scatter topk tree_ensemble tree_ensemble_classifier tree_ensemble_regressor trilu
erf mod where""".split()  # noqa: SIM905


def case(name: str, operands: Sequence[Any], attrs: dict[str, Any], results: int, constants: Sequence[int]) -> Case | Refusal:
    """A node by the CPU's kernel, translated."""
    node = make_node(name, operands, attrs, results, constants=constants)
    kernel = cpu.select(node)
    if isinstance(kernel, Refusal):
        return kernel
    translated = portable(kernel, node)
    assert isinstance(translated, KernelSource), f"{name}: {translated}"
    want = reference(OPS[name], operands, attrs, results)
    return Case(name, node, translated, operands, want, *(OPS[name].tolerance or (None, None)))


def cases_of(name: str) -> list[Case]:
    out = []
    for e in OPS[name].examples():
        for constants in ((), tuple(range(1, len(e.operands)))):
            if not any(isinstance(x, (list, dict)) for x in e.operands):
                try:
                    found = case(name, e.operands, dict(e.attrs), e.results, constants)
                except GraphmillError:  # an operand must be known
                    continue
                if isinstance(found, Case):
                    out.append(found)
                    break
    return out


@functools.cache
def cases() -> dict[str, list[Case]]:
    """All cases, their texts compiled in one program."""
    out = {name: cases_of(name) for name in SERVED}
    shim.load(c.source.text for each in out.values() for c in each)
    return out


@needs_shim
@pytest.mark.parametrize("name", SERVED)
def test_examples(name: str) -> None:
    assert cases()[name]
    check(cases()[name])


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiled_for_gpus_nothing_is_spilled(arch: str) -> None:
    check_compiles(list(dict.fromkeys(c.source.text for each in cases().values() for c in each)), arch)
