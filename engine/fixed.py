"""A run with fixed places: inputs and outputs of one signature on the device, and one call that runs all between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.errors import InputError
from ..ir.limits import Budget, nbytes_of
from ..kernels.cuda.driver import Driver, Transfer
from .binding import bind_dims, read_inputs
from .cuda import WIDEST, Cuda, CudaArray, CudaResolved, spread
from .device import CLOSED
from .steps import Frame
from .workspace import Workspace

if TYPE_CHECKING:
    from .bound import Bound
    from .executor import Executable

MOST_PINNED = 64 << 20  # bytes of one signature's inputs and outputs that are copied through pinned memory


class FixedRun:
    """One signature of a model on CUDA whose plan is one segment, captured as a whole.

    `inputs` and `outputs` are arrays on the device, by name, that stay where they are: write into the former (`set`, or through
    CUDA's array interface), `run`, read the latter. A run is one launch of a graph, asynchronous: what reads an output by `numpy`
    or its interface waits for it. Not for several threads at once.
    """

    def __init__(self, exe: Executable, inputs: Mapping[str, Any], bind: Mapping[str, Any] | None = None, *, met: bool = False):
        """`inputs` give the sizes, and the first contents, on which all is run once unless they were `met` before; `bind` are
        arrays of the caller's on the device, by the names of inputs and outputs whose places they are to be. Raises InputError
        where the target is not CUDA, where the model is more than one segment (control flow, nodes on the host, sizes that only
        running tells), and for arrays that cannot be such places."""
        if not isinstance(exe.device, Cuda):
            raise InputError("fixed places are offered by target = 'cuda'")
        if exe.device.closed:
            raise InputError(CLOSED)
        device = self.device = exe.device
        values = read_inputs(exe.module, inputs, device)
        bound, frame = _one_segment(exe, values)
        made = dict(bound.results)
        places = device.empty_each([x.nbytes for x in values.values()]) if values else []
        self.inputs: dict[str, CudaArray] = {n: m.view(x.dtype).reshape(x.shape) for m, (n, x) in zip(places, values.items())}
        *self._starts, self._nbytes = spread([b.nbytes for b in bound.outputs])
        roots, found = {b: i for i, b in enumerate(bound.outputs)}, [made[v] for v in exe.module.main.outputs]
        self._made = [(n, roots[p.buffer.root()], p.shape, p.dtype) for n, p in zip(exe.outputs, found) if p.buffer]
        self._block = device.empty(self._nbytes)
        self.outputs = self._views(self._block)
        lie = [self._block.address + start for start in self._starts]
        theirs = self._bind(bind or {}, lie)
        for name, x in values.items():
            self._copy(name, x)
        self._reads = [v.name for v in bound.inputs]
        self._addresses = [self.inputs[name].address for name in self._reads] + lie
        self._keep, self._bound, self._resolved = frame.workspace, bound, frame.workspace.resolve(bound)
        assert isinstance(self._resolved, CudaResolved)
        if not met:
            self._resolved.run(self._addresses, exe.threads, lambda: frame.budget.check_time(bound.name))
            bound.check(self._resolved)
        device.settle([*values.values(), *theirs])

    def _bind(self, bind: Mapping[str, Any], lie: list[int]) -> list[CudaArray]:
        """Takes arrays of the caller's for places, and writes to `lie` where values lie then."""
        theirs: dict[str, CudaArray] = {}
        for name, x in bind.items():
            places = self.inputs if name in self.inputs else self.outputs
            what, a = f"bind: the array of {name}", self.device.adopt(x, f"bind: the array of {name}", ordered=False, to_read=False)
            if name not in places:
                raise InputError(f"bind: nothing is named {name}, expected one of {', '.join([*self.inputs, *self.outputs])}")
            wanted = places[name]
            if a is None or a.shape != wanted.shape or a.dtype != wanted.dtype or a.address % WIDEST:
                raise InputError(f"{what} is no place for it, expected {wanted.dtype}{list(wanted.shape)} on the device, from a "
                                 f"multiple of {WIDEST} bytes on")  # fmt: skip
            for other, b in theirs.items():
                if a.address < b.address + b.nbytes and b.address < a.address + a.nbytes:
                    raise InputError(f"{what} shares memory with that of {other}; give each memory of its own")
            if places is self.outputs:
                (i,) = [i for n, i, _, _ in self._made if n == name]
                if [k for _, k, _, _ in self._made].count(i) > 1:
                    raise InputError(f"{what}: another output lies in the same place; leave it out")
                lie[i] = a.address
            theirs[name] = places[name] = a
        return list(theirs.values())

    @property
    def nbytes(self) -> int:
        """The bytes of the device that it keeps."""
        return self._keep.arena.nbytes + self._nbytes + sum(x.nbytes for x in self.inputs.values())

    @cached_property
    def staged(self) -> Staged | None:
        """The way from and to memory of the host; None where that would pin much of it."""
        nbytes = sum(x.nbytes for x in [*self.inputs.values(), *self.outputs.values()])
        return Staged(self, self._bound, self._resolved) if nbytes <= MOST_PINNED else None

    @cached_property
    def _graph(self) -> Callable[[], None]:
        return self.capture((), ())

    def _views(self, block: CudaArray) -> dict[str, CudaArray]:
        """The outputs in one block of memory."""
        driver, memory, at = block.driver, block.memory, block.address
        return {name: CudaArray(driver, memory, at + self._starts[i], shape, dtype) for name, i, shape, dtype in self._made}

    def run(self, stream: Any = None) -> None:
        """Launches a run on what the inputs hold; with `stream` (as for `Executable.run`) in the order of that stream. Raises
        InputError where the executable was closed."""
        if self.device.closed:
            raise InputError(CLOSED)
        if stream is None:
            return self._graph()
        with self.device.beside(stream):
            return self._graph()

    def set(self, name: str, value: Any) -> None:
        """Copies an array of the input's type and shape, of the host or in the device's memory, into an input. Raises
        InputError."""
        if not isinstance(value, (np.ndarray, CudaArray)):
            value = self.device.adopt(value, name, ordered=False) or np.asarray(value)
            self._copy(name, value)
            return self.device.settle([value])
        self._copy(name, value)

    def _copy(self, name: str, value: np.ndarray | CudaArray) -> None:
        x = self.inputs.get(name)
        if x is None or x.shape != value.shape or x.dtype != value.dtype:
            expected = ", ".join(f"{n}: {a.dtype}{list(a.shape)}" for n, a in self.inputs.items())
            raise InputError(f"{name}: {value.dtype}{list(value.shape)}; expected one of {expected}")
        if getattr(value, "address", None) != x.address:  # else it is the place
            self.device.write(x, value)

    def between(self, values: Mapping[str, np.ndarray | CudaArray], on_device: bool) -> dict[str, Any]:
        """A run from arrays wherever they lie to arrays of the host, or to new ones on the device. What is on the device already is
        read there where such addresses came before, which takes a graph for them; else it is copied, and so are outputs."""
        device, fixed = self.device, self.inputs.copy()
        for name, x in values.items():
            if isinstance(x, CudaArray):
                fixed[name] = x
            else:
                self._copy(name, x)
        block = device.empty(self._nbytes) if on_device else self._block
        addresses = [fixed[name].address for name in self._reads] + [block.address + start for start in self._starts]
        if addresses == self._addresses:
            self._graph()
        elif not self._resolved.again(addresses):
            for name in self._reads:
                if fixed[name] is not self.inputs[name]:
                    self._copy(name, fixed[name])
            self._graph()
            if on_device and self._nbytes:
                device.driver.copy(block.address, self._block.address, self._nbytes)
        results: dict[str, Any] = self._views(block)
        if not on_device:
            results = {name: x.numpy() for name, x in results.items()}
        elif len(self._starts) < len(results):  # some lie in the same place
            results = dict(zip(results, device.owned(list(results.values()), [])))
        self.check()
        return results

    def check(self) -> None:
        """Waits for the last run. Raises RunError where a kernel found its operands' contents wrong (an index out of range)."""
        self._bound.check(self._resolved)

    def capture(self, before: Sequence[Transfer], after: Sequence[Transfer]) -> Callable[[], None]:
        """A run with copies before and after it as one call."""
        return self._resolved.capture(self._addresses, before, after)


def _one_segment(exe: Executable, values: Mapping[str, Any]) -> tuple[Bound, Frame]:
    """The segment that is the whole model, for such inputs, and a frame that has them. Raises InputError where it is not."""
    env, symbols = bind_dims(exe.module, values)
    fed = sum(nbytes_of(x) for x in env.values())
    budget = Budget(exe.options.limits, exe.given + fed, fed)
    frame = Frame(dict(env), dict(symbols), budget, exe.threads, Workspace(exe.device))
    bound = exe.plan.segments.at(0, frame) if exe.plan.steps else None
    if bound is None or bound.stop != len(exe.plan.steps) or exe.plan.segments.reads_contents(0):
        raise InputError("the model is more than one segment; run it by Executable.run")
    made = dict(bound.results)
    for v in exe.module.main.outputs:
        if v not in made or made[v].buffer is None:
            raise InputError(f"the output {v.name} is an input or a constant; run the model by Executable.run")
    return bound, frame


class _Staging:
    """Pinned memory of the host beside values that lie one behind the other on the device, so that one copy takes all."""

    def __init__(self, driver: Driver, values: Mapping[str, CudaArray], to_device: bool):
        places = [x for x in values.values() if x.nbytes]
        first = min([x.address for x in places], default=0)
        memory = driver.pinned(max([x.address + x.nbytes for x in places], default=0) - first)
        self.transfers = [Transfer(to_device, first, memory)] if places else []
        self.arrays: dict[str, np.ndarray] = {}
        for name, x in values.items():
            at = x.address - first if x.nbytes else 0
            self.arrays[name] = memory[at : at + x.nbytes].view(x.dtype).reshape(x.shape)


class Staged:
    """A fixed run with pinned memory beside its places: copies in, kernels and copies out are one graph."""

    def __init__(self, fixed: FixedRun, bound: Bound, resolved: CudaResolved):
        driver = self._driver = fixed.device.driver
        self._bound, self._resolved = bound, resolved
        self._inputs, self._outputs = _Staging(driver, fixed.inputs, True), _Staging(driver, fixed.outputs, False)
        self._graph = fixed.capture(self._inputs.transfers, [*self._outputs.transfers, *resolved.reports])

    def run(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs of the run's types and shapes to outputs, which are the caller's. Raises RunError where a kernel found its
        operands' contents wrong."""
        for name, place in self._inputs.arrays.items():
            np.copyto(place, given[name])
        self._graph()
        self._driver.synchronize()
        self._bound.complain(self._resolved.seen())
        return {name: place.copy() for name, place in self._outputs.arrays.items()}
