"""The short way through a region that is one segment, on a device; those of the CPU are written in `ways.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..ir.core import Graph, Value
from ..ir.limits import Budget
from .bound import Bound, Place
from .control import handed_on
from .device import fetch
from .steps import read_only
from .workspace import Workspace

Take = Callable[[Sequence[Any], Sequence[Any]], Any]  # an output, from the given values and the memory that was made


class Straight:
    """A region's run for inputs and values `around` it of these shapes, and for these symbols: memory for outputs, one launch."""

    def __init__(self, graph: Graph, bound: Bound, around: Sequence[Value], shapes: Sequence[tuple[int, ...]],
                 symbols: dict[str, int], threads: int):  # fmt: skip
        """`shapes` are those of the inputs, and then of the values around."""
        self._bound, self._symbols, self._threads = bound, symbols, threads
        first = len(graph.inputs)
        self._shapes, self._around = shapes[:first], shapes[first:]
        at = {v: i for i, v in enumerate([*graph.inputs, *around])}
        self._reads = [at[v] for v in bound.inputs]
        self._sizes = [b.nbytes for b in bound.outputs]
        self._needs = bound.arena + sum(self._sizes)
        assert graph.parent is not None
        _, there = handed_on(graph.parent)
        made, roots = dict(bound.results), {b: i for i, b in enumerate(bound.outputs)}
        self._outputs = [(_take(v, made.get(v), at, roots), i in there) for i, v in enumerate(graph.outputs)]

    def enter(self, workspace: Workspace, budget: Budget, symbols: dict[str, int],
              around: tuple[Any, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...] | None] | None:  # fmt: skip
        """The run for such values around the region, as `ways.Way` has it."""
        if symbols != self._symbols or any(x.shape != s for x, s in zip(around, self._around, strict=True)):
            return None
        return lambda arguments: self._run(workspace, budget, arguments, around)

    def _run(self, workspace: Workspace, budget: Budget, arguments: tuple[Any, ...],
             around: tuple[Any, ...]) -> tuple[Any, ...] | None:  # fmt: skip
        for x, shape in zip(arguments, self._shapes, strict=True):
            if x.shape != shape:
                return None
        if not budget.fits(self._needs):
            return None
        device, bound, values = workspace.device, self._bound, arguments + around
        read = device.bring([values[i] for i in self._reads])
        memory = device.empty_each(self._sizes)
        addresses = [x.address for x in read] + [m.address for m in memory]
        bound.launch(addresses, workspace, self._threads, lambda: budget.check_time(bound.name))
        return tuple([take(values, memory) if there else fetch(take(values, memory)) for take, there in self._outputs])


def _take(v: Value, place: Place | None, at: dict[Value, int], roots: dict[Any, int]) -> Take:
    """What gives an output."""
    if v.const is not None:
        constant = read_only(v.const.array)
        return lambda values, memory: constant
    if place is None:
        i = at[v]
        return lambda values, memory: values[i]
    shape, dtype, nbytes = place.shape, place.dtype, place.nbytes
    if place.buffer is not None:
        i = roots[place.buffer.root()]
        return lambda values, memory: memory[i][:nbytes].view(dtype).reshape(shape)
    if place.outer is not None:
        i = at[place.outer]
        return lambda values, memory: values[i].reshape(shape)
    known = place.array
    return lambda values, memory: known
