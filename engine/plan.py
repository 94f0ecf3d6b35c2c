"""From a graph to the steps that run it.

A `Plan` is made once for each graph (main graph and regions). Each step takes the values it reads from a frame and puts its
results there: a compiled kernel, a view, a value known from the sizes, or the operator's reference on the host. Sizes are found
when a step first meets a signature (shapes of its operands); the answer is kept, so that nothing is compiled or inferred twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..ir.core import Graph, Node
from ..ir.errors import UnsupportedError
from ..ir.interp import bind_symbols, last_readers, region_symbols, where
from ..ir.layout import lies_alike
from ..ir.types import TensorType
from ..kernels.spec import KernelSource, Refusal
from .segment import Segments
from .steps import Frame, HostStep, KernelStep, Served, SizeStep, Step, ViewStep

Selector = Callable[[Node], KernelSource | Refusal]


@dataclass
class Plan:
    """The steps of one graph, in order."""

    graph: Graph
    steps: list[Step] = field(default_factory=list)

    @cached_property
    def segments(self) -> Segments:
        return Segments(self.steps)

    def kernels(self) -> Iterator[KernelStep]:
        """The compiled kernels of this plan and of those of its regions, in the order in which they were selected."""
        for step in self.steps:
            if isinstance(step, KernelStep):
                yield step
            elif isinstance(step, HostStep):
                for inner in step.plans:
                    yield from inner.kernels()

    def run(self, frame: Frame) -> list[Any]:
        """Runs the steps in `frame`; the graph's outputs in logical order."""
        at = 0
        while at < len(self.steps):
            frame.budget.check_time(self.steps[at].name)
            bound = self.segments.at(at, frame)
            if bound is not None:
                bound.run(frame)
                at = bound.stop
            else:
                self.run_step(at, frame)
                at += 1
        return [frame.logical(v) for v in self.graph.outputs]

    def run_step(self, at: int, frame: Frame) -> None:
        """Runs one step by itself."""
        step = self.steps[at]
        step.run(frame)
        for v in step.node.results:
            frame.hold(v)
        for v in step.frees:
            frame.hold(v, -1)
            frame.values.pop(v, None)

    def callable(self, outer: Frame) -> Callable[..., tuple]:
        """The plan as the function that a control operator's reference calls, closed over the values around it."""

        def call(*args: Any) -> tuple:
            frame = Frame(
                dict(outer.values), region_symbols(self.graph, outer.symbols), outer.budget, outer.threads, outer.workspace
            )
            for v, x in zip(self.graph.inputs, args, strict=True):
                x = np.asarray(x) if isinstance(v.type, TensorType) and not isinstance(x, np.ndarray) else x
                frame.put(v, x)
                frame.hold(v)
                bind_symbols(v.type, x, frame.symbols)
            try:
                return tuple(self.run(frame))
            finally:
                outer.budget.held -= frame.held

        call.types = tuple(v.type for v in self.graph.outputs)  # type: ignore[attr-defined]  # a loop without iterations needs them
        return call


def make_plan(graph: Graph, select: Selector | None, served: list[Served], compile_all: Callable[[list[str]], list[int]]) -> Plan:
    """The plan of a graph and, below it, of its regions. `select` None serves everything by reference."""
    todo: list[tuple[Plan, int, Node, KernelSource]] = []
    plan = _collect(graph, select, served, todo)
    addresses = compile_all([source.text for _, _, _, source in todo])
    copies: dict[Any, np.ndarray] = {}
    for (p, i, node, source), address in zip(todo, addresses):
        step = KernelStep(node, source, address, copies)
        step.frees = p.steps[i].frees
        p.steps[i] = step
    return plan


def how_served(graph: Graph, select: Selector | None) -> list[Served]:
    """How every node of a graph, and of its regions, would run. Nothing is compiled."""
    served: list[Served] = []
    _collect(graph, select, served, [])
    return served


def _collect(graph: Graph, select: Selector | None, served: list[Served], todo: list) -> Plan:
    plan = Plan(graph)
    frees = last_readers(graph)
    for node in graph:
        step, source, reason = _step(node, select, served, todo)
        if source is not None:
            todo.append((plan, len(plan.steps), node, source))
        step.frees = frees.get(node, [])
        plan.steps.append(step)
        served.append(Served(node.name, node.op.name, "native" if source is not None else step.how, reason, node.locs))
    return plan


def _step(node: Node, select: Selector | None, served: list[Served], todo: list) -> tuple[Step, KernelSource | None, str]:
    if node.op.name in ("shape", "size", "dims"):
        return SizeStep(node), None, ""
    if node.regions and not node.op.has("isolated"):
        return HostStep(node, [_collect(r, select, served, todo) for r in node.regions], "host"), None, ""
    if select is not None and len(node.results) == 1 and (_plain_view(node) or _free_transpose(node)):
        return ViewStep(node), None, ""
    if node.op.has("host"):
        return HostStep(node, (), "host"), None, ""
    if select is None:
        return HostStep(node, (), "reference"), None, "the target is the reference"
    source = select(node)
    if isinstance(source, KernelSource):
        return Step(node), source, ""
    if node.op.reference is None:
        raise UnsupportedError(f"{where(node)}: {source}, and it has no reference implementation")
    return HostStep(node, (), "reference"), None, str(source)


def _plain_view(node: Node) -> bool:
    """A view is free where the data lies in logical order."""
    return node.op.has("view") and all(isinstance(v.type, TensorType) and v.type.layout is None and v.type.shape is not None
               for v in (node.operands[0], node.results[0]) if v is not None)  # fmt: skip


def _free_transpose(node: Node) -> bool:
    """A transpose or change of layout is free where the same bytes serve."""
    x = node.operands[0] if node.op.name in ("transpose", "to_layout") else None
    if x is None or x.is_const or not isinstance(x.type, TensorType) or x.type.shape is None:
        return False
    axes = tuple(range(len(x.type.shape)))
    perm = axes if node.op.name == "to_layout" else node.attr("perm") or axes[::-1]
    return lies_alike(x.type.shape, x.type.layout, tuple(a % len(axes) for a in perm), node.results[0].tensor.layout)
