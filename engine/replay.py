"""The short way through a run whose inputs look like those of an earlier one, of a model that is one segment.

All that depends on shapes was checked and bound by then: what is left is to look at the inputs' types, to find memory for the
outputs and to make one native call. That is Python without loops, written for the number of inputs and outputs: loops would take as
long as a small model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import numpy as np

from ..ir.limits import Budget
from ..ir.types import STR, TensorType
from ..kernels.cpu.launch import ARRAYS, ARRAYS_AS_EXPECTED, Schedule
from .bound import Bound
from .memory import Workspace
from .outputs import WRITABLE
from .plan import Plan
from .steps import Frame

MOST_ARRAYS = 512  # of one run: each is some lines of Python
READABLE = 0x101  # C-contiguous and aligned, among the bits of `ndarray.flags.num`
Results = dict[str, np.ndarray]


def replay_of(plan: Plan, frame: Frame, output_names: Sequence[str]) -> Replay | None:
    """The short way for the inputs that `frame` holds (and nothing else yet); None where their model has none: it is more than one
    segment, its sizes hang on what inputs hold, or it returns anything but tensors that the segment makes."""
    graph = plan.graph
    if not (ARRAYS_AS_EXPECTED and plan.steps and len(graph.inputs) + len(graph.outputs) <= MOST_ARRAYS):
        return None
    bound = plan.segments.at(0, frame)
    if bound is None or bound.stop < len(plan.steps) or plan.segments.reads_contents(0):
        return None
    for v in [*graph.inputs, *graph.outputs]:
        if not isinstance(v.type, TensorType) or v.type.layout is not None or v.type.dtype is STR:
            return None
    made = {p.buffer.root() for v, p in bound.results if p.buffer is not None and v in graph.outputs}
    if len(made) < len(graph.outputs) or len(made) != len(bound.outputs):
        return None
    return Replay(bound, plan, frame, output_names)


class Replay:
    """One signature of a model: the element types and shapes of its inputs, and the segment bound for them.

    `run(given, workspace)` makes a run, `run_into(given, workspace, out)` one into arrays of the caller's. Both are None where
    something has another signature, or needs a closer look.
    """

    run: Callable[[Any, Workspace], Results | None]
    run_into: Callable[[Any, Workspace, Any], Results | None]

    def __init__(self, bound: Bound, plan: Plan, frame: Frame, output_names: Sequence[str]):
        self.bound, self.threads = bound, frame.threads
        self._budget = frame.budget
        inputs, outputs, places = plan.graph.inputs, plan.graph.outputs, dict(bound.results)
        roots = [places[v].buffer.root() for v in outputs]  # type: ignore[union-attr]
        arrays = [f"a{inputs.index(v)}" for v in bound.inputs] + [f"r{roots.index(b)}" for b in bound.outputs]
        patches = bound.parameters.patched
        form = len(inputs), len(outputs), tuple(sorted({(i, arrays[i]) for _, i in patches})), bool(bound.checked)
        known: dict[str, Any] = {"bound": bound, "threads": frame.threads, "patches": len(patches), "go_on": self._go_on}
        for i, v in enumerate(inputs):
            known |= {f"name{i}": v.name, f"shape{i}": frame.values[v].shape, f"dtype{i}": frame.values[v].dtype}
        for i, (name, v) in enumerate(zip(output_names, outputs)):
            known |= {f"to{i}": name, f"size{i}": places[v].shape, f"type{i}": places[v].dtype}
        known |= {"ndarray": np.ndarray, "empty": np.empty, "apart": _apart}
        exec(_code(*form), known)
        self.run, self.run_into = known["run"], known["run_into"]

    def _go_on(self, schedule: Schedule) -> None:
        """The rest of a run that takes longer than a slice of time."""
        budget = Budget(self._budget.limits, self._budget.given, self._budget.fed)
        budget.check_time(self.bound.name)
        while not schedule.advance(self.threads):
            budget.check_time(self.bound.name)


@functools.lru_cache(maxsize=256)
def _code(inputs: int, outputs: int, arrays: tuple[tuple[int, str], ...], checked: bool) -> CodeType:
    """The two functions of a `Replay`. `arrays` tells which array stands for which number in the segment's patches. Nothing of the
    model is in the text: names and shapes are looked up."""
    get = [f" if type(given) is not dict or len(given) != {inputs}: return None"]
    for i in range(inputs):
        get += [f" a{i} = given.get(name{i})", _unlike(f"a{i}", f"shape{i}", f"dtype{i}", READABLE)]
    call = [" resolved = workspace.resolve(bound)", " schedule = resolved.schedule", " view = schedule.view"]
    call += [f" view[{ARRAYS + i}] = id({array})" for i, array in arrays]
    call += [" if not schedule.advance(threads, patches): go_on(schedule)", *[" bound.check(resolved)"] * checked]
    call += [f" return {{{', '.join(f'to{i}: r{i}' for i in range(outputs))}}}"]
    make = [f" r{i} = empty(size{i}, type{i})" for i in range(outputs)]
    take = _places(inputs, outputs)
    text = ["def run(given, workspace):", *get, *make, *call, "def run_into(given, workspace, out):", *get, *take, *call]
    return compile("\n".join(text), "<replay>", "exec")


def _places(inputs: int, outputs: int) -> list[str]:
    """The lines that take outputs' arrays from `out`: of the right kind, and apart from the inputs and from each other."""
    text = [" if type(out) is not dict: return None", " count = 0"]
    for i in range(outputs):
        text += [f" r{i} = out.get(to{i})", f" if r{i} is None: r{i} = empty(size{i}, type{i})", " else:", "  count += 1"]
        text.append(" " + _unlike(f"r{i}", f"size{i}", f"type{i}", WRITABLE))
    results, given = ("".join(f"{kind}{i}, " for i in range(n)) for kind, n in (("r", outputs), ("a", inputs)))
    return [*text, f" if count != len(out) or not apart(({results}), ({given})): return None"]


def _apart(results: tuple[np.ndarray, ...], given: tuple[np.ndarray, ...]) -> bool:
    """Whether no result shares memory with an input or another result; they are contiguous, so where they begin and end tells."""
    share = np.may_share_memory
    for i, r in enumerate(results):
        for other in given + results[:i]:
            if share(r, other):
                return False
    return True


def _unlike(array: str, shape: str, dtype: str, flags: int) -> str:
    """The line that gives up where an array is not as it was. Equal dtypes are mostly one object, but not after unpickling."""
    other = f"{array}.dtype is not {dtype} and {array}.dtype != {dtype} or {array}.shape != {shape}"
    return f" if type({array}) is not ndarray or {other} or {array}.flags.num & {flags} != {flags}: return None"
