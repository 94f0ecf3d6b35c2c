"""How long each kernel of a model takes in a run, and what it has to do: FLOPs of its operators, bytes of operands and results.

`graphmill.profile` times the kernels. Where this graphmill has none yet, a run makes one native call for each row of its table (one
a kernel, `kernels/cpu/launch.py`), and the clock is read between them. Either way caches hold what they hold in a run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import graphmill as gm
import numpy as np
from graphmill.engine.steps import KernelStep
from graphmill.ir.core import Node, Value
from graphmill.kernels.cpu.launch import Schedule

LEAST, MOST = 9, 60  # runs
SECONDS = 2.0  # in which as many runs are made as fit


@dataclass
class RowTime:
    """A kernel of a run: what it computes, by which kernel, CPU seconds on one thread, and its work."""

    what: str
    kernel: str
    result: str
    seconds: float
    flops: float
    nbytes: float


def profile(exe: gm.Executable, feeds: dict[str, np.ndarray]) -> list[RowTime]:
    """All kernels of one run, in their order. The model's sizes must be known; kernels within control flow are left out."""
    steps = [s for s in exe.plan.steps if isinstance(s, KernelStep)]
    if hasattr(gm, "profile"):
        named = {s.node.name: s for s in steps}
        rows = gm.profile(exe, feeds, seconds=2 * SECONDS).rows
        return [_row(named[r.node], r.seconds) for r in rows if r.node in named]
    exe.run(feeds)
    runs: list[list[tuple[int, float]]] = []
    with _each_row() as told:
        started = time.perf_counter()
        while len(runs) < LEAST or (len(runs) < MOST and time.perf_counter() - started < SECONDS):
            told.clear()
            exe.run(feeds)
            runs.append(list(told))
    seconds = np.array([[s for _, s in run] for run in runs[1:]]).min(0)  # what is bound and allocated once is there now
    left, ours = iter(steps), {s.address for s in steps}
    timed = [(address, s) for (address, _), s in zip(runs[0], seconds) if address in ours]
    return [_row(next(s for s in left if s.address == address), seconds) for address, seconds in timed]


def _row(step: KernelStep, seconds: float) -> RowTime:
    n = step.node
    return RowTime(words(n), step.source.variant or n.op.name, str(n.results[0].type), float(seconds), flops(n), traffic(n))


@contextmanager
def _each_row() -> Iterator[list[tuple[int, float]]]:
    """While held, tables run row by row on one thread, and the list has each row's kernel and CPU seconds."""
    original, told = Schedule.run, []

    def run(self: Schedule, threads: int, between: Any = None) -> None:
        for row in self.table:
            one = Schedule(row[None].copy())
            started = time.process_time()
            original(one, 1)
            told.append((int(row[0]), time.process_time() - started))

    Schedule.run = run  # type: ignore[method-assign]
    try:
        yield told
    finally:
        Schedule.run = original  # type: ignore[method-assign]


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
    return _FLOPS.get(node.op.name, _of_others)(node)


def _of_others(node: Node) -> float:
    if node.op.is_elementwise:
        return _size(node.results[0])
    return _size(node.operands[0]) if node.op.name.startswith(("reduce_", "global_")) else 0


def _conv(node: Node) -> float:
    weight = node.operands[1].tensor.shape
    return 2 * _size(node.results[0]) * math.prod(weight[1:])


def _product(node: Node) -> float:
    x, y = node.operands[0], node.results[0]
    inner = x.tensor.shape[0] if node.all_attrs().get("trans_a") else x.tensor.shape[-1]
    return 2 * _size(y) * inner


def _pool(node: Node) -> float:
    return _size(node.results[0]) * math.prod(node.all_attrs()["kernel_shape"])


def _attention(node: Node) -> float:
    """Two products of queries, keys and heads; operands are [batch, heads, length, size]."""
    q, k = node.operands[0].tensor.shape, node.operands[1].tensor.shape
    return 4 * math.prod(q) * k[-2]


def _recurrent(node: Node) -> float:
    x, w, r = (v.tensor.shape for v in node.operands[:3])
    return 2 * math.prod(x[:-1]) * (math.prod(w) + math.prod(r))


def _rows(per_element: int) -> Any:
    return lambda node: per_element * _size(node.results[0])


_FLOPS = {
    "conv": _conv, "matmul": _product, "gemm": _product, "max_pool": _pool, "average_pool": _pool, "attention": _attention,
    "lstm": _recurrent, "gru": _recurrent, "rnn": _recurrent, "softmax": _rows(4), "log_softmax": _rows(4), "layer_norm": _rows(7),
    "rms_norm": _rows(4), "batch_norm": _rows(2), "group_norm": _rows(7), "instance_norm": _rows(7),
}  # fmt: skip


def traffic(node: Node) -> float:
    """Bytes of the node's operands and results, each once; of what is looked up by index, as many as are taken."""
    results = sum(_size(v) * v.tensor.dtype.bits / 8 for v in node.results)
    operands = [v for v in node.operands if v is not None]
    if any(n.op.name.startswith("gather") for n in (node.regions[0] if node.op.name == "fused" else [node])):
        return 2 * results
    return results + sum(_size(v) * v.tensor.dtype.bits / 8 for v in operands)
