"""One configuration of an operator: its CPU kernel against its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import numpy as np
from graphmill.ir.layout import Layout
from graphmill.ir.op import OPS
from graphmill.kernels.cpu.target import select
from graphmill.kernels.spec import KernelSource

from .harness import assert_close, make_node, reference, run_kernel


def check_case(name: str, operands: Sequence[Any], attrs: dict | None = None, results: int = 1, *, constants: Sequence[int] = (),
               layouts: Sequence[Layout | None] = (), result_layout: Layout | None = None, in_place: int | None = None,
               rtol: float | None = None, atol: float | None = None) -> KernelSource:  # fmt: skip
    """The kernel equals the reference; `layouts` are those of the first operands. Returns the kernel's source."""
    operands = [None if x is None else np.asarray(x) for x in operands]
    want = reference(OPS[name], operands, dict(attrs or {}), results)
    node = make_node(name, operands, attrs, results, constants=constants)
    for v, layout in [*zip(node.operands, layouts, strict=False), (node.results[0], result_layout)]:
        if v is not None:
            v.type = v.tensor.with_(layout=layout)
    source = select(node)
    assert isinstance(source, KernelSource), f"{name}: {source}"
    got = run_kernel(node, operands, [w.shape for w in want], source, in_place)
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_close(g, w, rtol, atol, f"{name}{[x.shape for x in operands if x is not None]} {attrs} result {k}")
    return source
