"""Segments: runs of steps whose sizes are known before they run, bound once for each signature and run by one native call.

Binding a segment walks its steps with values that have a shape and no contents, finds all sizes and launches, and assigns every
value that dies inside the segment a place in one block of memory, the arena; what lives longer gets memory of its own. Where a
step needs contents that the segment itself computes, the segment ends before it: the next one is bound when it is reached.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.core import Value
from ..ir.errors import GraphmillError, RunError
from ..ir.interp import bind_symbols
from ..ir.layout import physical
from ..ir.locks import fork_safe_lock
from ..kernels.cpu.launch import ROW, address_of
from ..kernels.spec import Call
from .memory import FOREVER, MOST_BOUND, Buffer, Workspace, aligned, aligned_copy, assign
from .steps import Frame, KernelStep, Phantom, SizeStep, Step, ViewStep, nbytes_of_shape, phantom, result_shapes

MOST_STEPS = 4096  # of one segment
MOST_CONTENTS = 1 << 12  # elements of an operand whose contents are part of a signature
_BYTE = np.dtype(np.uint8)


class Cut(Exception):
    """A step cannot be bound before what is before it has run."""


@dataclass
class Place:
    """Where a value lies while its segment runs: in a buffer, in a value from outside (or a view of one), or in a known array."""

    shape: tuple[int, ...]  # physical
    dtype: np.dtype
    buffer: Buffer | None = None
    outer: Value | None = None
    array: np.ndarray | None = None


@dataclass
class Row:
    """One kernel of a segment: what its parameters point to, in their order, the integers behind them, how many tiles it has."""

    step: KernelStep
    pointers: list[Place]
    scratch: Buffer
    ints: tuple[int, ...]
    tiles: int


@dataclass
class Parameters:
    """What the native call reads, but for the addresses that only a run knows."""

    words: np.ndarray  # parameters of all rows; addresses in the arena are relative to its start
    relative: np.ndarray  # which of the words are such addresses
    patched: list[tuple[int, int]]  # which of the words are addresses of inputs and outputs, and of which
    table: np.ndarray  # kernel, first of its words, tiles, place of the word to clear in the arena (or -1)
    flags: np.ndarray  # of the words of the arena, those that say that a kernel's operands were wrong
    keep: list[np.ndarray]  # what the other addresses point into


@dataclass(eq=False)
class Bound:
    """A segment with all its sizes known, ready to be resolved for an arena (see `Workspace`)."""

    stop: int  # the step after the last of the segment
    name: str  # of its first node, for messages
    symbols: dict[str, int]  # what is known after it
    inputs: list[Value]  # values from outside whose addresses the kernels take
    outputs: list[Buffer]  # buffers that outlive it, and so get memory of their own
    results: list[tuple[Value, Place]]  # values that live after it
    dead: list[Value]  # values from outside that nobody reads after it
    arena: int  # bytes
    parameters: Parameters
    checked: list[tuple[int, KernelStep]]  # where in the arena a kernel says that its operands were wrong

    def run(self, frame: Frame) -> None:
        """Runs the segment in a frame. Raises RunError where a kernel found its operands' contents wrong."""
        memory = [aligned((b.nbytes,), _BYTE) for b in self.outputs]
        nbytes = self.arena + sum(b.nbytes for b in self.outputs)
        if not frame.budget.fits(nbytes):
            frame.budget.check_bytes(f"{self.name} and what follows", nbytes)
        addresses = [address_of(frame.values[v]) for v in self.inputs] + [address_of(m) for m in memory]
        self.launch(addresses, frame.workspace, frame.threads, lambda: frame.budget.check_time(self.name))
        self._hand_over(frame, memory)

    def launch(self, addresses: Sequence[int], workspace: Workspace, threads: int, between: Callable[[], None]) -> None:
        """Runs the kernels, given where the inputs and outputs lie."""
        if not len(self.parameters.table):
            return
        resolved = workspace.resolve(self)
        view = resolved.view
        for word, i in self.parameters.patched:
            view[word] = addresses[i]
        resolved.schedule.run(threads, between)
        if self.checked and resolved.flags[self.parameters.flags].any():
            step = next(step for at, step in self.checked if resolved.flags[at // 8])
            raise RunError(f"{step.name}: {step.source.checked}")

    def _hand_over(self, frame: Frame, memory: list[np.ndarray]) -> None:
        roots = dict(zip(self.outputs, memory))
        for v, p in self.results:
            if p.buffer is not None:
                size = math.prod(p.shape) * p.dtype.itemsize
                frame.values[v] = roots[p.buffer.root()][:size].view(p.dtype).reshape(p.shape)
            else:
                frame.values[v] = p.array if p.outer is None else frame.values[p.outer].reshape(p.shape)
            frame.hold(v)
        for v in self.dead:
            frame.hold(v, -1)
            del frame.values[v]
        frame.symbols.update(self.symbols)


class Segments:
    """The segments of a plan, bound as they are met. Several threads may ask at once."""

    def __init__(self, steps: Sequence[Step]):
        self.steps = steps
        self._lock = fork_safe_lock()
        self._readers: dict[int, tuple[int, list[Value], list[Value]]] = {}
        self._bound: dict[int, OrderedDict[Any, Bound | None]] = {}

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
                tuple([values[v].tobytes() for v in contents if values[v].size <= MOST_CONTENTS]),
            )
            known = self._bound.setdefault(start, OrderedDict())
            if key in known:
                known.move_to_end(key)
                return known[key]
            bound = known[key] = _Binder(self.steps[start:stop], start, frame, reads, contents).bind()
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


class _Binder:
    """Binds one segment for one signature."""

    def __init__(self, steps: Sequence[Step], start: int, frame: Frame, reads: list[Value], contents: list[Value]):
        self.steps, self.start = steps, start
        self.frame = Frame({}, dict(frame.symbols), frame.budget)  # of values without contents
        self.places: dict[Value, Place] = {}
        for v in reads:
            x = frame.values[v]
            known = x.dtype == object or (v in contents and x.size <= MOST_CONTENTS)
            self.frame.values[v] = x if known else phantom(x.shape, x.dtype)
            self.places[v] = Place(x.shape, x.dtype, outer=v)
        self.outside = set(reads)
        self.rows: list[Row] = []
        self.buffers: list[Buffer] = []

    def bind(self) -> Bound | None:
        """The bound segment, as long as it can be; None if not even its first step can be bound."""
        bound = 0
        try:
            for step in self.steps:
                self._step(step)
                bound += 1
        except (Cut, GraphmillError, ValueError):  # run by itself, the step will say what is wrong
            pass
        return self._finish(self.steps[:bound]) if bound else None

    # ---- steps

    def _step(self, step: Step) -> None:
        if isinstance(step, KernelStep):
            self._kernel(step)
        elif isinstance(step, ViewStep):
            self._view(step)
        else:
            step.run(self.frame)
            for v in step.node.results:
                x = aligned_copy(self.frame.values[v])
                x.flags.writeable = False
                self.frame.values[v] = x
                self.places[v] = Place(x.shape, x.dtype, array=x)

    def _view(self, step: ViewStep) -> None:
        (result,), operand = step.node.results, step.node.operands[0]
        assert operand is not None
        shape = result_shapes(step.node, self.frame)[0]
        x = self.frame.get(operand)
        if operand.is_const:
            self.places[result] = Place(shape, x.dtype, array=aligned_copy(x).reshape(shape))
        else:
            p = self.places[operand]
            self.places[result] = Place(shape, p.dtype, p.buffer, p.outer, None if p.array is None else p.array.reshape(shape))
        self.frame.values[result] = phantom(shape, x.dtype) if isinstance(x, Phantom) else np.asarray(x).reshape(shape)
        bind_symbols(result.type, self.frame.values[result], self.frame.symbols)

    def _kernel(self, step: KernelStep) -> None:
        node, source, k = step.node, step.source, len(self.rows)
        host = {i: self._contents(v) for i, v in enumerate(node.operands) if i in source.host and v is not None}
        shapes = result_shapes(node, self.frame)
        sizes = [nbytes_of_shape(shape, v.tensor.dtype) for v, shape in zip(node.results, shapes)]
        self.frame.budget.check_bytes(step.name, sum(sizes))
        launch = source.bind(Call([self._shape(v) for v in node.operands], shapes, host))
        self.frame.budget.check_bytes(step.name, sum(sizes) + launch.scratch)
        pointers = [self._operand(step, i) for i, v in enumerate(node.operands) if v is not None]
        for p in pointers:
            if p.buffer is not None:
                p.buffer.last = k
        for v, shape, n in zip(node.results, shapes, sizes):
            at, dtype = physical(shape, v.tensor.layout), v.tensor.dtype.np
            self.places[v] = Place(at, dtype, self._buffer(n, k))
            self.frame.values[v] = phantom(at, dtype)
            bind_symbols(v.tensor, self.frame.logical(v), self.frame.symbols)
        scratch = self._buffer(launch.scratch, k)
        pointers += [self.places[v] for v in node.results]
        pointers.append(Place((), _BYTE, scratch))
        pointers += [Place(t.shape, t.dtype, array=t) for t in step.tables]
        self.rows.append(Row(step, pointers, scratch, launch.ints, launch.tiles))

    def _buffer(self, nbytes: int, row: int) -> Buffer:
        self.buffers.append(Buffer(nbytes, row, row))
        return self.buffers[-1]

    def _contents(self, v: Value) -> np.ndarray:
        x = self.frame.logical(v)
        if isinstance(x, Phantom):
            raise Cut
        return np.asarray(x)

    def _shape(self, v: Value | None) -> tuple[int, ...] | None:
        return None if v is None else v.tensor.shape if v.is_const else np.shape(self.frame.logical(v))  # type: ignore[return-value]

    def _operand(self, step: KernelStep, i: int) -> Place:
        v = step.node.operands[i]
        assert v is not None
        if not v.is_const:
            return self.places[v]
        x = step.constant(i)
        return Place(x.shape, x.dtype, array=x)

    # ---- the end

    def _finish(self, steps: Sequence[Step]) -> Bound:
        freed = {v for s in steps for v in s.frees}
        results = [(v, self.places[v]) for s in steps for v in s.node.results if v not in freed]
        for _, p in results:
            if p.buffer is not None:
                p.buffer.last = FOREVER
        for row in self.rows:
            if row.step.source.checked:  # looked up when all rows have run
                row.scratch.last = len(self.rows)
        self._overwrite()
        roots = [b for b in self.buffers if b.within is None]
        outputs = [b for b in roots if b.last == FOREVER]
        arena = assign(b for b in roots if b.last < FOREVER)
        checked = [(row.scratch.offset, row.step) for row in self.rows if row.step.source.checked]
        dead = [v for v in freed if v in self.outside]
        inputs = list(dict.fromkeys(p.outer for row in self.rows for p in row.pointers if p.outer is not None))
        end = self.start + len(steps)
        parameters = self._parameters(inputs, outputs)
        return Bound(end, steps[0].name, self.frame.symbols, inputs, outputs, results, dead, arena, parameters, checked)

    def _overwrite(self) -> None:
        """Lets a result take over the memory of an operand that its kernel may overwrite and that dies with it."""
        for k, row in enumerate(self.rows):
            node, result = row.step.node, self.places[row.step.node.results[0]].buffer
            present = [i for i, v in enumerate(node.operands) if v is not None]
            for i in row.step.source.in_place:
                b = row.pointers[present.index(i)].buffer
                b = None if b is None else b.root()
                same = [p for p in row.pointers if p.buffer is not None and p.buffer.root() is b]
                if b is not None and result is not None and b.last == k and b.nbytes == result.nbytes and len(same) == 1:
                    result.within, b.last = b, result.last
                    break

    def _parameters(self, inputs: list[Value], outputs: list[Buffer]) -> Parameters:
        number: dict[Any, int] = {x: i for i, x in enumerate([*inputs, *outputs])}
        words: list[int] = []
        relative, patched, table = [], [], []
        for row in self.rows:
            words += [0] * (-len(words) % 8)
            flag = row.scratch.offset if row.step.source.checked else -1
            table.append((row.step.address, len(words), row.tiles, flag))
            for p in row.pointers:
                key = p.outer if p.buffer is None else p.buffer.root()
                if p.array is not None:
                    words.append(p.array.ctypes.data)
                elif key in number:
                    patched.append((len(words), number[key]))
                    words.append(0)
                else:
                    assert p.buffer is not None
                    relative.append(len(words))
                    words.append(p.buffer.root().offset)
            words += row.ints
        keep = [p.array for row in self.rows for p in row.pointers if p.array is not None]
        flags = _ints([flag // 8 for *_, flag in table if flag >= 0])
        return Parameters(_ints(words), _ints(relative), patched, _ints(table).reshape(-1, ROW), flags, keep)


def _ints(x: Sequence[Any]) -> np.ndarray:
    return np.array(x, np.int64)
