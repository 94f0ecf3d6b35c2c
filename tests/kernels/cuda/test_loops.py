"""Elementwise kernels on CUDA: all examples of elementwise operators, broadcasting, strides, in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphmill.ir.layout import channels_last
from graphmill.ir.op import OPS
from graphmill.ir.parser import parse_module
from graphmill.ir.passes.manager import Context, parse_pipeline, run_pipeline
from graphmill.ir.types import F16
from graphmill.kernels.cpu import target as cpu
from graphmill.kernels.cuda.target import CudaTarget, select
from graphmill.kernels.spec import KernelSource, Refusal

from ..cpu.harness import make_node, reference, type_of
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

ELEMENTWISE = sorted(name for name in OPS if OPS[name].is_elementwise)


@needs_shim
def test_examples() -> None:
    cases, refused = cases_of(ELEMENTWISE)
    assert len(cases) > 500
    assert not [r for r in refused if "do not compute with" not in r], refused
    check(cases)


def between_layouts() -> list[Case]:
    """Elementwise operators whose operands lie otherwise than their results."""
    cases = []
    for shape in ((1, 3, 9, 7), (2, 8, 5, 11), (3, 2, 13), (2, 1, 3, 4), (0, 3, 2, 2)):
        x, last = np.random.default_rng(0).standard_normal(shape).astype(np.float32), channels_last(len(shape))
        for layouts in ((None, last), (last, None), (last, last)):
            for name, operands, attrs in (("cast", [x], {"to": F16}), ("add", [x, x[:1, :, :1] * 2], {}), ("sub", [x, x + 1], {})):
                cases.append(_between(name, operands, attrs, layouts))
    return cases


def _between(name: str, operands: list[np.ndarray], attrs: dict[str, Any], layouts: tuple) -> Case:
    types = [type_of(operands[0]).with_(layout=layouts[0]), *(type_of(x) for x in operands[1:])]
    node = make_node(name, operands, attrs, types=types)
    node.result.type = node.result.tensor.with_(layout=layouts[1])
    source = select(node)
    assert isinstance(source, KernelSource), source
    return Case(f"{name} {operands[0].shape} {layouts}", node, source, operands, reference(OPS[name], operands, attrs))


@needs_shim
def test_operands_that_lie_otherwise() -> None:
    check(between_layouts())


def test_many_channels_that_lie_otherwise_are_refused() -> None:
    x = np.ones((1, 9, 4, 4), np.float32)
    node = make_node("cast", [x], {"to": F16})
    node.result.type = node.result.tensor.with_(layout=channels_last(4))
    assert isinstance(select(node), Refusal)
    node = make_node("cast", [x[:, :3]], {"to": F16})
    node.result.type = node.result.tensor.with_(layout=channels_last(4))
    assert isinstance(cpu.select(node), Refusal)


def test_a_cast_at_the_border_stores_in_the_layout() -> None:
    module = parse_module("""module @m {opset = 18} {
  const %w : f16[2,3,1,1] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
  graph @main(%x: f32[1,3,4,4]) -> %y {
    %c = cast(%x) {to = f16} : f16[1,3,4,4]
    %d = conv(%c, %w) : f16[1,2,4,4]
    %y = cast(%d) {to = f32} : f32[1,2,4,4]
  }
}""")
    ctx = Context()
    ctx.target = CudaTarget()
    run_pipeline(module, parse_pipeline("infer,layout"), ctx)
    assert [(n.op.name, str(n.result.tensor.layout)) for n in module.main.nodes] == [
        ("cast", "nhwc"), ("conv", "nhwc"), ("cast", "None")]  # fmt: skip


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([c.source.text for c in [*cases_of(ELEMENTWISE)[0], *between_layouts()]], arch)
