"""How long each kernel of a model takes in a run, by `graphmill.profile`, and what it has to do: FLOPs of its operators, bytes of
operands and results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import graphmill as gm
import numpy as np
from graphmill.engine import cost
from graphmill.engine.profile import Row
from graphmill.engine.steps import KernelStep
from graphmill.ir.core import Node, Value

SECONDS = 4.0  # of runs


@dataclass
class RowTime:
    """A kernel of a run: what it computes, by which kernel, its seconds, and its work."""

    what: str
    kernel: str
    result: str
    seconds: float
    flops: float
    nbytes: float


def profile(exe: gm.Executable, feeds: dict[str, np.ndarray]) -> list[RowTime]:
    """All kernels of one run, in their order. The model's sizes must be known; kernels within control flow are left out."""
    steps = [s for s in exe.plan.steps if isinstance(s, KernelStep)]
    named = {s.node.name: s for s in steps}
    rows = gm.profile(exe, feeds, seconds=SECONDS).rows
    return [_row(named[r.node], r) for r in rows if r.node in named]


def _row(step: KernelStep, r: Row) -> RowTime:
    n = step.node
    if r.nbytes is None:
        raise ValueError(f"node %{n.name}: fix the sizes with compile(..., shapes=)")
    return RowTime(words(n), step.source.variant or n.op.name, str(n.results[0].type), r.seconds, flops(n), r.nbytes)


# ---- what a node has to do --------------------------------------------------------------------------------------


def words(node: Node) -> str:
    """The operators of a node."""
    return " + ".join(n.op.name for n in node.regions[0]) if node.op.name == "fused" else node.op.name


def _size(v: Value) -> int:
    shape = v.tensor.shape
    if shape is None or not all(isinstance(d, int) for d in shape):
        raise ValueError(f"%{v.name} is {v.type}: fix the sizes with compile(..., shapes=)")
    return math.prod(shape)


def flops(node: Node) -> float:
    """Additions and multiplications of the operators' definitions (Winograd's kernel does fewer); an elementwise operator counts
    one for each result, however its function is computed."""
    if node.op.name == "fused":
        return sum(flops(n) for n in node.regions[0])
    count = cost.flops(node, {})
    if count is None:
        raise ValueError(f"node %{node.name}: fix the sizes with compile(..., shapes=)")
    return count or _OTHERS.get(node.op.name, _of_others)(node)


def _of_others(node: Node) -> float:
    if node.op.is_elementwise:
        return _size(node.results[0])
    return _size(node.operands[0]) if node.op.name.startswith(("reduce_", "global_")) else 0


def _pool(node: Node) -> float:
    return _size(node.results[0]) * math.prod(node.all_attrs()["kernel_shape"])


def _rows(per_element: int) -> Any:
    return lambda node: per_element * _size(node.results[0])


_OTHERS = {
    "max_pool": _pool, "average_pool": _pool, "softmax": _rows(4), "log_softmax": _rows(4), "layer_norm": _rows(7),
    "rms_norm": _rows(4), "batch_norm": _rows(2), "group_norm": _rows(7), "instance_norm": _rows(7),
}  # fmt: skip
