"""What CUDA serves: all that the CPU does, by kernels of its own."""

from __future__ import annotations

import graphmill.ir.ops  # noqa: F401  (registers the operators)
import pytest
from graphmill.ir.core import Node
from graphmill.ir.errors import GraphmillError
from graphmill.ir.op import OPS
from graphmill.kernels.cpu import target as cpu
from graphmill.kernels.cuda import portable, target
from graphmill.kernels.spec import KernelSource, Refusal

from ..cpu.harness import make_node


def native() -> list[tuple[str, Node]]:
    """The operators' examples that have a CPU kernel, with operands left open and as constants."""
    found = []
    for name in sorted(OPS):
        op = OPS[name]
        for i, e in enumerate(op.examples() if op.examples else ()):
            for constants in ((), tuple(range(1, len(e.operands)))):
                if any(isinstance(x, (list, dict)) for x in e.operands):
                    continue
                try:
                    node = make_node(name, e.operands, dict(e.attrs), e.results, constants=constants)
                except GraphmillError:  # an operand must be known
                    continue
                if isinstance(cpu.select(node), KernelSource):
                    found.append((f"{name}[{i}] {constants}", node))
    return found


def test_what_is_native_on_the_cpu_is_native_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of it is translated from the CPU's kernel."""
    monkeypatch.setattr(portable, "portable", lambda source, node: Refusal("translated"))
    cases = native()
    refused = [f"{what}: {found}" for what, node in cases if isinstance(found := target.select(node), Refusal)]
    assert len(cases) > 2000 and not refused, refused
