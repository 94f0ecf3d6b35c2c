"""One configuration of an operator as a case for `harness.check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
from graphmill.ir.layout import Layout
from graphmill.ir.op import OPS
from graphmill.kernels.cuda.target import select
from graphmill.kernels.spec import KernelSource

from ..cpu.harness import make_node, reference
from .harness import Case


def case(name: str, operands: Sequence[Any], attrs: dict | None = None, results: int = 1, *, constants: Sequence[int] = (),
         layouts: Sequence[Layout | None] = (), result_layout: Layout | None = None, rtol: float | None = None,
         atol: float | None = None) -> Case:  # fmt: skip
    """A node of the operator with what its reference says; `layouts` are those of the first operands."""
    operands = [None if x is None else np.asarray(x) for x in operands]
    want = reference(OPS[name], operands, dict(attrs or {}), results)
    node = make_node(name, operands, attrs, results, constants=constants)
    for v, layout in [*zip(node.operands, layouts, strict=False), (node.results[0], result_layout)]:
        if v is not None:
            v.type = v.tensor.with_(layout=layout)
    source = select(node)
    what = f"{name}{[x.shape for x in operands if x is not None]} {attrs}"
    assert isinstance(source, KernelSource), f"{what}: {source}"
    return Case(what, node, source, operands, want, rtol, atol)
