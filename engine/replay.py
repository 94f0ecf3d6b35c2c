"""The short way through a run whose inputs look like those of an earlier one.

All that depends on shapes was checked and bound by then: what is left is to look at the inputs' types, to find memory for the
outputs and to make one native call where the model is one segment (`Replay`), else to go from one to the next (`StepByStep`). That
is Python without loops, written for the number of inputs and outputs: loops would take as long as a small model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import numpy as np

from ..ir.core import Graph
from ..ir.limits import Budget
from ..ir.types import STR, TensorType
from ..kernels.cpu.launch import ARRAYS, ARRAYS_AS_EXPECTED, Schedule
from .bound import Bound
from .outputs import WRITABLE, Outputs, owned
from .placed import Placed
from .plan import Plan
from .steps import Frame
from .ways import READABLE, Leg, Trip, Way, way_of
from .workspace import Workspace

MOST_ARRAYS = 512  # of one run: each is some lines of Python
MOST_COMPARED = 16  # that an output is compared with
Results = dict[str, np.ndarray]


def replay_of(plan: Plan, frame: Frame, legs: Sequence[Leg], output_names: Sequence[str]) -> Replay | StepByStep | None:
    """The short way for the inputs that `frame` holds (and nothing else yet), for which a run had these legs; None where there is
    none: its sizes hang on what inputs hold, or an input is no plain tensor."""
    graph = plan.graph
    if not (ARRAYS_AS_EXPECTED and legs and len(graph.inputs) + len(graph.outputs) <= MOST_ARRAYS):
        return None
    if not all(isinstance(v.type, TensorType) and v.type.layout is None and v.type.dtype is not STR for v in graph.inputs):
        return None
    bound = legs[0].bound
    if bound is not None and len(legs) == 1 and _makes_all_outputs(graph, bound):
        return None if plan.segments.reads_contents(0) else Replay(bound, plan, frame, output_names)
    way = way_of(Trip(plan, legs, frame.symbols, frame.threads, (), {v: frame.values[v].shape for v in graph.inputs}))
    return None if way is None else StepByStep(way, plan, frame, output_names)


def _makes_all_outputs(graph: Graph, bound: Bound) -> bool:
    """Whether each output is a tensor in memory of its own that the segment makes."""
    if not all(isinstance(v.type, TensorType) and v.type.layout is None and v.type.dtype is not STR for v in graph.outputs):
        return False
    made = {p.buffer.root() for v, p in bound.results if p.buffer is not None and v in graph.outputs}
    return len(made) == len(graph.outputs) == len(bound.outputs)


class StepByStep:
    """One signature of a model that is more than one segment: the element types and shapes of its inputs, and the way from there.

    `run` is as that of `Replay`, and so is `run_into`: what is to lie in arrays of the caller's is copied there, by `Outputs`.
    """

    run: Callable[[Any, Workspace], Results | None]

    def __init__(self, way: Way, plan: Plan, frame: Frame, output_names: Sequence[str]):
        inputs, outputs = plan.graph.inputs, dict(zip(output_names, plan.graph.outputs))
        self.signature = tuple([frame.values[v].shape for v in inputs])
        known: dict[str, Any] = {"way": way.enter, "symbols": frame.symbols, "names": tuple(output_names), "ndarray": np.ndarray,
                                 "budget": frame.budget.anew, "owned": owned, "outputs": outputs}  # fmt: skip
        for i, v in enumerate(inputs):
            known |= {f"name{i}": v.name, f"shape{i}": frame.values[v].shape, f"dtype{i}": frame.values[v].dtype}
        lists = tuple([v.node is not None and v.node.op.has("repacking") and len(v.output_of) == 1 for v in outputs.values()])
        exec(_code_step_by_step(len(inputs), lists, way.asks), known)
        self.run = known["run"]

    def run_into(self, given: Any, workspace: Workspace, out: Any) -> Results | None:
        return None if type(out) is not dict or out else self.run(given, workspace)

    def run_read(self, values: dict[str, Any], workspace: Workspace, outputs: Outputs | Placed | None,
                 on_device: bool) -> Results | None:  # fmt: skip
        """`run_into` for inputs that were looked at, and for any places of outputs."""
        results = self.run(values, workspace)
        return results if outputs is None or results is None else outputs.finish(results)


@functools.lru_cache(maxsize=256)
def _code_step_by_step(inputs: int, lists: tuple[bool, ...], asks: bool) -> CodeType:
    """The function of a `StepByStep`; `lists` tells which outputs are no arrays, and made anew by each run."""
    outputs = len(lists)
    given, results = ("".join(f"{kind}{i}, " for i in range(n)) for kind, n in (("a", inputs), ("r", outputs)))
    text = ["def run(given, workspace):", *_get(inputs), f" given = ({given})",
            f" run = way(workspace, budget{'()' * asks}, symbols, ())", " results = run(given)", " if results is None: return None",
            " named = dict(zip(names, results))", *[f" {results}= results"] * bool(outputs)]  # fmt: skip
    for i in [i for i in range(outputs) if not lists[i]]:
        text.append(f" if {_questionable(i, inputs)}: return owned(named, given, outputs)")
    return compile("\n".join([*text, " return named"]), "<replay>", "exec")


def _questionable(i: int, inputs: int) -> str:
    """The condition under which output number i may be no array of this run's own."""
    others = [f"a{k}" for k in range(inputs)] + [f"r{k}" for k in range(i)]
    if len(others) > MOST_COMPARED:
        return "True"
    same = "".join(f" or r{i} is {x}" for x in others)
    return f"type(r{i}) is not ndarray or r{i}.base is not None or r{i}.flags.num & {WRITABLE} != {WRITABLE}{same}"


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
        self.signature = tuple([frame.values[v].shape for v in inputs])
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

    def run_read(self, values: dict[str, Any], workspace: Workspace, outputs: Outputs | Placed | None,
                 on_device: bool) -> Results | None:  # fmt: skip
        """`run_into` for inputs that were looked at, and for any places of outputs."""
        results = self.run_into(values, workspace, {} if outputs is None else outputs.direct)
        return results if outputs is None or results is None else outputs.finish(results)

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
    call = [" resolved = workspace.resolve(bound)", " schedule = resolved.schedule", " view = schedule.view"]
    call += [f" view[{ARRAYS + i}] = id({array})" for i, array in arrays]
    call += [" if not schedule.advance(threads, patches): go_on(schedule)", *[" bound.check(resolved)"] * checked]
    call += [f" return {{{', '.join(f'to{i}: r{i}' for i in range(outputs))}}}"]
    make = [f" r{i} = empty(size{i}, type{i})" for i in range(outputs)]
    take = _places(inputs, outputs)
    get = _get(inputs)
    text = ["def run(given, workspace):", *get, *make, *call, "def run_into(given, workspace, out):", *get, *take, *call]
    return compile("\n".join(text), "<replay>", "exec")


def _get(inputs: int) -> list[str]:
    """The lines that take the inputs' arrays, and give up where one is not as it was."""
    text = [f" if type(given) is not dict or len(given) != {inputs}: return None"]
    for i in range(inputs):
        text += [f" a{i} = given.get(name{i})", _unlike(f"a{i}", f"shape{i}", f"dtype{i}", READABLE)]
    return text


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
