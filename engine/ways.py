"""The short way through a plan for sizes met before: its bound segments and its steps on the host, called one after the other.

A careful run notes its legs: bound segments, and steps that stand between them. From those a `Way` is written as a Python function
without loops: look at the shapes, find memory for what outlives each segment, make the native calls. Values that lie between are
its local variables. Which branch is taken, and how often a loop goes round, is asked again in each run, since regions are called
with their values like functions and have ways of their own. A step on the host may give other sizes than it did: then the
careful run goes on behind it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.core import Node, Value
from ..ir.interp import bind_symbols, run_node
from ..ir.limits import DEFAULT_LIMITS, Budget
from ..ir.types import TensorType
from ..kernels.cpu.launch import ARRAYS, ARRAYS_AS_EXPECTED, Schedule
from .bound import Bound, Place
from .steps import Frame, HostStep, Step, read_only
from .straight import Straight
from .workspace import Workspace

if TYPE_CHECKING:
    from .plan import Plan

MOST_WAYS = 8  # that a plan keeps
MOST_WRITTEN = 64  # that are written for a plan: where sizes are new in each run, ways only cost
MOST_VALUES = 512  # of one way: each is some lines of Python
READABLE = 0x101  # C-contiguous and aligned, among the bits of `ndarray.flags.num`
Run = Callable[[tuple[Any, ...]], "tuple[Any, ...] | None"]


@dataclass(slots=True)
class Leg:
    """A part of a run: a bound segment, or (`bound` None) the step `at`. `symbols` and `held` (bytes of the frame's own values) are
    those before it; `found` are the physical shapes of a step's results, None for what is no array."""

    at: int
    bound: Bound | None
    symbols: dict[str, int]
    held: int
    found: list[tuple[int, ...] | None] = field(default_factory=list)


@dataclass(slots=True)
class Trip:
    """A careful run of a plan that began with these symbols: its legs, and the physical shapes of the graph's inputs and of the
    values `around` it (None for what is no array)."""

    plan: Plan
    legs: Sequence[Leg]
    symbols: dict[str, int]
    threads: int
    around: Sequence[Value]
    shapes: Mapping[Value, tuple[int, ...] | None]


class Ways:
    """The ways of one plan, the latest first. The tuple is never changed in place, since several threads may read it."""

    def __init__(self) -> None:
        self.known: tuple[Way, ...] = ()
        self._left = MOST_WRITTEN

    def add(self, trip: Trip, on_host: bool) -> None:
        """Writes the way that a run went, if it can be."""
        if self._left > 0 and ARRAYS_AS_EXPECTED:
            self._left -= 1
            way = way_of(trip) if on_host else _straight(trip)
            if way is not None:
                self.known = (way, *self.known[: MOST_WAYS - 1])


@dataclass(eq=False, slots=True)
class Way:
    """`enter(workspace, budget, symbols, around)` looks at the values around a region (in physical order) and gives `run`;
    `run(arguments)` gives the graph's outputs, in logical order. Both give None where it is not the way for these. One that was
    entered holds as long as nobody enters the way with other values in that workspace. The way of a main graph that never `asks`
    what it may use takes a function that makes a budget in the place of one."""

    enter: Callable[[Workspace, Any, dict[str, int], tuple[Any, ...]], Run | None]
    asks: bool


@dataclass(slots=True)
class _Known:
    """A value while a way is written: the local variable that has its memory, the shape that it has there and its own, both
    physical (None: it is no array)."""

    name: str
    held_as: tuple[tuple[int, ...], np.dtype] | None
    shape: tuple[int, ...] | None
    dtype: np.dtype | None


def way_of(trip: Trip) -> Way | None:
    """The way of a run; None where it cannot be told beforehand: sizes in it hang on what its inputs hold, or values at its borders
    do not lie in row-major order."""
    plan, graph = trip.plan, trip.plan.graph
    for leg in trip.legs:
        if leg.bound is not None and plan.segments.reads_contents(leg.at):
            return None
        if leg.bound is None and any(_has_layout(v) for v in [*plan.steps[leg.at].node.operands, *plan.steps[leg.at].node.results]):
            return None
    if any(_has_layout(v) for v in [*graph.inputs, *graph.outputs]):
        return None
    writer = _Writer(trip)
    writer.take()
    for leg in trip.legs:
        if leg.bound is None:
            writer.step(leg, last=leg is trip.legs[-1])
        elif not writer.segment(leg, leg.bound):
            return None
    return writer.finished() if len(writer.values) <= MOST_VALUES else None


def _straight(trip: Trip) -> Way | None:
    """The way of a region's run on a device; None where it is more than one segment, or where it cannot be told beforehand."""
    graph = trip.plan.graph
    given = [*graph.inputs, *trip.around]
    shapes = [s for v in given if (s := trip.shapes[v]) is not None]
    if len(trip.legs) != 1 or trip.legs[0].bound is None or trip.plan.segments.reads_contents(0) or len(shapes) < len(given):
        return None
    if any(_has_layout(v) for v in [*given, *graph.outputs]):
        return None
    straight = Straight(graph, trip.legs[0].bound, trip.around, shapes, trip.symbols, trip.threads)
    return Way(straight.enter, asks=True)


def _has_layout(v: Value | None) -> bool:
    return v is not None and isinstance(v.type, TensorType) and v.type.layout is not None


class _Writer:
    """Writes a way. Nothing of the model is in the text: names of values, shapes and segments are looked up."""

    def __init__(self, trip: Trip):
        self.trip, self.plan, self.threads = trip, trip.plan, trip.threads
        self.values: dict[Value, _Known] = {}
        self.head: list[str] = []  # lines of `enter`
        self.text: list[str] = []  # lines of `run`
        self.asks = False  # whether a step asks what a run may use
        self.known: dict[str, Any] = {"empty": np.empty, "ndarray": np.ndarray, "require": _row_major, "go_on": _go_on,
                                      "threads": trip.threads, "symbols0": trip.symbols}  # fmt: skip

    def know(self, x: Any) -> str:
        """The name under which the function finds `x`."""
        name = f"k{len(self.known)}"
        self.known[name] = x
        return name

    def take(self) -> None:
        """The lines that take the arguments and look at their shapes; their element types are those of the program."""
        for values, letter, given, text in (
            (self.plan.graph.inputs, "a", "arguments", self.text),
            (self.trip.around, "c", "around", self.head),
        ):
            names = [f"{letter}{i}" for i in range(len(values))]
            text += [f" {', '.join(names)}, = {given}"] if names else []
            for v, name in zip(values, names):
                shape = self.trip.shapes[v]
                if shape is not None:
                    text.append(f" if type({name}) is not ndarray or {name}.shape != {self.know(shape)}: return None")
                    if text is self.text and math.prod(shape) > 1:
                        text.append(f" if {name}.flags.num & {READABLE} != {READABLE}: {name} = require({name})")
                self._named(v, name, shape)

    def _named(self, v: Value, name: str, shape: tuple[int, ...] | None) -> None:
        """Notes that a value lies in a local variable under its own shape."""
        dtype = v.tensor.dtype.np if shape is not None else None
        self.values[v] = _Known(name, None if dtype is None or shape is None else (shape, dtype), shape, dtype)

    def segment(self, leg: Leg, bound: Bound) -> bool:
        """The lines that run a bound segment; False where it reads what may be no array."""
        reads = [v for step in self.plan.steps[leg.at : bound.stop] for v in step.node.operands if v in self.values]
        if any(self.values[v].shape is None for v in reads):  # type: ignore[index]
            return False
        n = len(self.text)
        buffers: dict[Any, str] = {}
        for v, p in bound.results:
            self._result(v, p, buffers, n)
        arrays = [self.values[v].name for v in bound.inputs] + [buffers[b] for b in bound.outputs]
        patches = bound.parameters.patched
        if not len(bound.parameters.table):
            return True
        name = self.know(bound)
        self.head += [f" q{n} = workspace.resolve({name})", f" v{n} = q{n}.schedule.view", f" n{n} = q{n}.schedule.advance"]
        for i in sorted({i for _, i in patches}):
            fixed = i < len(bound.inputs) and bound.inputs[i] in self.trip.around  # and so in all ways that share the segment
            (self.head if fixed else self.text).append(f" v{n}[{ARRAYS + i}] = id({arrays[i]})")
        go_on = f"go_on(q{n}.schedule, threads, budget, {self.know(bound.name)})"
        self.text.append(f" if not n{n}(threads, {len(patches)}): {go_on}")
        self.text += [f" {name}.check(q{n})"] * bool(bound.checked)
        return True

    def _result(self, v: Value, p: Place, buffers: dict[Any, str], n: int) -> None:
        if p.buffer is not None:
            root = p.buffer.root()
            if root not in buffers:
                buffers[root] = f"b{n}_{len(buffers)}"
                self.known[f"s{buffers[root]}"] = p.shape, p.dtype
                self.text.append(f" {buffers[root]} = empty(*s{buffers[root]})")
            self.values[v] = _Known(buffers[root], self.known[f"s{buffers[root]}"], p.shape, p.dtype)
        elif p.outer is not None:
            outer = self.values[p.outer]
            self.values[v] = _Known(outer.name, outer.held_as, p.shape, p.dtype)
        else:
            self.values[v] = _Known(self.know(p.array), (p.shape, p.dtype), p.shape, p.dtype)

    def array(self, v: Value) -> str:
        """The expression of a value under its own shape."""
        if v.is_const:
            return self.know(read_only(v.const.array))  # type: ignore[union-attr]
        x = self.values[v]
        text = x.name
        if x.held_as is not None and x.held_as[1] != x.dtype:
            text += f".view({self.know(x.dtype)})"
        return text if x.held_as is None or x.held_as[0] == x.shape else text + f".reshape({self.know(x.shape)})"

    def step(self, leg: Leg, last: bool) -> None:
        """The lines that run a step, and go on carefully behind it where its results have other shapes than they had."""
        step, n = self.plan.steps[leg.at], len(self.text)
        names = [f"r{n}_{i}" for i in range(len(step.node.results))]
        call = self._repacking(step)
        if not call:
            self.asks = True
            self.text.append(f" budget.held = held + {self.know(leg.held)}")
            call = self._branch(step, leg) or self._host(step, leg)
        self.text.append(f" {''.join(f'{x}, ' for x in names)} = {call}")
        if not last:
            wrong = [f"type({x}) is not ndarray or {x}.shape != {self.know(s)}" for x, s in zip(names, leg.found) if s is not None]
            read = _read_from(self.plan, leg.at + 1)
            live = [v for v in self.values if v in read]
            go_on = self.know(_Behind(self.plan, leg, live, self.threads))
            found = "".join(f"{x}, " for x in names)
            if wrong:
                self.text.append(f" if {' or '.join(wrong)}: return {go_on}(workspace, budget, ({found}), {self._listed(live)})")
        for v, name, shape in zip(step.node.results, names, leg.found):
            self._named(v, name, shape)

    def _repacking(self, step: Step) -> str:
        """The call of a step that puts values into lists and maps; empty where it is another one."""
        if not step.node.op.has("repacking"):
            return ""
        given = "".join("None, " if v is None else f"{self.array(v)}, " for v in step.node.operands)
        return f"{self.know(_Repacking(step.node))}({given})"

    def _host(self, step: Step, leg: Leg) -> str:
        """The call of a step."""
        reads = [v for v in dict.fromkeys([*step.node.operands, *step.node.captures()]) if v is not None and not v.is_const]
        run = self.know(_Alone(step, reads, leg.symbols, self.threads))
        return f"{run}(workspace, budget, {self._listed(reads)})"

    def _branch(self, step: Step, leg: Leg) -> str:
        """The call of one branch or the other; empty where the step is no `if`, or one that needs a closer look."""
        if step.node.op.name != "if" or not isinstance(step, HostStep):
            return ""
        cond = step.node.operands[0]
        known = None if cond is None or cond.is_const else self.values[cond].shape
        outputs = [v for plan in step.plans for v in plan.graph.outputs]
        if known is None or math.prod(known) != 1 or any(v.is_const or _has_layout(v) for v in outputs):
            return ""
        then, other = (self.know(plan.region(step.around, leg.symbols, self.threads)) for plan in step.plans)
        return f"({then} if {self.array(cond)}.item() else {other})(workspace, budget, {self._listed(step.around)})"  # type: ignore[arg-type]

    def _listed(self, values: Sequence[Value]) -> str:
        return f"({''.join(self.array(v) + ', ' for v in values)})"

    def finished(self) -> Way:
        legs = self.trip.legs
        needs = max([leg.held + leg.bound.arena + sum(b.nbytes for b in leg.bound.outputs) for leg in legs if leg.bound], default=0)
        known = " if symbols is not symbols0 and symbols != symbols0: return None"
        head = ["def enter(workspace, budget, symbols, around):", known]
        fits = [f"  if budget.total is not None and budget.held + {self.know(needs)} > budget.total: return None"]
        fits = fits if needs and self.plan.graph.parent is not None else []  # runs of the main graph are all alike
        if self.asks:
            self.text = [" held = budget.held", *self.text, " budget.held = held"]
        body = [" " + line for line in [*self.text, f" return {self._listed(self.plan.graph.outputs)}"]]
        exec(_code("\n".join([*head, *self.head, " def run(arguments):", *fits, *body, " return run"])), self.known)
        return Way(self.known["enter"], self.asks)


@functools.lru_cache(maxsize=256)
def _code(text: str) -> CodeType:
    return compile(text, "<way>", "exec")


def _row_major(a: np.ndarray) -> np.ndarray:
    return np.require(a, requirements=["C", "A"])


def _go_on(schedule: Schedule, threads: int, budget: Budget | Callable[[], Budget], name: str) -> None:
    """The rest of a segment that takes longer than a slice of time."""
    budget = budget if isinstance(budget, Budget) else budget()
    budget.check_time(name)
    while not schedule.advance(threads):
        budget.check_time(name)


class _Repacking:
    """A node that puts values into lists and maps, as a function of its operands in logical order."""

    def __init__(self, node: Node):
        self._node, self._run = node, functools.partial(node.op.reference, **node.all_attrs())  # type: ignore[arg-type, misc]

    def __call__(self, *operands: Any) -> list[Any]:
        try:
            return [self._run(*operands)]
        except Exception:
            return run_node(self._node, operands, None, Budget(DEFAULT_LIMITS))  # whose error tells which node it was


@dataclass(slots=True)
class _Alone:
    """A step between segments, as a function of the values that it reads."""

    step: Step
    reads: Sequence[Value]
    symbols: dict[str, int]
    threads: int

    def __call__(self, workspace: Workspace, budget: Budget, arrays: Sequence[Any]) -> list[Any]:
        frame = Frame(dict(zip(self.reads, arrays)), dict(self.symbols), budget, self.threads, workspace)
        self.step.run(frame)
        return [frame.values[v] for v in self.step.node.results]


@dataclass(slots=True)
class _Behind:
    """The rest of a run behind a step that has other results than it had, as a function of those and of the other values."""

    plan: Plan
    leg: Leg
    live: Sequence[Value]
    threads: int

    def __call__(self, workspace: Workspace, budget: Budget, results: Sequence[Any], arrays: Sequence[Any]) -> tuple[Any, ...]:
        frame = Frame(dict(zip(self.live, arrays)), dict(self.leg.symbols), budget, self.threads, workspace)
        for v, x in zip(self.plan.steps[self.leg.at].node.results, results):
            frame.values[v] = x
            frame.hold(v)
            bind_symbols(v.type, x, frame.symbols)
        return tuple(self.plan.run(frame, self.leg.at + 1))


def _read_from(plan: Plan, at: int) -> set[Value]:
    """The values that steps from `at` on read, and the outputs."""
    found = set(plan.graph.outputs)
    for step in plan.steps[at:]:
        found.update(v for v in [*step.node.operands, *step.node.captures()] if v is not None)
    return found
