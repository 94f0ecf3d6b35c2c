"""Segments: runs of steps whose sizes are known before they run, bound once for each signature and run by one native call.

Binding a segment (`binder.py`) walks its steps with values that have a shape and no contents, finds all sizes and launches, and
`memory.py` assigns every value that dies inside the segment a place in one block of memory, the arena; what lives longer gets
memory of its own. Where a step needs contents that the segment itself computes, the segment ends before it: the next one is bound
when it is reached. A segment that is met with other sizes is recorded while it is bound, and from then on bound by what was
recorded (`rebind.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ..ir.core import Value
from ..ir.locks import fork_safe_lock
from .binder import MOST_CONTENTS
from .bound import Bound
from .device import fetch
from .memory import MOST_BOUND
from .rebind import Recipes
from .steps import Frame, KernelStep, SizeStep, Step, ViewStep

MOST_STEPS = 4096  # of one segment


class Segments:
    """The segments of a plan, bound as they are met. Several threads may ask at once."""

    def __init__(self, steps: Sequence[Step]):
        self.steps = steps
        self._lock = fork_safe_lock()
        self._readers: dict[int, tuple[int, list[Value], list[Value]]] = {}
        self._bound: dict[int, OrderedDict[Any, Bound | None]] = {}
        self._recipes: dict[int, Recipes] = {}

    def at(self, start: int, frame: Frame) -> Bound | None:
        """The segment that starts at a step, for the frame's sizes; None where the step must run by itself."""
        if not _bindable(self.steps[start]):
            return None
        with self._lock:
            stop, reads, contents = self._reads(start)
            values = frame.values
            key = (
                tuple([values[v].shape for v in reads]),
                tuple(frame.symbols.items()),
                tuple([fetch(values[v]).tobytes() for v in contents if values[v].size <= MOST_CONTENTS]),
            )
            known = self._bound.setdefault(start, OrderedDict())
            if key in known:
                known.move_to_end(key)
                return known[key]
            if start not in self._recipes:
                self._recipes[start] = Recipes(self.steps[start:stop], start, reads, contents)
            bound = known[key] = self._recipes[start].bind(frame)
            if len(known) > MOST_BOUND:
                known.popitem(last=False)
            return bound

    def reads_contents(self, start: int) -> bool:
        """Whether the sizes in the segment that starts at a step hang on the contents of what it reads."""
        return bool(self._reads(start)[2])

    def _reads(self, start: int) -> tuple[int, list[Value], list[Value]]:
        """How far a segment from here may reach, what it reads from before, and of which of that the contents."""
        if start not in self._readers:
            stop, made = start, set[Value]()
            reads: dict[Value, bool] = {}
            while stop < len(self.steps) and stop - start < MOST_STEPS and _bindable(self.steps[stop]):
                step = self.steps[stop]
                for i, v in enumerate(step.node.operands):
                    if v is not None and not v.is_const and v not in made:
                        reads[v] = reads.get(v, False) or _reads_contents(step, i)
                made.update(step.node.results)
                stop += 1
            self._readers[start] = stop, list(reads), [v for v, contents in reads.items() if contents]
        return self._readers[start]


def _bindable(step: Step) -> bool:
    """Whether the sizes of its results do not hang on what it computes."""
    return isinstance(step, (ViewStep, SizeStep)) or (isinstance(step, KernelStep) and step.source.bound is None)


def _reads_contents(step: Step, i: int) -> bool:
    return i in step.source.host if isinstance(step, KernelStep) else isinstance(step, ViewStep) and i > 0
