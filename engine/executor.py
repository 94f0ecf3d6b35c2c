"""Executable: a compiled model that can be run, from several Python threads at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir.core import Module
from ..ir.errors import InputError, RunError
from ..ir.interp import output_names
from ..ir.limits import Budget, nbytes_of
from .binding import bind_inputs
from .memory import Workspace
from .options import Options
from .plan import Plan
from .replay import Replay, replay_of
from .report import CompileReport
from .steps import Frame

MOST_REPLAYS = 8
MOST_WORKSPACES = 8  # that wait for the next run: one for each thread that usually runs the model at once


class Executable:
    """A compiled model. Immutable: every run has a frame of its own."""

    def __init__(self, module: Module, plan: Plan, options: Options, threads: int, report: CompileReport, given: int):
        """`given` are the bytes of the model's own constants, which say how much a run may hold (see `Limits`)."""
        self.module, self.options, self.threads, self.report = module, options, threads, report
        self._plan = plan
        self._constants = given
        self._output_names = output_names(module)
        self._workspaces: list[Workspace] = []  # of runs that have ended
        self._replays: list[Replay] = []  # the latest first; never changed in place, since several threads may read it

    @property
    def inputs(self) -> dict[str, str]:
        """The type of each input, as text: `f32[$N,3,32,32]`."""
        return {v.name: str(v.type) for v in self.module.main.inputs}

    @property
    def outputs(self) -> dict[str, str]:
        """The type of each output, as text."""
        return dict(zip(self._output_names, (str(v.type) for v in self.module.main.outputs)))

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the model on `inputs` (a value for each input name) and returns its outputs by name.

        Tensors are numpy arrays of the declared element type; what is returned belongs to the caller. Raises InputError for
        inputs that do not fit, RunError naming the node that failed, LimitError where a limit would be passed.
        """
        workspace = self._borrow()
        try:
            out = self._replay(inputs, workspace) or self._run_first(inputs, workspace)
        except MemoryError as e:
            raise RunError(f"the system has not the memory that this run needs ({e}); lower Limits.total_bytes") from e
        if len(self._workspaces) < MOST_WORKSPACES:  # and not after an error, when a kernel may have been left half way
            self._workspaces.append(workspace)
        return out

    def _replay(self, inputs: Mapping[str, Any], workspace: Workspace) -> dict[str, Any] | None:
        """A run whose inputs look like those of an earlier one; None if none did."""
        for replay in self._replays:
            out = replay.run(inputs, workspace)
            if out is not None:
                return out
        return None

    def _run_first(self, inputs: Mapping[str, Any], workspace: Workspace) -> dict[str, Any]:
        """A run that checks and binds everything."""
        env, symbols = bind_inputs(self.module, inputs)
        given = [x for x in env.values() if isinstance(x, np.ndarray)]
        fed = sum(nbytes_of(x) for x in env.values())
        budget = Budget(self.options.limits, self._constants + fed, fed)
        results = self._plan.run(Frame(dict(env), dict(symbols), budget, self.threads, workspace))
        replay = replay_of(self._plan, Frame(env, symbols, budget, self.threads), self._output_names)
        if replay is not None:
            self._replays = [replay, *self._replays[: MOST_REPLAYS - 1]]
        return dict(zip(self._output_names, _owned(results, given, self._plan)))

    def _borrow(self) -> Workspace:
        try:
            return self._workspaces.pop()
        except IndexError:
            return Workspace()

    def __call__(self, *args: Any) -> Any:
        """Runs a model on inputs by position; its only output, or the tuple of all."""
        names = list(self.inputs)
        if len(args) != len(names):
            raise InputError(f"the model takes {len(names)} inputs ({', '.join(names)}), {len(args)} were given")
        out = tuple(self.run(dict(zip(names, args))).values())
        return out[0] if len(out) == 1 else out


def _owned(results: list[Any], given: list[np.ndarray], plan: Plan) -> list[Any]:
    """Copies what would share memory with an input, a constant or another output."""
    seen = {_root(a) for a in given}
    out = []
    for v, x in zip(plan.graph.outputs, results):
        if isinstance(x, list):
            x = [e.copy() if isinstance(e, np.ndarray) else e for e in x]
        if isinstance(x, np.ndarray):
            if v.is_const or _root(x) in seen or not x.flags.writeable or not x.flags.c_contiguous:
                x = np.array(x, order="C")
            seen.add(_root(x))
        out.append(x)
    return out


def _root(a: np.ndarray) -> int:
    while isinstance(a.base, np.ndarray):
        a = a.base
    return id(a)
