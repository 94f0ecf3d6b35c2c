"""dynamic_quantize_linear on CUDA: examples, tensors that blocks share, numbers that are not finite."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
import pytest
from graphmill.ir.op import OPS
from graphmill.ir.symbols import symbol
from graphmill.ir.types import F32, TensorType
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import Call, Refusal

from ..cpu.harness import make_node, reference
from .harness import ARCHITECTURES, Case, cases_of, check, check_compiles, needs_nvrtc, needs_shim

NAME = "dynamic_quantize_linear"


def case(x: np.ndarray, symbolic: bool = False) -> Case:
    shape = tuple(symbol(f"d{i}", 0) for i in range(x.ndim)) if symbolic else x.shape
    node = make_node(NAME, [x], {}, 3, types=[TensorType(F32, shape)])
    source = select(node)
    assert not isinstance(source, Refusal), source
    assert source.variant == "range"
    return Case(f"{x.shape}", node, source, [x], reference(OPS[NAME], [x], {}, 3))


@needs_shim
def test_examples_and_sizes() -> None:
    random = np.random.default_rng(0)
    cases, refused = cases_of([NAME])
    assert cases
    assert not refused
    for shape in ((), (1,), (7, 3), (8192,), (8193,), (3, 50000), (0, 4)):
        for low, high in ((-3, 5), (1, 5), (-5, -1)):
            x = random.uniform(low, high, shape).astype(np.float32)
            cases += [case(np.asarray(x), v) for v in (False, True)]
    assert {len(c.source.bind(Call([c.operands[0].shape], [w.shape for w in c.want])).passes) for c in cases} == {1, 3}
    check([*cases, case(np.zeros(300, np.float32)), case(np.float32([np.inf, 0, -3] * 50))])


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_compiles_for_gpus(arch: str) -> None:
    check_compiles([case(np.zeros(9, np.float32), True).source.text], arch)
