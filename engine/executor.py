"""Executable: a compiled model that can be run, from several Python threads at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.core import Module
from ..ir.errors import InputError, RunError
from ..ir.interp import output_names
from ..ir.limits import Budget, deadline, interrupted_by, nbytes_of
from .binding import bind_dims, read_inputs
from .device import CLOSED, CPU, Device
from .options import Options
from .outputs import Outputs, check_names, owned
from .placed import Placed
from .plan import Plan
from .replay import Replay, StepByStep, replay_of
from .report import CompileReport
from .steps import Frame
from .ways import Leg
from .workspace import Workspace

if TYPE_CHECKING:
    from .background import Run  # which imports asyncio
    from .fixed import FixedRun
    from .fixed_runs import FixedRuns

MOST_REPLAYS = 8
MOST_WORKSPACES = 8  # that wait for the next run: one for each thread that usually runs the model at once


class Executable:
    """A compiled model. Immutable: every run has a frame of its own."""

    def __init__(self, module: Module, plan: Plan, options: Options, threads: int, report: CompileReport, given: int,
                 device: Device = CPU):  # fmt: skip
        """`given` are the bytes of the model's own constants, which say how much a run may hold (see `Limits`)."""
        self.module, self.options, self.threads, self.report = module, options, threads, report
        self._plan = plan
        self._constants, self.device = given, device
        self._output_names = output_names(module)
        self._named = dict(zip(self._output_names, module.main.outputs))
        self._workspaces: deque[Workspace] = deque(maxlen=MOST_WORKSPACES)  # of runs that have ended
        # The latest first; never changed in place, since several threads may read it.
        self._replays: list[Replay | StepByStep | FixedRuns] = []
        if not device.is_host:
            from .fixed_runs import FixedRuns

            self._replays = [FixedRuns(module.main.inputs)]

    @property
    def inputs(self) -> dict[str, str]:
        """The type of each input, as text: `f32[$N,3,32,32]`."""
        return {v.name: str(v.type) for v in self.module.main.inputs}

    @property
    def outputs(self) -> dict[str, str]:
        """The type of each output, as text."""
        return {name: str(v.type) for name, v in self._named.items()}

    def save(self, path: str | os.PathLike, *, packed: bool = True) -> None:
        """Writes all that `graphmill.load` needs to one file, `m.gmill`; see `artifact.save`."""
        from .artifact import save

        save(self, path, packed=packed)

    @property
    def plan(self) -> Plan:
        """The steps that a run takes."""
        return self._plan

    @property
    def given(self) -> int:
        """The bytes of the model's own constants, which say how much a run may hold."""
        return self._constants

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        out: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        on_device: bool = False,
        stream: Any = None,
    ) -> dict[str, Any]:
        """Runs the model on `inputs` (a value for each input name) and returns its outputs by name.

        Tensors are arrays of the declared element type, also of other libraries (DLPack, the array interface, the buffer protocol),
        which are read in place where they are C-contiguous. What is returned belongs to the caller.

        `out` maps names of outputs, not necessarily all, to arrays of the caller's that are to hold them, and which are what is
        returned then; after an error their contents are undefined. After `timeout` seconds the run ends with DeadlineError.
        On target "cuda", inputs in the device's memory (of CuPy, PyTorch, Numba: DLPack or CUDA's array interface) are read where
        they lie, and with `on_device` outputs stay there, too, as arrays that have both. With `stream` (CuPy's, PyTorch's or a
        handle) the run comes after what is under way on that stream, and what the stream is asked for behind it comes after the
        run; nobody waits on the host then, unless outputs go there or kernels have to tell whether their operands were right.
        Raises InputError for inputs and arrays that do not fit, RunError naming the node that failed, LimitError where a limit
        would be passed.
        """
        if timeout is not None:
            with interrupted_by(deadline(timeout)):
                return self.run(inputs, out=out, on_device=on_device, stream=stream)
        workspace = self._workspace()
        try:
            if on_device or stream is not None:
                results = self._run_beside(inputs, out, workspace, on_device, stream)
            else:
                for replay in self._replays:
                    found = replay.run(inputs, workspace) if out is None else replay.run_into(inputs, workspace, out)
                    if found is not None:
                        results = found
                        break
                else:
                    results = self._run_closely(inputs, out, workspace)
        except MemoryError as e:
            raise RunError(f"the system has not the memory that this run needs ({e}); lower Limits.total_bytes") from e
        self._workspaces.append(workspace)  # and not after an error, when a kernel may have been left half way
        return results

    def padded(self, values: dict[str, Any]) -> dict[str, Any]:
        """Inputs that `read_inputs` gave in the sizes that kernels run on."""
        return values

    def fixed(self, inputs: Mapping[str, Any], *, bind: Mapping[str, Any] | None = None) -> FixedRun:
        """A run of this signature on CUDA as one call, with places for inputs and outputs that stay; `bind` are arrays of the
        caller's that are to be such places, by name. See `FixedRun`."""
        from .fixed import FixedRun

        return FixedRun(self, inputs, bind)

    def run_async(self, inputs: Mapping[str, Any], *, out: Mapping[str, Any] | None = None,
                  timeout: float | None = None) -> Run[dict[str, Any]]:  # fmt: skip
        """`run` in the background: a future that can be awaited (`await exe.run_async(inputs)`), waited for (`.result()`) and
        cancelled, also while it runs; see `Run`.

        As many runs at a time as the process has CPUs, the others wait in order; `timeout` counts from now. The inputs are read,
        and `out` is written to, until the future is done. All errors are the future's.
        """
        from .background import submit

        look = None if timeout is None else deadline(timeout)

        def work() -> dict[str, Any]:
            if look is None:
                return self.run(inputs, out=out)
            look()
            with interrupted_by(look):
                return self.run(inputs, out=out)

        return submit(work)

    def _workspace(self) -> Workspace:
        if self.device.closed:
            raise InputError(CLOSED)
        try:
            return self._workspaces.pop()
        except IndexError:
            return Workspace(self.device)

    def _run_beside(self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None, workspace: Workspace, on_device: bool,
                    stream: Any) -> dict[str, Any]:  # fmt: skip
        """A run whose outputs stay on the device, or that goes along with a stream of the caller's."""
        if on_device and self.device.is_host:
            raise InputError("on_device takes a target with a device: compile with target='cuda'")
        if stream is None:
            return self._run_closely(inputs, out, workspace, on_device)
        with self.device.beside(stream):
            return self._run_closely(inputs, out, workspace, on_device, ordered=True)

    def _run_closely(self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None, workspace: Workspace, on_device: bool = False,
                     ordered: bool = False) -> dict[str, Any]:  # fmt: skip
        """A run whose inputs may have to be brought into the form that kernels read, and may be the first of their signature.
        `ordered`: a stream waits for it, with what it reads."""
        values = read_inputs(self.module, inputs, self.device, ordered)
        outputs = None if out is None else self._places(out, values, on_device, ordered)
        there = on_device or isinstance(outputs, Placed)
        for replay in self._replays:
            results = replay.run_read(values, workspace, outputs, there)
            if results is not None:
                break
        else:
            results = self._run_first(values, outputs, workspace, there)
        if not ordered:
            self.device.settle([*values.values(), *(outputs.arrays if isinstance(outputs, Placed) else ())])
        return results

    def _places(self, out: Mapping[str, Any], values: Mapping[str, Any], on_device: bool, ordered: bool) -> Outputs | Placed:
        """Where the caller wants outputs."""
        check_names(out, self._named)
        if not self.device.is_host:
            found = {name: self.device.adopt(x, f"out: the array of {name}", ordered, to_read=False) for name, x in out.items()}
            there = {name: a for name, a in found.items() if a is not None}
            if there or on_device:
                return Placed(out, there, self._named, self.device, on_device)
        return Outputs(out, self._named, values.values())

    def _run_first(self, values: dict[str, Any], outputs: Outputs | Placed | None, workspace: Workspace,
                   on_device: bool) -> dict[str, Any]:  # fmt: skip
        """A run that checks and binds everything."""
        env, symbols = bind_dims(self.module, values)
        given = [x for x in env.values() if isinstance(x, np.ndarray)]
        fed = sum(nbytes_of(x) for x in env.values())
        budget = Budget(self.options.limits, self._constants + fed, fed)
        frame = Frame(dict(env), dict(symbols), budget, self.threads, workspace, legs=[] if self.device.is_host else None)
        if isinstance(outputs, Outputs) and self.device.is_host:
            frame.places = outputs.places()
        frame.on_device = on_device
        results = self._plan.run(frame)
        if self.device.is_host:
            self._keep(Frame(env, symbols, budget, self.threads), frame.legs or ())
        else:
            for fixed in self._replays:
                fixed.keep(self, values, workspace)  # type: ignore[union-attr]
        if on_device:
            named = dict(zip(self._output_names, self.device.owned(results, list(env.values()))))
        else:
            named = dict(zip(self._output_names, results))
            named |= owned(named, given, self._named, () if outputs is None else outputs.direct)
        return named if outputs is None else outputs.finish(named)

    def _keep(self, frame: Frame, legs: Sequence[Leg]) -> None:
        """Keeps the short way for a run that began with what `frame` holds, unless another thread has done so."""
        signature = tuple([getattr(x, "shape", None) for x in frame.values.values()])  # lists have none, and no short way
        if any(r.signature == signature for r in self._replays):
            return
        replay = replay_of(self._plan, frame, legs, self._output_names)
        if replay is not None:
            self._replays = [replay, *self._replays[: MOST_REPLAYS - 1]]

    def close(self) -> None:
        """Gives back the memory of a device (constants, arenas, graphs), as does the end of a `with`; runs after this raise
        InputError. Arrays that were handed out stay. On the CPU memory goes with the object, and this does nothing."""
        if not self.device.is_host:
            self._workspaces.clear()
            self._replays = []
            self.device.close()

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, *args: Any) -> Any:
        """Runs a model on inputs by position; its only output, or the tuple of all."""
        names = [v.name for v in self.module.main.inputs]
        if len(args) != len(names):
            raise InputError(f"the model takes {len(names)} inputs ({', '.join(names)}), {len(args)} were given")
        out = tuple(self.run(dict(zip(names, args))).values())
        return out[0] if len(out) == 1 else out
