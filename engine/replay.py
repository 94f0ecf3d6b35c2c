"""The short way through a run whose inputs look like those of an earlier one, of a model that is one segment.

All that depends on shapes was checked and bound by then: what is left is to look at the inputs' types, to allocate the outputs and
to make one native call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.limits import Budget
from ..ir.types import STR, TensorType
from ..kernels.cpu.launch import address_of
from .bound import Bound
from .memory import Workspace
from .plan import Plan
from .steps import Frame


def replay_of(plan: Plan, frame: Frame, output_names: Sequence[str]) -> Replay | None:
    """The short way for the inputs that `frame` holds (and nothing else yet); None where their model has none: it is more than one
    segment, its sizes hang on what inputs hold, or it returns anything but tensors that the segment makes."""
    bound = plan.segments.at(0, frame) if plan.steps else None
    if bound is None or bound.stop < len(plan.steps) or plan.segments.reads_contents(0):
        return None
    for v in [*plan.graph.inputs, *plan.graph.outputs]:
        if not isinstance(v.type, TensorType) or v.type.layout is not None or v.type.dtype is STR:
            return None
    made = {p.buffer.root() for v, p in bound.results if p.buffer is not None and v in plan.graph.outputs}
    if len(made) < len(plan.graph.outputs) or len(made) != len(bound.outputs):
        return None
    return Replay(bound, plan, frame, output_names)


class Replay:
    """One signature of a model: the element types and shapes of its inputs, and the segment bound for them."""

    def __init__(self, bound: Bound, plan: Plan, frame: Frame, output_names: Sequence[str]):
        self.bound, self.threads = bound, frame.threads
        self._budget = frame.budget
        inputs = plan.graph.inputs
        self._inputs = [(v.name, frame.values[v].dtype, frame.values[v].shape) for v in inputs]
        self._read = [inputs.index(v) for v in bound.inputs]
        places = dict(bound.results)
        roots = [places[v].buffer.root() for v in plan.graph.outputs]  # type: ignore[union-attr]
        self._outputs = [(n, places[v].shape, places[v].dtype) for n, v in zip(output_names, plan.graph.outputs)]
        self._written = [roots.index(b) for b in bound.outputs]

    def run(self, given: Mapping[str, Any], workspace: Workspace) -> dict[str, np.ndarray] | None:
        """The outputs; None where the inputs have another signature, or need a closer look."""
        if len(given) != len(self._inputs):
            return None
        arrays = []
        for name, dtype, shape in self._inputs:
            a = given.get(name)
            if type(a) is not np.ndarray or a.shape != shape or a.dtype is not dtype:
                return None
            flags = a.flags
            if not (flags.c_contiguous and flags.aligned):
                return None
            arrays.append(a)
        out = {name: np.empty(shape, dtype) for name, shape, dtype in self._outputs}
        results = list(out.values())
        addresses = [address_of(arrays[i]) for i in self._read] + [address_of(results[i]) for i in self._written]
        budget: Budget | None = None

        def check_time() -> None:
            nonlocal budget
            budget = budget or Budget(self._budget.limits, self._budget.given, self._budget.fed)
            budget.check_time(self.bound.name)

        self.bound.launch(addresses, workspace, self.threads, check_time)
        return out
