"""From a graph to the steps that run it.

A `Plan` is made once for each graph (main graph and regions). Each step takes the values it reads from a frame and puts its
results there: a compiled kernel, a view, a value known from the sizes, or the operator's reference on the host. Sizes are found
when a step first meets a signature (shapes of its operands); the answer is kept, so that nothing is compiled or inferred twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..ir.core import Graph, Node, Value
from ..ir.errors import UnsupportedError
from ..ir.interp import bind_symbols, last_readers, region_symbols, where
from ..ir.layout import lies_alike, views_alike
from ..ir.limits import Budget
from ..ir.types import TensorType
from ..kernels.spec import KernelSource, Refusal
from .binding import Symbols
from .bound import Bound
from .control import handed_on
from .device import fetch, plain
from .segment import Segments
from .steps import Frame, HostStep, KernelStep, Served, SizeStep, Step, ViewStep, Watch
from .ways import Leg, Run, Trip, Way, Ways
from .workspace import Workspace

Selector = Callable[[Node], KernelSource | Refusal]


@dataclass
class Plan:
    """The steps of one graph, in order."""

    graph: Graph
    steps: list[Step] = field(default_factory=list)
    ways: Ways = field(default_factory=Ways)

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

    def run(self, frame: Frame, at: int = 0) -> list[Any]:
        """Runs the steps in `frame`, from step `at` on; the graph's outputs in logical order."""
        while at < len(self.steps):
            frame.budget.check_time(self.steps[at].name)
            bound = self.segments.at(at, frame)
            if frame.watch is not None:
                frame.watch.leg(self, at, bound, frame)
            else:
                self._run_leg(at, bound, frame)
            at = at + 1 if bound is None else bound.stop
        found = [frame.output(v) for v in self.graph.outputs]
        return found if frame.on_device else [fetch(x) for x in found]

    def _run_leg(self, at: int, bound: Bound | None, frame: Frame) -> None:
        """Runs a bound segment, or (None) the step `at`, and notes it where that is asked for."""
        leg = Leg(at, bound, dict(frame.symbols), frame.held) if frame.legs is not None else None
        if bound is not None:
            bound.run(frame)
            found = []
        else:
            found = self.run_step(at, frame)
        if leg is not None and frame.legs is not None:
            leg.found = found
            frame.legs.append(leg)

    def run_step(self, at: int, frame: Frame) -> list[tuple[int, ...] | None]:
        """Runs one step by itself; the physical shapes of its results (None for what is no tensor)."""
        step = self.steps[at]
        step.run(frame)
        for v in step.node.results:
            frame.hold(v)
        shapes = [_shape(v, frame.values[v]) for v in step.node.results]
        for v in step.frees:
            frame.hold(v, -1)
            frame.values.pop(v, None)
        return shapes

    def region(self, around: Sequence[Value], symbols: Symbols, threads: int) -> Region:
        """The plan of a region as a function, where the symbols outside are these."""
        return Region(self, around, symbols, threads)

    def callable(self, outer: Frame, around: Sequence[Value]) -> Callable[..., tuple]:
        """The plan of a region as the function that a control operator's reference calls, closed over the values `around` it."""
        region, given = self.region(around, outer.symbols, outer.threads), tuple([outer.values[v] for v in around])
        if outer.watch is None:
            call = region.entered(outer.workspace, outer.budget, given)
        else:
            call = region.watched(outer, given, outer.watch)
        call.types = tuple(v.type for v in self.graph.outputs)  # type: ignore[attr-defined]  # a loop without iterations needs them
        return call


class Region:
    """A region's plan as a function of the values `around` it and of its arguments, for the symbols that are known outside."""

    def __init__(self, plan: Plan, around: Sequence[Value], symbols: Symbols, threads: int):
        self.plan, self.around, self.threads = plan, around, threads
        self.symbols = region_symbols(plan.graph, symbols)
        self._ways = plan.ways
        node = plan.graph.parent
        assert node is not None
        _, self._there = handed_on(node)

    def __call__(self, workspace: Workspace, budget: Budget, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """The outputs of a region without inputs, for `given` values around it in physical order."""
        for way in self._ways.known:
            run = way.enter(workspace, budget, self.symbols, given)
            results = None if run is None else run(())
            if results is not None:
                return results
        return self._run_closely(workspace, budget, given, ())

    def entered(self, workspace: Workspace, budget: Budget, given: tuple[Any, ...]) -> Callable[..., tuple[Any, ...]]:
        """The region as a function of its arguments, in logical order."""
        ways, runs = self._ways, list[Run]()
        first: Run = lambda args: None  # noqa: E731
        known: tuple[Way, ...] = ()

        def call(*args: Any) -> tuple[Any, ...]:
            results = first(args)
            return other(args) if results is None else results

        def other(args: tuple[Any, ...]) -> tuple[Any, ...]:
            nonlocal first, known, runs
            if ways.known is not known:
                known = ways.known
                found = [way.enter(workspace, budget, self.symbols, given) for way in known]
                runs = [run for run in found if run is not None]
            for run in runs:
                results = run(args)
                if results is not None:
                    first = run
                    return results
            return self._run_closely(workspace, budget, given, args)

        return call

    def watched(self, outer: Frame, given: tuple[Any, ...], watch: Watch) -> Callable[..., tuple[Any, ...]]:
        """`entered` where all that runs is watched."""

        def call(*args: Any) -> tuple[Any, ...]:
            def run() -> tuple[Any, ...]:
                frame = self._frame(outer.workspace, outer.budget, given, args)
                frame.watch = watch
                return self._outputs(frame)

            return watch.call(self.plan, run)

        return call

    def _frame(self, workspace: Workspace, budget: Budget, given: tuple[Any, ...], args: tuple[Any, ...]) -> Frame:
        """A frame of the region with its inputs in it."""
        frame = Frame(dict(zip(self.around, given)), dict(self.symbols), budget, self.threads, workspace, on_device=True)
        for v, x in zip(self.plan.graph.inputs, args, strict=True):
            x = np.asarray(x) if isinstance(v.type, TensorType) and not hasattr(x, "shape") else x
            frame.put(v, x)
            frame.hold(v)
            bind_symbols(v.type, x, frame.symbols)
        return frame

    def _outputs(self, frame: Frame) -> tuple[Any, ...]:
        """The outputs of a run in this frame; on the device only what the operator hands on."""
        return tuple([plain(x) if i in self._there else fetch(x) for i, x in enumerate(self.plan.run(frame))])

    def _run_closely(self, workspace: Workspace, budget: Budget, given: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, ...]:
        """A run that checks and binds everything, and notes which way it went."""
        held = budget.held
        frame = self._frame(workspace, budget, given, args)
        frame.legs = []
        shapes = {v: _shape(v, frame.values[v]) for v in [*self.plan.graph.inputs, *self.around]}
        results = self._outputs(frame)
        budget.held = held
        trip = Trip(self.plan, frame.legs, self.symbols, self.threads, self.around, shapes)
        self._ways.add(trip, workspace.device.is_host)
        return results


def _shape(v: Value, x: Any) -> tuple[int, ...] | None:
    return x.shape if isinstance(v.type, TensorType) and hasattr(x, "shape") else None


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


def draft_plan(graph: Graph, select: Selector | None) -> tuple[Plan, dict[Step, KernelSource]]:
    """The plan of a graph whose kernels are not compiled, and which those are, by their steps."""
    todo: list[tuple[Plan, int, Node, KernelSource]] = []
    plan = _collect(graph, select, [], todo)
    return plan, {p.steps[i]: source for p, i, _, source in todo}


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
        if node.op.name == "fail":
            served.append(Served(node.name, node.op.name, "fails", node.attr("message"), node.locs))
            break  # nothing behind it is ever run
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
    """A view is free where the data lies in logical order, or has its channels last and keeps them."""
    if not node.op.has("view") or node.operands[0] is None:
        return False
    x, y = node.operands[0].type, node.results[0].type
    known = isinstance(x, TensorType) and isinstance(y, TensorType) and x.shape is not None and y.shape is not None
    return known and views_alike(x.shape, x.layout, y.shape, y.layout)  # type: ignore[union-attr, arg-type]


def _free_transpose(node: Node) -> bool:
    """A transpose or change of layout is free where the same bytes serve."""
    x = node.operands[0] if node.op.name in ("transpose", "to_layout") else None
    if x is None or x.is_const or not isinstance(x.type, TensorType) or x.type.shape is None:
        return False
    axes = tuple(range(len(x.type.shape)))
    perm = axes if node.op.name == "to_layout" else node.attr("perm") or axes[::-1]
    return lies_alike(x.type.shape, x.type.layout, tuple(a % len(axes) for a in perm), node.results[0].tensor.layout)
