"""What control operators do with values, as far as it matters where those lie."""

from __future__ import annotations

from ..ir.core import Node


def handed_on(node: Node) -> tuple[range, range]:
    """Which operands of a control operator, and which outputs of its regions, it hands on without a look: those may stay in a
    device's memory."""
    if node.op.name == "if":
        return range(0), range(len(node.results))
    if node.op.name == "loop":
        return range(2, len(node.operands)), range(1, len(node.operands) - 1)
    if node.op.name == "scan" and not node.attr("batched"):
        states = range(len(node.operands) - node.attr("num_scan_inputs"))
        return states, states
    return range(0), range(0)
