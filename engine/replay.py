"""The short way through a run whose inputs look like those of an earlier one, of a model that is one segment.

All that depends on shapes was checked and bound by then: what is left is to look at the inputs' types, to allocate the outputs and
to make one native call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.limits import Budget
from ..ir.types import STR, TensorType
from ..kernels.cpu.launch import ARRAYS, ARRAYS_AS_EXPECTED, Schedule
from .memory import Workspace
from .outputs import WRITABLE
from .plan import Plan
from .segment import Bound
from .steps import Frame

READABLE = 0x101  # C-contiguous and aligned, among the bits of `ndarray.flags.num`


def _unlike(array: str, shape: str, dtype: str, flags: int) -> str:
    """The line that gives up where an array is not as it was."""
    return (f" if type({array}) is not ndarray or {array}.dtype is not {dtype} or {array}.shape != {shape}"
            f" or {array}.flags.num & {flags} != {flags}: return None")  # fmt: skip


def replay_of(plan: Plan, frame: Frame, output_names: Sequence[str]) -> Replay | None:
    """The short way for the inputs that `frame` holds (and nothing else yet); None where their model has none: it is more than one
    segment, its sizes hang on what inputs hold, or it returns anything but tensors that the segment makes."""
    bound = plan.segments.at(0, frame) if plan.steps and ARRAYS_AS_EXPECTED else None
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
    """One signature of a model: the element types and shapes of its inputs, and the segment bound for them.

    `run(given, workspace)` makes a run, `run_into(given, workspace, out)` one into arrays of the caller's. Both are None where
    something has another signature, or needs a closer look.
    """

    def __init__(self, bound: Bound, plan: Plan, frame: Frame, output_names: Sequence[str]):
        self.bound, self.threads = bound, frame.threads
        self._budget = frame.budget
        places = dict(bound.results)
        roots = [places[v].buffer.root() for v in plan.graph.outputs]  # type: ignore[union-attr]
        arrays = [f"a{plan.graph.inputs.index(v)}" for v in bound.inputs] + [f"r{roots.index(b)}" for b in bound.outputs]
        self._arrays = {i: arrays[i] for _, i in bound.parameters.patched}  # the array that each number of `patched` stands for
        self._inputs = [(v.name, frame.values[v].shape, frame.values[v].dtype) for v in plan.graph.inputs]
        self._outputs = [(name, places[v].shape, places[v].dtype) for name, v in zip(output_names, plan.graph.outputs)]
        self.run: Callable[[Any, Workspace], dict[str, np.ndarray] | None] = self._specialised(False)
        self.run_into: Callable[[Any, Workspace, Any], dict[str, np.ndarray] | None] = self._specialised(True)

    def _specialised(self, into: bool) -> Any:
        """The run of this signature: Python without loops, which would take as long as a small model."""
        known: dict[str, Any] = {"ndarray": np.ndarray, "empty": np.empty, "bound": self.bound, "go_on": self._go_on}
        text = [f"def run(given, workspace{', out' * into}):"]
        text.append(f" if type(given) is not dict or len(given) != {len(self._inputs)}: return None")
        for i, (name, shape, dtype) in enumerate(self._inputs):
            known |= {f"name{i}": name, f"shape{i}": shape, f"dtype{i}": dtype}
            text += [f" a{i} = given.get(name{i})", _unlike(f"a{i}", f"shape{i}", f"dtype{i}", READABLE)]
        for i, (name, shape, dtype) in enumerate(self._outputs):
            known |= {f"to{i}": name, f"size{i}": shape, f"type{i}": dtype}
        text += self._places(known) if into else [f" r{i} = empty(size{i}, type{i})" for i in range(len(self._outputs))]
        text += [" resolved = workspace.resolve(bound)", " schedule = resolved.schedule", " view = schedule.view"]
        text += [f" view[{ARRAYS + i}] = id({array})" for i, array in self._arrays.items()]
        text.append(f" if not schedule.advance({self.threads}, {len(self.bound.parameters.patched)}): go_on(schedule)")
        text += [" bound.check(resolved)"] * bool(self.bound.checked)
        text.append(f" return {{{', '.join(f'to{i}: r{i}' for i in range(len(self._outputs)))}}}")
        exec("\n".join(text), known)  # of numbers and names made here alone: what the model says stands in `known`
        return known["run"]

    def _places(self, known: dict[str, Any]) -> list[str]:
        """The lines that take outputs' arrays from `out`: of the right kind, and apart from the inputs and from each other."""
        known["share"] = np.may_share_memory  # which compares where they begin and end: exact for contiguous arrays
        text, outputs = [" if type(out) is not dict: return None", " count = 0"], range(len(self._outputs))
        for i in outputs:
            text += [f" r{i} = out.get(to{i})", f" if r{i} is None: r{i} = empty(size{i}, type{i})", " else:", "  count += 1",
                     " " + _unlike(f"r{i}", f"size{i}", f"type{i}", WRITABLE)]  # fmt: skip
            others = [f"a{j}" for j in range(len(self._inputs))] + [f"r{j}" for j in range(i)]
            text += [f"  if share(r{i}, {other}): return None" for other in others]
        return [*text, " if count != len(out): return None"]

    def _go_on(self, schedule: Schedule) -> None:
        """The rest of a run that takes longer than a slice of time."""
        budget = Budget(self._budget.limits, self._budget.given, self._budget.fed)
        budget.check_time(self.bound.name)
        while not schedule.advance(self.threads):
            budget.check_time(self.bound.name)
