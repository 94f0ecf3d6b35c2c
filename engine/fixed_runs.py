"""The short way of `Executable.run` on CUDA (as `replay.py` is the CPU's): fixed runs that wait for their signatures."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.core import Value
from ..ir.errors import GraphmillError, InputError
from ..ir.locks import fork_safe_lock
from ..ir.types import STR, TensorType
from .fixed import FixedRun
from .workspace import Workspace

if TYPE_CHECKING:
    from .executor import Executable
    from .outputs import Outputs
    from .placed import Placed

MOST_MET = 64  # signatures that are remembered: one that comes again gets a fixed run, if there is room
MOST_RUNS = 64  # that are kept,
MOST_BYTES = 256 << 20  # in so much of the device's memory, but
LEAST_RUNS = 8  # at any rate
LEAST_IDLE = 64  # how often others must have wanted the room of a run since it was of use, before they get it


class _Place:
    """Where the fixed run of a signature waits for the next caller. `idle`: how often others wanted its room since its last run."""

    def __init__(self, fixed: FixedRun):
        self.waiting, self.nbytes, self.idle = deque([fixed]), fixed.nbytes, 0

    def run(self, given: Mapping[str, Any], on_device: bool) -> dict[str, Any] | None:
        try:
            fixed = self.waiting.pop()
        except IndexError:
            return None
        self.idle = 0
        try:
            host = not on_device and all(type(x) is np.ndarray for x in given.values())
            staged = fixed.staged if host else None
            return fixed.between(given, on_device) if staged is None else staged.run(given)
        finally:
            self.waiting.append(fixed)


class FixedRuns:
    """The fixed runs of a model. Runs give None where inputs look otherwise, or while another thread has theirs: the careful way
    serves then. A signature gets one when it comes for the second time."""

    signature = None  # which a replay of the CPU's has: this serves many

    def __init__(self, inputs: Sequence[Value]):
        tensors = [v for v in inputs if isinstance(v.type, TensorType) and v.type.dtype is not STR]
        self._types = [(v.name, v.tensor.dtype.np) for v in tensors]
        self._offered = len(tensors) == len(inputs)  # whether the model may have a `FixedRun`
        self._met = deque[tuple](maxlen=MOST_MET)
        self._places: dict[tuple, _Place] = {}
        self._lock = fork_safe_lock()

    def run(self, given: Any, workspace: Workspace) -> dict[str, np.ndarray] | None:
        """A run from arrays of numpy's to such."""
        if type(given) is not dict or len(given) != len(self._types):
            return None
        shapes = []
        for name, dtype in self._types:
            x = given.get(name)
            if type(x) is not np.ndarray or x.dtype != dtype:
                return None
            shapes.append(x.shape)
        place = self._places.get(tuple(shapes))
        return None if place is None else place.run(given, on_device=False)

    def run_into(self, given: Any, workspace: Workspace, out: Any) -> dict[str, np.ndarray] | None:
        return None if type(out) is not dict or out else self.run(given, workspace)

    def run_read(self, values: dict[str, Any], workspace: Workspace, outputs: Outputs | Placed | None,
                 on_device: bool) -> dict[str, Any] | None:  # fmt: skip
        """A run from values that were looked at."""
        if not self._places:
            return None
        place = self._places.get(tuple([values[name].shape for name, _ in self._types]))
        results = None if place is None else place.run(values, on_device)
        return results if outputs is None or results is None else outputs.finish(results)

    def keep(self, exe: Executable, values: Mapping[str, Any], workspace: Workspace) -> None:
        """Notes a careful run. What comes for the second time gets a fixed run, which has an arena of its own: the workspace gives
        up its memory for it. Where there is no room, that run makes room which nobody asked for longest, but none that was of use
        lately: a model with many signatures would make them anew all the time."""
        if not self._offered:
            return
        signature = tuple([values[name].shape for name, _ in self._types])
        if signature not in self._met:
            self._met.append(signature)
            return
        with self._lock:
            if signature in self._places or not self._room():
                return
            try:
                self._places[signature] = _Place(FixedRun(exe, values, met=True))
                workspace.drop()
            except InputError:
                self._offered = False
            except (GraphmillError, MemoryError):  # no time or memory left for it: what was asked for is computed
                pass

    def _room(self) -> bool:
        """Whether there is room for one more, after one was given up for it perhaps."""
        places = self._places
        for place in places.values():
            place.idle += 1
        nbytes = [p.nbytes for p in places.values()]
        if len(places) < LEAST_RUNS or (len(places) < MOST_RUNS and sum(nbytes) + max(nbytes) <= MOST_BYTES):
            return True
        longest = max(places, key=lambda signature: places[signature].idle)
        if places[longest].idle < LEAST_IDLE:
            return False
        del places[longest]
        return True
